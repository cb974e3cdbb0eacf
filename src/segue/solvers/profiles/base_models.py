"""Models within a model: built by key and stored in its arrays."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from segue.core.config import parse
from segue.core.model import Model, Solver, StateArrays
from segue.core.registry import model_class
from segue.core.types import DataSchema

__all__ = ["base_arrays", "build_base", "check_base", "restore_base", "restore_member"]

MAX_MISSING_BYTES = 2_000_000
"""Size of arrays that may be missing in a file before a model is created to name them."""


def check_base(key: str, settings: Mapping[str, Any], excluded: Sequence[str]) -> None:
    """Check that ``key`` is a model that can be a base, and its ``settings``.

    Args:
        excluded: keys of models that have bases themselves.

    Raises:
        ValueError: the key or a setting is unknown, or the model is trained in epochs or has bases itself.
    """
    kind = model_class(key)
    if key in excluded or not issubclass(kind, Solver):
        reason = "has base models itself" if key in excluded else "is trained in epochs"
        raise ValueError(f"base: '{key}' {reason}; expected a model that does not, such as popular or user_knn")
    parse(kind.Config, settings, f"base_settings: {key}")


def build_base(key: str, settings: Mapping[str, Any], schema: DataSchema) -> Solver:
    """Build the untrained model ``key``, which :func:`check_base` has checked."""
    kind = model_class(key)
    model = kind(parse(kind.Config, settings, f"model.base_settings: {key}"), schema)
    assert isinstance(model, Solver)
    return model


def base_arrays(model: Solver, name: str) -> dict[str, Any]:
    """Return the arrays of a base model, with names that start with ``name``."""
    return {f"{name}/{key}": array for key, array in model.arrays().items()}


def restore_base(model: Solver, schema: DataSchema, arrays: StateArrays, name: str) -> None:
    """Restore a base model from the arrays of the whole model.

    Args:
        schema: of the whole model; it has the features that any base reads.

    Raises:
        ValueError: an array is missing or has another shape.
    """
    model.schema = replace(schema)
    own = {key.removeprefix(f"{name}/"): array for key, array in arrays.items() if key.startswith(f"{name}/")}
    try:
        model.restore(own)
    except ValueError as error:  # it names arrays as the base model does
        raise ValueError(re.sub(r"(array '|events\.)", rf"\g<1>{name}/", str(error))) from None


def restore_member(
    key: str, settings: Mapping[str, Any], schema: DataSchema, arrays: StateArrays, reads_features: tuple[bool, bool]
) -> Model:
    """Create a trained model from its arrays, whose names start with its key.

    Args:
        settings: those of the model and of its training.
        schema: of the whole model; it has the features that any model within it reads.
        reads_features: whether the model reads item features, and user features.

    Raises:
        ValueError: the arrays do not fit the settings.
    """
    schema = replace(
        schema,
        item_features=schema.item_features if reads_features[0] else (),
        user_features=schema.user_features if reads_features[1] else (),
    )
    kind = model_class(key)
    config = kind.Config(**{name: one for name, one in settings.items() if name in kind.Config.model_fields})
    own = {name.removeprefix(f"{key}/"): one for name, one in arrays.items() if name.startswith(f"{key}/")}
    size = sum(array.nbytes for array in own.values())
    if kind.exceeds_memory(config, schema, size + MAX_MISSING_BYTES):
        raise ValueError(f"arrays of the member '{key}': {size} bytes, its settings need larger arrays")
    model = kind(config, schema)
    try:
        model.restore(own)
    except ValueError as error:  # it names arrays as the model does
        raise ValueError(re.sub(r"(array '|events\.)", rf"\g<1>{key}/", str(error))) from None
    return model
