"""The paper's bound on tiny models: it holds, each error moves its own part, and the advice follows the figures."""

import copy
import itertools
import json

import numpy as np
import pytest
import tiny_lira as parts
import torch
from made_up_words import WORDS, foreign

from lira_hf import LiraModel, LiraProcessor
from lira_hf.evaluation import (
    THRESHOLDS,
    BoundRow,
    BoundRows,
    BoundSettings,
    advise,
    bound_summary,
    choose_anchors,
    diagnose,
    diagnosis_markdown,
    drift_point,
    find_row_candidates,
    fit_bound,
    measure_bound,
    plot_diagnosis,
    plot_drift,
    semantic_bank,
    write_diagnosis_rows,
)
from lira_hf.inference import CandidateSource, LiraEmbedder, RoadFeatures, pad_candidates


ENGLISH = [" ".join(words) for size in (3, 4) for words in itertools.combinations(WORDS, size)][::2][:260]
SETTINGS = BoundSettings()


def _corrupt(text: str, number: int) -> str:
    words = text.split()
    words[number % len(words)] = WORDS[number % len(WORDS)]
    return " ".join(words)


@pytest.fixture(scope="module")
def rows():
    return [
        BoundRow(foreign(text, language), language, text, number % 2 == 0)
        for number, text in enumerate(ENGLISH)
        for language in ("vi", "ur")
    ]


@pytest.fixture(scope="module")
def found(rows):
    """One candidate a row; a third of them have a wrong word."""
    texts = [[row.reference if n % 3 else _corrupt(row.reference, n)] for n, row in enumerate(rows)]
    return texts, [[None] for _ in rows], [["made up"] for _ in rows]


@pytest.fixture(scope="module")
def texts(rows):
    return choose_anchors(BoundRows(tuple(rows), tuple(ENGLISH), {}, (None, None)), 64)


@pytest.fixture(scope="module")
def random_embedder(tiny_lira):
    model, processor = tiny_lira()
    parts.disturb(model)
    return LiraEmbedder(model, processor)


@pytest.fixture(scope="module")
def trained(tiny_lira, rows, found):
    """Stage 1 by hand: g's road is anchored to h's."""
    model, processor = tiny_lira()
    features = RoadFeatures(model, processor)
    source = torch.from_numpy(features.compute("source", [row.text for row in rows]))
    anchors = pad_candidates(features, found[0])["anchor_features"]
    optimizer = torch.optim.Adam(model.arca.parameters(), lr=1e-2)
    torch.manual_seed(0)
    model.train()
    for _ in range(150):
        some = torch.randperm(len(rows))[:128]
        loss = model(source_features=source[some], anchor_features=anchors[some], return_loss=True).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return LiraEmbedder(model, processor)


@pytest.fixture(scope="module")
def measured(trained, rows, found):
    return measure_bound(trained, rows, found, edit_rows=8)


@pytest.fixture(scope="module")
def bank(trained, texts):
    return semantic_bank(trained, texts)


@pytest.mark.parametrize("which", ["random_embedder", "trained"])
def test_the_bound_holds_on_99_percent_of_test_rows(which, request, rows, found, texts):
    embedder = request.getfixturevalue(which)
    measured = measure_bound(embedder, rows, found, edit_rows=8)
    report = diagnose(measured, semantic_bank(embedder, texts), SETTINGS)
    assert report["rows"] == {"calibration": 260, "test": 260}
    for facts in (report["overall"], *report["languages"].values()):
        assert facts["bound"]["inside"] >= 0.99
        assert facts["uniform"]["inside"] >= facts["uniform"]["promised"] - 0.01
        assert facts["output"]["inside_secant"] >= 0.99
        assert 0 < facts["bound"]["tightness"] < 1
    for line in report["sensitivity"]:  # under any settings of the estimator, as C is fitted to them
        assert line["inside"] >= 0.98
    first = report["sensitivity"][0]
    assert (first["changed"], first["C"]) == ("as set", report["C"])


