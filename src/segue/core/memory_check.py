"""Whether a large table fits into the machine's memory, asked before it is made."""

from __future__ import annotations

__all__ = ["ITEMS_OR_NEIGHBOURS", "need"]

ITEMS_OR_NEIGHBOURS = "keep fewer items (min_item_events) or train item_knn, whose memory grows with the items"

CERTAIN_BYTES = 2**28
"""So much is there without asking, which takes some milliseconds."""


def need(what: str, numbers: int, instead: str) -> None:
    """Nothing, if ``numbers`` of four bytes fit into nine tenths of the memory that is free.

    Args:
        what: is made of them, with its model's name.
        instead: what one may do.

    Raises:
        ValueError: they do not fit.
    """
    needed = 4 * numbers
    if needed < CERTAIN_BYTES:
        return
    import psutil

    free = psutil.virtual_memory().available
    if needed > 0.9 * free:
        raise ValueError(f"{what} needs {needed / 2**30:,.1f} GiB, {free / 2**30:,.1f} GiB are free; {instead}")
