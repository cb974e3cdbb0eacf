"""Choose a few users, and describe their histories, lists and reasons.

Shapes: N queries.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core import bundle
from segue.core.model import is_lower_better
from segue.core.types import Dataset, Events, HeldOut, Split
from segue.experiment.inference.explain import explain_item
from segue.experiment.inference.queries import build_queries
from segue.experiment.paths import bundle_folder
from segue.experiment.run_folder import LISTS
from segue.reports.html.layout import ListedItem, ListedItems, UserPanel, UsersBlock
from segue.reports.quantities import format_count, format_mean, metric_label

if TYPE_CHECKING:
    from segue.experiment.reporting.run_files import SeededRuns

__all__ = ["USERS_RULE", "choose_users", "describe_users"]

USERS_RULE = (
    "The users with the shortest, the median and the longest history, a user with the best and one with the worst "
    "value of the first model, and others drawn at random with seed 0."
)

MAX_HISTORY = 10
"""Newest events of a history that are shown."""
MAX_TARGETS = 5
"""True items that are named."""
MAX_EXPLAINED = 3
"""Recommendations that are explained."""
MAX_LISTS = 4
"""Models whose lists are shown side by side."""
MAX_LIST = 10
"""Items of a list that are shown."""

Ids = Sequence[str]


def choose_users(
    lengths_N: NDArray[np.int64], values_N: NDArray[np.float64], metric: str, count: int
) -> dict[int, str]:
    """Choose at most ``count`` queries; return the reason for each by its row.

    Args:
        lengths_N: events in the history of each query.
        values_N: the metric of each query; NaN where it is not defined.
    """
    rng = np.random.default_rng(0)
    order = np.argsort(lengths_N, kind="stable")
    defined = np.flatnonzero(~np.isnan(values_N))
    chosen: dict[int, str] = {}
    sign = 1.0 if is_lower_better(metric) else -1.0

    def add(candidates: NDArray[np.integer[Any]], reason: str) -> None:
        left = [row for row in candidates.tolist() if row not in chosen]
        if left and len(chosen) < count:
            chosen[left[0]] = reason

    add(order, "shortest history")
    add(np.roll(order, -(len(order) // 2)), "median history")
    add(order[::-1], "longest history")
    shuffled = rng.permutation(defined)
    ranked = shuffled[np.argsort(sign * values_N[shuffled], kind="stable")]
    add(ranked, f"among the best {metric_label(metric)}")
    add(ranked[::-1], f"among the worst {metric_label(metric)}")
    for row in rng.permutation(len(lengths_N))[: count + len(chosen)]:
        add(np.array([row]), "drawn at random")
    return chosen


def describe_users(
    models: Sequence[SeededRuns], parts: Split, held_out: HeldOut, metric: str, count: int
) -> UsersBlock | None:
    """Describe chosen users with the lists of the models.

    The lists of the first model have reasons.

    Returns ``None`` if no model has lists.

    Args:
        models: best first; the run of the first seed of each is shown.
    """
    shown = [model for model in models if (model.runs[0].folder / LISTS).is_file()][:MAX_LISTS]
    if not shown:
        return None
    values_N = shown[0].values[metric].to_numpy()
    chosen = choose_users(held_out.queries.history.lengths, values_N, metric, count)
    lists = {model.name: pl.read_parquet(model.runs[0].folder / LISTS)["items"] for model in shown}
    names = _Names(parts.train)
    panels = []
    rows = np.array(list(chosen), np.int64)
    part = replace(held_out, queries=held_out.queries.take(rows), targets=held_out.targets.take(rows), test_id=None)
    reasons = _explain(shown[0], part, [lists[shown[0].name][row].to_list() for row in chosen], names)
    for at, (row, why) in enumerate(chosen.items()):
        history, targets = part.queries.history.rows_between(at, at + 1), part.targets.rows_between(at, at + 1)
        target_ids = names.ids(targets)
        user = shown[0].values["user"][row]
        own = {name: column[row].to_list()[:MAX_LIST] for name, column in lists.items()}
        facts = (
            ("events before", format_count(history.size)),
            ("next item", ", ".join(names.titles(target_ids)[:MAX_TARGETS]) or "unknown"),
        )
        found = {model.name: f"{metric_label(metric)} {_value(model.values[metric][row])}" for model in shown}
        ranked = [
            ListedItems(f"{name} recommends", names.items(ids, set(target_ids)), note=found[name])
            for name, ids in own.items()
        ]
        panels.append(
            UserPanel(
                "unknown" if user is None else str(user),
                why,
                facts,
                (_history_list(history, names), *ranked),
                reasons[at],
            )
        )
    return UsersBlock(tuple(panels), shown[0].name)


class _Names:
    """Ids and titles of the items of a dataset."""

    def __init__(self, data: Dataset) -> None:
        self.data = data
        self.title_by_id: dict[str, str] = {}
        columns = [] if data.item_features is None else data.item_features.collect_schema().names()
        if data.item_features is not None and "title" in columns:
            table = data.item_features.select(pl.col("id").cast(pl.String), pl.col("title").cast(pl.String)).collect()
            self.title_by_id = {one: title for one, title in table.iter_rows() if title}

    def ids(self, events: Events) -> list[str]:
        """Return the ids of the items of events."""
        return [str(one) for one in self.data.items.decode(events.items)]

    def titles(self, ids: Ids) -> list[str]:
        """Return the titles of items, or their ids where there is no title."""
        return [self.title_by_id.get(one, one) for one in ids]

    def items(self, ids: Ids, targets: set[str]) -> tuple[ListedItem, ...]:
        """Return the items of a list; those in ``targets`` are marked."""
        return tuple(
            ListedItem(title, is_target=one in targets) for one, title in zip(ids, self.titles(ids), strict=True)
        )


def _value(value: float | None) -> str:
    return "not defined" if value is None or np.isnan(value) else format_mean(value)


def _history_list(history: Events, names: _Names) -> ListedItems:
    """Return the newest events of the only history."""
    newest = history.last(MAX_HISTORY)
    titles = names.titles(names.ids(newest))
    items = tuple(ListedItem(title, _describe_event(newest, at)) for at, title in enumerate(titles))
    start = history.size - newest.size + 1
    note = "oldest first" if start == 1 else f"the last {newest.size} of {history.size:,} events, oldest first"
    return ListedItems("History", items, start, note if items else "no events")


def _describe_event(events: Events, at: int) -> str:
    """Return the day and the value of an event, where they are known."""
    texts = []
    if events.times is not None and events.time_known[at]:
        try:
            texts.append(f"{datetime.fromtimestamp(int(events.times[at]), UTC):%Y-%m-%d}")
        except (ValueError, OverflowError, OSError):  # not Unix seconds
            texts.append(f"time {events.times[at]}")
    if events.values is not None and np.isfinite(events.values[at]):
        texts.append(f"value {events.values[at]:g}")
    return ", ".join(texts)


def _explain(
    model: SeededRuns, part: HeldOut, lists: Sequence[Ids], names: _Names
) -> list[tuple[tuple[str, tuple[str, ...]], ...]]:
    """Explain the first items of each list."""
    run = model.runs[0]
    trained = bundle.load(bundle_folder(run.folder))
    settings: Mapping[str, Any] = {"k": MAX_LIST, "exclude_seen": bool(run.plan.evaluation.exclude_seen)}
    found = []
    with warnings.catch_warnings(record=True):  # notes on inputs are those of the evaluation
        for at, ids in enumerate(lists):
            row = np.array([at])
            own = replace(part, queries=part.queries.take(row), targets=part.targets.take(row))
            batch = build_queries(trained, own)
            explained = ids[:MAX_EXPLAINED] if len(batch) else []
            one = [explain_item(trained, batch, item, **settings) for item in explained]
            titles = names.titles(explained)
            found.append(tuple((title, tuple(texts.reasons[1:])) for title, texts in zip(titles, one, strict=True)))
    return found
