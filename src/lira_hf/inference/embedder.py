"""LiraEmbedder: text in, vectors out, with candidates from a list, a store or a translator."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from lira_hf.models import LiraModel, LiraProcessor

from .candidates import CandidateSource
from .features import RoadFeatures


__all__ = ["LiraEmbedder", "pad_candidates"]


class LiraEmbedder:
    """
    Embeds texts of any language into one space.

    A text in one of the model's `anchor_languages` (English) is its own candidate; any other takes the candidates that
    it is given or that the candidate source finds, and is embedded by the multilingual road alone where there is none.

    Args:
        model ([`LiraModel`]): The model; put into evaluation mode.
        processor ([`LiraProcessor`]): Its processor.
        candidates ([`CandidateSource`], *optional*): Where candidates come from.
        features ([`RoadFeatures`], *optional*): A feature cache; without one every text is encoded anew.
        batch_size (`int`, *optional*, defaults to 64): Texts in one pass.
        progress (`bool`, *optional*, defaults to `False`): Show a progress bar.

    Example:

    ```python
    >>> embedder = LiraEmbedder(model, processor, CandidateSource(translator=memory))
    >>> queries = embedder.encode(["ঢাকা"], languages="bn")
    >>> documents = embedder.encode(["Dhaka", "Delhi"], languages="en")
    >>> queries @ documents.T
    ```
    """

    def __init__(
        self,
        model: LiraModel,
        processor: LiraProcessor,
        candidates: CandidateSource | None = None,
        features: RoadFeatures | None = None,
        batch_size: int = 64,
        progress: bool = False,
    ):
        self.model = model.eval()
        self.processor = processor
        self.candidates = candidates
        self.features = features or RoadFeatures(model, processor, batch_size=batch_size)
        self.batch_size = batch_size
        self.progress = progress

    @torch.no_grad()
    def encode(
        self,
        texts: str | Sequence[str],
        languages: str | Sequence[str | None] | None = None,
        candidates: Sequence[Sequence[str]] | None = None,
        scores: Sequence[Sequence[Sequence[float] | None]] | None = None,
    ) -> NDArray[np.float32]:
        """
        Args:
            texts (`str` or `Sequence[str]`): The texts.
            languages (`str` or `Sequence[str]`, *optional*): Tag of all texts or of each.
            candidates (`Sequence[Sequence[str]]`, *optional*): Candidates of each text, instead of the source's.
            scores (`Sequence`, *optional*): The judge's (s, e, p) of each candidate, or `None`.

        Returns:
            `np.ndarray` of shape `(texts, projection_dim)`, float32, of unit length; zero for an empty text without
            candidates.
        """
        single = isinstance(texts, str)
        texts = [texts] if single else list(texts)
        tags = [languages] * len(texts) if languages is None or isinstance(languages, str) else list(languages)
        if len(tags) != len(texts):
            raise ValueError(
                f"got {len(texts)} texts and {len(tags)} languages; expected one tag per text, or one for all"
            )
        if candidates is not None and len(candidates) != len(texts):
            raise ValueError(
                f"got {len(texts)} texts and {len(candidates)} lists of candidates; expected one list per text"
            )
        output = np.zeros((len(texts), self.model.config.projection_dim), dtype=np.float32)
        # Texts of like length go together, so that little of a batch is padding.
        order = sorted(range(len(texts)), key=lambda position: len(texts[position]), reverse=True)
        for start in tqdm(range(0, len(order), self.batch_size), desc="embedding", disable=not self.progress):
            rows = order[start : start + self.batch_size]
            batch, marks = [texts[row] for row in rows], [tags[row] for row in rows]
            if candidates is not None:
                found = [list(candidates[row]) for row in rows]
                judged = [list(scores[row]) if scores is not None else [None] * len(candidates[row]) for row in rows]
            else:
                found, judged = self._find(batch, marks)
            output[rows] = self.encode_batch(batch, marks, found, judged)
        return output[0] if single else output

    def _find(self, texts: list[str], languages: list[str | None]):
        own = self.processor.anchor_languages
        foreign = [None if tag in own else tag for tag in languages]
        if self.candidates is None:
            found, judged = [[] for _ in texts], [[] for _ in texts]
        else:
            found, judged = self.candidates.get(texts, foreign)
        for row, (text, tag) in enumerate(zip(texts, languages, strict=True)):
            if tag in own and text.strip():
                found[row], judged[row] = [text], [None]
        return found, judged

    def encode_batch(self, texts, languages, candidates, scores) -> NDArray[np.float32]:
        """One batch with its candidates and scores: `(texts, projection_dim)`."""
        device = self.model.device
        source = torch.from_numpy(self.features.get("source", texts).astype(np.float32)).to(device)
        anchor, judged = pad_candidates(self.features, candidates, scores)
        ids = torch.tensor(self.processor.language_ids(languages), device=device)
        prompt = {}
        if self.model.config.embedding_source == "language_model":
            prompt = {name: value.to(device) for name, value in self.processor.tokenize_prompts(texts).items()}
        output = self.model(
            **prompt,
            source_features=source,
            anchor_features=None if anchor is None else anchor.to(device),
            anchor_scores=None if judged is None else judged.to(device),
            language_ids=ids,
        )
        return output.pooler_output.float().cpu().numpy()


def pad_candidates(
    features: RoadFeatures,
    candidates: Sequence[Sequence[str]],
    scores: Sequence[Sequence[Sequence[float] | None]] | None = None,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """
    Ragged candidates as the tensors that the model reads.

    Args:
        features ([`RoadFeatures`]): Where h's features come from.
        candidates (`Sequence[Sequence[str]]`): Per text up to K English strings.
        scores (`Sequence`, *optional*): Per candidate (s, e, p) or `None`.

    Returns:
        `tuple`: features `(texts, candidates, 1 + bins, d_h)` float32, zero where there is no candidate, and scores
        `(texts, candidates, 3)`, zero where there is none. Both `None` where no text has a candidate.
    """
    width = max((len(row) for row in candidates), default=0)
    if not width:
        return None, None
    flat = [text for row in candidates for text in row]
    found = features.get("anchor", flat)
    padded = np.zeros((len(candidates), width, features.rows, features.dims["anchor"]), dtype=np.float32)
    judged = np.zeros((len(candidates), width, 3), dtype=np.float32)
    place = 0
    for row, texts in enumerate(candidates):
        count = len(texts)
        padded[row, :count] = found[place : place + count]
        place += count
        for k, score in enumerate(scores[row] if scores is not None else []):
            if score is not None:
                judged[row, k] = score
    return torch.from_numpy(padded), torch.from_numpy(judged)