def test_distances_are_those_of_the_models_own_vectors(trained, rows, found, measured, bank):
    model, features = trained.model, trained.features
    some = range(0, len(rows), 37)
    with torch.no_grad():
        for place in some:
            row, texts = rows[place], found[0][place]
            given = {"source_features": torch.from_numpy(features.compute("source", [row.text]))}
            mine = model(**given, anchor_features=pad_candidates(features, [texts])["anchor_features"])
            given = {"source_features": torch.from_numpy(features.compute("source", [row.reference]))}
            anchor = pad_candidates(features, [[row.reference]])["anchor_features"]
            ideal = model(**given, anchor_features=anchor)
            goal = ideal.anchor_embeds[0, 0]
            assert measured.anchoring[place] == pytest.approx((mine.source_embeds[0] - goal).norm().item(), abs=1e-4)
            away = (mine.anchor_embeds[0, 0] - goal).norm().item()
            assert measured.translation[place] == pytest.approx(away, abs=1e-4)
            drift = (mine.source_embeds[0] - ideal.source_embeds[0]).norm().item()
            assert measured.drift[place] == pytest.approx(drift, abs=1e-4)
            assert measured.english[place] == pytest.approx((ideal.source_embeds[0] - goal).norm().item(), abs=1e-4)
    right = [place for place in range(len(rows)) if found[0][place] == [rows[place].reference]]
    fit = fit_bound(measured, bank, SETTINGS)
    assert len(right) > 300
    np.testing.assert_allclose(measured.translation[right], 0, atol=1e-5)
    np.testing.assert_allclose(fit.fidelity[right], 0, atol=1e-5)
    assert (measured.anchoring <= measured.drift + measured.english + 1e-9).all()
    with torch.no_grad():
        anchors = pad_candidates(features, [[text] for text in ENGLISH])["anchor_features"]
        vectors = trained.model.arca(None, anchors).anchor_embeds[:, 0].double()
    pairs = torch.cdist(vectors, vectors).square().sum() / (len(ENGLISH) * (len(ENGLISH) - 1))
    assert measured.unrelated == pytest.approx(pairs.sqrt().item(), rel=1e-3)
    embeds = trained.encode([row.text for row in rows[:5]], ["vi", "ur"] * 2 + ["vi"], found[0][:5])
    ideal = trained.encode([row.reference for row in rows[:5]], "en")
    np.testing.assert_allclose(measured.output[:5], np.linalg.norm(embeds - ideal, axis=-1), atol=1e-4)


def test_a_corrupted_translator_raises_eps2_and_not_eps1(trained, rows, found, measured, bank):
    worse = [[_corrupt(_corrupt(text, n), n + 5) for text in row] for n, row in enumerate(found[0])]
    corrupted = measure_bound(trained, rows, (worse, *found[1:]), edit_rows=0)
    np.testing.assert_array_equal(corrupted.anchoring, measured.anchoring)
    before, after = (drift_point("", each, bank, SETTINGS) for each in (measured, corrupted))
    for tag in ("vi", "ur"):
        assert after["languages"][tag]["eps1"] == before["languages"][tag]["eps1"]
        assert after["languages"][tag]["eps2"] > 2 * before["languages"][tag]["eps2"] + 1e-4
        assert after["languages"][tag]["translation"] > 2 * before["languages"][tag]["translation"]


def test_a_perturbed_g_raises_eps1_and_not_eps2(trained, rows, found, measured, bank):
    model = copy.deepcopy(trained.model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.encoder.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * weight.std() * 2)
    perturbed = measure_bound(LiraEmbedder(model, trained.processor), rows, found, edit_rows=0)
    before, after = (drift_point("", each, bank, SETTINGS) for each in (measured, perturbed))
    for tag in ("vi", "ur"):
        assert after["languages"][tag]["eps1"] > 1.2 * before["languages"][tag]["eps1"]
        assert after["languages"][tag]["eps2"] == pytest.approx(before["languages"][tag]["eps2"], rel=1e-6, abs=1e-9)
    np.testing.assert_allclose(perturbed.translation, measured.translation, atol=1e-5)


def test_with_several_candidates_g_has_a_say_in_the_choice_alone(trained, rows, found, bank):
    """The closest candidate is the same whatever g says; what is weighed follows the policy."""
    two = [[_corrupt(row.reference, n), row.reference] for n, row in enumerate(rows)]
    pairs = (two, [[None, None] for _ in rows], [["a", "b"] for _ in rows])
    measured = measure_bound(trained, rows, pairs, edit_rows=0)
    np.testing.assert_allclose(measured.best_translation, 0, atol=1e-5)
    assert measured.translation.mean() > 0.02 * measured.unrelated
    report = diagnose(measured, bank, SETTINGS, sensitivity=False)
    for facts in report["languages"].values():
        assert facts["ratios"]["best_candidate"] < 1e-3
        assert facts["eps2_best_candidate"] < 1e-5 < facts["eps2"]["mean"]


