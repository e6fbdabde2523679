"""Writes the reference in docs/api, and the list of names in docs/symbols.md, from signatures and docstrings.

Run it after a change to a public name or docstring: .venv/bin/python docs/api/generate.py
Names come from each room's `__all__`. It is of the standard library alone: our docstrings are Markdown already. `ruff`
formats the signatures.
"""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any


DOCS = Path(__file__).parents[1]
SOURCE = DOCS.parent / "src"
ROOMS = (
    "lira_hf",
    "models",
    "encoders",
    "losses",
    "translation",
    "data",
    "inference",
    "training",
    "evaluation",
    "model_card",
    "metrics",
    "integrations",
    "quickstart",
)
# Modules that a room doesn't import, for their packages. mteb isn't in a developer's environment: see docs/mteb.md.
EXTRA_MODULES = {"integrations": ("demo", "lm_eval")}
START, END = "<!-- written by docs/api/generate.py from here -->", "<!-- to here -->"
# What of a public name is the paper's, in the paper's own words; all else is ours.
PAPER = {
    "LiraArca": "paper: Arca",
    "LiraArcaOutput": "paper: Arca",
    "LiraFusion": "paper: LaSR",
    "LiraEmbeddingHead": "paper: LaSR; its start is ours",
    "LiraModel": "paper: Arca and LaSR",
    "LiraForCausalLM": "paper: LaSR before a base LM",
    "LiraForMultipleChoice": "paper: LaSR before a base LM; its head is ours",
    "anchor_loss": "paper: L_anchor; its contrastive term is ours",
    "cosine_anchor_loss": "paper: L_anchor",
    "candidate_reward": "paper: reward R_k; references are ours",
    "policy_loss": "paper: L_RL by REINFORCE; its other forms are ours",
    "CorrQueue": "paper: CorrQueue; ages and refresh are ours",
    "CorrEntries": "paper: CorrQueue",
    "CorrelationLoss": "paper: loss of ranking; the soft rank's form is ours",
    "CorrelationOutput": "paper: loss of ranking",
    "pearson_correlation": "paper: loss of ranking",
    "soft_spearman_correlation": "paper: loss of ranking; its form is ours",
    "DocQueue": "paper: DocQueue",
    "DocEntries": "paper: DocQueue",
    "FIFOQueue": "paper: queues",
    "RetrievalLoss": "paper: loss of retrieval",
    "RetrievalOutput": "paper: loss of retrieval",
    "soft_ndcg_loss": "paper: L_ndcg@k; its form is ours",
    "hinge_loss": "paper: L_hinge",
    "mean_variance_loss": "paper: L_mv, as we read it",
    "consistency_loss": "paper: consistency",
    "safe_negative_mask": "paper: safe negatives",
    "SafeNegatives": "paper: safe negatives",
    "Critic": "paper: translation critic",
    "LLMJudge": "paper: translation critic",
    "Score": "paper: (s, e, p)",
    "Candidate": "paper: y_k",
    "Translator": "paper: T(x)",
    "evaluate_mgsm": "paper: MGSM; the controls are ours",
    "evaluate_choices": "paper: X-CSQA; the controls are ours",
    "LiraQueueLoss": "paper: loss of retrieval",
    "LiraCorrelationLoss": "paper: loss of ranking",
    "fit_constant": "paper: C of the bound",
    "BoundRow": "paper: bound",
    "measure_bound": "paper: bound",
}
_SECTION = re.compile(r"^([A-Z][a-z]+):\s*$")
_LISTED = ("Args", "Attributes", "Raises", "Inputs")
_LINK = re.compile(r"\[`~?([\w.]+)`\]")


def room_modules(room: str) -> list[ModuleType]:
    """A room's modules whose `__all__` is public: its `__init__`, and those that need a further package."""
    name = "lira_hf" if room == "lira_hf" else f"lira_hf.{room}"
    found = [importlib.import_module(name)]
    for extra in EXTRA_MODULES.get(room, ()):
        if (SOURCE / "lira_hf" / room / f"{extra}.py").is_file():
            found.append(importlib.import_module(f"{name}.{extra}"))
    return found


def public_names() -> dict[str, dict[str, Any]]:
    """Each room's public names with what they are; the package's own first, which are those of the rooms."""
    found: dict[str, dict[str, Any]] = {}
    for room in ROOMS:
        modules = room_modules(room)
        found[room] = {name: getattr(module, name) for module in modules for name in sorted(module.__all__)}
    return found


