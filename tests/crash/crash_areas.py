"""What `run_crashes.py` and `test_crash.py` kill: each a piece of work that is begun again until it is done."""

import itertools
import json
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tiny_lira
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from lira_hf import LiraModel, LiraProcessor
from lira_hf.data import FeatureCache, Query, write_beir
from lira_hf.data.feature_cache import scan_cache
from lira_hf.inference import LiraEmbedder, TextRow, VectorFolder, embed_rows
from lira_hf.models.saving_lira import read_checksums
from lira_hf.training import last_checkpoint, train_recipe
from lira_hf.training import recipes as recipes_module
from lira_hf.translation import Candidate, CandidateStore, Identity, Score, fill_store
from lira_hf.translation.store_check import check_store
from lira_hf.translation.store_exchange import store_rows


TEXTS = [" ".join(words) for words in itertools.combinations(tiny_lira.WORDS[:8], 3)][:40]


class Area:
    """
    A piece of work. `attempt` runs in a process of its own that may be killed at any moment; the rest looks at what it
    left, from outside.
    """

    name = ""

    def __init__(self, shared: Path):
        self.shared = shared

    def attempt(self, folder: Path, log: Path) -> None:
        """Does the work, from wherever it is; every single thing is noted before it is computed."""
        raise NotImplementedError

    def held(self, folder: Path) -> dict[str, Any]:
        """What is finished, by name, with its content; an error where it can't be read."""
        raise NotImplementedError

    def result(self, folder: Path) -> Any:
        """What the work comes to."""
        return self.held(folder)


def note(log: Path, *names: str) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.writelines(f"{name}\n" for name in names)


def _busy() -> None:
    sum(range(20_000))  # so that a kill by the clock finds it at work


class _Translator:
    name, fingerprint = "upper", "1"

    def __init__(self, log: Path):
        self.log = log

    def stream(self, texts: list[str], language: str, num_candidates: int) -> Iterator[tuple[int, list[Candidate]]]:
        for place, text in enumerate(texts):
            note(self.log, f"asked {text}")
            _busy()
            yield place, [Candidate(text.upper(), "upper", "upper", 0.5), Candidate(text[::-1], "back", "upper")]

    def translate(self, texts: list[str], language: str, num_candidates: int) -> list[list[Candidate]]:
        return [row for _, row in self.stream(texts, language, num_candidates)]


class _Critic:
    name, fingerprint = "length", "1"

    def __init__(self, log: Path):
        self.log = log

    def judge(self, texts: list[str], language: str, candidates: list[list[str]]) -> list[list[Score | None]]:
        rows: list[list[Score | None]] = []
        for text, options in zip(texts, candidates, strict=True):
            note(self.log, *(f"judged {text} {option}" for option in options))
            _busy()
            rows.append([Score(1 + len(option) % 9, 1 + zlib.crc32(option.encode()) % 10, 5) for option in options])
        return rows


def _stored(path: Path) -> dict[str, Any]:
    if not path.is_file() or not path.stat().st_size:
        return {}
    try:
        if problems := check_store(path).problems:
            raise RuntimeError(str(problems[0]))
        with CandidateStore(path, read_only=True) as store:
            rows = [row for batch in store_rows(store) for row in batch]
    except Exception as error:
        if "without the mark of a candidate store" in str(error):  # killed while it was made
            return {}
        raise
    found: dict[str, Any] = {}
    for row in rows:
        found.setdefault(f"asked {row['text']}", []).append((row["rank"], row["candidate"], row["score"]))
        for score in row["scores"]:
            found[f"judged {row['text']} {row['candidate']}"] = (score["semantic"], score["emotional"])
    return found


class Translate(Area):
    """Candidates into a store, each as it comes."""

    name = "translate"

    def attempt(self, folder: Path, log: Path) -> None:
        folder.mkdir(exist_ok=True)
        with CandidateStore(folder / "store.sqlite") as store:
            fill_store(store, TEXTS, "vi", _Translator(log), progress=False)

    def held(self, folder: Path) -> dict[str, Any]:
        return _stored(folder / "store.sqlite")


