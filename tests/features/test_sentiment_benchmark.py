"""Benchmark of sentiment: simulated reviews, ratings and the page."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import sentiment
from benchmarks.pages import format_page
from benchmarks.sentiment_reviews import KINDS, LANGUAGES, simulate_log, simulate_reviews


@pytest.mark.parametrize("language", LANGUAGES)
def test_plain_reviews_have_words_of_their_polarity_only(language: str) -> None:
    rng = np.random.default_rng(0)
    words = LANGUAGES[language]
    texts, mentions = simulate_reviews(np.array([[True], [False]] * 20), language, rng, ("plain",))
    for row, text in enumerate(texts):
        found = [word in text for word in (words.positive if row % 2 == 0 else words.negative).split()]
        assert sum(found) == 1
        assert list(mentions[row].values()) == [row % 2 == 0]
    for kind in KINDS[1:]:
        (text,), _ = simulate_reviews(np.array([[True]]), language, rng, (kind,))
        assert any(word in text for word in words.negative.split())


def test_reviews_follow_ratings_and_ratings_are_balanced() -> None:
    log = simulate_log(40, 60, 20, seed=0)
    assert log.equals(simulate_log(40, 60, 20, seed=0))
    assert set(log["rating"].unique()) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert log.group_by("user_id", "item_id").len()["len"].max() == 1
    great = log["review"].str.contains("is (great|superb|clever)").to_numpy()
    assert log["rating"].to_numpy()[great].mean() > log["rating"].to_numpy()[~great].mean()


def test_page_compares_with_interactions() -> None:
    rng = np.random.default_rng(0)
    baseline = rng.random(50)
    gain = sentiment.summarize_gain([{"values": baseline + 0.2, sentiment.BASELINE: baseline}])
    found = {
        "accuracy": {"0": {"vader, en": 0.5}},
        "gain": gain,
        "sentences": 10,
        "words_in_lexicon": [11, 20],
        "machine": dict.fromkeys(
            ("processor", "cores", "memory_gib", "system", "python", "torch", "segue", "commit", "command", "date"), "x"
        ),
    }
    text = format_page("sentiment", found)
    assert "| vader, en | 0.500 | 0.500 |" in text
    assert "+0.200 | 0.0001" in text
    assert "VADER knows 11 of the 20" in text
