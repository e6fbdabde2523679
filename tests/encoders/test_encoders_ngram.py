"""The n-gram encoder: n-grams listed by hand, ids that hold across processes, EmbeddingBag against the plain mean."""

import json
import os
import subprocess
import sys
import time
import zlib

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from lira_hf import NgramEncoderConfig, NgramEncoderModel, NgramTokenizer
from lira_hf.encoders import consonant_skeleton


TEXTS = ["cat", "ঢাকা শহর", "กรุงเทพ 12", "کراچی؟", "Đà Nẵng, 100%", "a-b!", "", " \n", "\U0001f600 ok", "a\ud800b"]


@pytest.fixture(scope="module")
def tokenizer():
    return NgramTokenizer()


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    return NgramEncoderModel(NgramEncoderConfig(vocab_size=tokenizer.vocab_size, embedding_size=8, hidden_size=12))


def padded(rows: list[list[int]], side: str = "right") -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask; the padding is a real bucket, so that only the mask tells what counts."""
    width = max(map(len, rows))
    fill = [[7] * (width - len(row)) for row in rows]
    ones, zeros = [[1] * len(row) for row in rows], [[0] * len(row) for row in fill]
    order = (lambda a, b: a + b) if side == "right" else (lambda a, b: b + a)
    ids = torch.tensor([order(row, more) for row, more in zip(rows, fill, strict=True)])
    return ids, torch.tensor([order(row, more) for row, more in zip(ones, zeros, strict=True)])


def test_ngrams_of_a_word_by_hand():
    sizes = {"word_sizes": [2, 3, 4], "skeleton_sizes": [2, 3]}
    spelt = "<cat> <c ca at t> <ca cat at> <cat cat>".split()
    grams = {
        "c": [f"c:{gram}" for gram in spelt],
        "r": [f"r:{gram}" for gram in spelt],
        "k": [f"k:{gram}" for gram in "<kt> <k kt t> <kt kt>".split()],
    }
    for view, expected in grams.items():
        tokenizer = NgramTokenizer(views=view, **sizes)
        assert tokenizer.tokenize("cat") == expected
        assert tokenizer("cat")["input_ids"] == [zlib.crc32(gram.encode()) % 65536 + 2 for gram in expected]
    # A skeleton of one consonant says too little.
    assert NgramTokenizer(views="k").tokenize("a to") == []


def test_a_word_is_seen_in_each_spelling_once():
    one, all_three = [NgramTokenizer(views=view) for view in "crk"], NgramTokenizer()
    assert all_three.tokenize("Nẵng") == [gram for tokenizer in one for gram in tokenizer.tokenize("Nẵng")]
    assert all_three.tokenize("nang") == [gram for tokenizer in one[1:] for gram in tokenizer.tokenize("nang")]


def test_views_and_sizes_can_be_chosen():
    assert NgramTokenizer(views="c", word_sizes=[3]).tokenize("cat") == ["c:<cat>", "c:<ca", "c:cat", "c:at>"]
    assert NgramTokenizer(views="k", skeleton_sizes=()).tokenize("cat aeiou") == ["k:<kt>"]
    romanised = NgramTokenizer(views="r", word_sizes=())
    assert romanised.tokenize("ঢাকা Nẵng") == ["r:<dhaka>", "r:<nang>"]
    with pytest.raises(ValueError, match=r"views has \['x'\]; expected letters among"):
        NgramTokenizer(views="cx")


@pytest.mark.parametrize(
    ("written", "english", "views"),
    [("ঢাকা", "Dhaka", "rk"), ("কলকাতা", "Kolkata", "k"), ("کراچی", "Karachi", "k"), ("กรุงเทพ", "Krungthep", "r")],
)
def test_names_meet_across_scripts(written, english, views):
    for view in "crk":
        tokenizer = NgramTokenizer(views=view)
        shared = set(tokenizer.tokenize(written)) & set(tokenizer.tokenize(english))
        if view == "c":
            assert not shared
        elif view in views:
            assert len(shared) >= 3


def test_consonant_skeletons_by_hand():
    skeletons = {
        "bangladesh": "pnklts",  # b, d, g, sh merge with p, t, k, s
        "banladesa": "pnlts",
        "kolkata": "klkt",
        "klkata": "klkt",
        "queue": "k",
        "missing": "msnk",  # runs count once
        "aeiou": "",
        "hah": "",
        "": "",
    }
    assert {word: consonant_skeleton(word) for word in skeletons} == skeletons


def test_spelling_variants_are_one(tokenizer):
    for one, other in (
        ("Cat", "cat"),
        ("Ｃａｔ", "cat"),
        ("Straße", "STRASSE"),
        ("e\u0301", "\u00e9"),
        ("a  b\n", "a b"),
    ):
        assert tokenizer(one)["input_ids"] == tokenizer(other)["input_ids"]


def test_words_keep_their_order_and_punctuation_stands_alone(tokenizer):
    words = ["cat,", "dog", "a-b"]
    joined = tokenizer.tokenize(" ".join(words))
    assert joined == [token for part in ("cat", ",", "dog", "a", "-", "b") for token in tokenizer.tokenize(part)]


def test_ids_stay_within_the_vocabulary_and_spread():
    small = NgramTokenizer(num_buckets=50)
    ids = small(" ".join(TEXTS[:7]) + " the quick brown fox jumps over")["input_ids"]
    assert set(ids) <= set(range(2, small.vocab_size))
    assert len(set(ids)) > 40
    assert small.vocab_size == 52


def test_empty_and_odd_texts(tokenizer):
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    lengths = batch["attention_mask"].sum(-1).tolist()
    assert [length == 0 for length in lengths] == [not text.strip() for text in TEXTS]
    assert (batch["input_ids"][batch["attention_mask"] == 0] == tokenizer.pad_token_id).all()
    assert tokenizer("")["input_ids"] == []
    assert tokenizer("a\ud800b")["input_ids"]
    left = tokenizer(TEXTS, padding=True, padding_side="left", return_tensors="pt")
    for row, text in enumerate(TEXTS):
        assert left["input_ids"][row][left["attention_mask"][row].bool()].tolist() == tokenizer(text)["input_ids"]


def test_a_long_text_is_quick_and_equal_to_its_beginning(tokenizer):
    for text in ("the cat sat on a mat ", "กรุงเทพมหานคร", "a\ud800", "x"):
        start = time.perf_counter()
        ids = tokenizer(text * (100_000 // len(text)), truncation=True)["input_ids"]
        assert time.perf_counter() - start < 1.0
        assert len(ids) == 1024
        assert ids == tokenizer((text * 4096)[:4096], truncation=True)["input_ids"]
    assert len(tokenizer("the cat " * 1000, truncation=True, max_length=10)["input_ids"]) == 10


def test_tokenizer_round_trip_and_ids_in_a_new_process(tmp_path, model):
    changed = NgramTokenizer(
        num_buckets=500, word_sizes=[3], skeleton_sizes=[2, 4], views="ck", model_max_length=77, padding_side="left"
    )
    ids = [changed(text)["input_ids"] for text in TEXTS[:9]]
    changed.save_pretrained(tmp_path)
    model.config.save_pretrained(tmp_path)
    script = (
        "import json, sys, lira_hf; from transformers import AutoTokenizer;"
        "t = AutoTokenizer.from_pretrained(sys.argv[1]);"
        "ids = [t(text)['input_ids'] for text in json.loads(sys.argv[2])];"
        "print(json.dumps([type(t).__name__, t.model_max_length, ids]))"
    )
    command = [sys.executable, "-c", script, str(tmp_path), json.dumps(TEXTS[:9])]
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["NgramTokenizer", 77, ids]
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for name in ("num_buckets", "word_sizes", "skeleton_sizes", "views", "model_max_length", "padding_side"):
        assert getattr(loaded, name) == getattr(changed, name), name
    assert loaded.vocab_size == 502
    loaded.save_pretrained(tmp_path / "again")
    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert [again(text)["input_ids"] for text in TEXTS[:9]] == ids


def test_model_round_trip(tmp_path, model):
    assert not model.embeddings.weight[0].any()
    with torch.no_grad():
        model.embeddings.weight[0] = 0.5
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is NgramEncoderModel
    assert loaded.config.to_dict() | {"_name_or_path": ""} == model.config.to_dict() | {"_name_or_path": ""}
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


@pytest.mark.parametrize("side", ["left", "right"])
def test_embedding_bag_equals_the_mean_of_the_states(model, tokenizer, side):
    ids, mask = padded([tokenizer(text)["input_ids"] for text in TEXTS], side)
    mask[0, 3:5] = 0  # holes are left out too
    output = model(ids, mask)
    assert output.last_hidden_state.shape == (*ids.shape, 12)
    weight = mask.unsqueeze(-1).float()
    mean = (output.last_hidden_state * weight).sum(1) / weight.sum(1).clamp(min=1)
    torch.testing.assert_close(output.pooler_output, mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(model.get_text_features(ids, mask), mean, rtol=0, atol=1e-6)
    empty = (mask.sum(-1) == 0).nonzero().flatten().tolist()
    assert empty == [6, 7]
    assert not output.pooler_output[empty].any()
    # The two paths train alike.
    direction = torch.randn_like(mean)
    fast = torch.autograd.grad((output.pooler_output * direction).sum(), list(model.parameters()), retain_graph=True)
    plain = torch.autograd.grad((mean * direction).sum(), list(model.parameters()))
    for one, other in zip(fast, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_embedding_needs_no_mask_and_no_batch(model, tokenizer):
    rows = [tokenizer(text)["input_ids"] for text in TEXTS if text.strip()]
    ids, mask = padded(rows)
    together = model(ids, mask).pooler_output
    for row, expected in zip(rows, together, strict=True):
        values = model(torch.tensor([row]), return_dict=False)
        assert isinstance(values, tuple)
        torch.testing.assert_close(values[1][0], expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(values[0][0].mean(0), expected, rtol=0, atol=1e-6)


def test_the_projection_starts_orthogonal(model):
    product = model.projection.weight.T @ model.projection.weight
    torch.testing.assert_close(product, torch.eye(8), rtol=0, atol=1e-5)
    assert model.embeddings.weight.std().item() == pytest.approx(0.1, rel=0.02)
