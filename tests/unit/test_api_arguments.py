"""Arguments of ``segue.train``, ``evaluate``, ``compare`` and ``cross_validate``: each is used or rejected."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

import segue
from segue.core.bundle import TrainedModel
from segue.core.messages import SegueWarning
from segue.core.types import Dataset, Ranks, Split
from segue.training import Callback, TrainingState

SOURCE = "simulated?users=80&items=50&seed=3"
SMALL: dict[str, Any] = {"embedding_dim": 8, "hidden_dim": 8, "recipe": "none"}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return segue.load(SOURCE)


@pytest.fixture(scope="module")
def split(data: Dataset) -> Split:
    return segue.split(data)


@pytest.fixture(scope="module")
def model(split: Split) -> TrainedModel:
    return segue.train("ease", split, l2=10)


def overall(ranks: Ranks) -> np.ndarray:
    return np.ones(len(ranks))


class Count(Callback):
    def __init__(self) -> None:
        self.epochs = 0

    def on_epoch_end(self, state: TrainingState) -> None:
        self.epochs += 1


def test_compare_applies_filters_and_the_split() -> None:
    given = segue.compare(
        ["popular", "random"], SOURCE, metrics="ndcg@10", min_user_events=8, strategy="random", drop_cold_targets=True
    )
    parts = segue.split(segue.load(SOURCE, min_user_events=8), "random", drop_cold_targets=True)
    expected = segue.compare(["popular", "random"], parts, metrics="ndcg@10")
    assert given.table.drop("seconds").equals(expected.table.drop("seconds"))


@pytest.mark.parametrize("setting", [{"min_user_events": 8}, {"strategy": "random"}, {"split.drop_cold_targets": True}])
def test_compare_rejects_settings_of_data_for_a_split(split: Split, setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(setting)).rpartition('.')[2]}: got a split"):
        segue.compare(["popular", "random"], split, **setting)


def test_compare_rejects_filters_for_a_dataset(data: Dataset) -> None:
    with pytest.raises(ValueError, match="min_user_events: got a dataset, which is loaded already"):
        segue.compare(["popular", "random"], data, min_user_events=3)
    with pytest.raises(ValueError, match="sampled: compare does not use this setting"):
        segue.compare(["popular", "random"], data, sampled=5)
    with pytest.raises(ValueError, match=r"seed: compare takes several, as in seeds=\(0, 1\)"):
        segue.compare(["popular", "random"], data, seed=5)


@pytest.mark.parametrize("name", ["min_user_events", "strategy", "ks", "sampled", "split.seed", "run.seed"])
def test_train_rejects_settings_that_it_does_not_use(split: Split, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: train does not use this setting"):
        segue.train("popular", split, **{name: 1})


def test_cross_validation_applies_or_rejects_settings(data: Dataset) -> None:
    one = segue.cross_validate(["popular"], SOURCE, folds=2, metrics="ndcg@10", min_user_events=8)
    same = segue.cross_validate(["popular"], segue.load(SOURCE, min_user_events=8), folds=2, metrics="ndcg@10")
    other = segue.cross_validate(["popular"], data, folds=2, metrics="ndcg@10", strategy="user_k_fold")
    assert one.values == same.values
    assert one.values != other.values
    for settings, message in (
        ({"strategy": "random"}, "strategy: got 'random', expected k_fold or user_k_fold"),
        ({"test": 0.3}, "test: not used by cross-validation"),
        ({"min_value": 3}, "min_value: got a dataset"),
        ({"sampled": 3}, "sampled: cross_validate does not use"),
    ):
        with pytest.raises(ValueError, match=message):
            segue.cross_validate(["popular"], data, folds=2, **settings)


def test_t_intervals_stay_in_the_range_of_the_metric() -> None:
    from segue.experiment.cross_validate import CrossValidationResult

    result = CrossValidationResult(("hit_rate@10", "mine"), {"a": {"hit_rate@10": (0.9, 0.99), "mine": (0.9, 0.99)}})
    rows = result.table.rows(named=True)
    assert rows[0]["high"] == 1.0
    assert rows[1]["high"] > 1.0
    assert "95 % t intervals over folds" in repr(result)


def test_metrics_of_one_name_are_rejected(model: TrainedModel, split: Split) -> None:
    def named(name: str) -> Any:
        def function(ranks: Ranks, k: int = 5) -> np.ndarray:
            return np.ones(len(ranks))

        function.__name__ = name
        return function

    with pytest.raises(ValueError, match="two different functions are named 'a@5'"):
        segue.evaluate(model, split, metrics=[named("a"), named("a")])
    with pytest.raises(ValueError, match="a function is named 'rmse'"):
        segue.evaluate(model, split, metrics=[rmse])
    with pytest.raises(ValueError, match="takes no parameters, expected a function"):
        segue.evaluate(model, split, metrics=[lambda: 1.0])


def rmse(ranks: Ranks) -> np.ndarray:
    return np.ones(len(ranks))


def test_groups_by_user_id(model: TrainedModel, split: Split) -> None:
    users = split.train.users.decode(split.test.queries.users)
    labels = {user: ["even", "odd"][row % 2] for row, user in enumerate(users)}
    expected = segue.evaluate(model, split, metrics="ndcg@10", by=list(labels.values())).table
    table = pl.DataFrame({"user_id": list(labels), "side": list(labels.values())})
    for by in (labels, table, table.to_pandas()):
        assert segue.evaluate(model, split, metrics="ndcg@10", by=by).table.equals(expected)
    assert segue.evaluate(model, split, by={users[0]: "first"}).group_sizes == {"first": 1, "unknown": 79}
    with pytest.raises(ValueError, match="expected user_id and one column of labels"):
        segue.evaluate(model, split, by=table.rename({"side": "user", "user_id": "side"}))
    with pytest.raises(ValueError, match="none of 1 user ids is that of a query"):
        segue.evaluate(model, split, by={"nobody": "a"})
    with pytest.raises(ValueError, match="need a split, which has the ids"):
        segue.evaluate(model, split.test, by=labels)
    with pytest.raises(ValueError, match="unknown 'zzz'; known: age") as caught:
        segue.evaluate(model, split, by="zzz")
    assert "need a split" not in str(caught.value)


def test_python_and_the_settings_choose_one_headline(split: Split, model: TrainedModel) -> None:
    result = segue.compare({"a": model, "popular": {}, "random": {}}, split)
    assert result.metrics[0] == "ndcg@10"
    assert "best first by ndcg@10" in repr(result)
    assert segue.compare(["popular", "random"], split, ks=(5,)).metrics[0] == "ndcg@5"


def test_scalars_of_numpy_are_settings(split: Split, data: Dataset) -> None:
    settings = {"l2": np.float32(10), "recipe": "none"}
    assert segue.train("ease", split, seed=np.int64(1), **settings).metadata["seed"] == 1
    segue.compare(["ease", "popular"], split, seeds=np.arange(2), ks=np.array([5])).table  # noqa: B018
    segue.cross_validate({"ease": {"l2": np.int64(3)}}, data, folds=np.int64(2))
    with pytest.raises(ValueError, match=r"l2: got object .*, expected a number"):
        segue.train("ease", split, l2=object())


def test_functions_and_callbacks_in_comparisons(split: Split, data: Dataset) -> None:
    import torch

    def loss(hidden_MD: Any, vectors_ID: Any, bias_I: Any, targets_M: Any, seen: Any) -> Any:
        return torch.nn.functional.cross_entropy(hidden_MD @ vectors_ID.T, targets_M)

    count = Count()
    models = {"gru4rec": {"embedding_dim": 8, "hidden_dim": 8}, "popular": {}}
    shared: dict[str, Any] = {"loss": loss, "metric": overall, "callbacks": [count], "epochs": 1, "metrics": "ndcg@10"}
    segue.compare(models, split, **shared)
    assert count.epochs == 1
    segue.cross_validate(models, data, folds=2, **shared)
    assert count.epochs == 3


@pytest.mark.parametrize("seed", [-1, 1.5, True, "1"])
def test_seeds_are_checked(split: Split, model: TrainedModel, seed: Any) -> None:
    message = "seed.*expected a whole number of at least 0"
    with pytest.raises(ValueError, match=message):
        segue.train("ease", split, seed=seed)
    with pytest.raises(ValueError, match=message):
        segue.evaluate(model, split, seed=seed)
    with pytest.raises(ValueError, match=message):
        segue.compare(["ease", "popular"], split, seeds=[seed])
    with pytest.raises(ValueError, match=message):
        segue.cross_validate(["ease"], split.train, seed=seed)


def test_lists_and_devices_are_checked(split: Split, model: TrainedModel) -> None:
    with pytest.raises(ValueError, match=r"ks: got 10, expected a list such as \[5, 10\]"):
        segue.evaluate(model, split, ks=10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"seeds: got 2, expected a list such as \(0, 1\)"):
        segue.compare(["ease", "popular"], split, seeds=2)  # type: ignore[arg-type]
    for name in ("ease", "gru4rec"):
        with pytest.raises(ValueError, match="device: got 'gpu', expected cpu, cuda"):
            segue.train(name, split, device="gpu")
        with pytest.raises(ValueError, match="device: got 'cuda:99', which PyTorch cannot use"):
            segue.train(name, split, device="cuda:99")


def test_callbacks_and_losses_are_checked(split: Split) -> None:
    for callbacks, message in (
        (Count(), "got one Count, expected a list"),
        ([Count], "got the class Count, expected an instance"),
        ([lambda state: None], "expected an instance of segue.training.Callback"),
    ):
        with pytest.raises(ValueError, match=message):
            segue.train("gru4rec", split, callbacks=callbacks, **SMALL)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"loss '.*nothing': returned NoneType, expected a tensor with one value"):
        segue.train("gru4rec", split, loss=nothing, **SMALL)


def nothing(hidden_MD: Any, vectors_ID: Any, bias_I: Any, targets_M: Any, seen: Any) -> Any:
    return None


@pytest.mark.parametrize("settings", [{"epochs": 3}, {"training.patience": 3}, {"loss": "bce"}, {"loss": nothing}])
def test_solvers_reject_settings_of_the_training_loop(split: Split, settings: dict[str, Any]) -> None:
    message = f"{next(iter(settings))}: 'ease' is not trained by the training loop"
    with pytest.raises(ValueError, match=message):
        segue.train("ease", split, **settings)
    with pytest.raises(ValueError, match=message):
        segue.compare(["ease", "popular"], split, **settings)


def test_settings_of_some_models_are_pointed_out(split: Split) -> None:
    with pytest.raises(ValueError, match=r"k: 'popular' has no such setting; .*\{'item_knn': \{'k': 5\}\}"):
        segue.compare(["item_knn", "popular"], split, k=5)


def test_the_catalog_is_compared_by_ids(model: TrainedModel, split: Split) -> None:
    other = segue.load(SOURCE)
    renamed = Dataset("other", other.users, segue_vocab(f"x{n}" for n in range(other.n_items)), other.histories)
    with pytest.raises(ValueError, match="none of the 50 items of the queries, such as 'x0'"):
        segue.evaluate(model, segue.split(renamed))
    renamed = Dataset("other", segue_vocab(f"x{n}" for n in range(other.n_users)), other.items, other.histories)
    with pytest.warns(SegueWarning, match="80 of 80 queries are of users other than those"):
        segue.evaluate(model, segue.split(renamed))


def segue_vocab(ids: Any) -> Any:
    from segue.core.vocab import Vocab

    return Vocab(list(ids))
