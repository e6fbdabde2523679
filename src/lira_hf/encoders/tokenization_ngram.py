"""Hashed character n-grams in three spellings: as written, romanised, and the consonants of that (ours)."""

import unicodedata
import zlib

import regex
from anyascii import anyascii
from transformers import PreTrainedTokenizer


__all__ = ["NgramTokenizer", "consonant_skeleton"]

# Scripts without spaces have "words" of any length: cut, so that each piece keeps all its spellings close together.
_WORD = regex.compile(r"[\p{L}\p{M}\p{N}]{1,24}|[^\s\p{L}\p{M}\p{N}]")
# Sounds that transliterations mix up fall into one class, so that "b" in one script meets "p" in another.
_SOUND_CLASSES = str.maketrans("bdgjzvfqcx", "ptkcswpkkk")
_NOT_CONSONANT = regex.compile(r"[^b-df-hj-np-tv-xz]|h")
_REPEATED = regex.compile(r"(.)\1+")


def consonant_skeleton(romanised: str) -> str:
    """
    The consonants of a romanised word, with vowels and "h" gone and similar sounds merged.

    Args:
        romanised (`str`): A word in lower-case ASCII letters.

    Returns:
        `str`: "bangladesh" and "banladesa" both give "pnklts" or near it; "" for a word of vowels only.
    """
    return _REPEATED.sub(r"\1", _NOT_CONSONANT.sub("", romanised).translate(_SOUND_CLASSES))


def _grams(word: str, sizes: tuple[int, ...], view: str) -> list[str]:
    padded = f"<{word}>"
    grams = [f"{view}:{padded}"]  # the whole word counts as one more gram
    for size in sizes:
        if size < len(padded):
            grams.extend(f"{view}:{padded[i : i + size]}" for i in range(len(padded) - size + 1))
    return grams


class NgramTokenizer(PreTrainedTokenizer):
    """
    Splits a text into character n-grams and gives each a bucket by CRC-32. There is no vocabulary to learn or store.

    Names are spelt alike across scripts but share no characters, so a small encoder sees each word three times:
    as written, romanised, and as its consonants. N-grams follow the order of the words, so temporal bins keep theirs.

    Args:
        num_buckets (`int`, *optional*, defaults to 65536): Number of hash buckets; `vocab_size` is two more.
        word_sizes (`list[int]`, *optional*, defaults to `[2, 3, 4]`): N-gram sizes of the first two spellings.
        skeleton_sizes (`list[int]`, *optional*, defaults to `[2, 3, 4]`): N-gram sizes of the consonant skeleton.
        views (`str`, *optional*, defaults to `"crk"`): Spellings used: c as written, r romanised, k consonants.
        model_max_length (`int`, *optional*, defaults to 1024): Tokens kept; the rest of a longer text is never read.
    """

    model_input_names = ["input_ids", "attention_mask"]
    vocab_files_names: dict[str, str] = {}

    def __init__(
        self,
        num_buckets: int = 65536,
        word_sizes: list[int] | tuple[int, ...] = (2, 3, 4),
        skeleton_sizes: list[int] | tuple[int, ...] = (2, 3, 4),
        views: str = "crk",
        pad_token: str = "<pad>",
        unk_token: str = "<unk>",
        model_max_length: int = 1024,
        **kwargs,
    ):
        if unknown := set(views) - set("crk"):
            raise ValueError(
                f"views has {sorted(unknown)}; expected letters among 'c', 'r' and 'k'; remove the others"
            )
        self.num_buckets = num_buckets
        self.word_sizes = tuple(word_sizes)
        self.skeleton_sizes = tuple(skeleton_sizes)
        self.views = views
        super().__init__(
            num_buckets=num_buckets,
            word_sizes=list(word_sizes),
            skeleton_sizes=list(skeleton_sizes),
            views=views,
            pad_token=pad_token,
            unk_token=unk_token,
            model_max_length=model_max_length,
            **kwargs,
        )

    @property
    def vocab_size(self) -> int:
        return self.num_buckets + 2

    def __len__(self) -> int:
        # The buckets count, though they have no words: resizing an embedding to this length must not cut them off.
        return self.vocab_size

    def get_vocab(self) -> dict[str, int]:
        # Buckets have no spelling of their own; only the special tokens are words of a vocabulary.
        return {str(self.pad_token): 0, str(self.unk_token): 1, **self.added_tokens_encoder}

    def _tokenize(self, text: str, **kwargs) -> list[str]:
        # 4 characters a token is more than any text needs: a 100,000-character text costs no more than a full window.
        text = unicodedata.normalize("NFKC", text[: 4 * self.model_max_length]).casefold()
        tokens: list[str] = []
        for match in _WORD.finditer(text):
            word = match.group()
            romanised = anyascii(word).casefold().strip()
            # A word in plain ASCII is its own romanisation; its n-grams need not count twice.
            if "c" in self.views and (romanised != word or "r" not in self.views):
                tokens += _grams(word, self.word_sizes, "c")
            if "r" in self.views and romanised:
                tokens += _grams(romanised, self.word_sizes, "r")
            skeleton = consonant_skeleton(romanised)
            if "k" in self.views and len(skeleton) > 1:
                tokens += _grams(skeleton, self.skeleton_sizes, "k")
            if len(tokens) >= self.model_max_length:
                return tokens[: self.model_max_length]
        return tokens

    def _convert_token_to_id(self, token: str) -> int:
        if token == self.pad_token:
            return 0
        if token == self.unk_token:
            return 1
        return zlib.crc32(token.encode("utf-8", "replace")) % self.num_buckets + 2

    def _convert_id_to_token(self, index: int) -> str:
        return {0: str(self.pad_token), 1: str(self.unk_token)}.get(index, f"<bucket_{index - 2}>")

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        return list(token_ids_0) if token_ids_1 is None else list(token_ids_0) + list(token_ids_1)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        return ()
