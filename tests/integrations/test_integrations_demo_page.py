"""The demo's page in a real browser: what it shows, that nothing of the corpus is markup, and that it asks nothing of
another machine. Skipped without gradio, playwright and a Chromium."""

import os
import re
import shutil
import socket
from urllib.parse import urlsplit

import pytest
from tiny_lira import causal_with_processor

from lira_hf.data import BeirDataset, Query
from lira_hf.inference import (
    CandidateSource,
    ComparedDocuments,
    LiraEmbedder,
    LiraExplainer,
    LiraGenerator,
)
from lira_hf.integrations.demo import DemoWorker, LiraDemo
from lira_hf.translation import HeuristicCritic, Lexicon, TranslationMemory


pytest.importorskip("gradio", reason="needs the extra 'demo'")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

from lira_hf.integrations.demo_page import build_page, serve_page  # noqa: E402


pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")]

ATTACK = "<script>window.broken = 1</script><img src=x onerror='window.broken = 2'> ${window.broken = 3} {{value}}"
URDU = "لال دریا کا گھر"
CORPUS = {"d1": "red river", "d2": f"green house {ATTACK}", "d3": "blue moon", "d4": URDU}
QUERIES = {"q1": Query("derv reviru", "vi"), "q2": Query(URDU, "ur")}
DATA = BeirDataset(CORPUS, QUERIES, {"q1": {"d1": 1}, "q2": {"d4": 1}}, {"d4": "ur"})


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def connected():
    """Hosts that this process, the server's, has asked for or connected to."""
    hosts = []
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def watched_connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            hosts.append(address[0])
        return connect(self, address)

    def watched_look_up(host, *arguments, **options):
        hosts.append(host.decode() if isinstance(host, bytes) else str(host))
        return look_up(host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", watched_connect)
        patch.setattr(socket, "getaddrinfo", watched_look_up)
        yield hosts


@pytest.fixture(scope="module")
def serve(connected):
    """`serve(make)`: the address of a page over what `make` gives."""
    opened = []

    def start(make):
        worker = DemoWorker(make)
        page = build_page(worker)
        opened.append((page, worker))
        return serve_page(page, port=0, block=False)

    yield start
    for page, worker in opened:
        page.close()
        worker.close()


def embedding_demo(tiny_lira):
    pairs = [("vi", "derv reviru", "red river"), ("ur", URDU, "house of the red river")]
    critic = HeuristicCritic(Lexicon.fit(pairs))
    model, processor = tiny_lira()
    embedder = LiraEmbedder(model, processor, CandidateSource(None, TranslationMemory.fit(pairs), critic))
    documents = ComparedDocuments(embedder, DATA.corpus, DATA.document_languages)
    return LiraDemo(LiraExplainer(embedder, documents), DATA, name="tiny")


@pytest.fixture(scope="module")
def address(serve, tiny_lira):
    return serve(lambda: embedding_demo(tiny_lira))


@pytest.fixture
def visit(browser):
    """`visit(address)`: an open page; afterwards nothing may have left the machine or gone wrong in it."""
    asked, wrong = [], []
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)

    def open_page(url):
        page.goto(url)
        page.get_by_role("button", name=re.compile("^(Look|Ask)$")).first.wait_for()
        return page

    yield open_page
    hosts = {urlsplit(url).hostname for url in asked if urlsplit(url).scheme not in ("data", "blob")}
    assert hosts == {"127.0.0.1"}
    assert len(asked) > 5
    assert wrong == []
    context.close()


def look(page, text, tag=None, typed=None, button="Look"):
    page.get_by_label(re.compile("Text, in any|Question, in any")).last.fill(text)
    if tag is not None:
        page.get_by_label("Language").last.fill(tag)
        page.keyboard.press("Enter")
    if typed is not None:
        page.get_by_role("button", name="Candidate translations by hand").last.click()
        page.get_by_label("English, one a line").last.fill(typed)
    page.get_by_role("button", name=button, exact=True).click()


