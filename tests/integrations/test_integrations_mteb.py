"""mteb's own task classes over data made here, against LiRA's evaluation of the same data. Skipped without mteb."""

import itertools
import json

import numpy as np
import pytest
import pytrec_eval
import torch

from lira_hf.data import BeirDataset, Query, SimilarityPair
from lira_hf.evaluation import evaluate_embedder
from lira_hf.inference import CandidateSource, LiraEmbedder
from lira_hf.training.tasks import pair_correlation
from lira_hf.translation import Candidate, CandidateStore, Identity, TranslationMemory


mteb = pytest.importorskip("mteb", reason="needs the extra 'mteb'")

from datasets import Dataset  # noqa: E402
from mteb.abstasks import AbsTaskBitextMining, AbsTaskRetrieval, AbsTaskSTS  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.models import CrossEncoderProtocol, EncoderProtocol, SearchProtocol  # noqa: E402

from lira_hf.integrations.mteb import (  # noqa: E402
    LiraMtebEncoder,
    _by_script,
    evaluate_tasks,
    find_tasks,
    task_language,
)


WORDS = ["red", "green", "blue", "river", "house", "mountain", "open"]  # h of the tiny model knows them
TEXTS = [" ".join(words) for words in itertools.combinations(WORDS, 3)]
ARABIC = {letter: chr(0x628 + number) for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}


def say(text, language):
    """A made-up translation; Urdu in Arabic letters."""
    said = " ".join(word[::-1] + language[0] for word in text.split())
    return said.translate(str.maketrans(ARABIC)) if language == "ur" else said


def metadata(name, kind, languages, score, splits=("test",)):
    facts = {"description": "made up", "reference": None, "dataset": {"path": "none/none", "revision": "1"}}
    unknown = ("date", "domains", "task_subtypes", "license", "annotations_creators", "dialect", "sample_creation")
    facts |= dict.fromkeys(unknown) | {"bibtex_citation": "", "category": "t2t", "modalities": ["text"]}
    return TaskMetadata(
        name=name, type=kind, eval_splits=list(splits), eval_langs=languages, main_score=score, **facts
    )


def retrieval_task(languages, corpora, queries, qrels, name="MadeUpRetrieval"):
    class MadeUpRetrieval(AbsTaskRetrieval):
        def load_data(self, **kwargs):
            self.dataset = {
                subset: {
                    "test": {
                        "corpus": Dataset.from_list([{"id": k, "text": v} for k, v in corpora[subset].items()]),
                        "queries": Dataset.from_list([{"id": k, "text": v} for k, v in queries[subset].items()]),
                        "relevant_docs": {key: dict(value) for key, value in qrels[subset].items()},
                        "top_ranked": None,
                    }
                }
                for subset in corpora
            }
            self.data_loaded = True

    MadeUpRetrieval.metadata = metadata(name, "Retrieval", languages, "ndcg_at_10")
    return MadeUpRetrieval()


