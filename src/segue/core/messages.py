"""Messages to the caller: arguments named as the caller types them, and warnings.

The same code serves Python and the command line. A message names an argument through :func:`arg`, which gives
``users=`` in Python and ``--user`` on the command line.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["SegueWarning", "arg", "name_arguments", "warn"]


class SegueWarning(UserWarning):
    """Warning that part of a request could not be taken into account.

    The result is valid without that part.
    """


def _keyword(name: str) -> str:
    return f"{name}="


_spelling: ContextVar[Callable[[str], str]] = ContextVar("segue_argument_spelling", default=_keyword)


def arg(name: str, value: object = None) -> str:
    """Spell the argument ``name``, and its value if given, as the caller types it."""
    text = _spelling.get()(name)
    if value is None:
        return text
    return f"{text}{value!r}" if text.endswith("=") else f"{text} {value}"


@contextmanager
def name_arguments(spell: Callable[[str], str]) -> Iterator[None]:
    """Let :func:`arg` use ``spell`` within the context."""
    token = _spelling.set(spell)
    try:
        yield
    finally:
        _spelling.reset(token)


def warn(text: str, stacklevel: int = 3) -> None:
    """Issue a :class:`SegueWarning`."""
    warnings.warn(text, SegueWarning, stacklevel=stacklevel)
