"""The quickstart's settings, and the recipes of its two stages."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .corpus import LANGUAGES


__all__ = ["MAX_LENGTH", "QuickstartSettings", "arca_recipe", "lasr_recipe"]

CORPORA = ("cldr", "catalogs", "study")
# The n-gram encoder has several tokens a character; the English encoder's own limit, 512, holds for itself.
MAX_LENGTH = 1024


@dataclass(frozen=True)
class QuickstartSettings:
    """
    Args:
        corpus (`str`, *optional*, defaults to `"cldr"`): `"cldr"` (CLDR and Django), `"catalogs"` (Debian packages) or
            `"study"` (many of them, every language on every side).
        languages (`tuple[str, ...]`, *optional*): Tags.
        seeds (`tuple[int, ...]`, *optional*, defaults to `(0, 1)`): One training run each.
        num_candidates (`int`, *optional*, defaults to 4): K.
        encoder_epochs (`float`, *optional*, defaults to 5.0): Of the distillation.
        arca_steps, lasr_steps (`int`, *optional*): Steps of the stages.
        path_weights (`tuple[float, ...]`, *optional*): Shares of g that are tried on dev.
        queue_sizes (`tuple[int, ...]`, *optional*, defaults to `(0, 1024)`): DocQueue lengths of stage 2 that are
            tried with the first seed; the better one on dev is used.
        data_limit (`int`, *optional*): Most rows per language of each part, for a quick look.
    """

    corpus: str = "cldr"
    languages: tuple[str, ...] = LANGUAGES
    seeds: tuple[int, ...] = (0, 1)
    num_candidates: int = 4
    encoder_epochs: float = 5.0
    arca_steps: int = 150
    lasr_steps: int = 150
    path_weights: tuple[float, ...] = field(default=(0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9))
    queue_sizes: tuple[int, ...] = (0, 1024)
    data_limit: int | None = None

    def __post_init__(self) -> None:
        if self.corpus not in CORPORA:
            raise ValueError(f"the corpus is {self.corpus!r}; expected one of {CORPORA}")

    def identity(self) -> dict[str, Any]:
        """What a run folder has to agree on to be continued."""
        return asdict(self)


def _common(folder: Path, output: Path, seed: int, critic: tuple[str, str], settings: QuickstartSettings) -> dict:
    return {
        "data": str(folder / "data"),
        "store": str(folder / "candidates.sqlite"),
        "critic": critic[0],
        "critic_fingerprint": critic[1],
        "num_candidates": settings.num_candidates,
        "features": str(folder / "features"),
        "output_dir": str(output),
        "seed": seed,
        # The batch is what a text is told apart from: 64 was measured to be worse in both stages.
        "per_device_train_batch_size": 256,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.1,
        "logging_steps": 30,
        "eval_strategy": "steps",
        "save_strategy": "steps",
        "save_total_limit": 2,
        "report_to": "none",
        "dataloader_pin_memory": False,
    }


def arca_recipe(
    folder: Path, seed: int, anchor: str, path_weight: float, critic: tuple[str, str], settings: QuickstartSettings
) -> dict[str, Any]:
    """Stage 1: adaptor and actor, from the backbones."""
    steps = settings.arca_steps
    return {
        "encoder": str(folder / "encoder"),
        "anchor": anchor,
        "max_length": MAX_LENGTH,
        "config": {"path_weight": path_weight, "languages": [*settings.languages, "en"]},
        **_common(folder, folder / f"seed-{seed}" / "arca", seed, critic, settings),
        "stage": "arca",
        "max_steps": steps,
        "learning_rate": 1e-3,
        "actor_learning_rate": 5e-3,
        "eval_strategy": "no",
        "save_steps": steps,
    }


def lasr_recipe(
    folder: Path, seed: int, queue_size: int, critic: tuple[str, str], settings: QuickstartSettings
) -> dict[str, Any]:
    """Stage 2: fusion and embedding head, from stage 1's checkpoint; the best checkpoint on dev is kept."""
    steps = max(settings.lasr_steps // 3, 1)
    return {
        "model": str(folder / f"seed-{seed}" / "arca"),
        **_common(folder, folder / f"seed-{seed}" / f"lasr-queue-{queue_size}", seed, critic, settings),
        "stage": "lasr",
        "max_steps": settings.lasr_steps,
        "learning_rate": 1e-3,
        "train_arca": True,
        "queue_size": queue_size,
        "eval_steps": steps,
        "save_steps": steps,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_ndcg@10",
        "greater_is_better": True,
    }
