"""Hide the context of examples in training.

A model thus learns to do without it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.examples.fields import MISSING, Examples, fields_of_kind
from segue.core.types import Queries

__all__ = ["hide_context", "hide_query_context"]

PREFIX = "context."
"""Start of the names of fields of the context; see :mod:`segue.core.examples.log_fields`."""


def hide_context(examples: Examples, is_hidden_T: NDArray[np.bool_]) -> Examples:
    """Return the examples, some of them without their context."""
    if not any(one.name.startswith(PREFIX) for one in examples.fields) or not is_hidden_T.any():
        return examples

    def columns(kind: Any) -> NDArray[np.bool_]:
        return np.array([one.name.startswith(PREFIX) for one in fields_of_kind(examples.fields, kind)], np.bool_)

    codes, numbers = examples.codes.copy(), examples.numbers.copy()
    codes[np.ix_(is_hidden_T, columns("category"))] = MISSING
    numbers[np.ix_(is_hidden_T, columns("number"))] = np.nan
    return replace(examples, codes=codes, numbers=numbers)


def hide_query_context(queries: Queries, is_hidden_N: NDArray[np.bool_]) -> Queries:
    """Return the queries, some of them without their context."""
    context = {
        name: np.where(is_hidden_N, -1 if column.dtype.kind == "i" else np.nan, column).astype(column.dtype)
        for name, column in queries.context.items()
    }
    return replace(queries, context=context)
