"""Define the settings of splits."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt
from pydantic import field_validator, model_validator

from segue.core.config import Settings
from segue.data.filters import parse_time

__all__ = ["SplitSettings"]

Share = Annotated[float, Ge(0.0), Lt(1.0)]

COMMON_SETTINGS = (
    "strategy",
    "use_query_time",
    "use_query_context",
    "drop_cold_targets",
    "drop_seen_targets",
    "cold_items",
)
"""Settings that every strategy reads."""

STRATEGY_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "leave_one_out": ("valid",),
    "leave_n_out": ("n", "valid"),
    "global_temporal": ("test", "valid", "cutoff", "valid_cutoff", "end"),
    "per_user_ratio": ("test", "valid"),
    "per_user_random": ("test", "valid", "seed"),
    "random": ("test", "valid", "seed"),
    "k_fold": ("folds", "fold", "valid", "seed"),
    "user_k_fold": ("folds", "fold", "valid", "history", "seed"),
    "held_out_users": ("test", "valid", "history", "seed"),
    "cold_users": ("test", "valid", "seed"),
    "cold_items": ("test", "valid", "seed"),
    "sessions": ("test", "valid"),
    "predefined": ("name", "test", "valid", "seed"),
    "none": (),
}
"""Settings that each strategy reads in addition."""


class SplitSettings(Settings):
    """How the log is split into training, validation and test."""

    strategy: Literal[
        "leave_one_out",
        "leave_n_out",
        "global_temporal",
        "per_user_ratio",
        "per_user_random",
        "random",
        "k_fold",
        "user_k_fold",
        "held_out_users",
        "cold_users",
        "cold_items",
        "sessions",
        "predefined",
        "none",
    ] = "leave_one_out"
    """How events are assigned to training, validation and test; ``none`` trains on all events."""
    test: Share = 0.2
    """Share of the test: of events, of users (``held_out_users``, ``cold_users``), of items (``cold_items``) or of
    sessions (``sessions``)."""
    valid: Share = 0.1
    """Share of validation, of the same unit as ``test``; 0: no validation. ``leave_one_out`` and ``leave_n_out`` hold
    out as many events for validation as for the test, whatever the share."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of random strategies and of ``cold_items``."""
    n: Annotated[int, Ge(1)] = 1
    """Events per user that ``leave_n_out`` holds out for the test, and again for validation."""
    cutoff: str | int | None = None
    """Start of the test for ``global_temporal``: an ISO date or time (UTC), or Unix seconds; replaces ``test``."""
    valid_cutoff: str | int | None = None
    """Start of validation for ``global_temporal``, likewise; replaces ``valid``."""
    end: str | int | None = None
    """End of the test for ``global_temporal``, likewise; events from then on are unused."""
    name: str | None = None
    """Name of the predefined split: ``u1``, ``ua``, ``kgat``, ..."""
    folds: Annotated[int, Ge(2)] = 5
    """Number of parts of ``k_fold`` and ``user_k_fold``."""
    fold: Annotated[int, Ge(0)] = 0
    """Part that is the test, from 0."""
    history: Annotated[float, Gt(0.0), Lt(1.0)] = 0.8
    """Share of a held-out user's events that is the history of the query."""
    use_query_time: bool = False
    """Whether queries carry the time of their first target."""
    use_query_context: bool = False
    """Whether queries carry the context of their first target."""
    drop_cold_targets: bool = False
    """Whether to drop targets whose item, and queries whose user, does not occur in training."""
    drop_seen_targets: bool = False
    """Whether to drop targets whose item is in the history of their query."""
    cold_items: Share = 0.0
    """Share of the items, drawn at random, that are held out of training: their events are left out of training and of
    all histories, and only targets remain. For the strategy ``cold_items`` use ``test`` and ``valid``."""

    @field_validator("cutoff", "valid_cutoff", "end", mode="before")
    @classmethod
    def _check_time(cls, value: Any) -> Any:
        if isinstance(value, date):
            value = value.isoformat()
        if isinstance(value, str | int):
            parse_time(value)
        return value

    @model_validator(mode="after")
    def _check_combination(self) -> SplitSettings:
        read = (*STRATEGY_SETTINGS[self.strategy], *(["seed"] if self.cold_items else []))
        if self.cold_items and self.strategy == "cold_items":
            raise ValueError(
                f"cold_items: got {self.cold_items:g} with strategy cold_items, whose share of items is test; set test"
            )
        unused = [
            f"{name}: only used by strategy "
            f"{', '.join(key for key, names in STRATEGY_SETTINGS.items() if name in names)}, got {self.strategy}"
            f"; leave {name}={getattr(self, name)!r} out or choose another strategy"
            for name, field in type(self).model_fields.items()
            if name not in (*COMMON_SETTINGS, *read) and getattr(self, name) != field.default
        ]
        if unused:
            raise ValueError("; ".join(unused))
        if "test" in read and self.test + self.valid >= 1.0 and self.cutoff is None:
            raise ValueError(
                f"test: {self.test:g} and valid {self.valid:g} leave nothing to train on, expected a sum below 1"
            )
        if self.fold >= self.folds:
            raise ValueError(f"fold: got {self.fold} of {self.folds} folds, expected 0 to {self.folds - 1}")
        return self
