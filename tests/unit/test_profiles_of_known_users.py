"""Features given with a query take precedence over those of training, feature by feature, in batches too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from segue.core.events import Events
from segue.core.run import Run
from segue.core.types import Dataset, Queries
from segue.testing import dataset
from segue.training.settings import Training
from segue.training.train import train

SMALL: dict[str, dict[str, Any]] = {
    "logistic_regression": {},
    "deepfm": {"embedding_dim": 4, "hidden": [8]},
    "sasrec": {"embedding_dim": 8, "inputs": ["user_features"]},
    "profile_model": {},
}


def world() -> Dataset:
    rng = np.random.default_rng(0)
    rows = [rng.choice(8, 4, replace=False).tolist() for _ in range(40)]
    users = pl.LazyFrame(
        {"id": [str(user) for user in range(40)], "age": rng.normal(size=40), "group": ["x", "y"] * 20}
    )
    return replace(dataset(Events.of(rows), 8), user_features=users)


@pytest.mark.parametrize("key", SMALL)
def test_a_profile_of_one_query_does_not_change_another(key: str) -> None:
    data = world()
    if key == "logistic_regression":
        values = np.tile([1.0, 0.0], data.histories.size // 2).astype(np.float32)
        data = replace(data, histories=replace(data.histories, values=values))
    training = Training(epochs=1) if key in ("deepfm", "sasrec") else Training()
    model = train(key, SMALL[key], training, data, Run(0))
    history = Events.of([data.histories.items[:3].tolist(), [1, 2, 3]])
    if data.histories.values is not None:
        history = replace(history, values=np.ones(6, np.float32))
    known = Queries(history, np.array([0, 0], np.int32), np.array([True, False]))
    profile = pl.DataFrame({"age": [None, 0.7], "group": [None, "y"]}, schema={"age": pl.Float64, "group": pl.String})
    both = model.score(replace(known, profile=profile))
    alone = model.score(known.rows_between(0, 1))
    np.testing.assert_allclose(both[:1], alone, rtol=1e-5, atol=1e-6)
    new = model.score(replace(known, profile=profile).rows_between(1, 2))
    np.testing.assert_allclose(both[1:], new, rtol=1e-5, atol=1e-6)
    own = data.user_features.collect()[:1]  # type: ignore[union-attr]
    given = replace(known.rows_between(0, 1), profile=own.select("age", pl.lit(None, pl.String).alias("group")))
    np.testing.assert_allclose(model.score(given), alone, rtol=1e-5, atol=1e-6)
