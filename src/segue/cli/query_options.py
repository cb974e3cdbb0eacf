"""Options that describe a query: context, time, and features of a new user."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.cli.console import parse_json_or_text

if TYPE_CHECKING:
    from segue.core.bundle import TrainedModel

__all__ = ["QueryContext", "QueryTime", "UserFeatures", "described_query", "parse_user_features"]

QueryContext = Annotated[
    list[str] | None,
    typer.Option(
        "--context", metavar="device=tv,...", help="Context of the queries; --users-file may have columns instead."
    ),
]
QueryTime = Annotated[
    str | None,
    typer.Option("--time", metavar="TIME", help="Time of the queries: Unix seconds, or 2024-05-01T12:00 in UTC."),
]
UserFeatures = Annotated[
    list[str] | None,
    typer.Option(
        "--user-features",
        metavar="NAME=VALUE|JSON",
        help='Features of a new user: age=25,gender=F, about="any text", or {"about": ["a", "b"]}. May be repeated.',
    ),
]

NEXT_NAME = re.compile(r",\s*([^,=]+?)\s*=")
"""A comma that begins another ``name=value``."""

TEXT_OF_MISSING = "null"


def described_query(
    trained: TrainedModel, context: list[str] | None, time: str | None, user_features: list[str] | None = None
) -> dict[str, Any]:
    """Return the arguments ``context``, ``time`` and ``user_features`` of the options.

    Raises:
        ValueError: an option is malformed.
    """
    return {
        "context": _parse_context(trained, context),
        "time": None if time is None else parse_json_or_text(time),
        "user_features": parse_user_features(trained, user_features),
    }


def parse_user_features(trained: TrainedModel, options: Sequence[str] | None) -> dict[str, Any] | None:
    """Parse the options ``--user-features``.

    An option is a JSON object, or ``name=value,name=value``, where a comma that no ``name=`` follows is part of the
    value. The kind of a feature decides how its value is read: categories and texts literally, so that ``1984`` stays
    text; a list of tags or texts is JSON. The text of a feature is the rest of the option.

    Raises:
        ValueError: an option is malformed, a value does not fit its feature, or a feature has two values.
    """
    found: dict[str, Any] = {}
    for option in options or ():
        values = _parse_object(option) if option.lstrip().startswith("{") else _parse_pairs(trained, option)
        for name, value in values:
            if name in found:
                raise ValueError(f"--user-features: got two values of '{name}', expected one")
            found[name] = value
    return found or None


def _parse_object(option: str) -> list[tuple[str, Any]]:
    """Parse a JSON object; a name may occur twice."""
    try:
        pairs = json.loads(option, object_pairs_hook=list)
    except json.JSONDecodeError as error:
        raise ValueError(f"--user-features: got '{option}', which is not JSON: {error}") from None
    return [(str(name), value) for name, value in pairs]


def _parse_pairs(trained: TrainedModel, option: str) -> list[tuple[str, Any]]:
    texts = {name for one in trained.user_text_encodings for name in one.settings["columns"]}
    names = [str(name) for name in trained.metadata.get("user_features", ())]
    kinds = {feature.name: feature.kind for feature in trained.model.schema.user_features}
    found: list[tuple[str, Any]] = []
    rest = option.strip()
    while rest or not found:
        name, equals, rest = (one.strip() for one in rest.partition("="))
        match = NEXT_NAME.search(rest) if name not in texts else None
        value, rest_of_option = (rest[: match.start()], rest[match.start() + 1 :]) if match else (rest, "")
        if not (name and equals and value.strip()):
            raise ValueError(
                f"--user-features: got '{name}{equals}' in '{option}', expected NAME=VALUE, or JSON such as "
                '{"age": 25}'
            )
        if name not in texts:
            found.append((name, READERS.get(kinds.get(name, ""), _read_any)(name, value.strip())))
            rest = rest_of_option
            continue
        others = [one for one in NEXT_NAME.findall(rest) if one in names or one.isidentifier()]
        if others:
            as_json = json.dumps({name: rest}, ensure_ascii=False)
            raise ValueError(
                f"--user-features: got '{others[0]}=' in the text of '{name}', which is the rest of the option; give "
                f"other features in options of their own, or a text with 'name=' after a comma as JSON: {as_json}"
            )
        found.append((name, _read_text(name, rest)))
        rest = ""
    return found


def _read_text(name: str, value: str) -> str | list[str]:
    """Read a text, or a list of texts as JSON."""
    found = parse_json_or_text(value) if value.startswith("[") else value
    return found if isinstance(found, list) and all(isinstance(one, str) for one in found) else value


def _read_category(name: str, value: str) -> str | None:
    return None if value == TEXT_OF_MISSING else value


def _read_number(name: str, value: str) -> float | None:
    found = parse_json_or_text(value)
    if found is not None and (isinstance(found, bool) or not isinstance(found, int | float)):
        raise ValueError(f"--user-features: {name}: got '{value}', expected a number")
    return found


def _read_tags(name: str, value: str) -> Any:
    """Read one tag, or a list of tags as JSON."""
    found = parse_json_or_text(value) if value.startswith("[") else [value]
    if not isinstance(found, list) or not all(isinstance(one, str | int) for one in found):
        raise ValueError(f'--user-features: {name}: got \'{value}\', expected a tag, or a list such as ["a", "b"]')
    return found


def _read_vector(name: str, value: str) -> Any:
    found = parse_json_or_text(value)
    if not isinstance(found, list) or not all(isinstance(one, int | float) for one in found):
        raise ValueError(f"--user-features: {name}: got '{value}', expected a list of numbers such as [0.5, 1]")
    return found


def _read_any(name: str, value: str) -> Any:
    return parse_json_or_text(value)


READERS: Mapping[str, Callable[[str, str], Any]] = {
    "category": _read_category,
    "number": _read_number,
    "tags": _read_tags,
    "vector": _read_vector,
}
"""How the value of a feature of each kind is read."""


def _parse_context(trained: TrainedModel, options: Sequence[str] | None) -> dict[str, Any] | None:
    """Parse the options ``--context name=value,...``.

    A comma that no ``name=`` follows is part of the value, as in ``cell_10km=48.1,11.5``. Categories are read
    literally.

    Raises:
        ValueError: a part without a name or a value, or two values of one column.
    """
    categories = {one.name for one in trained.model.schema.event_context if one.kind == "category"}
    found: dict[str, Any] = {}
    for text in options or ():
        parts: list[str] = []
        for part in text.split(","):
            if parts and "=" not in part:
                parts[-1] += f",{part}"
            else:
                parts.append(part)
        for part in parts:
            name, equals, value = (one.strip() for one in part.partition("="))
            if not (name and equals and value):
                raise ValueError(f"--context: got '{part.strip()}' in '{text}', expected name=value,name=value")
            if name in found:
                raise ValueError(f"--context: got two values of '{name}', expected one")
            found[name] = _read_category(name, value) if name in categories else parse_json_or_text(value)
    return found or None
