"""Results of models on the same queries under the same protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from segue.core.model import is_lower_better
from segue.evaluation.evaluation_result import ranked_queries
from segue.reports.html.layout import UsersBlock
from segue.reports.quantities import format_amount

__all__ = ["Board", "GroupResult", "ModelDocuments", "Record"]

Record = Mapping[str, Any]
"""Means by metric, ``intervals``, ``cost``, ...; see :mod:`segue.reports.tables`."""


@dataclass(frozen=True)
class GroupResult:
    """One metric of one model on a group of queries."""

    group: str
    definition: str
    model: str
    mean: float
    low: float
    high: float
    queries: int


@dataclass(frozen=True)
class ModelDocuments:
    """Texts of a run: its model card and its settings."""

    card: str
    settings: str


@dataclass(frozen=True)
class Board:
    """Everything that a report says about runs of one protocol."""

    data: str
    """Name of the data."""
    source: str
    """Name, file, folder or address that the data was loaded from."""
    part: str
    """``valid`` or ``test``."""
    metric: str
    """The metric that orders the models."""
    models: Mapping[str, Record]
    """The record of each model by its name on the page."""
    baselines: Mapping[str, Record]
    """The same of the simple baselines that are no model of the page: means, ``intervals`` and ``seconds``."""
    strongest: str | None
    """Name of the strongest simple baseline, among ``baselines`` or ``models``."""
    simple_models: frozenset[str] = frozenset()
    """Models that are simple baselines themselves."""
    tests: Sequence[Record] = ()
    """Paired tests of every pair of models."""
    baseline_tests: Sequence[Record] = ()
    """Paired tests of every model against the strongest simple baseline."""
    groups: Mapping[str, Sequence[GroupResult]] = field(default_factory=dict)
    """``metric`` by kind of group, such as ``popularity``."""
    histories: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)
    """The lines of ``history.jsonl`` by model."""
    overlaps: Record | None = None
    documents: Mapping[str, ModelDocuments] = field(default_factory=dict)
    users: UsersBlock | None = None
    users_rule: str = ""
    """How the users were chosen."""
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()
    """What is missing on the page, and why."""

    @property
    def ranking(self) -> list[str]:
        """Names of the models, best first."""
        sign = 1.0 if is_lower_better(self.metric) else -1.0
        return sorted(self.models, key=lambda name: sign * float(self.models[name][self.metric]))

    def is_simple(self, name: str) -> bool:
        """Return whether a model or baseline of the page is a simple baseline."""
        return name in self.baselines or name in self.simple_models

    @property
    def title(self) -> str:
        """Data, split and part."""
        split = next(iter(self.models.values())).get("split") or {}
        strategy = str(split.get("strategy", "")).replace("_", " ")
        return ", ".join(text for text in (self.data, strategy, f"{self.part_name} part") if text)

    @property
    def part_name(self) -> str:
        """The part in words."""
        return "validation" if self.part == "valid" else "test"

    @property
    def queries(self) -> int:
        """Number of queries that metrics are computed from."""
        protocol = next(iter(self.models.values())).get("protocol") or {}
        return ranked_queries(protocol) if "queries" in protocol else 0

    @property
    def query_count(self) -> str:
        """The number of queries in words, such as ``943 test queries``."""
        return format_amount(self.queries, f"{self.part_name} query", f"{self.part_name} queries")

    def result(self) -> dict[str, Any]:
        """Return the models as a result of :mod:`segue.reports.tables`."""
        models = {name: {**record, "model": name} for name, record in self.models.items()}
        return {
            "data": self.data,
            "metric": self.metric,
            "models": models,
            "tests": list(self.tests),
            "overlaps": self.overlaps,
        }
