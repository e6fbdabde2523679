"""Candidates from any translation program that reads lines and writes lines, such as Apertium (ours)."""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from .base import Candidate, batches, check_request, check_texts, clean_text, stable_hash
from .language_codes import is_english, is_undetermined, language_key


__all__ = ["CommandTranslator"]

# Also what str.splitlines() takes for a line's end: the program may do so too.
_LINE_ENDS = re.compile(r"[\n\r\x00\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+")
_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_@.-]*")
_SHOWN_ERROR = 500


class CommandTranslator:
    """
    One English candidate a text from a program that gets one text a line and writes one translation a line.

    The program is started once a batch and without a shell. With Apertium take its format for lines, which keeps them
    apart: `CommandTranslator(["apertium", "-f", "line", "{source}-{target}"], codes={"es": "spa"}, target="eng")`.

    English texts are their own candidate (kind `"identity"`); empty texts, and texts of no known language (`"und"`),
    have none.

    Args:
        command (`Sequence[str]`): Program and arguments; `{source}` and `{target}` in them become language codes.
        codes (`Mapping[str, str]`, *optional*): Language tag to the program's code. Other languages give no
            candidates. Left out, any language is tried, under its own tag.
        target (`str`, *optional*, defaults to `"en"`): The program's code of English.
        batch_size (`int`, *optional*, defaults to 1000): Lines given to one run of the program.
        timeout (`float`, *optional*, defaults to 600.0): Seconds that one run may take.
        unknown_marks (`str`, *optional*, defaults to `"*"`): Characters that the program puts before a word that it
            doesn't know. They are removed, but for words that have them in the text itself. Apertium also has `@` and
            `#`, which are hashtags and names elsewhere.
        name (`str`, *optional*): Kept with each candidate; the program's name if left out.

    Raises:
        `TypeError`: one string for the command, which only a shell could take apart.
        `ValueError`: an empty command, a code that could be taken for an option, or a number out of range.
    """

    kind = "command"

    def __init__(
        self,
        command: Sequence[str],
        *,
        codes: Mapping[str, str] | None = None,
        target: str = "en",
        batch_size: int = 1000,
        timeout: float = 600.0,
        unknown_marks: str = "*",
        name: str | None = None,
    ):
        check_texts(command, "command")
        if not command or not command[0]:
            raise ValueError("command is empty; expected a program and its arguments; give ['program', ...]")
        if batch_size < 1 or not timeout > 0:
            raise ValueError(
                f"batch_size is {batch_size} and timeout {timeout}; expected at least 1 and more than 0; "
                "leave them out for the defaults"
            )
        for code in (*(codes or {}).values(), target):
            _check_code(code)
        self.command = list(command)
        self.target = target
        self.batch_size, self.timeout, self.unknown_marks = batch_size, timeout, unknown_marks
        self.name = name or Path(self.command[0]).name
        self._codes = None if codes is None else {language_key(tag): code for tag, code in codes.items()}
        self._mark = re.compile(rf"(?<!\w)[{re.escape(unknown_marks)}]+(?=\w)") if unknown_marks else None

    @property
    def fingerprint(self) -> str:
        """Hash of the command and the settings. The program's version isn't in it: put it into `name`."""
        return stable_hash(self.kind, self.command, self._codes, self.target, self.unknown_marks)

    def translate(self, texts: Sequence[str], language: str, num_candidates: int) -> list[list[Candidate]]:
        """
        See [`Translator.translate`]; line breaks within a text become spaces.

        Raises:
            `FileNotFoundError`: no such program.
            `TimeoutError`: a run that takes longer than `timeout`; it is ended, with all that it started.
            `RuntimeError`: a run that fails, or doesn't write as many lines as it was given.
        """
        check_request(texts, num_candidates)
        lines = [_LINE_ENDS.sub(" ", clean_text(text)).strip() for text in texts]
        if is_undetermined(language):
            return [[] for _ in texts]
        if is_english(language):
            return [[Candidate(line, "identity", self.name)] if line else [] for line in lines]
        source = language if self._codes is None else self._codes.get(language_key(language))
        if source is None:
            return [[] for _ in texts]
        _check_code(source)
        command = [part.replace("{source}", source).replace("{target}", self.target) for part in self.command]
        found: dict[str, str] = {}
        for batch in batches(dict.fromkeys(line for line in lines if line), self.batch_size):
            for line, answer in zip(batch, self._run(command, batch), strict=True):
                found[line] = self._without_marks(line, answer).strip()
        return [[Candidate(found[line], self.kind, self.name)] if found.get(line) else [] for line in lines]

    def _run(self, command: list[str], lines: list[str]) -> list[str]:
        shown = " ".join(command)
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # so that the parts of a pipeline can be ended together
            )
        except OSError as error:
            raise FileNotFoundError(
                f"can't start {command[0]!r} ({error.strerror}); expected a program on the PATH or a path to one; "
                "install it, or correct the command's first part"
            ) from error
        try:
            output, errors = process.communicate("".join(f"{line}\n" for line in lines).encode(), self.timeout)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(
                f"'{shown}' ran for {self.timeout} s over {len(lines)} lines; expected an end before; raise timeout, "
                "lower batch_size, or see whether the program waits for something else than its input's end"
            ) from error
        finally:
            _end(process)
        told = errors.decode(errors="replace").strip()[-_SHOWN_ERROR:] or "nothing"
        if process.returncode:
            raise RuntimeError(
                f"'{shown}' ended with status {process.returncode} and said {told!r}; expected status 0; run it by "
                "hand, and check that it has that language pair"
            )
        answers = output.decode(errors="replace").removesuffix("\n").split("\n")
        if len(answers) != len(lines):
            raise RuntimeError(
                f"'{shown}' wrote {len(answers)} lines for {len(lines)} and said {told!r}; expected one for each; "
                "give it the option by which it keeps lines apart (Apertium: '-f', 'line')"
            )
        return answers

    def _without_marks(self, text: str, answer: str) -> str:
        if self._mark is None:
            return answer
        own = {match.group() + _word_at(text, match.end()) for match in self._mark.finditer(text)}
        return self._mark.sub(
            lambda match: match.group() if match.group() + _word_at(answer, match.end()) in own else "", answer
        )


def _word_at(text: str, start: int) -> str:
    match = re.compile(r"\w+").match(text, start)
    return match.group() if match else ""


def _check_code(code: str) -> None:
    if not _CODE.fullmatch(code):
        raise ValueError(
            f"the language code is {code!r}; expected letters, digits, '-', '_', '.' or '@', and no '-' in front, as "
            "it becomes part of a command; give the program's own code in codes="
        )


def _end(process: subprocess.Popen) -> None:
    """End a run that is still going, with whatever it started, and leave no pipe open."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
