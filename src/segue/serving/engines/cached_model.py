"""What engines answer with: a factored model whose items' vectors are at hand, however its queries are encoded.

What a model says of its items is asked for once and kept: a network with inputs computes it anew each time.

Shapes: N queries, C candidates, D width of a factored model, I items.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from segue.core.events import frozen
from segue.core.model import Factored, Recommender, Streaming, pick_candidates
from segue.core.state import State
from segue.core.types import Codes, Events, Queries, Scores

__all__ = ["Encode", "held"]

Encode: TypeAlias = Callable[[Queries], NDArray[np.float32]]
"""``(N, D)`` one vector per query."""


def held(trained: Recommender, encode: Encode | None = None) -> Recommender:
    """``trained`` with its vectors at hand; one that streams goes on doing so, one that is not factored is as it is.

    Args:
        encode: what encodes queries in its place.
    """
    if isinstance(trained, Streaming):
        return _Streaming(trained, encode)
    return _Factored(trained, encode) if isinstance(trained, Factored) else trained


class _Factored:
    def __init__(self, trained: Factored, encode: Encode | None) -> None:
        self.domain = trained.domain
        self.scale: Literal["logit", "score"] = getattr(trained, "scale", "score")
        self.vectors: NDArray[np.float32] = frozen(np.ascontiguousarray(trained.vectors, np.float32))
        self.bias: NDArray[np.float32] = frozen(np.ascontiguousarray(trained.bias, np.float32))
        self._encode: Encode = trained.encode if encode is None else encode

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        return self._encode(queries)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        return pick_candidates(self.encode(queries) @ self.vectors.T + self.bias, candidates)


class _Streaming(_Factored):
    def __init__(self, trained: Streaming, encode: Encode | None) -> None:
        super().__init__(trained, encode)
        self._trained = trained

    def state(self, queries: Queries) -> State:
        return self._trained.state(queries)

    def step(self, state: State, events: Events) -> State:
        return self._trained.step(state, events)

    def answer(self, state: State, times: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        return self._trained.answer(state, times)
