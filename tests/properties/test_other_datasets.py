"""Data with other codes for the same ids gives the same answers, for every function that takes data."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import segue
from segue.core.bundle import TrainedModel
from segue.core.messages import SegueWarning
from segue.core.registry import model_class
from segue.core.types import Dataset, Vocab

RNG = np.random.default_rng(4)
LOG = pl.DataFrame(
    {
        "user_id": np.repeat(np.arange(30) + 100, 8),
        "item_id": np.concatenate([RNG.permutation(20)[:8] for _ in range(30)]) * 10,
        "rating": RNG.integers(1, 6, 240).astype(np.float32),
        "timestamp": np.tile(np.arange(8), 30) * 86_400 + 1_600_000_000,
        "action": RNG.choice(["click", "view"], 240),
    }
)
TINY: dict[str, Any] = {"recipe": "none"}
MODELS: dict[str, dict[str, Any]] = {
    "popular": {},
    "item_knn": {},
    "user_knn": {},
    "ease": {"l2": 5},
    "als": {"feedback": "implicit", "epochs": 1},
    "bpr": {"iterations": 1},
    "gru4rec": {"embedding_dim": 8, "hidden_dim": 8, "epochs": 1, "inputs": ["action"]},
}


def permuted(data: Dataset, users: list[int], items: list[int]) -> Dataset:
    """Number the same users and items differently."""
    item_of = np.argsort(items).astype(np.int32)
    histories = data.histories.take(np.array(users))
    columns = {name: getattr(histories, name) for name in ("values", "times")}
    actions = None if histories.actions is None else (1 - histories.actions).astype(np.uint8)
    return Dataset(
        data.name,
        Vocab(data.users.decode(np.array(users)), id_type=data.users.id_type),
        Vocab(data.items.decode(np.array(items)), id_type=data.items.id_type),
        type(histories)(histories.offsets, item_of[histories.items], actions, **columns, context=histories.context),
        data.actions[::-1],
    )


@pytest.fixture(scope="module")
def data() -> Dataset:
    return segue.load(LOG)


@pytest.fixture(scope="module")
def models(data: Dataset) -> dict[str, TrainedModel]:
    found = {}
    for key, own in MODELS.items():
        known = model_class(key).Config.model_fields
        wanted = {name: value for name, value in own.items() if name in known or key == "gru4rec"}
        found[key] = segue.train(key, segue.split(data), **TINY, **wanted)
    return found


def answers(model: TrainedModel, data: Dataset) -> list[Any]:
    """Everything that depends on the data, by id."""
    parts = segue.split(data)
    evaluation = segue.evaluate(model, parts, metrics=["ndcg@5", "hit_rate@10"])
    given_queries = segue.recommend(model, parts.test, k=4).sort("user_id", "rank")
    found = [
        segue.recommend(model, [103, 117], k=5, data=data),
        given_queries,
        segue.rank(model, 103, items=[20, 40, 60], data=data),
        segue.similar(model, 50, k=4, measure="cosine", data=data).sort("item_id"),
        segue.similar(model, user=104, k=29, measure="cosine", data=data)
        .select("user_id", "similarity")
        .sort("user_id"),
    ]
    explanation = segue.explain(model, 103, item=40, data=data)
    return [
        *(table.drop("score", "probability", "similarity", strict=False) for table in found),
        np.round(found[0]["score"].to_numpy(), 4).tolist(),
        np.round(found[4]["similarity"].to_numpy(), 4).tolist(),
        {name: round(estimate.mean, 6) for name, estimate in evaluation.estimates.items()},
        explanation.rank,
    ]


@pytest.mark.parametrize("key", MODELS)
@given(users=st.permutations(range(30)), items=st.permutations(range(20)))
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
def test_answers_do_not_depend_on_the_codes_of_the_data(
    models: dict[str, TrainedModel], data: Dataset, key: str, users: list[int], items: list[int]
) -> None:
    expected, actual = answers(models[key], data), answers(models[key], permuted(data, users, items))
    for one, other in zip(actual, expected, strict=True):
        assert one.equals(other) if isinstance(one, pl.DataFrame) else one == other


def newer_log() -> pl.DataFrame:
    """The same log with a new user, a new item and a new action, whose ids sort first."""
    new = LOG.head(8).with_columns(pl.lit(1).alias("user_id").cast(pl.Int64))
    new = new.with_columns(pl.lit("add").alias("action"), pl.Series("item_id", [-10, *new["item_id"][1:].to_list()]))
    return pl.concat([new, LOG])


def test_a_newer_log_reports_what_the_model_does_not_know(models: dict[str, TrainedModel], data: Dataset) -> None:
    newer = segue.load(newer_log())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert segue.recommend(models["ease"], 103, data=newer).equals(segue.recommend(models["ease"], 103, data=data))
    with pytest.warns(SegueWarning, match="items not in the catalog: '-10'"):
        table = segue.recommend(models["ease"], 1, data=newer)
    assert "items not in the catalog" in table["notes"][0]
    with pytest.warns(SegueWarning, match="actions not in training, whose events are left out: 'add'"):
        segue.recommend(models["gru4rec"], 1, data=newer)
    with pytest.warns(SegueWarning, match="1 of 31 queries are of users other than those"):
        segue.evaluate(models["ease"], segue.split(newer))
    with pytest.warns(SegueWarning, match="items not in the catalog: '-10' .1 events left out"):
        segue.similar(models["ease"], 50, measure="cosine", data=newer)


CALLS: list[Callable[[TrainedModel, Dataset], Any]] = [
    lambda model, data: segue.recommend(model, 103, data=data),
    lambda model, data: segue.recommend(model, segue.split(data).test),
    lambda model, data: segue.rank(model, 103, items=[20], data=data),
    lambda model, data: segue.explain(model, 103, item=20, data=data),
    lambda model, data: segue.similar(model, 20, measure="cosine", data=data),
    lambda model, data: segue.similar(model, user=103, data=data),
    lambda model, data: segue.evaluate(model, segue.split(data)),
    lambda model, data: segue.evaluate(model, segue.split(data).valid),
]


@pytest.mark.parametrize("call", CALLS)
def test_a_catalog_without_overlap_is_rejected(models: dict[str, TrainedModel], call: Any) -> None:
    other = segue.load(LOG.with_columns(pl.col("item_id") + 1))
    with pytest.raises(ValueError, match=r"data=: none of the 20 items of .*, such as '1', '11', is in the catalog"):
        call(models["item_knn"], other)


def test_models_on_other_queries_are_not_compared(models: dict[str, TrainedModel], data: Dataset) -> None:
    newer = segue.load(
        pl.concat(
            [LOG, LOG.head(3).with_columns(pl.lit(999).alias("item_id").cast(pl.Int64), pl.col("timestamp") + 10**7)]
        )
    )
    with (
        pytest.raises(ValueError, match="models: 'ease' and 'popular' were evaluated on 29 and 30 queries"),
        pytest.warns(SegueWarning),
    ):
        segue.compare({"ease": models["ease"], "popular": {}}, newer)
