"""LiraProcessor: texts, their candidate translations and the judge's scores to the tensors that LiRA's models read."""

import copy
import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import BatchFeature, PreTrainedTokenizerBase

from .chat_lira import LiraChatMixin
from .configuration_lira import LiraConfig, prefix_slots
from .prompt_lira import (
    PREFIX_TOKEN,
    add_prefix_token,
    as_choices,
    as_prompts,
    clean_text,
    expand_prefix,
    load_tokenizer,
    stack_choices,
)
from .saving_lira import check_files, finish_saving, staged
from .traits_lira import candidate_traits, trait_tensor


__all__ = ["LiraProcessor", "clean_text"]

_DEFAULT_SLOTS = prefix_slots(LiraConfig.num_bins, LiraConfig.prefix_roads)
_LONGEST_TEXT = 200_000  # characters; any backbone's window is far shorter, and tokenizers are linear or worse
_SOME = 1024  # texts that are measured at once


class LiraProcessor(LiraChatMixin):
    """
    Text in, every tensor of LiRA's models out.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): Saved at the root: the base LM's; g's where there is no base LM.
        source_tokenizer (`PreTrainedTokenizerBase`): The multilingual encoder's.
        anchor_tokenizer (`PreTrainedTokenizerBase`): The English encoder's; g's again where g serves as h.
        trained_languages (`list[str]`, *optional*):
            `languages` of the configuration; index + 1 is a text's `language_ids`.
        anchor_languages (`list[str]`, *optional*, defaults to `["en"]`): A text in these is its own translation.
        max_text_length (`int`, *optional*, defaults to 512):
            Tokens kept of a text, for both encoders; a tokenizer's own smaller limit holds. Longer texts are cut.
        prefix_length (`int`, *optional*, defaults to 0):
            Soft tokens in the base LM's prompt, `config.prefix_length`; 0: there is no base LM. The tokenizer of a
            base LM gets the placeholder's token, pads on the left, and pads with its end of text where it has no
            padding token.
        candidate_kinds (`list[str]`, *optional*): `candidate_kinds` of the configuration.
        query_prompt, document_prompt (`str`, *optional*, defaults to `""`): As of the configuration.

    Example:

    ```python
    >>> processor(["ঢাকা", "cat"], candidates=[["Dhaka", "dacca"], None], languages=["bn", "en"]).keys()
    dict_keys(['source_ids', 'source_mask', 'anchor_ids', 'anchor_mask', 'anchor_traits', 'language_ids'])
    ```
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        source_tokenizer: PreTrainedTokenizerBase,
        anchor_tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
        trained_languages: Sequence[str] = (),
        anchor_languages: Sequence[str] = ("en",),
        max_text_length: int = 512,
        prefix_length: int = 0,
        candidate_kinds: Sequence[str] = (),
        query_prompt: str = "",
        document_prompt: str = "",
    ):
        self.query_prompt = query_prompt
        self.document_prompt = document_prompt
        self.candidate_kinds = list(candidate_kinds)
        self.trained_languages = list(trained_languages)
        self.anchor_languages = list(anchor_languages)
        self.max_text_length = max_text_length
        self.prefix_length = prefix_length
        if prefix_length:
            add_prefix_token(tokenizer)
            tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"  # the second is what is saved
            if tokenizer.pad_token is None:
                tokenizer.pad_token = tokenizer.eos_token
            chat_template = chat_template or tokenizer.chat_template
        super().__init__(tokenizer, source_tokenizer, anchor_tokenizer, chat_template=chat_template)

    @classmethod
    def from_backbones(
        cls,
        encoder: str | PreTrainedTokenizerBase,
        anchor: str | PreTrainedTokenizerBase | None = None,
        *,
        base: str | PreTrainedTokenizerBase | None = None,
        config: LiraConfig | None = None,
        **kwargs: Any,
    ) -> "LiraProcessor":
        """
        Joins the tokenizers of the backbones.

        Args:
            encoder (`str` or `PreTrainedTokenizerBase`): Of the multilingual encoder: name, folder or tokenizer.
            anchor (`str` or `PreTrainedTokenizerBase`, *optional*): Of the English encoder. `None`: g serves as h.
            base (`str` or `PreTrainedTokenizerBase`, *optional*): Of the base LM, where there is one.
            config ([`LiraConfig`], *optional*): Of the model; gives the languages, kinds, prompts of g and the length
                of the prefix, and has to agree on the placeholder.
            kwargs: `trained_languages`, `anchor_languages`, `max_text_length`, `prefix_length`, `candidate_kinds`,
                `query_prompt`, `document_prompt`.

        Raises:
            ValueError: Where model and tokenizer disagree on the placeholder's id.
        """
        source = load_tokenizer(encoder)
        english = source if anchor is None else load_tokenizer(anchor)
        if config is not None:
            known = {"trained_languages": config.languages, "anchor_languages": config.anchor_languages}
            known |= {name: getattr(config, name) for name in ("candidate_kinds", "query_prompt", "document_prompt")}
            kwargs = known | ({"prefix_length": config.prefix_length} if base is not None else {}) | kwargs
        if base is None:
            return cls(source, source, english, **kwargs)
        prompts = load_tokenizer(base)
        if prompts is source or prompts is english:
            prompts = copy.deepcopy(prompts)  # the placeholder and the padding side are the base LM's alone
        processor = cls(prompts, source, english, **{"prefix_length": _DEFAULT_SLOTS} | kwargs)
        wanted = None if config is None else config.prefix_token_id
        if wanted is not None and wanted != processor.prefix_token_id:
            raise ValueError(
                f"the model's placeholder has the id {wanted}, the tokenizer's {processor.prefix_token_id}; "
                f"expected the same; join the model with prefix_token_id={processor.prefix_token_id}, or set it in "
                "its config"
            )
        return processor

    @property
    def prefix_token(self) -> str:
        """The placeholder, which a prompt may hold once to say where the soft prefix goes."""
        return PREFIX_TOKEN

    @property
    def prefix_token_id(self) -> int:
        """Its id in the base LM's tokenizer."""
        return self.tokenizer.convert_tokens_to_ids(PREFIX_TOKEN)

    @property
    def model_input_names(self) -> list[str]:
        roads = [
            "source_ids",
            "source_mask",
            "anchor_ids",
            "anchor_mask",
            "anchor_scores",
            "anchor_traits",
            "language_ids",
        ]
        return ["input_ids", "attention_mask", *roads] if self.prefix_length else roads

    def __call__(
        self,
        text: str | Sequence[str] | Sequence[tuple[str, str]] | None = None,
        candidates: Sequence[str | Sequence[str] | None] | None = None,
        scores: Sequence[Sequence[Sequence[float] | None] | None] | None = None,
        languages: str | Sequence[str | None] | None = None,
        kinds: Sequence[Sequence[str | None] | None] | None = None,
        references: str | Sequence[str | None] | None = None,
        prompts: str | Sequence[str] | bool | None = None,
        choices: Sequence[Sequence[str]] | None = None,
        role: str | Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """
        Args:
            text (`str` or `list[str]`): The texts. A pair `(text, English)` brings its one candidate. An empty text
                has no multilingual road; with no candidate either, its embedding is the zero vector.
            candidates (`list`, *optional*): Per text a list of up to K English strings, one string, or `None`.
                For a single `text` also the list of its candidates.
            scores (`list`, *optional*): Per text, per candidate the judge's `(s, e, p)` in 1..10, or `None`.
            languages (`str` or `list[str]`, *optional*): Tag of all texts, or of each.
            kinds (`list`, *optional*): Per text, per candidate its kind, such as `"memory"`, or `None`; the model's
                `candidate_kinds` are told apart.
            references (`str` or `list[str]`, *optional*): For training, the reference translation of each text, or
                the English document that it should find; `None` where there is none.
            prompts (`str`, `list[str]` or `bool`, *optional*):
                What the base LM reads, of all texts or of each. The soft prefix goes where `prefix_token` stands,
                at the start where it does not. `None`: the text itself after the prefix. `False`: no prompt, for
                embedding.
            choices (`list[list[str]]`, *optional*):
                Per text the same number of answers; each is put behind the prompt as it is, spaces included.
            role (`str` or `list[str]`, *optional*): `"query"` or `"document"`, of all texts or of each: g reads
                `query_prompt` or `document_prompt` before a text that isn't blank. `None`: the bare text.
            kwargs: `padding`, `padding_side` and `max_length` of the two roads. Only PyTorch tensors are made.

        Returns:
            `BatchFeature`: `source_ids`, `source_mask` `(batch, tokens)`; with candidates `anchor_ids`, `anchor_mask`
            `(batch, candidates, tokens)` and `anchor_traits` `(batch, candidates, traits)`; with scores
            `anchor_scores` `(batch, candidates, 3)`; with languages `language_ids` `(batch,)`; with references
            `reference_ids`, `reference_mask` `(batch, tokens)`. Where there is a base LM `input_ids` and
            `attention_mask` `(batch, tokens)`; with choices these are `(batch, choices, tokens)`, and so is
            `choice_mask`.

        Raises:
            TypeError, ValueError: Naming the row that is wrong.
        """
        _check_options(kwargs)
        texts, candidates, scores = _as_batch(text, candidates, scores)
        tags = [languages] * len(texts) if languages is None or isinstance(languages, str) else list(languages)
        if len(tags) != len(texts):
            raise ValueError(
                f"got {len(texts)} texts and {len(tags)} languages; expected one tag per text, or one for all"
            )
        candidates = [
            [source] if given is None and tag in self.anchor_languages and source.strip() else (given or [])
            for source, given, tag in zip(texts, candidates, tags, strict=True)
        ]
        data = self.tokenize_road(self.add_prompt(texts, role), "source", **kwargs)
        data |= self._candidates(texts, candidates, scores, _as_kinds(text, kinds), **kwargs)
        if languages is not None:
            data["language_ids"] = torch.tensor(self.language_ids(tags))
        if references is not None:
            data |= self._references(references, len(texts), **kwargs)
        if self.prefix_length and prompts is not False:
            data = self.tokenize_prompts(texts, prompts, choices) | data
        elif choices is not None or prompts not in (None, False):
            raise ValueError(
                "got prompts or choices, and this processor has no base LM's tokenizer to read them with; expected "
                "that of a generation checkpoint; give from_backbones a base"
            )
        return BatchFeature(data)

    def _candidates(
        self, texts: list[str], candidates: list[list[str]], scores: Any, kinds: Any, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """`anchor_ids`, `anchor_mask`, `anchor_traits` and with scores `anchor_scores`; nothing where no text has any
        candidate."""
        width = max((len(row) for row in candidates), default=0)
        # Before anything is left out: scores without their candidates are refused.
        table = None if scores is None else score_tensor(scores, candidates, width)
        if not width:
            return {}
        flat = [text for row in candidates for text in row + [""] * (width - len(row))]
        anchors = self.tokenize_road(flat, "anchor", **kwargs)
        data = {name: tensor.view(len(texts), width, -1) for name, tensor in anchors.items()}
        traits = [candidate_traits(*row) for row in zip(texts, candidates, strict=True)]
        data["anchor_traits"] = trait_tensor(traits, kinds, self.candidate_kinds)
        return data if table is None else data | {"anchor_scores": table}

    def tokenize_prompts(
        self, texts: Sequence[str], prompts: Any = None, choices: Any = None
    ) -> dict[str, torch.Tensor]:
        """
        The base LM's tokens of a batch, with the placeholders; arguments and result as in `__call__`.

        Returns:
            `dict`: `input_ids` and `attention_mask`, and with choices `choice_mask`.
        """
        rows = [
            expand_prefix(self.tokenizer(clean_text(prompt))["input_ids"], self.prefix_token_id, self.prefix_length)
            for prompt in as_prompts(prompts, list(texts))
        ]
        if choices is None:
            padded = self.tokenizer.pad({"input_ids": rows}, return_tensors="pt")
            return {"input_ids": padded["input_ids"], "attention_mask": padded["attention_mask"]}
        answers = [
            [self.tokenizer(clean_text(choice), add_special_tokens=False)["input_ids"] for choice in row]
            for row in as_choices(choices, len(texts))
        ]
        return stack_choices(rows, answers, self.tokenizer.pad_token_id)

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs) -> list[str]:
        """As in Transformers, but all or nothing, with the files' SHA-256; see the model's `save_pretrained`."""
        if push_to_hub:
            return super().save_pretrained(save_directory, push_to_hub=True, **kwargs)
        with staged(save_directory) as place:
            names = super().save_pretrained(place, **kwargs)
        return [os.path.join(save_directory, os.path.relpath(name, place)) for name in names]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in Transformers; files of a local folder that aren't as they were saved are warned of."""
        path = pretrained_model_name_or_path
        if os.path.isdir(path):
            finish_saving(path)
            check_files(path, weights=False)
        return super().from_pretrained(path, *args, **kwargs)

    def decode_new(self, sequences: torch.Tensor, batch: Any, **kwargs: Any) -> list[str]:
        """
        The texts that `generate` wrote, without their prompts.

        Args:
            sequences (`torch.Tensor` of shape `(batch x returned, tokens)`): What `generate` returned.
            batch (`BatchFeature`): The processor's output that it was given.
            kwargs: For the tokenizer's `batch_decode`; `skip_special_tokens` is `True` by default.
        """
        new = sequences[:, batch["input_ids"].shape[1] :]
        return self.tokenizer.batch_decode(new, **{"skip_special_tokens": True} | kwargs)

    def language_ids(self, languages: Sequence[str | None]) -> list[int]:
        """Index + 1 of each tag among the languages of training; 0, "unknown", for `None` and for any other tag."""
        index = {tag: number for number, tag in enumerate(self.trained_languages, start=1)}
        return [index.get(tag, 0) for tag in languages]

    def add_prompt(self, texts: Sequence[str], role: str | Sequence[str | None] | None) -> list[str]:
        """
        What g reads of texts: the prompt of their role, then the text (ours).

        Args:
            texts (`Sequence[str]`): The texts. A blank one stays as it is, so that its road is absent.
            role (`str` or `Sequence[str]`, *optional*): `"query"` or `"document"`, of all texts or of each; `None`: no
                prompt.

        Raises:
            ValueError: For another role, or another number of roles than of texts.
        """
        one = role is None or isinstance(role, str)
        roles = [role] if one else list(role)
        prompts = {None: "", "query": self.query_prompt, "document": self.document_prompt}
        wrong = [name for name in roles if name not in (*prompts,)]
        if wrong:
            raise ValueError(
                f"role is {wrong[0]!r}; expected 'query', 'document' or None; name what the text is, or leave role out"
            )
        if not one and len(roles) != len(texts):
            raise ValueError(f"got {len(texts)} texts and {len(roles)} roles; expected one per text, or one for all")
        roles = roles * len(texts) if one else roles
        return [prompts[name] + text if text.strip() else text for name, text in zip(roles, texts, strict=True)]

    def _references(
        self, references: str | Sequence[str | None], count: int, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        rows = [references] if isinstance(references, str) else list(references)
        if len(rows) != count:
            raise ValueError(f"got {len(rows)} references for {count} texts; expected one, or None, per text")
        tokens = self.tokenize_road([row or "" for row in rows], "anchor", **kwargs)
        return {"reference_ids": tokens["anchor_ids"], "reference_mask": tokens["anchor_mask"]}

    def tokenize_road(self, texts: Sequence[str], road: str, **kwargs: Any) -> dict[str, torch.Tensor]:
        """
        Tokens of one road.

        Args:
            texts (`Sequence[str]`): The texts. One that is blank gets an empty mask, so its road is absent and not a
                mere [CLS][SEP].
            road (`str`): `"source"` (g's tokenizer) or `"anchor"` (h's).
            kwargs: `padding`, `padding_side` or `max_length` (at most the processor's own), also within `text_kwargs`
                or `common_kwargs`.

        Returns:
            `dict`: `<road>_ids` and `<road>_mask` of shape `(texts, tokens)`.
        """
        tokenizer = self.road_tokenizer(road)
        common, text_kwargs = kwargs.get("common_kwargs") or {}, kwargs.get("text_kwargs") or {}
        given = {"padding": True, **common, **text_kwargs, **kwargs}
        options = {key: given[key] for key in ("padding", "padding_side") if key in given}
        limit = min(self._most_tokens(road), given.get("max_length") or self.max_text_length)
        encoded = tokenizer(
            [clean_text(text[:_LONGEST_TEXT]) for text in texts],
            truncation=True,
            max_length=limit,
            return_tensors="pt",
            **options,
        )
        ids, mask = encoded["input_ids"].long(), encoded["attention_mask"].long()
        blank = torch.tensor([not text[:_LONGEST_TEXT].strip() for text in texts])
        return {f"{road}_ids": ids, f"{road}_mask": mask.masked_fill(blank.unsqueeze(-1), 0)}

    def road_tokenizer(self, road: str) -> PreTrainedTokenizerBase:
        """g's tokenizer of the road `"source"`, or h's of `"anchor"`."""
        return self.source_tokenizer if road == "source" else self.anchor_tokenizer

    def text_lengths(self, texts: Sequence[str], road: str) -> list[int]:
        """
        How long texts are, to sort them by, so that batches of like length have little padding.

        Args:
            texts (`Sequence[str]`): The texts.
            road (`str`): `"source"` (g's tokenizer) or `"anchor"` (h's).

        Returns:
            `list[int]`: Tokens of each, cut as in [`~LiraProcessor.tokenize_road`]; characters where the tokenizer is
            written in Python, as tokenizing twice would cost more than padding.
        """
        tokenizer, limit = self.road_tokenizer(road), self._most_tokens(road)
        if not tokenizer.is_fast:
            return [len(text) for text in texts]
        lengths: list[int] = []
        for start in range(0, len(texts), _SOME):
            some = [clean_text(text[:_LONGEST_TEXT]) for text in texts[start : start + _SOME]]
            lengths += map(len, tokenizer(some, truncation=True, max_length=limit)["input_ids"])
        return lengths

    def _most_tokens(self, road: str) -> int:
        return min(self.max_text_length, self.road_tokenizer(road).model_max_length)


def _check_options(kwargs: dict[str, Any]) -> None:
    given = [name for name in ("images", "videos", "audio") if kwargs.pop(name, None) is not None]
    if given:
        raise ValueError(f"got {', '.join(given)}; expected text alone, which is all that LiRA reads; leave them out")
    for options in (kwargs, kwargs.get("common_kwargs") or {}, kwargs.get("text_kwargs") or {}):
        kind = options.get("return_tensors")
        if kind not in (None, "pt"):
            raise ValueError(f"return_tensors is {kind!r}; expected 'pt', as LiRA's models read PyTorch; use that")


def _as_batch(text: Any, candidates: Any, scores: Any) -> tuple[list[str], list[list[str] | None], Any]:
    if isinstance(text, str):
        if candidates is not None:
            candidates = [[candidates] if isinstance(candidates, str) else candidates]
        text, scores = [text], None if scores is None else [scores]
    rows: list[str] = []
    pairs: list[list[str] | None] = []
    for number, item in enumerate(_as_list(text, "text", "a string or a list of strings")):
        if isinstance(item, str):
            rows.append(item)
            pairs.append(None)
        elif isinstance(item, (tuple, list)) and len(item) == 2 and all(isinstance(part, str) for part in item):
            rows.append(item[0])
            pairs.append([item[1]])
        else:
            raise TypeError(
                f"text {number} is {type(item).__name__} {str(item)[:60]!r}; expected a string or a pair "
                "(text, English translation); drop or convert that row"
            )
    if not rows:
        raise ValueError("text is empty; expected at least one text; skip the call where there is nothing to read")
    if candidates is None:
        return rows, pairs, scores
    wanted = "one list of candidates (or None) per text"
    if isinstance(candidates, str):
        raise ValueError(f"got one string of candidates for {len(rows)} texts; expected {wanted}")
    candidates = _as_list(candidates, "candidates", wanted)
    if len(candidates) != len(rows):
        raise ValueError(f"got {len(candidates)} rows of candidates for {len(rows)} texts; expected {wanted}")
    return rows, [candidate_row(*row) for row in zip(range(len(rows)), candidates, pairs, strict=True)], scores


def _as_kinds(text: Any, kinds: Any) -> Any:
    """One row of kinds per text; the kinds of a single text's candidates come without the outer list."""
    return [kinds] if isinstance(text, str) and kinds is not None else kinds


def _as_list(value: Any, name: str, wanted: str) -> list:
    if value is None or isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{name} is {type(value).__name__} {str(value)[:60]!r}; expected {wanted}")
    return list(value)


def candidate_row(number: int, row: Any, pair: list[str] | None = None) -> list[str] | None:
    """The candidates of text `number` as a list; one string is one candidate. Raises naming the text."""
    if row is None:
        return pair
    if pair is not None:
        raise ValueError(
            f"text {number} is a pair and has candidates too; expected its English in one place; leave the pair's out"
        )
    wanted = "a list of strings, a string or None; drop what is none"
    row = [row] if isinstance(row, str) else _as_list(row, f"the candidates of text {number}", wanted)
    for candidate in row:
        if not isinstance(candidate, str):
            raise TypeError(
                f"a candidate of text {number} is {type(candidate).__name__} {str(candidate)[:60]!r}; expected a "
                "string; drop that candidate"
            )
    return row


def score_tensor(scores: Any, candidates: list[list[str]], width: int) -> torch.Tensor:
    """The judge's scores `(texts, width, 3)`, zero where there is none. Raises naming text and candidate."""
    wanted = "three numbers from 1 to 10 (semantic, emotional, pragmatic), or None where the judge gave none"
    scores = _as_list(scores, "scores", "one row of scores (or None) per text")
    if len(scores) != len(candidates):
        raise ValueError(f"got {len(scores)} rows of scores for {len(candidates)} texts; expected one row per text")
    table = torch.zeros(len(candidates), width, 3)
    for number, (row, texts) in enumerate(zip(scores, candidates, strict=True)):
        if row is None:
            continue
        row = _as_list(row, f"the scores of text {number}", f"one score per candidate, each {wanted}")
        if len(row) != len(texts):
            raise ValueError(
                f"text {number} has {len(texts)} candidates and {len(row)} scores; expected one score each"
            )
        for k, score in enumerate(row):
            if score is None:
                continue
            try:
                values = [] if isinstance(score, str) else [float(value) for value in score]  # "999" is not 9, 9, 9
            except (TypeError, ValueError, OverflowError):
                values = []
            # "not (1 <= v <= 10)" also catches NaN.
            if len(values) != 3 or any(not 1.0 <= value <= 10.0 for value in values):
                raise ValueError(f"candidate {k} of text {number} has the scores {score!r}; expected {wanted}")
            table[number, k] = torch.tensor(values)
    return table