class Judge(Area):
    """Scores into a store, a chunk at a time."""

    name = "judge"

    def attempt(self, folder: Path, log: Path) -> None:
        folder.mkdir(exist_ok=True)
        with CandidateStore(folder / "store.sqlite") as store:
            quiet = _Translator(Path(os.devnull))
            fill_store(store, TEXTS, "vi", quiet, _Critic(log), progress=False, chunk_size=4)

    def held(self, folder: Path) -> dict[str, Any]:
        return _stored(folder / "store.sqlite")


class Cache(Area):
    """Features into a cache, a batch at a time."""

    name = "cache"

    def _open(self, folder: Path) -> FeatureCache:
        return FeatureCache(folder, (2, 3), fingerprint="f", dtype="float32")

    def attempt(self, folder: Path, log: Path) -> None:
        def compute(texts: list[str]) -> np.ndarray:
            note(log, *texts)
            _busy()
            rows = [np.random.default_rng(zlib.crc32(text.encode())).normal(size=(2, 3)) for text in texts]
            return np.array(rows, dtype=np.float32)

        self._open(folder).fill(TEXTS, compute, batch_size=3)

    def held(self, folder: Path) -> dict[str, Any]:
        if not (folder / "index.sqlite").is_file():
            return {}
        cache = self._open(folder)
        there = [text for text in TEXTS if text in cache]
        found = {text: cache.get([text]).tobytes().hex() for text in there}
        cache.close()
        if problems := scan_cache(folder)[1]:
            raise RuntimeError(str(problems[0]))
        return found


class Embed(Area):
    """Vectors into a folder, a shard at a time."""

    name = "embed"

    def __init__(self, shared: Path):
        super().__init__(shared)
        model, processor = embedding_model()
        self.embedder = LiraEmbedder(model, processor, batch_size=4)
        _ = self.embedder.fingerprint

    def attempt(self, folder: Path, log: Path) -> None:
        embedder, encode = self.embedder, self.embedder.encode_batch

        def noted(texts: list[str], *rest: Any) -> Any:
            note(log, *texts)
            return encode(texts, *rest)

        embedder.encode_batch = noted
        rows = [TextRow(f"d{number}", text, "en") for number, text in enumerate(TEXTS)]
        dim = embedder.model.config.projection_dim
        with VectorFolder.create(folder, dim, "float16", "tiny", embedder.fingerprint) as target:
            embed_rows(embedder, rows, target, shard_rows=8)

    def held(self, folder: Path) -> dict[str, Any]:
        if not (folder / "manifest.json").is_file():
            return {}
        target = VectorFolder(folder)
        target.check()
        found = {}
        for place in range(len(target.shards)):
            texts, vectors = target.table(place).column("text").to_pylist(), target.vectors(place)
            found |= {text: vector.tobytes().hex() for text, vector in zip(texts, vectors, strict=True)}
        return found


