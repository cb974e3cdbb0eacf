"""How numbers are written for people: metrics, intervals, p-values, seconds, bytes."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["called", "count", "duration", "interval", "mean", "p_value", "signed", "size", "span"]

NAMES = {"recall": "Recall", "precision": "Precision", "hit_rate": "HitRate"}


def called(name: str) -> str:
    """``ndcg@10`` as ``NDCG@10``, ``hit_rate@5`` as ``HitRate@5``."""
    metric, at, k = name.partition("@")
    sampled, metric = metric.startswith("sampled_"), metric.removeprefix("sampled_")
    return ("sampled " if sampled else "") + NAMES.get(metric, metric.upper()) + at + k


def mean(value: float) -> str:
    """``0.1655``"""
    return f"{value:.4f}"


def signed(value: float) -> str:
    """``+0.0120``, with a true minus sign."""
    return f"{value:+.4f}".replace("-", "−")


def interval(ends: Sequence[float], sign: bool = False) -> str:
    """``0.1611 to 0.1698``"""
    write = signed if sign else mean
    return f"{write(ends[0])} to {write(ends[1])}"


def span(ends: Sequence[float]) -> str:
    """``0.1611–0.1698``: an interval where there is little room."""
    return f"{mean(ends[0])}–{mean(ends[1])}"


def p_value(value: float) -> str:
    """``0.0312``; what is smaller than 0.0001 only as such."""
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def count(value: int) -> str:
    """``1,000,209``"""
    return f"{value:,}"


def duration(seconds: float) -> str:
    """Seconds as ``4.1 s``, ``12.5 min`` or ``1.25 h``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.2f} h"


def size(count: int) -> str:
    """Bytes as ``512 MiB`` or ``1.25 GiB``."""
    return f"{count / 2**20:,.0f} MiB" if count < 2**30 else f"{count / 2**30:.2f} GiB"
