"""Tiny random encoder-decoders of every family: how they are told the languages, and what their candidates are."""

import json
import logging

import pytest
import torch
from tiny_seq2seq import (
    FAMILIES,
    LAYERS,
    SHORT,
    SIZES,
    TEXTS,
    WIDE,
    m2m_model,
    marian_model,
    marian_tokenizer,
    nllb_tokenizer,
    nllb_vocabulary,
    t5_model,
    t5_tokenizer,
    translator,
)
from transformers import MarianConfig, MarianMTModel, NllbTokenizer

from lira_hf.translation import Candidate, Translator
from lira_hf.translation.seq2seq import Seq2SeqTranslator


def seen_by_generate(one: Seq2SeqTranslator, language: str, texts=("abc", "hello there")) -> tuple[list, object]:
    """The source tokens and the settings that reach the model."""
    calls = []
    original = one.model.generate

    def spy(**inputs):
        calls.append((inputs["input_ids"], inputs["generation_config"]))
        return original(**inputs)

    one.model.generate = spy
    try:
        one.translate(list(texts), language, 2)
    finally:
        del one.model.generate
    ids, config = calls[0]
    return [one.tokenizer.convert_ids_to_tokens(row) for row in ids.tolist()], config


@pytest.mark.parametrize("strategy", ["beam", "sample", "diverse_beam"])
@pytest.mark.parametrize("family", FAMILIES)
def test_distinct_best_first_and_the_same_in_every_batch(family, strategy):
    together = translator(family, strategy=strategy, batch_size=4, **WIDE)
    answers = together.translate(TEXTS, "ur", 3)
    assert isinstance(together, Translator)
    assert [len(row) for row in answers[:5]] == [3] * 5
    assert answers[5] == []
    assert answers[6] == answers[0]
    for row in answers:
        assert len({candidate.text.strip().casefold() for candidate in row}) == len(row)
        assert [c.score for c in row] == sorted((c.score for c in row), reverse=True)
        assert {(c.kind, c.translator) for c in row} <= {("seq2seq", together.name)}
    alone = translator(family, strategy=strategy, batch_size=1, **WIDE)
    for text, expected in zip(TEXTS, answers, strict=True):
        (found,) = alone.translate([text], "ur", 3)
        assert [c.text for c in found] == [c.text for c in expected]
        assert [c.score for c in found] == pytest.approx([c.score for c in expected], abs=1e-5)


@pytest.mark.parametrize("penalty", [1.0, 0.5])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_the_beam_search(family, penalty):
    one = translator(family, generation_options={"length_penalty": penalty}, num_hypotheses=4)
    one.model.generation_config.forced_eos_token_id = None
    texts = ["abc", "hello there"]
    prompt = one.family.prepare(one.tokenizer, "ur")
    inputs = one.tokenizer([prompt + text for text in texts], return_tensors="pt", padding=True)
    config = one._generation_config(4)
    config.update(return_dict_in_generate=True, output_scores=True)
    output = one.model.generate(**inputs, generation_config=config)
    decoded = [text.strip() for text in one.tokenizer.batch_decode(output.sequences, skip_special_tokens=True)]
    found = one.translate(texts, "ur", 4)
    for number, row in enumerate(found):
        expected: dict[str, float] = {}
        for text, score in zip(decoded[4 * number :][:4], output.sequences_scores[4 * number :][:4], strict=True):
            expected.setdefault(text, score.item())
        assert {c.text: pytest.approx(c.score, abs=1e-4) for c in row} == {t: s for t, s in expected.items() if t}


def test_scores_do_not_depend_on_how_many_are_computed_at_once(monkeypatch):
    one = translator("nllb", strategy="sample")
    expected = one.translate(TEXTS, "ur", 3)
    monkeypatch.setattr("lira_hf.translation.seq2seq_sampling._LOGIT_CELLS", 1)
    for found, wanted in zip(one.translate(TEXTS, "ur", 3), expected, strict=True):
        assert [c.text for c in found] == [c.text for c in wanted]
        assert [c.score for c in found] == pytest.approx([c.score for c in wanted], abs=1e-5)


@pytest.mark.parametrize("strategy", ["beam", "sample", "diverse_beam"])
def test_a_checkpoint_s_own_generation_settings_raise_no_warning(strategy, caplog):
    one = translator("nllb", strategy=strategy)
    own = {
        "max_length": 200,
        "num_beams": 4,
        "num_beam_groups": 2,
        "early_stopping": True,
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.9,
    }
    one.model.generation_config.update(**own, length_penalty=1.2, forced_eos_token_id=2)
    logger = logging.getLogger("transformers")
    monitor = caplog.handler
    logger.addHandler(monitor)
    try:
        assert all(one.translate(TEXTS[:2], "ur", 2))
    finally:
        logger.removeHandler(monitor)
    assert [record.getMessage() for record in caplog.records] == []


