"""The groups of settings of an experiment that are not a model's, a training's or the data's own."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge

from segue.core.config import Settings
from segue.core.registry import model_class
from segue.data.filters import Filters
from segue.data.splits import SplitSettings
from segue.training.train import Training

__all__ = ["Evaluation", "Session", "Task", "groups"]


class Task(Settings):
    """What is done: which model on which data."""

    model: str
    """Key of the model."""
    data: str
    """Name or address of the log."""
    columns: dict[str, str] | None = None
    """Columns of the log by the name Segue gives them, such as ``user = "customer"``."""
    target: str | None = None
    """The kind of action that is predicted; without it, every kind."""
    limit: Annotated[int, Ge(2)] | None = None
    """Only the first so many users: for trying out, not for results."""
    recipe: str | None = None
    """The recipe these settings started from."""


class Session(Settings):
    """How it is run."""

    seed: Annotated[int, Ge(0)] = 0
    """Every random stream follows from it."""
    device: str = "cpu"
    """A torch device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""


class Evaluation(Settings):
    """What is measured on the held-out questions."""

    ks: tuple[Annotated[int, Ge(1)], ...] = (5, 10)
    """Lengths of the list at which metrics are taken."""
    metrics: tuple[str, ...] = ("recall", "precision", "hit_rate", "mrr", "ndcg")
    """Names of metrics. ``rmse`` and ``mae`` are added where the model predicts values; alone, nothing is ranked."""
    sampled: Annotated[int, Ge(1)] | None = None
    """Rank each target among so many items drawn at random too, as older papers do, beside the whole catalogue."""
    repeats: Literal["remove", "keep"] = "remove"
    """Whether the items of a user's history are removed from his ranking, or stay: where people return to things."""
    baseline: str | None = "popular"
    """Key of the model that is measured beside this one; ``none`` for no such model."""


def groups(model: str) -> dict[str, type[Settings]]:
    """The groups that recipes and ``--set`` may speak of."""
    return {
        "model": model_class(model).Config,
        "training": Training,
        "filters": Filters,
        "split": SplitSettings,
        "evaluation": Evaluation,
        "run": Session,
    }
