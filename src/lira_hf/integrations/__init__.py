"""Where LiRA meets the ecosystem: the Hub, checkpoints that carry their code, sentence-transformers."""

import importlib

from .demo import DemoWorker, LiraDemo
from .hub import push_to_hub, save_checkpoint
from .remote_code import export_remote_code
from .sentence_transformers import export_sentence_transformers


# These need sentence-transformers, which nothing else here does.
_LAZY = ("LiraCorrelationLoss", "LiraQueueLoss", "LiraSentenceCollator")

__all__ = [
    "DemoWorker",
    "LiraCorrelationLoss",
    "LiraDemo",
    "LiraQueueLoss",
    "LiraSentenceCollator",
    "export_remote_code",
    "export_sentence_transformers",
    "push_to_hub",
    "save_checkpoint",
]


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.sentence_transformers_losses"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "sentence_transformers":
            raise
        raise ImportError(
            f"{name} found no module {error.name!r}; expected sentence-transformers 6.2 or later; install it: "
            "pip install 'sentence-transformers>=6.2'"
        ) from error
