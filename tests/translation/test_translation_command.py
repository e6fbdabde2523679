"""Small Python programs as translators: what they get, what is made of it, and what goes wrong."""

import os
import sys
import time
from pathlib import Path

import pytest

from lira_hf.translation import Candidate, Translator, TranslatorUnion
from lira_hf.translation.command import CommandTranslator


UPPER = "import sys\nfor line in sys.stdin.buffer: sys.stdout.buffer.write(line.decode().upper().encode())"


def program(code: str, *arguments: str, **settings) -> CommandTranslator:
    return CommandTranslator([sys.executable, "-c", code, *arguments], name="made up", **settings)


def texts_of(answers) -> list[list[str]]:
    return [[candidate.text for candidate in row] for row in answers]


def test_one_line_each_way():
    one = program(UPPER)
    assert isinstance(one, Translator)
    texts = ["ab\ncd", "", "straße", "x\r\ny\u2028z\x85\x0c!", "  ", "ab cd", "\ud800q\0"]
    answers = one.translate(texts, "ur", 3)
    assert texts_of(answers) == [["AB CD"], [], ["STRASSE"], ["X Y Z !"], [], ["AB CD"], ["\ufffdQ"]]
    assert answers[0] == [Candidate("AB CD", "command", "made up", None)]
    assert one.translate([], "ur", 1) == []
    assert texts_of(TranslatorUnion([one, program("print('b')")]).translate(["a"], "ur", 2)) == [["A", "b"]]


def test_one_process_a_batch_and_none_for_nothing(tmp_path):
    log = tmp_path / "starts"
    code = f"import sys\nopen({str(log)!r}, 'a').write('x')\n" + UPPER
    answers = program(code, batch_size=2).translate([*"abcde", "a", ""], "ur", 1)
    assert texts_of(answers) == [["A"], ["B"], ["C"], ["D"], ["E"], ["A"], []]
    assert log.read_text() == "xxx"
    log.unlink()
    one = program(code)
    assert one.translate(["", " "], "ur", 1) == [[], []]
    assert one.translate(["a"], "und", 1) == [[]]
    assert one.translate([" a\nb ", ""], "en-GB", 2) == [[Candidate("a b", "identity", "made up")], []]
    assert not log.exists()


def test_the_languages_fill_the_command():
    code = "import sys\nfor line in sys.stdin: print(*sys.argv[1:])"
    arguments = ("{source}-{target}", "--to={target}")
    assert texts_of(program(code, *arguments).translate(["a"], "ur", 1)) == [["ur-en --to=en"]]
    one = program(code, *arguments, codes={"es": "spa", "tl": "tgl"}, target="eng")
    assert texts_of(one.translate(["a"], "es-MX", 1)) == [["spa-eng --to=eng"]]
    assert texts_of(one.translate(["a"], "fil", 1)) == [["tgl-eng --to=eng"]]
    assert one.translate(["a"], "ur", 1) == [[]]


def test_no_shell_and_no_option_comes_from_a_tag(tmp_path):
    code = "import sys\nfor line in sys.stdin: print(sys.argv[1])"
    assert texts_of(program(code, "$HOME; touch x | y").translate(["a"], "ur", 1)) == [["$HOME; touch x | y"]]
    for tag in ("-x", "ur en", "../ur", "ur;ls"):
        with pytest.raises(ValueError, match="the language code is .*; expected letters"):
            program(code, "{source}").translate(["a"], tag, 1)
    with pytest.raises(ValueError, match="the language code is '-o'"):
        program(code, codes={"ur": "-o"})
    with pytest.raises(TypeError, match="command is the string 'apertium spa-eng'"):
        CommandTranslator("apertium spa-eng")


@pytest.mark.parametrize(
    ("marks", "text", "answer", "expected"),
    [
        ("*", "a", "lives in *Lahore, (*Pakistan) **x", "lives in Lahore, (Pakistan) x"),
        ("*", "a", "2*3 and 2 * 3 and a*b *", "2*3 and 2 * 3 and a*b *"),
        ("*", "*Lahore ve", "*Lahore *ve", "*Lahore ve"),  # the text's own mark stays
        ("*@#", "#metoo", "#metoo @see #be", "#metoo see be"),
        ("", "a", "*Lahore", "*Lahore"),
        ("*", "a", "see #metoo @me", "see #metoo @me"),
    ],
)
def test_marks_of_unknown_words_go(marks, text, answer, expected):
    one = program(f"import sys\nfor line in sys.stdin: print({answer!r})", unknown_marks=marks)
    assert texts_of(one.translate([text], "ur", 1)) == [[expected]]


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (
            "import sys; sys.exit('no such pair')",
            RuntimeError,
            "ended with status 1 and said 'no such pair'; expected",
        ),
        ("print('a')", RuntimeError, "wrote 1 lines for 2 and said 'nothing'; expected one for each"),
        ("print('a\\nb\\nc')", RuntimeError, "wrote 3 lines for 2"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", RuntimeError, "ended with status -15"),
    ],
)
def test_failures_are_told(code, error, message):
    with pytest.raises(error, match=message):
        program(code).translate(["a", "b"], "ur", 1)


def test_a_program_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="can't start 'no-such-translator' .*; expected a program on the PATH"):
        CommandTranslator(["no-such-translator"]).translate(["a"], "ur", 1)
    (tmp_path / "text").write_text("not a program")
    with pytest.raises(FileNotFoundError, match="Permission denied"):
        CommandTranslator([str(tmp_path / "text")]).translate(["a"], "ur", 1)


def test_time_out_ends_a_whole_pipeline(tmp_path):
    """The grandchild holds the pipe open: killing the program alone would wait for it."""
    note = tmp_path / "pid"
    code = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\ntime.sleep(60)"
    )
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"ran for 1.5 s over 1 lines; expected an end before; raise timeout"):
        program(code, timeout=1.5).translate(["a"], "ur", 1)
    assert time.monotonic() - start < 10
    stat = Path(f"/proc/{note.read_text()}/stat")
    for _ in range(50):  # until init has taken it away, it may show as a zombie
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] in "ZX":
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"process {note.read_text()} still runs")


def test_more_than_a_pipe_holds():
    texts = [f"{'word ' * 40}{number}" for number in range(3000)]
    answers = program(UPPER, batch_size=3000).translate(texts, "ur", 1)
    assert texts_of(answers) == [[text.upper()] for text in texts]


def test_a_program_that_does_not_read(tmp_path):
    """Its closed input is no error as long as the count is right."""
    texts = ["x" * 1000 + str(number) for number in range(200)]
    code = "import os, sys\nos.close(0)\nfor _ in range(200): print('y')"
    assert texts_of(program(code).translate(texts, "ur", 1)) == [["y"]] * 200


def test_settings():
    with pytest.raises(ValueError, match="command is empty"):
        CommandTranslator([])
    with pytest.raises(ValueError, match="batch_size is 0 and timeout 600.0"):
        CommandTranslator(["x"], batch_size=0)
    one = CommandTranslator([f"{os.sep}usr{os.sep}bin{os.sep}apertium", "{source}"])
    assert one.name == "apertium"
    prints = [
        one.fingerprint,
        CommandTranslator(one.command, codes={"es": "spa"}).fingerprint,
        CommandTranslator(one.command, target="eng").fingerprint,
        CommandTranslator(one.command[:1]).fingerprint,
    ]
    assert len(set(prints)) == 4
    assert CommandTranslator(one.command, batch_size=3, timeout=1).fingerprint == one.fingerprint
