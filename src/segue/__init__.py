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
        add_knowledge,
        add_text,
        audit,
        auto,
        baselines,
        compare,
        cross_validate,
        evaluate,
        evaluate_policy,
        explain,
        export,
        load,
        open,  # noqa: A004
        predict,
        rank,
        recommend,
        report,
        run_study,
        save,
        serve,
        similar,
        split,
        stream,
        train,
        tune,
    )
    from segue.examples import (
        compare_clicks,
        derive_examples,
        evaluate_clicks,
        load_examples,
        open_clicks,
        split_examples,
        train_clicks,
        tune_clicks,
    )

__all__ = [
    "add_items",
    "add_knowledge",
    "add_text",
    "audit",
    "auto",
    "baselines",
    "compare",
    "compare_clicks",
    "cross_validate",
    "derive_examples",
    "evaluate",
    "evaluate_clicks",
    "evaluate_policy",
    "explain",
    "export",
    "load",
    "load_examples",
    "models",
    "open",
    "open_clicks",
    "predict",
    "rank",
    "recommend",
    "report",
    "run_study",
    "save",
    "serve",
    "similar",
    "split",
    "split_examples",
    "stream",
    "train",
    "train_clicks",
    "tune",
    "tune_clicks",
]

_EXAMPLES = (
    "compare_clicks",
    "derive_examples",
    "evaluate_clicks",
    "load_examples",
    "open_clicks",
    "split_examples",
    "train_clicks",
    "tune_clicks",
)
"""Functions of :mod:`segue.examples`."""

_TYPES = {
    "ClickModel": "segue.core.examples.click_model",
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
        return getattr(import_module("segue.examples" if name in _EXAMPLES else "segue.api"), name)
    if name in _TYPES:
        return getattr(import_module(_TYPES[name]), name)
    raise AttributeError(f"module 'segue' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