@pytest.mark.parametrize("weight", [0.5, 0.8])
def test_of_an_untrained_head_the_local_lipschitz_constant_is_known(weight):
    """Its output is [sqrt(w) g; sqrt(1 - w) h], so an edit of y moves it by sqrt(1 - w) times what it moves h."""
    model = LiraModel.from_backbones(parts.encoder("bert"), parts.encoder("bert", seed=1), path_weight=weight)
    tokenizer = parts.word_tokenizer()
    embedder = LiraEmbedder(model, LiraProcessor.from_backbones(tokenizer, tokenizer))
    english = [" ".join(words) for words in itertools.combinations(parts.WORDS[:8], 3)]
    rows = [BoundRow(text, "vi", other, n % 2 == 0) for n, (text, other) in enumerate(itertools.pairwise(english))]
    texts = ([[row.text] for row in rows], [[None] for _ in rows], [[None] for _ in rows])
    measured = measure_bound(embedder, rows, texts, space="frozen", edit_rows=20)
    assert len(measured.lipschitz) == 20
    np.testing.assert_allclose(list(measured.lipschitz.values()), (1 - weight) ** 0.5, rtol=1e-3)
    report = diagnose(measured, semantic_bank(embedder, english), BoundSettings(level=0.9), sensitivity=False)
    assert report["lipschitz"]["local"] == pytest.approx((1 - weight) ** 0.5, rel=1e-3)
    # ||f(z) - f(z*)||^2 = w |g(x) - g(y*)|^2 + (1 - w) |h(x) - h(y*)|^2
    source = embedder.features.compute("source", [text for row in rows for text in (row.text, row.reference)])[:, 0]
    source = (source / np.linalg.norm(source, axis=-1, keepdims=True)).reshape(len(rows), 2, -1)
    squared = weight * np.square(source[:, 0] - source[:, 1]).sum(-1) + (1 - weight) * measured.translation**2
    np.testing.assert_allclose(measured.output, np.sqrt(squared), atol=1e-3)


def test_f_may_be_a_base_lm():
    """Where the embedding is read off the base LM, its last state is what the edits move."""
    causal, processor = parts.causal_with_processor(embedding_source="language_model")
    embedder = LiraEmbedder(causal.base_model, processor)
    english = [" ".join(words) for words in itertools.combinations(parts.WORDS[:6], 3)]
    rows = [BoundRow(text, "bn", other, n % 2 == 0) for n, (text, other) in enumerate(itertools.pairwise(english))]
    texts = ([[row.text] for row in rows], [[None] for _ in rows], [[None] for _ in rows])
    measured = measure_bound(embedder, rows, texts, edit_rows=4)
    embeds = embedder.encode([row.text for row in rows], "bn", texts[0])
    ideal = embedder.encode([row.reference for row in rows], "en")
    np.testing.assert_allclose(measured.output, np.linalg.norm(embeds - ideal, axis=-1), atol=1e-4)
    assert len(measured.lipschitz) == 4
    assert min(measured.lipschitz.values()) > 0


def test_the_report_is_the_same_every_time_and_whatever_the_order(trained, rows, found, texts, measured, bank):
    again = measure_bound(trained, rows, found, edit_rows=8)
    report = diagnose(measured, bank, SETTINGS)
    assert json.dumps(report) == json.dumps(diagnose(again, semantic_bank(trained, texts), SETTINGS))
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = measure_bound(
        trained, [rows[n] for n in order], tuple([column[n] for n in order] for column in found), edit_rows=8
    )
    other = diagnose(shuffled, bank, SETTINGS)
    assert other["C"] == pytest.approx(report["C"], rel=1e-4)
    assert other["lipschitz"]["local"] == pytest.approx(report["lipschitz"]["local"], rel=1e-3)
    assert other["languages"]["ur"]["verdict"]["suffers_from"] == report["languages"]["ur"]["verdict"]["suffers_from"]


def test_small_and_missing_languages_are_shown_and_marked(trained, rows, found, bank):
    few = [BoundRow(row.text, "th", row.reference, row.calibration) for row in rows[:12]]
    none = [BoundRow(row.text, "bn", row.reference, row.calibration) for row in rows[:7]]
    lost = [BoundRow(row.text, "vi", row.reference, row.calibration) for row in rows[:60]]
    more = tuple([*column, *column[:12], *([[]] * 67)] for column in found)
    measured = measure_bound(trained, [*rows, *few, *none, *lost], more, edit_rows=4)
    assert measured.without_candidates == {"bn": 7, "vi": 60}
    report = diagnose(measured, bank, SETTINGS)
    report |= {"model": "m", "data": "d"}
    assert [tag for tag, facts in report["languages"].items() if facts["few"]] == ["bn", "th"]
    thai, bengali, vietnamese = (report["languages"][tag]["verdict"] for tag in ("th", "bn", "vi"))
    assert "Only 6 test rows" in " ".join(thai["advice"])
    assert report["languages"]["th"]["uniform"]["promised"] < 0.8
    assert bengali["suffers_from"] == "unknown"
    assert "100% of its rows have no candidate" in " ".join(bengali["advice"])
    assert "19% of its rows have no candidate" in " ".join(vietnamese["advice"])
    page = diagnosis_markdown(report)
    assert "| th | 6 (few) |" in page
    assert "| bn | 0 (few) |" in page
    assert "67 without candidates" in page


