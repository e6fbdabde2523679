"""Candidates from Hugging Face's encoder-decoder translators: NLLB, M2M100, MADLAD-400, Marian, (m)T5 (ours)."""

import contextlib
import copy
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lira_hf.models.backbones_lira import backbone_fingerprint

from .base import Candidate, check_request, clean_text, distinct_candidates, stable_hash
from .language_codes import is_english, is_undetermined
from .seq2seq_diverse import diverse_groups
from .seq2seq_families import Family, family_of
from .seq2seq_sampling import SeededSampling, hypothesis_scores


__all__ = ["Seq2SeqTranslator"]

# Raised when the same model and settings begin to give other answers, so that stores ask again.
_ALGORITHM_VERSION = 1
_FEWEST_BEAMS = 5
_STRATEGIES = ("beam", "sample", "diverse_beam")
_LARGEST_PENALTY = 1000.0  # far above any difference of log-probabilities, and nothing to float32
_HUB_OPTIONS = ("revision", "token", "cache_dir", "trust_remote_code", "local_files_only", "subfolder")


class Seq2SeqTranslator:
    """
    Up to K distinct English candidates a text from an encoder-decoder translator.

    Which family a checkpoint belongs to, and so how it is told the languages, is read off its configuration and its
    tokenizer, never off its name:

    | family | recognised by | the text's language | the target |
    |---|---|---|---|
    | NLLB | `m2m_100`, token `eng_Latn` | FLORES-200 code in the input | first decoder token |
    | M2M100 | `m2m_100`, `lang_code_to_id` with `en` | M2M100 code in the input | first decoder token |
    | MADLAD-400 | a T5 with the token `<2en>` | not told; must have a token of its own | `<2en>` before the text |
    | Marian | `marian` | not told; `source_lang` of the tokenizer, if it names one, or `languages` | `>>eng<<` if it has it |
    | prompt | any other, with `prompt` | in the prompt, if it says `{language}` | in the prompt |

    English texts are their own candidate (kind `"identity"`). Empty texts, and texts of no known language (`"und"`),
    have none. To have candidates of each strategy, join translators by [`TranslatorUnion`].

    Args:
        model (`PreTrainedModel`): With `generate`; stays where it is and is put into evaluation mode for each call.
        tokenizer (`PreTrainedTokenizerBase`): The model's own; a copy of it is used.
        strategy (`str`, *optional*, defaults to `"beam"`): `"beam"`: the beams of one search. `"sample"`: samples at
            each of `temperatures`, ranked by score; each text has its own random numbers, so that a candidate depends
            on the text and `seed` alone and not on the other texts of a call. `"diverse_beam"`: diverse beam search
            (Vijayakumar et al., 2016) with groups of one beam each, ranked by score; it takes as many greedy passes as
            there are groups, and groups that come to the same text give one candidate.
        num_hypotheses (`int`, *optional*): Beams, samples or groups of a text, from which the distinct candidates are
            taken; never fewer than K. By default K but at least 5 for beams, 2 K for samples, K for groups.
        temperatures (`Sequence[float]`, *optional*, defaults to `(0.5, 1.0)`): For samples, taken in turn.
        top_k (`int`, *optional*, defaults to 50): Samples come from so many likeliest tokens.
        seed (`int`, *optional*, defaults to 0): Of the samples.
        diversity_penalty (`float`, *optional*, defaults to 0.5): For diverse beams: what a token's log-probability
            loses for each group before that has it at the same step. The paper's range is 0.2 to 0.8; with 0 all
            groups are the greedy search.
        batch_size (`int`, *optional*, defaults to 16): Texts in a batch, of similar length; no say in the result.
        max_source_tokens (`int`, *optional*, defaults to 512): Longer texts are cut; a smaller limit of the tokenizer
            or the model holds.
        max_new_tokens (`int`, *optional*, defaults to 256): Longest candidate; a smaller limit of the model holds.
        prompt (`str`, *optional*): Put before each text; `{language}` becomes the language's English name. Required
            where nothing else says what to do (T5, mT5); elsewhere it replaces the family's own.
        languages (`Sequence[str]`, *optional*): The tags that the translator takes; all that the family knows if
            left out.
        on_unknown (`str`, *optional*, defaults to `"raise"`): For a language that the translator doesn't know:
            `"raise"`, or `"skip"` to give no candidates.
        generation_options (`Mapping[str, Any]`, *optional*): More options of `generate`, such as
            `{"no_repeat_ngram_size": 3}`; they replace those of the checkpoint.
        name (`str`, *optional*): Kept with each candidate; the last part of the checkpoint's name if left out.

    Raises:
        `ValueError`: a model of no known family, without English as target, or a setting out of range.
        `TypeError`: a model without `generate`.
    """  # noqa: E501 - a table row can't be broken

    kind = "seq2seq"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        strategy: str = "beam",
        num_hypotheses: int | None = None,
        temperatures: Sequence[float] = (0.5, 1.0),
        top_k: int = 50,
        seed: int = 0,
        diversity_penalty: float = 0.5,
        batch_size: int = 16,
        max_source_tokens: int = 512,
        max_new_tokens: int = 256,
        prompt: str | None = None,
        languages: Sequence[str] | None = None,
        on_unknown: str = "raise",
        generation_options: Mapping[str, Any] | None = None,
        name: str | None = None,
    ):
        if not getattr(model.config, "is_encoder_decoder", False) or not model.can_generate():
            raise TypeError(
                f"model is a {type(model).__name__}; expected an encoder-decoder with a language-model head; load it "
                "by AutoModelForSeq2SeqLM, and take a chat translator for a decoder-only model"
            )
        numbers = {
            "num_hypotheses": 1 if num_hypotheses is None else num_hypotheses,
            "top_k": top_k,
            "batch_size": batch_size,
            "max_source_tokens": max_source_tokens,
            "max_new_tokens": max_new_tokens,
        }
        _check_settings(strategy, on_unknown, temperatures, diversity_penalty, numbers)
        self.model = model
        self.tokenizer = copy.deepcopy(tokenizer)  # its source language is set for every call
        self.tokenizer.truncation_side = "right"  # what says the language stands in front
        self.family: Family = family_of(model.config, self.tokenizer, prompt, languages)
        self.name = name or Path(str(model.config._name_or_path)).name or model.config.model_type
        self.strategy, self.num_hypotheses = strategy, num_hypotheses
        self.temperatures, self.top_k, self.seed = tuple(temperatures), top_k, seed
        self.diversity_penalty = float(diversity_penalty)
        self.batch_size, self.on_unknown = batch_size, on_unknown
        self.max_source_tokens, self.max_new_tokens = max_source_tokens, max_new_tokens
        self.generation_options = dict(generation_options or {})
        self._backbone: str | None = None
        self._generation_config(1)  # so that a wrong option is told now

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, **kwargs: Any) -> Self:
        """
        Load model and tokenizer.

        Args:
            source (`str` or `os.PathLike`): A name on the Hub or a local folder.
            kwargs: Settings of the class; anything else goes to the model's `from_pretrained` (`dtype`, `device_map`,
                `revision`, ...). Only weights in safetensors are loaded unless `use_safetensors=False` is given.

        Returns:
            [`Seq2SeqTranslator`]: The translator.

        Raises:
            `OSError`: nothing there, or no weights in safetensors.
        """
        parameters = inspect.signature(cls.__init__).parameters.values()
        own = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
        settings = {key: kwargs.pop(key) for key in own if key in kwargs}
        shared = {key: value for key, value in kwargs.items() if key in _HUB_OPTIONS}
        try:
            model = AutoModelForSeq2SeqLM.from_pretrained(source, **{"use_safetensors": True, **kwargs})
        except OSError as error:
            error.add_note(
                "Where only pickled weights were published: take the revision 'refs/pr/N' with which the Hub offers "
                "them as safetensors, or give use_safetensors=False if you trust who made them."
            )
            raise
        return cls(model, AutoTokenizer.from_pretrained(source, **shared), **settings)

    @property
    def fingerprint(self) -> str:
        """Hash of the model's weights and generation settings, the tokenizer's size, the family and the settings."""
        if self._backbone is None:  # read once: a look at the weights of a large model takes a while
            self._backbone = backbone_fingerprint(self.model) or str(self.model.config._name_or_path)
        changed = self.model.generation_config.to_diff_dict()
        generation = {k: repr(v) for k, v in changed.items() if k != "transformers_version" and k[0] != "_"}
        generation |= {f"own {k}": repr(v) for k, v in self.generation_options.items()}
        family = [self.family.name, self.family.prompt, len(self.tokenizer)]
        settings: list[Any] = [self.strategy, self.num_hypotheses, self.max_source_tokens, self.max_new_tokens]
        if self.strategy == "sample":
            settings += [self.temperatures, self.top_k, self.seed]
        elif self.strategy == "diverse_beam":
            settings.append(self.diversity_penalty)
        return stable_hash(self.kind, _ALGORITHM_VERSION, self._backbone, family, generation, settings)

    @property
    def known_languages(self) -> list[str] | None:
        """Tags and codes that the translator takes; `None` if it takes any."""
        return self.family.known()

    def translate(self, texts: Sequence[str], language: str, num_candidates: int) -> list[list[Candidate]]:
        """
        See [`Translator.translate`]; the score is the mean log-probability of a token, without the diversity penalty.
        For the beams of one search the checkpoint's length penalty holds, as in the search itself: the sum over
        length^penalty.

        Raises:
            `ValueError`: a language that the translator doesn't know, with `on_unknown="raise"`.
        """
        check_request(texts, num_candidates)
        cleaned = [clean_text(text).strip() for text in texts]
        if is_undetermined(language):
            return [[] for _ in texts]
        if is_english(language):
            return [[Candidate(text, "identity", self.name)] if text else [] for text in cleaned]
        if not self.family.knows(language):
            if self.on_unknown == "skip":
                return [[] for _ in texts]
            raise ValueError(
                f"'{self.name}' got the language {language!r}; expected one of {self.known_languages}; "
                "give one of these tags, list it in languages= if the model can read it, or set on_unknown='skip'"
            )
        distinct = list(dict.fromkeys(text for text in cleaned if text))
        if not distinct:  # a tokenizer doesn't take an empty list
            return [[] for _ in texts]
        found = dict(zip(distinct, self._translate_distinct(distinct, language, num_candidates), strict=True))
        return [list(found.get(text, [])) for text in cleaned]

    @torch.inference_mode()
    def _translate_distinct(self, texts: list[str], language: str, num_candidates: int) -> list[list[Candidate]]:
        encoded = self._encode(texts, language)
        order = sorted(range(len(texts)), key=lambda row: len(encoded[row]))
        answers: list[list[Candidate]] = [[] for _ in texts]
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            batch = self.tokenizer.pad({"input_ids": [encoded[row] for row in rows]}, return_tensors="pt")
            inputs = {key: batch[key].to(self.model.device) for key in ("input_ids", "attention_mask")}
            hypotheses = self._hypotheses(inputs, [texts[row] for row in rows], num_candidates)
            for row, candidates in zip(rows, hypotheses, strict=True):
                answers[row] = distinct_candidates(candidates, num_candidates)
        return answers

    def _encode(self, texts: list[str], language: str) -> list[list[int]]:
        """Token ids, with what tells the model the languages."""
        prompt = self.family.prepare(self.tokenizer, language)
        limits = [self.max_source_tokens, self.tokenizer.model_max_length]
        limits.append(getattr(self.model.config, "max_position_embeddings", None) or limits[0])
        texts = [prompt + text for text in texts]
        return self.tokenizer(texts, truncation=True, max_length=min(limits), padding=False)["input_ids"]

    def _hypotheses(
        self, inputs: dict[str, torch.Tensor], texts: list[str], num_candidates: int
    ) -> list[list[Candidate]]:
        """Beams, samples or groups of each text of a batch, best first."""
        fewest = {"beam": max(num_candidates, _FEWEST_BEAMS), "sample": 2 * num_candidates}
        default = fewest.get(self.strategy, num_candidates)
        count = max(self.num_hypotheses or default, num_candidates)
        config = self._generation_config(count if self.strategy == "beam" else 1)
        repeated = {key: value.repeat_interleave(count, dim=0) for key, value in inputs.items()}
        with _borrowed(self.model, config):
            if self.strategy == "beam":
                sequences = self.model.generate(**inputs, generation_config=config)
            elif self.strategy == "diverse_beam":
                pad = self.tokenizer.pad_token_id
                sequences = diverse_groups(self.model, inputs, config, count, self.diversity_penalty, pad)
            else:
                drawn = [(text, number) for text in texts for number in range(count)]
                sampling = SeededSampling(drawn, self.temperatures, self.top_k, self.seed)
                sequences = self.model.generate(
                    **repeated, generation_config=config, logits_processor=LogitsProcessorList([sampling])
                )
            # Not the search's own scores: to give them it keeps the whole vocabulary's at every step.
            scores = hypothesis_scores(self.model, repeated, sequences, config)
        # M2M100's tokenizer doesn't count its language tokens among the special ones, and so would leave it in.
        first = 1 if self.family.target_id is None else 2
        decoded = self.tokenizer.batch_decode(sequences[:, first:], skip_special_tokens=True)
        candidates = [
            Candidate(clean_text(text).strip(), self.kind, self.name, score)
            for text, score in zip(decoded, scores.tolist(), strict=True)
        ]
        groups = [candidates[start : start + count] for start in range(0, len(candidates), count)]
        return [sorted(group, key=lambda candidate: candidate.score or 0.0, reverse=True) for group in groups]

    def _generation_config(self, num_beams: int) -> GenerationConfig:
        config = copy.deepcopy(self.model.generation_config)
        limit = getattr(self.model.config, "max_position_embeddings", None)
        tokens = self.max_new_tokens
        # What a checkpoint says of sampling has no part in a search, and of beams none in samples: neutral values, as
        # anything else warns. Samples are drawn by a search with one beam, see SeededSampling. Beam groups would have
        # Transformers ask for code from the Hub.
        neutral = {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "min_p": None, "typical_p": 1.0}
        neutral["num_beam_groups"] = None
        if self.strategy != "beam":
            neutral |= {"early_stopping": False, "length_penalty": 1.0}
        config.update(
            **neutral,
            do_sample=False,
            num_beams=num_beams,
            num_return_sequences=num_beams,
            max_length=None,
            max_new_tokens=min(tokens, limit - 1) if limit else tokens,  # the decoder's start token takes a place
            return_dict_in_generate=False,
        )
        if self.family.target_id is not None:
            config.forced_bos_token_id = self.family.target_id
        _check_options(self.strategy, self.generation_options)
        if unused := config.update(**self.generation_options):
            raise ValueError(
                f"generation_options has {sorted(unused)}; expected options of transformers' GenerationConfig; "
                "leave out or rename what isn't one"
            )
        return config


