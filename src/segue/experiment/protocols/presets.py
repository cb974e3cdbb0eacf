"""Evaluation protocols by name: settings of the split and of the evaluation.

A protocol fixes which events are targets, which items are ranked, and whether those of the history are among them. Two
models may change places from one protocol to another, so figures are comparable only within one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from segue.core.config import Settings, suggest
from segue.data.split_settings import SplitSettings
from segue.experiment.settings import EvaluationSettings

__all__ = ["PROTOCOLS", "Origin", "Protocol", "check_protocol", "contradictions", "find_protocol"]

WINDOW = 50
"""Newest events whose items are removed from the ranking of the protocol ``window``, unless a number is given."""

OTHER_SPLIT: Mapping[str, Any] = {
    "use_query_time": False,
    "use_query_context": False,
    "drop_cold_targets": False,
    "drop_seen_targets": False,
    "cold_items": 0.0,
}
"""Settings of the split beside its strategy: every protocol requires the defaults."""


@dataclass(frozen=True)
class Protocol:
    """An evaluation protocol."""

    name: str
    summary: str
    """What is predicted, and among which items."""
    strategy: str
    """Strategy of the split."""
    exclude_seen: bool | int = True
    items: str = "all"
    sampled: int | None = None
    """Number of sampled items that each target is ranked among, too."""
    metrics: tuple[str, ...] | None = None
    """Metrics that are computed unless others are named; ``None``: as without a protocol. Likewise ``ks``."""
    ks: tuple[int, ...] | None = None
    headline: str | None = None
    """Metric that orders models unless another is named; ``None``: as without a protocol."""

    @property
    def split(self) -> dict[str, Any]:
        """Settings of the split that the protocol requires."""
        return {"strategy": self.strategy, **OTHER_SPLIT}

    @property
    def ranking(self) -> dict[str, Any]:
        """Settings of the evaluation that the protocol requires."""
        return {"exclude_seen": self.exclude_seen, "items": self.items, "sampled": self.sampled}

    @property
    def values(self) -> dict[str, dict[str, Any]]:
        """Every setting that the protocol sets, by group.

        Other ``metrics`` and ``ks`` may be named.
        """
        named = {"metrics": self.metrics, "ks": self.ks}
        measured = {key: value for key, value in named.items() if value is not None}
        return {"split": self.split, "evaluation": {**self.ranking, **measured}}

    def allows(self, key: str, value: Any) -> bool:
        """Return whether a setting may differ from :attr:`ranking`.

        The window may have any length.
        """
        return self.name == "window" and key == "exclude_seen" and value is not True and value is not False


PROTOCOLS: Mapping[str, Protocol] = {
    one.name: one
    for one in (
        Protocol("full", "the last item of each user, among all items but those of the history", "leave_one_out"),
        Protocol(
            "window",
            f"the same, where only the items of the newest events ({WINDOW} by default) are left out",
            "leave_one_out",
            exclude_seen=WINDOW,
        ),
        Protocol("repeats", "the last item of each user, among all items", "leave_one_out", exclude_seen=False),
        Protocol(
            "ncf",
            "the last item of each user, among 99 sampled items that are not in the history",
            "leave_one_out",
            sampled=99,
            metrics=("hit_rate", "ndcg"),
            ks=(10,),
            headline="sampled_ndcg@10",
        ),
        Protocol(
            "session",
            "each next item of the sessions that end last, among all items with training events",
            "sessions",
            exclude_seen=False,
            items="warm",
            metrics=("hit_rate", "mrr"),
            ks=(20,),
            headline="mrr@20",
        ),
    )
}
"""The protocols by name."""

Origin = Callable[[str, str], str]
"""Says where the value of a setting comes from, by its group and key."""


def find_protocol(name: str) -> Protocol:
    """Return the protocol of a name.

    Raises:
        ValueError: there is none.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"protocol: unknown '{name}'{suggest(name, PROTOCOLS)}")
    return PROTOCOLS[name]


def contradictions(name: str, group: str, values: Mapping[str, Any], origin: Origin) -> list[str]:
    """Name the settings of one group that contradict a protocol, one line each.

    Args:
        group: ``split`` or ``evaluation``.
        values: parsed settings of the group; those that are absent do not contradict.
    """
    protocol = find_protocol(name)
    required = protocol.split if group == "split" else protocol.ranking
    return [
        f"protocol '{name}' requires {group}.{key}={_text(expected)}, got {group}.{key}={_text(values[key])}"
        f"{origin(group, key)}; leave one of them out (evaluation.protocol=none: no protocol)"
        for key, expected in required.items()
        if key in values and not _is_same(values[key], expected) and not protocol.allows(key, values[key])
    ]


def check_protocol(evaluation: EvaluationSettings, split: SplitSettings, origin: Origin | None = None) -> list[str]:
    """Name the settings that contradict the protocol of ``evaluation``, if it has one."""
    if evaluation.protocol is None:
        return []
    groups: dict[str, Settings] = {"split": split, "evaluation": evaluation}
    return [
        line
        for group, values in groups.items()
        for line in contradictions(evaluation.protocol, group, values.model_dump(), origin or (lambda *_: ""))
    ]


def _is_same(value: Any, expected: Any) -> bool:
    """Compare two values, where 1 is not true."""
    return type(value) is type(expected) and bool(value == expected)


def _text(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
