"""Models of the knowledge graph in a world whose answer only the graph knows."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from segue.core.model import Model
from segue.core.types import Dataset
from segue.testing import directors, hit_rate, train_small

WORLD = directors()
MODELS: dict[str, dict[str, Any]] = {
    "lightkg": {"num_layers": 2, "epochs": 10},
    "kgat": {"num_layers": 2, "epochs": 10},
    "kgcn": {"epochs": 60, "num_neighbors": 2, "l2": 0.0},
    "cease": {"l2": 1.0},
}


@cache
def train_with(key: str) -> Model:
    return train_small(key, WORLD.train, **MODELS.get(key, {"epochs": 10}))


def shuffled(data: Dataset) -> Dataset:
    assert data.knowledge is not None
    tails = np.random.default_rng(0).permutation(data.knowledge.tails)
    return replace(data, knowledge=replace(data.knowledge, tails=tails))


@pytest.mark.parametrize("key", MODELS)
def test_models_of_the_graph_recommend_the_new_film_of_a_director(key: str) -> None:
    assert hit_rate(train_with(key), WORLD) > 0.95


@pytest.mark.parametrize("key", ["lightgcn", "ease", "item_knn", "bpr"])
def test_models_without_the_graph_do_not(key: str) -> None:
    assert hit_rate(train_with(key), WORLD) < 0.3


@pytest.mark.parametrize("key", MODELS)
def test_shuffled_triples_destroy_the_gain(key: str) -> None:
    model = train_small(key, shuffled(WORLD.train), **MODELS[key])
    assert hit_rate(model, WORLD) < 0.5


def test_lightkg_compares_each_pair_with_unseen_items_of_its_own() -> None:
    """Also without cold negatives: the new films have no events and are no negatives."""
    model: Any = train_small("lightkg", WORLD.train, **MODELS["lightkg"], pairwise_negatives=4)
    assert hit_rate(model, WORLD) > 0.95
    assert "each pair is compared with 4 unseen items" in model.training_notes[0]
    (batch, *_) = list(model.batches(WORLD.train, 16, np.random.default_rng(0))[1])
    assert batch.negatives_MK.shape == (len(batch.items_M), 4)
    seen = WORLD.train.histories.csr(WORLD.train.n_items).toarray()
    is_cold = seen.sum(0) == 0
    for row, user in enumerate(batch.users_M.tolist()):
        negatives = batch.negatives_MK[row][batch.is_negative_MK[row]]
        assert not seen[user, negatives].any()
        assert not is_cold[negatives].any()
    assert batch.is_negative_MK.any()
