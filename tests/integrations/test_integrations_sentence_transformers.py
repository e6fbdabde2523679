"""sentence-transformers: exports that its own modules load, in fresh processes too; its trainer; LiRA's losses."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_lira
import torch
from datasets import Dataset
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors

from lira_hf import LiraEmbedder, LiraModel, LiraProcessor
from lira_hf.integrations import (
    LiraCorrelationLoss,
    LiraQueueLoss,
    LiraSentenceCollator,
    export_sentence_transformers,
)
from lira_hf.losses import CorrelationLoss, CorrQueue, DocQueue, RetrievalLoss


library = pytest.importorskip("sentence_transformers")
MultipleNegativesRankingLoss = library.sentence_transformer.losses.MultipleNegativesRankingLoss

PAIRS = [("cat sat on", "the mat"), ("big dog ran", "a river house ?"), ("city", "Dhaka what is the city")]
DOCUMENTS = ["the river house", "a dog ran", "what is Dhaka ? the city"]
# What the fresh process runs. With `hide`, the package cannot be imported, as where it is not installed.
LOAD = """
import json, sys
folder, hide = sys.argv[1], sys.argv[2] == "hide"
if hide:
    class Hidden:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "lira_hf":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    sys.meta_path.insert(0, Hidden())
from safetensors.numpy import save_file
from sentence_transformers import SentenceTransformer
assert "lira_hf" not in sys.modules
model = SentenceTransformer(folder, trust_remote_code=True, device="cpu")
assert ("lira_hf" in sys.modules) != hide
assert ("transformers_modules" in type(model[0].model).__module__) == hide
assert {type(module).__module__.split(".")[0] for module in model} == {"sentence_transformers"}
pairs, documents = json.load(open(folder + "/texts.json"))
pairs = [tuple(pair) for pair in pairs]
save_file({
    "queries": model.encode_query(pairs),
    "documents": model.encode_document(documents),
    "bare": model.encode([*pairs, *documents, "", ("", "the cat")]),
    "similarity": model.similarity(model.encode_query(pairs), model.encode_document(documents)).numpy(),
}, folder + "/found.safetensors")
model.save_pretrained(folder + "/again")
again = SentenceTransformer(folder + "/again", trust_remote_code=True, device="cpu")
assert (again.encode_query(pairs) == model.encode_query(pairs)).all()
"""


def parts(**config):
    config = {"query_prompt": "what is ", "document_prompt": "the "} | config
    encoders = tiny_lira.encoder("bert", 16), tiny_lira.encoder("modernbert", 24, 1)
    torch.manual_seed(0)
    model = LiraModel.from_backbones(*encoders, **tiny_lira.SIZES, languages=["bn"], **config)
    tiny_lira.disturb(model)
    tokenizers = tiny_lira.word_tokenizer(), tiny_lira.word_tokenizer()
    return model, LiraProcessor.from_backbones(*tokenizers, config=model.config)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    return export_sentence_transformers(*parts(), folder, remote_code=None)


def load(folder, **kwargs):
    return library.SentenceTransformer(str(folder), device="cpu", **kwargs)


def expected(embedder):
    sources, english = [pair[0] for pair in PAIRS], [[pair[1]] for pair in PAIRS]
    queries = embedder.encode(sources, candidates=english, role="query")
    documents = embedder.encode(DOCUMENTS, role="document")
    bare = embedder.encode([*sources, *DOCUMENTS, "", ""], candidates=[*english, [], [], [], [], ["the cat"]])
    return {"queries": queries, "documents": documents, "bare": bare, "similarity": queries @ documents.T}


def run(folder, hide):
    (folder / "texts.json").write_text(json.dumps([PAIRS, DOCUMENTS]))
    homes = {"HF_HOME": str(folder.parent / "home"), "HF_MODULES_CACHE": str(folder.parent / "modules")}
    command = [sys.executable, "-c", LOAD, str(folder), "hide" if hide else "installed"]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | homes)


@pytest.mark.slow  # for what a fresh process imports
@pytest.mark.parametrize("code", ["shim", "full"])
def test_a_fresh_process_gives_the_vectors_of_the_embedder(code, tmp_path):
    model, processor = parts()
    folder = export_sentence_transformers(model, processor, tmp_path / "model", remote_code=code)
    done = run(folder, hide=code == "full")
    assert done.returncode == 0, done.stderr
    found, wanted = load_file(folder / "found.safetensors"), expected(LiraEmbedder(model, processor))
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)
    assert np.abs(found["queries"] - found["bare"][:3]).max() > 1e-3  # the prompt is read


def test_where_the_package_is_imported_no_trust_is_needed(exported):
    model, processor = parts()
    st, wanted = load(exported), expected(LiraEmbedder(model, processor))
    np.testing.assert_allclose(st.encode_query(PAIRS), wanted["queries"], atol=1e-5)
    np.testing.assert_allclose(st.encode_document(DOCUMENTS), wanted["documents"], atol=1e-5)
    assert st.get_embedding_dimension() == model.config.projection_dim
    assert st.prompts == {"query": "what is ", "document": "the "}
    assert st.similarity_fn_name == "cosine"
    assert st.max_seq_length == 512
    assert not list(exported.glob("*.py"))
    # The same folder is a checkpoint of LiRA's, and alone, padded and in a batch a text has one vector.
    own = LiraEmbedder(LiraModel.from_pretrained(exported), LiraProcessor.from_pretrained(exported))
    np.testing.assert_array_equal(own.encode(DOCUMENTS), LiraEmbedder(model, processor).encode(DOCUMENTS))
    alone = np.stack([st.encode(text) for text in DOCUMENTS])
    np.testing.assert_allclose(alone, st.encode(DOCUMENTS), atol=1e-6)


def test_ngram_encoders_and_shared_anchors(tiny_lira, tmp_path):
    model, processor = tiny_lira()
    export_sentence_transformers(model, processor, tmp_path / "model")
    pairs = [("xanh cửa", "green window"), ("sông", "river")]
    wanted = LiraEmbedder(model, processor).encode([p[0] for p in pairs], candidates=[[p[1]] for p in pairs])
    np.testing.assert_allclose(load(tmp_path / "model").encode(pairs), wanted, atol=1e-5)


def test_generation_checkpoints_keep_their_base_and_leave_it_unloaded(tmp_path):
    model, processor = tiny_lira.causal_with_processor()
    export_sentence_transformers(model, processor, tmp_path / "model")
    st = load(tmp_path / "model")
    assert type(st[0].model) is LiraModel
    assert st[0].model.language_model is None
    wanted = LiraEmbedder(model.lira, processor).encode([p[0] for p in PAIRS], candidates=[[p[1]] for p in PAIRS])
    np.testing.assert_allclose(st.encode(PAIRS), wanted, atol=1e-5)
    again, before = type(model).from_pretrained(tmp_path / "model").state_dict(), model.state_dict()
    assert again.keys() == before.keys()
    assert any("language_model" in name for name in before)
    assert all(torch.equal(again[name], value) for name, value in before.items())


def test_what_cannot_be_exported_is_refused(tmp_path):
    model, processor = parts()
    with pytest.raises(ValueError, match="similarity is 'cos'; expected one of cosine"):
        export_sentence_transformers(model, processor, tmp_path, similarity="cos")
    with pytest.raises(TypeError, match="the processor is a PreTrainedTokenizerFast|TokenizersBackend"):
        export_sentence_transformers(model, processor.tokenizer, tmp_path)
    model.config.embedding_source = "language_model"
    with pytest.raises(ValueError, match="got document_prompt, query_prompt and embedding_source='language_model'"):
        export_sentence_transformers(model, processor, tmp_path)
    assert not (tmp_path / "modules.json").exists()


def rows():
    """Queries, as pairs with a poor translation, and their documents."""
    texts = [" ".join(words) for words in itertools.combinations(tiny_lira.WORDS[:14], 3)][::10]
    queries = [[" ".join(text.split()[::-1]), " ".join(text.split()[:2])] for text in texts]
    return Dataset.from_dict({"query": queries, "positive": texts})


def train(st, loss, data, folder, collator=None, **options):
    options = {"learning_rate": 5e-3, "per_device_train_batch_size": 12, "num_train_epochs": 4} | options
    arguments = library.SentenceTransformerTrainingArguments(
        str(folder), logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True, **options
    )
    collator = collator or LiraSentenceCollator(st.preprocess)
    trainer = library.SentenceTransformerTrainer(st, arguments, data, data, loss=loss, data_collator=collator)
    trainer.train()
    return trainer, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_a_stock_loss_trains_and_what_it_trained_is_saved(exported, tmp_path):
    st, data = load(exported), rows()
    before, frozen = st.encode(DOCUMENTS), st[0].model.encoder.get_input_embeddings().weight.clone()
    collator = LiraSentenceCollator(st.preprocess, prompts={"query": "what is ", "positive": "the "})
    _, losses = train(st, MultipleNegativesRankingLoss(st), data, tmp_path, collator)
    assert np.mean(losses[-4:]) < 0.7 * np.mean(losses[:4])
    assert torch.equal(st[0].model.encoder.get_input_embeddings().weight, frozen)
    st.save_pretrained(str(tmp_path / "trained"))
    again, after = load(tmp_path / "trained"), st.encode(DOCUMENTS)
    np.testing.assert_array_equal(again.encode(DOCUMENTS), after)
    assert np.abs(after - before).max() > 1e-2
    own = LiraEmbedder(
        LiraModel.from_pretrained(tmp_path / "trained"), LiraProcessor.from_pretrained(tmp_path / "trained")
    )
    np.testing.assert_allclose(own.encode(DOCUMENTS), after, atol=1e-5)


def test_the_collator_names_what_the_trainer_looks_for(exported, tmp_path):
    st = load(exported)
    batch = LiraSentenceCollator(st.preprocess, prompts={"query": "what is "})(
        [{"query": list(pair), "positive": text, "label": 1} for pair, text in zip(PAIRS, DOCUMENTS, strict=True)]
    )
    plain = st.preprocess([("what is " + source, english) for source, english in PAIRS])
    assert torch.equal(batch["query_input_ids"], plain["source_ids"])
    assert torch.equal(batch["query_attention_mask"], plain["source_mask"])
    assert torch.equal(batch["query_anchor_ids"], plain["anchor_ids"])
    assert batch["label"].tolist() == [1, 1, 1]
    assert not any(name.endswith(("source_ids", "source_mask")) for name in batch)
    trainer = library.SentenceTransformerTrainer(
        st, library.SentenceTransformerTrainingArguments(str(tmp_path), report_to=[], use_cpu=True), data_collator=None
    )
    features, labels = trainer.collect_features(batch)
    assert len(features) == 2
    assert labels.tolist() == [1, 1, 1]
    np.testing.assert_allclose(
        st(features[0])["sentence_embedding"].detach().numpy(), st.encode(PAIRS, prompt="what is "), atol=1e-6
    )


class Table(torch.nn.Module):
    """Stands in for a model: a row's embedding is that of its first token."""

    def __init__(self, dim=6):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(50, dim, generator=generator))
        self.calls = 0

    def get_embedding_dimension(self):
        return self.weight.shape[1]

    def forward(self, features):
        self.calls += 1
        return features | {"sentence_embedding": self.weight[features["input_ids"][:, 0]]}


