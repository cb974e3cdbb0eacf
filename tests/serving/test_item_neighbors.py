"""Item neighbors match the formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.core.events import Events
from segue.serving.artifacts.item_neighbors import ItemNeighbors

N_ITEMS = 7
HISTORIES = st.lists(st.lists(st.integers(0, N_ITEMS - 1), max_size=8), min_size=1, max_size=12)


def _similarities(rows: list[list[int]], shrink: float) -> np.ndarray:  # type: ignore[type-arg]
    seen_UI = np.zeros((len(rows), N_ITEMS))
    for user, row in enumerate(rows):
        seen_UI[user, row] = 1.0
    counts_II = seen_UI.T @ seen_UI
    norms_I = np.sqrt(counts_II.diagonal())
    found_II = counts_II / np.maximum(np.outer(norms_I, norms_I) + shrink, 1e-9)
    np.fill_diagonal(found_II, 0.0)
    return found_II


@given(HISTORIES, st.integers(1, 8), st.sampled_from([0.0, 1.0, 10.0]))
def test_neighbors_match_the_formula(rows: list[list[int]], count: int, shrink: float) -> None:
    similarity_II = _similarities(rows, shrink)
    found = ItemNeighbors.from_histories(Events.of(rows), N_ITEMS, count, shrink)
    for item in range(N_ITEMS):
        codes, similarity = found.nearest(item, 100)
        ordered = sorted((-round(value, 6), other) for other, value in enumerate(similarity_II[item]) if value > 0)[
            :count
        ]
        assert codes.tolist() == [other for _, other in ordered]
        np.testing.assert_allclose(similarity, [-value for value, _ in ordered], atol=2e-6)
        short, _ = found.nearest(item, 2)
        assert short.tolist() == codes[:2].tolist()


@given(HISTORIES, HISTORIES, st.integers(1, 8))
def test_scores_are_sums_of_similarities(rows: list[list[int]], queries: list[list[int]], count: int) -> None:
    found = ItemNeighbors.from_histories(Events.of(rows), N_ITEMS, count)
    expected_NI = np.zeros((len(queries), N_ITEMS))
    for row, history in enumerate(queries):
        for item in set(history):
            codes, similarity = found.nearest(item, N_ITEMS)
            expected_NI[row, codes] += similarity
    scores_NI = found.score(Events.of(queries))
    assert scores_NI.dtype == np.float32
    np.testing.assert_allclose(scores_NI, expected_NI, 1e-5, 1e-6)


def test_round_trip(tmp_path: Path) -> None:
    found = ItemNeighbors.from_histories(Events.of([[0, 1, 2], [1, 2], [3]]), N_ITEMS)
    found.write(tmp_path)
    again = ItemNeighbors.read(tmp_path, N_ITEMS)
    assert again.codes.tolist() == found.codes.tolist()
    history = Events.of([[1], [], [3]])
    np.testing.assert_array_equal(again.score(history), found.score(history))
    assert not again.score(history)[1:].any()


@pytest.mark.parametrize("histories", [None, Events.of([]), Events.of([[], []])])
def test_no_events_no_neighbors(histories: Events | None) -> None:
    found = ItemNeighbors.from_histories(histories, N_ITEMS)
    assert found.nearest(3, 5)[0].tolist() == []
    assert not found.score(Events.of([[1, 2]])).any()


def test_shapes_must_fit() -> None:
    with pytest.raises(ValueError, match=r"codes \(2, 3\), similarity \(2, 2\)"):
        ItemNeighbors(np.zeros((2, 3), np.int32), np.zeros((2, 2), np.float32), np.zeros(2, np.int64))
