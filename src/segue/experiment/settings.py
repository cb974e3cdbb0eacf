"""Settings of an experiment: task, run and evaluation."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Ge
from pydantic import AfterValidator, PlainSerializer, StrictBool, field_validator, model_validator

from segue.core.config import Settings
from segue.core.messages import hide_passwords
from segue.core.model import Solver
from segue.core.registry import model_class
from segue.data.filters import Filters
from segue.data.split_settings import COMMON_SETTINGS, STRATEGY_SETTINGS, SplitSettings
from segue.evaluation.warmth import ItemSelection, WarmthThresholds
from segue.features.knowledge.derive import KnowledgeSettings
from segue.features.text.settings import TextSettings
from segue.training.trackers.addresses import AUTO, check_address, check_addresses
from segue.training.train import Training

__all__ = [
    "EvaluationSettings",
    "ProtocolName",
    "RunSettings",
    "TaskSettings",
    "TrackerText",
    "setting_groups",
    "unused_settings",
    "unused_training",
]


ProtocolName: TypeAlias = Literal["full", "window", "repeats", "ncf", "session"]
"""Name of an evaluation protocol, see :mod:`segue.experiment.protocols.presets`."""


TrackerText: TypeAlias = Annotated[
    str, AfterValidator(check_address), PlainSerializer(hide_passwords, return_type=str, when_used="json")
]
"""Address of a tracker, whose password is not stored."""


class TaskSettings(Settings):
    """Which model is trained on which data."""

    model: str
    """Key of the model."""
    data: str
    """Name or address of the interaction log."""
    columns: dict[str, str] | None = None
    """Column names of the log by Segue's names, such as ``user = "customer"``."""
    separator: str | None = None
    """What separates the columns of delimited text; by default it is detected."""
    target: str | None = None
    """The kind of action to predict; by default every kind."""
    max_users: Annotated[int, Ge(2)] | None = None
    """Use only this many users, the first of the log; for trials, not for results."""
    recipe: str | None = None
    """The recipe that these settings started from."""


class RunSettings(Settings):
    """How the experiment is run."""

    seed: Annotated[int, Ge(0)] = 0
    """Seed of all random streams."""
    device: str = "cpu"
    """Device of torch: ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""
    track: Annotated[tuple[TrackerText, ...], AfterValidator(check_addresses)] = (AUTO,)
    """Trackers: ``tensorboard``, ``tensorboard:FOLDER``, ``mlflow``, ``mlflow:URI``, ``mlflow:URI#EXPERIMENT``,
    ``wandb``, ``wandb:PROJECT`` or ``wandb:ENTITY/PROJECT``; ``auto``: TensorBoard if it is installed. Passwords are
    not stored."""


class EvaluationSettings(Settings):
    """What is measured on the held-out queries."""

    protocol: ProtocolName | None = None
    """Name of an evaluation protocol, which sets the split, the items that are ranked, and the metrics unless they are
    named; a setting that contradicts it is an error."""
    ks: tuple[Annotated[int, Ge(1)], ...] = (5, 10)
    """List lengths at which ranking metrics are computed."""
    metrics: tuple[str, ...] = ("recall", "precision", "hit_rate", "mrr", "ndcg")
    """Names of metrics, also of those beyond accuracy such as ``novelty`` or ``diversity:genres``. ``rmse`` and ``mae``
    are added where the model predicts ratings; if only these are named, nothing is ranked."""
    sampled: Annotated[int, Ge(1)] | None = None
    """Also rank each target among this many randomly sampled items that the user has not interacted with, as older
    papers do. It is an error if a user has fewer of them."""
    exclude_seen: StrictBool | Annotated[int, Ge(2)] = True
    """Remove the items of a user's history from the ranking; a number: only those of so many newest events. Set to
    false where users return to items."""
    items: ItemSelection = "all"
    """Which items are ranked: ``all``; ``warm``, those with training events; or ``cold``, those without. Targets that
    are not ranked are left out. Validation during training always ranks all items."""
    warm_items: Annotated[int, Ge(1)] = 1
    """Training events from which an item is warm; an item with fewer is cold."""
    hot_items: Annotated[int, Ge(2)] | None = None
    """Training events from which an item is hot; by default so many that at most a fifth of the items is hot."""
    warm_users: Annotated[int, Ge(1)] = 1
    """Events in the history of the query from which a user is warm; a user with fewer is cold."""
    hot_users: Annotated[int, Ge(2)] | None = None
    """Events in the history from which a user is hot; by default so many that at most a fifth of the users is hot."""
    baseline: str | None = "auto"
    """Key of the model to compare with on validation; ``auto``: the strongest of ``popular``, ``recent_popular``,
    ``transitions``, ``frequent`` where seen items are ranked, and ``ease`` up to 5,000 items, or for ratings the means
    of item and user; ``none``: no comparison, which saves its time in benchmarks of speed."""

    @property
    def thresholds(self) -> WarmthThresholds:
        """Thresholds of hot, warm and cold items and users."""
        return WarmthThresholds(self.warm_items, self.hot_items, self.warm_users, self.hot_users)

    @field_validator("exclude_seen", mode="before")
    @classmethod
    def _read_exclude_seen(cls, value: Any) -> Any:
        """Read the words that TOML and other settings take for a truth value."""
        words = {"true": True, "false": False}
        return words.get(value.strip().lower(), value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_thresholds(self) -> EvaluationSettings:
        _ = self.thresholds
        return self


def setting_groups(model: str) -> dict[str, type[Settings]]:
    """Return the groups of settings that recipes and ``--set`` can change, by name."""
    return {
        "model": model_class(model).Config,
        "training": Training,
        "filters": Filters,
        "text": TextSettings,
        "knowledge": KnowledgeSettings,
        "split": SplitSettings,
        "evaluation": EvaluationSettings,
        "run": RunSettings,
    }


def unused_training(model: str) -> dict[str, str]:
    """Return the training settings that a model never reads, each with the reason.

    The validation metric is used by every model.
    """
    kind = model_class(model)
    if issubclass(kind, Solver):
        own = ", ".join(kind.Config.model_fields) or "none"
        reason = f"'{model}' is not trained by the training loop and does not use this setting; its own settings: {own}"
        return {name: reason for name in Training.model_fields if name != "metric"}
    builtin_loss = getattr(kind, "builtin_loss", None)
    if builtin_loss is None:
        return {}
    from segue.training.settings_checks import loss_settings  # needs torch, like the model itself

    return dict.fromkeys(loss_settings(), f"'{model}' minimizes {builtin_loss} and does not use this setting")


def unused_settings(models: Collection[str], strategy: Any) -> Mapping[str, Collection[str]]:
    """Return the keys by group that no model and no split by ``strategy`` reads.

    Settings of text and knowledge count among them: they need their group, because others have the same names.
    """
    training = set.intersection(*(set(unused_training(model)) for model in models)) if models else set[str]()
    split = set[str]()
    if strategy in STRATEGY_SETTINGS:  # an unknown one is rejected where the split's settings are parsed
        split = SplitSettings.model_fields.keys() - {*COMMON_SETTINGS, *STRATEGY_SETTINGS[strategy]}
    grouped = {"text": set(TextSettings.model_fields), "knowledge": set(KnowledgeSettings.model_fields)}
    return {"training": training, "split": split, **grouped}
