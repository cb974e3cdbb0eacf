"""Format numbers for readers: metrics, intervals, p-values, seconds, bytes."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "format_amount",
    "format_bytes",
    "format_count",
    "format_duration",
    "format_interval",
    "format_mean",
    "format_p_value",
    "format_signed",
    "format_span",
    "metric_label",
]

NAMES = {
    "recall": "Recall",
    "precision": "Precision",
    "r_precision": "R-precision",
    "hit_rate": "HitRate",
    "novelty": "Novelty",
    "popularity": "Popularity",
    "popularity_lift": "Popularity lift",
    "head_share": "Head share",
    "middle_share": "Middle share",
    "tail_share": "Tail share",
    "diversity": "Diversity",
    "unexpectedness": "Unexpectedness",
    "serendipity": "Serendipity",
    "miscalibration": "Miscalibration",
    "coverage": "Coverage",
    "gini": "Gini",
    "entropy": "Entropy",
    "exposure": "Exposure",
    "gap": "Gap",
    "rmse_by_user": "RMSE by user",
    "rmse_by_item": "RMSE by item",
    "mae_by_user": "MAE by user",
    "mae_by_item": "MAE by item",
}


def metric_label(name: str) -> str:
    """Format ``ndcg@10`` as ``NDCG@10``, ``hit_rate@5`` as ``HitRate@5``."""
    metric, at, k = name.rpartition("@") if "@" in name else (name, "", "")
    sampled, metric = metric.startswith("sampled_"), metric.removeprefix("sampled_")
    key, colon, argument = metric.partition(":")
    label = NAMES.get(key, key.upper())
    if key == "gap" and colon:  # such as gap:gender:ndcg
        feature, _, argument = argument.partition(":")
        argument = f"{feature}:{metric_label(argument)}"
    return ("sampled " if sampled else "") + label + colon + argument + at + k


def format_mean(value: float) -> str:
    """Format as ``0.1655``."""
    return f"{value:.4f}"


def format_signed(value: float) -> str:
    """Format as ``+0.0120``, with a true minus sign."""
    return f"{value:+.4f}".replace("-", "−")


def format_interval(ends: Sequence[float], sign: bool = False) -> str:
    """Format as ``0.1611 to 0.1698``."""
    write = format_signed if sign else format_mean
    return f"{write(ends[0])} to {write(ends[1])}"


def format_span(ends: Sequence[float]) -> str:
    """Format as ``0.1611–0.1698``, where space is short."""
    return f"{format_mean(ends[0])}–{format_mean(ends[1])}"


def format_p_value(value: float) -> str:
    """Format as ``0.0312``, or as ``< 0.0001``."""
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def format_count(value: int) -> str:
    """Format as ``1,000,209``."""
    return f"{value:,}"


def format_amount(count: float, noun: str, plural: str | None = None) -> str:
    """Format as ``1 user``, ``2,000 users`` or ``2.5 events``."""
    number = format_count(count) if isinstance(count, int) else f"{count:,.4g}"
    return f"{number} {noun if count == 1 else plural or f'{noun}s'}"


def format_duration(seconds: float) -> str:
    """Format seconds as ``4.1 s``, ``12.5 min`` or ``1.25 h``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.2f} h"


def format_bytes(size: int) -> str:
    """Format bytes as ``512 MiB`` or ``1.25 GiB``."""
    return f"{size / 2**20:,.0f} MiB" if size < 2**30 else f"{size / 2**30:.2f} GiB"
