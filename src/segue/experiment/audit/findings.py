"""What an audit finds: graded findings and their report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import numpy as np
import polars as pl

from segue.core.types import Dataset

__all__ = ["AuditReport", "Finding", "Grade", "describe_event"]

Grade: TypeAlias = Literal["error", "warning", "note"]

GRADES: tuple[Grade, ...] = ("error", "warning", "note")
"""From the worst: figures are wrong or not comparable; they may be biased; worth knowing before they are read."""


@dataclass(frozen=True)
class Finding:
    """One fault, with its numbers, its first example and what to do."""

    check: str
    """Name of the check, such as ``tied_targets``."""
    grade: Grade
    text: str
    """What was found, with numbers."""
    action: str
    """What to do."""
    count: int
    """Number of events, users or runs with the fault."""
    example: Mapping[str, Any] = field(default_factory=dict)
    """The first of them: ``user``, ``item``, ``time``, ``run``, as the data names them."""

    def __str__(self) -> str:
        example = ", ".join(f"{name} {value}" for name, value in self.example.items())
        return f"{self.grade}: {self.check}: {self.text}{f' (first: {example})' if example else ''}; {self.action}"


@dataclass(frozen=True, repr=False)
class AuditReport:
    """The findings of an audit, the worst first."""

    target: str
    """What was audited."""
    findings: tuple[Finding, ...]
    checks: tuple[str, ...]
    """Names of the checks that were made."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Counts of users, items, events and queries, the strategy of the split, and the readings of the test part."""

    @classmethod
    def of(
        cls, target: str, findings: Sequence[Finding], checks: Sequence[str], facts: Mapping[str, Any] | None = None
    ) -> AuditReport:
        """Return a report with the worst findings first and every check once."""
        distinct = [one for number, one in enumerate(findings) if one not in findings[:number]]
        ordered = sorted(distinct, key=lambda one: GRADES.index(one.grade))
        return cls(target, tuple(ordered), tuple(dict.fromkeys(checks)), dict(facts or {}))

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def exit_status(self) -> int:
        """1 if there is an error, else 0."""
        return int(any(one.grade == "error" for one in self.findings))

    @property
    def table(self) -> pl.DataFrame:
        """One row per finding: ``grade``, ``check``, ``count``, ``text`` and ``action``."""
        rows = [(one.grade, one.check, one.count, one.text, one.action) for one in self.findings]
        texts = dict.fromkeys(("text", "action"), pl.String)
        schema = {"grade": pl.String, "check": pl.String, "count": pl.Int64, **texts}
        return pl.DataFrame(rows, schema=schema, orient="row")

    def record(self) -> dict[str, Any]:
        """Return the report as JSON holds it."""
        return {
            "target": self.target,
            "clean": self.is_clean,
            "exit_status": self.exit_status,
            "findings": [{**vars(one), "example": dict(one.example)} for one in self.findings],
            "checks": list(self.checks),
            "facts": dict(self.facts),
        }

    def __repr__(self) -> str:
        facts = ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in self.facts.items())
        if self.is_clean:
            return f"{self.target}: nothing found in {len(self.checks)} checks ({facts})"
        counts = [(grade, sum(one.grade == grade for one in self.findings)) for grade in GRADES]
        named = ", ".join(f"{count} {grade}{'s' * (count > 1)}" for grade, count in counts if count)
        return "\n".join([f"{self.target}: {named} in {len(self.checks)} checks ({facts})", *map(str, self.findings)])


def describe_event(
    data: Dataset, user: int | None = None, item: int | None = None, time: int | None = None
) -> dict[str, str]:
    """Return the ids of a user and an item, and a time, as the data names them.

    ``None`` and codes outside the data are left out.
    """
    found = {}
    for name, vocab, code in (("user", data.users, user), ("item", data.items, item)):
        if code is not None and 0 <= code < len(vocab):
            found[name] = vocab.decode(np.array([code]))[0]
    if time is not None:
        try:
            found["time"] = datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        except (ValueError, OverflowError, OSError):  # not Unix seconds
            found["time"] = str(time)
    return found
