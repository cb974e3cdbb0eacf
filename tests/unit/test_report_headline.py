"""The headline of a report follows the paired tests, and claims no more than they show."""

from __future__ import annotations

from typing import Any

import pytest

from segue.reports.html.board import Board
from segue.reports.html.headline import board_standfirst, board_title


def record(mean: float, metric: str) -> dict[str, Any]:
    return {metric: mean, "intervals": {metric: [mean - 0.01, mean + 0.01]}, "protocol": {"queries": 100}}


def paired(first: str, second: str, gain: float, is_significant: bool) -> dict[str, Any]:
    ends = {"low": gain - 0.005, "high": gain + 0.005}
    return {"first": first, "second": second, "difference": gain, **ends, "p_holm": 0.01, "significant": is_significant}


def board(metric: str, means: dict[str, float], **more: Any) -> Board:
    baselines = {name: record(mean, metric) for name, mean in more.pop("baselines", {}).items()}
    models = {name: record(mean, metric) for name, mean in means.items()}
    return Board("log", "log", "valid", metric, models, baselines, **{"strongest": None, **more})


@pytest.mark.parametrize(
    ("gain", "is_significant", "title"),
    [
        (0.02, True, "On log, sasrec is better than ease, a simple baseline"),
        (-0.02, True, "On log, sasrec is worse than ease, a simple baseline"),
        (0.02, False, "On log, sasrec is not clearly different from ease, a simple baseline"),
    ],
)
def test_the_title_follows_the_test(gain: float, is_significant: bool, title: str) -> None:
    for test in (paired("sasrec", "ease", gain, is_significant), paired("ease", "sasrec", -gain, is_significant)):
        found = board(
            "ndcg@10", {"sasrec": 0.1}, baselines={"ease": 0.1 - gain}, strongest="ease", baseline_tests=[test]
        )
        assert board_title(found) == title
        text = board_standfirst(found)
        assert f"the difference of {gain:+.4f}".replace("-", "−") in text
        assert f"({gain - 0.005:+.4f} to {gain + 0.005:+.4f})".replace("-", "−") in text
        assert ("not significant" in text) == (not is_significant)
        assert ("in favor of" in text) == is_significant


def test_the_difference_of_an_error_has_its_own_sign() -> None:
    test = paired("als", "means", 0.07, True)  # a gain: the error is lower
    found = board("rmse", {"als": 0.93}, baselines={"means": 1.0}, strongest="means", baseline_tests=[test])
    assert board_title(found) == "On log, als is better than means, a simple baseline"
    assert "the difference of −0.0700 (−0.0750 to −0.0650) is significant, in favor of als" in board_standfirst(found)


def test_the_order_of_close_models_is_called_chance() -> None:
    models = {"a": 0.1, "b": 0.11}
    close = board("ndcg@10", models, tests=[paired("a", "b", -0.01, False)])
    assert "b reaches NDCG@10 0.1100 (95 % interval 0.1000 to 0.1200) on 100 validation queries, the highest of 2" in (
        board_standfirst(close)
    )
    assert "Its lead of 0.0100 over a is not significant (p = 0.0100), so their order may be chance." in (
        board_standfirst(close)
    )
    clear = board("ndcg@10", models, tests=[paired("a", "b", -0.01, True)])
    assert "It leads a by 0.0100, which is significant" in board_standfirst(clear)
    assert "the lowest of 2 models" in board_standfirst(board("rmse", models))


def test_without_a_test_nothing_is_claimed() -> None:
    assert board_title(board("ndcg@10", {"a": 0.1})) == "a reaches NDCG@10 0.1000 on log"
    assert "No simple baseline was measured." in board_standfirst(board("ndcg@10", {"a": 0.1}))
    untested = board("ndcg@10", {"a": 0.1}, baselines={"ease": 0.2}, strongest="ease")
    assert board_title(untested) == "a and the simple baseline ease on log: no test of their difference"
    assert "so that the difference was not tested" in board_standfirst(untested)
    simple = board("ndcg@10", {"ease": 0.2, "a": 0.1}, strongest="ease")
    assert board_title(simple) == "On log, no model ranks above ease, a simple baseline"
    alone = board("ndcg@10", {"ease": 0.2}, strongest="ease")
    assert board_title(alone) == "ease, itself a simple baseline, reaches NDCG@10 0.2000 on log"
