"""Lists of texts per item or user, collected from tables with one row per text."""

from typing import Any

import polars as pl
import pytest

from segue.features.text.collect_texts import collect_texts

TAGS = pl.DataFrame(
    {
        "user_id": ["u", "v", "v", "w", "u", "u", "v"],
        "item_id": ["b", "b", "b", "b", "a", "a", None],
        "tag": ["dark", " space", "robots", "space", None, "", "lost"],
        "timestamp": [1, 2, 3, 4, 5, 6, 7],
    }
)


def lists(**values: Any) -> dict[str, list[str]]:
    """Return the texts by item or user."""
    return dict(collect_texts(TAGS, **values).iter_rows())


def test_frequent_texts_come_first_and_empty_ones_are_dropped() -> None:
    assert lists() == {"b": ["space", "dark", "robots"]}
    assert lists(min_count=2) == {"b": ["space"]}
    assert lists(max_texts=2) == {"b": ["space", "dark"]}
    assert lists(by="user_id") == {"u": ["dark"], "v": ["space", "robots", "lost"], "w": ["space"]}


def test_later_rows_can_be_left_out() -> None:
    assert lists(before=pl.col("timestamp") < 4) == {"b": ["dark", "space", "robots"]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"by": "item"}, "no column 'item', did you mean 'item_id'"),
        ({"text": "timestamp"}, "column 'timestamp' holds Int64, expected texts"),
        ({"max_texts": 0}, "max_texts: got 0, expected 1 or more"),
    ],
)
def test_bad_arguments_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lists(**values)


def test_lists_are_features_and_text() -> None:
    import segue

    table = pl.DataFrame(
        {"item_id": [f"i{n:02}" for n in range(1, 21)] * 2, "tag": ["space rocket", "love story"] * 20}
    )
    data = segue.load("simulated?users=30&items=20", items=collect_texts(table))
    data = segue.add_text(data, "tag", encoder="tfidf", cache="none")
    assert data.item_features is not None
    assert data.item_features.collect()["text_vector"].null_count() == 0
