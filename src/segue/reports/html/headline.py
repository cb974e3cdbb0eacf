"""State the main finding of a board in words that its intervals and tests support."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segue.core.model import is_lower_better
from segue.reports.html.board import Board
from segue.reports.quantities import format_interval, format_mean, format_p_value, format_signed, metric_label

__all__ = ["board_standfirst", "board_title"]

Record = Mapping[str, Any]


def board_title(board: Board) -> str:
    """Compare the best model with the strongest simple baseline in one sentence."""
    best, strongest = board.ranking[0], board.strongest
    if strongest is None:
        return f"{best} reaches {_name(board)} {_mean(board, best)} on {board.data}"
    if strongest == best:
        if len(board.models) == 1:
            return f"{best}, itself a simple baseline, reaches {_name(board)} {_mean(board, best)} on {board.data}"
        return f"On {board.data}, no model ranks above {best}, a simple baseline"
    test = _test_against(board, best)
    if test is None:
        return f"{best} and the simple baseline {strongest} on {board.data}: no test of their difference"
    difference = _difference(test, best)
    if not test["significant"]:
        return f"On {board.data}, {best} is not clearly different from {strongest}, a simple baseline"
    return f"On {board.data}, {best} is {'better' if difference > 0 else 'worse'} than {strongest}, a simple baseline"


def board_standfirst(board: Board) -> str:
    """Give the figures of the finding, with intervals."""
    best = board.ranking[0]
    interval = format_interval(board.models[best]["intervals"][board.metric])
    extreme = "lowest" if is_lower_better(board.metric) else "highest"
    queries = board.query_count if board.queries else f"the {board.part_name} part"
    sentences = [
        f"{best} reaches {_name(board)} {_mean(board, best)} (95 % interval {interval}) on {queries}"
        + (f", the {extreme} of {len(board.models)} models." if len(board.models) > 1 else ".")
    ]
    if len(board.models) > 1:
        sentences.append(_runner_up(board))
    sentences.append(_against_baseline(board, best))
    return " ".join(sentence for sentence in sentences if sentence)


def _runner_up(board: Board) -> str:
    """Compare the best model with the second."""
    best, second = board.ranking[:2]
    test = next((one for one in board.tests if {one["first"], one["second"]} == {best, second}), None)
    if test is None:
        return f"The second is {second} with {_mean(board, second)}."
    if test["significant"]:
        return f"It leads {second} by {format_mean(abs(test['difference']))}, which is significant {_p_value(test)}."
    return (
        f"Its lead of {format_mean(abs(test['difference']))} over {second} is not significant {_p_value(test)}, so "
        "their order may be chance."
    )


def _against_baseline(board: Board, best: str) -> str:
    """Compare the best model with the strongest simple baseline."""
    strongest = board.strongest
    if strongest is None:
        return "No simple baseline was measured."
    if strongest == best:
        others = " among those measured" if board.baselines else ""
        return f"{best} is itself the strongest simple baseline{others}."
    record: Record = board.baselines.get(strongest) or board.models[strongest]
    text = f"The strongest simple baseline, {strongest}, reaches {format_mean(record[board.metric])}"
    test = _test_against(board, best)
    if test is None:
        return text + "; its values per query are not available, so that the difference was not tested."
    gain = _difference(test, best)
    # tests count gains: the difference of an error has the other sign
    is_negated = (test["first"] == best) == is_lower_better(board.metric)
    ends = (-test["high"], -test["low"]) if is_negated else (test["low"], test["high"])
    difference = -gain if is_lower_better(board.metric) else gain
    outcome = "not significant"
    if test["significant"]:
        outcome = f"significant, in favor of {best if gain > 0 else strongest}"
    return (
        f"{text}; the difference of {format_signed(difference)} ({format_interval(ends, sign=True)}) is {outcome} "
        f"{_p_value(test)}."
    )


def _test_against(board: Board, best: str) -> Record | None:
    return next((one for one in board.baseline_tests if best in (one["first"], one["second"])), None)


def _difference(test: Record, best: str) -> float:
    """Return the difference in favor of ``best``."""
    return float(test["difference"] if test["first"] == best else -test["difference"])


def _p_value(test: Record) -> str:
    value = test["p_fdr_bh"] if test.get("correction") == "fdr_bh" else test["p_holm"]
    text = format_p_value(value)
    return f"(p {text})" if text.startswith("<") else f"(p = {text})"


def _name(board: Board) -> str:
    return metric_label(board.metric)


def _mean(board: Board, name: str) -> str:
    return format_mean(board.models[name][board.metric])
