"""Conversations from the files that people have of them; reader and validator agree on every row."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from lira_hf.data import Conversation, DataError, read_chat
from lira_hf.data.chat import scan_chat
from lira_hf.data.validation import check_data, guess_kind


USER, ANSWER = {"role": "user", "content": "কত?"}, {"role": "assistant", "content": "Five."}


def lines(path, *records):
    path.write_text("\n".join(json.dumps(one) if one else "" for one in records) + "\n", encoding="utf-8")
    return path


def places(problems):
    return [(problem.row, problem.field) for problem in problems]


def test_messages_are_read_with_what_is_known_of_them(tmp_path):
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "sum"}]}
    path = lines(
        tmp_path / "chat.jsonl",
        {"messages": [USER, ANSWER], "language": "bn_BD", "reference": "How many?", "split": "train", "text": 7},
        None,
        {"messages": [USER, call, {"role": "tool", "content": "5"}, ANSWER], "reference": "", "split": "dev"},
    )
    first, second = read_chat(path)
    assert first == Conversation([USER, ANSWER], None, None, None, "bn-BD", "How many?", "train", 1)
    assert second.messages[1] == {"role": "assistant", "content": "", "tool_calls": [{"name": "sum"}]}
    assert (second.language, second.reference, second.split, second.row) == (None, None, "dev", 3)
    assert [item.row for item in read_chat(path, "dev")] == [3]
    with pytest.raises(
        ValueError, match=r"got split='test' and no such row in .*expected one of the splits \['dev', 't"
    ):
        read_chat(path, "test")
    with pytest.raises(FileNotFoundError):
        read_chat(tmp_path / "none.jsonl")


def test_prompts_and_completions_as_text_or_as_messages(tmp_path):
    path = lines(tmp_path / "a.jsonl", {"prompt": "Q: কত?\nA:", "completion": " Five.", "text": "কত?", "split": 1})
    assert read_chat(path) == [Conversation(None, "Q: কত?\nA:", " Five.", "কত?", None, None, "1", 1)]
    system = {"role": "system", "content": "s"}
    path = lines(tmp_path / "b.jsonl", {"prompt": [system, USER], "completion": [ANSWER], "text": ["not ours"]})
    assert read_chat(path) == [Conversation([system, USER, ANSWER], row=1)]


def test_tables_hold_conversations_too(tmp_path):
    table = tmp_path / "chat.csv"
    table.write_text('prompt,completion,language,split\n"a, b",c,,train\nd,e,ur,dev\n', encoding="utf-8")
    assert read_chat(table, "train") == [Conversation(None, "a, b", "c", split="train", row=2)]
    assert read_chat(table, "dev")[0].language == "ur"
    rows = [{"messages": [USER, ANSWER | {"name": "bot"}], "language": "bn"}, {"messages": [USER, ANSWER]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "chat.parquet")
    # What only another row has is no field of a turn: templates ask whether it is there.
    assert read_chat(tmp_path / "chat.parquet")[1] == Conversation([USER, ANSWER], row=2)
    assert [guess_kind(tmp_path / f"chat.{kind}") for kind in ("csv", "parquet")] == ["chat", "chat"]
    loose = tmp_path / "words.tsv"
    loose.write_text("messages\tپیغامات\tur\nfile\tفائل\tur\n", encoding="utf-8")
    assert guess_kind(loose) == "parallel"
    table.write_text("question,answer\na,b\nc,d\n", encoding="utf-8")
    assert places(scan_chat(table)[1]) == [(None, None)]  # said once, not for each row
    table.write_bytes(b"prompt,completion\na\xff,b\n")
    assert places(scan_chat(table)[1]) == [(2, "prompt")]


def test_bad_rows_are_named_and_the_others_read(tmp_path):
    system = {"role": "system", "content": "s"}
    path = lines(
        tmp_path / "bad.jsonl",
        {"messages": [USER, ANSWER]},
        {"messages": [system, ANSWER]},  # nothing is asked
        {"messages": [ANSWER, USER, ANSWER], "reference": 3, "language": "qq"},
        {"messages": [{"role": "user", "content": " ", "tool_calls": [{}]}, ANSWER]},  # the user says nothing
        {"question": "a", "answer": "b"},
        {"prompt": "p", "completion": "c", "text": " ", "reference": ["r"]},
        {"prompt": [system], "completion": [ANSWER]},
    )
    conversations, problems = scan_chat(path)
    assert [item.row for item in conversations] == [1]
    assert places(problems) == [
        (2, "messages"),
        (3, "language"),
        (3, "reference"),
        (4, "messages"),
        (5, None),
        (6, None),
        (6, "reference"),
        (6, "text"),
        (7, "prompt"),
        (7, None),
    ]
    assert str(problems[0]).endswith(
        "row 2, field `messages`: got the roles ['system', 'assistant']; expected a message of the user before the "
        "answer; to fix: add what is answered, or delete the row"
    )
    with pytest.raises(DataError, match="10 problems in the data"):
        read_chat(path)
    assert read_chat(path, on_error="skip") == conversations
    assert check_data(path, "chat").problems == problems  # one and the same pass
    assert check_data(path, "chat").counts == {"": 1}
