"""Wrap trained models so that their item vectors are computed once.

A network with item features would otherwise compute them anew at each access.

Shapes: N queries, C candidates, D width of a factored model, I items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from segue.core.events import read_only
from segue.core.model import Factored, Recommender, Streaming, describe_fallbacks, explain_features, select_candidates
from segue.core.state import State
from segue.core.types import Codes, Events, Queries, Scores

__all__ = ["EncodeFn", "cache_item_vectors"]

EncodeFn: TypeAlias = Callable[[Queries], NDArray[np.float32]]
"""Encode queries: ``(N, D)`` one vector per query."""


def cache_item_vectors(model: Recommender, encode: EncodeFn | None = None) -> Recommender:
    """Return the model with its item vectors cached.

    A streaming model stays a streaming model; a model that is not factored is returned unchanged.

    Args:
        encode: encodes queries instead of the model.
    """
    if isinstance(model, Streaming):
        return _CachedStreaming(model, encode)
    return _CachedFactored(model, encode) if isinstance(model, Factored) else model


class _CachedFactored:
    def __init__(self, model: Factored, encode: EncodeFn | None) -> None:
        self.schema = model.schema
        self.scale: Literal["logit", "score"] = getattr(model, "scale", "score")
        self.vectors: NDArray[np.float32] = read_only(np.ascontiguousarray(model.vectors, np.float32))
        self.bias: NDArray[np.float32] = read_only(np.ascontiguousarray(model.bias, np.float32))
        self._encode: EncodeFn = model.encode if encode is None else encode
        self._trained = model

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        return self._encode(queries)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        return select_candidates(self.encode(queries) @ self.vectors.T + self.bias, candidates)

    def describe_fallbacks(self, queries: Queries) -> dict[int, str]:
        return describe_fallbacks(self._trained, queries)

    def explain_features(self, queries: Queries, item: int) -> tuple[str, dict[str, float]]:
        return explain_features(self._trained, queries, item)


class _CachedStreaming(_CachedFactored):
    def __init__(self, model: Streaming, encode: EncodeFn | None) -> None:
        super().__init__(model, encode)
        self._model = model

    def state(self, queries: Queries) -> State:
        return self._model.state(queries)

    def step(self, state: State, events: Events) -> State:
        return self._model.step(state, events)

    def encode_state(
        self,
        state: State,
        times: NDArray[np.int64] | None = None,
        context: Mapping[str, NDArray[Any]] | None = None,
    ) -> NDArray[np.float32]:
        return self._model.encode_state(state, times, context)
