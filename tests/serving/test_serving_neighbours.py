"""Neighbours, against the formula written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.core.events import Events
from segue.serving.artifacts.item_neighbors import Neighbours

N_ITEMS = 7
HISTORIES = st.lists(st.lists(st.integers(0, N_ITEMS - 1), max_size=8), min_size=1, max_size=12)


def _likeness(rows: list[list[int]], shrink: float) -> np.ndarray:  # type: ignore[type-arg]
    had_UI = np.zeros((len(rows), N_ITEMS))
    for user, row in enumerate(rows):
        had_UI[user, row] = 1.0
    both_II = had_UI.T @ had_UI
    norms_I = np.sqrt(both_II.diagonal())
    found_II = both_II / np.maximum(np.outer(norms_I, norms_I) + shrink, 1e-9)
    np.fill_diagonal(found_II, 0.0)
    return found_II


@given(HISTORIES, st.integers(1, 8), st.sampled_from([0.0, 1.0, 10.0]))
def test_neighbours_are_the_nearest(rows: list[list[int]], count: int, shrink: float) -> None:
    like_II = _likeness(rows, shrink)
    found = Neighbours.found(Events.of(rows), N_ITEMS, count, shrink)
    for item in range(N_ITEMS):
        codes, likeness = found.of(item, 100)
        ordered = sorted((-round(value, 6), other) for other, value in enumerate(like_II[item]) if value > 0)[:count]
        assert codes.tolist() == [other for _, other in ordered]
        np.testing.assert_allclose(likeness, [-value for value, _ in ordered], atol=2e-6)
        short, _ = found.of(item, 2)
        assert short.tolist() == codes[:2].tolist()


@given(HISTORIES, HISTORIES, st.integers(1, 8))
def test_scores_are_sums_of_likeness(rows: list[list[int]], asked: list[list[int]], count: int) -> None:
    found = Neighbours.found(Events.of(rows), N_ITEMS, count)
    expected_NI = np.zeros((len(asked), N_ITEMS))
    for row, history in enumerate(asked):
        for item in set(history):
            codes, likeness = found.of(item, N_ITEMS)
            expected_NI[row, codes] += likeness
    scores_NI = found.scores(Events.of(asked))
    assert scores_NI.dtype == np.float32
    np.testing.assert_allclose(scores_NI, expected_NI, 1e-5, 1e-6)


def test_they_come_back_from_disk(tmp_path: Path) -> None:
    found = Neighbours.found(Events.of([[0, 1, 2], [1, 2], [3]]), N_ITEMS)
    found.write(tmp_path)
    again = Neighbours.read(tmp_path)
    assert again.codes.tolist() == found.codes.tolist()
    history = Events.of([[1], [], [3]])
    np.testing.assert_array_equal(again.scores(history), found.scores(history))
    assert not again.scores(history)[1:].any()


@pytest.mark.parametrize("histories", [None, Events.of([]), Events.of([[], []])])
def test_without_events_nothing_is_near(histories: Events | None) -> None:
    found = Neighbours.found(histories, N_ITEMS)
    assert found.of(3, 5)[0].tolist() == []
    assert not found.scores(Events.of([[1, 2]])).any()


def test_shapes_must_fit() -> None:
    with pytest.raises(ValueError, match=r"codes \(2, 3\), likeness \(2, 2\)"):
        Neighbours(np.zeros((2, 3), np.int32), np.zeros((2, 2), np.float32), np.zeros(2, np.int64))
