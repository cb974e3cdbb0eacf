"""Segue: train, compare, explain and serve recommenders from a log of who did what and when.

The names below are read when they are first used, so that ``import segue`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segue.api import evaluate, load, model_keys, recommend, restore, save, similar, split, stream, train

__all__ = ["evaluate", "load", "model_keys", "recommend", "restore", "save", "similar", "split", "stream", "train"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("segue.api"), name)
    raise AttributeError(f"module 'segue' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
