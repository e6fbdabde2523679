"""The table of language codes against transformers' own lists and CLDR, and the spellings that lead to a row."""

import ast
from pathlib import Path

import pytest
import transformers

from lira_hf.data import likely_script, normalize_language
from lira_hf.translation.language_codes import LANGUAGE_CODES, is_english, language_key, model_code


# Where a family names one variety, or a code that CLDR doesn't know.
_VARIETIES = {"ff": ["fuv"], "nb": ["no"], "no": ["nb"], "nso": ["ns"], "ps": ["pbt"], "qu": ["quy"]}


def test_the_table_agrees_with_transformers_and_cldr():
    from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES

    # Read as text: M2M100's module can't be imported without sentencepiece.
    source = Path(transformers.__file__).parent / "models/m2m_100/tokenization_m2m_100.py"
    m2m100 = next(
        ast.literal_eval(node.value)["m2m100"]
        for node in ast.parse(source.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "FAIRSEQ_LANGUAGE_CODES"
    )
    assert {codes.nllb for codes in LANGUAGE_CODES.values()} - {None} <= set(FAIRSEQ_LANGUAGE_CODES)
    assert {codes.m2m100 for codes in LANGUAGE_CODES.values()} - {None} == set(m2m100)
    for tag, codes in LANGUAGE_CODES.items():
        assert normalize_language(tag) == tag
        assert language_key(tag).split("-")[1] == likely_script(tag)
        for code in filter(None, codes):
            own = language_key(code).split("-")[0]
            assert own in (tag.split("-")[0], *_VARIETIES.get(tag, ()))
        if codes.nllb:
            script = codes.nllb.split("_")[1]
            assert script == likely_script(tag) or (script, likely_script(tag)) == ("Hang", "Kore")


def test_language_tags():
    assert {language_key(tag) for tag in ("ur", "urd", "ur_PK", "urd_Arab", "UR")} == {"ur-Arab"}
    assert language_key("tl") == language_key("fil-PH") == "fil-Latn"
    assert language_key("zh-TW") == "zh-Hant" != language_key("zh")
    assert [model_code(tag, "nllb") for tag in ("zh-HK", "sr@latin", "Urdu", "ko", "kor_Hang", "uz-Cyrl")] == [
        "zho_Hant",
        None,
        None,
        "kor_Hang",
        "kor_Hang",
        None,
    ]
    assert model_code("he", "madlad") == model_code("iw", "madlad") == "iw"
    assert is_english("en_US.UTF-8")
    assert not is_english("enm")
    with pytest.raises(ValueError, match="family is 'mbart'"):
        model_code("ur", "mbart")
