"""Candidates of the quickstart: translation memory, repair and gloss learned from parallel text, judged, stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lira_hf.data import ParallelPair
from lira_hf.translation import (
    CandidateStore,
    Critic,
    GlossTranslator,
    HeuristicCritic,
    Lexicon,
    RepairTranslator,
    Score,
    TranslationMemory,
    TranslatorUnion,
    fill_store,
)

from .corpus import Corpus
from .cross_fit import FOLDS, fold_of


__all__ = ["CRITIC", "Translators", "fill_candidates", "fit_translators"]

# Scores of cross-fitted rows come from critics that differ by fold; they are read under one name.
CRITIC = "heuristic"


@dataclass(frozen=True)
class _NamedCritic:
    """A critic under a given name and fingerprint; it streams if the critic does."""

    name: str
    fingerprint: str
    critic: Critic

    def __post_init__(self) -> None:
        if (stream := getattr(self.critic, "stream", None)) is not None:
            object.__setattr__(self, "stream", stream)

    def judge(self, texts: Sequence[str], language: str, candidates: Sequence[Sequence[str]]) -> list[list[Score]]:
        return self.critic.judge(texts, language, candidates)


@dataclass(frozen=True)
class Translators:
    """A translator and the critic that shares its lexicon."""

    translator: TranslatorUnion
    critic: HeuristicCritic

    def save(self, folder: Path) -> None:
        """Writes both; `load_translator` and `HeuristicCritic.load` read them."""
        self.critic.save(folder / "critic")
        self.translator.save(folder / "translator")


def fit_translators(pairs: Sequence[ParallelPair]) -> Translators:
    """Gloss, memory and repair from parallel text; the gloss first, as the best single one."""
    rows = [(pair.language, pair.text, pair.english) for pair in pairs]
    lexicon = Lexicon.fit(rows)
    members = [GlossTranslator(lexicon), TranslationMemory.fit(rows), RepairTranslator(lexicon)]
    return Translators(TranslatorUnion(members), HeuristicCritic(lexicon))


def fill_candidates(
    corpus: Corpus, translators: Translators, store: CandidateStore, num_candidates: int, progress: bool
) -> None:
    """
    Asks for the candidates and scores that the store lacks. Rows that the translators learned from are cross-fitted:
    each is translated and judged by ones that have not seen its English. All scores are stored under the critic's
    fingerprint.
    """
    fingerprint = translators.critic.fingerprint
    options = {"num_candidates": num_candidates, "progress": progress}
    for rows in (corpus.dev, corpus.test) if corpus.cross_fit else (corpus.train, corpus.dev, corpus.test):
        _fill(store, rows, translators, fingerprint, options)
    if corpus.cross_fit:
        for fold in range(FOLDS):
            held_out = [pair for pair in corpus.train if fold_of(pair.english) == fold]
            rest = [pair for pair in corpus.train if fold_of(pair.english) != fold]
            _fill(store, held_out, fit_translators(rest), fingerprint, options)


def _fill(
    store: CandidateStore, rows: list[ParallelPair], translators: Translators, fingerprint: str, options
) -> None:
    critic = _NamedCritic(CRITIC, fingerprint, translators.critic)
    texts: dict[str, list[str]] = {}
    for pair in rows:
        texts.setdefault(pair.language, []).append(pair.text)
    for language, asked in texts.items():
        fill_store(store, asked, language, translators.translator, critic, **options)