def test_padding_changes_nothing():
    one = translator("nllb", batch_size=8)
    (alone,) = one.translate(["abc"], "ur", 3)
    beside_longer = one.translate(["abc", "a very much longer text than that"], "ur", 3)[0]
    assert [c.text for c in beside_longer] == [c.text for c in alone]
    assert [c.score for c in beside_longer] == pytest.approx([c.score for c in alone], abs=1e-5)


@pytest.mark.parametrize(
    ("family", "language", "first", "target"),
    [
        ("nllb", "ur", "urd_Arab", "eng_Latn"),
        ("nllb", "ur-PK", "urd_Arab", "eng_Latn"),
        ("nllb", "ace_Latn", "ace_Latn", "eng_Latn"),
        ("m2m100", "ur", "__ur__", "__en__"),
        ("m2m100", "fil", "__tl__", "__en__"),
        ("madlad", "he", "<2en>", None),
        ("marian", "ur", "▁", None),
    ],
)
def test_languages_reach_the_model(family, language, first, target):
    one = translator(family)
    rows, config = seen_by_generate(one, language)
    assert [next(token for token in row if token != "▁" or first == "▁") for row in rows] == [first, first]
    forced = config.forced_bos_token_id
    assert (None if forced is None else one.tokenizer.convert_ids_to_tokens(forced)) == target
    assert all("</s>" in row for row in rows)


def test_the_forced_first_token_begins_every_candidate():
    one = translator("nllb")
    sequences = []
    original = one.model.generate
    one.model.generate = lambda **inputs: sequences.append(original(**inputs)) or sequences[-1]
    one.translate(["abc"], "ur", 3)
    assert set(sequences[0][:, 1].tolist()) == {one.tokenizer.convert_tokens_to_ids("eng_Latn")}


def test_a_prompt_names_the_language_and_nothing_of_the_text_is_read_as_a_template():
    one = translator("prompt")
    rows, _ = seen_by_generate(one, "ur", ["a{language}b", "abc"])
    joined = ["".join(row).replace("▁", " ") for row in rows]
    unknown = one.tokenizer.unk_token
    assert joined[0].startswith(f" from {unknown}rdu{unknown} abc</s>")  # the vocabulary has neither U nor colon
    assert "rdu" not in joined[1][12:]


def test_marian_prefixes_english_where_it_has_other_targets():
    tokenizer = marian_tokenizer(supported_language_codes=[">>fra<<", ">>eng<<"])
    one = Seq2SeqTranslator(marian_model(tokenizer), tokenizer, **SHORT)
    rows, _ = seen_by_generate(one, "ur")
    assert all(">>eng<<" in row for row in rows)
    tokenizer = marian_tokenizer(supported_language_codes=[">>fra<<"])
    with pytest.raises(ValueError, match=r"Marian model translates into '>>fra<<'; expected English .* prompt=''"):
        Seq2SeqTranslator(marian_model(tokenizer), tokenizer)
    tokenizer = marian_tokenizer(target_lang="fr")
    with pytest.raises(ValueError, match="translates into 'fr'"):
        Seq2SeqTranslator(marian_model(tokenizer), tokenizer)


def test_marian_takes_the_language_its_tokenizer_names():
    tokenizer = marian_tokenizer(source_lang="urd", target_lang="eng")
    one = Seq2SeqTranslator(marian_model(tokenizer), tokenizer, **SHORT)
    assert one.translate(["abc"], "ur", 1)[0]
    with pytest.raises(ValueError, match=r"language 'vi'; expected one of \['urd'\]"):
        one.translate(["abc"], "vi", 1)
    many = Seq2SeqTranslator(marian_model(tokenizer), tokenizer, languages=["ur", "hi"], **SHORT)
    assert many.translate(["abc"], "hi", 1)[0]