def file_of(name: str, thing: Any, room: str) -> Path:
    """The file that holds a name, from the repository's root."""
    own = getattr(thing, "__module__", None)
    if (inspect.isclass(thing) or inspect.isroutine(thing)) and str(own).startswith("lira_hf"):
        return Path("src", *own.split(".")).with_suffix(".py") if _is_file(own) else _package_file(own)
    folder = SOURCE / "lira_hf" if room == "lira_hf" else SOURCE / "lira_hf" / room
    for path in sorted(folder.glob("*.py")) + sorted(SOURCE.rglob("*.py")):  # a constant, or an alias
        if re.search(rf"^(type |[A-Z_]+, )*{name}\b[^=\n]*=", path.read_text(encoding="utf-8"), re.MULTILINE):
            return path.relative_to(SOURCE.parent)
    raise LookupError(f"no file holds {name} of {room}")


def _is_file(module: str) -> bool:
    return SOURCE.joinpath(*module.split(".")).with_suffix(".py").is_file()


def _package_file(module: str) -> Path:
    return Path("src", *module.split("."), "__init__.py")


def first_sentence(thing: Any) -> str:
    """The docstring's first sentence on one line."""
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        return "A constant, or a type."
    text = " ".join(_own_docstring(thing).split("\n\n")[0].split())
    if not text or text.startswith("Args:"):
        return f"Holds {', '.join(f'`{name}`' for name in _fields(thing))}." if inspect.isclass(thing) else ""
    end = re.search(r"\.(?=\s+[A-Z`\[]|$)", text)
    return text[: end.start() + 1] if end else text


def _fields(thing: type) -> list[str]:
    return [name for name in getattr(thing, "__annotations__", {}) if not name.startswith("_")]


def _node(thing: Any) -> ast.AST | None:
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]
    except (OSError, TypeError, SyntaxError):
        return None


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef, bound: bool) -> str:
    arguments = node.args
    if bound:
        (arguments.posonlyargs or arguments.args).pop(0)
    return ast.unparse(arguments)


def _is_static(node: ast.AST) -> bool:
    return any(
        isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in getattr(node, "decorator_list", [])
    )


def function_signature(name: str, thing: Any, bound: bool = False) -> str:
    """As it stands in the source."""
    node = _node(thing)
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return f"def {name}(...): ..."
    returned = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    start = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    return f"{start} {name}({_arguments(node, bound and not _is_static(node))}){returned}: ..."


def class_signature(name: str, thing: type) -> str:
    """How it is made: `__init__`'s arguments, or the fields of a data class."""
    node = _node(thing)
    if not isinstance(node, ast.ClassDef):
        return f"class {name}: ..."
    made = next((part for part in node.body if getattr(part, "name", "") == "__init__"), None)
    if isinstance(made, ast.FunctionDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        head = f"class {name}({bases}):" if bases else f"class {name}:"
        return f"{head}\n    def __init__(self, {_arguments(made, True)}): ..."
    fields = [part for part in node.body if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)]
    shown = [part for part in fields if not part.target.id.startswith("_") and "ClassVar" not in ast.unparse(part)]
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    if not shown:
        return f"class {name}({bases}): ..." if bases else f"class {name}: ..."
    return f"class {name}{f'({bases})' if bases else ''}:\n" + "\n".join(f"    {ast.unparse(part)}" for part in shown)


def markdown_of(docstring: str, links: dict[str, str]) -> str:
    """A docstring in Hugging Face's style as Markdown: sections as lists, links to other symbols."""
    lines, found, section = inspect.cleandoc(docstring).splitlines(), [], ""
    place = 0
    while place < len(lines):
        head = _SECTION.match(lines[place])
        if head is None or place + 1 == len(lines) or not lines[place + 1].startswith(" "):
            found.append(lines[place])
            place += 1
            continue
        section, place = head[1], place + 1
        block = []
        while place < len(lines) and (not lines[place].strip() or lines[place].startswith(" ")):
            block.append(lines[place])
            place += 1
        found += ["", f"**{section}**", "", *_section(section, textwrap.dedent("\n".join(block)).strip("\n")), ""]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(found)).strip()
    parts = re.split(r"(^```.*?^```)", text, flags=re.DOTALL | re.MULTILINE)  # no links within code
    return "".join(
        part if part.startswith("```") else _LINK.sub(lambda m: _linked(m[1], links), part) for part in parts
    )


def _section(section: str, block: str) -> list[str]:
    if block.startswith(">>>"):
        return ["```pycon", *block.splitlines(), "```"]
    if section in _LISTED:
        items: list[str] = []
        for line in block.splitlines():
            if line and not line.startswith(" "):
                name, colon, rest = line.partition("):") if section != "Raises" else ("", "", "")
                shown = f"`{name.partition(' (')[0]}` ({name.partition(' (')[2]}):{rest}" if colon else line
                items.append(f"- {shown}")
            elif line.strip():
                items[-1:] = [f"{items[-1] if items else '-'} {line.strip()}"]
        return items
    return block.splitlines()


def _linked(name: str, links: dict[str, str]) -> str:
    first, _, method = name.partition(".")
    if first not in links:
        return f"`{name}`"
    own = method and f"{first}.{method}" in links
    return f"[`{name}`]({links[f'{first}.{method}' if own else first]})"


