"""Triples derived from item features, and entity vectors of TransE and RotatE."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pytest

import segue
from segue.core.knowledge.knowledge import Knowledge
from segue.core.types import Dataset, Events
from segue.core.vocab import Vocab
from segue.experiment.plan import make_plan
from segue.features.knowledge import (
    EntityVectorSettings,
    add_entity_vectors,
    add_knowledge,
    derive_knowledge,
    train_entities,
)
from segue.testing import clusters, dataset, hit_rate, train_small, with_knowledge

ITEMS = pl.DataFrame(
    {
        "id": ["i0", "i1", "i2", "i3"],
        "director": ["Lee", "Lee", None, "Wells"],
        "actors": [["Kim"], [], None, ["Lee", " Kim "]],
        "year": [1990, 1990, 2000, 2000],
        "score": [0.5, 0.1, 0.2, 0.9],
    }
)


def films() -> Dataset:
    return replace(dataset(Events.of([[0, 1], [2, 3]]), 4), item_features=ITEMS.lazy())


def facts(data: Dataset) -> set[tuple[str, str, str]]:
    graph = data.knowledge_for("test")
    ids, codes = graph.entities.ids, zip(graph.heads, graph.relation_codes, graph.tails, strict=True)
    return {(ids[int(head)], graph.relations[relation], ids[int(tail)]) for head, relation, tail in codes}


def test_every_value_of_a_column_is_an_entity_and_people_are_shared() -> None:
    reported: list[str] = []
    data = add_knowledge(films(), ["director", "actors", "year"], log=reported.append)
    assert facts(data) == {
        ("item:i0", "director", "Lee"),
        ("item:i1", "director", "Lee"),
        ("item:i3", "director", "Wells"),
        ("item:i0", "actors", "Kim"),
        ("item:i3", "actors", "Lee"),
        ("item:i3", "actors", "Kim"),
        *((f"item:i{item}", "year", f"year:{1990 if item < 2 else 2000}") for item in range(4)),
    }
    assert reported == ["knowledge: 10 triples from director, actors, year; 4 of 4 items linked, 5 other entities"]
    both = add_knowledge(add_knowledge(films(), ["director"]), ["actors", "year"])
    assert facts(both) == facts(data)


def test_derived_triples_keep_the_entities_of_a_given_graph() -> None:
    given = with_knowledge(films(), [0, 0, 1, -1])
    data = add_knowledge(given, ["director"])
    assert facts(given) < facts(data)
    assert ("entity of i0", "director", "Lee") in facts(data)
    assert ("item:i3", "director", "Wells") in facts(data)


@pytest.mark.parametrize(
    ("columns", "message"),
    [(["directr"], "no item feature 'directr', did you mean 'director'"), (["score"], "'score' holds Float64")],
)
def test_columns_that_do_not_fit_are_errors(columns: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        add_knowledge(films(), columns)


def planted() -> Knowledge:
    """Create a graph of 12 cities in 3 countries with a capital each: relations that a translation can express."""
    cities, country = np.arange(12), 12 + np.arange(12) // 4
    capitals = np.array([0, 4, 8])
    heads = np.concatenate([cities, country[capitals]])
    tails = np.concatenate([country, capitals])
    relations = np.repeat([0, 1], [12, 3])
    entities = Vocab([f"e{code}" for code in range(15)])
    arrays = (part.astype(np.int32) for part in (heads, relations, tails, cities))
    return Knowledge(entities, ("country", "capital"), *arrays)


@pytest.mark.parametrize("method", ["transe", "rotate"])
def test_vectors_recover_planted_relations(method: Literal["transe", "rotate"]) -> None:
    graph = planted()
    settings = EntityVectorSettings(method=method, embedding_dim=16, epochs=300, num_negatives=8, learning_rate=0.03)
    ranked = train_entities(graph, settings).rank_tails(graph.heads, graph.relation_codes)
    # a country is the tail of its four cities; a city may rank itself first
    found = [tail in row[:2] for tail, row in zip(graph.tails, ranked, strict=True)]
    assert np.mean(found) > 0.9


def test_rotate_needs_an_even_width() -> None:
    with pytest.raises(ValueError, match="embedding_dim: got 5, expected an even number for rotate"):
        train_entities(planted(), EntityVectorSettings(method="rotate", embedding_dim=5))


def test_models_of_features_read_entity_vectors() -> None:
    world = clusters()
    groups = np.arange(world.train.n_items) // 10
    data = add_entity_vectors(
        with_knowledge(world.train, groups.tolist()),
        EntityVectorSettings(embedding_dim=8, epochs=300, learning_rate=0.03),
    )
    assert data.item_features is not None
    assert data.item_features.collect_schema()["entity_vector"] == pl.List(pl.Float32)
    assert hit_rate(train_small("content", data), world) > 0.95


def test_a_setting_derives_triples_for_a_run(tmp_path: Path) -> None:
    """The data keep their hash, as with text; the settings tell the runs apart."""
    folder = tmp_path / "log.csv"
    pl.DataFrame({"user_id": ["a", "a", "b", "b"], "item_id": ["i0", "i1", "i2", "i3"]}).write_csv(folder)
    data = segue.load(folder, items=ITEMS)
    plain, derived = (
        make_plan({"model": "lightkg", "data": "log.csv"}, overrides, "none")
        for overrides in ((), ("knowledge.columns=[director, actors]",))
    )
    assert plain.fingerprint() != derived.fingerprint()
    assert "knowledge" not in plain.values() or not plain.knowledge.columns
    found = derive_knowledge(data, derived.knowledge)
    assert found.header == data.header
    assert facts(found) == facts(segue.add_knowledge(data, ["director", "actors"]))
    assert derive_knowledge(data, plain.knowledge) is data
    assert facts(segue.add_knowledge(data, "director")) < facts(found)
    with pytest.raises(ValueError, match=r"columns: ambiguous, expected text\.columns or knowledge\.columns"):
        make_plan({"model": "lightkg", "data": "log.csv"}, ("columns=[director]",), "none")
