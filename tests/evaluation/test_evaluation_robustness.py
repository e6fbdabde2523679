"""Robustness: the systems against what evaluates them elsewhere, noise over texts and candidates, points that are
kept."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr

from lira_hf.data import SimilarityPair, add_typos, read_beir, write_sts
from lira_hf.evaluation import (
    ROBUSTNESS_SYSTEMS,
    NoiseCurves,
    PairScores,
    RoadControls,
    RobustnessSystems,
    SourceTexts,
    TextNoise,
    choose_controls,
    evaluate_embedder,
    fill_clean,
    measure_systems,
    pair_difference,
    read_task,
    robustness,
    word_lexicon,
)
from lira_hf.evaluation.robustness_tasks import TaskDocuments
from lira_hf.inference import CandidateSource, LiraEmbedder, RoadFeatures
from lira_hf.translation import (
    Candidate,
    CandidateStore,
    GlossTranslator,
    Identity,
    Score,
    TranslationMemory,
    TranslatorUnion,
)


@pytest.fixture(scope="module")
def source(tiny_data):
    store = CandidateStore(tiny_data / "store.sqlite", read_only=True)
    return CandidateSource(store, critic=Identity("judge", "1"))


def shaken(model, seed=0):
    """Arca and LaSR start at a uniform policy and a zero delta; now every weight has a say."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in (model.arca, model.fusion, model.embedding_head):
            for weight in part.parameters():
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.3)
    return model


@pytest.fixture
def embedder(tiny_lira, source, tmp_path):
    """`embedder(seed)`: a model with random heads that tells the two kinds of candidates apart."""

    def make(seed=0, **config):
        model, processor = tiny_lira(candidate_kinds=["good", "poor"], path_weight=0.6, **config)
        processor.candidate_kinds = ["good", "poor"]
        shaken(model, seed)
        return LiraEmbedder(model, processor, source, RoadFeatures(model, processor, tmp_path / "features"), 7)

    return make


# Systems


def test_clean_figures_are_those_of_the_other_evaluators(embedder, tiny_data):
    dataset, one, other = read_beir(tiny_data, "test"), embedder(0), embedder(1)
    wanted = [evaluate_embedder(model, dataset) for model in (one, other)]
    alone = evaluate_embedder(one, dataset, translate=False)
    texts = [query.text for query in dataset.queries.values()]
    candidates, scores, _ = one.find_candidates(texts, [query.language for query in dataset.queries.values()])
    controls = RoadControls(dataset, one.features, candidates, scores)
    task, systems = read_task(tiny_data, "test", one, 100), RobustnessSystems([one, other], "best", 0.7)
    fill_clean(task, systems)
    found = measure_systems(task, systems, task.texts, TaskDocuments(task, systems))
    assert list(found["systems"]) == list(ROBUSTNESS_SYSTEMS)
    figures = {name: row["ndcg@10"] for name, row in found["systems"].items()}
    assert figures["LiRA"]["mean"] == pytest.approx(np.mean([scores.mean() for scores in wanted]))
    assert found["systems"]["LiRA"]["seeds"] == pytest.approx([scores.mean() for scores in wanted])
    assert found["systems"]["LiRA"]["mrr"]["ur"] == pytest.approx(
        np.mean([scores.per_language("mrr")["ur"] for scores in wanted])
    )
    for name, scores in {
        "g alone": controls.source_alone(),
        "translate, then h": controls.translated("best"),
        "concat": controls.concat("best", 0.7),
    }.items():
        assert figures[name] == pytest.approx({"mean": scores.mean(), **scores.per_language()}), name
    single = RobustnessSystems([embedder(0)], "best", 0.7)
    own = measure_systems(task, single, task.texts, TaskDocuments(task, single))["systems"]
    assert own["LiRA, no translation"]["ndcg@10"]["mean"] == pytest.approx(alone.mean())
    gain = found["differences"]["concat"]
    assert gain["mean"]["difference"] == pytest.approx(figures["LiRA"]["mean"] - figures["concat"]["mean"])
    assert gain["vi"]["low"] <= gain["vi"]["difference"] <= gain["vi"]["high"]


