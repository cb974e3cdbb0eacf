"""Settings shared by the nearest-neighbor models.

Also checks the combinations of these settings.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, Le
from pydantic import field_validator, model_validator

from segue.core.config import Choices, Search, Settings, suggest
from segue.core.registry import exported_functions
from segue.similarity import weighting
from segue.similarity.similarity_registry import (
    ASYMMETRIC_MEASURES,
    BINARY_MEASURES,
    MEASURES,
    SEQUENCE_MEASURES,
    VALUE_MEASURES,
    VECTOR_MEASURES,
)

__all__ = ["NeighborSettings"]

EXPLICIT_SETTINGS = ("normalization", "compare", "min_k", "iterations", "l2_user", "l2_item", "clip_predictions")
"""Settings that only apply to rating prediction."""
BM25_SETTINGS = ("bm25_k1", "bm25_b")
"""Settings that only apply to BM25 weighting."""


class NeighborSettings(Settings):
    """Settings of all nearest-neighbor models."""

    feedback: Literal["implicit", "explicit"] = "implicit"
    """``implicit``: rank items by interactions; ``explicit``: predict values, such as ratings."""
    k: Annotated[int, Ge(1), Search(10, 500, log=True)] = 100
    """Number of nearest neighbors; with explicit feedback, only neighbors that have a rating count."""
    similarity: str = "cosine"
    """Name of a similarity measure, such as ``cosine``, ``jaccard``, ``pearson`` or ``jensen_shannon``."""
    shrink: Annotated[float, Ge(0), Search(1.0, 300.0, log=True)] = 10.0
    """Shrinkage of similarities with little support towards zero."""
    weighting: Annotated[str | None, Choices((None, "bm25", "tfidf"))] = None
    """Weighting of interactions before rows are compared: ``bm25`` or ``tfidf``; none: all weigh 1."""
    bm25_k1: Annotated[float, Gt(0)] = 1.2
    """BM25 parameter k1: how slowly the weight of repeated interactions saturates."""
    bm25_b: Annotated[float, Ge(0), Le(1)] = 0.75
    """BM25 parameter b: how much weights are normalized by the length of the row."""
    normalization: Literal["none", "user", "item", "z_score", "baseline"] = "baseline"
    """What is subtracted from a value before averaging and added to the prediction: nothing, the mean of the user or of
    the item, mean and deviation of the compared row, or mean and biases.
    """
    compare: Literal["deviations", "values"] = "deviations"
    """What the similarity measure compares: deviations from the baseline, or values."""
    min_k: Annotated[int, Ge(1)] = 1
    """Minimum number of neighbors with a rating; with fewer, the prediction is the baseline."""
    iterations: Annotated[int, Ge(1)] = 10
    """Number of alternating updates of item and user biases."""
    l2_user: Annotated[float, Ge(0)] = 5.0
    """L2 regularization of user biases, in number of ratings."""
    l2_item: Annotated[float, Ge(0)] = 3.0
    """L2 regularization of item biases, in number of ratings."""
    clip_predictions: bool = False
    """Clip predictions to the range of the training values."""

    @field_validator("similarity")
    @classmethod
    def _check_similarity(cls, name: str) -> str:
        if name in VECTOR_MEASURES:
            raise ValueError(
                f"'{name}' compares learned vectors; expected a measure of rows: {', '.join(sorted(MEASURES))}"
            )
        if name not in MEASURES:
            raise ValueError(f"unknown similarity{suggest(name, MEASURES)}")
        return name

    @field_validator("weighting")
    @classmethod
    def _check_weighting(cls, name: str | None) -> str | None:
        if name is not None and name not in exported_functions(weighting):
            raise ValueError(f"unknown weighting{suggest(name, exported_functions(weighting))}")
        return name

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if errors := [*self._measure_errors(), *self._unused_settings()]:
            raise ValueError("\n".join(errors))
        return self

    def _measure_errors(self) -> list[str]:
        """Check that the measure fits the kind of feedback."""
        name, errors = self.similarity, []
        if self.feedback == "implicit" and name in VALUE_MEASURES:
            errors.append(
                f"similarity: '{name}' compares values, which feedback='implicit' does not use; use 'explicit' "
                f"or another measure: {', '.join(sorted(MEASURES.keys() - VALUE_MEASURES))}"
            )
        if self.feedback == "explicit" and name in {*ASYMMETRIC_MEASURES, *SEQUENCE_MEASURES}:
            kind = "is asymmetric" if name in ASYMMETRIC_MEASURES else "compares the order of events"
            errors.append(
                f"similarity: '{name}' {kind}, which feedback='explicit' does not support; use 'implicit' or a "
                f"measure of values: "
                f"{', '.join(sorted(MEASURES.keys() - SEQUENCE_MEASURES.keys() - ASYMMETRIC_MEASURES))}"
            )
        return errors

    def _unused_settings(self) -> list[str]:
        """Find settings that would have no effect."""
        errors = []
        if self.feedback == "implicit":
            errors += [
                f"{name}: only used with feedback='explicit', got feedback='implicit'"
                for name in self._changed(EXPLICIT_SETTINGS)
            ]
        if self.weighting is not None and (
            self.feedback == "explicit" or self.similarity in {*BINARY_MEASURES, *SEQUENCE_MEASURES}
        ):
            setting = "feedback='explicit'" if self.feedback == "explicit" else f"similarity='{self.similarity}'"
            errors.append(f"weighting: got '{self.weighting}', which {setting} does not use")
        if self.weighting != "bm25":
            errors += [
                f"{name}: only used with weighting='bm25', got {self.weighting!r}"
                for name in self._changed(BM25_SETTINGS)
            ]
        return errors

    def _changed(self, names: tuple[str, ...]) -> list[str]:
        """Return those of ``names`` that differ from their default."""
        return [name for name in names if getattr(self, name) != type(self).model_fields[name].default]