def column(*tokens, width=1):
    ids = torch.tensor(tokens)[:, None].repeat(1, width)
    return {"input_ids": ids, "attention_mask": (torch.arange(width) < 1).long().repeat(len(tokens), 1)}


def both_losses(start, stop):
    """Loss, gradient and what is queued of two micro-batches' rows `start` to `stop` of six, by either loss."""
    found = {}
    for kind in (LiraQueueLoss, LiraCorrelationLoss):
        table = Table()
        loss = kind(table, queue_size=9)
        for first in (0, 20):
            rows = [list(range(first + offset, first + offset + 6))[start:stop] for offset in (0, 8, 14)]
            columns = [column(*tokens) for tokens in rows[: 3 if kind is LiraQueueLoss else 2]]
            value = loss(columns, torch.tensor([3, 1, 2, 6, 4, 5])[start:stop])
        value.backward()
        held = loss.queue.entries()[:2]
        found[kind.__name__] = [value.detach(), table.weight.grad, *held]
    return found


def one_rank(rank, place):
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{place}/meet", rank=rank, world_size=2)
    found = both_losses(0, 2) if rank == 0 else both_losses(2, 6)  # not as many rows each
    for name, (value, gradient, *held) in found.items():
        for tensor in (value, gradient):
            dist.all_reduce(tensor)  # DDP takes the mean
            tensor /= 2
        save_tensors(
            {str(n): tensor for n, tensor in enumerate((value, gradient, *held))}, f"{place}/{name}{rank}.safetensors"
        )
    dist.destroy_process_group()


