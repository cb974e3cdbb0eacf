"""How settings, signatures and docstrings of the code read as Markdown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

__all__ = ["function", "prose", "settings", "table", "words"]

WORDS = {
    Any: "anything",
    int: "whole number",
    float: "number",
    str: "text",
    bool: "`true` or `false`",
    NoneType: "`none`",
}
SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
SECTION = re.compile(r"^(Args|Returns|Raises):\n((?:[ ]{4}.*\n?|\n)+)", re.MULTILINE)
TITLES = {"Args": "Arguments", "Returns": "Returns", "Raises": "Raises"}


def words(text: str) -> str:
    """A docstring's reStructuredText as Markdown, in one line."""
    return " ".join(_marks(text).split())


def _marks(text: str) -> str:
    text = re.sub(r":[a-z]+:`~?([^`]+)`", r"`\1`", text)
    return re.sub(r"``([^`]+)``", r"`\1`", text)


def prose(text: str) -> str:
    """A docstring as paragraphs, lists, headings of level 3 and code; the explanation of shape letters stays away."""
    text = inspect.cleandoc(text)
    text = re.sub(r"^Shapes:.*?(\n\n|\Z)", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^(.+)\n-{3,}$", r"### \1\n", text, flags=re.MULTILINE)
    return "\n".join(_fenced(text.split("\n"))).strip()


def _fenced(lines: list[str]) -> Iterator[str]:
    """The lines, with the indented blocks that ``::`` announces as fenced code and all else as Markdown."""
    block: list[str] | None = None
    for line in [*lines, ""]:
        deep = len(line) - len(line.lstrip())
        if block is not None and (not line or not block or deep >= len(block[0]) - len(block[0].lstrip())):
            block += [line] if line or block else []
            continue
        if block is not None:
            yield from ("", "```text", *inspect.cleandoc("\n" + "\n".join(block)).split("\n"), "```", "")
            block = None
            line = line.strip()
        if line.endswith("::"):
            block = []
        yield _marks(line.removesuffix("::") + (":" if line.endswith("::") else ""))


def function(name: str, what: Callable[..., Any], level: int = 2) -> str:
    """A function with its signature and what its docstring says."""
    shown = str(inspect.signature(what)).replace("'", "")
    if len(name + shown) > 90:
        parameters = [str(p).replace("'", "") for p in inspect.signature(what).parameters.values()]
        kinds = [p.kind for p in inspect.signature(what).parameters.values()]
        if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
            parameters.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
        shown = "(\n    " + ",\n    ".join(parameters) + "\n)" + shown[shown.rindex(")") + 1 :]
    text = inspect.getdoc(what) or ""
    parts = [f"{'#' * level} `{name}`", f"```python\n{name}{shown}\n```", prose(SECTION.sub("", text + "\n"))]
    for title, body in SECTION.findall(text + "\n"):
        parts.append(f"{TITLES[title]}:\n\n{_section(title, inspect.cleandoc(body))}")
    return "\n\n".join(parts)


def _section(title: str, body: str) -> str:
    if title == "Returns":
        return _marks(body)
    entries = re.split(r"\n(?=\S)", body)
    named = (entry.partition(":") for entry in entries)
    return "\n".join(f"- `{name}`: {words(text)}" for name, _, text in named)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def settings(kind: type[BaseModel]) -> str:
    """Every field of a group of settings: key, what it takes, default, and its docstring."""
    if not kind.model_fields:
        return "No settings."
    rows = (
        (f"`{key}`", _takes(field.annotation, field.metadata), _default(field), words(field.description or ""))
        for key, field in kind.model_fields.items()
    )
    return table(("key", "takes", "default", "what it is"), rows)


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "needed"
    if value is None:
        return "`none`"
    if value == "":
        return "empty"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, BaseModel):
        return "none set"
    if isinstance(value, tuple):
        return "`[" + ", ".join(f'"{part}"' if isinstance(part, str) else str(part) for part in value) + "]`"
    return f"`{value}`"


def _takes(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _takes(inner[0], inner[1:])
    if origin is Literal:
        text = ", ".join(f"`{value}`" for value in inner)
    elif origin in (Union, UnionType):
        text = " or ".join(_takes(part) for part in inner)
    elif origin in (tuple, list):
        text = f"list of: {_takes(inner[0])}"
    elif origin is dict:
        what = _takes(inner[1])
        text = "pairs of texts" if what == "text" else f"by name: {what}"
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        text = f"`{annotation.__name__}`"
    else:
        text = WORDS[annotation]
    bounds = [bound for entry in metadata for bound in _bounds(entry)]
    return f"{text} {', '.join(bounds)}" if bounds else text


def _bounds(entry: Any) -> list[str]:
    if isinstance(entry, FieldInfo):
        return [bound for inner in entry.metadata for bound in _bounds(inner)]
    return [f"{sign} {_number(getattr(entry, name))}" for name, sign in SIGNS.items() if hasattr(entry, name)]


def _number(value: float) -> str:
    power = int(value).bit_length() - 1
    return f"2^{power}" if power > 15 and value == 2**power else f"{value:g}"
