"""Check whether a large array fits into memory before it is allocated."""

from __future__ import annotations

__all__ = ["REDUCE_ITEMS", "check_memory"]

REDUCE_ITEMS = "keep fewer items (min_item_events) or use item_knn, whose memory grows linearly with the items"

UNCHECKED_BYTES = 2**28
"""Smaller arrays are not checked, because the check takes milliseconds."""


def check_memory(what: str, numbers: int, instead: str) -> None:
    """Check that an array fits into the available memory.

    It must fit into 90 % of the available memory.

    Args:
        what: what needs the memory, for the error message.
        numbers: number of values, each of four bytes.
        instead: what the user can do about it, for the error message.

    Raises:
        ValueError: the values do not fit.
    """
    needed = 4 * numbers
    if needed < UNCHECKED_BYTES:
        return
    import psutil

    free = psutil.virtual_memory().available
    if needed > 0.9 * free:
        raise ValueError(f"{what} needs {needed / 2**30:,.1f} GiB, {free / 2**30:,.1f} GiB are available; {instead}")
