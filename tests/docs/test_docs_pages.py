"""The pages: every link leads somewhere, every command exists with its options, and the blocks of how-to run."""

import re
import shlex
from pathlib import Path

import pytest
from tiny_configs import build
from tiny_lira import CHAT, word_tokenizer
from typer.main import get_command

from lira_hf.cli.main import app


ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for folder in ("docs", "examples", "model_cards", ".")
    for path in ((ROOT / folder).rglob("*.md") if folder != "." else ROOT.glob("*.md"))
    if "templates" not in path.parts
)
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")


def page_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> list[str]:
    return [body for _, kind, body in _FENCE.findall(path.read_text(encoding="utf-8")) if kind == language]


def anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    text = _FENCE.sub("", path.read_text(encoding="utf-8"))
    heads = re.findall(r"^#+ (.+?)\s*$", text, re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", head).lower() for head in heads)
    return {re.sub(r"[^\w\- ]", "", head).replace(" ", "-") for head in plain}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page):
    broken = []
    for target in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


def lira_commands() -> list[tuple[str, str]]:
    """Page and command line, those of one block joined where a backslash ends the line."""
    found = []
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                start = re.match(r"(?:\S*bin/)?lira (?=\w)", line.strip())
                if start:
                    found.append((page_name(page), line.strip()[start.end() :]))
    return found


def test_there_are_commands_to_look_at():
    assert len(lira_commands()) > 30


@pytest.mark.parametrize(("page", "line"), lira_commands())
def test_commands_and_their_options_exist(page, line):
    command, words = get_command(app), shlex.split(line, comments=True)
    while words and hasattr(command, "commands"):
        name = words.pop(0)
        assert name in command.commands, f"{page}: lira {line}"
        command = command.commands[name]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert used <= known | {"--help"}, f"{page}: lira {line}"


def test_the_index_names_every_page():
    docs = ROOT / "docs"

    def linked(page: Path) -> set[Path]:
        targets = _LINK.findall(page.read_text(encoding="utf-8"))
        return {(page.parent / target.partition("#")[0]).resolve() for target in targets}

    assert set(docs.glob("*.md")) - linked(docs / "index.md") == {docs / "index.md"}
    # Results are named by the page that they belong to at least.
    assert set(docs.glob("results/*.md")) - set().union(*map(linked, docs.glob("*.md"))) == set()


def test_the_examples_page_names_every_example():
    text = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    files = [*(ROOT / "examples").glob("*.py"), *(ROOT / "examples" / "recipes").glob("*.yaml")]
    linked = " ".join(_LINK.findall(text))
    assert [path.name for path in files if path.name not in linked] == []
    assert "number_words/README.md" in linked


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT's own asking
def test_how_to_runs_as_it_stands(tiny_backbones, tiny_data, tmp_path, monkeypatch):
    """Block by block in one place, with tiny models and data under the names that the page has."""
    base = tmp_path / "base"
    build("llama").save_pretrained(base)
    word_tokenizer(bos=True, chat_template=CHAT).save_pretrained(base)
    tiny = {
        "BAAI/bge-m3": tiny_backbones["encoder"],
        "BAAI/bge-base-en-v1.5": tiny_backbones["anchor"],
        "Qwen/Qwen3-0.6B": str(base),
        "path/to/beir-folder": str(tiny_data),
        "path/to/candidates.sqlite": str(tiny_data / "store.sqlite"),
        '"max_steps": 300': '"max_steps": 2, "use_cpu": True, "disable_tqdm": True',
        '"per_device_train_batch_size": 256': '"per_device_train_batch_size": 8',
    }
    found = blocks(ROOT / "docs" / "how-to.md", "python")
    text = "\n".join(found)
    assert [name for name in tiny if name not in text] == []
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for number, block in enumerate(found, start=1):
        for name, replacement in tiny.items():
            block = block.replace(name, replacement)
        exec(compile(block, f"how-to.md, block {number}", "exec"), names)
    assert names["queries"].shape == (1, 40)
    assert names["hit"].id in "abc"
    stats = names["store"].stats()
    assert stats["translators"] == [{"name": "phrase-book", "fingerprint": "2026-11", "asked": 3, "candidates": 3}]
    assert stats["critics"] == [{"name": "length", "fingerprint": "1", "scores": 3}]
    assert names["loss"].item() > 0
    assert (tmp_path / "shared" / "README.md").is_file()
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
