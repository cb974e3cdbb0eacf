"""Groups of questions on their way: what is told of them, and what becomes of a group that fails."""

from __future__ import annotations

import time
from collections.abc import Callable

from segue.serving.monitoring.drift import Drift
from segue.serving.monitoring.metric_definitions import RULES
from segue.serving.monitoring.metrics import Metrics
from segue.serving.ranking.scorer import Group
from segue.serving.rules.rerank import Picked
from segue.serving.stores.store import StoreError

__all__ = ["apart", "note"]


def note(group: Group, metrics: Metrics, drift: Drift | None) -> None:
    """Tell metrics what was asked, and how far it is from training where that is watched."""
    queries, questions = group.asked.queries, group.questions
    users = {"none": 0, "known": 0, "unknown": 0}
    for question, unknown in zip(questions, group.asked.unknown, strict=True):
        users["none" if question.user is None else "unknown" if unknown.user else "known"] += 1
    strange = sum(len(unknown.items) for unknown in group.asked.unknown)
    rules = [name for question in questions for name in RULES if getattr(question, name)]
    metrics.asked(queries.history.lengths, [question.k for question in questions], users, strange, rules)
    if drift is not None:
        drift.asked(queries.history)


def apart(compute: Callable[[Group], list[Picked]], group: Group, error: Exception) -> list[Picked | Exception]:
    """The list of each question, or why there is none: what failed with ``error`` for all together, for each half by
    itself while there is time, so that what is wrong with one question is not everybody's."""
    count = len(group.timed)
    late = time.monotonic() > min(timed.until for timed in group.timed)
    if count == 1 or late or isinstance(error, StoreError):
        return [error] * count
    found: list[Picked | Exception] = []
    for rows in (range(count // 2), range(count // 2, count)):
        half = group.take(rows)
        if time.monotonic() > min(timed.until for timed in group.timed):
            found += [error] * len(rows)
            continue
        try:
            found += compute(half)
        except Exception as failed:
            found += apart(compute, half, failed)
    return found
