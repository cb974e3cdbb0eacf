"""Worlds with two catalogs that share texts and a rule, but no item."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from segue.core import bundle
from segue.core.types import Dataset, Events, Queries
from segue.testing import dataset, train_small

N_CLUSTERS, SIZE, N_NUMBERS = 6, 5, 12
N_ITEMS = N_CLUSTERS * SIZE
CLUSTER = np.arange(N_ITEMS) // SIZE
MEANS = np.random.default_rng(99).normal(size=(N_CLUSTERS, N_NUMBERS))
FEW = 2
"""Users of the target that are used: of 200, 1 %."""


@cache
def catalog(seed: int, n_users: int, is_shuffled: bool = False) -> Dataset:
    """Build histories in which an item of a cluster is followed by any item of the next cluster.

    Texts say the cluster, with noise, unless they are shuffled. Catalogs have no item, text or user in common.
    """
    rng = np.random.default_rng(seed)
    clusters = (rng.integers(N_CLUSTERS, size=(n_users, 1)) + np.arange(8)) % N_CLUSTERS
    rows = clusters * SIZE + rng.integers(SIZE, size=clusters.shape)
    texts = MEANS[CLUSTER] + 0.2 * rng.normal(size=(N_ITEMS, N_NUMBERS))
    if is_shuffled:
        texts = rng.permutation(texts)
    table = pl.DataFrame({"id": [f"i{item}" for item in range(N_ITEMS)], "text": texts.tolist()})
    return replace(dataset(Events.of(rows.tolist()), N_ITEMS, f"catalog {seed}"), item_features=table.lazy())


def precision(model: Any, data: Dataset) -> float:
    """Return the share of items from the right cluster among the best five, after all histories of ``data``."""
    last = data.histories.items[data.histories.offsets[1:] - 1]
    scores = model.score(Queries.anonymous(data.histories))
    best = np.argsort(-scores, axis=1)[:, :SIZE]
    return float((CLUSTER[best] == ((CLUSTER[last] + 1) % N_CLUSTERS)[:, None]).mean())


def part_and_whole(is_shuffled: bool = False) -> tuple[Dataset, Dataset]:
    """Return the target with few users and with all of them."""
    many = catalog(1, 200, is_shuffled)
    few = dataset(many.histories.take(np.arange(FEW)), N_ITEMS)
    return replace(few, item_features=many.item_features), many


@cache
def precision_of_scratch(has_ids: bool) -> float:
    few, many = part_and_whole()
    return precision(train_small("transfer", few, epochs=20, id_embeddings=has_ids), many)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = catalog(0, 120)
    folder = tmp_path_factory.mktemp("source") / "model"
    model = train_small("transfer", data, epochs=8)
    assert precision(model, data) > 0.9
    bundle.save(folder, bundle.create("transfer", model, data))
    return folder


@pytest.mark.parametrize(
    "settings",
    [{}, {"encoder_lr_factor": 0.0}, {"item_lr_factor": 0.0}, {"id_embeddings": True}],
    ids=["all", "items only", "encoder only", "with own embeddings"],
)
def test_a_rule_carries_over_through_text(source: Path, settings: dict[str, Any]) -> None:
    few, many = part_and_whole()
    transferred = train_small("transfer", few, source=str(source), epochs=2, learning_rate=1e-3, **settings)
    assert precision(transferred, many) > 0.85
    assert precision_of_scratch(has_ids="id_embeddings" in settings) < 0.6


def test_shuffled_texts_carry_nothing_over(source: Path) -> None:
    few, many = part_and_whole(is_shuffled=True)
    transferred = train_small("transfer", few, source=str(source), epochs=2, learning_rate=1e-3)
    chance = 1 / N_CLUSTERS
    assert precision(transferred, many) < chance + 0.15
