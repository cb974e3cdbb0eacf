"""Catalog, settings and reproducibility of the simulated world."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from segue.core.config import parse
from segue.core.types import Dataset, Events
from segue.data.simulator import BayesOptimalRecommender, SimulatedWorld, SimulatorSettings


def world(**changes: object) -> SimulatedWorld:
    return SimulatedWorld.build(
        SimulatorSettings(**{"users": 200, "items": 80, "mean_length": 12, "repeats": 0.2, **changes})
    )


def assert_equal_events(first: Events, second: Events) -> None:
    for a, b in zip(
        (first.offsets, *first.columns().values()), (second.offsets, *second.columns().values()), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_world_depends_on_the_seed_only() -> None:
    first, second, other = world(seed=1).dataset(), world(seed=1).dataset(), world(seed=2).dataset()
    assert_equal_events(first.histories, second.histories)
    assert_frame_equal(first.item_features.collect(), second.item_features.collect())
    assert_frame_equal(first.user_features.collect(), second.user_features.collect())
    assert not np.array_equal(first.histories.items[:100], other.histories.items[:100])
    assert not first.item_features.collect().equals(other.item_features.collect())


@pytest.mark.parametrize("rows", [1, 100, 999])
def test_log_does_not_depend_on_chunk_size(rows: int) -> None:
    whole = world().sample(0, 200, states=True)
    chunks = list(world().chunks(rows, states=True))
    assert len(chunks) > 1
    assert max(chunk.events.size for chunk in chunks) < max(8 * rows, 80 + 1)
    lengths = np.concatenate([chunk.events.lengths for chunk in chunks])
    for name in ("items", "times", "values"):
        joined = np.concatenate([getattr(chunk.events, name) for chunk in chunks])
        np.testing.assert_array_equal(joined, getattr(whole.events, name))
    np.testing.assert_array_equal(lengths, whole.events.lengths)
    np.testing.assert_array_equal(np.concatenate([chunk.states for chunk in chunks]), whole.states)
    assert_frame_equal(pl.concat(list(world().profiles(rows))), world().population.frame(0, 200))


def test_written_log_equals_log_in_memory(tmp_path: Path) -> None:
    from segue.data.folder import open_dataset
    from segue.data.sources.simulated import write

    said: list[str] = []
    write({"users": "200", "items": "80", "mean_length": "12", "repeats": "0.2"}, tmp_path / "log", said.append)
    stored: Dataset = open_dataset(tmp_path / "log")
    in_memory = world().dataset()
    assert_equal_events(stored.histories, in_memory.histories)
    assert stored.users.ids.to_list() == in_memory.users.ids.to_list()
    assert_frame_equal(stored.item_features.collect(), in_memory.item_features.collect())
    assert_frame_equal(stored.user_features.collect(), in_memory.user_features.collect())
    assert SimulatedWorld.of(stored).settings == world().settings
    assert BayesOptimalRecommender(stored).schema == stored.schema
    assert "200 users" in said[0]


def test_invalid_setting_leaves_no_files(tmp_path: Path) -> None:
    from segue.data.sources.simulated import write

    with pytest.raises(ValueError, match=r"simulated.user: unknown key, did you mean 'users'\?"):
        write({"user": "3"}, tmp_path / "log", print)
    with pytest.raises(ValueError, match=r"simulated.repeats: got '2'"):
        write({"repeats": "2"}, tmp_path / "log", print)
    with pytest.raises(ValueError, match=r"min_length: got 5, expected at most max_length 2000 and .* 4"):
        parse(SimulatorSettings, {"items": 4}, "simulated")
    with pytest.raises(ValueError, match=r"mean_length: got 3.0, expected at least min_length 5"):
        parse(SimulatorSettings, {"mean_length": 3}, "simulated")
    assert not list(tmp_path.iterdir())


def test_lengths_follow_the_settings() -> None:
    population = world(users=20_000, items=5000, mean_length=30, max_length=400).population
    lengths = population.lengths(0, 20_000)
    assert lengths.min() >= 5
    assert lengths.max() <= 400
    assert abs(lengths.mean() - 30) < 1
    assert world(mean_length=200, items=20).population.lengths(0, 200).max() == 20


def test_catalog_texts() -> None:
    catalog = world(items=3000).catalog
    frame = catalog.frame
    assert frame["id"].n_unique() == 3000
    assert frame["title"].n_unique() == 3000
    assert frame["title"].str.contains(r"^[A-Z][a-z]+ .* \((19|20)\d\d\)$").all()
    assert frame["genres"].list.len().is_between(1, 3).all()
    assert frame["year"].is_between(1930, 2020).all()
    np.testing.assert_array_equal(frame["genres"].list.len().to_numpy(), catalog.genres.sum(axis=1))
    main_genre = frame.with_columns(pl.col("description").str.extract(r"^(.+?) about ").alias("main_genre"))
    assert main_genre.select(pl.col("genres").list.contains(pl.col("main_genre")).all()).item()
    assert 0.15 < (frame["series"].is_not_null()).mean() < 0.22


def test_series_have_sequels() -> None:
    catalog = world(items=3000).catalog
    before = np.flatnonzero(catalog.sequel >= 0)
    after = catalog.sequel[before]
    assert len(before) > 300
    assert len(np.unique(after)) == len(after)
    np.testing.assert_array_equal(catalog.series[after], catalog.series[before])
    np.testing.assert_array_equal(catalog.part[after], catalog.part[before] + 1)
    assert (catalog.popularity[after] < catalog.popularity[before]).all()
    np.testing.assert_array_equal(catalog.genres[after], catalog.genres[before])
    names = catalog.frame["title"].str.replace(r"( I+| IV| V)? \(\d+\)$", "")
    assert names.gather(after).to_list() == names.gather(before).to_list()
    years = catalog.frame["year"].to_numpy()
    assert (years[after] >= years[before]).all()


def test_popularity_has_a_long_tail() -> None:
    data = world(users=3000, items=400, mean_length=20, series=0.0, popularity=1.0).dataset()
    counts = np.sort(np.bincount(data.histories.items, minlength=400))[::-1]
    assert counts[:40].sum() > 0.35 * counts.sum() > counts[200:].sum()


def test_smallest_worlds() -> None:
    for changes in ({"tastes": 1, "appetites": 1, "genres": 1}, {"focus": 0.0, "popularity": 0.0, "recency": 1.0}):
        data = world(**changes).dataset()
        assert data.histories.size > 0
    whole = world(items=5, series=0.9, repeats=0.0, mean_length=5, users=30).dataset().histories
    assert whole.lengths.tolist() == [5] * 30
    assert (np.sort(whole.items.reshape(30, 5), axis=1) == np.arange(5)).all()
