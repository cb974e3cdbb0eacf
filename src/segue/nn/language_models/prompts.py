"""Build prompts from a template and titles.

Titles are untrusted text: anyone who can add an item can write one. They are cleaned before they enter a prompt, and
they are inserted as they are: braces in a title are not placeholders.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Collection, Mapping

__all__ = ["MAX_LETTERS", "PLACEHOLDERS", "PROMPTS", "check_prompt", "clean_title", "fill_prompt"]

MAX_LETTERS = len(string.ascii_uppercase)
"""Maximum number of candidates in a list that is numbered by letters."""
MAX_CHARACTERS = 300
"""Maximum length of a title; longer ones are cut."""

INTRODUCTION = "Titles that one person chose, oldest first:\n{history}\n"
PROMPTS: Mapping[str, str] = {
    "likelihood": INTRODUCTION + "The title they chose next:",
    "pointwise": INTRODUCTION + 'Will they choose "{candidate}" next? Answer Yes or No:',
    "listwise": INTRODUCTION + "Candidates:\n{candidates}\nThe letter of the candidate they chose next:",
}
"""Default prompt of each method."""

PLACEHOLDERS: Mapping[str, tuple[str, ...]] = {
    "likelihood": ("history",),
    "pointwise": ("history", "candidate"),
    "listwise": ("history", "candidates"),
}
"""Placeholders of the prompts of each method, all of which are required."""


def check_prompt(prompt: str, method: str) -> None:
    """Check that a prompt has the placeholders of a method and no others.

    Raises:
        ValueError: it has not; the message names the placeholder.
    """
    expected = PLACEHOLDERS[method]
    braces = ", ".join(f"{{{name}}}" for name in expected)
    try:
        fields = [(name, spec, conversion) for _, name, spec, conversion in string.Formatter().parse(prompt)]
    except ValueError as error:
        raise ValueError(f"prompt: got {prompt!r}: {error}; write {{{{ and }}}} for braces that are text") from None
    used = [name for name, _, _ in fields if name is not None]
    wrong = [
        name for name, spec, conversion in fields if name is not None and (name not in expected or spec or conversion)
    ]
    if wrong:
        raise ValueError(f"prompt: unknown placeholder {{{wrong[0]}}}; the method '{method}' has {braces}")
    if missing := [name for name in expected if name not in used]:
        raise ValueError(f"prompt: got {prompt!r}, without {{{missing[0]}}}; the method '{method}' needs {braces}")


def fill_prompt(prompt: str, values: Mapping[str, str]) -> str:
    """Replace the placeholders of a prompt, but not those in the values."""
    return "".join(
        text + (values[name] if name is not None else "") for text, name, _, _ in string.Formatter().parse(prompt)
    )


def clean_title(title: str, special_tokens: Collection[str] = ()) -> str:
    """Make a title one line that a tokenizer reads as text.

    It has at most ``MAX_CHARACTERS`` characters. Control characters, line breaks and invisible formatting are removed,
    and so are ``special_tokens``, such as those that begin a message of the system in a chat.
    """
    title = "".join(" " if one.isspace() or unicodedata.category(one) == "Cc" else one for one in title)
    title = "".join(one for one in title if not unicodedata.category(one).startswith("C"))
    tokens = sorted((token for token in special_tokens if token.strip()), key=len, reverse=True)
    while found := next((token for token in tokens if token in title), None):  # removing one may form another
        title = title.replace(found, " ")
    return " ".join(title.split())[:MAX_CHARACTERS].strip()
