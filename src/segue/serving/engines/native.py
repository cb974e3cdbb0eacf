"""Run the trained model unchanged: networks with torch, other models with NumPy."""

from __future__ import annotations

from segue.core.model import Recommender
from segue.serving.engines.cached_model import cache_item_vectors

__all__ = ["NativeEngine"]


class NativeEngine:
    """The engine that runs every model.

    Args:
        trained: the model; it must not change afterwards.
    """

    name = "native"

    def __init__(self, trained: Recommender) -> None:
        self._model = cache_item_vectors(trained)

    @property
    def model(self) -> Recommender:
        """The executable model; see :class:`segue.serving.engines.engine.Engine`.

        A streaming model stays a streaming model.
        """
        return self._model
