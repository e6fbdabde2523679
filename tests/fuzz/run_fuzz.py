"""The parsers of catalogues, data sets, replies and store imports under coverage-guided fuzzing, with atheris.

pip install atheris; python tests/fuzz/run_fuzz.py [parsers ...] [--seconds 60] [--keep runs/fuzz]

Prints how often each parser ran and what it raised besides the house's own errors. An input that did is kept, and so
are those that reached new code: the next run begins with them.
"""

import argparse
import importlib.util
import io
import json
import multiprocessing
import os
import re
import struct
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path


# A parser: what it does with bytes, and inputs to begin with.
Parser = tuple[Callable[[bytes], object], list[bytes]]
_LIMIT = 20  # seconds for one input; what takes longer hangs
_EXECUTIONS = re.compile(r"stat::number_of_executed_units:\s*(\d+)")

PO = """\
msgid ""
msgstr "Content-Type: text/plain; charset=UTF-8\\nPlural-Forms: nplurals=2; plural=n != 1;\\n"

#, fuzzy
msgctxt "a"
msgid "one file"
msgid_plural "many _files"
msgstr[0] "một tệp"
msgstr[1] "nhiều %s tệp"
"""
FTL = """\
-brand = Fire{ "fox" }
a = { $n ->
    [one] one
   *[other] { -brand } many
 }
    .title = x
"""
TMX = """\
<tmx version="1.4"><header/><body>
<tu><tuv xml:lang="en"><seg>a <ph>%s</ph></seg></tuv><tuv lang="ur"><seg>&#x6cc; <hi>b</hi></seg></tuv></tu>
</body></tmx>
"""
MESSAGES = '{"@metadata": {}, "a": "[[b|c]] {{PLURAL:$1|d|e}}",\n"f": {"message": "กข"}, "g": [1, null]}'
CORPUS = '{"_id": "d", "title": "t", "text": "x", "language": "en"}\n'
CHAT = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "language": "ur"}\n'
REPLY = '{"scores": [{"candidate": 1, "s": 8, "e": "7/10", "p": 9.5}, {"candidate": "2", "s": "3", "e": 4, "p": 5}]}'
TRANSLATIONS = '<think>x</think> {"translations": ["a", {"text": "b"}]}\n1. c\n'
ROW = {"language": "ur", "text": "x", "translator": "t", "fingerprint": "f", "rank": 0, "candidate": "c", "kind": "k"}
GRADE = {"critic": "c", "fingerprint": "f", "semantic": 1, "emotional": 2.5, "pragmatic": 10, "meta": '{"a": 1}'}


def _mo() -> bytes:
    pairs = [(b"", b"Content-Type: text/plain; charset=UTF-8\nPlural-Forms: nplurals=1; plural=0;\n")]
    pairs.append((b"file\0files", "tệp".encode()))
    strings, tables = b"", [b"", b""]
    for side in (0, 1):
        for pair in pairs:
            tables[side] += struct.pack("<2I", len(pair[side]), 28 + 16 * len(pairs) + len(strings))
            strings += pair[side] + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0)
    return head + tables[0] + tables[1] + strings


def _archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("localization/en-US/x.ftl", FTL)
        archive.writestr("localization/th/x.ftl", FTL.replace("many", "ก"))
    return buffer.getvalue()


def _parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{**ROW, "sentence1": "a", "sentence2": "b", "score": 0.5}]), buffer)
    return buffer.getvalue()


