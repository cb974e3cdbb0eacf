"""Define typed, frozen settings.

Invalid settings are rejected with all errors at once.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType, NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from segue.core.messages import hide_passwords

__all__ = [
    "Choices",
    "Search",
    "Settings",
    "apply_overrides",
    "parse",
    "reject_unused",
    "search_space",
    "suggest",
]

S = TypeVar("S", bound="Settings")


@dataclass(frozen=True)
class Search:
    """Range of numbers in which tuning searches, ends included.

    It annotates a setting, as in ``l2: Annotated[float, Gt(0), Search(1.0, 1e4, log=True)]``. Where both ends are
    integers, so are the values.
    """

    low: float
    high: float
    log: bool = False
    """Whether values are drawn uniformly on a logarithmic scale."""

    def __contains__(self, value: object) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and self.low <= value <= self.high  # type: ignore[operator]

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}{' (log)' if self.log else ''}"


@dataclass(frozen=True)
class Choices:
    """Values among which tuning chooses; annotates a setting like :class:`Search`."""

    values: tuple[int | float | str | None, ...]

    def __contains__(self, value: object) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return ", ".join("none" if value is None else str(value) for value in self.values)


class Settings(BaseModel):
    """Base class of all groups of settings.

    The docstring under a field is its documentation.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, protected_namespaces=()
    )

    def __init__(self, **values: Any) -> None:
        """Check the values of the settings, as :func:`parse` does.

        Raises:
            ValueError: a value is invalid; lists every error as ``Name.key: got ..., expected ...``.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ValueError(_describe_errors(type(self), error, type(self).__qualname__)) from None

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # else model_validate calls it, without paths

    @field_validator("*", mode="before")
    @classmethod
    def _check_truth_values(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject true and false where a number is expected; they would be read as 1 and 0."""
        assert info.field_name is not None
        types = list(_inner_types(cls.model_fields[info.field_name].annotation))
        is_number = (int in types or float in types) and bool not in types and Any not in types
        if is_number and _has_truth_value(value):
            raise ValueError("true and false are no numbers")
        return value


def _inner_types(annotation: Any) -> Iterator[Any]:
    """Yield a type and all types that are part of it."""
    yield annotation
    for part in get_args(annotation):
        yield from _inner_types(part)


def _has_truth_value(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_truth_value(part) for part in value.values())
    return any(map(_has_truth_value, value)) if isinstance(value, list | tuple) else isinstance(value, bool)


def reject_unused(settings: Settings, uses: Mapping[str, tuple[bool, str]]) -> None:
    """Reject changed settings that other settings leave without effect.

    Args:
        uses: by setting: whether anything reads it, and what does, such as ``objective='cloze'``.

    Raises:
        ValueError: one line per setting that differs from its default and is not read.
    """
    errors = [
        f"{name}: got {value!r}, which only {reader} uses"
        for name, (is_used, reader) in uses.items()
        if not is_used and (value := getattr(settings, name)) != type(settings).model_fields[name].default
    ]
    if errors:
        raise ValueError("\n".join(errors))


def search_space(kind: type[Settings]) -> dict[str, Search | Choices]:
    """Return where tuning searches, by setting; other settings keep their values."""
    return {
        name: entry
        for name, field in kind.model_fields.items()
        for entry in field.metadata
        if isinstance(entry, Search | Choices)
    }


def suggest(word: str, known: Iterable[str]) -> str:
    """Return a suggestion such as ``", did you mean 'dropout'?"``.

    It names the closest known word, or lists all words if none is close.
    """
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f", did you mean '{near[0]}'?" if near else f"; known: {', '.join(names) or 'none'}"


