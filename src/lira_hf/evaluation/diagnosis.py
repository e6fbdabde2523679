"""Which language suffers from which of the bound's two errors, by how much, and what to do about it (ours)."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from lira_hf.data import language_name

from .bound import (
    BoundSettings,
    SemanticBank,
    conformal_quantile,
    fit_constant,
    reached_level,
    translation_scale,
)
from .bound_measure import BoundMeasurements


__all__ = ["THRESHOLDS", "BoundFit", "advise", "diagnose", "drift_point", "fit_bound"]

# Where the advice turns; every piece of advice names the one that it rests on.
THRESHOLDS = {
    "small": 0.25,  # root mean square deviation, of that between unrelated texts: below it a language is well served
    "dominant": 0.6,  # share of the squared deviation that makes one error the main one
    "drift": 0.5,  # ||g(x) - g(y*)|| (root mean square), by what g puts between unrelated references
    "better_candidate": 0.75,  # error of the closest candidate, by that of the candidates as they are weighed
    "missing": 0.1,  # share of a language's rows without a candidate
}
# No two pairs of unit vectors are farther apart, nor two unit vectors: a bound beyond these is true and says nothing.
_FARTHEST, _FARTHEST_OUTPUT = 8**0.5, 2.0
_SHOWN = {"median": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class BoundFit:
    """
    The constants, fitted on calibration rows, and what they say of every row.

    Args:
        constant (`float`): C.
        secant (`float`): L of the outputs: ||f(z) - f(z*)|| <= L ||z - z*|| at the level, without a neighbourhood.
        fidelity (`np.ndarray` of shape `(rows,)`): KL(p(s|x) || p(s|T(x))), nats.
        bound (`np.ndarray` of shape `(rows,)`): eps1 + C sqrt(2 eps2), of each row's own errors.
        calibration (`np.ndarray` of shape `(rows,)`, bool): Rows that the constants were fitted on.
    """

    constant: float
    secant: float
    fidelity: Vector
    bound: Vector
    calibration: NDArray[np.bool_]


def fit_bound(measured: BoundMeasurements, bank: SemanticBank, settings: BoundSettings) -> BoundFit:
    """
    Fits C and L on the calibration rows.

    Since ||z - z*||^2 = ||g(x) - h(y*)||^2 + ||h(T(x)) - h(y*)||^2, a row is inside its bound wherever its
    translation error is inside C sqrt(2 eps2): of new rows of the same kind that is the level, in expectation.

    Args:
        measured ([`BoundMeasurements`]): The rows.
        bank ([`SemanticBank`]): The anchors.
        settings ([`BoundSettings`]): The estimators' settings.

    Raises:
        ValueError: For too few calibration rows, or no test row.
    """
    calibration = np.array([row.calibration for row in measured.rows], dtype=bool)
    if calibration.all():
        raise ValueError(
            f"got {len(calibration)} rows with candidates, all for calibration; expected some to check the bound on; "
            "give more rows"
        )
    own = bank.own([row.reference for row in measured.rows])
    fidelity = bank.fidelity(measured.references, measured.translated, own, settings)
    constant = fit_constant(measured.translation[calibration], fidelity[calibration], settings)
    deviation = measured.deviation
    # Of rows that deviate by nothing there is no ratio; where the output deviates all the same, none would be enough.
    ratio = measured.output / np.maximum(deviation, 1e-6)
    return BoundFit(
        constant=constant,
        secant=conformal_quantile(ratio[calibration], settings.level),
        fidelity=fidelity,
        bound=measured.anchoring + constant * translation_scale(fidelity, settings.floor),
        calibration=calibration,
    )


def diagnose(
    measured: BoundMeasurements, bank: SemanticBank, settings: BoundSettings, sensitivity: bool = True
) -> dict[str, Any]:
    """
    The whole report, as JSON takes it.

    Args:
        measured ([`BoundMeasurements`]): The rows.
        bank ([`SemanticBank`]): The anchors.
        settings ([`BoundSettings`]): The estimators' settings.
        sensitivity (`bool`, *optional*, defaults to `True`): Also refit under other temperatures, smoothings, floors
            and bank sizes.

    Returns:
        `dict`: `settings`, `thresholds`, `rows`, `C`, `lipschitz`, `unrelated`, `overall`, `languages` (each with
        `eps1`, `eps2`, `bound`, `output`, `shares`, `verdict`) and `sensitivity`. All but the constants are of test
        rows.

    Raises:
        ValueError: As in [`fit_bound`].
    """
    fit = fit_bound(measured, bank, settings)
    tags = np.array([row.language for row in measured.rows])
    local = np.array(list(measured.lipschitz.values()))
    constants = {"local": float(np.quantile(local, settings.quantile)) if len(local) else None, "secant": fit.secant}
    every = np.ones(len(tags), dtype=bool)
    own = bank.own([row.reference for row in measured.rows])
    best = bank.fidelity(measured.references, measured.best_candidates, own, settings)
    languages = {}
    for tag in sorted({*tags.tolist(), *measured.without_candidates}):
        missing = measured.without_candidates.get(tag, 0)
        facts = _facts(measured, fit, best, tags == tag, constants, settings) | {"without_candidates": missing}
        languages[tag] = facts | {"verdict": advise(tag, facts, measured.unrelated)}
    report = {
        "settings": asdict(settings) | {"space": measured.space, "anchors": len(bank.texts)},
        "thresholds": THRESHOLDS,
        "rows": {"calibration": int(fit.calibration.sum()), "test": int((~fit.calibration).sum())},
        "C": fit.constant,
        "lipschitz": constants
        | {"quantile": settings.quantile, "rows": len(local), "edits_that_move_nothing": measured.still_edits},
        "unrelated": measured.unrelated,
        "unrelated_source": measured.unrelated_source,
        "overall": _facts(measured, fit, best, every, constants, settings)
        | {"without_candidates": sum(measured.without_candidates.values())},
        "languages": languages,
    }
    if sensitivity:
        report["sensitivity"] = list(_sensitivity(measured, bank, settings))
    return report


def _facts(
    measured: BoundMeasurements,
    fit: BoundFit,
    best_fidelity: Vector,
    mine: NDArray[np.bool_],
    constants: dict[str, float | None],
    settings: BoundSettings,
) -> dict[str, Any]:
    """Everything of one language, or of all."""
    test, held = mine & ~fit.calibration, mine & fit.calibration
    facts: dict[str, Any] = {
        "calibration": int(held.sum()),
        "test": int(test.sum()),
        "few": int(test.sum()) < settings.few,
    }
    if not test.any():
        return facts
    scale = translation_scale(fit.fidelity, settings.floor)
    deviation = measured.deviation
    facts |= {
        "eps1": _spread(measured.anchoring[test]),
        "eps1_english": float(measured.english[test].mean()),
        "drift": float(measured.drift[test].mean()),
        "eps2": _spread(fit.fidelity[test]) | {"at_floor": float((fit.fidelity[test] <= settings.floor).mean())},
        "eps2_best_candidate": float(best_fidelity[test].mean()),
        "translation": _spread(measured.translation[test]),
        "best_translation": float(measured.best_translation[test].mean()),
        "deviation": _spread(deviation[test]),
        "bound": _spread(fit.bound[test])
        | {
            "inside": float((deviation[test] <= fit.bound[test]).mean()),
            "outside": int((deviation[test] > fit.bound[test]).sum()),
            "tightness": float((deviation[test] / fit.bound[test]).mean()),
            "vacuous": float((fit.bound[test] >= _FARTHEST).mean()),
        },
        "uniform": _uniform(measured, fit, held, test, settings),
        "output": _output(measured, fit, mine, test, constants, settings),
    }
    anchoring, translation = (
        float(np.square(part[test]).sum()) for part in (measured.anchoring, measured.translation)
    )
    first, second = float(measured.anchoring[test].sum()), float(fit.constant * scale[test].sum())
    facts["shares"] = {
        "anchoring": anchoring / max(anchoring + translation, 1e-12),
        "anchoring_in_bound": first / max(first + second, 1e-12),
    }
    facts["ratios"] = {
        "relative_deviation": _rms(deviation[test]) / max(np.sqrt(2.0) * measured.unrelated, 1e-12),
        "drift": _rms(measured.drift[test]) / max(measured.unrelated_source, 1e-12),
        "best_candidate": _rms(measured.best_translation[test]) / max(_rms(measured.translation[test]), 1e-12),
    }
    return facts


def _uniform(measured, fit, held, test, settings) -> dict[str, float] | None:
    """The paper's form, one eps1 and one eps2 for all rows, at the level, from the calibration rows alone."""
    if not held.any():
        return None
    eps1 = conformal_quantile(measured.anchoring[held], settings.level)
    eps2 = max(conformal_quantile(fit.fidelity[held], settings.level), settings.floor)
    bound = eps1 + fit.constant * np.sqrt(2.0 * eps2)
    missed = 2.0 * (1.0 - reached_level(int(held.sum()), settings.level)) + 1.0 - settings.level
    return {
        "eps1": eps1,
        "eps2": eps2,
        "bound": float(bound),
        "vacuous": bool(bound >= _FARTHEST),
        "promised": max(1.0 - missed, 0.0),  # of eps1, eps2 and C each may fail
        "inside": float((measured.deviation[test] <= bound).mean()),
    }


