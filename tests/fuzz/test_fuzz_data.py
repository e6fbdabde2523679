"""Any bytes and any rows through the readers and writers of `data`: an answer or the house's own error, no other."""

import io
import math
import shutil
import struct
import tempfile
import time
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import json_lines, long_lines, mutated, numbers, sentences, tables, texts, tries

from lira_hf.data import (
    DataError,
    DataProblem,
    ParallelPair,
    Query,
    SimilarityPair,
    normalize_language,
    read_beir,
    read_chat,
    read_fluent,
    read_gettext,
    read_json_messages,
    read_sts,
    read_tmx,
    read_tsv,
    tidy_text,
    validate_path,
    write_beir,
    write_sts,
    write_tsv,
)
from lira_hf.inference.rows import check_rows


PO = """\
msgid ""
msgstr ""
"Content-Type: text/plain; charset=UTF-8\\n"
"Plural-Forms: nplurals=2; plural=n != 1;\\n"

#, fuzzy
msgctxt "a"
msgid "one file"
msgid_plural "many _files"
msgstr[0] "một tệp"
msgstr[1] "nhiều %s tệp"
""".encode()
TMX = """\
<tmx version="1.4"><header/><body>
<tu><tuv xml:lang="en"><seg>a <ph>%s</ph></seg></tuv><tuv lang="ur"><seg>&#x6cc; <hi>b</hi></seg></tuv></tu>
</body></tmx>
"""
FTL = """\
a = { $n ->
    [one] one
   *[other] { -t } many
 }
    .title = "x"
-t = { "Fire" }fox
# c
b = ก
""".encode()
JSON = '{"@metadata": {}, "a": "[[b|c]] {{PLURAL:$1|d|e}}",\n"f": {"message": "กข"}, "g": [1, null]}'.encode()
TAGS = st.sampled_from(["ur", "vi", "pt-BR", "sr-Latn", "tl", "", None, "klingon", "\ud800", 5])
RELEVANCE = st.one_of(st.integers(0, 3), numbers())


@pytest.fixture(scope="module")
def folder():
    place = Path(tempfile.mkdtemp(prefix="lira-fuzz-"))
    yield place
    shutil.rmtree(place)


def mo_file(count: int = 3) -> bytes:
    """A .mo file: its header's entry and some messages."""
    pairs = [(b"", b"Content-Type: text/plain; charset=UTF-8\nPlural-Forms: nplurals=1; plural=0;\n")]
    pairs += [(b"file %d\0files" % number, "tệp".encode()) for number in range(count)]
    start = 28 + 16 * len(pairs)
    strings, table = b"", [b"", b""]
    for side in (0, 1):
        for pair in pairs:
            table[side] += struct.pack("<2I", len(pair[side]), start + len(strings))
            strings += pair[side] + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0)
    return head + table[0] + table[1] + strings


def memory(text: str, english: str, tag: object) -> str:
    units = f"<tuv xml:lang={quoteattr(str(tag))}><seg>{escape(text)}</seg></tuv>"
    return f"<tmx><body><tu><tuv lang='en'><seg>{escape(english)}</seg></tuv>{units}</tu></body></tmx>"


