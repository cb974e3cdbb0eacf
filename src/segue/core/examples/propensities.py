"""Propensities of positions: how likely users examine them.

The position-based model (Craswell et al. 2008, doi:10.1145/1341531.1341545) says that a click is an examination of the
position and an attraction by the item, independent of each other: P(click) = propensity(position) attraction(item).
Clicks are weighted by the inverse of the propensity (Joachims et al. 2017, arXiv:1608.04468), so that an item counts as
if every position were examined equally often. Propensities are relative: the largest is 1.

Shapes: T examples, P positions, from 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segue.core.examples.columns import CellError

if TYPE_CHECKING:
    import polars as pl

    from segue.core.examples.settings import ExampleSettings

__all__ = [
    "estimate_by_clicks",
    "estimate_by_counts",
    "estimate_by_items",
    "find_propensities",
    "inverse_propensities",
    "read_positions",
    "weight_clicks",
]

MAX_POSITION = 10_000
"""Largest position; later ones are hardly ever examined."""

SMOOTHING = 10.0
"""Examples with the overall click rate that are added to each position."""

MAX_ITERATIONS, TOLERANCE = 500, 1e-6
"""Iterations of the position-based model, and the change of a propensity at which they end."""

Values = NDArray[np.float64]


def read_positions(name: str, column_T: NDArray[Any], cells: Sequence[Any] | pl.Series = ()) -> NDArray[np.int64]:
    """Return positions as integers, ``(T,)``; 0 where they are missing.

    Args:
        cells: the cells of the table, for errors.

    Raises:
        CellError: a position is not a whole number from 1 to :data:`MAX_POSITION`; names the row.
    """
    values_T = np.asarray(column_T, np.float64)
    is_known_T = ~np.isnan(values_T)
    is_wrong_T = is_known_T & ~((values_T >= 1) & (values_T <= MAX_POSITION) & (values_T == np.floor(values_T)))
    if is_wrong_T.any():
        row = int(np.argmax(is_wrong_T))
        got = repr(cells[row]) if len(cells) else f"{values_T[row]:g}"
        raise CellError(name, row, f"got {got}, expected a position: a whole number from 1 to {MAX_POSITION:,}")
    return np.where(is_known_T, values_T, 0).astype(np.int64)


def estimate_by_clicks(positions_T: NDArray[np.int64], labels_T: NDArray[Any]) -> Values:
    """Estimate propensities from the click rate of each position, ``(P,)``.

    This is right where the positions were drawn at random, so that items of all positions are equally attractive.
    Otherwise the propensities also have the effect of the ranking that was shown.

    Raises:
        ValueError: no example has a position, or there are no clicks.
    """
    shown_P, clicked_P = _count(positions_T, labels_T)
    rate = clicked_P.sum() / shown_P.sum()
    return _relative((clicked_P + SMOOTHING * rate) / (shown_P + SMOOTHING))


def estimate_by_counts(positions_T: NDArray[np.int64]) -> Values:
    """Estimate propensities from the number of clicks at each position, ``(P,)``.

    This is for logs of clicks alone. It is right where the positions were drawn at random, and each was shown equally
    often.

    Raises:
        ValueError: no click has a position.
    """
    return _relative(_count(positions_T, np.ones(len(positions_T)))[0] + 1.0)


def estimate_by_items(positions_T: NDArray[np.int64], labels_T: NDArray[Any], items_T: NDArray[np.int64]) -> Values:
    """Estimate propensities with the position-based model, ``(P,)``.

    It is fitted by expectation maximization.
    Clicks are compared between positions of the same item, so that the ranking that was shown has no effect. Items must
    occur at several positions.

    Raises:
        ValueError: no example has a position, there are no clicks, or no item has two positions.
    """
    _count(positions_T, labels_T)
    is_shown_T = positions_T > 0
    n_positions = int(positions_T.max())
    _, items_T = np.unique(items_T[is_shown_T], return_inverse=True)
    keys, cells_T = np.unique(items_T * n_positions + positions_T[is_shown_T] - 1, return_inverse=True)
    items_X, positions_X = np.divmod(keys, n_positions)
    if len(np.unique(items_X)) == len(items_X):
        raise ValueError("propensities: no item was shown at two positions, which the method 'items' compares")
    shown_X = np.bincount(cells_T).astype(np.float64)
    clicked_X = np.bincount(cells_T, weights=np.asarray(labels_T, np.float64)[is_shown_T])
    by_position_P, by_item = np.bincount(positions_X, shown_X, n_positions), np.bincount(items_X, shown_X)
    rate = float(clicked_X.sum() / shown_X.sum())
    propensities_P, attractions = np.full(n_positions, 0.5), np.full(len(by_item), min(0.5, 2 * rate))
    for _ in range(MAX_ITERATIONS):
        before_P = propensities_P
        p_X, a_X = propensities_P[positions_X], attractions[items_X]
        unclicked_X = (shown_X - clicked_X) / np.maximum(1 - p_X * a_X, 1e-12)
        examined_P = np.bincount(positions_X, clicked_X + unclicked_X * p_X * (1 - a_X), n_positions)
        attracted = np.bincount(items_X, clicked_X + unclicked_X * a_X * (1 - p_X))
        propensities_P = (examined_P + SMOOTHING * before_P.mean()) / (by_position_P + SMOOTHING)
        attractions = attracted / by_item
        if np.abs(propensities_P - before_P).max() < TOLERANCE:
            break
    return _relative(propensities_P)


def inverse_propensities(
    propensities_P: Sequence[float] | Values, positions_T: NDArray[np.int64], low: float
) -> Values:
    """Return the inverse of the propensity of each position, ``(T,)``.

    Args:
        positions_T: from 1; 0, an event without a position, has the weight 1. Positions after the last one have its
            propensity.
        low: propensities below this are raised to it, as single clicks with a very large weight say little.
    """
    values_P = np.maximum(np.asarray(propensities_P, np.float64), low)
    index_T = np.minimum(positions_T, len(values_P)) - 1
    return np.where(positions_T > 0, 1 / values_P[index_T], 1.0)


def find_propensities(
    table: pl.DataFrame, labels_T: NDArray[Any], settings: ExampleSettings
) -> tuple[NDArray[np.int64], Values]:
    """Return the positions of a table, ``(T,)``, and propensities, ``(P,)``.

    The latter are given or estimated.

    Raises:
        ValueError: a position is none, or the propensities cannot be estimated.
    """
    assert settings.position is not None
    column = table[settings.position]
    numbers: Any = column.cast(float, strict=False)
    is_text = column.is_not_null() & numbers.is_null()
    positions_T = read_positions(settings.position, numbers.fill_null(np.nan).set(is_text, 0.0).to_numpy(), column)
    method = settings.propensities
    if not isinstance(method, str):
        return positions_T, np.array(method)
    if method == "clicks":
        return positions_T, estimate_by_clicks(positions_T, labels_T)
    assert settings.position_item is not None
    items_T = table[settings.position_item].rank("dense").fill_null(0).to_numpy().astype(np.int64)
    return positions_T, estimate_by_items(positions_T, labels_T, items_T)


def weight_clicks(
    positions_T: NDArray[np.int64], labels_T: NDArray[Any], propensities_P: Values, low: float
) -> NDArray[np.float32]:
    """Return the weights of examples, ``(T,)``.

    Those of clicks are the inverse propensities, others are 1.
    """
    inverse_T = inverse_propensities(propensities_P, positions_T, low)
    return np.where(np.asarray(labels_T) > 0, inverse_T, 1.0).astype(np.float32)


def _count(positions_T: NDArray[np.int64], labels_T: NDArray[Any]) -> tuple[Values, Values]:
    """Return the examples and the clicks of each position, ``(P,)``."""
    is_shown_T = positions_T > 0
    if not is_shown_T.any():
        raise ValueError("propensities: no example has a position to estimate them from; give them, or no position")
    codes_T = positions_T[is_shown_T] - 1
    labels_T = np.asarray(labels_T, np.float64)[is_shown_T]
    if not labels_T.any():
        raise ValueError("propensities: no example with a position is positive, so they cannot be estimated")
    return np.bincount(codes_T).astype(np.float64), np.bincount(codes_T, weights=labels_T).astype(np.float64)


def _relative(values_P: Values) -> Values:
    relative_P: Values = values_P / values_P.max()
    return relative_P