@pytest.mark.slow  # for what two fresh processes import
def test_two_processes_have_the_loss_gradient_and_queue_of_one(tmp_path):
    torch.multiprocessing.spawn(one_rank, (str(tmp_path),), nprocs=2)
    for name, wanted in both_losses(0, 6).items():
        for rank in (0, 1):
            found = load_tensors(tmp_path / f"{name}{rank}.safetensors")
            for number, value in enumerate(wanted):
                torch.testing.assert_close(found[str(number)], value, msg=f"{name} {rank} {number}")


def test_the_queue_loss_is_that_of_the_objective_with_a_queue():
    table = Table()
    loss, queue, plain = LiraQueueLoss(table, queue_size=8), DocQueue(8, 6), RetrievalLoss()
    batches = [((1, 2, 3), (11, 12, 13)), ((4, 5, 6), (14, 12, 15)), ((7, 8, 9), (16, 17, 18))]
    for queries, documents in batches:
        ids = torch.tensor(documents)
        wanted = plain(table.weight[list(queries)], table.weight[list(documents)], ids, queue=queue).loss
        # Padding says nothing about a text: 12 is the same document in both batches.
        found = loss([column(*queries), column(*documents, width=documents[0] - 10)], None)
        torch.testing.assert_close(found, wanted)
        gradients = [torch.autograd.grad(value, table.weight)[0] for value in (found, wanted)]
        torch.testing.assert_close(*gradients)
        queue.push(table.weight[list(documents)], ids)
    assert loss.queue.num_entries == 8
    torch.testing.assert_close(loss.queue.entries().embeddings, queue.entries().embeddings)


