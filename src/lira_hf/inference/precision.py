"""Unit vectors as float32, float16, int8 or sign bits: what one row becomes depends on that row alone (ours)."""

from typing import Any, Literal, get_args

import faiss
import numpy as np
from numpy.typing import NDArray


__all__ = ["PRECISIONS", "Precision", "check_precision", "dequantize", "quantize", "stored_dtype", "stored_width"]

Precision = Literal["float32", "float16", "int8", "binary"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
_DTYPES = {"float32": "<f4", "float16": "<f2", "int8": "|i1", "binary": "|u1"}


def check_precision(precision: str) -> None:
    """Raises a `ValueError` for a precision that there isn't."""
    if precision not in PRECISIONS:
        raise ValueError(f"got precision={precision!r}; expected one of {', '.join(PRECISIONS)}; pass one of these")


def stored_dtype(precision: str) -> np.dtype[Any]:
    """The type of a stored value, little-endian on every machine."""
    return np.dtype(_DTYPES[precision])


def stored_width(precision: str, dim: int) -> int:
    """Stored values of one vector: `dim`, or its eighth, rounded up, for sign bits."""
    return -(-dim // 8) if precision == "binary" else dim


def quantize(vectors: NDArray[np.float32], precision: str = "float32") -> NDArray[Any]:
    """
    Vectors in fewer bits.

    `"int8"` multiplies each row by its own 127 / max |value| and rounds; a row divided by its norm is the unit vector
    again, so that no scale has to be kept. (sentence-transformers takes the ranges of a whole batch, and so gives a
    text other bytes in another batch.) `"binary"` packs the signs, one bit a dimension, the first in the highest bit,
    1 for a value above 0: sentence-transformers' `"ubinary"`.

    Args:
        vectors (`np.ndarray` of shape `(texts, dim)`): Float vectors.
        precision (`str`, *optional*, defaults to `"float32"`): `"float32"`, `"float16"`, `"int8"` or `"binary"`.

    Returns:
        `np.ndarray` of shape `(texts, dim)`, float32, float16 or int8, or `(texts, ceil(dim / 8))`, uint8.

    Raises:
        ValueError: For another precision.
    """
    check_precision(precision)
    if precision == "int8":
        largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0.0)
        return np.rint(vectors * (127.0 / np.where(largest > 0, largest, 1.0))).astype(np.int8)
    if precision == "binary":
        return np.packbits(vectors > 0, axis=1)
    return vectors.astype(stored_dtype(precision))


def dequantize(stored: NDArray[Any], precision: str, dim: int) -> NDArray[np.float32]:
    """
    What is searched in the place of the vectors: their like in float32, of unit length; float32 comes as it is.

    Args:
        stored (`np.ndarray`): Rows as [`quantize`] gives them.
        precision (`str`): How they are stored.
        dim (`int`): Values of a vector.

    Returns:
        `np.ndarray` of shape `(texts, dim)`, float32.
    """
    if precision == "float32":
        return np.asarray(stored, dtype=np.float32)
    if precision == "binary":
        bits = np.unpackbits(stored, axis=1, count=dim)
        return (bits.astype(np.float32) * 2 - 1) / np.float32(np.sqrt(dim))
    vectors = np.ascontiguousarray(stored, dtype=np.float32)
    faiss.normalize_L2(vectors)  # in place; a zero row stays zero
    return vectors
