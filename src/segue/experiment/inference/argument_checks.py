"""Check the arguments of public functions against their annotations.

An argument of another type than annotated is an error that names the argument, the value and what was expected.

Pydantic's ``validate_call`` is not used: it accepts ``True`` and ``5.0`` as integers or, in strict mode, rejects those
of numpy, and it accepts text but no array as a sequence, so that most types would need a validator of their own, and
every error would have to be rewritten as one sentence.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeAlias, TypeVar, Union, get_args, get_origin

import numpy as np
from annotated_types import Ge

from segue.core.messages import arg

__all__ = ["Described", "FilePath", "PositiveInt", "check_arguments", "describe_value", "format_count", "is_sequence"]

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Described:
    """What an annotated argument has to be, in words."""

    text: str


PositiveInt: TypeAlias = Annotated[int, Ge(1)]
FilePath: TypeAlias = Annotated[str | Path, Described("a path that is not empty")]

SIMPLE: Mapping[Any, tuple[Any, str]] = {
    bool: (bool | np.bool_, "True or False"),
    int: (int | np.integer, "an integer"),
    float: (int | float | np.integer | np.floating, "a number"),
    str: (str, "text"),
    Path: (Path, "a path"),
    types.NoneType: (types.NoneType, "None"),
}
"""The accepted types of simple annotations, and their names."""

SHOWN = 60
"""Characters of a value that a message shows."""


def check_arguments(*, skip: Collection[str] = ()) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that checks arguments against the annotations of a function.

    Arguments annotated as ``Any`` are not checked, and a missing or additional argument is the error of Python.

    Args:
        skip: arguments that the function checks by itself.

    Raises:
        ValueError: (when called) an argument is not as annotated.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        names = [n for n, one in signature.parameters.items() if one.kind is not one.VAR_KEYWORD and n not in skip]

        @functools.cache  # annotations are read on first use: they may name modules that are imported late
        def hints() -> dict[str, Any]:
            own = {name: signature.parameters[name].annotation for name in names}
            known = {name: hint for name, hint in own.items() if hint is not inspect.Parameter.empty}
            holder = types.SimpleNamespace(__annotations__=known)
            return typing.get_type_hints(holder, inspect.unwrap(function).__globals__, include_extras=True)

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                given = signature.bind(*args, **kwargs).arguments
            except TypeError:  # Python says which argument is missing or unknown
                return function(*args, **kwargs)
            for name, hint in hints().items():
                if name not in given or _matches(given[name], hint):
                    continue
                is_required = signature.parameters[name].default is inspect.Parameter.empty
                spelled = name if is_required else arg(name)
                raise ValueError(f"{spelled}: got {describe_value(given[name])}, expected {_describe(hint)}")
            return function(*args, **kwargs)

        return checked

    return decorate


def describe_value(value: object) -> str:
    """Describe a value: scalars in full, anything else by its type."""
    if (
        value is None
        or isinstance(value, str | bytes | bool | int | float | complex | np.generic | Path)
        or (isinstance(value, list | tuple | set | dict | range) and len(repr(value)) <= SHOWN)
    ):
        text = repr(value)
    else:
        text = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def format_count(count: int, noun: str, plural: str | None = None) -> str:
    """Return a number and its noun, such as ``1 row`` and ``2 rows``."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def is_sequence(value: object) -> bool:
    """Check whether ``value`` is a list, tuple, range, array or series; text is not."""
    if isinstance(value, str | bytes | bytearray | memoryview | type | np.generic):
        return False
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    if hasattr(value, "columns"):  # a table is not a sequence of its rows
        return False
    return isinstance(value, Sequence) or hasattr(value, "tolist") or hasattr(value, "to_list")


def _matches(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Annotated:
        if hint == FilePath and isinstance(value, str) and not value:
            return False
        return _matches(value, inner[0]) and all(value >= rule.ge for rule in inner[1:] if isinstance(rule, Ge))
    if origin in (Union, types.UnionType):
        return any(_matches(value, one) for one in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if hint in SIMPLE:
        is_number = hint is not bool and isinstance(value, bool | np.bool_)
        return isinstance(value, SIMPLE[hint][0]) and not is_number and not (hint is float and value != value)
    if Callable in (hint, origin):
        return callable(value) and not isinstance(value, type)
    if Sequence in (hint, origin):
        return is_sequence(value) and (inner in ((), (Any,)) or all(_matches(one, inner[0]) for one in value))
    if Mapping in (hint, origin):
        pairs = value.items() if isinstance(value, Mapping) else ()
        return isinstance(value, Mapping) and all(_matches(k, inner[0]) and _matches(v, inner[1]) for k, v in pairs)
    return isinstance(value, origin or hint)


def _describe(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        texts = [rule.text for rule in inner[1:] if isinstance(rule, Described)]
        limits = [f" of at least {rule.ge}" for rule in inner[1:] if isinstance(rule, Ge)]
        return texts[0] if texts else _describe(inner[0]) + "".join(limits)
    if origin in (Union, types.UnionType):
        *first, last = [_describe(one) for one in inner if one is not types.NoneType]
        return last if not first else f"{', '.join(first)} or {last}"
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if hint in SIMPLE:
        return SIMPLE[hint][1]
    if Callable in (hint, origin):
        return "a function"
    if Sequence in (hint, origin):
        return "a list" + (f", each {_describe(inner[0])}" if inner not in ((), (Any,)) else "")
    if Mapping in (hint, origin):
        return f"a mapping of {_plural(inner[0])} to {_plural(inner[1])}"
    return f"a {(origin or hint).__name__}"


def _plural(hint: Any) -> str:
    return {str: "texts", float: "numbers", int: "integers"}.get(hint, "values")
