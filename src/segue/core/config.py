"""Settings: frozen, typed, documented where they are declared; what is not understood is refused, all at once."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

__all__ = ["Settings", "assign", "parse", "suggest"]

S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """Base of every group of settings. The text under a field is its documentation."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, protected_namespaces=()
    )


def suggest(word: str, known: Iterable[str]) -> str:
    """``", did you mean 'width'?"`` for the nearest known word, or the list of all when none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f", did you mean '{near[0]}'?" if near else f"; known: {', '.join(names)}"


def parse(kind: type[S], values: Mapping[str, Any], where: str) -> S:
    """``kind(**values)``, or one error that lists every fault as ``where.key: what came, what was expected``."""
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        faults = [_fault(kind, fault, where) for fault in error.errors()]
        raise ValueError("\n".join(faults)) from None


def _fault(kind: type[Settings], fault: Any, where: str) -> str:
    if not fault["loc"]:  # of settings that do not go together: each line names one
        return "\n".join(f"{where}.{line}" for line in fault["msg"].removeprefix("Value error, ").splitlines())
    key = ".".join([where, *(str(part) for part in fault["loc"])])
    if fault["type"] == "extra_forbidden":
        return f"{key}: unknown key{suggest(str(fault['loc'][-1]), _fields(kind, fault['loc'][:-1]))}"
    return f"{key}: got {fault['input']!r}: {fault['msg'].removeprefix('Value error, ')}"


def _fields(kind: type[Settings], path: tuple[Any, ...]) -> list[str]:
    for part in path:
        inner = kind.model_fields[str(part)].annotation
        if not (isinstance(inner, type) and issubclass(inner, Settings)):
            break
        kind = inner
    return list(kind.model_fields)


def assign(
    groups: Mapping[str, type[Settings]], assignments: Iterable[str], found: list[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Values by group from texts ``group.key=value`` or, where only one group has the key, ``key=value``.

    Values are read as JSON where they are JSON (``3``, ``true``, ``[1,2]``), else as text; ``[a,b]`` are two texts.

    Args:
        found: takes the faults instead of raising them, for a caller that has more to tell at once.

    Raises:
        ValueError: an assignment without ``=``, an unknown group or key, or a bare key that several groups have.
    """
    values: dict[str, dict[str, Any]] = {name: {} for name in groups}
    faults: list[str] = [] if found is None else found
    for text in assignments:
        path, equals, value = text.partition("=")
        *group, key = path.strip().split(".")
        owners = [name for name, kind in groups.items() if key in kind.model_fields]
        if not equals:
            faults.append(f"--set {text}: expected key=value")
        elif len(group) > 1 or (group and group[0] not in groups):
            faults.append(f"{path}: unknown group '{'.'.join(group)}'{suggest(group[0], groups)}")
        elif group:
            values[group[0]][key] = _value(value)
        elif not owners:
            every = {field for kind in groups.values() for field in kind.model_fields}
            faults.append(f"{key}: unknown key{suggest(key, every)}")
        elif len(owners) > 1:
            faults.append(f"{key}: which one? {' or '.join(f'{owner}.{key}' for owner in owners)}")
        else:
            values[owners[0]][key] = _value(value)
    if faults and found is None:
        raise ValueError("\n".join(faults))
    return values


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        listed = text.startswith("[") and text.endswith("]")
        return [_value(part.strip()) for part in text[1:-1].split(",") if part.strip()] if listed else text
