"""Where candidate translations of a batch of texts come from: the store first, then a translator and a critic
(ours)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lira_hf.translation import (
    CandidateStore,
    Critic,
    HeuristicCritic,
    Identity,
    Score,
    Translator,
    clean_text,
    load_translator,
)


__all__ = ["CandidateSource", "FoundCandidate", "make_source", "stored_critic"]


@dataclass(frozen=True, slots=True)
class FoundCandidate:
    """
    A candidate of a text.

    Args:
        text (`str`): The English text.
        kind (`str`, *optional*): How it came about, such as `"memory"`.
        scores ([`Score`], *optional*): The critic's, if one was asked for and has judged it.
    """

    text: str
    kind: str | None = None
    scores: Score | None = None


def stored_critic(store: CandidateStore, name: str, fingerprint: str | None = None) -> Identity:
    """
    The critic of a store whose scores are to be read.

    Args:
        store ([`CandidateStore`]): The store.
        name (`str`): Of the critic.
        fingerprint (`str`, *optional*): Its fingerprint; needed only where several critics have that name.

    Raises:
        ValueError: Where the store has no scores of such a critic, or of several; the message lists those there are.
    """
    critics = [Identity(row["name"], row["fingerprint"]) for row in store.stats()["critics"] if row["scores"]]
    found = [critic for critic in critics if critic.name == name and fingerprint in (None, "", critic.fingerprint)]
    if len(found) == 1:
        return found[0]
    there = ", ".join(f"{critic.name} (fingerprint {critic.fingerprint})" for critic in critics) or "none"
    got = f"critic {name!r}" + (f" with fingerprint {fingerprint!r}" if fingerprint else "")
    fix = "name one by its fingerprint too" if found else "name one of these, or leave the critic out"
    raise ValueError(f"got {got}; expected exactly one of the critics that {store.path} has scores of: {there}; {fix}")


class CandidateSource:
    """
    Up to K candidates and their scores for texts of any language.

    Texts that the store knows are read from it; the others are translated and judged on the spot, and kept in the
    store where it may be written.

    Args:
        store ([`CandidateStore`], *optional*): Candidates that there are.
        translator ([`Translator`], *optional*): Asked for texts without candidates.
        critic ([`Critic`] or [`Identity`], *optional*): Whose scores are read; a live one also scores new candidates.
        num_candidates (`int`, *optional*, defaults to 5): K.
    """

    def __init__(
        self,
        store: CandidateStore | None = None,
        translator: Translator | None = None,
        critic: Critic | Identity | None = None,
        num_candidates: int = 5,
    ):
        self.store = store
        self.translator = translator
        self.critic = critic
        self.num_candidates = num_candidates

    def get(
        self, texts: Sequence[str], languages: Sequence[str | None]
    ) -> tuple[list[list[str]], list[list[Score | None]]]:
        """
        As [`~CandidateSource.find`].

        Returns:
            `tuple`: the candidates of each text, best first, and the score of each candidate or `None`.
        """
        found = self.find(texts, languages)
        return [[item.text for item in row] for row in found], [[item.scores for item in row] for row in found]

    def find(self, texts: Sequence[str], languages: Sequence[str | None]) -> list[list[FoundCandidate]]:
        """
        Args:
            texts (`Sequence[str]`): The texts.
            languages (`Sequence[str | None]`): Tag of each; a text without one has no candidates.

        Returns:
            `list[list[FoundCandidate]]`: The candidates of each text, best first.
        """
        found: list[list[FoundCandidate]] = [[] for _ in texts]
        groups: dict[str, list[int]] = {}
        for position, language in enumerate(languages):
            if language is not None:
                groups.setdefault(language, []).append(position)
        for language, positions in groups.items():
            rows = self._language([texts[position] for position in positions], language)
            for position, row in zip(positions, rows, strict=True):
                found[position] = row
        return found

    def _language(self, texts: list[str], language: str) -> list[list[FoundCandidate]]:
        rows: list[list[FoundCandidate]] = [[] for _ in texts]
        if self.store is not None:
            stored = self.store.get(language, texts, critic=self.critic, limit=self.num_candidates)
            rows = [[FoundCandidate(item.text, item.kind, item.scores) for item in row] for row in stored]
        if self.translator is None:
            return rows
        todo = self._unasked([text for text, row in zip(texts, rows, strict=True) if not row], language)
        if not todo:
            return rows
        asked = list(todo)
        answers = self.translator.translate(asked, language, self.num_candidates)
        judge = self.critic if isinstance(self.critic, Critic) else None
        judged: list[list[Score | None]] = [[None] * len(answer) for answer in answers]
        if judge is not None:
            options = [[candidate.text for candidate in answer] for answer in answers]
            judged = [list(row) for row in judge.judge(asked, language, options)]
        if self.store is not None and not self.store.read_only:
            self._keep(language, asked, answers, judged, judge)
        answered = {
            text: [FoundCandidate(item.text, item.kind, score) for item, score in zip(answer, scores, strict=True)]
            for text, answer, scores in zip(asked, answers, judged, strict=True)
        }
        return [answered.get(clean_text(text), row) for text, row in zip(texts, rows, strict=True)]

    def _unasked(self, texts: list[str], language: str) -> list[str]:
        """Distinct texts to translate; one for which the translator has found nothing before isn't asked again."""
        texts = list(dict.fromkeys(clean_text(text) for text in texts if text.strip()))
        return texts if self.store is None or not texts else self.store.missing(language, texts, self.translator)

    def _keep(self, language, texts, answers, judged, judge) -> None:
        self.store.add(language, zip(texts, answers, strict=True), self.translator)
        if judge is not None:
            rows = [
                (text, candidate.text, score)
                for text, answer, scores in zip(texts, answers, judged, strict=True)
                for candidate, score in zip(answer, scores, strict=True)
                if score is not None  # the judge gave none; it is asked again in a later run
            ]
            self.store.add_scores(language, rows, judge)


def make_source(
    store: str | Path | None, translator: str | Path | None, critic: str | None, num_candidates: int
) -> CandidateSource | None:
    """
    Where candidates come from, by the options of the commands.

    Args:
        store (`str` or `Path`, *optional*): A candidate store. With a translator it takes in what that answers, and is
            made if it isn't there.
        translator (`str` or `Path`, *optional*): Folder of a saved translator.
        critic (`str`, *optional*): Folder of a saved heuristic critic, or `name` or `name:fingerprint` of one whose
            scores the store has.
        num_candidates (`int`): K.

    Returns:
        [`CandidateSource`]: `None` without a store and a translator.

    Raises:
        ValueError: For a critic without anything to judge, or one that isn't there.
    """
    if store is None and translator is None:
        if critic is not None:
            raise ValueError(
                f"got the critic {critic} without a store and without a translator; expected what it judges; add "
                "one of the two"
            )
        return None
    held = None if store is None else CandidateStore(store, read_only=translator is None)
    judge: Critic | Identity | None = None
    if critic is not None and Path(critic).is_dir():
        judge = HeuristicCritic.load(Path(critic))
    elif critic is not None:
        if held is None:
            raise ValueError(
                f"got the critic {critic}, which is no folder, without a store; expected the folder of a saved "
                "critic, or the store that has a critic's scores; mend the path, or add the store"
            )
        judge = stored_critic(held, *critic.split(":", 1))
    return CandidateSource(held, None if translator is None else load_translator(translator), judge, num_candidates)
