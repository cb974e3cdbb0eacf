"""Find inputs of a model that the queries do not provide.

Shapes: N queries, T events.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.events import MAX_SECONDS
from segue.core.messages import arg
from segue.core.types import Queries
from segue.experiment.inference.argument_checks import describe_value
from segue.serving.users.model_inputs import (
    event_context_inputs,
    nested_configs,
    query_context_inputs,
    query_time_inputs,
)

__all__ = ["describe_missing_inputs", "parse_time"]


def describe_missing_inputs(model: Any, key: str, queries: Queries) -> list[str]:
    """Describe each input of a model that none of the queries has.

    Args:
        model: a trained model.
        key: its name in the messages.
    """
    if not len(queries):
        return []
    configs, history, found = nested_configs(model), queries.history, list[str]()
    if (inputs := query_time_inputs(configs)) and not _has_times(queries):
        found.append(
            f"'{key}' reads {', '.join(inputs)}, but the queries have no times, so that the model treats them as "
            "unknown; split with use_query_time=true"
        )
    for inputs, columns, what, advice in (
        (query_context_inputs(configs), queries.context, "queries", "split with use_query_context=true"),
        (
            event_context_inputs(configs),
            history.context if history.size else None,
            "events of the histories",
            "load them with the data",
        ),
    ):
        if columns is not None and (names := _missing_columns(model, inputs, columns)):
            found.append(
                f"'{key}' reads {', '.join(inputs)}, but the {what} have no known value of {', '.join(names)}, so that "
                f"the model treats {'it' if len(names) == 1 else 'them'} as unknown; {advice}"
            )
    return found


def parse_time(time: Any) -> int:
    """Convert the time of a query to Unix seconds.

    Args:
        time: Unix seconds; or a date and time, as a datetime or text in ISO 8601, in UTC where it has no time zone.

    Raises:
        ValueError: anything else, or a time before 1970 or in milliseconds.
    """
    moment = time
    if isinstance(time, str):
        try:
            moment = datetime.fromisoformat(time.strip())
        except ValueError:
            moment = None
    if isinstance(moment, datetime):
        moment = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    is_number = isinstance(moment, int | float | np.integer | np.floating) and not isinstance(moment, bool)
    if not is_number or not 0 <= moment < MAX_SECONDS:
        raise ValueError(
            f"{arg('time')}: got {describe_value(time)}, expected Unix seconds such as 1700000000, a datetime, or text "
            "such as 2024-05-01T12:00"
        )
    return int(moment)


def _has_times(queries: Queries) -> bool:
    return queries.times is not None and (queries.time_known is None or bool(queries.time_known.any()))


def _missing_columns(model: Any, inputs: Iterable[str], columns: Mapping[str, NDArray[Any]]) -> list[str]:
    """Return the context columns that the inputs read and that have no known value."""
    every = [one.name for one in model.schema.event_context]
    names = dict.fromkeys(name for text in inputs for name in ([text.partition(":")[2]] if ":" in text else every))
    return [name for name in names if name not in columns or not _has_known(columns[name])]


def _has_known(column: NDArray[Any]) -> bool:
    return bool((np.isfinite(column) if column.dtype.kind == "f" else column >= 0).any())
