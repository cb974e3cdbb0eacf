"""Check splits for leaks, shared targets, empty parts, tied and excluded targets.

Shapes: N queries, T targets.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.types import Events, HeldOut, Mask, Split
from segue.evaluation.leakage import Leak, LeakKind, find_leaks
from segue.evaluation.ranking import ExcludeSeen, deduplicate, removed_events
from segue.experiment.audit.findings import Finding, describe_event
from segue.experiment.quality import check_parts

__all__ = ["SPLIT_CHECKS", "check_split", "tied_targets"]

SPLIT_CHECKS = (
    "invalid_codes",
    "targets_in_training",
    "incomplete_histories",
    "future_events",
    "tuning_on_test",
    "tied_targets",
    "empty_parts",
    "excluded_targets",
)

LARGE_SHARE = 0.1
"""Share of tied targets from which they are a warning."""

ADVICE: dict[LeakKind, tuple[str, str]] = {
    "invalid_codes": (
        "so the queries do not belong to this training data",
        "build the parts from one dataset with segue.split",
    ),
    "targets_in_training": (
        "so the model has seen the answers and every metric is too high",
        "remove the targets from the training part and from the histories",
    ),
    "incomplete_histories": (
        "so models are evaluated with less input than they would have",
        "give each query every earlier event of its user",
    ),
    "future_events": (
        "so the model knows what happened after the moment of the recommendation",
        "cut histories, and training of a global temporal split, at the time of the target",
    ),
}
"""The effect of each leak, and what to do."""


def check_split(parts: Split, exclude_seen: ExcludeSeen = True) -> list[Finding]:
    """Return what is wrong with a split.

    Args:
        exclude_seen: whether the evaluation removes items of the history from the ranking.
    """
    found = [_leak_finding(parts, leak) for leak in find_leaks(parts)]
    found += _shared_targets(parts)
    found += _empty_parts(parts)
    found += _excluded_targets(parts, exclude_seen)
    if parts.metadata.get("is_ordered", True):
        tied = (_tied_targets(parts, "valid"), _tied_targets(parts, "test"))
        found += [one for one in tied if one is not None]
    return found


def _leak_finding(parts: Split, leak: Leak) -> Finding:
    effect, action = ADVICE[leak.kind]
    part = "validation" if leak.part == "valid" else leak.part
    text = f"{part}: {leak.text.partition(', first ')[0]}, {effect}"
    return Finding(leak.kind, "error", text, action, leak.count, describe_event(parts.train, leak.user, leak.item))


def _targets(held_out: HeldOut) -> pl.DataFrame:
    """Return a table of the targets of known users.

    It has ``user``, ``item`` and, where known, ``times`` and ``actions``.
    """
    targets = held_out.targets
    columns = {"user": held_out.queries.users[targets.rows], "item": targets.items}
    columns |= {name: getattr(targets, name) for name in ("times", "actions") if getattr(targets, name) is not None}
    return pl.DataFrame(columns).filter(pl.Series(held_out.queries.known[targets.rows]))


def _shared_targets(parts: Split) -> list[Finding]:
    """Find validation targets that are test targets of the same user.

    Without times a user may have chosen the same item twice, so that only equal parts count.
    """
    valid, test = _targets(parts.valid), _targets(parts.test)
    names = [name for name in valid.columns if name in test.columns]
    shared = valid.select(names).join(test.select(names).unique(), on=names, how="semi")
    needed = max(len(valid), len(test)) if "times" not in names else 0.5 * len(valid)
    if not len(shared) or len(shared) < needed:  # a few are duplicate events
        return []
    first = shared.row(0, named=True)
    return [
        Finding(
            "tuning_on_test",
            "error",
            f"{len(shared):,} of {len(valid):,} validation targets are test targets too, so the best epoch and the "
            "settings are chosen by the test",
            "hold out a validation part of its own, for example with segue.split(data, valid=0.1)",
            len(shared),
            describe_event(parts.train, first["user"], first["item"], first.get("times")),
        )
    ]


def _empty_parts(parts: Split) -> list[Finding]:
    """Find parts that should have queries and have none.

    These are parts that the settings of the split request, and the test part of a given split.
    """
    try:
        check_parts(parts)
        lines = []
    except ValueError as error:
        lines = str(error).splitlines()
    is_given = "settings" not in parts.metadata
    if is_given and not parts.test.targets.size:
        lines = ["split: the test part has no query; hold events out for it, as segue.split does"]
    found = []
    for line in lines:
        text, _, action = line.removeprefix("split: ").partition("; ")
        found.append(Finding("empty_parts", "error", f"{text}, so nothing can be measured on it", action, 1))
    return found


def _excluded_targets(parts: Split, exclude_seen: ExcludeSeen) -> list[Finding]:
    """Find targets that the ranking leaves out, as they are in the history."""
    found = []
    for name, held_out in (("validation", parts.valid), ("test", parts.test)):
        targets = deduplicate(held_out.targets)
        if not exclude_seen or not targets.size or parts.metadata.get("strategy") == "sessions":
            continue
        removed = removed_events(held_out.queries.history, exclude_seen)
        is_excluded = np.isin(targets.rows * parts.train.n_items + targets.items, _keys(removed, parts.train.n_items))
        count, share = int(is_excluded.sum()), float(is_excluded.mean())
        if share < LARGE_SHARE:
            continue
        first = int(np.argmax(is_excluded))
        user = int(held_out.queries.users[targets.rows[first]])
        found.append(
            Finding(
                "excluded_targets",
                "warning",
                f"{count:,} of {targets.size:,} {name} targets ({share:.1%}) are items of the history of their query, "
                "which the ranking leaves out by default, so they cannot be found",
                "if users return to items, rank them too: evaluation.exclude_seen=false; if not, leave out such "
                "targets: split.drop_seen_targets=true",
                count,
                describe_event(parts.train, user, int(targets.items[first])),
            )
        )
    return found


def _keys(events: Events, n_items: int) -> NDArray[np.int64]:
    """Return one number per row and item."""
    return np.unique(events.rows * n_items + events.items)


def tied_targets(held_out: HeldOut) -> Mask:
    """Return which targets have the same time as an event of their history, ``(T,)``."""
    history, targets = held_out.queries.history, held_out.targets
    if history.times is None or targets.times is None or not history.size:
        return np.zeros(targets.size, np.bool_)
    moments, codes = np.unique(np.concatenate([history.times, targets.times]), return_inverse=True)
    of_history = (history.rows * len(moments) + codes[: history.size])[history.time_known]
    of_targets = targets.rows * len(moments) + codes[history.size :]
    return np.isin(of_targets, of_history) & targets.time_known


def _tied_targets(parts: Split, part: Literal["valid", "test"]) -> Finding | None:
    held_out = parts.valid if part == "valid" else parts.test
    is_tied = tied_targets(held_out)
    count, targets = int(is_tied.sum()), held_out.targets
    if not count:
        return None
    share, first = count / targets.size, int(np.argmax(is_tied))
    assert targets.times is not None
    user = int(held_out.queries.users[targets.rows[first]])
    name = "validation" if part == "valid" else part
    return Finding(
        "tied_targets",
        "warning" if share >= LARGE_SHARE else "note",
        f"{count:,} of {targets.size:,} {name} targets ({share:.1%}) have the same time as an event in the history of "
        "their query, so that the order of the file decides which of them is the target",
        "load the log with finer times, or report that ties keep the order of the file: a sorted copy of the file is "
        "another board",
        count,
        describe_event(parts.train, user, int(targets.items[first]), int(targets.times[first])),
    )
