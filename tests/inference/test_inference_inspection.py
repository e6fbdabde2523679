"""What a tokenizer makes of a language, counted by hand, and the estimate of a run."""

import math

import pytest
import tiny_lira
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lira_hf.inference import estimate_run, inspect_tokenizer, text_scripts
from lira_hf.models.backbones_lira import build_encoder


def test_counts_by_hand():
    tokenizer = tiny_lira.word_tokenizer()  # words apart from white space; [CLS] and [SEP] around
    texts = {"vi": ["the cat sat", "zebra cat"], "ur": ["بلی dog", "house"]}
    english = {"vi": ["cat", "dog"], "ur": ["a dog", "the house"]}
    vi, ur = inspect_tokenizer(tokenizer, texts, english, max_length=4)
    assert (vi.language, vi.texts, vi.script, vi.tokens) == ("vi", 2, "Latn", 2.5)
    assert vi.tokens_per_word == 1.0
    assert vi.tokens_per_character == pytest.approx(5 / 17)
    assert vi.premium == pytest.approx(5 / 2)
    assert vi.unknown == pytest.approx(1 / 5)
    assert vi.truncated == 0.5  # three words and two special tokens
    assert (vi.other_script, ur.other_script) == (0.0, 0.5)  # "house" is no Urdu
    assert ur.premium == pytest.approx(3 / 4)
    assert ur.unknown == pytest.approx(1 / 3)


def test_scripts_without_spaces_have_no_words():
    tokenizer = tiny_lira.word_tokenizer()
    (thai,) = inspect_tokenizer(tokenizer, {"th": ["สวัสดี ชาวโลก"]})
    assert thai.tokens_per_word is None
    assert thai.premium is None
    assert (thai.script, thai.other_script, thai.unknown) == ("Thai", 0.0, 1.0)
    (japanese,) = inspect_tokenizer(tokenizer, {"zh-TW": ["漢字", "汉字"]})
    assert (japanese.script, japanese.other_script) == ("Hani", 0.0)
    (und,) = inspect_tokenizer(tokenizer, {"und": ["123 !"]})
    assert (und.script, und.other_script) == ("Zyyy", 0.0)


def test_letters_of_every_script_here():
    samples = {"Beng": "ঢাকা", "Thai": "กรุงเทพ", "Arab": "کراچی", "Latn": "Đà Nẵng", "Cyrl": "Москва", "Deva": "दिल्ली"}
    samples |= {"Hang": "서울", "Hira": "ひらがな", "Hani": "東京", "Taml": "சென்னை", "Khmr": "ភ្នំពេញ", "Grek": "Αθήνα"}
    for code, text in samples.items():
        assert text_scripts(text).most_common(1)[0][0] == code
    assert not text_scripts("123 -- !")


def test_single_bytes_are_counted():
    vocabulary = {f"<0x{number:02X}>": number for number in range(256)} | {"a": 256, "<unk>": 257}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Split("", "isolated"), decoders.ByteFallback()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    (report,) = inspect_tokenizer(tokenizer, {"bn": ["aaঢ"]})
    assert report.byte_pieces == pytest.approx(3 / 5)
    assert report.unknown == 0.0


def test_wrong_input_is_named():
    tokenizer = tiny_lira.word_tokenizer()
    with pytest.raises(ValueError, match="got no text of 'vi'"):
        inspect_tokenizer(tokenizer, {"vi": []})
    with pytest.raises(ValueError, match="got 1 texts of 'vi' and 2 English ones"):
        inspect_tokenizer(tokenizer, {"vi": ["a"]}, {"vi": ["a", "b"]})
    (odd,) = inspect_tokenizer(tokenizer, {"vi": ["", "\ud800"]})
    assert odd.tokens_per_word is None
    assert math.isfinite(odd.tokens_per_character)


def test_the_estimate_scales_with_the_run():
    backbone = build_encoder(tiny_lira.encoder_config("bert"))
    tokenizer, sample = tiny_lira.word_tokenizer(), ["the cat sat on a mat"] * 40
    found = estimate_run(backbone, tokenizer, sample, texts=1_000_000, num_bins=3, batch_size=16)
    assert found.hours > 0
    assert found.tokens_per_second > 0
    # 8 tokens a text, of which padding has no part.
    assert found.hours * 3600 == pytest.approx(8_000_000 / found.tokens_per_second, rel=1e-6)
    weights = sum(weight.numel() * 4 for weight in backbone.parameters())
    assert found.weights_gib == pytest.approx(weights / 2**30)
    assert found.cache_gib == pytest.approx(1_000_000 * 4 * 16 * 2 / 2**30)
    assert found.peak_gib is None or torch.cuda.is_available()
    with pytest.raises(ValueError, match="got an empty sample"):
        estimate_run(backbone, tokenizer, [], texts=1)
