"""Words that explain why an item is recommended."""

from dataclasses import replace

import numpy as np
import polars as pl

from segue.core.types import Events
from segue.serving.catalog.text_words import TextWords
from segue.testing import dataset

PLOTS = [
    "A robot falls in love with the sea.",
    "The ROBOT dreams of the sea",
    "The sea is cold, and the café is far",
    None,
    "The Cafe of the lonely robots",
    *[f"the story of number {number}" for number in range(40)],
]


def shared(item: int, *others: int) -> dict[str, int]:
    return TextWords(pl.Series("plot", PLOTS, pl.String)).shared(item, np.array(others, np.int32))


def test_rare_shared_words_are_counted_without_case_and_accents() -> None:
    assert shared(0, 1, 2, 5) == {"sea": 2, "robot": 1}
    assert shared(2, 4) == {"cafe": 1}


def test_common_words_explain_nothing() -> None:
    assert shared(5, 6, 7) == {}


def test_missing_texts_share_nothing() -> None:
    assert shared(3, 0, 1) == {}
    assert shared(0, 3) == {}
    assert shared(0) == {}
    nothing = TextWords(pl.Series("plot", [None, None], pl.String))
    assert nothing.shared(0, np.array([1], np.int32)) == {}


def test_unusual_texts_are_split() -> None:
    words = TextWords(pl.Series("plot", ["zebra " * 50_000, "\x00zebra\x07 🎬 <b>", "", "日本 zebra"]))
    assert words.shared(0, np.array([1, 2, 3], np.int32)) == {}  # three of four texts have it
    words = TextWords(pl.Series("plot", ["zebra " * 50_000, "\x00zebra\x07 🎬", *["other"] * 30]))
    assert words.shared(0, np.array([1], np.int32)) == {"zebra": 1}


def test_explanations_name_shared_words_tags_and_people() -> None:
    import segue

    table = pl.DataFrame(
        {
            "id": [f"i{code}" for code in range(len(PLOTS))],
            "plot": PLOTS,
            "people": [["Varda"], ["Varda", "Akerman"], ["Akerman"], *[["Denis"], ["Lubitsch"]] * 21],
        }
    )
    data = replace(dataset(Events.of([[1, 0], [5, 6], [7, 8]]), len(PLOTS)), item_features=table.lazy())
    found = segue.explain(segue.train("content", data), item="i0", history=["i1", "i2"])
    assert found.shared_features == {"people": ("Varda",), "plot": ("sea", "robot")}
    assert any("plot sea (shared with 2 history items)" in reason for reason in found.reasons)
