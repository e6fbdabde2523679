"""Translates and judges texts against a real server, `transformers serve`, killed with SIGKILL again and again.

Not part of `make test`: it takes minutes and wants the server's packages, pip install 'transformers[serving]'. Run it:
    python tests/translation/kill_serve.py --texts 2000 --kills 20
It makes a tiny chat model that answers everything with the same JSON, and counts the calls that were answered in a
relay in front of the server. Exit code 1: a text is missing or twice there, a score is torn, or a finished call was
repeated beyond those under way at a kill.
"""

import argparse
import json
import os
import random
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


CONCURRENCY = 4
CHUNKS = ['{"translations":', '["a cat"],', '"scores":', '[{"candidate":1,"s":8,"e":7,"p":6}]}']
FILL = """
import sys
from lira_hf.translation import CandidateStore, ChatTranslator, EndpointChat, LLMJudge, fill_store
url, model, texts, store, concurrency = sys.argv[1:]
texts = [line.strip() for line in open(texts, encoding="utf-8")]
chat = EndpointChat(url, model, concurrency=int(concurrency), timeout=60, max_tokens=16)
options = {"num_candidates": 1, "chunk_size": 128, "progress": False}
with CandidateStore(store) as opened:
    fill_store(opened, texts, "vi", ChatTranslator(chat), LLMJudge(chat), **options)
"""


def make_model(folder: Path) -> None:
    """A Llama of a few thousand weights that has learned one answer by heart, and its chat template."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    words = [f"w{number}" for number in range(40)]
    vocabulary = {token: number for number, token in enumerate([*names.values(), "<a>", *CHUNKS, *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=4096, **names)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<a>"]})
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}<a>"
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "max_position_embeddings": 4096}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(vocabulary), **sizes, **ids))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    answer = torch.tensor([4, *(vocabulary[chunk] for chunk in CHUNKS), 3]).repeat(16, 1)
    for step in range(300):
        length = int(torch.randint(1, 60, ()))
        lowest, highest = (1, 2) if step % 2 else (9, len(vocabulary))  # what it does not know, or words
        rows = torch.cat([torch.randint(lowest, highest, (16, length)), answer], 1)
        labels = rows.clone()
        labels[:, : length + 1] = -100
        model(input_ids=rows, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


class Relay:
    """Passes calls on to the server and keeps count: of those that began, and of those whose answer went out."""

    def __init__(self, server: str):
        self.began: list[tuple[str, str]] = []
        self.answered: list[tuple[str, str]] = []
        relay = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:  # noqa: N802
                body = self.rfile.read(int(self.headers["Content-Length"]))
                data = json.loads(json.loads(body)["messages"][-1]["content"])
                call = (data["text"], "judge" if "candidates" in data else "translate")
                relay.began.append(call)
                request = urllib.request.Request(server + self.path, body, {"Content-Type": "application/json"})
                try:
                    with urllib.request.urlopen(request, timeout=60) as reply:
                        status, content = reply.status, reply.read()
                except urllib.error.HTTPError as error:
                    status, content = error.code, error.read()
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except (BrokenPipeError, ConnectionResetError):
                    return  # who asked was killed
                if status == 200:
                    relay.answered.append(call)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(url: str) -> None:
    """Until the server answers, two minutes at most."""
    for _ in range(240):
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"{url} did not answer within two minutes; is 'transformers[serving]' installed?")


def fill_under_fire(relay: Relay, arguments: list[str], kills: int) -> int:
    """Starts the filling process until it ends by itself; how often it was killed before."""
    draw, done = random.Random(0), 0
    while True:
        before = len(relay.began)
        filling = subprocess.Popen([sys.executable, "-c", FILL, *arguments])
        if done == kills:
            if filling.wait():
                raise RuntimeError(f"the last run ended with code {filling.returncode}")
            return done
        while len(relay.began) == before and filling.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.uniform(0.2, 2.5))
        if filling.poll() is not None:
            return done  # it was quicker
        filling.kill()
        filling.wait()
        done += 1


def check(store: Path, relay: Relay, texts: int, kills: int) -> list[str]:
    """What is wrong; and, on the way, the figures."""
    with sqlite3.connect(store) as database:

        def count(query: str) -> int:
            return database.execute(query).fetchone()[0]

        found = {name: count(f"SELECT count(*) FROM {name}") for name in ("texts", "asked", "candidates", "scores")}
        torn = count("SELECT count(*) FROM scores WHERE (semantic, emotional, pragmatic) != (8, 7, 6)")
        intact = count("PRAGMA integrity_check") == "ok"
    repeated = sum(number - 1 for number in Counter(relay.answered).values())
    sys.stdout.write(
        f"{kills} kills; {found}; torn scores {torn}; {len(relay.answered)} calls answered, {repeated} of them again "
        f"({CONCURRENCY} were under way at each kill)\n"
    )
    wrong = [f"{name}: {number}, expected {texts}" for name, number in found.items() if number != texts]
    wrong += [f"{torn} torn scores"] if torn else []
    wrong += [] if intact else ["the store is damaged"]
    wrong += [f"{repeated} calls repeated"] if repeated > CONCURRENCY * kills else []
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", NO_PROXY="127.0.0.1")
    with tempfile.TemporaryDirectory(prefix="lira-serve-") as folder:
        place = Path(folder)
        make_model(place / "model")
        texts = [f"w{number % 40} w{number * 7 % 40} number {number}" for number in range(options.texts)]
        (place / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
        port = free_port()
        command = [str(Path(sys.executable).with_name("transformers")), "serve", "--device", "cpu"]
        command += ["--host", "127.0.0.1", "--port", str(port), str(place / "model")]
        with (place / "serve.log").open("w") as log:
            server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            try:
                wait_for(f"http://127.0.0.1:{port}/health")
                relay = Relay(f"http://127.0.0.1:{port}")
                store = place / "store.sqlite"
                known = [relay.url, str(place / "model"), str(place / "texts.txt"), str(store), str(CONCURRENCY)]
                kills = fill_under_fire(relay, known, options.kills)
                wrong = check(store, relay, options.texts, kills)
            finally:
                server.terminate()
                server.wait()
    sys.stdout.write("".join(f"wrong: {line}\n" for line in wrong) or "nothing missing, nothing twice, nothing torn\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