def _facts(share=0.5, relative=0.8, drift=0.3, best=1.0, test=100, missing=0):
    ratios = {"relative_deviation": relative, "drift": drift, "best_candidate": best}
    facts = {"eps1_english": 0.4, "test": test, "calibration": 100, "few": test < 30, "without_candidates": missing}
    return facts | {"shares": {"anchoring": share}, "ratios": ratios}


@pytest.mark.parametrize(
    ("facts", "kind", "words"),
    [
        (_facts(share=0.9, drift=0.8), "anchoring", ["90%", "80% as far", "more parallel rows"]),
        (_facts(share=0.9, drift=0.4), "anchoring", ["40% as far", "0.400 off on the English", "the adaptor"]),
        (_facts(share=0.2, best=0.95), "translation", ["80% translation", "0.95", "better translator"]),
        (_facts(share=0.2, best=0.4), "translation", ["0.40", "lira judge"]),
        (_facts(share=0.5), "both", ["Anchoring:", "Translation:"]),
        (_facts(relative=0.1), "little", ["10%", "little to gain"]),
        (_facts(missing=100), "both", ["33% of its rows have no candidate"]),
        (_facts(test=5), "both", ["Only 5 test rows"]),
    ],
)
def test_advice_follows_the_figures(facts, kind, words):
    verdict = advise("ur", facts, 1.2)
    assert verdict["suffers_from"] == kind
    told = " ".join(verdict["advice"])
    for word in ["Urdu", *words]:
        assert word in told
    assert "collapsed" not in told
    assert "collapsed" in " ".join(advise("ur", facts, 0.01)["advice"])


def test_the_advice_turns_at_its_thresholds():
    limit = THRESHOLDS["dominant"]
    assert advise("th", _facts(share=limit), 1.0)["suffers_from"] == "anchoring"
    assert advise("th", _facts(share=limit - 0.01), 1.0)["suffers_from"] == "both"
    assert advise("th", _facts(share=1 - limit - 0.01), 1.0)["suffers_from"] == "translation"
    assert advise("th", _facts(relative=THRESHOLDS["small"]), 1.0)["suffers_from"] == "both"


def test_rows_and_plots_hold_what_was_measured(measured, bank, tmp_path):
    fit = fit_bound(measured, bank, SETTINGS)
    write_diagnosis_rows(tmp_path / "rows.tsv", measured, fit)
    lines = (tmp_path / "rows.tsv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(measured.rows) + 1
    cells = [dict(zip(lines[0].split("\t"), line.split("\t"), strict=True)) for line in lines[1:]]
    inside = np.mean([cell["inside"] == "1" for cell in cells if cell["side"] == "test"])
    report = diagnose(measured, bank, SETTINGS)
    assert inside == pytest.approx(report["overall"]["bound"]["inside"])
    assert [cell["english"] for cell in cells] == [row.reference for row in measured.rows]
    summary = bound_summary(report)
    assert summary["C"] == report["C"]
    assert set(summary["vi"]) == {"eps1", "eps2", "anchoring's share"}
    pytest.importorskip("matplotlib")
    plot_diagnosis(report, measured, fit, SETTINGS, tmp_path / "report.png")
    points = [drift_point(name, measured, bank, SETTINGS) for name in ("checkpoint-1", "checkpoint-2")]
    plot_drift(points, tmp_path / "drift.png")
    for name in ("report.png", "drift.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_what_cant_be_measured_is_refused(trained, random_embedder, rows, found, bank, measured):
    with pytest.raises(ValueError, match="got no candidate translation for any of 520 rows; expected some"):
        find_row_candidates(LiraEmbedder(trained.model, trained.processor, CandidateSource()), rows)
    with pytest.raises(ValueError, match="g of 16 dimensions and an h of 24; expected equal widths"):
        measure_bound(trained, rows, found, space="frozen")
    with pytest.raises(ValueError, match="space is 'raw'; expected one of"):
        measure_bound(trained, rows, found, space="raw")
    small = measure_bound(trained, rows[:100], tuple(column[:100] for column in found), edit_rows=0)
    with pytest.raises(ValueError, match="got 50 calibration rows; expected at least 199"):
        diagnose(small, bank, SETTINGS)
    held = [BoundRow(row.text, row.language, row.reference, True) for row in rows[:100]]
    alone = measure_bound(trained, held, tuple(column[:100] for column in found), edit_rows=0)
    with pytest.raises(ValueError, match="all for calibration; expected some to check the bound on"):
        diagnose(alone, bank, SETTINGS)
