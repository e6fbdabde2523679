"""The candidate store gives back what was put in, and any import, reply or column is read or refused by its own
error."""

import json
import math
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import json_lines, long_lines, mutated, numbers, texts, tries, values, whole_texts

from lira_hf.translation import (
    Candidate,
    CandidateStore,
    ColumnTranslator,
    Identity,
    Score,
    StoreError,
    clean_text,
    export_store,
    import_store,
)
from lira_hf.translation.chat import Reply
from lira_hf.translation.chat_replies import json_values
from lira_hf.translation.chat_translator import parse_translations
from lira_hf.translation.judge import parse_scores
from lira_hf.translation.store_check import check_store
from lira_hf.translation.store_import import check_import


WHO, JUDGE = Identity("made up", "1"), Identity("judge", "1")
GRADE = st.floats(1, 10)
SCORES = st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**30), 10**30)
CANDIDATES = st.lists(st.tuples(texts(), SCORES), max_size=64)
NAMES = st.one_of(st.sampled_from(["memory", "gloss"]), texts())


@pytest.fixture(scope="module")
def folder():
    place = Path(tempfile.mkdtemp(prefix="lira-fuzz-"))
    yield place
    shutil.rmtree(place)


def fresh(folder: Path, name: str = "store.sqlite") -> CandidateStore:
    for file in folder.glob(f"{name}*"):
        file.unlink()
    return CandidateStore(folder / name)


def held(store: CandidateStore, text: str) -> list[tuple]:
    return [(c.text, c.kind, c.translator, c.score, c.scores) for c in store.get("ur", [text], critic=JUDGE)[0]]


@tries(30)
@given(st.dictionaries(texts(), CANDIDATES, max_size=4), GRADE, st.sampled_from([".jsonl", ".parquet"]))
def test_what_was_put_in_comes_out(folder, answers, grade, suffix):
    # Half characters become U+FFFD, by which a text is found under either spelling: of such twins the last counts.
    kept = {clean_text(text): row for text, row in answers.items()}
    rows = [(text, [Candidate(each, "memory", "t", score) for each, score in row]) for text, row in answers.items()]
    with fresh(folder) as store, fresh(folder, "other.sqlite") as other:
        store.add("ur", rows, WHO)
        judged = [(text, row[0][0], Score(grade, 1, 10)) for text, row in kept.items() if row]
        store.add_scores("ur", judged, JUDGE)
        for text in answers:
            wanted, row = {}, kept[clean_text(text)]
            for each, score in row:
                wanted.setdefault(clean_text(each), None if score is None else float(score))
            assert [(c.text, c.score) for c in store.get("ur", [text])[0]] == list(wanted.items())
            assert not row or store.get("ur", [text], critic=JUDGE)[0][0].scores == (grade, 1, 10)
        assert store.missing("ur", answers, WHO) == []
        path = folder / f"export{suffix}"
        count = export_store(store, path)
        counts, problems = check_import(path)
        assert (sum(counts.values()), problems) == (count, [])
        import_store(other, path)
        assert [held(other, text) for text in answers] == [held(store, text) for text in answers]
        assert len(other) == len(store) == len(kept)
    assert check_store(folder / "other.sqlite").problems == []


@tries(40)
@given(
    NAMES, NAMES, NAMES, st.one_of(texts(), st.integers()), numbers(), st.dictionaries(texts(), values(), max_size=2)
)
def test_rows_are_kept_whole_or_refused(folder, language, kind, maker, text, score, meta):
    with fresh(folder) as store:
        try:
            store.add(language, [("x", [Candidate(text, kind, maker, score)])], WHO, meta=meta)
        except (ValueError, TypeError) as error:
            assert "expected" in str(error)  # noqa: PT017
            assert len(store) == 0
            return
        (found,) = store.get(language, ["x"])[0]
        assert (found.text, found.kind, found.translator) == (clean_text(text), kind, maker)
        assert found.score is None if score is None else found.score == score
        export_store(store, folder / "export.jsonl")
        with fresh(folder, "other.sqlite") as other:
            import_store(other, folder / "export.jsonl")
            assert other.get(language, ["x"]) == store.get(language, ["x"])
            assert other.provenance() == store.provenance()