def _output(measured, fit, mine, test, constants, settings) -> dict[str, float | None]:
    local = np.array([value for row, value in measured.lipschitz.items() if mine[row]])
    deviation, bound = measured.output[test], fit.bound[test]
    overall = constants["local"]
    return {
        "deviation": float(deviation.mean()),
        "local": float(np.quantile(local, settings.quantile)) if len(local) else None,
        "bound": None if overall is None else float((overall * bound).mean()),
        "inside": None if overall is None else float((deviation <= overall * bound).mean()),
        "vacuous": None if overall is None else float((overall * bound >= _FARTHEST_OUTPUT).mean()),
        "inside_secant": float((deviation <= fit.secant * bound).mean()),
        "vacuous_secant": float((fit.secant * bound >= _FARTHEST_OUTPUT).mean()),
    }


def _spread(values: Vector) -> dict[str, float]:
    return {"mean": float(values.mean())} | {name: float(np.quantile(values, q)) for name, q in _SHOWN.items()}


def _rms(values: Vector) -> float:
    return float(np.sqrt(np.square(values).mean()))


def advise(tag: str, facts: dict[str, Any], unrelated: float) -> dict[str, Any]:
    """
    What a language suffers from and what to do about it.

    Args:
        tag (`str`): The language.
        facts (`dict`): Of its test rows, as [`diagnose`] makes them.
        unrelated (`float`): Distance of unrelated references; 0: everything has collapsed into one point.

    Returns:
        `dict`: `suffers_from` (`"anchoring"`, `"translation"`, `"both"`, `"little"` or `"unknown"`) and `advice`, a
        list of sentences, each with the figure and the threshold that it rests on.
    """
    name, advice = ("Texts of unknown language" if tag == "und" else language_name(tag)), []
    total = facts["test"] + facts["calibration"] + facts["without_candidates"]
    missing = facts["without_candidates"] / max(total, 1)
    if missing > THRESHOLDS["missing"]:
        advice.append(
            f"{missing:.0%} of its rows have no candidate at all (over {THRESHOLDS['missing']:.0%}) and take the "
            "multilingual road alone: fill the store (`lira translate`), or add a translator."
        )
    if not facts["test"]:
        return {"suffers_from": "unknown", "advice": [f"{name}: no test row with a candidate.", *advice]}
    if facts["few"]:
        advice.append(f"Only {facts['test']} test rows: take what follows as a hint.")
    if unrelated < 0.05:
        advice.append(
            f"Unrelated references are {unrelated:.3f} apart: the space has collapsed, and small errors mean nothing; "
            "train stage 1 with the contrastive anchoring loss."
        )
    share, ratios = facts["shares"]["anchoring"], facts["ratios"]
    if ratios["relative_deviation"] < THRESHOLDS["small"]:
        advice.append(
            f"{name} deviates by {ratios['relative_deviation']:.0%} of what unrelated texts do (under "
            f"{THRESHOLDS['small']:.0%}): little to gain."
        )
        return {"suffers_from": "little", "advice": advice}
    if share >= THRESHOLDS["dominant"]:
        kind = "anchoring"
    else:
        kind = "translation" if 1.0 - share >= THRESHOLDS["dominant"] else "both"
    advice.append(
        f"{name}: {share:.0%} of its squared deviation is anchoring, {1.0 - share:.0%} translation "
        f"({THRESHOLDS['dominant']:.0%} makes one the main one)."
    )
    if kind != "translation":
        advice.append(_anchoring_advice(ratios["drift"], facts["eps1_english"]))
    if kind != "anchoring":
        advice.append(_translation_advice(ratios["best_candidate"]))
    return {"suffers_from": kind, "advice": advice}


