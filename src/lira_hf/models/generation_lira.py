"""`generate` with a soft prefix: the base LM's own, over a prompt whose placeholders are filled as it looks them
up."""

import copy
from contextlib import ExitStack
from typing import Any

import torch
from transformers import (
    EncoderRepetitionPenaltyLogitsProcessor,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
)

from .base_lira import forget_gaps, past_length, remember_gaps, second_table_explained, with_known_gaps
from .modeling_lira import ROAD_NAMES
from .prefix_lira import (
    NeverPlaceholder,
    RoomForPlaceholder,
    WithoutPlaceholders,
    inject_prefix,
    place_prefix,
    prefix_attention,
)


__all__ = ["LiraGenerationMixin"]

# What reads the scores at the prompt's ids, and the value that turns each off.
_PENALTIES = {
    "repetition_penalty": (RepetitionPenaltyLogitsProcessor, 1.0),
    "no_repeat_ngram_size": (NoRepeatNGramLogitsProcessor, 0),
}


class _Settings:
    """What holds in a call of `generate`: its arguments, then the configuration given, then the model's."""

    def __init__(self, kwargs: dict[str, Any], config: GenerationConfig | None, default: GenerationConfig):
        self.kwargs, self.config, self.default = kwargs, config, default

    def get(self, name: str) -> Any:
        places = (self.kwargs.get(name), getattr(self.config, name, None), getattr(self.default, name, None))
        return next((value for value in places if value is not None), None)

    def turn_off(self, name: str, neutral: Any) -> None:
        """Sets `name` to a value that does nothing, where the caller set it; his own objects stay as they are."""
        if self.config is not None and name not in self.kwargs:
            self.config = copy.deepcopy(self.config)
            setattr(self.config, name, neutral)
        else:
            self.kwargs[name] = neutral


