"""Load model state from named arrays with checked shapes and types."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.config import suggest
from segue.core.model import StateArrays

__all__ = ["load_array"]


def load_array(arrays: StateArrays, name: str, shape: tuple[int | None, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """Return the array ``name`` after checking its shape and type.

    Args:
        shape: expected shape; ``None``: any length.
        dtype: expected type.

    Raises:
        ValueError: the array is missing or has another shape or type.
    """
    if name not in arrays:
        raise ValueError(f"missing array '{name}' in the saved model{suggest(name, arrays)}")
    array = arrays[name]
    fits = len(shape) == array.ndim and all(want in (None, size) for want, size in zip(shape, array.shape, strict=True))
    if not fits or array.dtype != dtype:
        wanted = f"{np.dtype(dtype)} of shape ({', '.join('any' if n is None else str(n) for n in shape)})"
        raise ValueError(
            f"array '{name}' in the saved model: got {array.dtype} of shape {array.shape}, expected {wanted}"
        )
    return array
