"""
The stand-in hub against the real client. The client reads its environment when it is imported, so every step is a
sub-process: it runs a function of this file, and the tests read what that found.
"""

import hashlib
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hub_server import HubServer


WHOLE, SHARDED, SECRET, ABSENT = "made-up/whole", "made-up/sharded", "made-up/secret", "made-up/absent"
WORDS = ["[PAD]", "[UNK]", "river", "house", "moon"]
TEXTS = ["river moon", "house by the river"]
CARD = "---\nlicense: apache-2.0\n---\n\n# Made up\n"
CHATS = {"default": "{{ messages }}", "terse": "{{ messages[0] }}"}


def digest(model) -> str:
    """A name for the weights, to the last bit."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    return found.hexdigest()


def failure(call: Callable, *args, **kwargs) -> dict:
    try:
        call(*args, **kwargs)
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        return {"kinds": [kind.__name__ for kind in type(error).__mro__], "status": status, "text": str(error)}
    raise AssertionError(f"{call} did not fail")


def push() -> dict:
    """Two models, one after the other, and a tokenizer; then the second model in shards, elsewhere."""
    import torch
    from huggingface_hub import ModelCard, upload_file
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    tokenizer.chat_template = CHATS
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 40}
    torch.manual_seed(0)
    first, second = (BertModel(BertConfig(vocab_size=20, hidden_size=24, **sizes)) for _ in range(2))
    commits = [first.push_to_hub(WHOLE).oid, tokenizer.push_to_hub(WHOLE).oid]
    ModelCard(CARD).push_to_hub(WHOLE)
    upload_file(path_or_fileobj=b"[1, 2]", path_in_repo="some folder/zahlen é.json", repo_id=WHOLE)
    commits += [second.push_to_hub(WHOLE).oid, second.push_to_hub(WHOLE).oid]
    first.push_to_hub(WHOLE, revision="side/branch")
    second.push_to_hub(SHARDED, max_shard_size="8KB")
    return {"commits": commits, "digests": [digest(first), digest(second)], "ids": tokenizer(TEXTS)["input_ids"]}


def load(commits: list[str]) -> dict:
    """What a user without a token finds, and how far they get with a push."""
    from transformers import AutoModel, AutoTokenizer

    places = [(WHOLE, commits[0]), (WHOLE, "main"), (WHOLE, "side/branch"), (SHARDED, None)]
    found = [AutoModel.from_pretrained(name, revision=revision) for name, revision in places]
    tokenizer = AutoTokenizer.from_pretrained(WHOLE)
    return {
        "digests": [digest(model) for model in found],
        "ids": tokenizer(TEXTS)["input_ids"],
        "chats": tokenizer.chat_template,
        "failures": {
            "model of no repository": failure(AutoModel.from_pretrained, ABSENT),
            "model of no revision": failure(AutoModel.from_pretrained, WHOLE, revision="absent"),
            "push to a new repository": failure(found[0].push_to_hub, "made-up/new"),
            "push to an old repository": failure(found[0].push_to_hub, WHOLE),
        },
    }


def look(commits: list[str]) -> dict:
    """The client without transformers: snapshots, files, revisions and a private repository."""
    from huggingface_hub import CommitOperationCopy, CommitOperationDelete, HfApi, hf_hub_download, snapshot_download
    from huggingface_hub.utils import get_session

    api = HfApi()
    snapshots = [Path(snapshot_download(WHOLE, revision=revision)) for revision in (commits[0], "main")]
    verified = api.verify_repo_checksums(WHOLE)
    api.create_repo(SECRET, private=True)
    api.upload_folder(repo_id=SECRET, folder_path=snapshots[0], path_in_repo="inner")
    api.create_tag(SECRET, tag="v1")
    moves = [CommitOperationCopy("inner/model.safetensors", "copy.safetensors"), CommitOperationDelete("inner/")]
    api.create_commit(SECRET, moves, commit_message="Move")
    entries = api.list_repo_tree(SECRET, revision="v1", recursive=True)
    siblings = api.model_info(WHOLE, files_metadata=True).siblings
    return {
        "snapshots": [sorted(str(f.relative_to(top)) for f in top.rglob("*") if f.is_file()) for top in snapshots],
        "card": (snapshots[1] / "README.md").read_text(),
        "verified": [verified.checked_count, len(verified.mismatches), len(verified.missing_paths)],
        "tensors": len(api.get_safetensors_metadata(WHOLE).weight_map),
        "history": [commit.title for commit in api.list_repo_commits(WHOLE)],
        "branches": sorted(branch.name for branch in api.list_repo_refs(WHOLE).branches),
        "sizes": {file.rfilename: [file.size, file.lfs is not None] for file in siblings},
        "secret": [api.list_repo_files(SECRET), sorted(entry.path for entry in entries)],
        "exists": [api.file_exists(SECRET, "copy.safetensors"), api.file_exists(SECRET, "inner/config.json")],
        "who": api.whoami()["name"],
        "failures": {
            "no repository": failure(hf_hub_download, ABSENT, "config.json"),
            "snapshot of no repository": failure(snapshot_download, ABSENT),
            "no file": failure(hf_hub_download, WHOLE, "absent.json"),
            "no revision": failure(hf_hub_download, WHOLE, "config.json", revision="absent"),
            "private without a token": failure(api.model_info, SECRET, token=False),
            "wrong token": failure(api.whoami, token="hf_wrong"),
            "twice": failure(api.create_repo, SECRET),
            "another host": failure(get_session().get, "https://127.0.0.2:9/"),
            "stale parent": failure(
                api.create_commit,
                WHOLE,
                [CommitOperationDelete("README.md")],
                commit_message="Late",
                parent_commit=commits[0],
            ),
            "upload without a token": failure(
                api.upload_file, path_or_fileobj=b"x", path_in_repo="x", repo_id=WHOLE, token=False
            ),
        },
    }


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer(tmp_path_factory.mktemp("hub")) as server:
        yield server


@pytest.fixture(scope="module")
def ask(hub, tmp_path_factory):
    """`ask(step, anonymous, **what)`: what the step answers in a fresh process with an empty cache."""

    def run(step: Callable, anonymous: bool = False, **what) -> dict:
        folder = tmp_path_factory.mktemp("cache")
        environment = os.environ | hub.environment(folder / "home", anonymous)
        command = [sys.executable, __file__, step.__name__, json.dumps(what), str(folder / "answer.json")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads((folder / "answer.json").read_text())

    return run


@pytest.fixture(scope="module")
def pushed(ask):
    return ask(push)


@pytest.fixture(scope="module")
def loaded(ask, pushed):
    return ask(load, anonymous=True, commits=pushed["commits"])


@pytest.fixture(scope="module")
def looked(ask, pushed):
    return ask(look, commits=pushed["commits"])


def test_a_fresh_process_loads_what_was_pushed_bit_by_bit(pushed, loaded):
    first, second = pushed["digests"]
    assert first != second
    assert loaded["digests"] == [first, second, first, second]
    assert loaded["ids"] == pushed["ids"] == [[2, 4], [3, 1, 1, 2]]
    assert loaded["chats"] == CHATS


def test_weights_go_by_lfs_and_the_rest_by_commit(hub, pushed, looked):
    uploads = [path for method, path in hub.requests if method == "PUT"]
    assert all("/info/lfs/objects/" in path for path in uploads)
    assert sum(path.startswith(f"/{WHOLE}.git/") for path in uploads) == 2  # the branch's weights were there already
    assert sum(path.startswith(f"/{SHARDED}.git/") for path in uploads) > 2
    assert looked["sizes"]["model.safetensors"][1]
    assert looked["sizes"]["some folder/zahlen é.json"] == [6, False]


def test_every_commit_stays_what_it_was(pushed, looked):
    assert looked["history"][0] == looked["history"][-2] == "Upload model"
    assert looked["history"][-3] == "Upload tokenizer"
    assert len(looked["history"]) == 6  # the hub's own is the first
    assert pushed["commits"][2] == pushed["commits"][3]  # nothing had changed
    assert looked["branches"] == ["main", "side/branch"]
    first, last = looked["snapshots"]
    assert set(first) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    assert set(last) - set(first) == {
        "additional_chat_templates/terse.jinja",
        "chat_template.jinja",
        "some folder/zahlen é.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert looked["card"] == CARD


def test_contents_are_what_the_hub_says_they_are(looked):
    assert looked["verified"] == [len(looked["snapshots"][1]), 0, 0]
    assert looked["tensors"] > 10  # read by a range of the file


def test_a_private_repository(looked):
    assert looked["who"] == "tester"
    now, tagged = looked["secret"]
    assert now == [".gitattributes", "copy.safetensors"]
    assert "inner" in tagged
    assert "inner/model.safetensors" in tagged
    assert looked["exists"] == [True, False]


@pytest.mark.parametrize(
    ("case", "kind", "status"),
    [
        ("no repository", "RepositoryNotFoundError", 404),
        ("snapshot of no repository", "RepositoryNotFoundError", 404),
        ("no file", "EntryNotFoundError", 404),
        ("no revision", "RevisionNotFoundError", 404),
        ("private without a token", "RepositoryNotFoundError", 404),
        ("wrong token", "HfHubHTTPError", 401),
        ("twice", "HfHubHTTPError", 409),
        ("stale parent", "HfHubHTTPError", 412),
        ("upload without a token", "HfHubHTTPError", 401),
    ],
)
def test_the_client_raises_its_own_errors(looked, case, kind, status):
    found = looked["failures"][case]
    assert kind in found["kinds"]
    assert found["status"] == status


def test_transformers_raises_its_own_errors(loaded):
    failures = loaded["failures"]
    assert "not a valid model identifier" in failures["model of no repository"]["text"]
    assert "absent is not a valid git identifier" in failures["model of no revision"]["text"]
    for case in ("push to a new repository", "push to an old repository"):
        assert failures[case]["status"] == 401
        assert "Invalid username or password" in failures[case]["text"]


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=2-4", slice(2, 5)),
        ("bytes=7-", slice(7, None)),
        ("bytes=-3", slice(-3, None)),
        ("bytes=0-999", slice(99)),
    ],
)
def test_a_range_of_a_file(hub, pushed, asked, part):
    connection = http.client.HTTPConnection(urlsplit(hub.url).netloc)
    connection.request("GET", f"/{WHOLE}/resolve/main/README.md", headers={"Range": asked})
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (206, CARD.encode()[part])
    connection.request("GET", f"/{WHOLE}/resolve/main/README.md", headers={"Range": "bytes=9999-"})
    beyond = connection.getresponse()
    assert (beyond.status, beyond.getheader("Content-Range")) == (416, f"bytes */{len(CARD)}")
    connection.close()


def test_nobody_asks_another_host(hub, pushed, loaded, looked):
    """A call elsewhere comes here, and the one that was made on purpose is the only one."""
    assert "ProxyError" in looked["failures"]["another host"]["kinds"]
    assert [request for request in hub.requests if not request.path.startswith("/")] == [("CONNECT", "127.0.0.2:9")]


if __name__ == "__main__":
    Path(sys.argv[3]).write_text(json.dumps(globals()[sys.argv[1]](**json.loads(sys.argv[2]))))