def _methods(thing: type) -> list[tuple[str, Any, str]]:
    """Public methods and properties that a class itself defines, in the source's order."""
    found = []
    for name, member in vars(thing).items():
        if name.startswith("_"):
            continue
        plain = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if isinstance(plain, property) or hasattr(plain, "func"):
            getter = plain.fget if isinstance(plain, property) else plain.func
            if inspect.getdoc(getter):
                found.append((name, getter, "property"))
        elif inspect.isfunction(plain) and inspect.getdoc(plain) and plain.__module__.startswith("lira_hf"):
            found.append((name, plain, "classmethod" if isinstance(member, classmethod) else ""))
    return found


def entry(name: str, thing: Any, room: str, links: dict[str, str]) -> str:
    """A symbol's part of a page."""
    path = file_of(name, thing, room)
    head = f"## {name}\n\n[{path}](../../{path})\n"
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        value = repr(thing)
        return head + (f"\n`{value}`\n" if len(value) < 200 and " at 0x" not in value and "/" not in value else "")
    signature = class_signature(name, thing) if inspect.isclass(thing) else function_signature(name, thing)
    text = f"{head}\n```python\n{signature}\n```\n\n{markdown_of(_own_docstring(thing), links)}\n"
    if inspect.isclass(thing):
        for method, function, kind in _methods(thing):
            called = f"### {name}.{method}\n"
            mark = f"@{kind}\n" if kind else ""
            code = f"```python\n{mark}{function_signature(method, function, bound=True)}\n```"
            doc = re.sub(r"^(#+) ", r"##\1 ", inspect.getdoc(function) or "", flags=re.MULTILINE)
            text += f"\n{called}\n{code}\n\n{markdown_of(doc, links)}\n"
    return text


def _own_docstring(thing: Any) -> str:
    """Not a base class's; a data class without one has its signature, which is above already."""
    text = thing.__doc__ or ""
    return "" if inspect.isclass(thing) and text.startswith(f"{thing.__name__}(") else text


def pages() -> dict[str, str]:
    """Every page's text by its file name."""
    names = public_names()
    homes = {name: room for room in reversed(ROOMS[1:]) for name in names[room]}
    links = {name: f"{room}.md#{name.lower()}" for name, room in homes.items()}
    for name, room in homes.items():
        if inspect.isclass(names[room][name]):
            found = [method for method, _, _ in _methods(names[room][name])]
            links |= {f"{name}.{method}": f"{room}.md#{name.lower()}{method.lower()}" for method in found}
    written = {}
    for room in ROOMS[1:]:
        about = " ".join((importlib.import_module(f"lira_hf.{room}").__doc__ or "").split())
        parts = [entry(name, thing, room, links) for name, thing in names[room].items()]
        written[f"{room}.md"] = f"# lira_hf.{room}\n\n{about}\n\n" + "\n".join(parts)
    rooms = "\n".join(f"| [`lira_hf.{room}`]({room}.md) | {len(names[room])} |" for room in ROOMS[1:])
    top = ", ".join(f"[`{name}`]({links[name]})" for name in names["lira_hf"] if name in links)
    written["index.md"] = (
        "# API reference\n\nWritten from the docstrings by `docs/api/generate.py`; a test fails where it is out of "
        f"date. Which file holds what, and what is the paper's: [symbols](../symbols.md).\n\n"
        f"At `lira_hf` itself: {top}.\n\n"
        f"| room | public names |\n|---|---:|\n{rooms}\n"
    )
    return written


def symbol_tables() -> str:
    """The tables of docs/symbols.md: each room's public names, their files and what they do."""
    parts = []
    for room, names in public_names().items():
        if room == "lira_hf":
            continue
        lines = [f"### lira_hf.{room}", "", "| symbol | file | whose idea | what it does |", "|---|---|---|---|"]
        for name, thing in names.items():
            path = file_of(name, thing, room)
            what = _LINK.sub(r"`\1`", first_sentence(thing)).replace("|", "\\|")
            link = f"[`{name}`](api/{room}.md#{name.lower()})"
            lines.append(f"| {link} | [{path.name}](../{path}) | {PAPER.get(name, 'ours')} | {what} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def write(folder: Path, symbols: Path) -> None:
    """
    Writes all pages.

    Args:
        folder (`Path`): Of the reference.
        symbols (`Path`): The page whose part between the marks is written anew.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text.rstrip() + "\n", encoding="utf-8")
    before, rest = symbols.read_text(encoding="utf-8").split(START)
    symbols.write_text(f"{before}{START}\n\n{symbol_tables()}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")
    files = [str(folder / name) for name in pages()]
    config = str(DOCS.parent / "pyproject.toml")
    subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", "--config", config, *files], check=True)


if __name__ == "__main__":
    write(Path(__file__).parent, DOCS / "symbols.md")