def test_the_start_leaves_out_what_lasr_has_learned(embedder, tiny_data):
    model = embedder()
    task = read_task(tiny_data, "test", model)
    vectors = RobustnessSystems([model]).embed(task.texts, "query")
    assert np.abs(vectors["LiRA"][0] - vectors["LiRA's start"][0]).max() > 0.05
    with torch.no_grad():
        for weight in (*model.model.fusion.parameters(), *model.model.embedding_head.parameters()):
            weight.zero_()
    plain = RobustnessSystems([model]).embed(task.texts, "query")
    np.testing.assert_allclose(plain["LiRA"][0], vectors["LiRA's start"][0], atol=1e-6)


def test_an_english_text_stays_its_own_candidate(embedder):
    model = embedder()
    texts = SourceTexts.find(model, ["red river", "der reviru"], ["en", "ur"])
    assert texts.candidates[0] == ["red river"]
    vectors = RobustnessSystems([model]).embed(texts, "query")
    np.testing.assert_allclose(vectors["LiRA"][0][0], vectors["LiRA, no translation"][0][0], atol=1e-6)


def test_noisy_features_are_computed_once_and_never_cached(embedder, tiny_data, monkeypatch):
    model = embedder()
    systems = RobustnessSystems([model])
    plain, held = systems.features.plain, systems.features
    clean = ["red river", "blue moon"]
    plain.fill("source", clean)
    passes = []
    compute = plain.compute
    monkeypatch.setattr(plain, "compute", lambda road, texts: passes.append(list(texts)) or compute(road, texts))
    found = held.get("source", ["rde river", "red river", "rde river"])
    assert passes == [["rde river"]]
    held.get("source", ["rde river", "blue moon"])
    assert len(passes) == 1
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[1], plain.get("source", ["red river"])[0])
    np.testing.assert_allclose(found[0], compute("source", ["rde river"])[0], atol=1e-6)
    assert plain.caches["source"].missing(["rde river", "red river"]) == ["rde river"]
    held.clear()
    held.get("source", ["rde river"])
    assert len(passes) == 2


def test_models_over_other_backbones_are_refused(embedder, tiny_lira, source):
    one = embedder()
    model, processor = tiny_lira()
    with torch.no_grad():
        next(model.encoder.parameters()).add_(1.0)
    with pytest.raises(ValueError, match="got models over different backbones; expected models that differ by seed"):
        RobustnessSystems([one, LiraEmbedder(model, processor, source)])


def test_controls_are_tuned_on_dev(embedder, tiny_data):
    model = embedder()
    dev, systems = read_task(tiny_data, "dev", model), RobustnessSystems([model])
    chosen = choose_controls(dev, systems)
    assert chosen["mixture"] in ("best", "second")  # the store's second candidate is the document itself
    assert chosen["dev"][f"translate ({chosen['mixture']}), then h"] == pytest.approx(1.0)
    assert chosen["dev"]["translate (first), then h"] < 0.9
    tried = {name: value for name, value in chosen["dev"].items() if name.startswith("concat")}
    assert tried[f"concat, path weight {chosen['path_weight']}"] == max(tried.values())


# Noise


