"""Resolve the arguments of an evaluation in Python, which may name a protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from segue.core.config import parse
from segue.core.types import Split
from segue.data.split_settings import SplitSettings
from segue.evaluation.metrics import MetricLike, check_ks
from segue.evaluation.ranking import ExcludeSeen
from segue.evaluation.warmth import ItemSelection
from segue.experiment.protocols.presets import contradictions, find_protocol

__all__ = ["RankingArguments", "add_protocol_split", "check_split", "resolve_arguments"]


@dataclass(frozen=True)
class RankingArguments:
    """What is measured, and among which items."""

    protocol: str | None
    """Name of the protocol; ``None``: none was named."""
    exclude_seen: ExcludeSeen
    items: ItemSelection
    sampled: int | None
    metrics: Sequence[MetricLike] | MetricLike | None
    """``None``: the default metrics."""
    ks: tuple[int, ...]
    headline: str | None = None
    """Metric that orders models if none is named; ``None``: the protocol does not say."""


def resolve_arguments(
    protocol: str | None,
    exclude_seen: ExcludeSeen | None,
    items: ItemSelection | None,
    metrics: Sequence[MetricLike] | MetricLike | None,
    ks: Sequence[int] | None,
    default_ks: tuple[int, ...],
) -> RankingArguments:
    """Fill in the arguments that are not given, as the protocol says.

    Raises:
        ValueError: an unknown protocol, or an argument that contradicts it.
    """
    if isinstance(exclude_seen, np.bool_):
        exclude_seen = bool(exclude_seen)
    checked = None if ks is None else check_ks(ks)
    found = RankingArguments(
        None, True if exclude_seen is None else exclude_seen, items or "all", None, metrics, checked or default_ks
    )
    if protocol is None:
        return found
    preset = find_protocol(protocol)
    given = {"exclude_seen": exclude_seen, "items": items}
    _reject(protocol, "evaluation", {key: value for key, value in given.items() if value is not None})
    ranked: Any = {**preset.ranking, **({} if exclude_seen is None else {"exclude_seen": exclude_seen})}
    if metrics is None and preset.metrics is not None:
        ranked |= {"metrics": preset.metrics, "ks": checked or preset.ks, "headline": preset.headline}
    return replace(found, protocol=protocol, **ranked)


def add_protocol_split(
    protocol: str | None, data: Any, settings: Mapping[str, Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """Add the split of a protocol to the settings of data that is split later.

    Args:
        settings: given settings by group.

    Raises:
        ValueError: a given setting, or the split ``data``, contradicts the protocol.
    """
    if protocol is None:
        return dict(settings)
    if isinstance(data, Split):
        check_split(protocol, data)
        return dict(settings)
    given = dict(settings["split"])
    merged = {**find_protocol(protocol).split, **given}
    parsed = parse(SplitSettings, merged, "split").model_dump()
    _reject(protocol, "split", {key: parsed[key] for key in given})
    return {**settings, "split": merged}


def check_split(protocol: str | None, data: Any) -> None:
    """Check that a split was made as a protocol says, where its settings are known.

    Raises:
        ValueError: it was made in another way.
    """
    if protocol is not None and isinstance(data, Split) and "settings" in data.metadata:
        _reject(protocol, "split", data.metadata["settings"])


def _reject(protocol: str, group: str, values: Mapping[str, Any]) -> None:
    if errors := contradictions(protocol, group, values, lambda *_: ""):
        raise ValueError("\n".join(errors))