def test_unknown_languages():
    one = translator("nllb", name="tiny")
    with pytest.raises(ValueError, match=r"'tiny' got the language 'vi'; expected one of \['ur', 'ace_Latn'\]; give"):
        one.translate(["abc"], "vi", 2)
    with pytest.raises(ValueError, match="'ur-Latn'"):  # romanised Urdu is another script than the model's
        one.translate(["abc"], "ur-Latn", 2)
    assert translator("nllb", on_unknown="skip").translate(["abc", "b"], "vi", 2) == [[], []]
    with pytest.raises(ValueError, match="got the language 'th'"):
        translator("madlad").translate(["abc"], "th", 1)
    assert translator("madlad", languages=["th"]).translate(["abc"], "th", 1)[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_english_undetermined_and_empty_texts(family):
    one = translator(family)
    one.model.generate = None  # must not be called
    for tag in ("en", "en-GB", "eng_Latn"):
        assert one.translate([" a text ", "  "], tag, 3) == [[Candidate("a text", "identity", one.name)], []]
    assert one.translate(["abc", "b"], "und", 3) == [[], []]
    assert one.translate(["", " \n"], "ur", 3) == [[], []]
    assert one.translate([], "ur", 3) == []


def test_samples_depend_on_text_and_seed_alone():
    one = translator("nllb", strategy="sample", seed=1)
    first = one.translate(TEXTS, "ur", 3)
    torch.manual_seed(7)  # the global generator has no say, and is left alone
    state = torch.get_rng_state()
    assert one.translate(TEXTS, "ur", 3) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert translator("nllb", strategy="sample", seed=2).translate(TEXTS, "ur", 3) != first


def test_samples_follow_the_softmax():
    from lira_hf.translation.seq2seq_sampling import SeededSampling

    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -torch.inf]]).repeat(4000, 1)
    sampling = SeededSampling([("x", 2 * number) for number in range(4000)], [2.0, 0.1], top_k=3, seed=0)
    drawn = sampling(None, logits).argmax(-1)
    shares = torch.bincount(drawn, minlength=5) / 4000
    expected = torch.tensor([2.0, 1.0, 0.0]).div(2.0).softmax(-1)
    assert shares[:3].tolist() == pytest.approx(expected.tolist(), abs=0.025)
    assert shares[3:].tolist() == [0.0, 0.0]
    flat = torch.zeros(4, 50)  # the same text and number draw the same; another text or number something else
    rows = SeededSampling([("x", 0), ("y", 0), ("x", 1), ("x", 0)], [1.0], top_k=50, seed=0)
    drawn = [tuple(row) for row in torch.stack([rows(None, flat).argmax(-1) for _ in range(8)], dim=1).tolist()]
    assert drawn[0] == drawn[3]
    assert len(set(drawn)) == 3


def test_texts_of_like_length_share_a_batch():
    one = translator("nllb", batch_size=2)
    widths = []
    original = one.model.generate
    one.model.generate = lambda **inputs: widths.append(inputs["input_ids"].shape) or original(**inputs)
    one.translate(["a", "b" * 20, "cc", "d" * 19], "ur", 1)
    assert widths == [(2, 5), (2, 23)]


def test_long_texts_are_cut_behind_the_language():
    one = translator("nllb", max_source_tokens=5)
    rows, _ = seen_by_generate(one, "ur", ["abcdefghij"])
    assert rows == [["urd_Arab", "▁", "a", "b", "</s>"]]
    rows, _ = seen_by_generate(translator("nllb"), "ur", ["abc " * 100])
    assert len(rows[0]) == 64  # the model's own limit


def test_the_user_s_model_and_tokenizer_are_left_as_they_were():
    tokenizer = nllb_tokenizer()
    model = m2m_model(tokenizer).train()
    before = model.generation_config.to_dict()
    one = Seq2SeqTranslator(model, tokenizer, **SHORT)
    assert one.translate(TEXTS, "ur", 2) == translator("nllb").translate(TEXTS, "ur", 2)  # without dropout
    assert model.training
    assert tokenizer.src_lang == "eng_Latn"
    assert model.generation_config.to_dict() == before


