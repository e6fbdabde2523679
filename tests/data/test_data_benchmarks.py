"""MGSM's and X-CSQA's files, and what is wrong with broken ones."""

import json
from decimal import Decimal

import pytest

from lira_hf.data import ChoiceQuestion, DataError, MathProblem, read_mgsm, read_xcsqa


def problems(error):
    return [(problem.row, problem.field) for problem in error.value.problems]


def test_mgsm(tmp_path):
    lines = ['জ্যানেটের "হাঁস" 3টি ডিম পাড়ে।\t18', "কত?\t1,250", "", "'উষ্ণতা\t-3.5"]
    (tmp_path / "mgsm_bn.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "mgsm_en.tsv").write_bytes(b"\xef\xbb\xbfHow many eggs?\t18\r\nHow much?\t1250\r\n")
    (tmp_path / "notes.tsv").write_text("no problem")
    rows = read_mgsm(tmp_path)
    assert rows[0] == MathProblem("1", 'জ্যানেটের "হাঁস" 3টি ডিম পাড়ে।', Decimal(18), "bn", 1)
    assert [(row.id, row.answer, row.language) for row in rows[1:]] == [
        ("2", 1250, "bn"),
        ("4", Decimal("-3.5"), "bn"),
        ("1", 18, "en"),
        ("2", 1250, "en"),
    ]
    assert rows[3].question == "How many eggs?"
    assert {row.language for row in read_mgsm(tmp_path, languages=["eng"])} == {"en"}
    assert read_mgsm(tmp_path / "mgsm_en.tsv") == rows[3:]


def test_broken_mgsm(tmp_path):
    path = tmp_path / "mgsm_th.tsv"
    path.write_bytes("กี่ฟอง?\t18\nกี่ฟอง? 18\n\t5\nx\tfive\nx\t5\t6\nx\t$5\nx\t1,25\n".encode() + b"\xff\t1\n")
    with pytest.raises(
        DataError, match="row 2: got 1 cells in 'กี่ฟอง. 18'; expected 2: a question and a number"
    ) as error:
        read_mgsm(path)
    assert problems(error) == [
        (2, None), (3, "question"), (4, "answer"), (5, None), (6, "answer"), (7, "answer"), (8, None),
    ]  # fmt: skip
    assert [row.row for row in read_mgsm(path, on_error="skip")] == [1]
    with pytest.raises(FileNotFoundError, match="where there is no MGSM; expected a file mgsm_<language>.tsv"):
        read_mgsm(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"without \['bn'\].*there are \['th'\]"):
        read_mgsm(tmp_path, languages=["bn", "th"])
    with pytest.raises(ValueError, match="got 'x.tsv', which tells no language"):
        read_mgsm(path.rename(tmp_path / "x.tsv"))


def row(key="a1", lang="ur", stem="پرندے کہاں رہتے ہیں؟", answer="B", **more):
    choices = [{"label": label, "text": text} for label, text in zip("ABC", ("گھر", "گھونسلا", "سمندر"), strict=True)]
    return {"id": key, "lang": lang, "question": {"stem": stem, "choices": choices}, "answerKey": answer, **more}


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_xcsqa(tmp_path):
    write(tmp_path / "ur" / "dev.jsonl", [row(), row("b2", answer="A")])
    lists = {"label": ["A", "B"], "text": ["家", "巣"]}
    hub = {"id": "a1", "lang": "jap", "question": {"stem": "鳥は?", "choices": lists}, "answerKey": "B"}
    write(tmp_path / "jap" / "dev.jsonl", [hub])
    write(tmp_path / "en" / "train.jsonl", [row(lang="en")])
    rows = read_xcsqa(tmp_path)
    assert rows[0] == ChoiceQuestion("a1", "鳥は?", ("家", "巣"), ("A", "B"), 1, "ja", 1)
    assert [(one.id, one.language, one.answer) for one in rows[1:]] == [("a1", "ur", 1), ("b2", "ur", 0)]
    assert rows[1].choices == ("گھر", "گھونسلا", "سمندر")
    assert read_xcsqa(tmp_path, languages=["urd"]) == rows[1:]
    assert [one.language for one in read_xcsqa(tmp_path, "train")] == ["en"]
    assert read_xcsqa(tmp_path / "ur" / "dev.jsonl") == rows[1:]


def test_broken_xcsqa(tmp_path):
    path = tmp_path / "dev.jsonl"
    few = row("e")
    few["question"]["choices"] = few["question"]["choices"][:1]
    same = row("f")
    same["question"]["choices"][0]["label"] = "B"
    blank = row("g")
    blank["question"]["choices"][2]["text"] = " "
    hidden = row("h")
    del hidden["answerKey"]
    bad = [row(""), row("b", lang="nonsense"), row("c", stem=""), {"id": "d", "lang": "ur", "question": "x"}]
    bad += [few, same, blank, row("i", answer="D"), hidden, row("j", lang=None)]
    write(path, [row(), *bad, "{", "[]", row()])
    with pytest.raises(
        DataError, match=r"row 9, field `answerKey`: got 'D'; expected one of the labels .*such as dev"
    ) as error:
        read_xcsqa(path)
    fields = ["id", "lang", *["question.stem"] * 2, *["question.choices"] * 3, *["answerKey"] * 2, "lang", None, None]
    assert problems(error) == [*enumerate(fields, start=2), (14, "id")]
    assert [one.row for one in read_xcsqa(path, on_error="skip")] == [1]
    with pytest.raises(
        FileNotFoundError, match="where there is no X-CSQA; expected a .jsonl file, or a folder with <lan"
    ):
        read_xcsqa(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"without \['bn'\]; expected rows with that 'lang'"):
        read_xcsqa(path, languages=["bn"], on_error="skip")
