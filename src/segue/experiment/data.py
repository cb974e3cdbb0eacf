"""The data of an experiment: loaded as its plan says, and found again for a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from segue.core.features import described
from segue.core.files import read_json
from segue.core.types import Dataset, Feature, Vocab
from segue.data import load, open_dataset
from segue.data.splits import split
from segue.experiment.paths import SETTINGS
from segue.experiment.plan import Plan, read_plan
from segue.experiment.run_folder import METRICS

__all__ = ["check_inputs", "limited", "load_data", "reopen", "tell_inputs", "training_part", "user_features"]

Say = Callable[[str], None]


def load_data(plan: Plan, say: Say | None = None) -> Dataset:
    """Load, filter and, where the plan has a limit, cut the data of ``plan``."""
    task = plan.task
    data = load(task.data, columns=task.columns, target=task.target, filters=plan.filters, say=say)
    return _cut(data, plan, say)


def reopen(run: Path) -> Dataset:
    """The prepared data that the run in this folder was trained on.

    Raises:
        ValueError: it is gone, or is not what it was.
    """
    plan, record = read_plan(run / SETTINGS), read_json(run / METRICS)
    folder = record["data_folder"]
    again = f"segue train {plan.task.model} --data {plan.task.data}"
    if folder is None or not Path(folder).is_dir():
        raise ValueError(f"the prepared data of this run is gone (it was in {folder}); prepare it again: {again}")
    data = open_dataset(Path(folder))
    if (found := data.header.get("hash")) != record["data_hash"]:
        raise ValueError(f"{folder}: its hash is {found}, the run saw {record['data_hash']}; train again: {again}")
    return _cut(data, plan, None)


def training_part(run: Path) -> Dataset:
    """The part of the data that the run in this folder learned from.

    Raises:
        ValueError: the data is gone, or is not what it was.
    """
    return split(reopen(run), read_plan(run / SETTINGS).split).train


def limited(data: Dataset, count: int) -> Dataset:
    """The first ``count`` users of ``data``, with the whole catalogue."""
    if count >= data.n_users:
        return data
    features = None if data.user_features is None else data.user_features.head(count)
    return replace(
        data,
        users=Vocab(lambda: data.users.ids.head(count), count),
        histories=data.histories.take(np.arange(count)),
        user_features=features,
        header={**data.header, "limit": count},
    )


def check_inputs(plan: Plan, told_time: bool) -> None:
    """Whether a model that reads the moment of asking will be told it.

    Raises:
        ValueError: it will not.
    """
    by_name = "query_time" in getattr(plan.model, "inputs", ())
    if (by_name or getattr(plan.model, "query_time", False)) and not told_time:
        setting = "model.inputs: 'query_time'" if by_name else "model.query_time"
        raise ValueError(
            f"{setting} needs the time of each question, and this split does not tell it; "
            "--set split.tell_time=true does, on a board of its own"
        )


def tell_inputs(plan: Plan, data: Dataset, say: Say) -> None:
    """Say which features the model reads, and which columns it does not and why."""
    for name, table in (("item_features", data.item_features), ("user_features", data.user_features)):
        if name in getattr(plan.model, "inputs", ()):
            read, left = described(table)
            say(f"{name}: read {', '.join(f'{feature.name} ({_kind(feature)})' for feature in read) or 'none'}")
            for column, reason in left.items():
                say(f"{name}: {column} is not read: {reason}")


def _kind(feature: Feature) -> str:
    return {
        "category": f"a category, {len(feature.categories)} known",
        "tags": f"tags, {len(feature.categories)} known",
        "number": "a number",
        "vector": f"a vector of {feature.size}",
    }[feature.kind]


def user_features(data: Dataset) -> list[str]:
    """What is known of users, by name."""
    names = [] if data.user_features is None else data.user_features.collect_schema().names()
    return [name for name in names if name != "id"]


def _cut(data: Dataset, plan: Plan, say: Say | None) -> Dataset:
    if plan.task.limit is None:
        return data
    if plan.split.kind == "given":
        raise ValueError(f"--limit {plan.task.limit}: split '{plan.split.name}' was made by others for all users")
    if say is not None:
        say(f"limit: the first {min(plan.task.limit, data.n_users):,} of {data.n_users:,} users; not for results")
    return limited(data, plan.task.limit)
