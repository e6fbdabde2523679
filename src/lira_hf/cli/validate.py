"""`lira validate`: which room checks what, and what it found."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lira_hf.data import DataProblem
from lira_hf.data.files import write_json
from lira_hf.data.similarity import table_columns
from lira_hf.data.validation import DATA_KINDS, DataCheck, check_data, guess_kind, unknown_data


__all__ = ["KINDS", "run_validate"]

KINDS = {
    **DATA_KINDS,
    "candidates": "candidates as `lira store export` writes them (.jsonl, .parquet, a folder or data set of them)",
    "store": "a candidate store (.sqlite)",
    "recipe": "a training recipe (.yaml)",
}
_SUFFIXES = {".sqlite": "store", ".sqlite3": "store", ".db": "store", ".yaml": "recipe", ".yml": "recipe"}
_CANDIDATE_COLUMNS = {"language", "text", "translator", "fingerprint"}


def run_validate(paths: Sequence[Path], kind: str | None, console: Console, json_output: Path | None) -> int:
    """Prints everything wrong with files or folders, and what they hold; the number of problems."""
    if kind is not None and kind not in KINDS:
        known = "; ".join(f"{name}: {what}" for name, what in KINDS.items())
        raise ValueError(f"got --kind {kind!r}; expected one of these ({known}); leave it out to have it recognised")
    checks = [(path, check) for path in paths for path, check in _checks(path, kind)]
    problems = [problem for _, check in checks for problem in check.problems]
    for problem in problems:
        console.print(Text(str(problem)), soft_wrap=True)
    for path, check in checks:
        if check.kind:
            console.print(Text(f"{path}: {_summary(check)}"), soft_wrap=True)
    places = f"{len(paths)} file{'s' if len(paths) > 1 else ''} or folder{'s' if len(paths) > 1 else ''}"
    console.print(f"{len(problems)} problem{'' if len(problems) == 1 else 's'} in {places}")
    if json_output is not None:
        rows = [asdict(problem) for problem in problems]
        write_json(json_output, rows)
    return len(problems)


def _summary(check: DataCheck) -> str:
    parts = [f"{language or 'no language'} {count:,}" for language, count in sorted(check.counts.items())]
    texts = [f"{sum(check.counts.values()):,} right ({', '.join(parts)})"] if parts else []
    return "; ".join([check.kind, *texts, *check.notes, f"problems {len(check.problems):,}"])


def _checks(path: Path, kind: str | None) -> list[tuple[Path, DataCheck]]:
    """Of a folder that is nothing by itself each file that is something."""
    kind = kind or _recognised(path)
    if kind is not None:
        return [(path, _check(path, kind))]
    files = [file for file in sorted(path.glob("*.*")) if file.is_file() and _recognised(file)]
    if files:
        return [(file, _check(file, _recognised(file) or "")) for file in files]
    return [(path, DataCheck("", [unknown_data(path, KINDS.values())]))]


def _recognised(path: Path) -> str | None:
    if path.is_dir() and any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
        return "candidates"
    if path.is_file() and path.suffix.lower() in (".jsonl", ".parquet"):
        if _CANDIDATE_COLUMNS <= set(table_columns(path)):
            return "candidates"
    found = guess_kind(path)
    return found or (_SUFFIXES.get(path.suffix.lower()) if path.is_file() else None)


def _check(path: Path, kind: str) -> DataCheck:
    if kind in DATA_KINDS:
        return check_data(path, kind)
    if not path.exists():
        return DataCheck(kind, [unknown_data(path, [KINDS[kind], "a folder of such"])])
    if kind == "recipe":
        from lira_hf.training.recipes import check_recipe

        return DataCheck(kind, check_recipe(path))
    if kind == "store":
        from lira_hf.translation.store_check import check_store

        found = check_store(path)
        problems = [
            replace(_problem(problem.file, 0, problem.message), field=f"text {problem.row}" if problem.row else None)
            for problem in found.problems
        ]
        return DataCheck(kind, problems, found.languages, found.notes)
    from lira_hf.translation.store_import import check_import

    counts, wrong = check_import(path)
    # A row's problems are told in one message, joined by "; and ".
    return DataCheck(
        kind,
        [
            _problem(problem.file or str(path), problem.row, part)
            for problem in wrong
            for part in problem.message.split("; and ")
        ],
        counts,
    )


def _problem(file: str, row: int, message: str) -> DataProblem:
    """A store's problem, whose message may name the file."""
    return DataProblem.from_message(file, row or None, None, message.removeprefix(f"{file} "))
