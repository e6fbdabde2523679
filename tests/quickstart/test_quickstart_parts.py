"""Corpora, settings and folds of the quickstart."""

import subprocess

import pytest
from babel.messages import Catalog
from babel.messages.mofile import write_mo

from lira_hf.data import ParallelPair, read_beir
from lira_hf.quickstart import QuickstartSettings, catalog_corpus, cldr_corpus, write_corpus
from lira_hf.quickstart.corpus import DEBIAN_PACKAGES, Corpus, draw_rows
from lira_hf.quickstart.cross_fit import FOLDS, fold_of


@pytest.fixture(scope="module")
def cldr():
    return cldr_corpus(("vi", "bn"))


def test_cldr_sides_share_no_english_string(cldr):
    sides = [{pair.english.casefold() for pair in side} for side in (cldr.train, cldr.dev, cldr.test)]
    assert [len(side) > 200 for side in sides] == [True] * 3
    assert not sides[2] & (sides[0] | sides[1])
    assert not sides[1] & sides[0]
    assert cldr.cross_fit
    assert cldr.learn == cldr.train
    assert {pair.language for pair in cldr.test} == {"vi", "bn"}
    assert cldr_corpus(("vi", "bn")).test == cldr.test  # the same every time


def test_a_corpus_written_is_a_retrieval_set(cldr, tmp_path):
    few = Corpus(
        **{side: draw_rows(getattr(cldr, side), 30) for side in ("learn", "train", "dev", "test")}, cross_fit=True
    )
    write_corpus(few, tmp_path)
    pool = None
    for side in ("train", "dev", "test"):
        dataset = read_beir(tmp_path, side)
        pool = pool or dataset.corpus
        assert dataset.corpus == pool  # one pool for all sides
        found = {
            (dataset.queries[q].language, dataset.queries[q].text, dataset.corpus[d])
            for q, judged in dataset.qrels.items()
            for d in judged
        }
        assert found == {(pair.language, pair.text, pair.english) for pair in getattr(few, side)}
    assert len(set(pool.values())) == len(pool)


def test_drawn_rows_are_limited_by_language_and_stay_the_same(cldr):
    drawn = draw_rows(cldr.train, 25)
    assert {tag: sum(p.language == tag for p in drawn) for tag in ("vi", "bn")} == {"vi": 25, "bn": 25}
    assert drawn == draw_rows(cldr.train, 25)
    assert drawn != draw_rows(cldr.train, 25, seed=1)
    assert draw_rows(cldr.train, None) == cldr.train


def test_folds_keep_all_translations_of_a_text_together():
    texts = [f"text {number}" for number in range(400)]
    folds = [fold_of(text) for text in texts]
    assert [folds.count(fold) > 60 for fold in range(FOLDS)] == [True] * FOLDS
    assert [fold_of(text.upper()) for text in texts] == folds


# Catalogues


_SUBJECTS = ["window", "layer", "printer", "folder", "message", "network", "account", "channel", "picture", "keyboard"]
_VERBS = {"learn": "Close the", "train": "Rename this", "dev": "Configure another", "test": "Synchronise every"}


def _package(folder, name, rows):
    place = folder / name / "usr" / "share" / "locale" / "vi" / "LC_MESSAGES"
    place.mkdir(parents=True)
    catalog = Catalog(locale="vi", charset="utf-8")
    for english, text in rows:
        catalog.add(english, text)
    with (place / f"{name}.mo").open("wb") as file:
        write_mo(file, catalog)


def test_unpacked_packages_are_read_and_their_programs_kept_apart(tmp_path, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("a package that is there was fetched")

    monkeypatch.setattr(subprocess, "run", forbidden)
    shared = ("Remove the selected bookmark", "Xoá dấu trang đã chọn")
    for side, packages in DEBIAN_PACKAGES.items():
        for number, package in enumerate(packages):
            rows = [(f"{_VERBS[side]} {s} {package}", f"câu {side} {s} {package}") for s in _SUBJECTS[number:]]
            _package(tmp_path, package, [*rows, shared, ("x" * 300, "y" * 300)])
    corpus = catalog_corpus(tmp_path, ("vi",), most={"learn": 20, "test": 6})
    assert not corpus.cross_fit
    assert (len(corpus.learn), len(corpus.test)) == (20, 6)
    for side, packages in DEBIAN_PACKAGES.items():
        rows = getattr(corpus, side)
        assert rows
        assert {pair.origin.split("/", 1)[0] for pair in rows} <= set(packages)
        assert all(len(pair.english) <= 200 for pair in rows)
    for side in ("dev", "test"):
        assert shared[0] not in {pair.english for pair in getattr(corpus, side)}
    assert isinstance(corpus.test[0], ParallelPair)


@pytest.mark.parametrize("tool", ["apt-get", "dpkg-deb"])
def test_without_apt_it_says_what_to_do(tmp_path, monkeypatch, tool):
    monkeypatch.setattr("shutil.which", lambda name: None if name == tool else f"/usr/bin/{name}")
    with pytest.raises(
        RuntimeError, match=f"{tool} was not found; expected a Debian or Ubuntu machine.*--corpus cldr"
    ):
        catalog_corpus(tmp_path, ("vi",))


def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    failed = subprocess.CompletedProcess([], 100, "", "E: Unable to locate package")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(RuntimeError, match="`apt-get download .*Unable to locate package.*apt-get update"):
        catalog_corpus(tmp_path, ("vi",))


def test_an_unknown_corpus_is_an_error():
    with pytest.raises(ValueError, match=r"the corpus is 'web'; expected one of \('cldr', 'catalogs', 'study'\)"):
        QuickstartSettings(corpus="web")
