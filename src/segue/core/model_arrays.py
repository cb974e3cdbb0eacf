"""A model's memory taken back from named arrays, with its shapes checked."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.config import suggest
from segue.core.model import Arrays

__all__ = ["take_back"]


def take_back(arrays: Arrays, name: str, shape: tuple[int | None, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """The array ``name``, of ``shape`` (``None``: any length) and ``dtype``; ``ValueError`` quotes what came."""
    if name not in arrays:
        raise ValueError(f"the model's memory has no '{name}'{suggest(name, arrays)}")
    array = arrays[name]
    fits = len(shape) == array.ndim and all(want in (None, size) for want, size in zip(shape, array.shape, strict=True))
    if not fits or array.dtype != dtype:
        wanted = f"{np.dtype(dtype)} of shape ({', '.join('any' if n is None else str(n) for n in shape)})"
        raise ValueError(f"the model's memory '{name}': got {array.dtype} of shape {array.shape}, expected {wanted}")
    return array
