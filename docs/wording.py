"""Render settings, signatures and docstrings of the code as Markdown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

__all__ = ["inline", "paragraphs", "render_function", "render_settings", "render_table"]

TYPE_NAMES = {
    Any: "anything",
    int: "integer",
    float: "number",
    str: "text",
    bool: "`true` or `false`",
    NoneType: "`none`",
}
BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
SECTION = re.compile(r"^(Args|Returns|Raises):\n((?:[ ]{4}.*\n?|\n)+)", re.MULTILINE)
TITLES = {"Args": "Arguments", "Returns": "Returns", "Raises": "Raises"}


def inline(text: str) -> str:
    """Convert reStructuredText to Markdown in one line."""
    return " ".join(_convert_markup(text).split())


def _convert_markup(text: str) -> str:
    text = re.sub(r":[a-z]+:`~?([^`]+)`", r"`\1`", text)
    return re.sub(r"``([^`]+)``", r"`\1`", text)


def paragraphs(text: str) -> str:
    """Convert a docstring to paragraphs, lists, level-3 headings and code, without the explanation of shapes."""
    text = inspect.cleandoc(text)
    text = re.sub(r"^Shapes:.*?(\n\n|\Z)", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^(.+)\n-{3,}$", r"### \1\n", text, flags=re.MULTILINE)
    text = re.sub(r"``[^`]+``", lambda code: re.sub(r"\s*\n\s*", " ", code[0]), text)  # code that wraps over two lines
    return "\n".join(_convert_lines(text.split("\n"))).strip()


def _convert_lines(lines: list[str]) -> Iterator[str]:
    """Yield the lines as Markdown, and indented blocks after ``::`` as fenced code."""
    block: list[str] | None = None
    for line in [*lines, ""]:
        indent = len(line) - len(line.lstrip())
        if block is not None and (not line or not block or indent >= len(block[0]) - len(block[0].lstrip())):
            block += [line] if line or block else []
            continue
        if block is not None:
            yield from ("", "```text", *inspect.cleandoc("\n" + "\n".join(block)).split("\n"), "```", "")
            block = None
            line = line.strip()
        if line.endswith("::"):
            block = []
        yield _convert_markup(line.removesuffix("::") + (":" if line.endswith("::") else ""))


def render_function(name: str, function: Callable[..., Any], level: int = 2) -> str:
    """Render a function with its signature and its docstring."""
    signature = str(inspect.signature(function)).replace("'", "")
    if len(name + signature) > 90:
        parameters = [str(p).replace("'", "") for p in inspect.signature(function).parameters.values()]
        kinds = [p.kind for p in inspect.signature(function).parameters.values()]
        if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
            parameters.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
        signature = "(\n    " + ",\n    ".join(parameters) + "\n)" + signature[signature.rindex(")") + 1 :]
    text = inspect.getdoc(function) or ""
    parts = [
        f"{'#' * level} `{name}`",
        f"```python\n{name}{signature}\n```",
        paragraphs(SECTION.sub("", text + "\n")),
    ]
    for title, body in SECTION.findall(text + "\n"):
        parts.append(f"{TITLES[title]}:\n\n{_render_section(title, inspect.cleandoc(body))}")
    return "\n\n".join(parts)


def _render_section(title: str, body: str) -> str:
    if title == "Returns":
        return _convert_markup(body)
    entries = (entry.partition(":") for entry in re.split(r"\n(?=\S)", body))
    return "\n".join(f"- `{name}`: {inline(text)}" for name, _, text in entries)


def render_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Render a Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def render_settings(group: type[BaseModel]) -> str:
    """Render a group of settings as a table: key, type, default and docstring of every field."""
    if not group.model_fields:
        return "No settings."
    rows = (
        (f"`{key}`", _type_text(field.annotation, field.metadata), _default(field), inline(field.description or ""))
        for key, field in group.model_fields.items()
    )
    return render_table(("key", "type", "default", "description"), rows)


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "required" if field.default_factory is None else "empty"
    if value is None:
        return "`none`"
    if value == "":
        return "empty"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, BaseModel):
        return "all defaults"
    if isinstance(value, tuple):
        return "`[" + ", ".join(f'"{part}"' if isinstance(part, str) else str(part) for part in value) + "]`"
    return f"`{value}`"


def _type_text(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_text(inner[0], inner[1:])
    if origin is Literal:
        text = ", ".join(f"`{value}`" for value in inner)
    elif origin in (Union, UnionType):
        text = " or ".join(_type_text(part) for part in inner)
    elif origin in (tuple, list):
        element = _type_text(inner[0])
        text = f"list of ({element})" if " or " in element else f"list of {element}"
    elif origin in (dict, Mapping):
        text = f"mapping of text to {_type_text(inner[1])}"
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        text = f"`{annotation.__name__}`"
    else:
        text = TYPE_NAMES[annotation]
    bounds = [bound for entry in metadata for bound in _bounds(entry)]
    return f"{text} {', '.join(bounds)}" if bounds else text


def _bounds(entry: Any) -> list[str]:
    if isinstance(entry, FieldInfo):
        return [bound for inner in entry.metadata for bound in _bounds(inner)]
    return [f"{sign} {_number(getattr(entry, name))}" for name, sign in BOUNDS.items() if hasattr(entry, name)]


def _number(value: float) -> str:
    power = int(abs(value)).bit_length() - 1
    sign = "-" if value < 0 else ""
    return f"{sign}2^{power}" if power > 15 and abs(value) == 2**power else f"{value:g}"
