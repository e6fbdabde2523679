"""Pooled features of both roads over texts, computed once by the frozen backbones and kept in feature caches
(ours)."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from lira_hf.data import CacheError, FeatureCache
from lira_hf.models import LiraModel, LiraProcessor
from lira_hf.models.backbones_lira import backbone_fingerprint
from lira_hf.translation import clean_text


__all__ = ["RoadFeatures", "share_of"]

ROADS = ("source", "anchor")


class RoadFeatures:
    """
    Features `(texts, 1 + bins, dim)` of g ("source") and h ("anchor"): row 0 the sentence vector, the rest the bins.

    With a folder they are kept on disk, so that training, evaluation and a restarted run compute each text once. Where
    g serves as h and reads and pools a text as h does, both roads have the same features of it: they are computed and
    kept once.

    Args:
        model ([`LiraModel`]): Whose backbones are used; they have to be frozen.
        processor ([`LiraProcessor`]): Its processor.
        folder (`str` or `os.PathLike`, *optional*): Where the caches lie, a sub-folder per backbone; `None`: no cache.
        dtype (`str`, *optional*, defaults to `"float16"`): `"float16"` (half the size, features exact to 5e-4 of their
            size) or `"float32"`.
        batch_size (`int`, *optional*, defaults to 64): Texts in one pass of a backbone.
        progress (`bool`, *optional*, defaults to `False`): Show progress bars.
    """

    shared = False  # both roads have the same features of a text

    def __init__(
        self,
        model: LiraModel,
        processor: LiraProcessor,
        folder: str | os.PathLike | None = None,
        dtype: str = "float16",
        batch_size: int = 64,
        progress: bool = False,
    ):
        self.model = model
        self.processor = processor
        self.batch_size = batch_size
        self.progress = progress
        self.dims = {"source": model.config.source_dim, "anchor": model.config.anchor_dim}
        self.rows = 1 + model.config.num_bins
        self.caches: dict[str, FeatureCache] = {}
        self.shared = self._roads_agree()
        if folder is not None:
            for road in ROADS[:1] if self.shared else ROADS:
                key = self._fingerprint(road)
                path = Path(folder) / f"{road}-{key}"
                self.caches[road] = FeatureCache(path, (self.rows, self.dims[road]), key, dtype)
            self.caches.setdefault("anchor", self.caches["source"])

    def fill(self, road: str, texts: Sequence[str]) -> int:
        """
        Computes and caches what is missing, longest texts first. A killed run goes on where it was.

        Args:
            road (`str`): `"source"` (g) or `"anchor"` (h).
            texts (`Sequence[str]`): All texts that will be needed.

        Returns:
            `int`: The number of texts that were computed.
        """
        cache = self.caches.get(road)
        if cache is None:
            raise ValueError("this RoadFeatures has no folder; expected one to fill; pass folder=...")
        if not cache.missing(texts):
            return 0
        return cache.fill(
            texts,
            lambda batch: self.compute(road, batch),
            self.batch_size,
            self.progress,
            lambda missing: self.processor.text_lengths(missing, road),
        )

    def fill_together(self, road: str, texts: Sequence[str]) -> int:
        """
        As [`~RoadFeatures.fill`], by all processes of a data-parallel run, which have to call it with the same texts:
        each computes its share, and all are there when it returns.

        Returns:
            `int`: The number of texts that this process computed.
        """
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return self.fill(road, texts)
        rank, world = dist.get_rank(), dist.get_world_size()
        count = self._add(road, [text for text in dict.fromkeys(texts) if share_of(text, world) == rank])
        dist.barrier()
        return count

    def take_over(self, road: str, texts: Sequence[str], other: "RoadFeatures") -> int:
        """
        Copies what another folder has of texts that this one lacks; each record is checked when it is read.

        Args:
            road (`str`): `"source"` (g) or `"anchor"` (h).
            texts (`Sequence[str]`): The texts.
            other ([`RoadFeatures`]): With a folder, of the same backbones.

        Returns:
            `int`: The number of texts that were copied.
        """
        here, there = self.caches[road], other.caches[road]
        missing = here.missing(texts)
        lacking = set(there.missing(missing))
        known = [text for text in missing if text not in lacking]
        return sum(
            here.append(batch, there.get(batch))
            for start in range(0, len(known), self.batch_size)
            if (batch := known[start : start + self.batch_size])
        )

    def check_folder(self, folder: Path) -> None:
        """
        Raises:
            CacheError: Where a folder has no features of these backbones.
        """
        for road, cache in self.caches.items():
            if not (folder / cache.folder.name / "index.sqlite").is_file():
                others = sorted(path.name for path in folder.glob(f"{road}-*")) if folder.is_dir() else []
                raise CacheError(
                    f"got {folder} with {', '.join(others) or 'no features'} of the road {road!r}; expected "
                    f"{cache.folder.name}, as this model's encoders make them; name a folder that was filled for the "
                    "same recipe"
                )

    def _add(self, road: str, texts: Sequence[str]) -> int:
        """Computes and caches what is missing. Others may write, too: the cache is locked only to be written to."""
        todo = self._by_length(road, self.caches[road].missing(texts))
        count = 0
        with tqdm(total=len(todo), desc=f"features ({road})", unit="text", disable=not self.progress) as bar:
            for start in range(0, len(todo), self.batch_size):
                batch = todo[start : start + self.batch_size]
                count += self.caches[road].append(batch, self.compute(road, batch))
                bar.update(len(batch))
        return count

    def get(self, road: str, texts: Sequence[str]) -> NDArray[np.floating]:
        """
        Features of texts, from the cache where there is one (filled first), else computed.

        Returns:
            `np.ndarray` of shape `(texts, 1 + bins, dim)`.
        """
        if not texts:
            return np.zeros((0, self.rows, self.dims[road]), dtype=np.float32)
        cache = self.caches.get(road)
        if cache is None:
            return self.compute(road, texts)
        try:
            return cache.get(texts)  # training reads what is there: one look-up, not two
        except KeyError:
            self._add(road, texts)
            return cache.get(texts)

    def get_both(
        self, source: Sequence[str], anchor: Sequence[str]
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """
        Features of texts on the multilingual road and of others on the English one, as of [`~RoadFeatures.get`]; where
        both roads have the same, a text that is on both is computed once.

        Returns:
            `tuple`: `np.ndarray` of shape `(texts, 1 + bins, dim)` of either road.
        """
        if not self.shared:
            return self.get("source", source), self.get("anchor", anchor)
        found = self.get("source", [*source, *anchor])
        return found[: len(source)], found[len(source) :]

    def _by_length(self, road: str, texts: Iterable[str]) -> list[str]:
        """Longest first; as they come where all go into one batch."""
        found = list(texts)
        if len(found) <= self.batch_size:
            return found
        lengths = self.processor.text_lengths(found, road)
        order = sorted(range(len(found)), key=lengths.__getitem__, reverse=True)
        return [found[place] for place in order]

    @torch.no_grad()
    def compute(self, road: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """One pass of a backbone over each text; distinct texts once, by length, so that little is padding."""
        distinct = self._by_length(road, dict.fromkeys(texts))
        place = {text: number for number, text in enumerate(distinct)}
        features = np.empty((len(distinct), self.rows, self.dims[road]), dtype=np.float32)
        device = self.model.device
        for start in range(0, len(distinct), self.batch_size):
            batch = self.processor.tokenize_road(distinct[start : start + self.batch_size], road)
            ids, mask = batch[f"{road}_ids"].to(device), batch[f"{road}_mask"].to(device)
            if road == "source":
                pooled = self.model.encode_source(ids, mask)
            else:
                pooled = self.model.encode_anchor(ids, mask).squeeze(1)
            features[start : start + len(pooled)] = pooled.float().cpu().numpy()
        return features if distinct == list(texts) else features[[place[text] for text in texts]]

    def _roads_agree(self) -> bool:
        """Whether g serves as h, with the same tokenizer and pooling."""
        config, processor = self.model.config, self.processor
        if self.model.anchor is not None or config.encoder_pooling != config.anchor_pooling:
            return False
        one, other = processor.source_tokenizer, processor.anchor_tokenizer
        return one is other or _tokenizer_state(one) == _tokenizer_state(other)

    def _fingerprint(self, road: str) -> str:
        """Everything that a road's features depend on, as 16 hexadecimal digits."""
        config, source = self.model.config, road == "source"
        backbone = self.model.encoder if source else self.model.anchor_encoder
        tokenizer = self.processor.road_tokenizer(road)
        parts = [
            backbone_fingerprint(backbone),
            config.encoder_pooling if source else config.anchor_pooling,
            config.num_bins,
            self.processor.max_text_length,
            _tokenizer_state(tokenizer),
        ]
        return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def share_of(text: str, processes: int) -> int:
    """Which of some processes or machines, from 0, computes a text's features, whatever is in the cache already."""
    return int.from_bytes(hashlib.blake2b(clean_text(text).encode(), digest_size=8).digest(), "big") % processes


def _tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What a tokenizer's ids depend on; not the padding and truncation that its last call left behind."""
    probe = tokenizer("LiRA 123 ঢাকা กรุงเทพ کراچی Đà Nẵng", truncation=False)["input_ids"]
    limit = min(tokenizer.model_max_length, 10**9)  # "none" is written differently by different versions
    state = [type(tokenizer).__name__, tokenizer.truncation_side, limit, probe, sorted(tokenizer.get_vocab().items())]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        state += [
            rules.get(name) for name in ("normalizer", "pre_tokenizer", "post_processor", "added_tokens", "model")
        ]
    else:
        state.append(
            sorted(
                (k, v)
                for k, v in tokenizer.init_kwargs.items()
                if isinstance(v, int | float | str | list) and k != "name_or_path"  # where it lies changes nothing
            )
        )
    return [json.dumps(part, sort_keys=True, default=str) for part in state]
