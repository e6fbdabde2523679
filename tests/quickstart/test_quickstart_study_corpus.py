import json
import zipfile

import pytest
from babel.messages import Catalog
from babel.messages.mofile import write_mo

from lira_hf.data import read_tsv, write_tsv
from lira_hf.quickstart import corpus as corpus_module
from lira_hf.quickstart.study_corpus import STUDY_PACKAGES, corpus_counts, package_versions, study_corpus


_VERBS = {"learn": "Delete", "train": "Rename", "dev": "Compress", "test": "Translate"}
_THINGS = ("picture", "window", "sentence", "keyboard", "orchestra", "vegetable")
_SHARED = ("Remove the selected bookmark", "Xoá dấu trang đã chọn")


def texts(side, package):
    number = STUDY_PACKAGES[side].index(package)
    things = _THINGS[number % 4 :]
    return [(f"{_VERBS[side]} {thing} {package}", f"câu {side} {thing} {package}") for thing in things]


def catalogue(path, rows):
    path.parent.mkdir(parents=True)
    catalog = Catalog(locale="vi", charset="utf-8")
    for english, text in rows:
        catalog.add(english, text)
    with path.open("wb") as file:
        write_mo(file, catalog)


def fluent(path, language, column, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        lines = "".join(f"key-{number} = {row[column]}\n" for number, row in enumerate(rows))
        archive.writestr(f"localization/{language}/browser/a.ftl", lines)


@pytest.fixture
def packages(tmp_path, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("a package that is there was fetched")

    monkeypatch.setattr(corpus_module.subprocess, "run", forbidden)
    folder = tmp_path / "debian"
    for side, names in STUDY_PACKAGES.items():
        for name in names:
            rows = [*texts(side, name), _SHARED, ("x" * 300, "y" * 300)]
            if name in ("mediawiki", "webext-ublock-origin-firefox"):
                messages = folder / name / "usr" / "share" / "thing" / "i18n"
                messages.mkdir(parents=True)
                for language, column in (("en", 0), ("vi", 1)):
                    content = {f"key-{number}": row[column] for number, row in enumerate(rows)}
                    (messages / f"{language}.json").write_text(json.dumps(content))
            elif name == "firefox-esr":
                fluent(folder / name / "usr" / "lib" / "omni.ja", "en-US", 0, rows)
            elif name == "firefox-esr-l10n-vi":
                rows = [*texts(side, "firefox-esr"), _SHARED, ("x" * 300, "y" * 300)]
                fluent(folder / name / "usr" / "lib" / "langpack.xpi", "vi", 1, rows)
            elif not name.startswith("firefox"):
                catalogue(folder / name / "usr" / "share" / "locale" / "vi" / "LC_MESSAGES" / f"{name}.mo", rows)
            else:
                (folder / name).mkdir(parents=True)
    (folder / "apt_1%3a2.6.1-1_amd64.deb").touch()
    return folder


def test_all_formats_are_read_and_programs_kept_apart(packages, tmp_path):
    corpus = study_corpus(packages, ("vi",), most={"learn": 25})
    assert not corpus.cross_fit
    assert len(corpus.learn) == 25
    for side, names in STUDY_PACKAGES.items():
        assert {pair.origin.split("/", 1)[0] for pair in getattr(corpus, side)} <= set(names)
        for other in ("dev", "test", "train"):
            assert other == side or _VERBS[side] not in {pair.english.split()[0] for pair in getattr(corpus, other)}
    assert {pair.english for pair in corpus.test} >= {english for english, _ in texts("test", "firefox-esr")[:1]}
    for side in ("train", "dev", "test"):  # it stands in every package, so only the first side may keep it
        assert _SHARED[0] not in {pair.english for pair in getattr(corpus, side)}
        assert all(len(pair.english) <= 200 for pair in getattr(corpus, side))
    assert {"firefox-esr/browser", "vlc-l10n/vlc-l10n"} <= {pair.origin for pair in corpus.test}
    assert "webext-ublock-origin-firefox/thing" in {pair.origin for pair in corpus.dev}
    assert study_corpus(packages, ("vi",), most={"learn": 25}) == corpus
    assert study_corpus(packages, ("vi",), most={"learn": 25}, seed=1).learn != corpus.learn
    write_tsv(tmp_path / "test.tsv", corpus.test)
    assert len(read_tsv(tmp_path / "test.tsv")) == len(corpus.test)


def test_counts_and_versions(packages):
    corpus = study_corpus(packages, ("vi",), most={"train": 5})
    counts = corpus_counts(corpus)
    assert list(counts) == list(STUDY_PACKAGES)
    assert sum(counts["train"]["vi"].values()) == 5
    assert sum(counts["test"]["vi"].values()) == len(corpus.test)
    assert list(counts["learn"]["vi"]) == sorted(counts["learn"]["vi"])
    versions = package_versions(packages)
    assert versions["dev"]["apt"] == "1:2.6.1-1"
    assert versions["learn"]["mediawiki"] == "unknown"