def _anchoring_advice(drift: float, english: float) -> str:
    limit = THRESHOLDS["drift"]
    if drift > limit:
        return (
            f"Anchoring: g puts a text {drift:.0%} as far from its own English as unrelated texts are (over "
            f"{limit:.0%}): more parallel rows of this language for stage 1, or an encoder that knows it better."
        )
    return (
        f"Anchoring: g puts a text {drift:.0%} as far from its own English as unrelated texts are (up to "
        f"{limit:.0%}), and is {english:.3f} off on the English itself: not this language but the adaptor, or g as a "
        "whole: a longer stage 1, a wider hidden_size, another g."
    )


def _translation_advice(ratio: float) -> str:
    limit = THRESHOLDS["better_candidate"]
    if ratio <= limit:
        return (
            f"Translation: the closest candidate has {ratio:.2f} of the error that the weighed ones have (up to "
            f"{limit}): better ones are there and not taken; have them judged (`lira judge`), or train the actor."
        )
    return (
        f"Translation: even the closest candidate has {ratio:.2f} of the error that the weighed ones have (over "
        f"{limit}), so no choice will help much: more candidates, or a better translator (`lira translate`)."
    )


def _sensitivity(measured: BoundMeasurements, bank: SemanticBank, settings: BoundSettings) -> Iterator[dict[str, Any]]:
    """The bound under other settings of the estimator, one changed at a time."""
    variants: list[tuple[str, Any, SemanticBank, BoundSettings]] = [("as set", None, bank, settings)]
    choices: dict[str, Sequence[float]] = {
        "temperature": (0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
        "smoothing": (0.0, 1e-3, 1e-2, 1e-1),
        "floor": (1e-4, 1e-3, 1e-2, 1e-1),
    }
    for name, values in choices.items():
        for value in values:
            if value != getattr(settings, name):
                variants.append((name, value, bank, replace(settings, **{name: value})))
    for size in (64, 128, 256, 512, 1024):
        if size < len(bank.texts):
            variants.append(("anchors", size, bank.first(size), settings))
    for name, value, anchors, changed in variants:
        fit = fit_bound(measured, anchors, changed)
        test = ~fit.calibration
        term = fit.bound - measured.anchoring
        yield {
            "changed": name,
            "value": value,
            "C": fit.constant,
            "eps2": float(fit.fidelity[test].mean()),
            "at_floor": float((fit.fidelity[test] <= changed.floor).mean()),
            "term": float(term[test].mean()),
            "rank_correlation": _correlation(fit.fidelity[test], measured.translation[test]),
            "inside": float((measured.deviation[test] <= fit.bound[test]).mean()),
            "tightness": float((measured.deviation[test] / fit.bound[test]).mean()),
        }


def _correlation(one: Vector, other: Vector) -> float | None:
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(spearmanr(one, other).statistic)


def drift_point(name: str, measured: BoundMeasurements, bank: SemanticBank, settings: BoundSettings) -> dict[str, Any]:
    """
    One checkpoint of the curve through training: means over test rows, C fitted anew.

    Args:
        name (`str`): Of the checkpoint.
        measured ([`BoundMeasurements`]), bank ([`SemanticBank`]), settings ([`BoundSettings`]): As in [`diagnose`].

    Returns:
        `dict`: `name`, `C`, `unrelated`, `overall` and `languages`, each of `eps1`, `eps2`, `translation`,
        `deviation`, `relative_deviation`, `bound` and `inside`.
    """
    fit = fit_bound(measured, bank, settings)
    tags, test = np.array([row.language for row in measured.rows]), ~fit.calibration

    def means(mine: NDArray[np.bool_]) -> dict[str, float]:
        deviation = measured.deviation[mine]
        return {
            "eps1": float(measured.anchoring[mine].mean()),
            "eps2": float(fit.fidelity[mine].mean()),
            "translation": float(measured.translation[mine].mean()),
            "deviation": float(deviation.mean()),
            "relative_deviation": _rms(deviation) / max(np.sqrt(2.0) * measured.unrelated, 1e-12),
            "bound": float(fit.bound[mine].mean()),
            "inside": float((deviation <= fit.bound[mine]).mean()),
        }

    return {
        "name": name,
        "C": fit.constant,
        "unrelated": measured.unrelated,
        "unrelated_source": measured.unrelated_source,
        "overall": means(test),
        "languages": {tag: means(test & (tags == tag)) for tag in sorted(set(tags[test].tolist()))},
    }
