"""Build the choice model.

It consists of the probabilities of items and ratings given the hidden state, as arrays for kernels.

Shapes: I items, K tastes, A appetites, S = A·K states (state ``a * K + z``), G genres.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segue.core.numba_kernels import kernel
from segue.data.simulator.catalog import SimulatedCatalog
from segue.data.simulator.settings import SimulatorSettings

__all__ = ["RATINGS", "SESSION_GAP", "AliasTables", "ChoiceModel", "build_alias_tables", "build_choice_model"]

SESSION_GAP = 6 * 3600
"""Seconds without an event after which the next event starts a session."""
RATINGS = 5
"""Ratings are 1..RATINGS; also the number of levels of fit."""
CURIOUS = 1
SEQUEL_FACTORS = np.array([1.0, 0.4, 1.5])
REPEAT_FACTORS = np.array([1.0, 0.3, 1.5])
"""Factors of the probability of repeats by appetite: plain, curious, loyal; those above of sequels."""


class ChoiceModel(NamedTuple):
    """All distributions that depend on the hidden state."""

    choice: NDArray[np.float64]
    """``(I, S)`` p(item | state) of a new item from the whole catalog; positive, columns sum to 1."""
    sequel: NDArray[np.int32]
    """``(I,)`` next part of the series, or -1."""
    drift: NDArray[np.float64]
    """``(2, K, K)`` P(taste | taste before) within a session and at its start."""
    session: float
    """Probability that an event starts a session."""
    sequel_prob: NDArray[np.float64]
    """``(A,)`` probability of continuing a series."""
    repeat_prob: NDArray[np.float64]
    """``(A,)`` probability of a repeat."""
    recency: float
    level: NDArray[np.uint8]
    """``(I, K)`` level of fit between item and taste, 0 to 4."""
    rating: NDArray[np.float64]
    """``(5, 5)`` P(rating - 1 | level)."""


class AliasTables(NamedTuple):
    """Tables of Walker's alias method: samples ``p(item | state)`` in constant time."""

    keep: NDArray[np.float64]
    """``(S, I)`` probability of keeping the drawn item."""
    other: NDArray[np.int32]
    """``(S, I)`` item to return otherwise."""


def build_choice_model(settings: SimulatorSettings, catalog: SimulatedCatalog, rng: np.random.Generator) -> ChoiceModel:
    """Build the choice model for ``catalog``.

    Its free parameters are drawn from ``rng``.
    """
    k, a = settings.tastes, settings.appetites
    taste_KG = rng.dirichlet(np.full(settings.genres, 0.4), size=k) * settings.genres + 0.03
    share_IG = catalog.genres / catalog.genres.sum(axis=1, keepdims=True)
    fit_IK = share_IG @ taste_KG.T
    tail = np.ones(a)
    if a > CURIOUS:
        tail[CURIOUS] = 1.0 - settings.novelty
    weight_AI = np.exp(tail[:, None] * np.log(catalog.popularity))
    choice_IAK = weight_AI.T[:, :, None] * (fit_IK**settings.focus)[:, None, :]
    choice_IS = choice_IAK.reshape(settings.items, a * k)
    choice_IS /= choice_IS.sum(axis=0)

    moves_KK = rng.dirichlet(np.full(k, 0.5), size=k)
    drift = np.stack([(1.0 - d) * np.eye(k) + d * moves_KK for d in (settings.drift, settings.session_drift)])
    liking_IK = np.log(fit_IK) + 0.7 * rng.standard_normal((settings.items, 1))
    level_IK = np.searchsorted(np.quantile(liking_IK, [0.1, 0.3, 0.6, 0.85]), liking_IK)
    distance = np.abs(np.arange(RATINGS)[:, None] - np.arange(RATINGS)[None, :])
    rating = np.exp(-0.8 * distance)
    return ChoiceModel(
        choice=choice_IS,
        sequel=catalog.sequel,
        drift=drift,
        session=1.0 / settings.session_length,
        sequel_prob=settings.sequels * SEQUEL_FACTORS[:a],
        repeat_prob=settings.repeats * REPEAT_FACTORS[:a],
        recency=settings.recency,
        level=level_IK.astype(np.uint8),
        rating=rating / rating.sum(axis=1, keepdims=True),
    )


def build_alias_tables(choice_IS: NDArray[np.float64]) -> AliasTables:
    """Build alias tables of the columns of ``choice_IS``.

    Source: Walker 1977, built as in Vose 1991.
    """
    keep, other = _alias(np.ascontiguousarray(choice_IS.T))
    return AliasTables(keep, other)


@kernel
def _alias(p_SI: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    states, items = p_SI.shape
    keep = np.ones((states, items))
    other = np.zeros((states, items), dtype=np.int32)
    low, high = np.empty(items, dtype=np.int64), np.empty(items, dtype=np.int64)
    for s in range(states):
        scaled = p_SI[s] * items
        n_low = n_high = 0
        for i in range(items):
            other[s, i] = i
            if scaled[i] < 1.0:
                low[n_low] = i
                n_low += 1
            else:
                high[n_high] = i
                n_high += 1
        while n_low > 0 and n_high > 0:
            n_low -= 1
            small, large = low[n_low], high[n_high - 1]
            keep[s, small] = scaled[small]
            other[s, small] = large
            scaled[large] -= 1.0 - scaled[small]
            if scaled[large] < 1.0:
                n_high -= 1
                low[n_low] = large
                n_low += 1
    return keep, other
