"""What a candidate store holds of each language, for a look before training (ours)."""

from typing import Any

from .store import CandidateStore
from .store_sums import told


__all__ = ["store_statistics"]


@told
def store_statistics(store: CandidateStore) -> dict[str, dict[str, Any]]:
    """
    Counts, shares and means per language, over all translators.

    Args:
        store ([`CandidateStore`]): The store.

    Returns:
        `dict[str, dict[str, Any]]`: For each language `texts`; `candidates`; `candidates_per_text`, the mean over all
        texts; `without_candidates`, the number of texts that have none; `duplicates`, the candidates that repeat
        another of their text word for word, as when two translators agree; and `critics`: a list of `name`,
        `fingerprint`, `judged` (share of the distinct candidates), and the mean `semantic`, `emotional` and
        `pragmatic` score of those (`None` if there are none).
    """
    db = store._db
    report: dict[str, dict[str, Any]] = {}
    for language, texts in db.execute("SELECT language, count(*) FROM texts GROUP BY language ORDER BY language"):
        report[language] = {
            "texts": texts,
            "candidates": 0,
            "candidates_per_text": 0.0,
            "without_candidates": texts,
            "duplicates": 0,
            "critics": [],
        }
    distinct = dict.fromkeys(report, 0)
    counts = (
        "SELECT t.language, count(*), sum(c.number), sum(c.different) FROM (SELECT text_id, count(*) AS number, "
        "count(DISTINCT key) AS different FROM candidates GROUP BY text_id) c JOIN texts t ON t.id = c.text_id "
        "GROUP BY t.language"
    )
    for language, texts, candidates, different in db.execute(counts):
        row = report[language]
        distinct[language] = different
        row["candidates"], row["candidates_per_text"] = candidates, candidates / row["texts"]
        row["without_candidates"] -= texts
        row["duplicates"] = candidates - different
    judged = {
        (language, critic): values
        for language, critic, *values in db.execute(
            "SELECT t.language, s.critic_id, count(*), avg(s.semantic), avg(s.emotional), avg(s.pragmatic) "
            "FROM (SELECT DISTINCT text_id, key FROM candidates) c "
            "JOIN scores s ON s.text_id = c.text_id AND s.candidate_key = c.key JOIN texts t ON t.id = c.text_id "
            "GROUP BY t.language, s.critic_id"
        )
    }
    for critic, name, fingerprint in db.execute("SELECT id, name, fingerprint FROM critics ORDER BY id").fetchall():
        for language, row in report.items():
            number, *means = judged.get((language, critic), (0, None, None, None))
            share = number / distinct[language] if distinct[language] else 0.0
            row["critics"].append(
                {"name": name, "fingerprint": fingerprint, "judged": share}
                | dict(zip(("semantic", "emotional", "pragmatic"), means, strict=True))
            )
    return report
