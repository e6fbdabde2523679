"""Fills a candidate store: asks a translator and a critic for what is missing and writes it chunk by chunk (ours)."""

from collections.abc import Iterable

from tqdm.auto import tqdm

from .base import Critic, Score, Translator, batches, check_request, clean_text
from .store import CandidateStore


__all__ = ["fill_store"]


def fill_store(
    store: CandidateStore,
    texts: Iterable[str],
    language: str,
    translator: Translator,
    critic: Critic | None = None,
    *,
    num_candidates: int = 5,
    chunk_size: int = 256,
    progress: bool = True,
) -> int:
    """
    Ask for the candidates, and the scores, that the store lacks. A run that was killed is continued by the same call.

    Args:
        store ([`CandidateStore`]): Where answers go, after every chunk.
        texts (`Iterable[str]`): The texts; repeats and texts done before cost nothing.
        language (`str`): Their language tag.
        translator ([`Translator`]): Asked for texts that it wasn't asked for before.
        critic ([`Critic`], *optional*): Asked for scores of all stored candidates of the texts that it hasn't judged.
        num_candidates (`int`, *optional*, defaults to 5): K. Texts asked with another K before aren't asked again.
        chunk_size (`int`, *optional*, defaults to 256): Texts in a chunk, the most work that a kill can lose.
        progress (`bool`, *optional*, defaults to `True`): Show a progress bar.

    Returns:
        `int`: The number of texts that the translator was asked for.

    Raises:
        `ValueError`: a translator or critic that doesn't answer every text, or a chunk size below 1.
    """
    check_request(texts, num_candidates)  # type: ignore[arg-type]
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; expected at least 1; leave it out for the default")
    distinct = list(dict.fromkeys(clean_text(text) for text in texts))
    asked = 0
    with tqdm(total=len(distinct), desc=f"{translator.name} [{language}]", unit="text", disable=not progress) as bar:
        for chunk in batches(distinct, chunk_size):
            missing = store.missing(language, chunk, translator)
            if missing:
                answers = translator.translate(missing, language, num_candidates)
                _check_answers(translator.name, len(answers), len(missing))
                asked += store.add(language, zip(missing, answers, strict=True), translator)
            if critic is not None:
                _judge(store, chunk, language, critic)
            bar.update(len(chunk))
    return asked


def _judge(store: CandidateStore, texts: list[str], language: str, critic: Critic) -> None:
    pending: dict[str, list[str]] = {}
    for text, candidate in store.missing_scores(language, texts, critic):
        pending.setdefault(text, []).append(candidate)
    if not pending:
        return
    scores = critic.judge(list(pending), language, list(pending.values()))
    _check_answers(critic.name, len(scores), len(pending))
    rows: list[tuple[str, str, Score]] = []
    for (text, candidates), row in zip(pending.items(), scores, strict=True):
        _check_answers(critic.name, len(row), len(candidates))
        rows.extend((text, candidate, score) for candidate, score in zip(candidates, row, strict=True))
    store.add_scores(language, rows, critic)


def _check_answers(name: str, got: int, expected: int) -> None:
    if got != expected:
        raise ValueError(
            f"'{name}' gave {got} answers; expected {expected}, one for each item that it was asked for; "
            "make it return an empty list, or score 1, for an item that it can't handle"
        )
