"""
A model hub inside this process: as much of the HTTP API as huggingface_hub's own client and transformers ask for, on
127.0.0.1. The client reads its endpoint when it is imported, so whoever talks to this server is a sub-process that was
started with `HubServer.environment`.
"""

import base64
import hashlib
import hmac
import json
import re
import secrets
import socketserver
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote


USER = "tester"
LFS_SUFFIXES = (".safetensors", ".bin", ".pt")
LFS_THRESHOLD = 1 << 20
ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()


class Request(NamedTuple):
    """What was asked; the path is still quoted and has lost its query."""

    method: str
    path: str


class Reply(NamedTuple):
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = {}


def as_json(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    return Reply(json.dumps(content).encode(), status, {"Content-Type": "application/json"} | (headers or {}))


class RefusalError(Exception):
    """An answer of 400 or more; the client makes its exceptions of `code` and of the status."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        named = {"X-Error-Message": ascii(message)[1:-1]} | ({"X-Error-Code": code} if code else {})
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        self.reply = as_json({"error": message}, status, named)


class Blob(NamedTuple):
    """A file's content: its sha256 names it in the folder, its git id (the pointer's, if it is LFS) in the API."""

    sha256: str
    size: int
    git: str
    pointer: int | None = None

    @property
    def etag(self) -> str:
        return self.git if self.pointer is None else self.sha256

    def described(self, path: str) -> dict:
        lfs = {"oid": self.sha256, "sha256": self.sha256, "size": self.size, "pointerSize": self.pointer}
        entry = {"type": "file", "path": path, "oid": self.git, "size": self.size}
        return entry if self.pointer is None else entry | {"lfs": lfs}


class Commit(NamedTuple):
    """A snapshot that no later commit changes."""

    oid: str
    parent: str | None
    title: str
    message: str
    date: str
    files: dict[str, Blob]


@dataclass
class Repository:
    kind: str
    name: str
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    uploaded: dict[str, int] = field(default_factory=dict)

    def at(self, revision: str) -> Commit:
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        if oid not in self.commits:
            raise RefusalError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def head(self, branch: str) -> Commit:
        return self.at(self.branches.get(branch, f"branch {branch}"))

    def commit(self, branch: str, files: dict[str, Blob], title: str, message: str = "") -> Commit:
        parent, date = self.branches.get(branch), datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        tree = [(path, *blob) for path, blob in sorted(files.items())]
        identity = json.dumps([self.kind, self.name, len(self.commits), parent, title, message, date, tree])
        made = Commit(hashlib.sha1(identity.encode()).hexdigest(), parent, title, message, date, files)
        self.commits[made.oid] = made
        self.branches[branch] = made.oid
        return made


@dataclass
class Call:
    """A request taken apart: the route's named groups, unquoted, among it."""

    method: str
    fields: dict[str, str]
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    authorized: bool

    @property
    def key(self) -> tuple[str, str]:
        return self.fields.get("kind", "models"), self.fields["name"]

    def json(self) -> dict:
        return json.loads(self.body or b"{}")

    def wants(self, option: str) -> bool:
        return self.query.get(option, [""])[0].lower() in ("1", "true")


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def span(asked: str, size: int) -> tuple[int, int]:
    """The bytes that a Range header asks for, as a slice."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", asked.strip())
    if match is None or match.groups() == ("", ""):
        raise RefusalError(400, f"Unsupported range: {asked}")
    first, last = match.groups()
    start, stop = (int(first), int(last or size) + 1) if first else (max(0, size - int(last)), size)
    if start >= min(stop, size):
        raise RefusalError(416, "The range is not satisfiable", Content_Range=f"bytes */{size}")
    return start, min(stop, size)


class HubApi:
    """The repositories, and an answer to every call. Contents lie in `folder`, all else in memory."""

    def __init__(self, folder: Path, url: str, token: str) -> None:
        self.folder, self.url, self.token = folder, url, token
        self.repositories: dict[tuple[str, str], Repository] = {}
        self._key = secrets.token_bytes(16)
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Reply:
        path, _, query = target.partition("?")  # of a call to another host, that comes by proxy, no path of ours
        try:
            credentials = headers.get("authorization")
            if credentials not in (None, f"Bearer {self.token}"):
                raise RefusalError(401, "Invalid credentials in Authorization header")
            for methods, pattern, guarded, action in ROUTES:
                if method not in methods or not (match := pattern.fullmatch(path)):
                    continue
                if guarded and credentials is None:
                    raise RefusalError(401, "Invalid username or password.")
                fields = {name: unquote(value) for name, value in match.groupdict().items() if value}
                call = Call(method, fields, parse_qs(query), headers, body, credentials is not None)
                with self._lock:
                    return action(self, call)
            raise RefusalError(404, f"This hub has no {method} {path}")
        except RefusalError as refusal:
            return refusal.reply
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return RefusalError(400, f"Malformed request: {error!r}").reply

    def _repository(self, call: Call) -> Repository:
        found = self.repositories.get(call.key)
        if found is None or (found.private and not call.authorized):
            raise RefusalError(404, "Repository not found", "RepoNotFound")
        return found

    def _snapshot(self, call: Call) -> tuple[Repository, Commit]:
        repository = self._repository(call)
        return repository, repository.at(call.fields.get("revision", "main"))

    def _address(self, kind: str, name: str) -> str:
        return f"{self.url}/{'' if kind == 'models' else kind + '/'}{name}"

    def _stored(self, content: bytes) -> Blob:
        digest = hashlib.sha256(content).hexdigest()
        (self.folder / digest).write_bytes(content)
        return Blob(digest, len(content), git_id(content))

    def _signature(self, oid: str) -> str:
        return hmac.new(self._key, oid.encode(), "sha256").hexdigest()

    # Accounts and repositories

    def whoami(self, call: Call) -> Reply:
        return as_json({"type": "user", "id": USER, "name": USER, "fullname": USER, "orgs": [], "auth": {}})

    def validate_yaml(self, call: Call) -> Reply:
        """The standard library reads no YAML: only the fence of the metadata is looked at."""
        lines = call.json()["content"].splitlines()
        fenced = lines[:1] == ["---"]
        warnings = [] if fenced else [{"message": "empty or missing yaml metadata in repo card"}]
        errors = [{"message": "the metadata has no end"}] if fenced and "---" not in lines[1:] else []
        return as_json({"errors": errors, "warnings": warnings}, 400 if errors else 200)

    def create(self, call: Call) -> Reply:
        asked = call.json()
        kind, name = f"{asked.get('type') or 'model'}s", f"{asked.get('organization') or USER}/{asked['name']}"
        url = self._address(kind, name)
        if (kind, name) in self.repositories:
            return as_json({"error": "You already created this repo", "url": url}, 409)
        repository = self.repositories[kind, name] = Repository(kind, name, asked.get("visibility") == "private")
        repository.commit("main", {".gitattributes": self._stored(ATTRIBUTES)}, "initial commit")
        return as_json({"url": url, "name": name})

    def info(self, call: Call) -> Reply:
        repository, commit = self._snapshot(call)
        siblings: list[dict] = [{"rfilename": path} for path in sorted(commit.files)]
        for sibling in siblings if call.wants("blobs") else []:
            entry = commit.files[sibling["rfilename"]].described(sibling["rfilename"])
            sibling |= {"size": entry["size"], "blobId": entry["oid"], "lfs": entry.get("lfs")}
        owner, created = repository.name.split("/")[0], next(iter(repository.commits.values())).date
        text = {"_id": repository.name, "id": repository.name, "author": owner, "sha": commit.oid}
        text |= {"createdAt": created, "lastModified": commit.date}
        rest = {"private": repository.private, "gated": False, "disabled": False, "downloads": 0, "likes": 0}
        return as_json({**text, **rest, "tags": [], "siblings": siblings})

    # Revisions

    def refs(self, call: Call) -> Reply:
        repository = self._repository(call)
        answer: dict[str, list] = {"converts": [], "pullRequests": []}
        for group, prefix in (("branches", "refs/heads/"), ("tags", "refs/tags/")):
            known = getattr(repository, group).items()
            answer[group] = [{"name": name, "ref": prefix + name, "targetCommit": oid} for name, oid in known]
        return as_json(answer)

    def commits(self, call: Call) -> Reply:
        repository, commit = self._snapshot(call)
        history = [commit]
        while parent := history[-1].parent:
            history.append(repository.commits[parent])
        entries = [{"id": c.oid, "title": c.title, "message": c.message, "date": c.date} for c in history]
        return as_json([entry | {"authors": [{"user": USER}]} for entry in entries])

    def reference(self, call: Call) -> Reply:
        """Make or delete a branch or a tag. A tag is posted to the revision it shall point to."""
        repository, name, asked = self._repository(call), call.fields["revision"], call.json()
        known, start = repository.branches, asked.get("startingPoint", "main")
        if call.fields["group"] == "tag":
            known, start, name = repository.tags, name, asked.get("tag", name)
        if call.method == "DELETE":
            if known.pop(name, None) is None:
                raise RefusalError(404, f"No such reference: {name}", "RevisionNotFound")
        elif name in known:
            raise RefusalError(409, f"Reference already exists: {name}")
        else:
            known[name] = repository.at(start).oid
        return Reply()

    # Reading

    def tree(self, call: Call) -> Reply:
        _, commit = self._snapshot(call)
        top = call.fields.get("path", "").rstrip("/")
        entries: dict[str, dict] = {}
        for path, blob in sorted(commit.files.items()):
            if top and not path.startswith(top + "/"):
                continue
            inner = path[len(top) + 1 if top else 0 :].split("/")
            for depth in range(1, len(inner)):
                folder = "/".join(([top] if top else []) + inner[:depth])
                entries[folder] = {"type": "directory", "path": folder, "oid": git_id(folder.encode()), "size": 0}
                if not call.wants("recursive"):
                    break
            else:
                entries[path] = blob.described(path)
        if top and not entries:
            raise RefusalError(404, f"{top} does not exist", "EntryNotFound", X_Repo_Commit=commit.oid)
        return as_json(list(entries.values()))

    def paths_info(self, call: Call) -> Reply:
        _, commit = self._snapshot(call)
        asked = parse_qs(call.body.decode()).get("paths", [])
        return as_json([commit.files[path].described(path) for path in asked if path in commit.files])

    def resolve(self, call: Call) -> Reply:
        _, commit = self._snapshot(call)
        blob = commit.files.get(call.fields["path"])
        if blob is None:
            raise RefusalError(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit.oid)
        headers = {"ETag": f'"{blob.etag}"', "X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if blob.pointer is not None:
            headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size)}
        content = (self.folder / blob.sha256).read_bytes()
        if "range" not in call.headers:
            return Reply(content, 200, headers)
        start, stop = span(call.headers["range"], blob.size)
        return Reply(content[start:stop], 206, headers | {"Content-Range": f"bytes {start}-{stop - 1}/{blob.size}"})

    # Writing

    def preupload(self, call: Call) -> Reply:
        """How each file shall come, and what is there already: the client leaves out what has not changed."""
        known = self._repository(call).head(call.fields["revision"]).files
        answers = []
        for file in call.json()["files"]:
            large = file["path"].endswith(LFS_SUFFIXES) or file["size"] > LFS_THRESHOLD
            answer = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            old = known.get(file["path"])
            answers.append(answer | ({"oid": old.etag} if old else {}))
        return as_json({"files": answers})

    def lfs_batch(self, call: Call) -> Reply:
        repository, asked = self._repository(call), call.json()
        if asked["operation"] != "upload" or "basic" not in asked["transfers"]:
            raise RefusalError(422, "This hub only takes basic uploads")
        here = f"{self._address(repository.kind, repository.name)}.git/info/lfs/objects"
        objects = []
        for wanted in asked["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in repository.uploaded:
                upload = {"href": f"{here}/{wanted['oid']}?signature={self._signature(wanted['oid'])}"}
                answer["actions"] = {"upload": upload, "verify": {"href": f"{here}/verify"}}
            objects.append(answer)
        return as_json({"transfer": "basic", "objects": objects})

    def lfs_upload(self, call: Call) -> Reply:
        """Comes without a token: the address is signed, and that is as good, for a private repository too."""
        oid = call.fields["oid"]
        if not hmac.compare_digest(call.query.get("signature", [""])[0], self._signature(oid)):
            raise RefusalError(403, "The address is not signed")
        if hashlib.sha256(call.body).hexdigest() != oid:
            raise RefusalError(400, "The content is not what its sha256 says")
        call.authorized = True
        self._repository(call).uploaded[oid] = self._stored(call.body).size
        return Reply()

    def lfs_verify(self, call: Call) -> Reply:
        asked = call.json()
        if self._repository(call).uploaded.get(asked["oid"]) != asked["size"]:
            raise RefusalError(404, "No such object")
        return Reply()

    def commit(self, call: Call) -> Reply:
        repository = self._repository(call)
        if call.wants("create_pr"):
            raise RefusalError(501, "This hub has no pull requests")
        head = repository.head(call.fields["revision"])
        lines = [json.loads(line) for line in call.body.splitlines() if line.strip()]
        about, *_ = [line["value"] for line in lines if line["key"] == "header"]
        if not head.oid.startswith(about.get("parentCommit", "")):
            raise RefusalError(412, "The branch has moved on since the parent commit")
        files = dict(head.files)
        for line in lines:
            self._apply(repository, files, line["key"], line["value"])
        made = repository.commit(call.fields["revision"], files, about["summary"], about.get("description", ""))
        url = f"{self._address(repository.kind, repository.name)}/commit/{made.oid}"
        return as_json({"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""})

    def _apply(self, repository: Repository, files: dict[str, Blob], key: str, value: dict) -> None:
        """One operation of a commit, on the files of the snapshot that is about to be."""
        path = value.get("path", "")
        if key == "file":
            files[path] = self._stored(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            oid = value["oid"]
            if oid not in repository.uploaded:
                raise RefusalError(400, f"The LFS object of {path} was never uploaded")
            pointer = f"oid sha256:{oid}\nsize {repository.uploaded[oid]}\n".encode()
            files[path] = Blob(oid, repository.uploaded[oid], git_id(pointer), len(pointer))
        elif key in ("deletedFile", "deletedFolder"):
            folder = path.rstrip("/") + "/"
            gone = [p for p in files if (p == path if key == "deletedFile" else p.startswith(folder))]
            if not gone:
                raise RefusalError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            for old in gone:
                del files[old]
        elif key != "header":
            raise RefusalError(400, f"Unknown operation: {key}")


def _routes() -> list[tuple[tuple[str, ...], re.Pattern[str], bool, Callable[[HubApi, Call], Reply]]]:
    """Methods, path, whether a token is required, and what answers."""
    name, revision = r"(?P<name>[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
    api = rf"/api/(?P<kind>models|datasets|spaces)/{name}"
    plain = rf"/(?:(?P<kind>datasets|spaces)/)?{name}"
    objects = rf"{plain}\.git/info/lfs/objects"
    rows: list[tuple[str, str, bool, Callable[[HubApi, Call], Reply]]] = [
        ("GET", "/api/whoami-v2", True, HubApi.whoami),
        ("POST", "/api/validate-yaml", False, HubApi.validate_yaml),
        ("POST", "/api/repos/create", True, HubApi.create),
        ("GET", f"{api}(?:/revision/{revision})?", False, HubApi.info),
        ("GET", f"{api}/refs", False, HubApi.refs),
        ("GET", f"{api}/commits/{revision}", False, HubApi.commits),
        ("POST DELETE", f"{api}/(?P<group>branch|tag)/{revision}", True, HubApi.reference),
        ("GET", f"{api}/tree/{revision}(?:/(?P<path>.+))?", False, HubApi.tree),
        ("POST", f"{api}/paths-info/{revision}", False, HubApi.paths_info),
        ("POST", f"{api}/preupload/{revision}", True, HubApi.preupload),
        ("POST", f"{api}/commit/{revision}", True, HubApi.commit),
        ("POST", f"{objects}/batch", True, HubApi.lfs_batch),
        ("POST", f"{objects}/verify", True, HubApi.lfs_verify),
        ("PUT", f"{objects}/(?P<oid>[0-9a-f]{{64}})", False, HubApi.lfs_upload),
        ("GET HEAD", f"{plain}/resolve/{revision}/(?P<path>.+)", False, HubApi.resolve),
    ]
    return [(tuple(methods.split()), re.compile(path), guarded, action) for methods, path, guarded, action in rows]


ROUTES = _routes()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body in one packet
    server: "_Listener"

    def _serve(self) -> None:
        self.server.hub.requests.append(Request(self.command, self.path.partition("?")[0]))
        if "Transfer-Encoding" in self.headers:
            return self.send_error(411, "This hub reads no chunked bodies")  # and that closes the connection
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))  # whatever the answer: more may follow
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.server.hub.api.answer(self.command, self.path, headers, body)
        self.send_response(reply.status)
        for name, value in (reply.headers | {"Content-Length": str(len(reply.body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_CONNECT = _serve  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """`HubServer.requests` is the log."""


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    hub: "HubServer"

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's asks a name server who 127.0.0.1 is


class HubServer:
    """`with HubServer(folder) as hub:` serves an empty hub until the block ends; contents are kept in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.requests: list[Request] = []
        self.token = f"hf_{secrets.token_hex(12)}"
        self._listener = _Listener(("127.0.0.1", 0), _Handler)
        self._listener.hub = self
        self.url = f"http://127.0.0.1:{self._listener.server_address[1]}"
        self.api = HubApi(Path(folder), self.url, self.token)
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True)

    def start(self) -> "HubServer":
        self._thread.start()
        return self

    def close(self) -> None:
        if self._thread.is_alive():
            self._listener.shutdown()
            self._thread.join()
        self._listener.server_close()

    def __enter__(self) -> "HubServer":
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.close()

    def environment(self, cache_folder: Path, anonymous: bool = False) -> dict[str, str]:
        """Goes over a sub-process's `os.environ`. This hub is its proxy too: refuses and records calls elsewhere."""
        home = Path(cache_folder)
        folders = {"HF_HOME": "", "HF_HUB_CACHE": "hub", "HF_TOKEN_PATH": "token", "HF_MODULES_CACHE": "modules"}
        off = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HUGGINGFACE_CO_STAGING"]
        # With hf_xet installed the client does not ask the server how to upload; only this variable leads it to LFS.
        on = ["HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_UPDATE_CHECK"]
        on += ["HF_HUB_DISABLE_PROGRESS_BARS", "DISABLE_SAFETENSORS_CONVERSION", "OMP_NUM_THREADS"]
        proxies = {name: self.url for name in ("http_proxy", "https_proxy", "all_proxy")} | {"no_proxy": "127.0.0.1"}
        token = "" if anonymous else self.token
        chosen = {"HF_ENDPOINT": self.url, "HF_TOKEN": token, "HUGGING_FACE_HUB_TOKEN": "", "HF_OIDC_RESOURCE": ""}
        chosen |= {name: str(home / leaf) for name, leaf in folders.items()} | proxies
        chosen |= {name.upper(): value for name, value in proxies.items()}
        return chosen | dict.fromkeys(off, "0") | dict.fromkeys(on, "1")