def test_a_text_is_looked_at(visit, address):
    page = visit(address)
    assert page.get_by_text("4 documents").is_visible()
    look(page, "derv reviru", "vi", "moon window")
    shown = page.locator("#lira-shown")
    shown.get_by_text("Search, with and without LiRA").wait_for()
    assert shown.locator("table td.text").all_inner_texts() == ["moon window", "red river"]
    assert shown.locator(".card h4").all_inner_texts() == [
        "g alone",
        "translate, then h",
        "concat, untrained",
        "LiRA",
        "multilingual road alone",
        "English road alone",
    ]
    assert re.search(r"✓ at place \d", shown.locator(".card.ours").inner_text())
    assert page.evaluate("window.broken") is None


def test_an_example_is_clicked_and_urdu_runs_from_right_to_left(visit, address):
    page = visit(address)
    page.get_by_text(URDU).first.click()
    shown = page.locator("#lira-shown")
    shown.get_by_text("Search, with and without LiRA").wait_for()
    assert shown.locator(".asked").inner_text() == URDU
    hit = shown.locator(".card.ours li.relevant .text")
    assert hit.evaluate("e => getComputedStyle(e).direction") == "rtl"
    assert shown.locator("td.text").first.evaluate("e => getComputedStyle(e).direction") == "ltr"
    assert page.locator("textarea").first.evaluate("e => getComputedStyle(e).unicodeBidi") == "plaintext"


def test_text_of_the_corpus_and_of_the_reader_is_no_markup(visit, address):
    page = visit(address)
    look(page, f"green house {ATTACK}", "en", f"house {ATTACK}")
    shown = page.locator("#lira-shown")
    shown.get_by_text("Search, with and without LiRA").wait_for()
    assert shown.locator(".asked").inner_text().startswith("green house <script>window.broken = 1</script><img")
    assert ATTACK in shown.locator("td.text").first.inner_text()
    assert ATTACK in shown.locator(".card.ours").inner_text()
    assert shown.locator("script, img").count() == 0
    page.wait_for_timeout(300)
    assert page.evaluate("window.broken") is None


def test_errors_are_told_in_the_page(visit, address):
    page = visit(address)
    look(page, "  ")
    error = page.locator("#lira-shown .error")
    error.wait_for()
    assert "The text is empty; write a word or a sentence." in error.inner_text()
    look(page, "derv", "bengla<b>")
    error.get_by_text("unknown language tag 'bengla<b>'").wait_for()
    assert "Traceback" not in page.content()


def test_a_narrow_screen_is_not_scrolled_sideways(visit, address):
    page = visit(address)
    page.set_viewport_size({"width": 390, "height": 800})
    look(page, "derv reviru", "vi")
    page.locator("#lira-shown").get_by_text("Search, with and without LiRA").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_questions_are_asked(visit, serve):
    def make():
        model, processor = causal_with_processor()
        return LiraDemo(LiraExplainer(LiraEmbedder(model.lira, processor)), None, LiraGenerator(model, processor))

    page = visit(serve(make))
    page.get_by_role("tab", name="Ask").click()
    look(page, "the cat sat", "en", button="Ask")
    answers = page.locator("#lira-answers")
    answers.get_by_text("the base LM alone").wait_for()
    titles = ["with LiRA", "the base LM alone", "translate, then the base LM"]
    assert answers.locator(".card h4").all_inner_texts() == titles


def test_only_this_machine_is_listened_to(address):
    found = []
    for host in ("127.0.0.1", "127.0.0.2"):  # the second answers where every address is listened to
        with socket.socket() as client:
            client.settimeout(5)
            found.append(client.connect_ex((host, urlsplit(address).port)) == 0)
    assert found == [True, False]


def test_the_server_asks_nothing_of_another_machine(address, connected):
    assert connected  # gradio looks whether its own page is there
    assert [host for host in connected if not host.startswith("127.") and host not in ("::1", "localhost")] == []


def test_no_statistics():
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
