"""Output of the command line.

Results go to standard output, as tables or JSON; everything else goes to standard error. Errors and warnings name
arguments as options: :func:`spell_option`.
"""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TextIO, TypeVar

import typer
from typer.core import TyperCommand

__all__ = [
    "Columns",
    "Command",
    "Json",
    "Separator",
    "Set",
    "Target",
    "Terminal",
    "command_line",
    "expand_paths",
    "parse_ids",
    "parse_json_or_text",
    "parse_pairs",
    "parse_seeds",
    "read_query",
    "show_warning",
    "spell_option",
]

P = ParamSpec("P")
R = TypeVar("R")

Json = Annotated[bool, typer.Option("--json", help="Print results as JSON.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a setting: epochs=1, model.embedding_dim=64. May be repeated."
    ),
]
Columns = Annotated[
    str | None,
    typer.Option(metavar="user=NAME,...", help="The log's own column names: user=customer,item=sku."),
]
Separator = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Text between two columns: ';', '|', '::', tab. [default: detected]"),
]
Target = Annotated[
    str | None, typer.Option(help="Kind of action to predict, such as purchase; the others remain input.")
]


class Command(TyperCommand):
    """A command that rejects options with an empty value, such as ``--out ""``.

    They are often variables of a shell that are not set, and would count as not given or as the current folder.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments.

        Raises:
            ValueError: the value of an option is empty.
        """
        values, _, options = self.make_parser(ctx).parse_args(list(args))
        for option in options:
            value = values.get(option.name)
            parts = value if isinstance(value, list | tuple) else [value]
            if option.param_type_name == "option" and any(isinstance(one, str) and not one.strip() for one in parts):
                raise ValueError(f"{max(option.opts, key=len)}: got an empty value; leave the option out instead")
        return super().parse_args(ctx, args)


def expand_paths(command: Callable[P, R]) -> Callable[P, R]:
    """Let a command expand ``~`` in its paths.

    Not every shell does that, as in ``--out=~/run``.
    """

    @functools.wraps(command)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for name, value in kwargs.items():
            if isinstance(value, Path):
                kwargs[name] = value.expanduser()
        return command(*args, **kwargs)

    return call


@dataclass(frozen=True)
class Terminal:
    """Output of one command."""

    json: bool

    @classmethod
    def from_context(cls, context: typer.Context, json: bool) -> Terminal:
        """Read whether JSON was requested before or after the command."""
        return cls(json or bool(context.obj))

    def log(self, text: str) -> None:
        """Print a message that is not part of the result."""
        print(text, file=sys.stderr, flush=True)

    def result(self, value: Any) -> None:
        """Print the result as JSON; numbers that are not finite become null."""
        import json

        print(json.dumps(_finite(value), indent=2, ensure_ascii=False))

    def table(self, table: Any) -> None:
        """Print a rich table; in full where the output is not a terminal."""
        from rich.console import Console

        Console(width=self.width, highlight=False).print(table)

    @property
    def width(self) -> int:
        """Number of characters per line."""
        from rich.console import Console

        console = Console()
        return console.width if console.is_terminal else 160


def command_line() -> str:
    """Return the command of this process, for records, without passwords in addresses."""
    from segue.core.messages import hide_passwords

    return shlex.join(["segue", *map(hide_passwords, sys.argv[1:])])


def parse_pairs(text: str | None, option: str) -> dict[str, str] | None:
    """Parse ``a=b,c=d``.

    The name of a column to ignore is empty: ``--columns rating=``.
    """
    if text is None:
        return None
    parts = [part.partition("=") for part in text.split(",") if part.strip()]
    if not parts:
        raise ValueError(f"{option}: got '{text}', expected name=value,name=value")
    may_be_empty = option == "--columns"
    if wrong := [n for n, equals, value in parts if not (equals and n.strip() and (value.strip() or may_be_empty))]:
        raise ValueError(f"{option}: got '{wrong[0]}' in '{text}', expected name=value,name=value")
    return {name.strip(): value.strip() for name, _, value in parts}


def parse_ids(texts: list[str], option: str) -> list[str]:
    """Parse ids: ``ID,ID,...``, or ``@FILE`` with one id per line.

    Raises:
        ValueError: there is no such file.
    """
    ids: list[str] = []
    for text in texts:
        if text.startswith("@"):
            path = Path(text[1:]).expanduser()
            if not path.is_file():
                raise ValueError(f"{option}: no such file: '{text[1:]}'")
            parts = path.read_text(encoding="utf-8").splitlines()
        else:
            parts = text.split(",")
            if not all(part.strip() for part in parts):
                raise ValueError(f"{option}: got an empty id in '{text}', expected ID,ID,... or @FILE")
        ids += [part.strip() for part in parts if part.strip()]
    return ids


def parse_seeds(text: str | None) -> list[int]:
    """Parse ``0,1,2``; no text is an empty list."""
    parts = [] if text is None else [part.strip() for part in text.split(",") if part.strip()]
    if text is not None and not parts:
        raise ValueError(f"--seeds: got '{text}', expected whole numbers such as 0,1,2")
    if wrong := [part for part in parts if not part.isdigit()]:
        raise ValueError(f"--seeds: got '{wrong[0]}', expected whole numbers such as 0,1,2")
    return [int(part) for part in parts]


def read_query(text: str | None) -> str | None:
    """Return the SQL of an option: ``@FILE`` is read from the file.

    Raises:
        ValueError: there is no such file.
    """
    if text is None or not text.startswith("@"):
        return text
    path = Path(text[1:]).expanduser()
    if not path.is_file():
        raise ValueError(f"query: no such file: '{text[1:]}'")
    return path.read_text(encoding="utf-8").strip().removesuffix(";")


def parse_json_or_text(text: str) -> Any:
    """Parse JSON, such as ``25`` or ``{"min": 1990}``; anything else is text."""
    import json

    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


OPTIONS = {
    "users": "--user",
    "histories": "--history",
    "titles": "--title",
    "items": "--item",
    "pairs": "PAIRS",
    "k": "-k",
    "runs": "--run",
    "overrides": "--set",
}
"""Options whose names differ from those of the Python arguments."""


def spell_option(name: str) -> str:
    """Spell the Python argument ``name`` as the option of the command line."""
    return OPTIONS.get(name, f"--{name.replace('_', '-')}")


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning in one line."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def _finite(value: Any) -> Any:
    import math

    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
