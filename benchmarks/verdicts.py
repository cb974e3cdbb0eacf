"""Compare a figure with the figure of another model, by the same rule on every page.

A figure is better or worse only if its 95 % interval excludes the other one, both models read the same inputs, and both
were measured on the same test part. A published figure has no values per query, so no paired test is possible.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Verdict", "compare_figures", "emphasize", "verdict_lines"]


class Verdict(StrEnum):
    """Outcome of a comparison."""

    BETTER = "better"
    ON_PAR = "on par"
    WORSE = "worse"
    OTHER_INPUTS = "other inputs"
    OTHER_TEST = "other test part"


def compare_figures(
    interval: tuple[float, float],
    other: float,
    *,
    has_equal_inputs: bool = True,
    has_equal_test: bool = True,
    is_error: bool = False,
) -> Verdict:
    """Compare the 95 % interval of a figure with the figure of another model.

    Args:
        interval: lower and upper bound.
        other: the other figure.
        has_equal_inputs: whether both models read the same inputs; if not, neither is better.
        has_equal_test: whether both were measured on the same test part; if not, neither is better, such as on two
            random splits of the same data.
        is_error: whether a lower figure is better.

    Raises:
        ValueError: the bounds are not in order.
    """
    low, high = interval
    if not low <= high:
        raise ValueError(f"interval: got {low} to {high}, expected the lower bound first")
    if not has_equal_inputs:
        return Verdict.OTHER_INPUTS
    if low <= other <= high:
        return Verdict.ON_PAR
    if not has_equal_test:
        return Verdict.OTHER_TEST
    return Verdict.BETTER if (other < low) != is_error else Verdict.WORSE


def emphasize(text: str, verdict: Verdict) -> str:
    """Set a better figure in bold."""
    return f"**{text}**" if verdict is Verdict.BETTER else text


def verdict_lines() -> list[str]:
    """Explain the verdicts, as lines of a page."""
    return [
        "A figure is better or worse than a published one, and bold if better, only if its 95 % interval excludes the",
        "published figure, both models read the same inputs, and the test part is the same; otherwise it is on par or",
        "not compared. Published figures have no values per query, so there is no paired test.",
    ]
