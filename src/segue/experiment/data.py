"""Load the data of an experiment as its plan says, or that of a finished run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl

from segue.core.config import parse
from segue.core.features import infer_features
from segue.core.files import read_json
from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Dataset, Feature, Split, Vocab
from segue.data import load, open_dataset
from segue.data.filters import Filters
from segue.data.splits import SplitSettings, split
from segue.experiment.paths import bundle_folder
from segue.experiment.plan import Plan
from segue.experiment.run_folder import METRICS, read_run_plan
from segue.experiment.text import encode_text
from segue.features.knowledge.derive import KnowledgeSettings, derive_knowledge
from segue.features.text.cache import cache_folder
from segue.features.text.encode_items import add_text_features
from segue.serving.users.model_inputs import query_context_inputs, query_time_inputs

__all__ = [
    "limit_users",
    "load_data",
    "load_filtered",
    "load_run_data",
    "load_training_data",
    "report_inputs",
    "split_data",
    "user_feature_names",
    "validate_inputs",
]

Log = Callable[[str], None]


def load_data(plan: Plan, log: Log | None = None, progress: bool = False) -> Dataset:
    """Load the data of ``plan``.

    It is filtered, its users are limited, triples are derived, and its text is encoded."""
    task = plan.task
    layout: dict[str, Any] = {"columns": task.columns, "separator": task.separator, "target": task.target}
    data = _limit(load(task.data, **layout, filters=plan.filters, log=log), plan, log)
    data = derive_knowledge(data, plan.knowledge, log)
    run = Run(plan.run.seed, device=plan.run.device, show_progress=progress)
    return add_text_features(data, plan.text, run, cache_folder(), log)


def load_run_data(run: Path) -> Dataset:
    """Load the prepared data that the run in this folder was trained on.

    Raises:
        ValueError: the data is gone, or it or the settings have changed.
    """
    plan, record = read_run_plan(run), read_json(run / METRICS)
    folder = record["data_folder"]
    command = f"segue train {plan.task.model} --data {plan.task.data}"
    if folder is None or not Path(folder).is_dir():
        raise ValueError(f"{run.name}: its prepared data is gone (it was in {folder}); prepare it again: {command}")
    data = open_dataset(Path(folder))
    if (found := data.header.get("hash")) != record["data_hash"]:
        raise ValueError(f"{folder}: got hash {found}, the run expected {record['data_hash']}; train again: {command}")
    return _add_stored_text(derive_knowledge(_limit(data, plan, None), plan.knowledge), plan, run)


def _add_stored_text(data: Dataset, plan: Plan, run: Path) -> Dataset:
    """Add the text vectors that a run stores with its catalog.

    If they are not there, the text is encoded again; so are texts of users, which runs do not store.
    """
    again = Run(plan.run.seed, device=plan.run.device)
    if plan.text.user_columns:
        data = add_text_features(data, plan.text.model_copy(update={"columns": ()}), again, cache_folder())
    if not plan.text.columns:
        return data
    catalog = pl.scan_parquet(bundle_folder(run) / "items.parquet")
    if data.item_features is None or plan.text.name not in catalog.collect_schema().names():
        return add_text_features(data, plan.text.model_copy(update={"user_columns": ()}), again, cache_folder())
    vectors = catalog.select("id", plan.text.name).collect()
    if not vectors["id"].equals(data.items.ids):
        raise ValueError(f"{run.name}: its catalog has other items than its data; train again")
    return replace(data, item_features=data.item_features.collect().with_columns(vectors[plan.text.name]).lazy())


def load_training_data(run: Path) -> Dataset:
    """Load the training part of the data of the run in this folder.

    Raises:
        ValueError: the data is gone or has changed.
    """
    return split(load_run_data(run), read_run_plan(run).split).train


def limit_users(data: Dataset, count: int) -> Dataset:
    """Keep the first ``count`` users of ``data``, and the whole catalog."""
    if count >= data.n_users:
        return data
    features = None if data.user_features is None else data.user_features.head(count)
    return replace(
        data,
        users=Vocab(lambda: data.users.ids.head(count), count, data.users.id_type),
        histories=data.histories.take(np.arange(count)),
        user_features=features,
        header={**data.header, "max_users": count},
    )


def validate_inputs(plan: Plan, has_query_times: bool, has_query_context: bool) -> None:
    """Check that a model that reads the time or the context of the query gets it.

    Raises:
        ValueError: the queries have no times, or no context.
    """
    configs = [plan.model, *_inner_settings(plan.model)]
    of_context = query_context_inputs(configs)
    if of_context and not has_query_context:
        raise ValueError(
            f"model.inputs: '{of_context[0]}' needs the context of each query, which this split withholds; add --set "
            "split.use_query_context=true (results are not comparable with those of splits without it)"
        )
    if (inputs := query_time_inputs(configs)) and not has_query_times:
        is_setting = getattr(plan.model, "query_time", False) is True
        setting = "model.query_time" if is_setting else f"model.inputs: '{inputs[0]}'"
        raise ValueError(
            f"{setting} needs the time of each query, which this split withholds; add --set split.use_query_time=true "
            "(results are not comparable with those of splits without it)"
        )


def _inner_settings(config: Any) -> Iterator[SimpleNamespace]:
    """Yield the settings of models that a model combines, at any depth."""
    groups = [getattr(config, name, None) for name in ("settings", "base_settings")]
    while groups:
        group = groups.pop()
        if isinstance(group, Mapping):
            names = [name for name in group.get("inputs") or () if isinstance(name, str)]
            yield SimpleNamespace(inputs=names, query_time=group.get("query_time"))
            groups += group.values()


def report_inputs(plan: Plan, data: Dataset, log: Log) -> None:
    """Log which features the model reads, and which columns it ignores and why."""
    required = model_class(plan.task.model).required_features
    for name, table in (("item_features", data.item_features), ("user_features", data.user_features)):
        if name in (*getattr(plan.model, "inputs", ()), *required):
            used, ignored = infer_features(table)
            names = ", ".join(f"{feature.name} ({_describe_kind(feature)})" for feature in used)
            log(f"{name}: using {names or 'none'}")
            for column, reason in ignored.items():
                log(f"{name}: ignoring {column}: {reason}")
    for columns, kind in ((plan.text.columns, "item"), (plan.text.user_columns, "user")):
        field = f"{kind}_features"
        if not columns or field in (*getattr(plan.model, "inputs", ()), *required) or getattr(plan.model, field, False):
            continue
        hints = {"inputs": f"add '{field}' to model.inputs", field: f"set model.{field}=true"}
        hint = next((text for name, text in hints.items() if name in type(plan.model).model_fields), None)
        log(
            f"text: {plan.text.name} has no effect: '{plan.task.model}' reads no {kind} features"
            + ("" if hint is None else f" with these settings; to use it, {hint}")
        )


def _describe_kind(feature: Feature) -> str:
    return {
        "category": f"category, {len(feature.categories)} values",
        "tags": f"tags, {len(feature.categories)} values",
        "number": "number",
        "vector": f"vector of {feature.size}",
    }[feature.kind]


def user_feature_names(data: Dataset) -> list[str]:
    """Return the names of the user features."""
    names = [] if data.user_features is None else data.user_features.collect_schema().names()
    return [name for name in names if name != "id"]


def _limit(data: Dataset, plan: Plan, log: Log | None) -> Dataset:
    count = plan.task.max_users
    if count is None:
        return data
    if plan.split.strategy == "predefined":
        raise ValueError(f"--max-users {count}: split '{plan.split.name}' is predefined for all users")
    if log is not None:
        log(f"max_users: using the first {min(count, data.n_users):,} of {data.n_users:,} users; not for results")
    return limit_users(data, count)


def split_data(data: Any, settings: Mapping[str, Mapping[str, Any]]) -> Split:
    """Return a split, loading and splitting the data if necessary.

    Data is loaded with ``filters``, its text is encoded with ``text``, and it is split with ``split``, by default by
    leave-one-out.

    Raises:
        ValueError: settings that cannot be applied, as the data is loaded or split already.
    """
    if isinstance(data, Split):
        if given := [*settings["filters"], *settings["split"], *_grouped(settings, "text", "knowledge")]:
            raise ValueError(
                f"{', '.join(given)}: got a split, to which filters, text and settings of a split cannot be applied; "
                "use them in segue.load, segue.add_text or segue.split"
            )
        return data
    dataset = load_filtered(data, settings)
    return split(dataset, parse(SplitSettings, settings["split"], "split"))


def _grouped(settings: Mapping[str, Mapping[str, Any]], *groups: str) -> list[str]:
    return [f"{group}.{name}" for group in groups for name in settings[group]]


def load_filtered(data: Any, settings: Mapping[str, Mapping[str, Any]]) -> Dataset:
    """Load data with filters, derive triples, and encode its text.

    A dataset is loaded already; triples and text follow from the groups ``knowledge`` and ``text``, if they have
    settings.

    Raises:
        ValueError: filters for a dataset, or unusable settings of text.
    """
    filters, text = settings["filters"], settings["text"]
    if not isinstance(data, Dataset):
        data = load(data, filters=parse(Filters, filters, "filters"))
    elif filters:
        raise ValueError(
            f"{', '.join(filters)}: got a dataset, which is loaded already; use filters in segue.load(..., "
            f"{next(iter(filters))}=...)"
        )
    data = derive_knowledge(data, parse(KnowledgeSettings, settings["knowledge"], "knowledge"))
    return encode_text(data, text, Run(), cache_folder()) if text else data
