"""Interface of an engine: a trained model executed by some runtime.

Shapes: N queries, D width of a factored model.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from segue.core.model import Recommender

__all__ = ["Engine"]


@runtime_checkable
class Engine(Protocol):
    """A :class:`segue.core.model.Recommender` with a name; not thread-safe."""

    name: str
    """Such as ``native`` or ``onnx``."""

    @property
    def model(self) -> Recommender:
        """The executable model.

        It is factored if the trained model is, with the same vectors, bias and ``scale``.
        """
        ...
