"""Segue: train, compare, explain and serve recommender systems.

Models are trained on interaction logs. The names below are imported on first use, so that ``import segue`` costs
nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from segue.version import __version__ as __version__

if TYPE_CHECKING:
    from segue import models as models
    from segue.api import (
        add_items,
        add_text,
        compare,
        cross_validate,
        evaluate,
        explain,
        export,
        load,
        open,  # noqa: A004
        predict,
        rank,
        recommend,
        save,
        serve,
        similar,
        split,
        stream,
        train,
    )

__all__ = [
    "add_items",
    "add_text",
    "compare",
    "cross_validate",
    "evaluate",
    "explain",
    "export",
    "load",
    "models",
    "open",
    "predict",
    "rank",
    "recommend",
    "save",
    "serve",
    "similar",
    "split",
    "stream",
    "train",
]

_TYPES = {
    "Dataset": "segue.core.types",
    "SegueWarning": "segue.core.messages",
    "Split": "segue.core.types",
    "TrainedModel": "segue.core.bundle",
}
"""Types for annotations, and the modules that define them."""


def __getattr__(name: str) -> Any:
    if name == "models":
        return import_module("segue.models")
    if name in __all__:
        return getattr(import_module("segue.api"), name)
    if name in _TYPES:
        return getattr(import_module(_TYPES[name]), name)
    raise AttributeError(f"module 'segue' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
