"""`generate` with a soft prefix: the base LM's own, over a prompt whose placeholders are filled as it looks them
up."""

import copy
from contextlib import ExitStack
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
)

from .base_lira import second_table_explained
from .modeling_lira import ROAD_NAMES
from .prefix_lira import NeverPlaceholder, WithoutPlaceholders, inject_prefix, prefix_attention


__all__ = ["LiraGenerationMixin"]

# What reads the scores at the prompt's ids, and the value that turns each off.
_PENALTIES = {
    "repetition_penalty": (RepetitionPenaltyLogitsProcessor, 1.0),
    "no_repeat_ngram_size": (NoRepeatNGramLogitsProcessor, 0),
}


class LiraGenerationMixin(GenerationMixin):
    """Generation of a class that holds a base LM and finds the prefix of a batch."""

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        assistant_model: PreTrainedModel | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        The base LM's `generate`, with the soft prefix in its prompt: every mode, cache and processor it has.

        Args:
            inputs, input_ids (`torch.Tensor` of shape `(batch, tokens)`): The prompt, with the placeholders.
            assistant_model (`PreTrainedModel`, *optional*): A smaller LM with the base's vocabulary, or a
                [`LiraForCausalLM`], which then reads the same text by its own prefix.
            generation_config, logits_processor, attention_mask, kwargs: The text's tensors as in
                [`~LiraForCausalLM.forward`]; all else as the base's `generate` takes it.

        Returns:
            As the base's `generate`: the prompt and what follows, `(batch x returned, tokens)`.
        """
        input_ids = inputs if input_ids is None else input_ids
        names = (*ROAD_NAMES, "language_ids", "prefix_embeds", "prefix_mask")
        text = {name: kwargs.pop(name, None) for name in names}
        base, token_id = self.language_model, self.config.prefix_token_id
        base.generation_config = self.generation_config
        with ExitStack() as scope:
            prefix = self.find_prefix(input_ids, **text)
            if prefix["prefix_embeds"] is not None:
                attention_mask = self._prompt_mask(input_ids, attention_mask, prefix["prefix_mask"])
                logits_processor, generation_config = self._processors(logits_processor, generation_config, kwargs)
                scope.enter_context(second_table_explained(self.config))
                embedding, width = base.get_input_embeddings(), input_ids.shape[1]
                scope.enter_context(inject_prefix(embedding, prefix["prefix_embeds"], token_id, width))
                assistant_model = self._assistant(assistant_model, input_ids, text, scope)
            elif isinstance(assistant_model, LiraGenerationMixin):
                assistant_model = assistant_model.language_model
            given = {
                "inputs": input_ids,
                "generation_config": generation_config,
                "logits_processor": logits_processor,
                "assistant_model": assistant_model,
                "attention_mask": attention_mask,
            }
            return base.generate(**{name: value for name, value in given.items() if value is not None}, **kwargs)

    def _prompt_mask(self, input_ids, attention_mask, prefix_mask) -> torch.Tensor | None:
        if bool(prefix_mask.all()):
            return attention_mask
        if attention_mask is None:
            # As the library infers it: padding is told by its id, unless that also ends a text.
            pad, eos = self.generation_config.pad_token_id, self.generation_config.eos_token_id
            if pad is not None and pad not in (eos if isinstance(eos, list) else [eos]):
                attention_mask = (input_ids != pad).long()
        return prefix_attention(input_ids, attention_mask, prefix_mask, self.config.prefix_token_id)

    def _processors(self, processors, generation_config, kwargs: dict) -> tuple[LogitsProcessorList, Any]:
        """The placeholder is never generated, and penalties do not trip over one that lies beyond the vocabulary."""
        token_id, processors = self.config.prefix_token_id, LogitsProcessorList(processors or [])
        if token_id < self.config.get_text_config().vocab_size:
            processors.append(NeverPlaceholder(token_id))
            return processors, generation_config
        for name, (kind, neutral) in _PENALTIES.items():
            value = kwargs.get(name)
            for config in (generation_config, self.generation_config):
                value = getattr(config, name, None) if value is None else value
            if value is None or value == neutral:
                continue
            processors.append(WithoutPlaceholders(kind(value), token_id))
            if generation_config is not None and name not in kwargs:
                generation_config = copy.deepcopy(generation_config)
                setattr(generation_config, name, neutral)
            else:
                kwargs[name] = neutral
        return processors, generation_config

    def _assistant(self, assistant, input_ids, text: dict, scope: ExitStack) -> PreTrainedModel | None:
        """The assistant as a plain LM, and its look-up of placeholders made legal while `scope` lasts."""
        if assistant is None:
            return None
        prefix, token_id = None, self.config.prefix_token_id
        if isinstance(assistant, LiraGenerationMixin):
            if assistant.config.prefix_token_id != token_id:
                raise ValueError(
                    f"the assistant's placeholder has the id {assistant.config.prefix_token_id}, the model's "
                    f"{token_id}; expected the same prompt to serve both; join the assistant with the same "
                    "prefix_token_id"
                )
            prefix = assistant.find_prefix(input_ids, **text)["prefix_embeds"]
            assistant = assistant.language_model
        embedding, width = assistant.get_input_embeddings(), input_ids.shape[1]
        scope.enter_context(inject_prefix(embedding, prefix, token_id, width, checked=False))
        return assistant
