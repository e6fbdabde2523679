"""The demo without its page: languages, examples, candidates by hand, answers, and HTML in which no text is markup."""

import re
import threading
from html.parser import HTMLParser

import pytest
from tiny_lira import causal_with_processor

from lira_hf.data import BeirDataset, Query, read_beir
from lira_hf.inference import CandidateSource, ComparedDocuments, LiraEmbedder, LiraExplainer, LiraGenerator
from lira_hf.integrations.demo import DemoWorker, LiraDemo
from lira_hf.integrations.demo_html import render_answers, render_error, render_heading, render_shown
from lira_hf.translation import CandidateStore, HeuristicCritic, Identity, Lexicon, TranslationMemory


PAIRS = [("vi", "derv reviru", "red river"), ("vi", "esuohv", "house"), ("ur", "لال دریا", "red river")]
CORPUS = {"d1": "red river", "d2": "green house", "d3": "blue moon"}
QUERIES = {
    "q1": Query("derv reviru", "vi"),
    "q2": Query("لال دریا", "ur"),
    "q3": Query("esuohv", "vi"),
    "q4": Query("neergv", "vi"),
    "q5": Query("no language"),
    "q6": Query("judged irrelevant", "vi"),
}
QRELS = {"q1": {"d1": 1, "d3": 0}, "q2": {"d1": 1}, "q3": {"d2": 2}, "q4": {"d2": 1}, "q5": {"d3": 1}, "q6": {"d3": 0}}
EVIL = "</td><script>alert(1)</script><b onclick='x'>\" ${1+1} {{ 7*7 }}"


@pytest.fixture(scope="module")
def embedder(tiny_lira):
    critic = HeuristicCritic(Lexicon.fit(PAIRS))
    return LiraEmbedder(*tiny_lira(), CandidateSource(None, TranslationMemory.fit(PAIRS), critic))


@pytest.fixture(scope="module")
def data():
    return BeirDataset(CORPUS, QUERIES, QRELS)


@pytest.fixture(scope="module")
def demo(embedder, data):
    return LiraDemo(LiraExplainer(embedder, ComparedDocuments(embedder, CORPUS)), data, name="tiny")


