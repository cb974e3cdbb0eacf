"""Where words go: results to standard output, as a table or as JSON; everything else to standard error."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

__all__ = ["Columns", "Json", "Set", "Target", "Terminal", "pairs"]

Json = Annotated[bool, typer.Option("--json", help="Print results as JSON.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: epochs=1, model.width=64. Again for more."),
]
Columns = Annotated[
    str | None,
    typer.Option(metavar="user=NAME,...", help="The log's own column names: user=customer,item=sku."),
]
Target = Annotated[
    str | None, typer.Option(help="The kind of action that is predicted, such as purchase; the others stay input.")
]


@dataclass(frozen=True)
class Terminal:
    """How one verb speaks."""

    json: bool

    @classmethod
    def of(cls, context: typer.Context, json: bool) -> Terminal:
        """JSON if it was asked for before the verb or after it."""
        return cls(json or bool(context.obj))

    def say(self, text: str) -> None:
        """Tell something that is not the result."""
        print(text, file=sys.stderr, flush=True)

    def result(self, value: Any) -> None:
        """Print the result as JSON; numbers that are not finite become null."""
        import json

        print(json.dumps(_finite(value), indent=2, ensure_ascii=False))

    def table(self, table: Any) -> None:
        """Print something made for rich; all of it, where nobody's terminal sets a width."""
        from rich.console import Console

        console = Console()
        Console(width=None if console.is_terminal else 160, highlight=False).print(table)


def pairs(text: str | None, option: str) -> dict[str, str] | None:
    """The pairs in ``a=b,c=d``."""
    if text is None:
        return None
    parts = [part.partition("=") for part in text.split(",") if part.strip()]
    if wrong := [name for name, equals, value in parts if not (equals and name.strip() and value.strip())]:
        raise ValueError(f"{option}: got '{wrong[0]}' in '{text}', expected name=value,name=value")
    return {name.strip(): value.strip() for name, _, value in parts}


def _finite(value: Any) -> Any:
    import math

    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
