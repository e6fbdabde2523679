"""From symbol to file, and the reference: what they name is there, and nothing public is missing."""

import importlib
import importlib.util
import re
import shutil
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
SYMBOLS = ROOT / "docs" / "symbols.md"
_ROW = re.compile(r"\| \[?`(\w+)`(?:\]\([^)]*\))? \| \[[^\]]*\]\(\.\./(src/[^)]*)\) \|(.*)\|$", re.MULTILINE)


@pytest.fixture(scope="session")
def generate():
    """The script that writes the pages."""
    spec = importlib.util.spec_from_file_location("generate_api", ROOT / "docs" / "api" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate_api"] = module
    spec.loader.exec_module(module)
    return module


def rows(text: str) -> list[tuple[str, str, str]]:
    return _ROW.findall(text)


def holds(file: Path, name: str) -> bool:
    """Whether a file defines a name: a class, a function, a method, a field or a constant."""
    defined = re.compile(rf"^\s*(class |def |async def |type |[A-Z_]+, )*{name}\b\s*[(:=\[,]", re.MULTILINE)
    return defined.search(file.read_text(encoding="utf-8")) is not None


def test_every_row_of_both_parts_names_a_file_that_holds_the_symbol():
    method, names = SYMBOLS.read_text(encoding="utf-8").split("## Public names")
    table = [line for line in method.splitlines() if line.startswith("| ") and "`" in line]
    found = [(cells[2].strip(" `"), cells[3]) for cells in (line.split("|") for line in table)]
    assert len(found) > 35
    places = [(name, re.search(r"\(\.\./(src/[^)]+)\)", cell)[1]) for name, cell in found]
    places += [(name, file) for name, file, _ in rows(names)]
    assert [(name, file) for name, file in places if not holds(ROOT / file, name)] == []


def test_the_symbols_of_the_method_can_be_imported():
    method = SYMBOLS.read_text(encoding="utf-8").split("## Public names")[0]
    for name, file in re.findall(r"\| `(\w+)` \| \[[^\]]*\]\(\.\./src/([^)]+)\.py\)", method):
        module = importlib.import_module(file.replace("/", "."))
        holders = [module, *(thing for thing in vars(module).values() if isinstance(thing, type))]
        assert any(hasattr(holder, name) for holder in holders), (name, file)


def test_every_public_name_of_every_room_is_listed(generate):
    text = SYMBOLS.read_text(encoding="utf-8").split("## Public names")[1]
    rooms = {path.name for path in (ROOT / "src" / "lira_hf").iterdir() if (path / "__init__.py").is_file()}
    assert rooms - {"cli"} == set(generate.ROOMS) - {"lira_hf"}
    listed = {name for name, _, rest in rows(text) if re.search(r"\S", rest)}
    top = importlib.import_module("lira_hf")
    missing = set(top.__all__) - listed - {"__version__"}
    for room in generate.ROOMS[1:]:
        part = text.split(f"### lira_hf.{room}\n")[1].split("\n### ")[0]
        missing |= set(importlib.import_module(f"lira_hf.{room}").__all__) - {name for name, *_ in rows(part)}
    assert missing == set()


def test_what_is_the_papers_is_a_public_name(generate):
    names = {name for room in generate.public_names().values() for name in room}
    assert generate.PAPER.keys() - names == set()


@pytest.mark.slow
def test_the_reference_is_up_to_date(generate, tmp_path):
    """If this fails: .venv/bin/python docs/api/generate.py"""
    symbols = tmp_path / "symbols.md"
    shutil.copyfile(SYMBOLS, symbols)
    generate.write(tmp_path / "api", symbols)
    assert symbols.read_text(encoding="utf-8") == SYMBOLS.read_text(encoding="utf-8")
    kept = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "api").glob("*.md")}
    made = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "api").glob("*.md")}
    assert made.keys() == kept.keys()
    assert [name for name in made if made[name] != kept[name]] == []
