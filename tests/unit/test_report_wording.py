"""Reports count in words: one user, two users."""

from pathlib import Path

import polars as pl
import pytest

import segue
from segue.reports.html.board import Board
from segue.reports.html.headline import board_standfirst
from segue.reports.quantities import format_amount
from segue.reports.tables import metrics_table


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 users"),
        (1, "1 user"),
        (2_000, "2,000 users"),
        (1.0, "1 user"),
        (2.5, "2.5 users"),
        (1234.0, "1,234 users"),
    ],
)
def test_amounts(count: float, text: str) -> None:
    assert format_amount(count, "user") == text


def test_a_log_of_one_user_and_one_event(tmp_path: Path) -> None:
    log = segue.load(pl.DataFrame({"user_id": ["a"], "item_id": ["x"], "timestamp": [1_600_000_000]}))
    page = segue.report(log, out=tmp_path / "page.html", strategy="none").path.read_text()
    assert "has 1 event of 1 user and 1 item" in page
    assert "Half of the users have at most 1 event;" in page
    for wrong in ("1 users", "1 events", "1 items", "1 sessions"):
        assert f" {wrong}" not in page, wrong


def test_one_query() -> None:
    record = {
        **{"model": "popular", "data": "log", "part": "test", "ndcg@10": 0.5, "intervals": {"ndcg@10": [0.4, 0.6]}},
        "protocol": {"queries": 2, "queries_without_target": 1},
    }
    assert "(test, 1 query)" in metrics_table(record).title
    board = Board("log", "log.csv", "test", "ndcg@10", {"popular": record}, {}, None)
    assert board.query_count == "1 test query"
    assert " on 1 test query." in board_standfirst(board)