class LiraGenerationMixin(GenerationMixin):
    """Generation of a class that holds a base LM and finds the prefix of a batch."""

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: Any = None,
        *,
        assistant_model: PreTrainedModel | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        The base LM's `generate`, with the soft prefix in its prompt: every mode, cache and processor it has. To have
        decoding compiled, compile `language_model`.

        Args:
            inputs, input_ids (`torch.Tensor` of shape `(batch, tokens)`): The prompt, with the placeholders.
            assistant_model (`PreTrainedModel`, *optional*): A smaller LM with the base's vocabulary, or a
                [`LiraForCausalLM`], which then reads the same text by its own prefix.
            generation_config, logits_processor, stopping_criteria, attention_mask, kwargs: The text's tensors as in
                [`~LiraForCausalLM.forward`]; all else as the base's `generate` takes it. With `inputs_embeds` and a
                text, `input_ids` says where the prefix goes. A text that a cache has read need not be given again.

        Returns:
            As the base's `generate`: the prompt and what follows, `(batch x returned, tokens)`.
        """
        if inputs is not None and input_ids is not None:
            raise ValueError("got inputs and input_ids; expected one of them, which are the same; leave one out")
        input_ids = inputs if input_ids is None else input_ids
        names = (*ROAD_NAMES, "language_ids", "prefix_embeds", "prefix_mask")
        text = {name: kwargs.pop(name, None) for name in names}
        settings = _Settings(kwargs, generation_config, self.generation_config)
        base, cache, embeds = self.language_model, kwargs.get("past_key_values"), kwargs.get("inputs_embeds")
        base.generation_config = self.generation_config
        prefix = self.find_prefix(input_ids, past=past_length(cache), embedded=embeds is not None, **text)
        forget_gaps(cache)
        if past_length(cache) and input_ids is not None:
            attention_mask = with_known_gaps(cache, attention_mask, *input_ids.shape)
        with ExitStack() as scope:
            if prefix["prefix_embeds"] is not None:
                attention_mask = self._prompt_mask(input_ids, attention_mask, prefix["prefix_mask"], settings)
                logits_processor = self._processors(input_ids, logits_processor, settings)
                self._enter(scope, input_ids, prefix, settings)
                assistant_model = self._assistant(assistant_model, input_ids, text, scope)
            elif isinstance(assistant_model, LiraGenerationMixin):
                assistant_model = assistant_model.plain_assistant()
            given = {
                "inputs": input_ids,
                "generation_config": settings.config,
                "logits_processor": logits_processor,
                "stopping_criteria": stopping_criteria,
                "assistant_model": assistant_model,
                "attention_mask": attention_mask,
            }
            output = base.generate(**{name: value for name, value in given.items() if value is not None}, **kwargs)
        if prefix["prefix_embeds"] is not None and hasattr(output, "get"):
            remember_gaps(output.get("past_key_values"), attention_mask)
        return output

    def _enter(self, scope: ExitStack, input_ids: torch.Tensor, prefix: dict, settings: "_Settings") -> None:
        """Puts the prefix where the base will look for it, while `scope` lasts."""
        if settings.get("cache_implementation") == "paged":
            raise ValueError(
                "cache_implementation is 'paged', which is continuous batching: it packs prompts into one row, "
                "where a soft prefix can't follow; expected another cache; leave it out"
            )
        token_id, kwargs = self.config.prefix_token_id, settings.kwargs
        if kwargs.get("inputs_embeds") is not None:
            embeds, soft = kwargs["inputs_embeds"], prefix["prefix_embeds"]
            kwargs["inputs_embeds"] = place_prefix(input_ids, embeds, soft, token_id)
            return
        if settings.get("prefill_chunk_size"):
            kwargs["disable_compile"] = True  # the one compiled pass that could hold placeholders
        negative = kwargs.get("negative_prompt_ids")
        if negative is not None and not bool(prefix["prefix_mask"].all()) and bool((negative == token_id).any()):
            mask = kwargs.get("negative_prompt_attention_mask")
            kwargs["negative_prompt_attention_mask"] = prefix_attention(
                negative, mask, prefix["prefix_mask"], token_id
            )
        embedding, width = self.language_model.get_input_embeddings(), input_ids.shape[1]
        scope.enter_context(second_table_explained(self.config))
        scope.enter_context(inject_prefix(embedding, prefix["prefix_embeds"], token_id, width))

    def _prompt_mask(self, input_ids, attention_mask, prefix_mask, settings: "_Settings") -> torch.Tensor | None:
        if bool(prefix_mask.all()):
            return attention_mask
        if attention_mask is None:
            # As the library infers it: padding is told by its id, unless that also ends a text.
            pad, eos = settings.get("pad_token_id"), settings.get("eos_token_id")
            if pad is not None and pad not in (eos if isinstance(eos, list) else [eos]):
                attention_mask = (input_ids != pad).long()
        return prefix_attention(input_ids, attention_mask, prefix_mask, self.config.prefix_token_id)

    def _processors(self, input_ids, processors, settings: "_Settings") -> LogitsProcessorList:
        """The placeholder is never generated, and processors do not trip over one that lies beyond the vocabulary."""
        token_id, processors = self.config.prefix_token_id, LogitsProcessorList(processors or [])
        if token_id < self.config.get_text_config().vocab_size:
            processors.append(NeverPlaceholder(token_id))
            return processors
        for name, (kind, neutral) in _PENALTIES.items():
            value = settings.get(name)
            if value is not None and value != neutral:
                processors.append(WithoutPlaceholders(kind(value), token_id))
                settings.turn_off(name, neutral)
        value = settings.get("encoder_repetition_penalty")
        if value is not None and value != 1.0:
            told = torch.where(input_ids == token_id, input_ids[:, -1:], input_ids)
            processors.append(EncoderRepetitionPenaltyLogitsProcessor(value, told))
            settings.turn_off("encoder_repetition_penalty", 1.0)
        if settings.get("prompt_lookup_num_tokens"):
            processors.append(RoomForPlaceholder(token_id))
        return processors

    def plain_assistant(self) -> PreTrainedModel:
        """The base LM as an assistant, with the settings that were made for the whole model."""
        self.language_model.generation_config = self.generation_config
        return self.language_model

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
            assistant = assistant.plain_assistant()
        embedding, width = assistant.get_input_embeddings(), input_ids.shape[1]
        scope.enter_context(inject_prefix(embedding, prefix, token_id, width, checked=False))
        return assistant
