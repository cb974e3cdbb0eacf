"""The events of a dataset as pairs of ids."""

from __future__ import annotations

from segue.core.types import Dataset

__all__ = ["pairs"]


def pairs(data: Dataset) -> list[tuple[str, str]]:
    """Return the external ids of all events, sorted by user."""
    events = data.histories
    return list(zip(data.users.decode(events.rows), data.items.decode(events.items), strict=True))