def pair_task(base, languages, rows, score, name, **attributes):
    class MadeUpPairs(base):
        def load_data(self, **kwargs):
            self.dataset = {subset: {"test": Dataset.from_dict(columns)} for subset, columns in rows.items()}
            self.data_loaded = True

    MadeUpPairs.metadata = metadata(name, "STS" if base is AbsTaskSTS else "BitextMining", languages, score)
    for key, value in attributes.items():
        setattr(MadeUpPairs, key, value)
    return MadeUpPairs()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A candidate for each text: right but for every third."""
    path = tmp_path_factory.mktemp("mteb") / "store.sqlite"
    with CandidateStore(path) as held:
        for language in ("vi", "ur"):
            rows = [
                (say(text, language), [Candidate(TEXTS[number - 1] if number % 3 == 0 else text, "x", "x")])
                for number, text in enumerate(TEXTS)
            ]
            held.add(language, rows, Identity("made up", "1"))
    return CandidateStore(path, read_only=True)


@pytest.fixture
def embedder(tiny_lira, store):
    model, processor = tiny_lira()
    processor.query_prompt, processor.document_prompt = "query: ", "moon "
    return LiraEmbedder(model, processor, CandidateSource(store, num_candidates=1), batch_size=7)


def scores(encoder, task, metric="main_score"):
    result = evaluate_tasks(encoder, [task]).task_results[0]
    return {row["hf_subset"]: row[metric] for row in result.scores["test"]}


@pytest.mark.parametrize("translate", [True, False])
def test_retrieval_equals_our_own(embedder, translate, tmp_path):
    """English documents, queries in two languages; and the other way round."""
    corpus = {f"d{number}": text for number, text in enumerate(TEXTS)}
    corpora, asked, qrels, languages, ours = {}, {}, {}, {}, {}
    for language, code in (("vi", "vie-Latn"), ("ur", "urd-Arab")):
        said = {f"q{number}": say(text, language) for number, text in enumerate(TEXTS[::2])}
        right = {f"q{number}": {f"d{2 * number}": 1} for number in range(len(said))}
        subset = f"eng-{language}"
        languages[subset], corpora[subset], asked[subset], qrels[subset] = ["eng-Latn", code], corpus, said, right
        data = BeirDataset(corpus, {key: Query(text, language) for key, text in said.items()}, right)
        ours[subset] = evaluate_embedder(embedder, data, translate=translate).mean()
    back, subset = {f"d{number}": say(text, "ur") for number, text in enumerate(TEXTS)}, "urd-eng"
    languages[subset], corpora[subset] = ["urd-Arab", "eng-Latn"], back
    asked[subset] = {f"q{number}": text for number, text in enumerate(TEXTS[::2])}
    qrels[subset] = qrels["eng-ur"]
    data = BeirDataset(back, {key: Query(text, "en") for key, text in asked[subset].items()}, qrels[subset])
    data.document_languages.update(dict.fromkeys(back, "ur"))
    ours[subset] = evaluate_embedder(embedder, data, translate=translate).mean()
    encoder, task = LiraMtebEncoder(embedder, "x", translate), retrieval_task(languages, corpora, asked, qrels)
    result = mteb.evaluate(encoder, task, cache=None, prediction_folder=tmp_path, co2_tracker=False).task_results[0]
    found = {row["hf_subset"]: row["ndcg_at_10"] for row in result.scores["test"]}
    assert found == pytest.approx(ours, abs=5.01e-6)  # mteb rounds to five places
    runs = json.loads((tmp_path / "MadeUpRetrieval_predictions.json").read_text())
    exact = {}
    for subset, right in qrels.items():
        judged = pytrec_eval.RelevanceEvaluator(right, {"ndcg_cut_10"}).evaluate(runs[subset]["test"])
        exact[subset] = np.mean([row["ndcg_cut_10"] for row in judged.values()])
    assert exact == pytest.approx(ours, abs=1e-6)
    assert len({round(value, 3) for value in found.values()}) == 3  # a wrong language or role would show


@pytest.mark.parametrize("codes", [["vie-Latn", "eng-Latn"], ["urd-Arab", "eng-Latn"], ["eng-Latn", "urd-Arab"]])
def test_sts_equals_our_own(embedder, codes):
    """First texts in one language, second ones in the other, told by their order or by their script."""
    tags = [task_language(code) for code in codes]
    places = np.random.default_rng(0).permutation(len(TEXTS))
    sides = [
        [text if tag == "en" else say(text, tag) for text in texts]
        for tag, texts in zip(tags, (TEXTS, [TEXTS[place] for place in places]), strict=True)
    ]
    gold = [len({*one.split()} & {*TEXTS[place].split()}) for one, place in zip(TEXTS, places, strict=True)]
    rows = {"pair": {"sentence1": sides[0], "sentence2": sides[1], "score": gold}}
    task = pair_task(AbsTaskSTS, {"pair": codes}, rows, "cosine_spearman", "MadeUpSTS")
    encoder = LiraMtebEncoder(embedder, "x")
    pairs = [SimilarityPair(*pair, *tags) for pair in zip(*sides, gold, strict=True)]
    ours = pair_correlation(embedder, pairs)["spearman"]
    for _ in range(2):  # the sides are told apart again in the second run
        assert scores(encoder, task)["pair"] == pytest.approx(ours, abs=1e-6)
    assert scores(encoder, task, "spearman")["pair"] == pytest.approx(ours, abs=1e-6)


@pytest.mark.parametrize("parallel", [False, True])
def test_bitext_mining_equals_our_own(embedder, parallel, tmp_path):
    said = [say(text, "vi") for text in TEXTS]
    first, second = ("vie_Latn", "eng_Latn") if parallel else ("sentence1", "sentence2")
    rows = {"vie_Latn-eng_Latn": {first: said, second: TEXTS}}
    languages = {"vie_Latn-eng_Latn": ["vie-Latn", "eng-Latn"]}
    task = pair_task(AbsTaskBitextMining, languages, rows, "accuracy", "MadeUpBitext", parallel_subsets=parallel)
    if parallel:
        task.dataset, task.data_loaded = {"test": Dataset.from_dict(rows["vie_Latn-eng_Latn"])}, True
    documents = embedder.encode(TEXTS, "en", role="query")
    nearest = {tag: (embedder.encode(said, tag, role="query") @ documents.T).argmax(1) for tag in ("vi", "en")}
    assert not np.array_equal(nearest["vi"], nearest["en"])  # a wrong language would show
    encoder = LiraMtebEncoder(embedder, "x")
    result = mteb.evaluate(encoder, task, cache=None, prediction_folder=tmp_path, co2_tracker=False).task_results[0]
    found = json.loads((tmp_path / "MadeUpBitext_predictions.json").read_text())
    subset, pair = ("parallel", "vie_Latn-eng_Latn") if parallel else ("vie_Latn-eng_Latn", "sentence1-sentence2")
    assert [row["corpus_id"] for row in found[subset]["test"][pair]] == nearest["vi"].tolist()
    (row,) = result.scores["test"]
    assert row["main_score"] == pytest.approx((nearest["vi"] == np.arange(len(TEXTS))).mean(), abs=1e-6)


def test_a_live_translator_serves_tasks(tiny_lira):
    memory = TranslationMemory.fit([("vi", say(text, "vi"), text) for text in TEXTS])
    embedder = LiraEmbedder(*tiny_lira(), CandidateSource(translator=memory, num_candidates=1))
    corpus = {f"d{number}": text for number, text in enumerate(TEXTS)}
    queries = {f"q{number}": say(text, "vi") for number, text in enumerate(TEXTS)}
    qrels = {f"q{number}": {f"d{number}": 1} for number in range(len(TEXTS))}
    task = retrieval_task({"x": ["eng-Latn", "vie-Latn"]}, {"x": corpus}, {"x": queries}, {"x": qrels})
    with_it, without = (scores(LiraMtebEncoder(embedder, "x", translate), task)["x"] for translate in (True, False))
    assert with_it > without + 0.1


def test_tags():
    wanted = {"urd-Arab": "ur", "eng_Latn": "en", "zho-Hans": "zh", "cmn-Hans": "zh", "zho-Hant": "zh-Hant"}
    wanted |= {"urd-Latn": "ur-Latn", "arb-Arab": "ar", "zsm_Latn": "ms", "tgl-Latn": "fil", "npi-Deva": "ne"}
    assert {code: task_language(code) for code in wanted} == wanted
    assert task_language("zho-Hans", ["en", "zh-Hans"]) == "zh-Hans"
    assert task_language("python-Code") is None


@pytest.mark.parametrize(
    ("text", "codes", "code"),
    [
        ("ちいさな川", ["eng-Latn", "jpn-Jpan"], "jpn-Jpan"),
        ("小河 river", ["zho_Hans", "kor_Hang"], "zho_Hans"),
        ("작은 강", ["zho-Hans", "kor-Hang"], "kor-Hang"),
        ("kali, река", ["ind-Latn", "rus-Cyrl"], None),  # four letters each
        ("小河", ["zho-Hans", "jpn-Jpan"], None),
    ],
)
def test_scripts_tell_languages_apart(text, codes, code):
    assert _by_script(codes, [text]) == code


def encode(encoder, texts, codes, name="Task", role=None):
    about = metadata(name, "STS", {"x": codes}, "spearman")
    kind = None if role is None else mteb.types.PromptType(role)
    return encoder.encode([{"text": texts}], task_metadata=about, hf_split="test", hf_subset="x", prompt_type=kind)


def test_whose_language_it_is(embedder, caplog):
    """The caller's word goes first; what can't be told takes no candidates and is said once."""
    said = [say(text, "vi") for text in TEXTS[:5]]
    ours = {tag: embedder.encode(said, tag, role="query") for tag in ("vi", "en", None)}
    assert not np.allclose(ours["vi"], ours[None])
    told = LiraMtebEncoder(embedder, "x", languages={"Task/x": ("vi", "en"), "Other": "vi"})
    assert np.array_equal(encode(told, said, ["eng-Latn"]), ours["vi"])
    assert np.array_equal(encode(told, said, ["eng-Latn"]), ours["en"])  # the second texts
    assert np.array_equal(encode(told, said, ["eng-Latn"], "Other"), ours["vi"])
    for name, role, tag in (("CUREv1", "query", "vi"), ("Any", "query", "en"), ("Any", "document", "vi")):
        expected = embedder.encode(said, tag, role=role)
        assert np.array_equal(encode(told, said, ["vie-Latn", "eng-Latn"], name, role), expected)
    urdu = [say(text, "ur") for text in TEXTS[:5]]  # in its own letters, whatever the order says
    for role, codes in itertools.product(("query", "document"), (["urd-Arab", "eng-Latn"], ["eng-Latn", "urd-Arab"])):
        assert np.array_equal(encode(told, urdu, codes, "Any", role), embedder.encode(urdu, "ur", role=role))
    for _ in range(2):
        assert np.array_equal(encode(told, said, ["vie-Latn", "eng-Latn", "urd-Arab"], "Many"), ours[None])
    assert [record.message for record in caplog.records].count(
        "the language of Many/x isn't known; its texts take no candidates; pass languages="
    ) == 1


def test_refused_inputs_leave_no_trace(embedder):
    encoder = LiraMtebEncoder(embedder, "x")
    about = metadata("Task", "STS", {"x": ["vie-Latn", "eng-Latn"]}, "spearman")
    place = {"task_metadata": about, "hf_split": "test", "hf_subset": "x"}
    with pytest.raises(ValueError, match="got precision='int8'; expected 'float32'"):
        encoder.encode([{"text": ["a"]}], precision="int8", **place)
    with pytest.raises(ValueError, match="inputs of Task with image and no 'text'"):
        encoder.encode([{"image": [0]}], **place)
    embedder.find_candidates = lambda *given: 1 / 0
    with pytest.raises(ZeroDivisionError):
        encoder.encode([{"text": ["a"]}], batch_size=3, show_progress_bar=True, **place)
    del embedder.find_candidates
    assert (embedder.batch_size, embedder.progress) == (7, False)
    said = [say(text, "vi") for text in TEXTS[:3]]  # still the first side
    assert np.array_equal(encode(encoder, said, ["vie-Latn", "eng-Latn"]), embedder.encode(said, "vi", role="query"))


def test_it_is_an_encoder_and_says_what_it_knows(embedder, store):
    encoder = LiraMtebEncoder(embedder, "org/model", meta={"license": "apache-2.0"})
    assert isinstance(encoder, EncoderProtocol)
    assert not isinstance(encoder, CrossEncoderProtocol | SearchProtocol)
    meta = encoder.mteb_model_meta
    assert meta.name == "org/model"
    assert meta.revision == embedder.fingerprint
    assert meta.languages == ["vie-Latn", "urd-Arab", "eng-Latn"]
    assert (meta.embed_dim, meta.use_instructions, meta.license) == (
        embedder.model.config.projection_dim,
        True,
        "apache-2.0",
    )
    assert meta.n_parameters == sum(weight.numel() for weight in embedder.model.parameters())
    assert (meta.training_datasets, meta.open_weights, meta.loader) == (None, None, None)
    other = LiraMtebEncoder(LiraEmbedder(embedder.model, embedder.processor, CandidateSource(store)), "org/model")
    bare = LiraMtebEncoder(embedder, "/a/b", translate=False)
    marks = {one.mteb_model_meta.experiment_kwargs["candidates"] for one in (encoder, other, bare)}
    assert len(marks) == 3
    assert bare.mteb_model_meta.name == "local/b"
    first, second = torch.eye(3)[:2], np.eye(3, dtype=np.float32)[1:]
    assert encoder.similarity(first, second).tolist() == [[0, 0], [1, 0]]
    assert encoder.similarity_pairwise(first, first).tolist() == [1, 1]


def test_results_are_kept_and_not_computed_again(embedder, tmp_path, monkeypatch):
    rows = {"x": {"sentence1": TEXTS, "sentence2": TEXTS[::-1], "score": [n * n % 7 for n in range(len(TEXTS))]}}
    task = pair_task(AbsTaskSTS, {"x": ["eng-Latn"]}, rows, "cosine_spearman", "MadeUpSTS")
    first = evaluate_tasks(LiraMtebEncoder(embedder, "x"), [task], tmp_path)
    (file,) = tmp_path.rglob("MadeUpSTS.json")
    assert embedder.fingerprint in str(file)
    assert json.loads(file.read_text())["scores"]["test"][0]["hf_subset"] == "x"
    again = LiraMtebEncoder(embedder, "x")
    monkeypatch.setattr(again, "encode", lambda *given, **more: pytest.fail("computed again"))
    kept = evaluate_tasks(again, [task], tmp_path).task_results[0].scores["test"][0]
    before = first.task_results[0].scores["test"][0]
    assert kept["main_score"] == pytest.approx(before["main_score"], abs=1e-6)  # mteb rounds what it keeps
    other = LiraMtebEncoder(embedder, "x", translate=False)
    evaluate_tasks(other, [task], tmp_path)
    assert len([*tmp_path.rglob("MadeUpSTS.json")]) == 2


def test_the_papers_tasks_are_found():
    retrieval, sts = find_tasks(["BelebeleRetrieval", "STS22.v2"], ["ur", "de"])
    # With romanised Urdu mteb has more; that is another tag.
    assert {"urd_Arab-urd_Arab", "urd_Arab-eng_Latn", "eng_Latn-urd_Arab"} < {*retrieval.hf_subsets}
    assert not any("Latn" in subset and "urd_Latn" in subset for subset in retrieval.hf_subsets)
    assert sts.hf_subsets == ["de", "de-en"]
    (mlqa,) = find_tasks(["MLQARetrieval"], ["hi"], "test")
    assert list(mlqa.eval_splits) == ["test"]
    assert {*mlqa.hf_subsets} == {"hin-hin", "hin-eng", "eng-hin"}
    with pytest.raises(ValueError, match="mteb task 'STS2'; expected one that mteb knows;.*Did you mean"):
        find_tasks(["STS2"])
    with pytest.raises(ValueError, match="split 'dev' for STS22.v2; expected one of test"):
        find_tasks(["STS22.v2"], split="dev")
    with pytest.raises(ValueError, match="got sw as languages of STS22.v2; expected some that it has"):
        find_tasks(["STS22.v2"], ["sw"])
