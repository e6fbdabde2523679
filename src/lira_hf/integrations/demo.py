"""What the demo's page shows, without the page: languages and examples to offer, a text looked at, a question
asked (ours)."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple, TypeVar

from lira_hf.data import BeirDataset, language_name, likely_script, normalize_language
from lira_hf.inference import (
    Explanation,
    FoundCandidate,
    LiraEmbedder,
    LiraExplainer,
    LiraGenerator,
    text_scripts,
)
from lira_hf.translation import Candidate, Critic, Score, clean_text
from lira_hf.translation.base import distinct_candidates


__all__ = ["DETECT", "UNKNOWN", "Answers", "DemoExample", "DemoWorker", "LiraDemo", "Shown"]

DETECT, UNKNOWN = "detect", "und"
LONGEST_TEXT = 20_000  # characters that the page takes; the encoders cut far earlier
_MOST_TYPED = 20
_SCRIPT_GROUPS = {"Hans": "Hani", "Hant": "Hani", "Jpan": "Hani", "Kore": "Hang"}
Result = TypeVar("Result")


class DemoExample(NamedTuple):
    """A query of the data: its `text`, the tag of its `language`, and the ids of the documents that answer it."""

    text: str
    language: str
    relevant: tuple[str, ...]


@dataclass(frozen=True)
class Shown:
    """
    What the page shows of a text.

    Args:
        explanation ([`Explanation`]): What LiRA makes of it.
        notes (`tuple[str, ...]`): What the reader should know, such as why no translator was asked.
        relevant (`tuple[tuple[str, str], ...]`): Id and text of the documents known to answer it.
    """

    explanation: Explanation
    notes: tuple[str, ...]
    relevant: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Answers:
    """
    Answers to one question.

    Args:
        question (`str`): The question.
        lira (`str`): The base LM's, with LiRA's soft prefix.
        base (`str`): The base LM's on the bare text.
        translation (`str`, *optional*): What a reader without LiRA would take for its English.
        translated (`str`, *optional*): The base LM's on that translation; `None` without one.
        notes (`tuple[str, ...]`): As in [`Shown`].
    """

    question: str
    lira: str
    base: str
    translation: str | None
    translated: str | None
    notes: tuple[str, ...] = ()


class LiraDemo:
    """
    The demo without its page.

    Args:
        explainer ([`LiraExplainer`]): The model, its candidates and documents.
        data ([`BeirDataset`], *optional*): Queries to offer as examples, and what answers them.
        generator ([`LiraGenerator`], *optional*): Of a checkpoint with a base LM, for questions.
        name (`str`, *optional*): The model's, for the title.
    """

    def __init__(
        self,
        explainer: LiraExplainer,
        data: BeirDataset | None = None,
        generator: LiraGenerator | None = None,
        name: str = "",
    ):
        self.explainer = explainer
        self.data = data or BeirDataset()
        self.generator = generator
        self.name = name
        self._asked: dict[str, dict[str | None, str]] = defaultdict(dict)  # text to language to query id
        for key, query in self.data.queries.items():
            self._asked[query.text][query.language] = key
        processor = explainer.embedder.processor
        spoken = {query.language for query in self.data.queries.values() if query.language is not None}
        self.languages = sorted({*spoken, *processor.trained_languages, *processor.anchor_languages})

    @property
    def embedder(self) -> LiraEmbedder:
        return self.explainer.embedder

    @property
    def has_source(self) -> bool:
        """Whether candidates come from somewhere, or have to be typed in."""
        return self.embedder.candidates is not None

    def language_choices(self) -> list[tuple[str, str]]:
        """Names and tags to choose from, the first of which is to detect it by the script."""
        named = [(f"{language_name(tag)} ({tag})", tag) for tag in self.languages]
        return [("detect by script", DETECT), *sorted(named), ("unknown: no translator is asked", UNKNOWN)]

    def examples(self, per_language: int = 3) -> list[DemoExample]:
        """Some queries of each language, spread evenly over the data, languages by turns."""
        rows: dict[str, list[DemoExample]] = defaultdict(list)
        for key, query in self.data.queries.items():
            if query.language is not None and self._relevant(key):
                rows[query.language].append(DemoExample(query.text, query.language, self._relevant(key)))
        picked = {
            tag: [found[number * len(found) // min(per_language, len(found))] for number in range(per_language)]
            if len(found) > per_language
            else found
            for tag, found in rows.items()
        }
        turns = range(max(map(len, picked.values()), default=0))
        return [picked[tag][turn] for turn in turns for tag in sorted(picked) if turn < len(picked[tag])]

    def resolve_language(self, choice: str | None, text: str) -> tuple[str | None, str | None]:
        """
        Args:
            choice (`str`, *optional*): A tag, `"detect"` or `"und"`.
            text (`str`): The text.

        Returns:
            `tuple`: the tag or `None`, and what the reader should know of it or `None`.

        Raises:
            ValueError: For a tag that CLDR doesn't know.
        """
        choice = (choice or DETECT).strip()
        if choice == UNKNOWN:
            return None, "The language counts as unknown, so no translator is asked."
        if choice != DETECT:
            return normalize_language(choice), None
        known = [tag for tag in self._asked.get(text, {}) if tag is not None]
        if len(known) == 1:
            return known[0], None
        script = _main_script(text)
        able = [tag for tag in self.languages if _group(likely_script(tag)) == script]
        if len(able) == 1:
            return able[0], f"Taken for {language_name(able[0])}, by its script."
        if not able:
            return None, (
                "None of the languages offered is written in this script: the language counts as unknown, and no "
                "translator is asked. Write its tag into the language box, if you know it."
            )
        names = ", ".join(language_name(tag) for tag in able)
        return None, f"{names} are written in this script: choose one; until then no translator is asked."

    def look(self, text: str, language: str | None = DETECT, typed: str = "", k: int = 5) -> Shown:
        """
        Args:
            text (`str`): A text of any language.
            language (`str`, *optional*, defaults to `"detect"`): As in [`~LiraDemo.resolve_language`].
            typed (`str`, *optional*): Candidates by hand, one a line; they come before those of the source.
            k (`int`, *optional*, defaults to 5): Documents of each system.

        Returns:
            [`Shown`]

        Raises:
            ValueError: For a blank or too long text, or an unknown tag.
        """
        text = _checked(text)
        tag, note = self.resolve_language(language, text)
        candidates = self._candidates(text, tag, typed)
        query = self._query(text, tag)
        ids = () if query is None else self._relevant(query)
        found = self.explainer.explain(text, tag, candidates, k, ids)
        notes = [] if note is None else [note]
        if not found.candidates:
            where = "The source has no candidate" if self.has_source and tag is not None else "There is no candidate"
            notes.append(f"{where}, so the multilingual road is alone. You can type candidates by hand.")
        documents = tuple((key, self.data.corpus[key]) for key in ids if key in self.data.corpus)
        return Shown(found, tuple(notes), documents)

    def ask(self, question: str, language: str | None = DETECT, typed: str = "", max_new_tokens: int = 128) -> Answers:
        """
        Args:
            question, language, typed: As in [`~LiraDemo.look`].
            max_new_tokens (`int`, *optional*, defaults to 128): Most tokens of an answer.

        Returns:
            [`Answers`], greedy.

        Raises:
            ValueError: For a checkpoint without a base LM; and as [`~LiraDemo.look`].
        """
        if self.generator is None:
            raise ValueError("got a checkpoint without a base LM; expected one that answers; see docs/base-lm.md")
        question = _checked(question)
        tag, note = self.resolve_language(language, question)
        row = self._candidates(question, tag, typed)
        given: dict[str, Any] = {"candidates": [[one.text for one in row]]}
        if any(one.scores is not None for one in row):
            given["scores"] = [[one.scores for one in row]]
        options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": False}
        best = max(row, key=lambda one: sum(one.scores) if one.scores is not None else 0.0, default=None)
        lira = self.generator.generate([question], tag, **given, **options)[0]
        base = self.generator.generate([question], tag, prefix=False, **options)[0]
        translated = None
        if best is not None:
            translated = self.generator.generate([best.text], None, prefix=False, **options)[0]
        notes = () if note is None else (note,)
        return Answers(question, lira, base, None if best is None else best.text, translated, notes)

    def _candidates(self, text: str, tag: str | None, typed: str) -> list[FoundCandidate]:
        """Those typed in, judged where the critic is at hand, then the source's."""
        rows = zip(*(column[0] for column in self.embedder.find_candidates([text], [tag])), strict=True)
        found = [FoundCandidate(one, kind, score) for one, score, kind in rows]
        lines = [Candidate(clean_text(line).strip(), "typed", "") for line in typed.splitlines()]
        texts = [one.text for one in distinct_candidates(lines, _MOST_TYPED)]
        scores: Sequence[Score | None] = [None] * len(texts)
        critic = None if self.embedder.candidates is None else self.embedder.candidates.critic
        if texts and tag is not None and isinstance(critic, Critic):
            scores = critic.judge([text], tag, [texts])[0]
        by_hand = [FoundCandidate(one, "by hand", score) for one, score in zip(texts, scores, strict=True)]
        return [*by_hand, *(one for one in found if one.text not in texts)]

    def _query(self, text: str, tag: str | None) -> str | None:
        """The data's query that was asked, if it was one."""
        known = self._asked.get(text, {})
        return next(iter(known.values()), None) if tag is None else known.get(tag)

    def _relevant(self, query: str) -> tuple[str, ...]:
        judged = self.data.qrels.get(query, {})
        return tuple(key for key, score in judged.items() if score > 0)


