"""How each family of encoder-decoder translators is recognised and told the languages (ours)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from babel import Locale
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from .language_codes import LANGUAGE_CODES, is_english, language_key, model_code


__all__ = ["Family", "family_of"]

_T5_TYPES = ("t5", "mt5", "umt5", "longt5", "switch_transformers")
_ENGLISH_MARIAN = (">>eng<<", ">>en<<", ">>eng_Latn<<")


@dataclass(frozen=True)
class Family:
    """
    How a translator is told what to do.

    Args:
        name (`str`): `"nllb"`, `"m2m100"`, `"madlad"`, `"marian"` or `"prompt"`.
        codes (`frozenset[str]`, *optional*): The family's codes that the tokenizer has; `None` where it needs none.
        target_id (`int`, *optional*): First token of the decoder: English.
        prompt (`str`): Put before each text; `{language}` becomes the language's English name.
        sets_source (`bool`): Whether the tokenizer is told the text's language.
        languages (`tuple[str, ...]`, *optional*): The only tags that are taken.
    """

    name: str
    codes: frozenset[str] | None = None
    target_id: int | None = None
    prompt: str = ""
    sets_source: bool = False
    languages: tuple[str, ...] | None = None

    def code(self, language: str) -> str | None:
        """The model's code of a language; a code of the model itself is taken as it is."""
        if self.codes is None:
            return None
        if language in self.codes:
            return language
        code = model_code(language, self.name)
        return code if code in self.codes else None

    def knows(self, language: str) -> bool:
        """Whether texts of a language can be translated."""
        if self.languages is not None and language_key(language) not in map(language_key, self.languages):
            return False
        # Listed by the user, a language that the model isn't told needs no code.
        return self.codes is None or self.code(language) is not None or (not self.sets_source and bool(self.languages))

    def known(self) -> list[str] | None:
        """Tags of the table, then the model's other codes; `None` if any language is taken."""
        if self.languages is not None or self.codes is None:
            return None if self.languages is None else sorted(self.languages)
        tags = sorted(tag for tag in LANGUAGE_CODES if self.knows(tag) and not is_english(tag))
        named = {self.code(tag) for tag in tags}
        return tags + sorted(code for code in self.codes if code not in named and not is_english(code))

    def prepare(self, tokenizer: PreTrainedTokenizerBase, language: str) -> str:
        """Set the tokenizer's source language, and give what stands before each text."""
        if self.sets_source:
            tokenizer.src_lang = self.code(language)
        return self.prompt.replace("{language}", _english_name(language))


def family_of(
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | None = None,
    languages: Sequence[str] | None = None,
) -> Family:
    """
    Recognise a translator.

    Args:
        config (`PreTrainedConfig`): The model's.
        tokenizer (`PreTrainedTokenizerBase`): The model's.
        prompt (`str`, *optional*): The user's own, in place of the family's.
        languages (`Sequence[str]`, *optional*): The only tags that are taken.

    Returns:
        [`Family`]: What it is.

    Raises:
        `ValueError`: a model of no known family and no prompt, or one that can't translate into English.
    """
    only = None if languages is None else tuple(languages)
    if config.model_type == "m2m_100":
        family = _many_to_many(tokenizer)
    elif config.model_type == "marian":
        family = _marian(tokenizer, prompt)
    elif config.model_type in _T5_TYPES and "<2en>" in tokenizer.get_vocab():
        family = _madlad(tokenizer)
    elif prompt is not None:
        family = Family("prompt")
    else:
        raise ValueError(
            f"the model has the type {config.model_type!r} and its tokenizer no token that names English; expected "
            "NLLB, M2M100, MADLAD-400 or Marian, or a prompt; give prompt='translate {language} to English: ' or "
            "whatever the model was trained with ('' if nothing)"
        )
    if prompt is not None:
        family = replace(family, prompt=prompt)
    return family if only is None else replace(family, languages=only)


def _many_to_many(tokenizer: PreTrainedTokenizerBase) -> Family:
    own = getattr(tokenizer, "lang_code_to_id", None)
    tokens = tokenizer.get_vocab()
    if not hasattr(tokenizer, "src_lang"):
        raise ValueError(
            f"the tokenizer is a {type(tokenizer).__name__}, which has no src_lang; expected the NllbTokenizer or "
            "M2M100Tokenizer that the model was trained with; load it by AutoTokenizer from the original checkpoint"
        )
    if "eng_Latn" in tokens:
        codes = (token for token in tokens if len(token) == 8 and token[3] == "_" and token[:3].isalpha())
        return Family("nllb", frozenset(codes), tokens["eng_Latn"], sets_source=True)
    if own and "en" in own:
        return Family("m2m100", frozenset(own), own["en"], sets_source=True)
    raise ValueError(
        "the tokenizer of an m2m_100 model has neither the token 'eng_Latn' nor 'en' in lang_code_to_id; expected "
        "one of them, as in NLLB and M2M100; take a checkpoint that translates into English"
    )


def _marian(tokenizer: PreTrainedTokenizerBase, prompt: str | None) -> Family:
    targets = getattr(tokenizer, "supported_language_codes", None) or []
    target = getattr(tokenizer, "target_lang", None)
    english = next((code for code in _ENGLISH_MARIAN if code in targets), None)
    into_others = [code for code in targets if code != english] if english is None else []
    wrong = into_others or ([target] if target and target != "mul" and not is_english(target) else [])
    if wrong and english is None and prompt is None:
        raise ValueError(
            f"the Marian model translates into {_some(wrong)}; expected English among its targets; take a model into "
            "English, or give prompt='' if the tokenizer is wrong about it"
        )
    source = getattr(tokenizer, "source_lang", None)
    one = source if source and any(model_code(source, family) for family in ("nllb", "m2m100")) else None
    return Family("marian", prompt=f"{english} " if english else "", languages=(one,) if one else None)


def _madlad(tokenizer: PreTrainedTokenizerBase) -> Family:
    tokens = tokenizer.get_vocab()
    prompt = "<2en> "
    if tokens["<2en>"] not in tokenizer(f"{prompt}a")["input_ids"]:
        raise ValueError(
            f"the tokenizer splits '<2en>' into {tokenizer.tokenize(prompt)}; expected one token, which tells the "
            "model its target; load the tokenizer that the checkpoint came with"
        )
    codes = (token[2:-1] for token in tokens if token.startswith("<2") and token.endswith(">"))
    return Family("madlad", frozenset(codes), prompt=prompt)


def _english_name(language: str) -> str:
    names = Locale("en").languages
    return names.get(language_key(language).partition("-")[0], language)


def _some(values: Iterable[str], limit: int = 5) -> str:
    shown = list(values)
    return ", ".join(map(repr, shown[:limit])) + (f" and {len(shown) - limit} more" if len(shown) > limit else "")
