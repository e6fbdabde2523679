"""A static multilingual encoder: hashed n-gram embeddings and one projection, distilled in CPU seconds (ours)."""

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling


__all__ = ["NgramEncoderConfig", "NgramEncoderModel"]


@strict
class NgramEncoderConfig(PreTrainedConfig):
    """
    Configuration of [`NgramEncoderModel`].

    Args:
        vocab_size (`int`, *optional*, defaults to 65538): Hash buckets and two special tokens.
        embedding_size (`int`, *optional*, defaults to 128): Width of a bucket's embedding.
        hidden_size (`int`, *optional*, defaults to 384): Width of the output, that of the teacher.
        initializer_range (`float`, *optional*, defaults to 0.1): Standard deviation of the buckets at the start.
    """

    model_type = "lira_ngram"

    vocab_size: int = 65538
    embedding_size: int = 128
    hidden_size: int = 384
    initializer_range: float = 0.1
    pad_token_id: int | None = 0


class NgramEncoderModel(PreTrainedModel):
    """
    One vector per n-gram, no context. A sentence vector is the mean over n-grams, so a text costs a table look-up.

    It is the small multilingual encoder that the quickstart trains; with a real one (XLM-R, bge-m3) it is not needed.
    """

    config: NgramEncoderConfig
    base_model_prefix = "ngram"
    main_input_name = "input_ids"

    def __init__(self, config: NgramEncoderConfig):
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
        self.projection = nn.Linear(config.embedding_size, config.hidden_size, bias=False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=self.config.initializer_range)
            if module.padding_idx is not None:
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.Linear):
            init.orthogonal_(module.weight)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings = value

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        The mean of the n-gram vectors, projected once a text instead of once an n-gram.

        Args:
            input_ids (`torch.Tensor` of shape `(batch, tokens)`): Buckets.
            attention_mask (`torch.Tensor` of shape `(batch, tokens)`, *optional*): 1 for n-grams, 0 for padding.

        Returns:
            `torch.Tensor` of shape `(batch, hidden_size)`: Zero for a text without n-grams.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        keep = attention_mask.bool()
        length = keep.sum(-1)
        # embedding_bag never builds the (batch, tokens, embedding_size) tensor: three times faster in training.
        starts = torch.cat([length.new_zeros(1), length.cumsum(0)[:-1]])
        mean = F.embedding_bag(input_ids[keep], self.embeddings.weight, starts, mode="mean")
        return self.projection(mean)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling | tuple:
        """
        Args:
            input_ids (`torch.Tensor` of shape `(batch, tokens)`): Buckets.
            attention_mask (`torch.Tensor` of shape `(batch, tokens)`, *optional*): 1 for n-grams, 0 for padding.

        Returns:
            `BaseModelOutputWithPooling`: `last_hidden_state` `(batch, tokens, hidden_size)` and `pooler_output`
            `(batch, hidden_size)`, the mean over the n-grams.
        """
        output = BaseModelOutputWithPooling(
            last_hidden_state=self.projection(self.embeddings(input_ids)),
            pooler_output=self.get_text_features(input_ids, attention_mask),
        )
        return output if return_dict is not False else output.to_tuple()