def parsers(folder: Path) -> dict[str, Parser]:
    """All of them; what they read lies in the folder."""
    from lira_hf.data import read_fluent, read_gettext, read_json_messages
    from lira_hf.data.languages import normalize_language
    from lira_hf.data.problems import DataError
    from lira_hf.data.validation import validate_path
    from lira_hf.translation.chat import Reply
    from lira_hf.translation.chat_translator import parse_translations
    from lira_hf.translation.columns import ColumnTranslator
    from lira_hf.translation.judge import parse_scores
    from lira_hf.translation.store_import import check_import

    def put(name: str, content: bytes) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def valid(name: str) -> Callable[[bytes], object]:
        def run(content: bytes) -> None:
            for problem in validate_path(put(name, content)):
                str(problem).encode()

        return run

    def read(reader: Callable[..., object], place: str, *names: str) -> Callable[[bytes], object]:
        def run(content: bytes) -> None:
            for name in names:
                put(name, content)
            try:
                reader(folder / place)
            except DataError as error:
                str(error).encode()

        return run

    def beir(content: bytes) -> None:
        corpus, _, rest = content.partition(b"\0")
        queries, _, qrels = rest.partition(b"\0")
        for name, part in (("corpus.jsonl", corpus), ("queries.jsonl", queries), ("qrels/test.tsv", qrels)):
            put(f"beir/{name}", part)
        for problem in validate_path(folder / "beir"):
            str(problem).encode()

    def columns(content: bytes) -> None:
        for name in ("columns.jsonl", "columns.csv"):
            try:
                ColumnTranslator(put(name, content))
            except ValueError as error:
                if "expected" not in str(error):
                    raise

    def imports(name: str) -> Callable[[bytes], object]:
        return lambda content: [str(problem).encode() for problem in check_import(put(name, content))[1]]

    def judge(content: bytes) -> None:
        reply = Reply(content.decode("utf-8", "replace"))
        for expected in (1, 2, 64):
            scores = parse_scores(reply, expected)
            if any(not 1 <= grade <= 10 for score in scores if score for grade in score):
                raise AssertionError(scores)

    def tag(content: bytes) -> None:
        try:
            normalize_language(content.decode("utf-8", "replace"))
        except ValueError as error:
            if "expected" not in str(error):
                raise

    relevance = b"query-id\tcorpus-id\tscore\nq\td\t1\n"
    query = b'{"_id": "q", "text": "y"}\n'
    row = json.dumps({**ROW, "score": 0.5, "scores": [GRADE]}).encode() + b"\n"
    english = [PO.encode(), b"# charset=utf-16\n"]
    return {
        "po": (read(read_gettext, "vi.po", "vi.po"), english),
        "mo": (read(read_gettext, "vi.mo", "vi.mo"), [_mo()]),
        "fluent": (read(read_fluent, "ftl", "ftl/en/x.ftl", "ftl/th/x.ftl"), [FTL.encode()]),
        "fluent-archive": (read(read_fluent, "a.xpi", "a.xpi"), [_archive()]),
        "json-messages": (read(read_json_messages, "i18n", "i18n/en.json", "i18n/th.json"), [MESSAGES.encode()]),
        "parallel-tsv": (valid("p.tsv"), ["language\ttext\tenglish\torigin\nur\tآ\tb\tc\n".encode()]),
        "parallel-tmx": (valid("p.tmx"), [TMX.encode(), TMX.encode("utf-16")]),
        "beir": (beir, [CORPUS.encode() + b"\0" + query + b"\0" + relevance]),
        "chat-jsonl": (valid("c.jsonl"), [CHAT.encode(), b'{"prompt": "a", "completion": "b"}\n']),
        "scored-pairs-csv": (valid("s.csv"), [b'sentence1,sentence2,score\n"a,""b",c,1.5\n']),
        "scored-pairs-parquet": (valid("s.parquet"), [_parquet()]),
        "columns": (
            columns,
            [b'{"text": "a", "translation": "b", "language": "ur"}\n', b"text,translation,language\n"],
        ),
        "store-import-jsonl": (imports("i.jsonl"), [row]),
        "store-import-parquet": (imports("i.parquet"), [_parquet()]),
        "judge-reply": (judge, [REPLY.encode(), b"s: 8, e: 7/10, p: nine"]),
        "translator-reply": (
            lambda content: parse_translations(Reply(content.decode("utf-8", "replace"))),
            [TRANSLATIONS.encode()],
        ),
        "language-tag": (tag, [b"sr_RS@latin", b"pt-BR", b"zh-Hant-TW"]),
    }


def _child(name: str, seconds: int, keep: Path, log: Path) -> None:
    """Fuzzes one parser; atheris ends the process. Each kind of crash is kept once, and the run goes on."""
    import atheris

    corpus, crashes = keep / name / "corpus", keep / name / "crashes"
    seen = set()
    with log.open("wb") as told, tempfile.TemporaryDirectory() as folder:
        os.dup2(told.fileno(), 1)
        os.dup2(told.fileno(), 2)
        run, seeds = parsers(Path(folder))[name]
        for number, seed in enumerate(seeds):
            (corpus / f"seed-{number}").write_bytes(seed)

        def one(content: bytes) -> None:
            try:
                run(content)
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                kind = f"{type(error).__name__}-{Path(where.filename).stem}-{where.lineno}"
                if kind not in seen:
                    seen.add(kind)
                    (crashes / kind).write_bytes(content)

        options = [f"-max_total_time={seconds}", f"-timeout={_LIMIT}", "-max_len=65536", "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={crashes}/", str(corpus)], one)
        atheris.Fuzz()


def fuzz(name: str, seconds: int, keep: Path) -> tuple[int, list[str]]:
    """How often a parser ran in that time, and the files of what it crashed on."""
    for place in ("corpus", "crashes"):
        (keep / name / place).mkdir(parents=True, exist_ok=True)
    for old in (keep / name / "crashes").glob("*"):
        old.unlink()
    log = keep / name / "log.txt"
    # Forked, so that transformers is imported once, not once a parser.
    process = multiprocessing.get_context("fork").Process(target=_child, args=(name, seconds, keep, log))
    process.start()
    process.join()
    found = _EXECUTIONS.search(log.read_text(encoding="utf-8", errors="replace"))
    crashes = sorted(path.name for path in (keep / name / "crashes").glob("*"))
    if found is None and not crashes:
        crashes = [f"exit code {process.exitcode}, see {log}"]
    return int(found[1]) if found else 0, crashes


def main() -> int:
    """Fuzzes the parsers named on the command line; 1 where one crashes or hangs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parsers", nargs="*", help="parsers; all by default")
    parser.add_argument("--seconds", type=int, default=60, help="seconds for a parser")
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="where inputs and crashes are kept")
    options = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        parser.error("got no atheris; expected it installed beside lira-hf; pip install atheris")
    import atheris

    with atheris.instrument_imports(include=["lira_hf.data", "lira_hf.translation"]):
        with tempfile.TemporaryDirectory() as folder:
            known = list(parsers(Path(folder)))
    if unknown := sorted(set(options.parsers) - set(known)):
        parser.error(f"got the parsers {unknown}; expected some of {known}")
    failed = 0
    for name in options.parsers or known:
        start = time.monotonic()
        executions, crashes = fuzz(name, options.seconds, options.keep)
        failed += len(crashes)
        told = f"{name:22} {time.monotonic() - start:6.0f} s  {executions:10,} executions  {len(crashes)} crashes"
        sys.stdout.write(" ".join([told, *crashes]) + "\n")
        sys.stdout.flush()
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