GRADES = st.fixed_dictionaries(
    {"critic": NAMES, "fingerprint": NAMES, "semantic": numbers(), "emotional": GRADE, "pragmatic": GRADE},
    optional={"meta": texts() | st.sampled_from(['{"a": 1}', "[" * 5000]), "created": numbers()},
)
FIELDS = {
    "language": st.sampled_from(["ur", "vi"]) | texts(),
    "text": texts(),
    "translator": NAMES,
    "fingerprint": NAMES,
    "meta": texts() | st.sampled_from(['{"a": 1}', '{"a": "\ud800"}', "[" * 5000]),
    "created": numbers(),
    "rank": st.integers(0, 3) | numbers(),
    "candidate": texts(),
    "kind": NAMES,
    "maker": NAMES,
    "score": numbers(),
    "scores": st.lists(GRADES, max_size=2),
}


def imported(folder: Path, path: Path) -> None:
    """Strict: all rows or none; else what is right."""
    counts, problems = check_import(path)
    for problem in problems:
        str(problem).encode()
    with fresh(folder) as store:
        if problems:
            with pytest.raises(StoreError):
                import_store(store, path)
            assert len(store) == 0
        try:
            report = import_store(store, path, on_error="skip")
        except StoreError:  # a file that can't be read at all
            return
        assert report.rows == sum(counts.values())
        assert report.skipped == len(problems)
    assert check_store(folder / "store.sqlite").problems == []


@tries(40)
@given(json_lines(FIELDS))
def test_imports_of_any_rows(folder, content):
    (folder / "rows.jsonl").write_bytes(content)
    imported(folder, folder / "rows.jsonl")


def exported(folder: Path, suffix: str) -> bytes:
    with fresh(folder, "seed.sqlite") as store:
        store.add("ur", [("ঢাকা", [Candidate("Dhaka", "memory", "t", 0.5), Candidate("x", "gloss", "t")])], WHO)
        store.add_scores("ur", [("ঢাকা", "Dhaka", Score(9, 8, 7))], JUDGE)
        export_store(store, folder / f"seed{suffix}")
    return (folder / f"seed{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_imports_of_damaged_exports(folder, suffix):
    @tries(30)
    @given(mutated(exported(folder, suffix)))
    def check(content):
        (folder / f"damaged{suffix}").write_bytes(content)
        imported(folder, folder / f"damaged{suffix}")

    check()


REPLY = '{"scores": [{"candidate": 1, "s": 8, "e": "7/10", "p": 9.5}, {"candidate": 2, "s": 3, "e": 4, "p": 5}]}'


@tries(150)
@given(
    st.one_of(
        mutated(REPLY.encode()).map(lambda content: content.decode("utf-8", "replace")),
        values().map(lambda value: json.dumps(value, default=str)),
        texts(),
        st.text("{}[]\"':,s e p123candidate/%\n-", max_size=60),
    ),
    st.integers(0, 64),
)
def test_judge_replies(text, expected):
    counts = Counter()
    scores = parse_scores(Reply(text), expected, counts)
    assert len(scores) == expected
    assert all(score is None or all(1 <= grade <= 10 for grade in score) for score in scores)
    assert all(number >= 0 for number in counts.values())
    found = parse_translations(Reply(text))
    assert found is None or all(isinstance(each, str) and each.strip() for each in found)
    assert all(isinstance(value, dict | list) for value in json_values(text))


@tries(60)
@given(st.lists(st.tuples(numbers(), numbers(), numbers()), min_size=1, max_size=64))
def test_judge_numbers_out_of_range_are_clamped_or_none(rows):
    entries = [
        dict(zip(("candidate", "s", "e", "p"), (number, *row), strict=True))
        for number, row in enumerate(rows, start=1)
    ]
    scores = parse_scores(Reply(json.dumps({"scores": entries})), len(rows))
    for row, score in zip(rows, scores, strict=True):
        plain = [value for value in row if isinstance(value, int | float) and not isinstance(value, bool)]
        if len(plain) == 3 and all(isinstance(value, int) or math.isfinite(value) for value in plain):
            assert score == tuple(min(max(value, 1), 10) for value in plain)


@tries(40)
@given(json_lines({"text": texts(), "translation": texts() | st.lists(texts()), "language": texts(), "s": numbers()}))
def test_columns(folder, content):
    (folder / "columns.jsonl").write_bytes(content)
    try:
        ColumnTranslator(folder / "columns.jsonl", score_columns="s")
    except ValueError as error:
        assert "expected" in str(error)  # noqa: PT017


@tries(10)
@given(long_lines(), whole_texts())
def test_a_long_reply(line, text):
    start = time.process_time()
    quoted = line.replace("\\", "").replace('"', "")
    for reply in (line, '{"s": "' + quoted[:60_000] + '", "e": 1, "p": 1}', '{"' + quoted[:60_000] + '": {"s": 1}}'):
        parse_scores(Reply(text + reply), 1)
        parse_translations(Reply(text + reply))
    assert time.process_time() - start < 30