@contextlib.contextmanager
def _borrowed(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """The model without dropout, and with our settings alone: `generate` fills what is `None` from the model's own."""
    training, own = model.training, model.generation_config
    model.eval()
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own
        model.train(training)


def _check_settings(
    strategy: str,
    on_unknown: str,
    temperatures: Sequence[float],
    diversity_penalty: float,
    numbers: Mapping[str, int],
) -> None:
    if strategy not in _STRATEGIES:
        raise ValueError(f"strategy is {strategy!r}; expected 'beam', 'sample' or 'diverse_beam'; pass one of them")
    if on_unknown not in ("raise", "skip"):
        raise ValueError(f"on_unknown is {on_unknown!r}; expected 'raise' or 'skip'; pass one of them")
    if not temperatures or not all(0 < temperature < float("inf") for temperature in temperatures):
        raise ValueError(
            f"temperatures is {temperatures!r}; expected one or more numbers above 0; leave it out for the default"
        )
    if not 0 <= diversity_penalty <= _LARGEST_PENALTY:
        raise ValueError(
            f"diversity_penalty is {diversity_penalty!r}; expected a number from 0 to {_LARGEST_PENALTY:g}; leave it "
            "out for the default"
        )
    for field, value in numbers.items():
        if value < 1:
            raise ValueError(f"{field} is {value}; expected at least 1; leave it out for the default")


def _check_options(strategy: str, options: Mapping[str, Any]) -> None:
    """Refuse what would have Transformers fetch code, and what would make more of a group than a greedy search."""
    refused = ["num_beam_groups", "diversity_penalty"]
    if strategy == "diverse_beam":
        refused += ["num_beams", "num_return_sequences", "do_sample"]
    if found := [option for option in refused if option in options]:
        raise ValueError(
            f"generation_options has {found}; expected no say in diverse beam search; set strategy='diverse_beam', "
            "num_hypotheses= (groups of one beam each) and diversity_penalty= of the translator"
        )