def texts(count=20):
    rows = [f"derv reviru number{n}" for n in range(count)] + ["red river"]
    tags = ["vi", "ur"] * (count // 2) + ["en"]
    candidates = [[f"red river {n}", f"a house {n}"] for n in range(count)] + [["red river"]]
    scores = [[Score(9, 9, 9), Score(2, 2, 2)] for _ in range(count)] + [[None]]
    return SourceTexts(rows, tags, candidates, scores, [["good", "poor"]] * count + [[None]])


class Echo:
    """A translator that answers with what it was asked, and a critic that scores by length."""

    name, fingerprint = "echo", "1"

    def __init__(self):
        self.asked = []

    def translate(self, texts, language, num_candidates):
        self.asked += texts
        return [[Candidate(f"{language} {text}", "echo", "echo")] for text in texts]

    def judge(self, texts, language, candidates):
        return [[Score(1 + len(one) % 9, 1, 1) for one in row] for row in candidates]


def test_typos_keep_or_renew_translations():
    clean = texts()
    noisy, outcome = TextNoise(clean, ["en"], seed=3).apply("typos", 0.1)
    changed = [row for row in range(21) if noisy.texts[row] != clean.texts[row]]
    assert 5 < len(changed) < 21
    assert 20 not in changed  # English is left alone
    assert (noisy.candidates, noisy.scores, noisy.kinds) == (clean.candidates, clean.scores, clean.kinds)
    assert outcome["all"]["texts"] == 20
    assert outcome["all"]["texts_changed"] == len(changed) / 20
    assert outcome["vi"]["units"] == sum(add_typos(clean.texts[row], 0).units for row in range(0, 20, 2))
    assert sum(outcome["all"]["changes"].values()) == round(outcome["all"]["units_changed"] * outcome["all"]["units"])
    echo = Echo()
    again, _ = TextNoise(clean, ["en"], 3, critic=echo, translator=echo).apply("typos", 0.1, "again")
    assert again.texts == noisy.texts
    assert sorted(echo.asked) == sorted(noisy.texts[row] for row in changed)
    for row in range(21):
        if row in changed:
            assert again.candidates[row] == [f"{clean.languages[row]} {noisy.texts[row]}"]
            assert again.scores[row] == echo.judge(None, None, [again.candidates[row]])[0]
            assert again.kinds[row] == ["echo"]
        else:
            assert (again.candidates[row], again.kinds[row]) == (clean.candidates[row], clean.kinds[row])


def test_wrong_candidates_fool_a_stored_judge_and_not_a_live_one():
    clean, echo = texts(), Echo()
    noisy, outcome = TextNoise(clean, ["en"]).apply("candidates", 0.5)
    assert noisy.texts == clean.texts
    assert noisy.scores == clean.scores
    assert noisy.candidates[20] == ["red river"]
    changed = sum(a != b for a, b in zip(sum(noisy.candidates, []), sum(clean.candidates, []), strict=True))
    assert changed == pytest.approx(outcome["all"]["units_changed"] * 40)
    assert outcome["all"]["units"] == 40
    assert outcome["all"]["units_changed"] == pytest.approx(0.5, abs=0.2)
    assert {"another row's", "words missing", "wrong number"} == set(outcome["all"]["changes"])
    judged, _ = TextNoise(clean, ["en"], critic=echo).apply("candidates", 0.5)
    assert judged.candidates == noisy.candidates
    for row in range(20):
        live = echo.judge(None, None, [judged.candidates[row]])[0]
        assert judged.scores[row] == (live if judged.candidates[row] != clean.candidates[row] else clean.scores[row])


def test_a_live_critic_judges_what_has_no_scores(tiny_lira, tiny_data):
    model, processor = tiny_lira()
    store = CandidateStore(tiny_data / "store.sqlite", read_only=True)
    embedder = LiraEmbedder(model, processor, CandidateSource(store))
    echo = Echo()
    assert read_task(tiny_data, "test", embedder).texts.scores[0] == [None, None]
    task = read_task(tiny_data, "test", embedder, critic=echo)
    for row, scores in zip(task.texts.candidates, task.texts.scores, strict=True):
        assert scores == echo.judge(None, None, [row])[0]


def test_code_mixing_takes_its_words_from_the_translator_or_the_candidates():
    clean = texts()
    pairs = [("vi", "derv reviru", "red river"), ("vi", "derv", "red"), ("ur", "derv", "ruby")] * 3
    memory = TranslationMemory.fit(pairs)
    for translator in (memory, GlossTranslator.fit(pairs), TranslatorUnion([memory, GlossTranslator.fit(pairs)])):
        lexicon, words = word_lexicon(translator, clean, ["en"])
        assert words == "the translator's parallel text"
        noisy, _ = TextNoise(clean, ["en"], lexicon=lexicon).apply("code_mixing", 1.0)
        assert noisy.texts[0] == "red river number0"
        assert noisy.texts[1].startswith("ruby ")
        assert noisy.texts[20] == "red river"
    lexicon, words = word_lexicon(None, clean, ["en"])
    assert words == "the texts and their first candidates"
    assert len(lexicon.parallel) == 20
    assert word_lexicon(Echo(), SourceTexts(["a"], ["vi"], [[]], [[]], [[]]), ["en"]) == (None, "nothing")


def test_what_a_noise_lacks_is_said_before_anything_is_measured(embedder, tiny_data, tmp_path):
    noise = TextNoise(texts(), ["en"])
    with pytest.raises(ValueError, match="got the noise 'smoke'; expected one of"):
        noise.apply("smoke", 0.1)
    with pytest.raises(ValueError, match="translations='new'; expected one of"):
        noise.apply("typos", 0.1, "new")
    model = embedder()
    task, systems = read_task(tiny_data, "test", model), RobustnessSystems([model])
    curves = NoiseCurves(tmp_path / "run", task, systems, TextNoise(task.texts, ["en"]), {})
    with pytest.raises(ValueError, match="translations to be made again without a translator; expected one"):
        curves.run(["typos"], [0.1], ["kept", "again"])
    with pytest.raises(ValueError, match="got code-mixing and nothing to learn English words from"):
        curves.run(["typos", "code_mixing"], [0.1])
    assert not (tmp_path / "run" / "points").exists()


# Points


def test_a_run_that_was_cut_short_goes_on_and_more_rates_are_added(embedder, tiny_data, tmp_path, monkeypatch):
    model = embedder()
    task, systems = read_task(tiny_data, "test", model, resamples=100), RobustnessSystems([model])
    announced, measured = [], []

    def curves(seed=0):
        noise = TextNoise(task.texts, ["en"], seed)
        return NoiseCurves(tmp_path / "run", task, systems, noise, {"model": "x"}, announced.append)

    def cut(*arguments):
        measured.append(1)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return measure_systems(*arguments)

    monkeypatch.setattr(robustness, "measure_systems", cut)
    with pytest.raises(KeyboardInterrupt):
        curves().run(["typos"], [0.2, 0.6])
    assert announced == ["clean", "typos at 0.2, translations kept", "typos at 0.6, translations kept"]
    announced.clear()
    found = curves().run(["typos", "diacritics"], [0.2, 0.6])
    assert announced == [
        "typos at 0.6, translations kept",
        "diacritics at 0.2, translations kept",
        "diacritics at 0.6, translations kept",
    ]
    assert [point["rate"] for point in found] == [0.0, 0.2, 0.6] * 2
    assert found[0]["systems"] == found[3]["systems"]
    assert found[4]["systems"] == found[3]["systems"]  # backward words have no diacritics
    assert found[4]["outcome"]["all"]["units_changed"] == 0
    assert found[2]["outcome"]["all"]["units_changed"] == pytest.approx(0.6, abs=0.1)
    assert found[2]["systems"]["g alone"] != found[0]["systems"]["g alone"]
    assert found[2]["systems"]["translate, then h"] == found[0]["systems"]["translate, then h"]
    again = curves().run(["typos"], [0.2, 0.6])
    assert again == found[:3]
    assert len(measured) == 6
    with pytest.raises(ValueError, match="holds points of a run with other seed; expected the same to go on"):
        curves(seed=1)
    clean = json.loads((tmp_path / "run" / "points" / "clean.json").read_text())
    assert clean["systems"] == found[0]["systems"]


# Pairs


def test_correlations_of_pairs_per_language():
    generator = np.random.default_rng(0)
    gold, cosines = generator.normal(size=40), generator.normal(size=40)
    tags = ["vi"] * 25 + ["ur-en"] * 12 + ["th"] * 3
    cosines[37:] = 0.5  # constant
    scores = PairScores(tags, [str(n) for n in range(40)], gold, cosines)
    found = scores.per_language()
    assert found["vi"] == pytest.approx(pearsonr(cosines[:25], gold[:25]).statistic)
    assert found["th"] == 0
    assert scores.per_language("spearman")["ur-en"] == pytest.approx(spearmanr(cosines[25:37], gold[25:37]).statistic)
    assert scores.mean() == pytest.approx(np.mean(list(found.values())))


def test_pair_differences_are_those_of_a_naive_bootstrap_over_groups():
    generator = np.random.default_rng(1)
    gold = generator.normal(size=60)
    groups = [f"g{n // 2}" for n in range(60)]
    good, poor = (gold + generator.normal(scale=scale, size=60) for scale in (0.5, 2.0))
    tags = ["vi"] * 30 + ["ur"] * 30
    one, other = (PairScores(tags, groups, gold, cosines) for cosines in (good, poor))
    assert pair_difference([one], [one], resamples=200) == (0, 0, 0)
    found = pair_difference([one, one], [other], resamples=1000)
    assert found.difference == pytest.approx(one.mean() - other.mean())
    gains = []
    for _ in range(1000):
        drawn = generator.integers(30, size=30)
        rows = np.concatenate([[2 * place, 2 * place + 1] for place in drawn])
        sides = [rows[rows < 30], rows[rows >= 30]]
        gains.append(
            np.mean([pearsonr(good[at], gold[at]).statistic - pearsonr(poor[at], gold[at]).statistic for at in sides])
        )
    low, high = np.quantile(gains, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.04)
    assert found.high == pytest.approx(high, abs=0.04)
    only = pair_difference([one], [other], language="ur", resamples=100)
    assert only.difference == pytest.approx(one.per_language()["ur"] - other.per_language()["ur"])


def test_scored_pairs_are_measured_too(embedder, tiny_data, tmp_path):
    dataset = read_beir(tiny_data, "train")
    asked = {query.language: [] for query in dataset.queries.values()}
    for key, query in dataset.queries.items():
        asked[query.language].append((query.text, dataset.corpus[next(iter(dataset.qrels[key]))]))
    pairs = []
    for number in range(16):
        (text, one), (_, other) = asked["vi"][number], asked["vi"][(number * 3) % 16]
        score = len(set(one.split()) & set(other.split()))
        pairs.append(SimilarityPair(text, other, score, "vi", "en", split="test"))
        pairs.append(SimilarityPair(text, asked["ur"][(number * 3) % 16][0], score, "vi", "ur", split="test"))
    write_sts(tmp_path / "pairs.jsonl", pairs)
    model = embedder()
    task, systems = read_task(tmp_path / "pairs.jsonl", "test", model, 100), RobustnessSystems([model], "best", 0.6)
    found = measure_systems(task, systems, task.texts, TaskDocuments(task, systems))
    assert set(found["systems"]["LiRA"]["pearson"]) == {"mean", "vi-en", "vi-ur"}
    assert found["systems"]["translate, then h"]["pearson"]["mean"] > 0.5
    both = (
        model.encode([p.text1 for p in pairs], "vi", role="query"),
        model.encode([p.text2 for p in pairs], [p.language2 for p in pairs], role="query"),
    )
    cosines = (both[0] * both[1]).sum(-1)[1::2]
    wanted = pearsonr(cosines, [pair.score for pair in pairs[1::2]]).statistic
    assert found["systems"]["LiRA"]["pearson"]["vi-ur"] == pytest.approx(wanted, abs=1e-4)
    noise = TextNoise(task.texts, ["en"])
    noisy, _ = noise.apply("typos", 0.5)
    worse = measure_systems(task, systems, noisy, TaskDocuments(task, systems))
    assert worse["systems"]["g alone"] != found["systems"]["g alone"]