def test_hard_negatives_and_numbered_documents():
    table, plain = Table(), RetrievalLoss(tau=0.1)
    loss = LiraQueueLoss(table, queue_size=0, loss=RetrievalLoss(tau=0.1))
    queries, documents, mined = (1, 2, 3), (11, 12, 13), (13, 22, 23)
    rows = [table.weight[list(tokens)] for tokens in (queries, documents, mined)]
    columns = [column(*tokens) for tokens in (queries, documents, mined)]
    # The first mined negative is the third document: known by its text.
    wanted = plain(*rows[:2], torch.tensor(documents), extra_documents=rows[2], extra_document_ids=torch.tensor(mined))
    torch.testing.assert_close(loss(columns, None), wanted.loss)
    assert int(wanted.dropped_document) == 1
    # Labels are ids of documents: the first two are one. The mined negative is still the third document.
    mined_ids = torch.tensor([6, -1, -1])
    wanted = plain(*rows[:2], torch.tensor([5, 5, 6]), extra_documents=rows[2], extra_document_ids=mined_ids)
    torch.testing.assert_close(loss(columns, torch.tensor([5, 5, 6])), wanted.loss)
    assert int(wanted.dropped_document) == 3
    assert loss.get_config_dict()["tau"] == 0.1
    assert loss.get_config_dict()["queue_size"] == 0


def test_texts_are_told_apart_by_both_roads():
    from lira_hf.integrations.sentence_transformers_losses import _text_ids

    processor = parts()[1]
    texts = [("the cat", "a dog"), ("the cat", "a mat"), ("the cat", "a dog"), ("", "a dog"), ("", "")]
    ids = _text_ids(processor(texts)).tolist()
    assert ids[0] == ids[2] >= 0
    assert len(set(ids)) == 4
    assert ids[4] == -1
    assert _text_ids(processor(texts[::-1] + [("river " * 9, "house " * 9)])).tolist()[:5] == ids[::-1]
    assert _text_ids({"sentence_embedding": torch.zeros(2, 3)}).tolist() == [-1, -1]


def test_the_correlation_loss_is_that_of_the_objective_with_a_queue():
    table = Table()
    loss, queue, plain = LiraCorrelationLoss(table, queue_size=8, max_age=0), CorrQueue(8), CorrelationLoss()
    bare = LiraCorrelationLoss(table, queue_size=8, max_age=0, gradient_weight=False)
    for start in (0, 4, 8):
        one, other = torch.arange(start, start + 4), torch.arange(start + 20, start + 24)
        gold = torch.tensor([3, 1, 4, 2]) + start
        cosines = torch.nn.functional.cosine_similarity(table.weight[one], table.weight[other])
        wanted = plain(cosines, gold.float(), queue, 0).loss
        columns = [column(*one.tolist()), column(*other.tolist())]
        values = [loss(columns, gold), bare(columns, gold), wanted]
        weighed, found, expected = (torch.autograd.grad(v, table.weight, retain_graph=True)[0] for v in values)
        torch.testing.assert_close(torch.stack(values[:2]), wanted.repeat(2))
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(weighed, expected * (1 if start == 0 else 2))  # the batch's four among eight
        queue.push(cosines, gold.float())
    assert loss.queue.num_entries == 8
    assert loss.get_config_dict() == {
        "queue_size": 8,
        "max_age": 0,
        "gradient_weight": True,
        "alpha": 0.5,
        "tau": 0.05,
        "min_std": 1e-3,
        "grid": None,
    }


