"""Trainers over the tiny model and data."""

import pytest
import torch

from lira_hf.data import SimilarityPair, read_beir
from lira_hf.inference import CandidateSource, RoadFeatures
from lira_hf.training import LiraCollator, LiraTrainer, LiraTrainingArguments, ranking_rows, retrieval_rows
from lira_hf.translation import CandidateStore, Identity


@pytest.fixture(scope="session")
def source(tiny_data):
    """Candidates and scores of the tiny data."""
    return CandidateSource(CandidateStore(tiny_data / "store.sqlite", read_only=True), critic=Identity("judge", "1"))


@pytest.fixture(scope="session")
def rows(tiny_data, source):
    """Training rows: 48, each with two judged candidates."""
    return retrieval_rows(read_beir(tiny_data, "train"), source)


@pytest.fixture(scope="session")
def pairs(tiny_data):
    """40 scored pairs, vi with ur or with English: the score is the number of words that they share."""
    split = [read_beir(tiny_data, name) for name in ("train", "dev", "test")]
    corpus = split[0].corpus
    asked = {}
    for part in split:
        for query, judged in part.qrels.items():
            asked[next(iter(judged)), part.queries[query].language] = part.queries[query].text
    found = []
    for number in range(40):
        one, other = f"d{number}", f"d{(number * 7 + number % 3) % 48}"
        score = len(set(corpus[one].split()) & set(corpus[other].split()))
        second = (corpus[other], "en") if number % 2 else (asked[other, "ur"], "ur")
        found.append(SimilarityPair(asked[one, "vi"], second[0], score, "vi", second[1], split="train"))
    return found


@pytest.fixture(scope="session")
def pair_rows(pairs, source):
    """Training rows of the pairs."""
    return ranking_rows(pairs, source)


@pytest.fixture(scope="session")
def features_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def make_trainer(tiny_lira, rows, features_folder, tmp_path):
    """`make_trainer(stage, steps, config=..., data=..., **arguments)`: always from the same untrained model."""

    def make(
        stage="lasr",
        steps=4,
        config=None,
        data=None,
        cls=LiraTrainer,
        evaluator=None,
        english_evaluator=None,
        references=False,
        **arguments,
    ):
        model, processor = tiny_lira(**(config or {}))
        features = RoadFeatures(model, processor, features_folder, "float32")
        defaults = {
            "output_dir": str(tmp_path / "run"),
            "stage": stage,
            "max_steps": steps,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            "use_cpu": True,
            "queue_size": 20,
        }
        args = LiraTrainingArguments(**defaults | arguments)
        torch.manual_seed(0)
        data = rows if data is None else data
        collator = LiraCollator(features, documents=stage == "lasr", references=references)
        return cls(
            model=model,
            args=args,
            train_dataset=data,
            eval_dataset=data.select(range(4)) if args.eval_strategy != "no" else None,
            data_collator=collator,
            evaluator=evaluator,
            english_evaluator=english_evaluator,
        )

    return make


@pytest.fixture(scope="session")
def state():
    """`state(trainer)`: a copy of all weights and of the queues."""

    def copy(trainer) -> dict[str, torch.Tensor]:
        found = {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}
        for queue, held in trainer.queues.items():
            found |= {f"queue.{queue}.{name}": value.clone() for name, value in held.state_dict().items()}
        return found

    return copy
