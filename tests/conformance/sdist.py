"""The source distribution of the installed transformers: fetched by name through pip, its tests unpacked."""

import importlib.util
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path


__all__ = ["unpack_tests"]

# What is unpacked: the tests, the helpers beside them, and the settings of pytest.
_WANTED = ("tests/", "utils/", "pyproject.toml")
_DONE = ".unpacked"


def unpack_tests(version: str, cache: Path) -> Path:
    """
    The tree that holds transformers' own tests of `version`, from `cache` where it lies there.

    Args:
        version (`str`): Of the installed transformers.
        cache (`Path`): Where the distribution and the tree stay for the next time.

    Returns:
        `Path`: The root, in which `tests` is.

    Raises:
        RuntimeError: Where pip finds no source distribution, or one holds what must not be unpacked.
    """
    tree = cache / f"transformers-{version}"
    if (tree / _DONE).exists():
        return tree
    cache.mkdir(parents=True, exist_ok=True)
    archive = cache / f"transformers-{version}.tar.gz"
    if not archive.exists():
        _download(version, archive)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".unpacking-") as folder:
        _extract(archive, Path(folder) / tree.name)
        if not (Path(folder) / tree.name / "tests" / "test_modeling_common.py").exists():
            raise RuntimeError(
                f"{archive} holds no tests/test_modeling_common.py; expected the mixins that the library's own model "
                "tests inherit; install a version whose source distribution has them"
            )
        (Path(folder) / tree.name / _DONE).touch()
        shutil.rmtree(tree, ignore_errors=True)
        (Path(folder) / tree.name).rename(tree)
    return tree


def _download(version: str, archive: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", f"transformers=={version}", "--no-deps"]
    command += ["--no-binary", "transformers", "--quiet", "--disable-pip-version-check"]
    if importlib.util.find_spec("setuptools") is not None:
        # pip asks the distribution for its name; with what is installed that takes a second.
        command.append("--no-build-isolation")
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".downloading-") as folder:
        done = subprocess.run([*command, "--dest", folder], capture_output=True, text=True, check=False)
        found = sorted(Path(folder).glob("*.tar.gz"))
        if done.returncode or len(found) != 1:
            raise RuntimeError(
                f"pip gave no source distribution of transformers {version}: {done.stderr.strip()[-600:]}; expected "
                f"one; put it there by hand: {archive}"
            )
        found[0].rename(archive)


def _extract(archive: Path, target: Path) -> None:
    """Unpacks what is wanted, file by file; a link, or a member that would leave the folder, is refused."""
    root = target.resolve()
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.partition("/")[2]
            if not name.startswith(_WANTED) or member.isdir():
                continue
            path = (root / name).resolve()
            if not member.isfile() or not path.is_relative_to(root):
                raise RuntimeError(f"{archive} holds {member.name!r}, which is no plain file within it; not unpacked")
            path.parent.mkdir(parents=True, exist_ok=True)
            with tar.extractfile(member) as source, open(path, "wb") as copy:
                shutil.copyfileobj(source, copy)