class Reader(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(page)
        self.close()
        assert self.open == []  # every tag is closed

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


# Languages and examples


def test_languages_of_the_checkpoint_and_of_the_data_are_offered(embedder, data):
    assert LiraDemo(LiraExplainer(embedder), data).languages == ["en", "ur", "vi"]
    more = BeirDataset({"d": "x"}, {"q": Query("ঢাকা", "bn")}, {"q": {"d": 1}})
    choices = LiraDemo(LiraExplainer(embedder), more).language_choices()
    assert choices[0] == ("detect by script", "detect")
    named = {"bn": "Bangla", "en": "English", "ur": "Urdu", "vi": "Vietnamese"}
    assert choices[1:-1] == [(f"{name} ({tag})", tag) for tag, name in named.items()]
    assert choices[-1][1] == "und"


@pytest.mark.parametrize(
    ("choice", "text", "tag", "note"),
    [
        ("ur", "red", "ur", None),
        ("urd", "red", "ur", None),
        ("detect", "دریا", "ur", "Taken for Urdu, by its script."),
        (None, "دریا red", "ur", "Taken for Urdu"),
        ("detect", "derv", None, "English, Vietnamese are written in this script: choose one"),
        ("detect", "ঢাকা", None, "None of the languages offered is written in this script"),
        ("detect", "12 + 3", None, "None of the languages offered"),
        ("und", "دریا", None, "counts as unknown"),
        ("detect", "derv reviru", "vi", None),  # a query of the data is known
    ],
)
def test_a_language_is_told_or_found(demo, choice, text, tag, note):
    found, said = demo.resolve_language(choice, text)
    assert found == tag
    assert said is None if note is None else note in said


def test_an_unknown_tag(demo):
    with pytest.raises(ValueError, match="unknown language tag 'bengla'.*'bn'"):
        demo.look("red", "bengla")


def test_examples_are_spread_over_languages(demo):
    assert [(example.text, example.language) for example in demo.examples(2)] == [
        ("لال دریا", "ur"),
        ("derv reviru", "vi"),
        ("esuohv", "vi"),
    ]
    assert demo.examples(1)[0].relevant == ("d1",)
    assert len(demo.examples(9)) == 4  # those without a language, or an answer, are left out
    assert LiraDemo(demo.explainer).examples() == []


# A text


def test_a_known_query_has_its_relevant_documents(demo):
    shown = demo.look("derv reviru", "vi")
    assert shown.relevant == (("d1", "red river"),)
    assert [hit.id for hit in shown.explanation.results[0].hits if hit.relevant] == ["d1"]
    assert demo.look("derv reviru", "ur").relevant == ()  # it was asked in another language
    assert demo.look("derv reviru", "und").relevant == (("d1", "red river"),)
    assert demo.look("derv revir", "vi").relevant == ()
    assert demo.look("judged irrelevant", "vi").relevant == ()


def test_candidates_by_hand_come_first_and_are_judged(demo, embedder):
    own = [one.text for one in embedder.candidates.find(["derv reviru"], ["vi"])[0]]
    assert own[0] == "red river"
    found = demo.look("derv reviru", "vi", " the red one\n\nRED one\nred river\nthe RED one ").explanation.candidates
    assert [one.text for one in found] == ["the red one", "RED one", "red river", *own[1:]]
    assert [one.kind for one in found] == ["by hand"] * 3 + ["memory"] * len(own[1:])
    texts = [one.text for one in found[:3]]
    assert [one.scores for one in found[:3]] == embedder.candidates.critic.judge(["derv reviru"], "vi", [texts])[0]
    assert [one.scores for one in demo.look("derv", "und", "a").explanation.candidates] == [None]  # in no language
    many = demo.look("derv", "und", "\n".join(f"number {n}" for n in range(50))).explanation.candidates
    assert len(many) == 20


def test_without_a_source_or_documents(tiny_lira):
    demo = LiraDemo(LiraExplainer(LiraEmbedder(*tiny_lira())))
    assert not demo.has_source
    shown = demo.look("derv reviru", "vi")
    assert shown.explanation.results == ()
    assert any("There is no candidate" in note for note in shown.notes)
    assert "start the demo with DATA or --vectors" in render_shown(shown)
    assert "no documents" in render_heading(demo)
    assert "type them in by hand" in render_heading(demo)
    by_hand = demo.look("derv reviru", "vi", "red river")
    assert by_hand.notes == ()
    assert "by hand" in render_shown(by_hand)


def test_bad_texts(demo):
    with pytest.raises(ValueError, match="The text is empty; write"):
        demo.look(" \n")
    with pytest.raises(ValueError, match="has 20,001 characters, the most are 20,000"):
        demo.look("x" * 20_001)
    assert demo.look("\ud800 red", "en").explanation.text == "\ufffd red"


# Answers


def test_three_answers_beside_each_other():
    model, processor = causal_with_processor()
    generator = LiraGenerator(model, processor)
    demo = LiraDemo(LiraExplainer(LiraEmbedder(model.lira, processor)), generator=generator)
    answers = demo.ask("ঢাকা city", "bn", "Dhaka city\nthe big river", max_new_tokens=5)
    options = {"max_new_tokens": 5, "do_sample": False}
    candidates = [["Dhaka city", "the big river"]]
    assert answers.lira == generator.generate(["ঢাকা city"], "bn", candidates, **options)[0]
    assert answers.base == generator.generate(["ঢাকা city"], "bn", prefix=False, **options)[0]
    assert answers.translation == "Dhaka city"
    assert answers.translated == generator.generate(["Dhaka city"], prefix=False, **options)[0]
    alone = demo.ask("ঢাকা city", "bn", max_new_tokens=5)
    assert alone.translated is None
    assert alone.lira == generator.generate(["ঢাকা city"], "bn", [[]], **options)[0]
    assert len(re.findall("<h4>", render_answers(answers))) == 3
    assert len(re.findall("<h4>", render_answers(alone))) == 2


def test_a_checkpoint_without_a_base_lm_answers_nothing(demo):
    with pytest.raises(ValueError, match="without a base LM; expected one that answers"):
        demo.ask("derv", "vi")


# HTML


def test_the_panels_hold_every_figure(demo):
    shown = demo.look("derv reviru", "vi", "blue moon")
    page = Reader(render_shown(shown))
    found = shown.explanation
    for one in found.candidates:
        assert one.text in page.text
        assert "{:.1f} · {:.1f} · {:.1f}".format(*one.scores) in page.text
        assert f"{one.similarity:.3f}" in page.text
        assert f"{100 * one.policy:.0f} %" in page.text
    for result in (*found.results, *found.neighbours):
        assert result.system in page.text
        assert all(f"{hit.score:.3f}" in page.text for hit in result.hits)
    assert page.text.count("✓ at place") + page.text.count("not among the first 100") == 4
    assert "Vietnamese (vi)" in page.text
    chosen = [tag for tag, attributes in page.tags if attributes.get("class") == "chosen"]
    assert chosen == ["tr"]
    unjudged = demo.look("derv", "und", "a")
    assert "not judged" in render_shown(unjudged)
    assert "not judged" not in page.text


def test_no_text_is_markup(embedder):
    corpus = {f"d{EVIL}": f"red {EVIL}", "d2": "moon"}
    data = BeirDataset(corpus, {"q": Query(f"x {EVIL}", "vi")}, {"q": {f"d{EVIL}": 1}})
    demo = LiraDemo(LiraExplainer(embedder, ComparedDocuments(embedder, corpus)), data, name=EVIL)
    page = Reader(render_shown(demo.look(f"x {EVIL}", "vi", f"y {EVIL}")))
    assert page.text.count(EVIL) >= 8
    reference = Reader(render_shown(demo.look("x", "vi", "y")))
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in reference.tags}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    for part in (render_error(EVIL), render_heading(demo)):
        assert EVIL in Reader(part).text
        assert "<script" not in part