class Train(Area):
    """A recipe of stage 2, with a queue and checkpoints; the features are there."""

    name = "train"
    steps, every = 8, 2

    def __init__(self, shared: Path):
        super().__init__(shared)
        self.recipe = _recipe(shared) | {"max_steps": self.steps, "save_steps": self.every}

    def attempt(self, folder: Path, log: Path) -> None:
        class Note(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                note(log, f"step {state.global_step + 1}")

        make = recipes_module.LiraTrainer.__init__

        def noted(trainer: Any, *args: Any, **kwargs: Any) -> None:
            make(trainer, *args, **kwargs)
            trainer.add_callback(Note())

        recipes_module.LiraTrainer.__init__ = noted
        train_recipe(self.recipe | {"output_dir": str(folder)}, quiet=True)

    def held(self, folder: Path) -> dict[str, Any]:
        last = last_checkpoint(folder)
        if last is None:
            return {}
        return {f"step {step + 1}": "done" for step in range(int(last.rsplit("-", 1)[1]))}

    def result(self, folder: Path) -> Any:
        weights = load_file(folder / "model.safetensors")
        LiraModel.from_pretrained(folder)  # looks at the checksums too
        last = last_checkpoint(folder)
        weights |= load_file(Path(str(last)) / "lira_queues.safetensors")
        return {name: zlib.crc32(value.contiguous().numpy().tobytes()) for name, value in weights.items()}


class Save(Area):
    """One checkpoint over another, again and again; a finished save has to be there, whole, after any kill."""

    name = "save"
    rounds = 6

    def __init__(self, shared: Path):
        super().__init__(shared)
        self.models = []
        for number in (1.0, 2.0):
            model, self.processor = embedding_model()
            with torch.no_grad():
                for weight in model.parameters():
                    weight.fill_(number)
            # What the configuration says has to go with the weights, as has the number of shards.
            model.config.initializer_range = number
            self.models.append((model, "20KB" if number > 1 else "5GB"))

    def attempt(self, folder: Path, log: Path) -> None:
        done = self._next(folder)
        for number in range(done, done + self.rounds):
            model, size = self.models[number % 2]
            model.save_pretrained(folder, max_shard_size=size)
            # The number is moved into its place, so that it is never behind the folder by more than one.
            part = folder / "number.part"
            part.write_text(str(number + 1))
            os.replace(part, folder / "number")
            self.processor.save_pretrained(folder)

    def _next(self, folder: Path) -> int:
        place = folder / "number"
        return int(place.read_text()) if place.is_file() else 0

    def held(self, folder: Path) -> dict[str, Any]:
        """Nothing, where all is well: what was saved last, or what was being saved, and not a bit of both."""
        finished = self._next(folder)
        if not finished and not (folder / "config.json").is_file():
            return {}
        model = LiraModel.from_pretrained(folder)
        weights = [weight.detach() for weight in model.parameters()]
        kinds = {value for weight in weights for value in (weight.min().item(), weight.max().item())}
        kinds.add(float(model.config.initializer_range))
        if len(kinds) != 1:
            raise RuntimeError(f"a mixture of {kinds}")
        allowed = {1.0 + (finished - 1) % 2, 1.0 + finished % 2} if finished else {1.0}
        if not kinds <= allowed:
            raise RuntimeError(f"{kinds}, where {allowed} was saved")
        if finished > 1:
            LiraProcessor.from_pretrained(folder)
        return {}

    def result(self, folder: Path) -> Any:
        self.held(folder)
        listed = read_checksums(folder)
        there = {path.name for path in folder.glob("model*.safetensors*")}
        hidden = [path.name for path in folder.iterdir() if path.name.startswith(".lira")]
        return {"unlisted": sorted(there - listed.keys()), "left over": hidden}


AREAS = [Translate, Judge, Cache, Train, Embed, Save]


def embedding_model() -> tuple[LiraModel, LiraProcessor]:
    """A tiny LiraModel, every weight of which has a say, and its processor."""
    torch.manual_seed(0)
    model = LiraModel.from_backbones(
        tiny_lira.encoder("bert"), tiny_lira.encoder("bert", 24, 1), **tiny_lira.SIZES | {"languages": ["vi", "en"]}
    )
    tiny_lira.disturb(model)
    tokenizers = (tiny_lira.word_tokenizer(), tiny_lira.word_tokenizer())
    return model, LiraProcessor.from_backbones(*tokenizers, trained_languages=["vi", "en"])


def _recipe(shared: Path) -> dict[str, Any]:
    """Backbones and data on disk, and a recipe over them."""
    parts = {}
    for name, dim in (("encoder", 16), ("anchor", 24)):
        folder = shared / name
        tiny_lira.encoder("bert", dim).save_pretrained(folder)
        tiny_lira.word_tokenizer(model_max_length=64).save_pretrained(folder)
        parts[name] = str(folder)
    data = shared / "data"
    corpus = {f"d{number}": text for number, text in enumerate(TEXTS)}
    queries = {f"q{number}": Query(text, "vi") for number, text in enumerate(TEXTS)}
    write_beir(data, corpus, queries, {"train": {f"q{n}": {f"d{n}": 1} for n in range(len(TEXTS))}})
    with CandidateStore(shared / "store.sqlite") as store:
        store.add("vi", [(text, [Candidate(text, "good", "x")]) for text in TEXTS], Identity("made up", "1"))
    return {
        **parts,
        "config": {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_bins": 2},
        "data": str(data),
        "dev_split": None,
        "store": str(shared / "store.sqlite"),
        "features": str(shared / "features"),
        "stage": "lasr",
        "save_strategy": "steps",
        "queue_size": 20,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": 5,
    }


def main() -> None:
    """One attempt, for a look: python crash_areas.py AREA FOLDER."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    area = next(kind for kind in AREAS if kind.name == name)(folder / "shared")
    area.attempt(folder / "run", folder / "log")
    sys.stdout.write(json.dumps(area.held(folder / "run"), default=str)[:2000] + "\n")


if __name__ == "__main__":
    main()