def put(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return path


def told(problems) -> None:
    """Problems can be shown, and say where, what, and what to do."""
    for problem in problems:
        assert isinstance(problem, DataProblem)
        assert problem.file
        assert problem.got
        assert problem.expected
        assert problem.fix
        str(problem).encode()


def read_or_told(read, *arguments, **options):
    """What a reader gives; its problems if it refuses the file; both ways agree."""
    try:
        rows = read(*arguments, **options)
    except DataError as error:
        told(error.problems)
        str(error).encode()
        return None
    assert read(*arguments, **options, on_error="skip") == rows
    return rows


@tries(25)
@given(
    st.one_of(
        mutated(PO),
        texts().map(lambda text: PO + f'\nmsgid "{text}"\nmsgstr "b{text}"'.encode("utf-8", "surrogatepass")),
    )
)
def test_po(folder, content):
    for pair in read_or_told(read_gettext, put(folder / "po" / "vi.po", content)) or ():
        for side in (pair.text, pair.english):
            assert side == tidy_text(side)
            side.encode()


@tries(25)
@given(mutated(mo_file()))
def test_mo(folder, content):
    read_or_told(read_gettext, put(folder / "mo" / "vi.mo", content))


@tries(20)
@given(mutated(FTL), mutated(FTL))
def test_fluent(folder, english, thai):
    put(folder / "ftl" / "en" / "x.ftl", english)
    put(folder / "ftl" / "th" / "x.ftl", thai)
    for pair in read_or_told(read_fluent, folder / "ftl") or ():
        assert pair.text.encode()
        assert pair.english.encode()


@tries(20)
@given(mutated(JSON), mutated(JSON))
def test_json_messages(folder, english, thai):
    put(folder / "json" / "en.json", english)
    put(folder / "json" / "th.json", thai)
    for pair in read_or_told(read_json_messages, folder / "json") or ():
        assert pair.text.encode()
        assert pair.english.encode()


@tries(25)
@given(
    json_lines({"_id": st.sampled_from(["1", "2", 3]), "title": texts(), "text": texts(), "language": TAGS}),
    json_lines(
        {"_id": st.sampled_from(["q", "r"]), "text": texts(), "metadata": st.fixed_dictionaries({"language": TAGS})}
    ),
    tables(["query-id", "corpus-id", "score"], "\t"),
)
def test_beir(folder, corpus, queries, qrels):
    put(folder / "beir" / "corpus.jsonl", corpus)
    put(folder / "beir" / "queries.jsonl", queries)
    put(folder / "beir" / "qrels" / "test.tsv", qrels)
    data = read_or_told(read_beir, folder / "beir")
    told(validate_path(folder / "beir"))
    if data is not None:
        assert data.queries.keys() == data.qrels.keys()
        assert all(isinstance(score, int) for judged in data.qrels.values() for score in judged.values())


@tries(25)
@given(
    st.dictionaries(st.one_of(st.sampled_from("ab"), texts()), texts(), max_size=3),
    st.dictionaries(st.one_of(st.sampled_from("qr"), texts()), texts(), max_size=3),
    TAGS,
    st.dictionaries(st.sampled_from("qr"), st.dictionaries(st.sampled_from("ab"), RELEVANCE, max_size=2), max_size=2),
)
def test_beir_comes_back(folder, corpus, queries, tag, qrels):
    shutil.rmtree(folder / "set", ignore_errors=True)
    asked = {key: Query(text, tag) for key, text in queries.items()}
    try:
        write_beir(folder / "set", corpus, asked, {"test": qrels})
    except DataError as error:
        told(error.problems)
        assert not (folder / "set").exists()
        return
    data = read_beir(folder / "set")
    assert data.corpus == {key: text.strip() for key, text in corpus.items()}
    assert data.qrels == {query: judged for query, judged in qrels.items() if judged}
    canonical = normalize_language(tag) if tag and queries else None
    assert data.queries == {key: Query(asked[key].text.strip(), canonical) for key in asked if key in data.qrels}


ROLES = st.sampled_from(["user", "assistant", "system", "human", 5, ["user"]])
TURNS = st.lists(st.fixed_dictionaries({"role": ROLES, "content": texts()}), max_size=3)


@tries(25)
@given(
    json_lines({"messages": TURNS, "language": TAGS})
    | json_lines({"prompt": texts() | TURNS, "completion": texts() | TURNS, "text": texts(), "reference": texts()})
)
def test_chat(folder, content):
    read_or_told(read_chat, put(folder / "chat.jsonl", content))
    told(validate_path(folder / "chat.jsonl"))


STS = ["sentence1", "sentence2", "score", "language", "id", "split"]


@tries(25)
@given(
    st.one_of(
        tables(STS, "\t").map(lambda content: (".tsv", content)),
        tables(STS, ",").map(lambda content: (".csv", content)),
        json_lines({"sentence1": texts(), "sentence2": texts(), "score": numbers(), "language": TAGS}).map(
            lambda content: (".jsonl", content)
        ),
    )
)
def test_sts(folder, file):
    path = put(folder / f"sts{file[0]}", file[1])
    for pair in read_or_told(read_sts, path) or ():
        assert math.isfinite(pair.score)
        assert pair.text1.strip()
    told(validate_path(path))


def parquet(columns) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


PARQUET = parquet({"sentence1": ["ঢাকা"], "sentence2": ["b"], "score": [1.0], "id": ["7"], "text": ["x"]})


@tries(25)
@given(mutated(PARQUET))
def test_parquet(folder, content):
    path = put(folder / "sts.parquet", content)
    read_or_told(read_sts, path)
    told(validate_path(path))
    rows_or_told(path)


@tries(40)
@given(st.sampled_from([".tsv", ".csv", ".jsonl", ".parquet"]), texts(), texts(), numbers(), TAGS, st.none() | texts())
def test_sts_comes_back(folder, suffix, text1, text2, score, tag, group):
    pairs = [SimilarityPair(text1, text2, score, tag, None, group), SimilarityPair("a", "b", 1.0, None, "ur", "g")]
    path = folder / f"written{suffix}"
    path.unlink(missing_ok=True)
    try:
        write_sts(path, pairs)
    except DataError as error:
        told(error.problems)
        assert not path.exists()
        return
    read = read_sts(path)
    assert [(pair.text1, pair.text2, pair.score) for pair in read] == [(p.text1, p.text2, p.score) for p in pairs]
    assert read[0].language1 == (normalize_language(tag) if tag else None)
    assert (read[0].group or "").strip() == (group or "").strip()


@tries(25)
@given(tables(["language", "text", "english", "origin"], "\t"))
def test_tsv(folder, content):
    for pair in read_or_told(read_tsv, put(folder / "pairs.tsv", content)) or ():
        assert pair.text.strip()
        assert pair.english.strip()
    told(validate_path(folder / "pairs.tsv"))


@tries(25)
@given(
    st.one_of(
        mutated(TMX.encode()),
        mutated(TMX.encode("utf-16")),
        st.tuples(texts(), texts(), TAGS).map(lambda row: memory(*row)),
    )
)
def test_tmx(folder, content):
    for pair in read_or_told(read_tmx, put(folder / "memory.tmx", content)) or ():
        for side in (pair.text, pair.english):
            assert side == tidy_text(side)
            side.encode()
    told(validate_path(folder / "memory.tmx"))


@tries(25)
@given(TAGS.filter(lambda tag: isinstance(tag, str)), texts(), texts(), texts())
def test_tsv_comes_back(folder, tag, text, english, origin):
    path = folder / "written-pairs.tsv"
    path.unlink(missing_ok=True)
    try:
        write_tsv(path, [ParallelPair(tag, text, english, origin)])
    except DataError as error:
        told(error.problems)
        assert not path.exists()
        return
    assert read_tsv(path) == [ParallelPair(normalize_language(tag), text, english, origin, 2)]


def rows_or_told(path: Path) -> None:
    try:
        assert check_rows(path, default_language="ur") > 0
    except DataError as error:
        told(error.problems)
    except ValueError as error:
        assert "without any text" in str(error)  # noqa: PT017


@tries(25)
@given(
    st.one_of(
        tables(["id", "text", "title", "language"], "\t").map(lambda content: (".tsv", content)),
        tables(["id", "text", "title", "language"], ",").map(lambda content: (".csv", content)),
        json_lines(
            {"id": texts() | numbers(), "text": texts(), "language": TAGS, "candidates": st.lists(texts())}
        ).map(lambda content: (".jsonl", content)),
        texts().map(lambda text: (".txt", text.encode("utf-8", "surrogatepass"))),
    )
)
def test_rows_to_embed(folder, file):
    rows_or_told(put(folder / f"rows{file[0]}", file[1]))


@tries(60)
@given(st.one_of(texts(), sentences(), st.text("abcdefgh-_@.019", max_size=12)))
def test_language_tags(tag):
    try:
        found = normalize_language(tag)
    except ValueError as error:
        assert "expected a tag that CLDR knows" in str(error)  # noqa: PT017
        str(error).encode()
        return
    assert normalize_language(found) == found


@tries(60)
@given(texts())
def test_tidy_text(text):
    tidy = tidy_text(text)
    assert tidy_text(tidy) == tidy
    assert "  " not in tidy
    assert "".join(tidy.split()) == "".join(tidy_text(" ".join(text)).split()) or not text.isascii()


@tries(4)
@given(long_lines())
def test_a_long_line(folder, line):
    """Every reader is through with a megabyte in seconds; a hang would take hours."""
    raw = line.replace("\\", "").replace('"', "").replace("\n", "").encode("utf-8", "surrogatepass")
    start = time.process_time()
    read_or_told(read_gettext, put(folder / "mb" / "vi.po", b'msgid "a ' + raw + b'"\nmsgstr "b ' + raw + b'"\n'))
    put(folder / "mb-json" / "en.json", b'{"a": "a ' + raw + b'"}')
    put(folder / "mb-json" / "th.json", b'{"a": "b ' + raw + b'"}')
    read_or_told(read_json_messages, folder / "mb-json")
    put(folder / "mb-ftl" / "en" / "x.ftl", b"a = a " + raw)
    put(folder / "mb-ftl" / "th" / "x.ftl", b"a = b " + raw)
    read_or_told(read_fluent, folder / "mb-ftl")
    read_or_told(
        read_tsv, put(folder / "mb.tsv", b"language\ttext\tenglish\nur\t" + raw + b"\tb\n" + raw + b"\ta\tb\n")
    )
    for suffix in ("csv", "jsonl", "po"):
        told(validate_path(put(folder / f"mb.{suffix}", raw)))
    tidy_text(line)
    assert time.process_time() - start < 60
