"""Members of archives that lead out of them: Debian packages, zip files of catalogues, exports."""

import io
import subprocess
import tarfile
import zipfile

import pytest

from lira_hf.data import read_fluent
from lira_hf.quickstart import corpus as corpus_module
from lira_hf.quickstart.corpus import package_catalogs, unpack_package


def deb(path, members):
    """A Debian package: an ar archive of three members, the last one a tar of `(name, content or link)`."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as tar:
        for name, content, link in members:
            info = tarfile.TarInfo(name)
            if link:
                info.type, info.linkname = tarfile.SYMTYPE, link
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    control = io.BytesIO()
    with tarfile.open(fileobj=control, mode="w:gz") as tar:
        text = b"Package: evil\nVersion: 1\nArchitecture: all\nMaintainer: x <x@y.z>\nDescription: x\n"
        info = tarfile.TarInfo("./control")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        parts = (("debian-binary", b"2.0\n"), ("control.tar.gz", control.getvalue()))
        for name, data in (*parts, ("data.tar.gz", inner.getvalue())):
            file.write(f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode())
            file.write(data + b"\n" * (len(data) % 2))


@pytest.fixture
def unpack(tmp_path, monkeypatch):
    """`unpack(members)`: as if apt had brought such a package."""
    run = corpus_module._run
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(corpus_module, "_run", lambda command, folder: command[0] == "apt-get" or run(command, folder))

    def call(members):
        folder = tmp_path / "deep" / "debian"
        folder.mkdir(parents=True, exist_ok=True)
        deb(folder / "evil_1_all.deb", members)
        return unpack_package("evil", folder)

    return call


@pytest.mark.skipif(not corpus_module.shutil.which("dpkg-deb"), reason="dpkg-deb is not installed here")
@pytest.mark.parametrize(
    "members",
    [
        [("../../evil.txt", b"x", None)],
        [("./usr/../../../evil.txt", b"x", None)],
        [("/tmp/lira-test-evil.txt", b"x", None)],
        [("./out", b"", "../.."), ("./out/evil.txt", b"x", None)],
        [("./abs", b"", "/tmp"), ("./abs/lira-test-evil.txt", b"x", None)],
    ],
)
def test_no_member_of_a_package_lands_outside(unpack, tmp_path, members):
    before = {path for path in tmp_path.rglob("*")}
    try:
        unpack([*members, ("./usr/fine.txt", b"fine", None)])
    except RuntimeError:
        pass
    target = tmp_path / "deep" / "debian"
    outside = [p for p in tmp_path.rglob("*") if p not in before and not p.is_relative_to(target) and p.is_file()]
    assert outside == []
    assert not (tmp_path.parent / "evil.txt").exists()
    from pathlib import Path

    assert not Path("/tmp/lira-test-evil.txt").exists()
    assert not [p for p in target.rglob("*") if p.is_symlink() and "evil.part" not in p.parts]


@pytest.mark.skipif(not corpus_module.shutil.which("dpkg-deb"), reason="dpkg-deb is not installed here")
def test_links_out_of_a_package_are_not_followed(unpack, tmp_path):
    (tmp_path / "secret.mo").write_bytes(b"secret")
    folder = "./usr/share/locale/vi/LC_MESSAGES"
    target = unpack(
        [
            (f"{folder}/good.mo", b"catalogue", None),
            (f"{folder}/inside.mo", b"", "good.mo"),
            (f"{folder}/absolute.mo", b"", str(tmp_path / "secret.mo")),
            (f"{folder}/relative.mo", b"", "../" * 8 + "secret.mo"),
        ]
    )
    assert [path.name for path in package_catalogs(target, ["vi"])] == ["good.mo", "inside.mo"]


def test_members_of_a_zip_archive_are_read_where_they_are_and_bombs_left_alone(tmp_path, monkeypatch):
    path = tmp_path / "omni.ja"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for language, word in (("en-US", "Open"), ("vi", "Mở")):
            archive.writestr(f"localization/{language}/browser/menu.ftl", f"open = {word} {{ $file }}\n")
            archive.writestr(f"../../localization/{language}/evil.ftl", f"evil = {word}\n")
            archive.writestr(f"localization/{language}/browser/bomb.ftl", "a = b\n" + "# \n" * 30_000_000)
    before = sorted(tmp_path.parent.rglob("*"))
    pairs = read_fluent([path], ["vi"], on_error="skip")
    assert all("bomb" not in pair.origin for pair in pairs)
    assert sorted(tmp_path.parent.rglob("*")) == before
    assert path.stat().st_size < 2**20


def test_dpkg_is_told_the_archive_by_its_own_path(unpack, monkeypatch):
    """A package's name can't become an option."""
    seen = []
    monkeypatch.setattr(corpus_module, "_run", lambda command, folder: seen.append(command))
    with pytest.raises(FileNotFoundError):
        unpack([])
    assert [command[:2] for command in seen] == [["apt-get", "download"], ["dpkg-deb", "-x"]]
    assert all(part.startswith("/") for part in seen[1][2:])
    assert subprocess  # the real one is not called here
