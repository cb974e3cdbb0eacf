"""Benchmark of everyday tasks: counting of lines of code, and validation of results."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import api


def test_imports_comments_and_layout_do_not_count() -> None:
    plain = "models = {'a': 1}\nfor name in models:\n    print(name)\n"
    noisy = "# a comment\nimport os\n\nmodels = {\n    'a': 1,\n}\nfor name in models:\n\n    print(name)  # here\n"
    assert api.count(plain) == api.count(noisy) == {"statements": 3, "lines": 3, "tokens": 16}


def test_lines_are_counted_at_100_columns() -> None:
    call = "result = function(" + ", ".join(f"argument_{number}={number}" for number in range(8)) + ")\n"
    assert api.count(call)["statements"] == 1
    assert api.count(call)["lines"] > 1


def test_an_empty_cell_is_not_supported() -> None:
    assert api.count("# not supported\n") == {"statements": 0, "lines": 0, "tokens": 0}
    assert api.counts("rectools")["ratings"] is None


@pytest.mark.parametrize("library", api.LIBRARIES)
def test_every_script_has_every_cell(library: str) -> None:
    names = {name for _, cells in api.TASKS.values() for name in cells}
    assert names | {"given", "imports", "results"} == set(api.cells(library))


def test_segue_is_shortest_in_every_task() -> None:
    libraries = {library: {"counts": api.counts(library)} for library in api.LIBRARIES}
    for task, verdicts in api.shortest(libraries).items():
        assert verdicts["tokens"] == "shortest", task
        assert "longer" not in verdicts.values(), task


def test_accuracy_of_lists_with_one_held_out_item() -> None:
    lists = {1: [5, 6, 7], 2: [8, 9], 3: [5, 6]}
    actual = api.accuracy(lists, {1: 5, 2: 9, 3: 1, 4: 2})
    assert actual["recall@10"] == pytest.approx(2 / 4)
    assert actual["ndcg@10"] == pytest.approx((1 + 1 / np.log2(3)) / 4)


def test_wrong_results_are_described() -> None:
    items = np.arange(1, 31)
    arrays = {
        "user_id": np.repeat([1, 2], 3),
        "item_id": np.array([1, 2, 3, 4, 5, 6]),
        "some_users": np.array([1]),
        "allowed": items[6:20],
        "history": np.array([1, 2]),
        "item": np.array(1),
        "pair_user_id": np.array([1]),
        "pair_item_id": np.array([9]),
    }

    def table(name: str, users: list[int], start: int) -> dict[str, np.ndarray]:
        return {
            f"{name}.user_id": np.repeat(users, 10),
            f"{name}.item_id": np.tile(items[start : start + 10], len(users)),
        }

    results = {
        "test_pairs.user_id": np.array([1, 2]),
        "test_pairs.item_id": np.array([3, 6]),
        "new_recommendations.item_id": items[6:16],
        "similar_items.item_id": items[6:16],
        **table("recommendations", [1, 2], 6),
        **table("allowed_recommendations", [1], 6),
        **table("reloaded", [1], 6),
    }
    row = {"recall@10": 0.5, "ndcg@10": 0.5}
    figures = {"metrics": {"recall@10": 0.0, "ndcg@10": 0.0}, "compared": {"a": row, "b": row, "c": row}}
    supported = {"ratings": None}
    assert api.check(arrays, results, figures, supported) == []
    for broken, word in (
        (table("recommendations", [1, 2], 1), "recommend"),
        (table("allowed_recommendations", [1], 15), "allow_list"),
        (table("reloaded", [1], 7), "save"),
        ({"similar_items.item_id": items[:10]}, "similar"),
        ({"new_recommendations.item_id": items[:10]}, "new_user"),
        ({"test_pairs.item_id": np.array([2, 6])}, "split"),
    ):
        actual = api.check(arrays, results | broken, figures, supported)
        assert any(text.startswith(word) for text in actual), (word, actual)
    assert api.check(arrays, results, figures | {"metrics": {"recall@10": 0.3, "ndcg@10": 0.0}}, supported)
