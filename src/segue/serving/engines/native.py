"""The trained model as it is: networks by torch, the others by NumPy."""

from __future__ import annotations

from segue.core.model import Recommender
from segue.serving.engines.cached_model import held

__all__ = ["Native"]


class Native:
    """The engine that runs every model.

    Args:
        trained: what answers; it must not change any more.
    """

    name = "native"

    def __init__(self, trained: Recommender) -> None:
        self._model = held(trained)

    @property
    def model(self) -> Recommender:
        """See :class:`segue.serving.engines.engine.Engine`; one that streams goes on doing so."""
        return self._model