def test_the_direction_is_left_to_the_text(demo):
    tags = Reader(render_shown(demo.look("لال دریا", "ur"))).tags
    texts = [attributes for _, attributes in tags if "text" in (attributes.get("class") or "").split()]
    assert len(texts) > 10
    assert all(attributes["dir"] == "auto" for attributes in texts)
    assert any(attributes.get("lang") == "ur" for attributes in texts)


# The thread


def test_one_thread_makes_and_answers(tiny_lira, tiny_data):
    made = []

    def make():
        made.append(threading.current_thread())
        store = CandidateStore(tiny_data / "store.sqlite", read_only=True)  # one thread's alone
        source = CandidateSource(store, None, Identity("judge", "1"))
        return LiraDemo(LiraExplainer(LiraEmbedder(*tiny_lira(), source)), read_beir(tiny_data))

    worker, found = DemoWorker(make), []
    texts = [query.text for query in worker.demo.data.queries.values() if query.language == "vi"][:6]

    def look(text):
        found.append(worker.call(worker.demo.look, text, "vi").explanation)

    threads = [threading.Thread(target=look, args=[text]) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worker.close()
    assert sorted(one.text for one in found) == sorted(texts)
    assert all(len(one.candidates) == 2 for one in found)
    assert made[0] is not threading.current_thread()
    with pytest.raises(RuntimeError, match="a call after close"):
        worker.call(worker.demo.look, texts[0])


def test_what_goes_wrong_in_the_thread_is_raised():
    def fail():
        raise ValueError("no model")

    with pytest.raises(ValueError, match="no model"):
        DemoWorker(fail)