def parse(kind: type[S], values: Mapping[str, Any], where: str) -> S:
    """Create ``kind(**values)``.

    Raises:
        ValueError: a value is invalid; lists every error as ``where.key: got ..., expected ...``.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise ValueError(_describe_errors(kind, error, where)) from None


def _describe_errors(kind: type[Settings], error: ValidationError, where: str) -> str:
    """Return one line per invalid setting."""
    lines: dict[str, str] = {}  # by setting and value: of a setting with several types, one error per type
    for details in error.errors():
        start, separator, reason = _describe_error(kind, details, where)
        lines[start] = f"{lines[start]}, or: {reason}" if start in lines else f"{start}{separator}{reason}"
    return "\n".join(lines.values())


def _describe_error(kind: type[Settings], details: Any, where: str) -> tuple[str, str, str]:
    """Return setting and value, a separator, and what is wrong."""
    reason = details["msg"].removeprefix("Value error, ")
    if not details["loc"]:  # raised by a validator of several settings: each line names one
        return "\n".join(f"{where}.{line}" for line in reason.splitlines()), "", ""
    key = ".".join([where, *_names(kind, details["loc"])])
    if details["type"] == "extra_forbidden":
        return key, ": ", f"unknown key{suggest(str(details['loc'][-1]), _fields(kind, details['loc'][:-1]))}"
    return f"{key}: got {hide_passwords(repr(details['input']))}", ": ", reason


def _names(kind: type[Settings], path: tuple[Any, ...]) -> list[str]:
    """Return the path of an error without labels of types.

    They follow settings that have several types.
    """
    names, has_label = list[str](), False
    inner: Any = kind
    for part in path:
        if not has_label:
            names.append(str(part))
        is_settings = isinstance(inner, type) and issubclass(inner, Settings) and part in inner.model_fields
        inner = inner.model_fields[part].annotation if is_settings else None
        types = [one for one in get_args(inner) if one is not NoneType]
        has_label = get_origin(inner) in (Union, UnionType) and len(types) > 1
    return names


def _fields(kind: type[Settings], path: tuple[Any, ...]) -> list[str]:
    for part in path:
        inner: Any = kind.model_fields[str(part)].annotation
        types = [one for one in get_args(inner) if one is not NoneType]
        if get_origin(inner) in (Union, UnionType) and len(types) == 1:
            inner = types[0]
        if not (isinstance(inner, type) and issubclass(inner, Settings)):
            break
        kind = inner
    return list(kind.model_fields)


def apply_overrides(
    groups: Mapping[str, type[Settings]],
    assignments: Iterable[str],
    errors: list[str] | None = None,
    unused: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> dict[str, dict[str, Any]]:
    """Parse overrides of settings and return their values by group.

    An override is ``group.key=value`` or, if only one group uses the key, ``key=value``. Values are parsed as JSON
    where possible (``3``, ``true``, ``[1,2]``), else taken as text; ``[a,b]`` is a list of two texts.

    Args:
        errors: collects the errors instead of raising them.
        unused: keys by group that nothing reads, given the model and the split; another group with the key is meant.

    Raises:
        ValueError: an assignment has no ``=``, a group or key is unknown, or several groups use the key.
    """
    values: dict[str, dict[str, Any]] = {name: {} for name in groups}
    found: list[str] = [] if errors is None else errors
    for text in assignments:
        path, equals, value = text.partition("=")
        *group, key = path.strip().split(".")
        owners = [name for name, kind in groups.items() if key in kind.model_fields]
        owners = [name for name in owners if key not in unused.get(name, ())] or owners
        if not equals:
            found.append(f"--set {text}: expected key=value")
        elif len(group) > 1 or (group and group[0] not in groups):
            found.append(f"{path}: unknown group '{'.'.join(group)}'{suggest(group[0], groups)}")
        elif group:
            values[group[0]][key] = _parse_value(value)
        elif not owners:
            all_keys = {field for kind in groups.values() for field in kind.model_fields}
            found.append(f"{key}: unknown key{suggest(key, all_keys)}")
        elif len(owners) > 1:
            found.append(f"{key}: ambiguous, expected {' or '.join(f'{owner}.{key}' for owner in owners)}")
        else:
            values[owners[0]][key] = _parse_value(value)
    if found and errors is None:
        raise ValueError("\n".join(found))
    return values


def _parse_value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        is_list = text.startswith("[") and text.endswith("]")
        return [_parse_value(part.strip()) for part in text[1:-1].split(",") if part.strip()] if is_list else text