@pytest.mark.parametrize("kind", [LiraQueueLoss, LiraCorrelationLoss])
def test_a_batch_is_pushed_once_and_never_in_evaluation(kind):
    table = Table()
    loss = kind(table, queue_size=32)
    columns, labels = [column(1, 2, 3), column(11, 12, 13)], torch.tensor([1, 2, 3])
    loss(columns, labels)
    assert (int(loss.queue.step), loss.queue.num_entries, table.calls) == (1, 3, 2)
    table.eval()
    loss(columns, labels)
    table.train()
    with torch.no_grad():
        loss(columns, labels)
    assert (int(loss.queue.step), loss.queue.num_entries) == (1, 3)
    loss(columns, labels)
    assert int(loss.queue.step) == 2


@pytest.mark.parametrize("kind", ["queue", "correlation"])
def test_the_trainer_with_a_queue_loss(kind, exported, tmp_path):
    st, data = load(exported), rows()
    if kind == "queue":
        loss = LiraQueueLoss(st, queue_size=64)
    else:
        loss = LiraCorrelationLoss(st, queue_size=64)
        english = [row[1] for row in data["query"]]
        same = [row.split()[0] == text.split()[1] for row, text in zip(english, data["positive"], strict=True)]
        data = data.add_column("score", [float(number % 5) + value for number, value in enumerate(same)])
    untrained = {name: value.clone() for name, value in st.state_dict().items()}
    trainer, losses = train(st, loss, data, tmp_path, num_train_epochs=2, gradient_accumulation_steps=2)
    pushed = int(loss.queue.step)
    assert pushed == 2 * int(np.ceil(len(data) / 12))  # of each micro-batch once
    assert all(np.isfinite(losses))
    assert any(not torch.equal(value, untrained[name]) for name, value in st.state_dict().items())
    first = trainer.evaluate()["eval_loss"]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(first)
    assert int(loss.queue.step) == pushed
    assert not any("queue" in name for name in st.state_dict())
    st.save_pretrained(str(tmp_path / "trained"))
    card = (tmp_path / "trained" / "README.md").read_text()
    assert type(loss).__name__ in card
    assert "2510.14466" in card


def test_what_the_losses_cannot_use_is_named():
    table = Table()
    queue, correlation = LiraQueueLoss(table), LiraCorrelationLoss(table)
    with pytest.raises(ValueError, match=r"got 0 columns of text, expected at least two.*LiraSentenceCollator"):
        queue([], None)
    with pytest.raises(ValueError, match=r"got 3 columns of text, expected two"):
        correlation([column(1)] * 3, torch.tensor([1.0]))
    with pytest.raises(ValueError, match=r"got no labels for 2 pairs, expected one number a pair"):
        correlation([column(1, 2), column(3, 4)], None)
    with pytest.raises(ValueError, match=r"labels of shape \(2,\) and type torch.float32 for 2 rows"):
        queue([column(1, 2), column(3, 4)], torch.tensor([0.5, 1.0]))
    table.weight = torch.nn.Parameter(table.weight[:, :4].detach())
    with pytest.raises(ValueError, match=r"embeddings of width 4, expected 6, that of the model"):
        queue([column(1, 2), column(3, 4)], None)


def test_the_page_runs_as_it_stands(tmp_path, monkeypatch):
    page = Path(__file__).parents[2] / "docs" / "sentence-transformers.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    model, processor = parts()
    names = {"model": model, "processor": processor, "print": lambda *values: None}
    for block in blocks:
        exec(block, names)  # noqa: S102
    assert len(blocks) == 5
    assert (tmp_path / "trained" / "modules.json").is_file()
    st, shorter = names["st"], {"text": {"max_length": 4}}  # [CLS], two words, [SEP]
    cut = st.encode("the cat sat on", processing_kwargs=shorter)
    np.testing.assert_allclose(cut, st.encode("the cat"), atol=1e-6)
    assert np.abs(cut - st.encode("the cat sat on")).max() > 1e-3


def test_without_the_library_the_losses_say_so(monkeypatch):
    import lira_hf.integrations

    monkeypatch.setitem(sys.modules, "sentence_transformers.sentence_transformer.data_collator", None)
    monkeypatch.delitem(sys.modules, "lira_hf.integrations.sentence_transformers_losses", raising=False)
    with pytest.raises(ImportError, match=r"LiraQueueLoss found no module .* install it: pip install"):
        lira_hf.integrations.LiraQueueLoss  # noqa: B018
