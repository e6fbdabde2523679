"""What the package's own source never does: unpickle, run what it reads, trust code that nobody asked for."""

import ast
from pathlib import Path

import pytest

import lira_hf


SOURCE = sorted(Path(lira_hf.__file__).parent.rglob("*.py"))
_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "pty", "xml.dom", "xml.sax"}
_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "torch.load",
    "torch.hub.load",
    "torch.jit.load",
    "pd.read_pickle",
    "yaml.load",
    "yaml.unsafe_load",
    "shutil.unpack_archive",
    "extractall",
    "tempfile.mktemp",
}


def faults(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
            found += [f"{node.lineno}: imports {name}" for name in names if name in _MODULES]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            options = {keyword.arg: keyword.value for keyword in node.keywords}
            fixed = {key: value.value for key, value in options.items() if isinstance(value, ast.Constant)}
            if name in _CALLS or name.rsplit(".", 1)[-1] == "extractall":
                found.append(f"{node.lineno}: calls {name}")
            if name in ("np.load", "numpy.load") and fixed.get("allow_pickle") is not False:
                found.append(f"{node.lineno}: calls {name} without allow_pickle=False")
            for option, value in (("trust_remote_code", True), ("shell", True), ("weights_only", False)):
                if fixed.get(option) is value:
                    found.append(f"{node.lineno}: {name}({option}={value})")
            if fixed.get("verify") is False and name.startswith(("httpx", "requests")):
                found.append(f"{node.lineno}: {name}(verify=False)")
    return found


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "subprocess.run(x, shell=True)",
        "archive.extractall(x)",
        "yaml.load(x)",
        "eval(x)",
    ],
)
def test_the_scan_finds_what_it_looks_for(code):
    assert faults(ast.parse(code))
    assert not faults(ast.parse("model.eval(); np.load(x, allow_pickle=False); yaml.safe_load(x); re.compile(x)"))


def test_nothing_is_unpickled_run_or_trusted():
    assert len(SOURCE) > 150
    found = [f"{path}:{fault}" for path in SOURCE for fault in faults(ast.parse(path.read_text(encoding="utf-8")))]
    assert found == []
