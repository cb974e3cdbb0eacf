"""Messages to the caller: arguments named as the caller types them, and warnings.

The same code serves Python and the command line. A message names an argument through :func:`arg`, which gives
``users=`` in Python and ``--user`` on the command line.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["QualityWarning", "SegueWarning", "arg", "hide_passwords", "name_arguments", "warn"]

HIDDEN = "***"
"""Stands for a password or a token in messages and records."""


class SegueWarning(UserWarning):
    """Warning that part of a request could not be taken into account.

    The result is valid without that part.
    """


class QualityWarning(SegueWarning):
    """Warning that a model or a metric is correct but may not be useful.

    Examples are a model below a simple baseline, and targets that the ranking excludes.
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


def warn(text: str, category: type[SegueWarning] = SegueWarning) -> None:
    """Issue a :class:`SegueWarning` that points at the caller of Segue."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "segue":
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)


def hide_passwords(text: str) -> str:
    """Return a text with ``***`` in place of passwords and tokens in addresses.

    They stand in ``scheme://user:password@host`` and in parameters such as ``?password=...`` and ``&api_key=...``.
    """
    text = re.sub(r"(://[^:/@?#\s]*):.*@", rf"\1:{HIDDEN}@", text, flags=re.DOTALL)
    return re.sub(r"([?&;][\w-]*(?:password|passwd|token|secret|key)=)[^&#;\s'\"]+", rf"\1{HIDDEN}", text, flags=re.I)
