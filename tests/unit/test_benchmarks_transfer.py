"""The benchmark of the transfer between catalogs."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

import segue
from benchmarks import transfer
from segue.core.config import parse
from segue.core.registry import model_class
from segue.core.types import Dataset, Events
from segue.testing import dataset
from segue.training.settings import Training

N_USERS, N_ITEMS = 40, 12


def catalog(seed: int, first_title: int) -> Dataset:
    """Build a log with titles, plots and vectors; titles are numbered from ``first_title``."""
    rng = np.random.default_rng(seed)
    rows = Events.of([rng.permutation(N_ITEMS)[:5].tolist() for _ in range(N_USERS)])
    titles = [f"Film {first_title + code} (1990)" for code in range(N_ITEMS)]
    table = pl.DataFrame({"id": [f"i{code}" for code in range(N_ITEMS)], "title": titles})
    table = table.with_columns(plot=pl.col("title") + " plot", vector=pl.Series(rng.normal(size=(N_ITEMS, 3)).tolist()))
    return replace(dataset(rows, N_ITEMS, f"log {seed}"), item_features=table.lazy())


SOURCE, TARGET = catalog(0, 0), catalog(1, 8)


def test_smaller_draws_of_users_are_part_of_larger_ones() -> None:
    parts = segue.split(TARGET)
    draws = [transfer.draw_users(parts, share, seed=3) for share in (0.01, 0.1, 0.5, 1.0)]
    assert [int(is_drawn.sum()) for _, is_drawn in draws] == [1, 4, 20, N_USERS]
    for (_, fewer), (_, more) in itertools.pairwise(draws):
        assert (more[fewer]).all()
    for part, is_drawn in draws:
        assert (part.train.histories.lengths > 0).tolist() == is_drawn.tolist()
        own = np.flatnonzero(is_drawn)
        expected = parts.train.histories.take(own).items
        np.testing.assert_array_equal(part.train.histories.take(own).items, expected)
        np.testing.assert_array_equal(part.valid.queries.users, own)
        np.testing.assert_array_equal(part.valid.targets.items, parts.valid.targets.take(own).items)
        assert part.test is parts.test
    assert not np.array_equal(draws[1][1], transfer.draw_users(parts, 0.1, seed=4)[1])


def test_events_of_shared_films_are_left_out() -> None:
    is_left_out = np.arange(N_ITEMS) >= 8
    found = transfer.without_items(SOURCE, is_left_out)
    assert found.n_items == N_ITEMS
    for row in range(N_USERS):
        before = SOURCE.histories.take(np.array([row])).items
        np.testing.assert_array_equal(found.histories.take(np.array([row])).items, before[before < 8])


def test_plots_are_those_of_the_same_title() -> None:
    assert TARGET.item_features is not None
    found, share = transfer.add_plots(replace(TARGET, item_features=TARGET.item_features.drop("plot")), SOURCE)
    assert found.item_features is not None
    plots = found.item_features.collect()["plot"].to_list()
    assert plots == [f"Film {number} (1990) plot" for number in range(8, 12)] + [None] * 8
    assert share == pytest.approx(4 / 12)


def test_every_row_is_measured_at_every_share() -> None:
    rows = ["transfer", "transfer@other-films", "scratch", "ease", "popular"]
    found = transfer.measure(SOURCE, TARGET, rows, range(1), quick=True, log=lambda _: None)
    assert found["users"] == {"0.01": 1, "0.1": 4, "1.0": N_USERS}
    assert list(found["rows"]["0.0"]) == rows[:2]
    assert all(list(found["rows"][share]) == rows for share in ("0.01", "0.1", "1.0"))
    assert found["other_films"]["items"] == 8
    assert found["shared_items"] == 4
    tests = found["tests"]["ndcg@10"]
    assert [(one["share"], one["first"]) for one in tests] == [
        (share, name) for share in transfer.SHARES for name in rows[:2]
    ]
    means = [found["rows"]["0.1"][name]["ndcg@10"]["mean"] for name in ("transfer", "scratch")]
    assert tests[2]["difference"] == pytest.approx(means[0] - means[1])
    text = transfer.page(found)
    assert "4 of 12 films of the target" in text
    assert "| transfer@other-films | text |" in text
    assert "* 10%: `transfer` is " in text
    better = {"p_holm": 0.01, "difference": 0.1}
    assert transfer._verdict(better) == "better"
    assert transfer._verdict({**better, "difference": -0.1}) == "worse"
    assert transfer._verdict({**better, "p_holm": 0.05}) == "not significantly better or worse"


def test_twins_differ_in_the_source_alone() -> None:
    for name, row in transfer.ROWS.items():
        kind = model_class(row.model).Config
        parse(kind, row.settings, name)
        if row.twin is not None:
            twin = transfer.ROWS[row.twin]
            assert (twin.model, twin.settings, twin.source) == (row.model, row.settings, None)
    for settings in (transfer.PRETRAINING, *transfer.TRAINING.values(), transfer.COMMON):
        parse(Training, settings, "training")


def test_unknown_rows_are_rejected() -> None:
    with pytest.raises(ValueError, match="--models: unknown 'fusion', expected some of transfer, "):
        transfer._names("fusion")
    assert transfer._names("transfer,popular") == ["transfer", "popular", "scratch"]