class DemoWorker:
    """
    One thread that makes a [`LiraDemo`] and answers for it: a candidate store is one thread's alone, and a model does
    one thing at a time.

    Args:
        make (`Callable[[], LiraDemo]`): Called in that thread; what it raises is raised here.
    """

    def __init__(self, make: Callable[[], LiraDemo]):
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
        self._closed = False
        # A daemon, unlike an executor's threads: Ctrl-C does not wait until a large corpus is embedded.
        Thread(target=self._work, name="lira-demo", daemon=True).start()
        self.demo = self.call(make)

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """`function(*arguments)` in the thread."""
        if self._closed:
            raise RuntimeError("got a call after close; expected an open worker; start the demo again")
        future: Future[Result] = Future()
        self._tasks.put((future, function, arguments))
        return future.result()

    def close(self) -> None:
        """Ends the thread once it has done what it was asked."""
        self._closed = True
        self._tasks.put(None)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, function, arguments = task
            try:
                future.set_result(function(*arguments))
            except BaseException as error:  # raised again where it was asked for
                future.set_exception(error)


def _checked(text: str) -> str:
    text = clean_text(text).strip()
    if not text:
        raise ValueError("The text is empty; write a word or a sentence.")
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"The text has {len(text):,} characters, the most are {LONGEST_TEXT:,}; take a part of it.")
    return text


def _group(script: str) -> str:
    return _SCRIPT_GROUPS.get(script, script)


def _main_script(text: str) -> str:
    counts = text_scripts(text)
    script = _group(counts.most_common(1)[0][0]) if counts else "Zyyy"
    return "" if script == "Zyyy" else script
