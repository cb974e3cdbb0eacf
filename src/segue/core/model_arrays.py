"""Load model state from named arrays with checked shapes and types."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from segue.core.config import Settings, suggest
from segue.core.model import Recommender, StateArrays

__all__ = [
    "NonFiniteScoreError",
    "check_convergence",
    "check_finite",
    "check_range",
    "explain_divergence",
    "load_array",
    "load_csr",
]


STEP_SETTINGS = (
    "learning_rate",
    "learning_rates",
    "inner_learning_rate",
    "momentum",
    "l2",
    "regularization",
    "optimizer",
    "clip_norm",
)
"""Settings that can make training diverge."""


class NonFiniteScoreError(ValueError):
    """A model computed a score that is infinite or NaN."""


@contextmanager
def explain_divergence(
    model: Recommender, arrays: Callable[[], StateArrays], when: str, *settings: Settings
) -> Iterator[None]:
    """Check that a model in training is finite, before and within the context.

    Args:
        arrays: returns the learned arrays.
        when: the time of the check, such as ``iteration 3``, for the error message.
        settings: the groups of settings to name in the error message.

    Raises:
        ValueError: an array, or a score computed within the context, is infinite or NaN.
    """
    try:
        for name, array in arrays().items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise NonFiniteScoreError(f"array '{name}' has numbers that are not finite")
        yield
    except NonFiniteScoreError as error:
        values = {key: value for group in settings for key, value in group if key in STEP_SETTINGS}
        named = ", ".join(f"{key}={value}" for key, value in values.items() if value is not None)
        rate = "inner_learning_rate or " if "inner_learning_rate" in values else ""
        advice = f"; its settings: {named}; try a lower {rate}learning_rate or more regularization" if named else ""
        raise ValueError(f"{type(model).__name__}: training diverged, after {when}: {error}{advice}") from None


def check_convergence(model: Recommender, arrays: Callable[[], StateArrays], when: str, *settings: Settings) -> None:
    """Check that a trained model is finite; see :func:`explain_divergence`.

    Raises:
        ValueError: an array is infinite or NaN.
    """
    with explain_divergence(model, arrays, when, *settings):
        pass


def check_finite(name: str, array: NDArray[Any]) -> None:
    """Check that all numbers of the array ``name`` are finite.

    Raises:
        ValueError: the array has an infinite number or NaN.
    """
    # a finite sum has finite terms; look at the terms only if the sum is not finite
    if array.dtype.kind == "f" and not np.isfinite(array.sum(dtype=np.float64)) and not np.isfinite(array).all():
        raise ValueError(f"array '{name}' in the saved model: has numbers that are not finite")


def check_range(name: str, codes: NDArray[Any], size: int) -> None:
    """Check that all ``codes`` of the array ``name`` are from 0 to ``size - 1``.

    Raises:
        ValueError: a code is out of range.
    """
    if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < size:
        raise ValueError(
            f"array '{name}' in the saved model: codes from {codes.min()} to {codes.max()}, expected 0 to {size - 1}"
        )


def load_csr(arrays: StateArrays, values: str, columns: str, offsets: str, shape: tuple[int, int]) -> csr_array[Any]:
    """Return the sparse matrix stored in three arrays, checked for compiled code.

    Args:
        values: name of the array of values, likewise ``columns`` and ``offsets``.
        shape: shape of the matrix.

    Raises:
        ValueError: an array is missing or has another shape or type; the offsets decrease or do not end at the number
            of values; a column is out of range, or the columns of a row are not ascending.
    """
    cells = load_array(arrays, values, (None,), np.float32)
    columns_T = load_array(arrays, columns, (len(cells),), np.int32)
    starts = load_array(arrays, offsets, (shape[0] + 1,), np.int64)
    if starts[0] != 0 or starts[-1] != len(cells) or (starts[1:] < starts[:-1]).any():
        raise ValueError(f"array '{offsets}' in the saved model: must increase from 0 to {len(cells)}")
    check_range(columns, columns_T, shape[1])
    is_ascending = columns_T[1:] > columns_T[:-1]
    starts_row = starts[1:-1]
    is_ascending[starts_row[(starts_row > 0) & (starts_row < len(cells))] - 1] = True
    if not is_ascending.all():
        raise ValueError(f"array '{columns}' in the saved model: columns of a row must ascend")
    return csr_array((cells, columns_T, starts), shape=shape)


def load_array(arrays: StateArrays, name: str, shape: tuple[int | None, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """Return the array ``name`` after checking its shape and type.

    Args:
        shape: expected shape; ``None``: any length.
        dtype: expected type.

    Raises:
        ValueError: the array is missing, has another shape or type, or has numbers that are not finite.
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
    check_finite(name, array)
    return array
