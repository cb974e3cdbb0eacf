"""Settings of the sentiment of reviews."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt
from pydantic import model_validator

from segue.core.config import Settings, reject_unused
from segue.features.text.pipeline_steps import LANGUAGES, suggest_language

__all__ = ["SentimentSettings"]


class SentimentSettings(Settings):
    """How the sentiment of texts is measured."""

    language: str = "en"
    """Code of the language (ISO 639-1)."""
    method: Literal["auto", "vader", "linear"] = "auto"
    """``vader``: lexicon and rules for English; ``linear``: a linear model that learns from texts with ratings;
    ``auto``: ``linear`` if a column of ratings is named, else ``vader``."""
    neutral: float | None = None
    """Rating that is neither positive nor negative, for ``linear``; by default the middle between the lowest and the
    highest rating."""
    l2: Annotated[float, Gt(0)] = 1.0
    """Regularization of the linear model."""
    folds: Annotated[int, Ge(2)] = 5
    """Number of parts of the texts with ratings; the linear model that scores a part learns from the others, so that
    the score of a text does not contain its own rating."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.language not in LANGUAGES:
            raise ValueError(f"language: unknown language '{self.language}'{suggest_language(self.language)}")
        if self.method == "vader" and self.language != "en":
            raise ValueError(f"method: got 'vader', which knows only English, for language='{self.language}'")
        use = (self.method != "vader", "method=linear")
        reject_unused(self, {"neutral": use, "l2": use, "folds": use})
        return self

    def choose_method(self, has_ratings: bool) -> Literal["vader", "linear"]:
        """Return the method for texts with or without ratings.

        Raises:
            ValueError: the method needs ratings, and there are none.
        """
        is_linear = self.method == "linear" or (self.method == "auto" and has_ratings)
        if (is_linear or self.language != "en") and not has_ratings:
            raise ValueError(
                f"sentiment: language='{self.language}' with method='{self.method}' learns from reviews with ratings; "
                "name their column with rating="
            )
        return "linear" if is_linear else "vader"
