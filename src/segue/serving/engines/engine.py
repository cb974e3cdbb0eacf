"""What an engine is: a trained model, run by some runtime, that answers queries.

Shapes: N queries, D width of a factored model.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from segue.core.model import Recommender

__all__ = ["Engine"]


@runtime_checkable
class Engine(Protocol):
    """A :class:`segue.core.model.Recommender` with a name, safe to be called from one thread at a time."""

    name: str
    """Such as ``native`` or ``onnx``."""

    @property
    def model(self) -> Recommender:
        """What answers: factored where the trained model is, with the same vectors and bias. Its ``scale`` is that of
        the trained model."""
        ...
