"""What a model, and the models that it combines, read of a query.

Python, the command line and the service describe with it what a query lacks, so that their notes are the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from segue.core.model import Recommender, nested_models

__all__ = [
    "describe_ungiven",
    "describe_unread_columns",
    "event_context_inputs",
    "find_unknown_categories",
    "names_column",
    "nested_configs",
    "query_context_columns",
    "query_context_inputs",
    "query_time_inputs",
]

EVENT_INPUTS: Mapping[str, str] = {
    **{name: name for name in ("value", "action", "context")},
    **dict.fromkeys(("gap", "session_position", "hour", "weekday", "month", "season"), "time"),
}
"""Inputs of a model that a list of item ids does not provide, and the column that each reads."""


def nested_configs(model: Recommender) -> list[Any]:
    """Return the settings of a model, and of those that it combines.

    The input ``context`` of models that read that of the query is ``query_context``, if the data has context.
    """
    return [_config_of(one) for one in nested_models(model)]


def _config_of(model: Recommender) -> Any:
    config: Any = getattr(model, "config", None)
    if not getattr(model, "reads_query_context", False):
        return config
    names = [name for name in config.inputs if name != "context" or model.schema.event_context]
    return SimpleNamespace(inputs=["query_context" if name == "context" else name for name in names])


def query_context_inputs(configs: Iterable[Any]) -> list[str]:
    """Return the inputs that read the context of the query.

    Args:
        configs: settings of models, see :func:`nested_configs`.
    """
    return [name for name in _inputs(configs) if name.partition(":")[0] == "query_context"]


def query_context_columns(model: Recommender) -> frozenset[str]:
    """Return the columns of the context of the query that a model reads.

    Those of the models that it combines are included.
    """
    every = [one.name for one in model.schema.event_context]
    inputs = query_context_inputs(nested_configs(model))
    return frozenset(name for text in inputs for name in ([text.partition(":")[2]] if ":" in text else every))


def names_column(columns: Collection[str], context: Mapping[str, Any] | None) -> bool:
    """Return whether the context has one of ``columns``; its value may be null."""
    return any(name in columns for name in context or ())


def query_time_inputs(configs: Iterable[Any]) -> list[str]:
    """Return the inputs and settings that read the time of the query."""
    every = list(configs)
    of_context = query_context_inputs(every)
    inputs = [name for name in _inputs(every) if name.startswith("query_") and name not in of_context]
    is_setting = any(getattr(config, "query_time", False) is True for config in every)
    return list(dict.fromkeys([*inputs, *(["query_time"] if is_setting else [])]))


def event_context_inputs(configs: Iterable[Any]) -> list[str]:
    """Return the inputs that read the context of events."""
    return [name for name in _inputs(configs) if name.partition(":")[0] == "context"]


def describe_ungiven(model: Recommender, key: str, *, has_context: bool, has_time: bool) -> list[str]:
    """Describe inputs of a model that read what is not given with a query.

    Args:
        key: name of the model in the text.
    """
    configs = nested_configs(model)
    return [
        f"'{key}' also reads {', '.join(inputs)}, which is unknown here; give {name}"
        for inputs, is_given, name in (
            (query_context_inputs(configs), has_context, "context"),
            (query_time_inputs(configs), has_time, "time"),
        )
        if inputs and not is_given
    ]


def describe_unread_columns(model: Recommender, key: str, given: Collection[str] | None = None) -> list[str]:
    """Describe inputs of a model that a history does not provide.

    Args:
        given: columns of which at least one event has a value; ``None``: the history is a list of item ids.
    """
    column_of = {name: EVENT_INPUTS.get(name.partition(":")[0]) for name in _inputs(nested_configs(model))}
    missing = [name for name, column in column_of.items() if column is not None and column not in (given or ())]
    reason = "item ids alone do not provide" if given is None else "no event of the history has"
    return [f"'{key}' also reads {', '.join(missing)}, which {reason}"] if missing else []


def find_unknown_categories(model: Recommender, name: str, values: Sequence[str]) -> list[str]:
    """Return the categories or tags of a user feature that a model does not know.

    A model that reads prefixes of the values knows those whose prefix it knows. What one of several combined models
    knows is known.
    """
    unknown = list(dict.fromkeys(values))
    for one in nested_models(model):
        prefixes = getattr(getattr(one, "config", None), "prefixes", None)
        length = prefixes.get(name) if isinstance(prefixes, Mapping) else None
        for feature in one.schema.user_features:
            if feature.name == name:
                if feature.kind not in ("category", "tags"):
                    return []
                known = set(feature.categories)
                unknown = [value for value in unknown if value[:length] not in known]
    return unknown


def _inputs(configs: Iterable[Any]) -> list[str]:
    """Return the inputs of models, each once."""
    return list(dict.fromkeys(name for config in configs for name in getattr(config, "inputs", ())))
