"""The trained model as it is: networks by torch, the others by NumPy.

What a factored model says of its items is asked for once and kept: a network with inputs computes it anew each time.

Shapes: N queries, C candidates, D width of a factored model, I items.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segue.core.events import frozen
from segue.core.model import Factored, Recommender, Streaming, pick_candidates
from segue.core.stream import State
from segue.core.types import Codes, Events, Queries, Scores

__all__ = ["Native"]


class Native:
    """The engine that runs every model.

    Args:
        trained: what answers; it must not change any more.
    """

    name = "native"

    def __init__(self, trained: Recommender) -> None:
        if isinstance(trained, Streaming):
            self._model: Recommender = _Streaming(trained)
        elif isinstance(trained, Factored):
            self._model = _Factored(trained)
        else:
            self._model = trained

    @property
    def model(self) -> Recommender:
        """See :class:`segue.serving.engines.engine.Engine`; one that streams goes on doing so."""
        return self._model


class _Factored:
    """A factored model with its items' vectors at hand."""

    def __init__(self, trained: Factored) -> None:
        self._trained = trained
        self.domain = trained.domain
        self.scale: Literal["logit", "score"] = getattr(trained, "scale", "score")
        self.vectors: NDArray[np.float32] = frozen(np.ascontiguousarray(trained.vectors, np.float32))
        self.bias: NDArray[np.float32] = frozen(np.ascontiguousarray(trained.bias, np.float32))

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        return self._trained.encode(queries)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        return pick_candidates(self.encode(queries) @ self.vectors.T + self.bias, candidates)


class _Streaming(_Factored):
    def __init__(self, trained: Streaming) -> None:
        super().__init__(trained)
        self._streaming = trained

    def state(self, queries: Queries) -> State:
        return self._streaming.state(queries)

    def step(self, state: State, events: Events) -> State:
        return self._streaming.step(state, events)

    def answer(self, state: State, times: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        return self._streaming.answer(state, times)
