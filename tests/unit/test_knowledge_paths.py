"""Paths in the knowledge graph, their quality, and explanations that contain them."""

from __future__ import annotations

import numpy as np
import pytest

import segue
from segue.core.knowledge.knowledge import Knowledge
from segue.core.knowledge.paths import PathFinder
from segue.core.types import Events, Queries, Recommendations
from segue.core.vocab import Vocab
from segue.evaluation.path_quality import measure_paths
from segue.testing import directors

# items 0..3; 4: Lee (directed 0, 1), 5: drama (0, 1, 2, 3); 1 is the sequel of 2
KNOWLEDGE = Knowledge(
    Vocab(["i0", "i1", "i2", "i3", "Lee", "drama"]),
    ("director", "genre", "sequel of"),
    *(np.array(part, np.int32) for part in ([0, 1, 0, 1, 2, 3, 1], [0, 0, 1, 1, 1, 1, 2], [4, 4, 5, 5, 5, 5, 2])),
    np.arange(4, dtype=np.int32),
)


def test_the_most_specific_path_comes_first() -> None:
    paths = PathFinder(KNOWLEDGE).explain([0], 1, 5)
    assert [(path.first_relation, path.entity, path.second_relation, path.degree) for path in paths] == [
        ("director", "Lee", "director", 2),
        ("genre", "drama", "genre", 4),
    ]
    assert paths[0].describe("Hulk", "Life of Pi") == "Hulk and Life of Pi share director: Lee"


def test_direct_triples_are_paths_in_both_directions() -> None:
    finder = PathFinder(KNOWLEDGE)
    assert finder.explain([1], 2, 1)[0].describe("A", "B") == "A - sequel of - B"
    assert finder.explain([2], 1, 1)[0].entity is None
    assert finder.explain([2], 1, 1)[0].describe("B", "A") == "A - sequel of - B"  # as the triple says
    assert finder.explain([0, 0, 3], 0, 5) == finder.explain([3], 0, 5)  # not from the item to itself


def test_chains_of_one_relation_are_described_from_head_to_tail() -> None:
    # item 0 is the sequel of 1, and 1 of 2; 3 is the sequel of 2
    triples = ([0, 1, 3], [0, 0, 0], [1, 2, 2])
    codes = (np.array(part, np.int32) for part in triples)
    items = Vocab(["i0", "i1", "i2", "i3"])
    finder = PathFinder(Knowledge(items, ("sequel of",), *codes, np.arange(4, dtype=np.int32)))
    assert finder.explain([0], 2, 1)[0].describe("C", "A") == "C - sequel of - i1 - sequel of - A"
    assert finder.explain([2], 0, 1)[0].describe("A", "C") == "C - sequel of - i1 - sequel of - A"
    assert finder.explain([1], 3, 1)[0].describe("B", "D") == "B and D share sequel of: i2"


def test_path_quality_equals_counts_by_hand() -> None:
    queries = Queries.anonymous(Events.of([[0], []]))
    lists = Recommendations(np.array([[1, 2], [1, 0]], np.int32), np.zeros((2, 2), np.float32), np.array([2, 1]))
    found = measure_paths(KNOWLEDGE, queries, lists)
    assert found.n_recommendations == 3
    assert found.share_with_path == pytest.approx(2 / 3)
    assert found.mean_paths == pytest.approx(3 / 3)  # Lee and drama for item 1, drama for item 2, none for no history
    assert found.relation_diversity == pytest.approx((2 / 2 + 0) / 2)
    # degrees by vertex: 2, 3, 2, 1, Lee 2, drama 4
    assert found.entity_popularity == pytest.approx((4 / 6 + 6 / 6) / 2)


@pytest.mark.parametrize("key", ["lightkg", "popular"])
def test_explanations_of_any_model_have_paths(key: str) -> None:
    data = directors().train
    model = segue.train(key, data, **({"epochs": 1} if key == "lightkg" else {}))
    found = segue.explain(model, history=["i0", "i1"], item="i5")
    assert any(reason == "i0 and i5 share maker: maker 0" for reason in found.reasons)
    assert found.to_dict()["paths"][0]["entity"] == "maker 0"
