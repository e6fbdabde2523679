"""
The mechanics of MindMerger and LangBridge with plain parts of transformers, as small references for `bench_peers`.

Written from the papers' descriptions (arXiv 2405.17386 and 2401.10695), since the released packages don't run on
current transformers. Base LM and encoder are frozen here, which is the cheaper training of either.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


__all__ = ["LangBridgeReference", "MindMergerReference", "squeeze_left"]


def squeeze_left(embeds: Tensor, mask: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
    """
    Moves padding to the left, so that what counts is in one piece, and cuts columns that nobody uses.

    Args:
        embeds (`Tensor` of shape `(batch, tokens, D)`), mask, labels (`(batch, tokens)`).
    """
    order = torch.argsort(mask.to(torch.uint8), dim=1, stable=True)[:, -int(mask.sum(1).max()) :]
    rows = embeds.gather(1, order.unsqueeze(-1).expand(-1, -1, embeds.shape[-1]))
    return rows, mask.gather(1, order), None if labels is None else labels.gather(1, order)


class _Peer(nn.Module):
    """A frozen encoder and a frozen base LM; what is learned between them is the subclass's."""

    def __init__(self, base: PreTrainedModel, encoder: PreTrainedModel):
        super().__init__()
        self.base, self.encoder = base, encoder
        for part in (base, encoder):
            part.requires_grad_(False).eval()

    def read(self, source_ids: Tensor, source_mask: Tensor) -> Tensor:
        """The encoder's token states, `(batch, tokens, d_g)`."""
        with torch.no_grad():
            return self.encoder(input_ids=source_ids, attention_mask=source_mask)[0]

    def joined(self, *parts: tuple[Tensor, Tensor], labels: Tensor | None = None) -> dict[str, Tensor]:
        """The base's inputs from pieces of `(embeds, mask)`; labels are those of the last piece."""
        embeds, mask = (torch.cat([part[place] for part in parts], dim=1) for place in (0, 1))
        if labels is not None:
            labels = torch.cat([labels.new_full((len(mask), mask.shape[1] - labels.shape[1]), -100), labels], dim=1)
        embeds, mask, labels = squeeze_left(embeds, mask, labels)
        given = {"inputs_embeds": embeds, "attention_mask": mask}
        return given if labels is None else given | {"labels": labels}

    def embed(self, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The base's embeddings of ids, and their mask."""
        return self.base.get_input_embeddings()(ids), torch.ones_like(ids) if mask is None else mask

    def forward(self, labels: Tensor | None = None, **text: Tensor) -> Any:
        """One pass of the base; with labels `(batch, tokens of the prompt)` its loss."""
        return self.base(**self.inputs(labels=labels, **text), use_cache=False)

    def generate(self, text: dict[str, Tensor], **options: Any) -> Tensor:
        """The base's own `generate` from ready embeddings."""
        with torch.no_grad():
            return self.base.generate(**self.inputs(**text), **options)

    def inputs(self, **text: Tensor | None) -> dict[str, Tensor]:
        """The base's inputs of a batch."""
        raise NotImplementedError


class MindMergerReference(_Peer):
    """[BOS | MLP of the encoder's states | a learned end boundary | the foreign prompt and the answer]."""

    def __init__(self, base: PreTrainedModel, encoder: PreTrainedModel):
        super().__init__(base, encoder)
        width, wide = encoder.config.hidden_size, base.config.hidden_size
        self.mapping = nn.Sequential(nn.Linear(width, 2 * wide), nn.ReLU(), nn.Linear(2 * wide, wide))
        self.boundary = nn.Parameter(torch.zeros(1, 1, wide))

    def inputs(self, source_ids, source_mask, input_ids, attention_mask, labels=None) -> dict[str, Tensor]:
        mapped = self.mapping(self.read(source_ids, source_mask))
        one = attention_mask.new_ones(len(input_ids), 1)
        parts = [
            self.embed(torch.full_like(one, self.base.config.bos_token_id)),
            (mapped, source_mask),
            (self.boundary.expand(len(input_ids), -1, -1), one),
            self.embed(input_ids, attention_mask),
        ]
        return self.joined(*parts, labels=labels)


class LangBridgeReference(_Peer):
    """[one linear map of the encoder's states | a learned end | the answer]: the base never reads the foreign text."""

    def __init__(self, base: PreTrainedModel, encoder: PreTrainedModel):
        super().__init__(base, encoder)
        wide = base.config.hidden_size
        self.alignment = nn.Linear(encoder.config.hidden_size, wide)
        self.end = nn.Parameter(torch.zeros(1, 1, wide))

    def inputs(self, source_ids, source_mask, input_ids=None, attention_mask=None, labels=None) -> dict[str, Tensor]:
        mapped = self.alignment(self.read(source_ids, source_mask))
        one = source_mask.new_ones(len(source_ids), 1)
        parts = [(mapped, source_mask), (self.end.expand(len(source_ids), -1, -1), one)]
        if input_ids is not None:
            parts.append(self.embed(input_ids, attention_mask))
        return self.joined(*parts, labels=labels)
