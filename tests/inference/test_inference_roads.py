"""RoadFeatures, CandidateSource, LiraEmbedder and SearchIndex."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lira_hf import LiraModel, LiraProcessor
from lira_hf.data import CacheError
from lira_hf.inference import CandidateSource, LiraEmbedder, RoadFeatures, SearchIndex, pad_candidates, stored_critic
from lira_hf.translation import Candidate, CandidateStore, Identity, Score, StoreError


TEXTS = ["red river", "eulbv nepov", "", "green house open", "  ", "red river", "close " * 60]


class CountingTranslator:
    """Gives two candidates, or none for texts with "nothing" in them, and remembers what it was asked."""

    name, fingerprint = "counting", "1"

    def __init__(self):
        self.asked = []

    def translate(self, texts, language, num_candidates):
        self.asked += [(language, text) for text in texts]
        rows = [[Candidate(f"red {text[:4]}", "a", "x"), Candidate("blue moon", "b", "x")] for text in texts]
        return [[] if "nothing" in text else row[:num_candidates] for text, row in zip(texts, rows, strict=True)]


class CountingCritic:
    name, fingerprint = "judge", "1"

    def judge(self, texts, language, candidates):
        return [[Score(2 + k, 5, 5) for k in range(len(row))] for row in candidates]


@pytest.fixture
def counted(tiny_lira, monkeypatch):
    """A model, its processor, and the number of texts that each backbone has read."""
    model, processor = tiny_lira()
    counts = {"source": 0, "anchor": 0}
    for road in counts:
        encode = getattr(model, f"encode_{road}")

        def count(ids, mask=None, encode=encode, road=road):
            counts[road] += len(ids)
            return encode(ids, mask)

        monkeypatch.setattr(model, f"encode_{road}", count)
    return model, processor, counts


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 1e-3)])
@pytest.mark.parametrize("road", ["source", "anchor"])
def test_cached_features_are_the_computed_ones(tiny_lira, tmp_path, road, dtype, tolerance):
    model, processor = tiny_lira()
    cached = RoadFeatures(model, processor, tmp_path, dtype, batch_size=2).get(road, TEXTS)
    ids = processor.tokenize_road(TEXTS, road)
    with torch.no_grad():
        direct = getattr(model, f"encode_{road}")(ids[f"{road}_ids"], ids[f"{road}_mask"])
    direct = direct.reshape(len(TEXTS), 3, -1).numpy()
    np.testing.assert_allclose(cached, direct, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(RoadFeatures(model, processor).get(road, TEXTS), direct, atol=1e-6)
    assert not direct[2].any()
    assert not direct[4].any()


def test_a_second_fill_and_a_second_process_compute_nothing(counted, tmp_path):
    model, processor, counts = counted
    features = RoadFeatures(model, processor, tmp_path, batch_size=3)
    assert features.fill("source", TEXTS) == len(set(TEXTS))
    assert counts == {"source": len(set(TEXTS)), "anchor": 0}
    assert features.fill("source", TEXTS) == 0
    again = RoadFeatures(model, processor, tmp_path)
    again.get("source", TEXTS)
    assert counts == {"source": len(set(TEXTS)), "anchor": 0}
    assert again.fill("source", [*TEXTS, "new"]) == 1


def test_fill_without_a_folder_says_so(tiny_lira):
    with pytest.raises(ValueError, match="no folder; expected one to fill; pass folder="):
        RoadFeatures(*tiny_lira()).fill("source", ["red"])


def test_another_dtype_in_the_same_folder_is_refused(tiny_lira, tmp_path):
    RoadFeatures(*tiny_lira(), tmp_path, "float16")
    with pytest.raises(CacheError, match="dtype 'float16'; expected 'float32'"):
        RoadFeatures(*tiny_lira(), tmp_path, "float32")


def _keys(model, processor, folder):
    return {road: cache.fingerprint for road, cache in RoadFeatures(model, processor, folder).caches.items()}


def test_fingerprints_tell_what_features_depend_on(tiny_lira, tiny_backbones, tmp_path):
    plain = _keys(*tiny_lira(), tmp_path)
    assert _keys(*tiny_lira(path_weight=0.8, hidden_size=32), tmp_path) == plain  # features don't depend on the heads

    model, processor = tiny_lira()
    processor(["red " * 50], candidates=[["red"]])  # leaves padding and truncation behind in a fast tokenizer
    assert _keys(model, processor, tmp_path) == plain
    with torch.no_grad():
        next(model.anchor.parameters())[3, 3] += 1e-3
    weight = _keys(model, processor, tmp_path)
    assert weight["anchor"] != plain["anchor"]
    assert weight["source"] == plain["source"]

    pooling = _keys(*tiny_lira(encoder_pooling="last"), tmp_path)
    assert pooling["source"] != plain["source"]
    assert pooling["anchor"] == plain["anchor"]
    bins = _keys(*tiny_lira(num_bins=3), tmp_path)
    assert not set(bins.values()) & set(plain.values())

    model, processor = tiny_lira()
    processor.max_text_length = 8
    assert not set(_keys(model, processor, tmp_path).values()) & set(plain.values())


def test_features_of_a_checkpoint_stay_its_own_wherever_it_lies(tiny_lira, tmp_path):
    model, processor = tiny_lira()
    keys = []
    for place in ("a", "b"):
        model.save_pretrained(tmp_path / place)
        processor.save_pretrained(tmp_path / place)
        here = LiraModel.from_pretrained(tmp_path / place), LiraProcessor.from_pretrained(tmp_path / place)
        keys.append(_keys(*here, tmp_path / "features"))
    assert keys[0] == keys[1]


@pytest.mark.parametrize("change", ["vocabulary", "lowercase", "limit"])
def test_fingerprint_tells_tokenizers_apart_that_a_probe_would_not(tiny_lira, tiny_backbones, tmp_path, change):
    model, processor = tiny_lira()
    plain = _keys(model, processor, tmp_path)
    other = AutoTokenizer.from_pretrained(tiny_backbones["anchor"])
    if change == "limit":
        other.model_max_length = 16
    else:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

        vocabulary = other.get_vocab()
        if change == "vocabulary":
            vocabulary["red"], vocabulary["green"] = vocabulary["green"], vocabulary["red"]
        made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        if change == "lowercase":
            made.normalizer = normalizers.Lowercase()
        other = PreTrainedTokenizerFast(
            tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32
        )
    source = processor.source_tokenizer
    changed = _keys(
        model, LiraProcessor(source, source, other, trained_languages=processor.trained_languages), tmp_path
    )
    assert changed["anchor"] != plain["anchor"]
    assert changed["source"] == plain["source"]


def test_pad_candidates_puts_everything_in_its_place(tiny_lira):
    features = RoadFeatures(*tiny_lira())
    rows = [["red", "blue moon"], [], ["green"]]
    found = pad_candidates(features, rows, [[(1, 2, 3), None], [], [(4, 5, 6)]])
    padded, scores = found["anchor_features"], found["anchor_scores"]
    assert padded.shape == (3, 2, 3, 24)
    expected = np.zeros((3, 2, 3, 24), np.float32)
    expected[0, 0], expected[0, 1], expected[2, 0] = (
        features.get("anchor", [t])[0] for t in ("red", "blue moon", "green")
    )
    np.testing.assert_allclose(padded, expected, atol=1e-6)
    assert scores.tolist() == [[[1, 2, 3], [0, 0, 0]], [[0, 0, 0]] * 2, [[4, 5, 6], [0, 0, 0]]]
    assert pad_candidates(features, [[], []]) == {}


# CandidateSource


def test_a_source_writes_what_it_was_given_and_does_not_ask_twice(tmp_path):
    translator, critic = CountingTranslator(), CountingCritic()
    texts = ["abcd", "nothing here", "", "abcd", "lone \ud800"]
    with CandidateStore(tmp_path / "s.sqlite") as store:
        source = CandidateSource(store, translator, critic)
        found, scores = source.get(texts, ["vi", "vi", "vi", "vi", "ur"])
        assert found[0] == found[3] == ["red abcd", "blue moon"]
        assert found[1] == found[2] == []
        assert found[4] == ["red lone", "blue moon"]
        assert scores[0] == [Score(2, 5, 5), Score(3, 5, 5)]
        assert sorted(translator.asked) == [("ur", "lone \ufffd"), ("vi", "abcd"), ("vi", "nothing here")]
        assert source.get(texts, ["vi", "vi", "vi", "vi", "ur"]) == (found, scores)
        assert len(translator.asked) == 3
    # Another process, with the critic's name alone, reads the same.
    with CandidateStore(tmp_path / "s.sqlite", read_only=True) as store:
        assert CandidateSource(store, critic=Identity("judge", "1")).get(["abcd"], ["vi"]) == (found[:1], scores[:1])


def test_a_read_only_store_is_read_and_never_written(tmp_path):
    with CandidateStore(tmp_path / "s.sqlite") as store:
        store.add("vi", [("known", [Candidate("green", "m", "x")])], Identity("other", "1"))
    before = (tmp_path / "s.sqlite").read_bytes()
    translator = CountingTranslator()
    with CandidateStore(tmp_path / "s.sqlite", read_only=True) as store:
        found, scores = CandidateSource(store, translator, CountingCritic(), 1).get(["known", "new"], ["vi", "vi"])
    assert found == [["green"], ["red new"]]
    assert scores == [[None], [Score(2, 5, 5)]]
    assert translator.asked == [("vi", "new")]
    assert (tmp_path / "s.sqlite").read_bytes() == before


def test_a_text_without_a_language_has_no_candidates():
    translator = CountingTranslator()
    assert CandidateSource(translator=translator).get(["abcd"], [None]) == ([[]], [[]])
    assert not translator.asked


def test_a_store_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(StoreError, match="isn't there"):
        CandidateStore(tmp_path / "none.sqlite", read_only=True)


def test_a_critic_is_found_by_its_name(tmp_path):
    with CandidateStore(tmp_path / "s.sqlite") as store:
        store.add("vi", [("a", [Candidate("red", "m", "x")])], Identity("t", "1"))
        with pytest.raises(ValueError, match="got critic 'judge'; expected exactly one .*: none"):
            stored_critic(store, "judge")
        for fingerprint in ("1", "2"):
            store.add_scores("vi", [("a", "red", Score(1, 2, 3))], Identity("judge", fingerprint))
        store.add_scores("vi", [("a", "red", Score(1, 2, 3))], Identity("other", "3"))
        assert stored_critic(store, "other") == Identity("other", "3")
        assert stored_critic(store, "judge", "2") == Identity("judge", "2")
        with pytest.raises(
            ValueError, match=r"judge \(fingerprint 1\), judge \(fingerprint 2\).*by its fingerprint too"
        ):
            stored_critic(store, "judge")
        with pytest.raises(ValueError, match="with fingerprint '9'"):
            stored_critic(store, "judge", "9")


# LiraEmbedder


@pytest.fixture
def embedder(tiny_lira, tiny_data):
    model, processor = tiny_lira()
    with torch.no_grad():  # so that every part has a say
        for part in (model.arca, model.fusion, model.embedding_head):
            for weight in part.parameters():
                weight.add_(torch.randn_like(weight) * 0.2)
    store = CandidateStore(tiny_data / "store.sqlite", read_only=True)
    return LiraEmbedder(model, processor, CandidateSource(store, critic=Identity("judge", "1")))


QUERIES = ["derv neergv eulbv", "deru neergu reviru", "red moon", "", "deru", "derv reviru " * 9]
TAGS = ["vi", "ur", "en", "vi", "sw", None]


def test_vectors_do_not_depend_on_batch_size_or_order(embedder):
    expected = embedder.encode(QUERIES, TAGS)
    assert expected.shape == (6, 40)
    assert expected.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), [1, 1, 1, 0, 1, 1], atol=1e-5)
    for size in (1, 2, 5):
        embedder.batch_size = size
        np.testing.assert_allclose(embedder.encode(QUERIES, TAGS), expected, atol=2e-6)
    order = [4, 2, 0, 5, 3, 1]
    shuffled = embedder.encode([QUERIES[i] for i in order], [TAGS[i] for i in order])
    np.testing.assert_allclose(shuffled, expected[order], atol=2e-6)
    np.testing.assert_allclose(embedder.encode(QUERIES[1], "ur"), expected[1], atol=2e-6)


@pytest.mark.parametrize("cached", [False, True])
def test_texts_of_like_length_go_together_by_tokens(tiny_backbones, tmp_path, cached):
    model = LiraModel.from_backbones(tiny_backbones["anchor"], num_bins=2)
    processor = LiraProcessor.from_backbones(tiny_backbones["anchor"], config=model.config)
    texts = [text for number in range(4) for text in (f"{number}" + "x" * 90, f"red green {number} moon")]
    lengths = processor.text_lengths(texts, "source")
    assert lengths == [1, 4] * 4
    widths, encode = [], model.encode_source
    model.encode_source = lambda ids, mask: (widths.append((len(ids), ids.shape[1])), encode(ids, mask))[1]
    features = RoadFeatures(model, processor, tmp_path if cached else None, "float32", batch_size=4)
    embedder = LiraEmbedder(model, processor, features=features, batch_size=4)
    if cached:
        features.fill("source", texts)
    else:
        embedder.encode(texts, "vi")
    assert widths == [(4, 4), (4, 1)]
    assert processor.text_lengths(["red " * 5000, "", "  "], "anchor") == [32, 0, 0]  # the tokenizer's limit
    np.testing.assert_allclose(embedder.encode(texts, "vi")[3], embedder.encode([texts[3]], "vi")[0], atol=2e-6)


def test_a_tokenizer_in_python_is_not_asked_for_lengths(tiny_lira, monkeypatch):
    _, processor = tiny_lira()
    monkeypatch.setattr(type(processor.source_tokenizer), "is_fast", False)
    assert processor.text_lengths(["red", "green house"], "source") == [3, 11]


def test_vectors_are_those_of_the_processor_and_the_model(embedder):
    text, store = QUERIES[0], embedder.candidates.get(QUERIES[:1], ["vi"])
    assert len(store[0][0]) == 2
    batch = embedder.processor([text], candidates=store[0], scores=store[1], languages=["vi"])
    with torch.no_grad():
        expected = embedder.model(**batch).pooler_output.numpy()
    found = embedder.encode([text], "vi")
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_allclose(embedder.encode([text], "vi", store[0], store[1]), expected, atol=2e-6)
    assert np.abs(embedder.encode([text], "vi", [[]]) - expected).max() > 0.01
    assert np.abs(embedder.encode([text], "vi", store[0]) - expected).max() > 1e-4  # the scores have a say


def test_english_is_its_own_candidate_and_nothing_else_is(embedder):
    text = "red river house"
    found = embedder.encode(text, "en")
    np.testing.assert_allclose(found, embedder.encode([text], "en", [[text]])[0], atol=2e-6)
    for tag in (None, "sw"):
        np.testing.assert_allclose(embedder.encode(text, tag), embedder.encode([text], tag, [[]])[0], atol=2e-6)
    # Any language that training did not name is the same "unknown" one.
    np.testing.assert_array_equal(embedder.encode(text, "no-such-tag"), embedder.encode(text, None))
    assert np.abs(embedder.encode([text], "vi", [[]]) - embedder.encode(text, None)).max() > 1e-4


def test_odd_texts(embedder):
    texts = ["", "  \n", "deru \ud800", "deru \ufffd", "deru neergu " * 9000, "\x00"]
    found = embedder.encode(texts, "ur")
    assert len(texts[4]) > 100_000
    assert not found[:2].any()
    np.testing.assert_allclose(found[2], found[3], atol=1e-6)
    assert np.isfinite(found).all()
    assert embedder.encode([], "ur").shape == (0, 40)
    assert embedder.encode("", "en").shape == (40,)
    # An empty text has its candidates' road.
    assert np.linalg.norm(embedder.encode([""], "ur", [["red"]])) == pytest.approx(1, abs=1e-5)


def test_wrong_numbers_of_things_are_errors(embedder):
    with pytest.raises(ValueError, match="got 2 texts and 1 languages"):
        embedder.encode(["a", "b"], ["vi"])
    with pytest.raises(ValueError, match="got 2 texts and 1 lists of candidates"):
        embedder.encode(["a", "b"], "vi", [["x"]])


# SearchIndex


def test_search_is_brute_force():
    generator = np.random.default_rng(0)
    documents, queries = generator.normal(size=(300, 8)).astype("f"), generator.normal(size=(20, 8)).astype("f")
    documents[7] = 0
    ids = [f"d{number}" for number in range(300)]
    norms = np.where((n := np.linalg.norm(documents, axis=1)) > 0, n, 1)
    cosine = queries @ (documents / norms[:, None]).T / np.linalg.norm(queries, axis=1)[:, None]
    kept = documents.copy()
    index = SearchIndex(ids, documents)
    assert len(index) == 300
    for row, hits in zip(cosine, index.search(queries, 5), strict=True):
        best = np.argsort(-row)[:5]
        assert [hit.id for hit in hits] == [ids[place] for place in best]
        np.testing.assert_allclose([hit.score for hit in hits], row[best], atol=1e-5)
    np.testing.assert_array_equal(documents, kept)  # normalised in a copy
    assert [len(row) for row in index.search(queries, 1000)] == [300] * 20


def test_search_errors():
    with pytest.raises(ValueError, match="got 2 ids and 3 embeddings"):
        SearchIndex(["a", "b"], np.zeros((3, 4), "f"))
    index = SearchIndex(["a"], np.ones((1, 4), "f"))
    for shape in ((1, 5), (4,)):
        with pytest.raises(ValueError, match=r"expected \(queries, 4\)"):
            index.search(np.zeros(shape, "f"))


def test_embeddings_read_off_a_base_lm():
    """The base reads the text as well, so the embedder makes its prompt; batches change nothing."""
    import tiny_lira
    from tiny_configs import build

    from lira_hf import LiraModel, LiraProcessor

    words = tiny_lira.word_tokenizer()
    processor = LiraProcessor.from_backbones(
        words, base=tiny_lira.word_tokenizer(bos=True), prefix_length=6, trained_languages=["bn"]
    )
    options = {"prefix_token_id": processor.prefix_token_id, "languages": ["bn"]} | tiny_lira.SIZES
    model = LiraModel.from_backbones(tiny_lira.encoder("bert"), base=build("llama"), **options)
    tiny_lira.disturb(model)
    texts = ["the cat sat", "dog", "big river house", "mat"]
    many = LiraEmbedder(model, processor, batch_size=3).encode(texts, "bn")
    for row, text in enumerate(texts):
        with torch.no_grad():
            expected = model(**processor([text], languages="bn")).pooler_output[0].numpy()
        np.testing.assert_allclose(many[row], expected, atol=1e-5)


@pytest.fixture
def one_encoder(tiny_backbones, monkeypatch):
    """`one_encoder(**config)`: a model in which g serves as h, its processor, and the texts that g has read."""

    def make(**config):
        torch.manual_seed(1)
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_bins": 2}
        model = LiraModel.from_backbones(tiny_backbones["encoder"], **sizes | config)
        processor = LiraProcessor.from_backbones(tiny_backbones["encoder"], config=model.config)
        read, forward = [], model.encoder.forward
        monkeypatch.setattr(
            model.encoder, "forward", lambda *args, **given: read.extend(given["input_ids"]) or forward(*args, **given)
        )
        return model, processor, read

    return make


@pytest.mark.parametrize("cached", [False, True])
def test_where_g_serves_as_h_a_text_is_read_once(one_encoder, tmp_path, cached):
    """English documents are their own candidates; a candidate that is another row's text is known as well."""
    model, processor, read = one_encoder()
    texts, languages, given = (
        ["red river", "green house open", "eulbv"],
        ["en", "en", "bn"],
        [["red river"], ["x"], []],
    )
    features = RoadFeatures(model, processor, tmp_path if cached else None, "float32")
    embedder = LiraEmbedder(model, processor, features=features)
    vectors = embedder.encode(texts, languages)
    assert len(read) == 3
    with torch.no_grad():
        plain = model(**processor(texts, [["red river"], ["green house open"], []], languages=languages))
    np.testing.assert_allclose(vectors, plain.pooler_output.numpy(), atol=1e-6)
    read.clear()
    embedder.encode(texts, languages, candidates=given)
    assert len(read) == (1 if cached else 4)
    if cached:
        assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("other", ["pooling", "tokenizer", "prompt"])
def test_g_as_h_reads_twice_what_the_roads_read_otherwise(one_encoder, other):
    config = {"pooling": {"anchor_pooling": "cls"}, "prompt": {"document_prompt": "passage: "}}.get(other, {})
    model, processor, read = one_encoder(**config)
    if other == "tokenizer":
        processor.anchor_tokenizer = type(processor.source_tokenizer)(num_buckets=200)
    vectors = LiraEmbedder(model, processor).encode(["red river"], "en", role="document")
    assert len(read) == 2
    with torch.no_grad():
        plain = model(**processor(["red river"], languages="en", role="document")).pooler_output.numpy()
    np.testing.assert_allclose(vectors, plain, atol=1e-6)