def test_fingerprint_follows_weights_and_settings_but_not_the_batch():
    one = translator("nllb")
    assert one.fingerprint == translator("nllb", batch_size=3).fingerprint
    others = [
        translator("nllb", strategy="sample"),
        translator("nllb", strategy="sample", seed=1),
        translator("nllb", num_hypotheses=9),
        translator("nllb", generation_options={"no_repeat_ngram_size": 2}),
        translator("m2m100"),
    ]
    changed = translator("nllb")
    with torch.no_grad():
        changed.model.lm_head.weight[5, 5] += 1.0
    prints = [one.fingerprint, changed.fingerprint, *(other.fingerprint for other in others)]
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize("family", ["nllb", "madlad"])
def test_loaded_from_a_folder(family, tmp_path):
    one = translator(family)
    one.model.save_pretrained(tmp_path / "checkpoint")
    one.tokenizer.save_pretrained(tmp_path / "checkpoint")
    loaded = Seq2SeqTranslator.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32, **SHORT)
    assert loaded.name == "checkpoint"
    assert [[c.text for c in row] for row in loaded.translate(TEXTS, "ur", 3)] == [
        [c.text for c in row] for row in one.translate(TEXTS, "ur", 3)
    ]
    (tmp_path / "checkpoint" / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors") as caught:
        Seq2SeqTranslator.from_pretrained(tmp_path / "checkpoint")
    assert "use_safetensors=False" in caught.value.__notes__[0]


@pytest.fixture(scope="module")
def sentencepiece_files(tmp_path_factory):
    """A folder with a tiny sentencepiece model and the vocabulary files of M2M100 and Marian."""
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("sentencepiece")
    (folder / "text.txt").write_text("\n".join(text for text in TEXTS if text), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "tiny"),
        vocab_size=30,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tiny.model"))
    pieces = [model.id_to_piece(number) for number in range(3, model.get_piece_size())]
    m2m100, marian = ["<s>", "<pad>", "</s>", "<unk>", *pieces], ["</s>", "<unk>", ">>eng<<", *pieces, "<pad>"]
    for name, tokens in (("m2m100", m2m100), ("marian", marian)):
        vocabulary = {token: number for number, token in enumerate(tokens)}
        (folder / f"{name}.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    return folder


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
def test_the_tokenizers_that_need_sentencepiece(sentencepiece_files, tmp_path):
    from transformers import M2M100Tokenizer, MarianTokenizer

    spm = str(sentencepiece_files / "tiny.model")
    m2m100 = M2M100Tokenizer(str(sentencepiece_files / "m2m100.json"), spm)
    marian = MarianTokenizer(spm, spm, str(sentencepiece_files / "marian.json"), target_lang="eng")
    m2m_model(m2m100).save_pretrained(tmp_path / "m2m100")
    m2m100.save_pretrained(tmp_path / "m2m100")
    one = Seq2SeqTranslator.from_pretrained(tmp_path / "m2m100", **SHORT)
    assert one.family.name == "m2m100"
    rows, config = seen_by_generate(one, "fil")
    assert {row[0] for row in rows} == {"__tl__"}
    assert one.tokenizer.convert_ids_to_tokens(config.forced_bos_token_id) == "__en__"
    answers = one.translate(["abc", "", "hello"], "fil", 2)
    assert [len(row) for row in answers] == [2, 0, 2]
    assert not any("__en__" in candidate.text for row in answers for candidate in row)
    torch.manual_seed(0)
    special = {"pad_token_id": len(marian) - 1, "eos_token_id": 0, "decoder_start_token_id": len(marian) - 1}
    MarianMTModel(MarianConfig(vocab_size=len(marian), **SIZES, **LAYERS, **special)).save_pretrained(
        tmp_path / "marian"
    )
    marian.save_pretrained(tmp_path / "marian")
    one = Seq2SeqTranslator.from_pretrained(tmp_path / "marian", **SHORT)
    rows, config = seen_by_generate(one, "ur")
    assert {row[0] for row in rows} == {">>eng<<"}
    assert config.forced_bos_token_id is None
    assert [len(row) for row in one.translate(["abc", "", "hello"], "ur", 2)] == [2, 0, 2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "greedy"}, "strategy is 'greedy'; expected 'beam', 'sample' or 'diverse_beam'"),
        ({"on_unknown": "no"}, "on_unknown is 'no'"),
        ({"temperatures": (0.0,)}, r"temperatures is \(0.0,\); expected one or more numbers above 0"),
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"generation_options": {"beams": 3}}, r"generation_options has \['beams'\]"),
        ({"generation_options": {"num_beam_groups": 2}}, r"has \['num_beam_groups'\].* strategy='diverse_beam'"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        translator("nllb", **settings)


def test_models_that_are_no_translators():
    tokenizer = t5_tokenizer()
    with pytest.raises(ValueError, match=r"type 't5' and its tokenizer no token that names English; .* prompt="):
        Seq2SeqTranslator(t5_model(tokenizer), tokenizer)
    tokenizer = nllb_tokenizer()
    with pytest.raises(TypeError, match="model is a M2M100Model; expected an encoder-decoder"):
        Seq2SeqTranslator(m2m_model(tokenizer).model, tokenizer)
    with pytest.raises(ValueError, match="has no src_lang"):
        Seq2SeqTranslator(m2m_model(tokenizer), t5_tokenizer())
    plain = NllbTokenizer(vocab=nllb_vocabulary(), merges=[], extra_special_tokens=["fra_Latn"])
    with pytest.raises(ValueError, match="neither the token 'eng_Latn'"):
        Seq2SeqTranslator(m2m_model(plain), plain)
