"""What is installed with the package: versions, licences, and whether all of it fits together. Works offline.

    python tests/security/audit_dependencies.py [--constraints constraints.txt] [--extra quickstart]

`pip-audit` asks a service for known vulnerabilities, so it is not part of this: run `pip-audit -r constraints.txt`
where there is a network. This is what can be said without one: `pip check`; every distribution that the package needs,
directly or not, with its version and licence; those that aren't at the version of `constraints.txt`; those whose
metadata names no licence, or one that asks more of a program that uses it than permissive ones do. Exit code 1 where
there is a conflict, a missing requirement or another version than the constraints'.
"""

import argparse
import importlib.metadata as metadata
import re
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


PERMISSIVE = re.compile(
    r"\b(MIT|BSD|Apache|ISC|PSF|Python Software Foundation|Zlib|Unlicense|0BSD|CNRI|HPND|CC0|Boost|BSL-1\.0"
    r"|public domain|3-Clause|MPL|Mozilla)",
    re.IGNORECASE,
)


def needed(root: str, extras: set[str]) -> dict[str, metadata.Distribution | None]:
    """Every distribution that `root` needs, itself first; `None` for one that isn't there."""
    found: dict[str, metadata.Distribution | None] = {}
    waiting = [(canonicalize_name(root), frozenset(extras))]
    seen = set(waiting)
    while waiting:
        name, wanted = waiting.pop(0)
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            found[name] = None
            continue
        for line in found[name].requires or ():
            requirement = Requirement(line)
            marks = [{"extra": extra} for extra in wanted or {""}]
            if requirement.marker is None or any(requirement.marker.evaluate(mark) for mark in marks):
                entry = (canonicalize_name(requirement.name), frozenset(requirement.extras))
                if entry not in seen:
                    seen.add(entry)
                    waiting.append(entry)
    return found


def licence(found: metadata.Distribution) -> str:
    """What a distribution's metadata say of its licence, in a line."""
    data = found.metadata
    classified = [c.rsplit(" :: ", 1)[1] for c in data.get_all("Classifier", []) if c.startswith("License :: ")]
    text = data.get("License-Expression") or ", ".join(classified) or data.get("License") or ""
    return " ".join(text.split())[:60]


def pinned(path: Path) -> dict[str, str]:
    """Versions of a constraints file."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"([\w.-]+)==([^\s;#]+).*", line.strip()):
            found[canonicalize_name(match[1])] = match[2]
    return found


def main() -> int:
    """The list; 1 where something doesn't fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--constraints", type=Path, default=Path("constraints.txt"))
    parser.add_argument("--extra", action="append", default=[], help="of lira-hf, besides what it always needs")
    options = parser.parse_args()
    found = needed("lira-hf", set(options.extra))
    versions = pinned(options.constraints) if options.constraints.is_file() else {}
    missing, other, asking = [], [], []
    for name, one in sorted(found.items()):
        if one is None:
            missing.append(name)
            continue
        terms = licence(one)
        sys.stdout.write(f"{name:28} {one.version:16} {terms or 'no licence in its metadata'}\n")
        if not PERMISSIVE.search(terms):
            asking.append(f"{name} ({terms or 'none named'})")
        if name in versions and one.version.split("+")[0] != versions[name].split("+")[0]:
            other.append(f"{name} {one.version}, not {versions[name]}")
    check = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    sys.stdout.write(f"\n{len(found)} distributions; pip check: {check.stdout.strip() or check.stderr.strip()}\n")
    for title, names in (("missing", missing), ("other versions", other), ("licences to look at", asking)):
        sys.stdout.write(f"{title}: {', '.join(names) or 'none'}\n")
    return int(bool(missing or other or check.returncode))


if __name__ == "__main__":
    sys.exit(main())
