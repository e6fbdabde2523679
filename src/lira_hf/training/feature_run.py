"""The features that a recipe's training reads, computed before it: all of them, or the share of one of several
machines (ours)."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lira_hf.inference import RoadFeatures, Share

from .joining import load_model, place_model, row_processor
from .recipes import Recipe, anchor_languages, read_recipe, with_kinds
from .tasks import load_task, needed_texts


__all__ = ["FeatureReport", "fill_recipe_features"]


@dataclasses.dataclass
class FeatureReport:
    """
    What became of one road's texts.

    Args:
        needed (`int`): Distinct texts of the recipe, or of the share.
        taken (`int`): Taken over from other folders.
        computed (`int`): Computed now.
    """

    needed: int = 0
    taken: int = 0
    computed: int = 0


def fill_recipe_features(
    recipe: str | os.PathLike | dict[str, Any] | Recipe,
    share: Share | None = None,
    folder: str | os.PathLike | None = None,
    sources: Sequence[str | os.PathLike] = (),
    progress: bool = True,
) -> dict[str, FeatureReport]:
    """
    Fills a recipe's feature cache with what training reads of its rows, and trains nothing. Mined hard negatives and
    the dev split are left to the training run. A run that was killed goes on where it was.

    On several machines each calls it with its share and a folder of its own; then one machine with all of these
    folders as `sources`, which it takes over and completes. Which share a text is in depends on the text alone.

    Args:
        recipe (`str`, `os.PathLike`, `dict` or `tuple`): As for [`read_recipe`].
        share ([`Share`], *optional*): Of the texts; all without.
        folder (`str` or `os.PathLike`, *optional*): Where to; the recipe's `features` without.
        sources (`Sequence[str]`, *optional*): Feature folders to take over what they have.
        progress (`bool`, *optional*, defaults to `True`): Show progress bars.

    Returns:
        `dict[str, FeatureReport]`: Of `"source"` (g) and `"anchor"` (h).

    Raises:
        ValueError: Where neither the recipe nor `folder` says where to.
        CacheError: For a source that lacks features of these backbones, or is damaged.
    """
    model_arguments, data, args = recipe if isinstance(recipe, tuple) else read_recipe(recipe)
    place = data.features if folder is None else folder
    if place is None:
        raise ValueError(
            "got a recipe without features, and no folder; expected where the features are to be kept; name a folder: "
            "features: ... in the recipe, or --output"
        )
    anchors, every = anchor_languages(model_arguments), data.each()
    causal = args.stage == "lasr" and any(task.task == "generation" for task in every)
    writer = row_processor(model_arguments) if causal else None
    tasks = [load_task(task, anchors, False, writer, args.stage) for task in every]
    # A base LM changes nothing of the encoders' features.
    model, processor = load_model(with_kinds(dataclasses.replace(model_arguments, base=None), tasks), causal=False)
    place_model(model, args.device)
    features = RoadFeatures(model, processor, place, data.feature_dtype, progress=progress)
    known = [_open(Path(source), features, data.feature_dtype) for source in sources]
    found = {}
    for road, texts in needed_texts(tasks, processor).items():
        wanted = [text for text in dict.fromkeys(texts) if share is None or share.holds_text(text)]
        taken = sum(features.take_over(road, wanted, other) for other in known)
        found[road] = FeatureReport(len(wanted), taken, features.fill(road, wanted))
    return found


def _open(folder: Path, features: RoadFeatures, dtype: str) -> RoadFeatures:
    features.check_folder(folder)
    return RoadFeatures(features.model, features.processor, folder, dtype)
