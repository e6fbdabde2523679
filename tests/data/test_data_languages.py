import pytest

from lira_hf.data import language_name, likely_script, normalize_language


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("tl", "fil"),
        ("tgl", "fil"),
        ("in", "id"),
        ("iw", "he"),
        ("pt_BR", "pt-BR"),
        ("PT-br", "pt-BR"),
        ("vi_VN.UTF-8", "vi-VN"),
        ("urd_Arab", "ur-Arab"),
        ("zh-hant-tw", "zh-Hant-TW"),
        ("es_419", "es-419"),
        ("sr@latin", "sr-Latn"),
        ("sh", "sr-Latn"),
        ("ca_ES@valencia", "ca-ES-valencia"),
        ("de@euro", "de"),
        ("ace", "ace"),  # known to CLDR, though Babel has no locale data of it
    ],
)
def test_canonical_tags(given, expected):
    assert normalize_language(given) == expected
    assert normalize_language(expected) == expected


@pytest.mark.parametrize(
    ("given", "close"),
    [
        ("urdu", "'ur' (Urdu)"),
        ("Vietnamse", "'vi'"),
        ("xx", "xh"),
        ("", "registry"),
        ("und", "close"),
        ("ur-Qqqq", "'ur'"),
    ],
)
def test_unknown_tag_says_got_expected_fix(given, close):
    with pytest.raises(ValueError, match=f"got the unknown language tag '{given}'; expected .*; ") as caught:
        normalize_language(given)
    assert close in str(caught.value)


def test_no_string_is_a_type_error():
    with pytest.raises(TypeError, match="NoneType"):
        normalize_language(None)


def test_names_and_scripts():
    assert language_name("ur") == "Urdu"
    assert language_name("tl") == "Filipino"
    assert language_name("zh_Hant_TW") == "Chinese (Traditional, Taiwan)"
    scripts = {
        "ur": "Arab",
        "bn": "Beng",
        "th": "Thai",
        "fil": "Latn",
        "zh-TW": "Hant",
        "zh": "Hans",
        "uz-Cyrl": "Cyrl",
    }
    assert {tag: likely_script(tag) for tag in scripts} == scripts
