"""Settings that models of nearest neighbours share, and which of them go together."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, Le
from pydantic import field_validator, model_validator

from segue.core.config import Settings, suggest
from segue.core.registry import functions
from segue.similarity import weighting
from segue.similarity.similarity_registry import COUNTING, MEASURES, OF_VALUES, ONE_WAY, SEQUENCES, VECTORS

__all__ = ["NeighbourSettings"]

OF_PREDICTION = ("centre", "compare", "min_neighbours", "sweeps", "l2_user", "l2_item", "clip")
"""Settings that only predicted values look at."""
OF_BM25 = ("saturation", "length")


class NeighbourSettings(Settings):
    """What all models of nearest neighbours are told."""

    learns: Literal["events", "values"] = "events"
    """``events``: it ranks by who had what; ``values``: it predicts values, such as ratings."""
    neighbours: Annotated[int, Ge(1)] = 100
    """Nearest rows that count, k: of all, or for a predicted value of those that tell something about it; fewer is more
    particular."""
    similarity: str = "cosine"
    """Name of a measure of likeness, such as ``cosine``, ``jaccard``, ``pearson`` or ``jensen_shannon``."""
    shrink: Annotated[float, Ge(0)] = 10.0
    """Draws likeness that rests on little towards zero; the larger, the more."""
    weighting: str | None = None
    """What events count before they are compared: ``bm25`` or ``tfidf``; none: all the same."""
    saturation: Annotated[float, Gt(0)] = 1.2
    """Of ``bm25``: how far events of the same pair add up, k1."""
    length: Annotated[float, Ge(0), Le(1)] = 0.75
    """Of ``bm25``: how far the events of long rows count less, b."""
    centre: Literal["none", "user", "item", "z_score", "baseline"] = "baseline"
    """What is taken from a value before neighbours are heard, and added to their answer: nothing, the user's or the
    item's mean, the mean of the rows that are compared in units of their deviation, or mean and biases."""
    compare: Literal["deviations", "values"] = "deviations"
    """What the measure looks at: values less their centre, or values as they are."""
    min_neighbours: Annotated[int, Ge(1)] = 1
    """With fewer neighbours that tell something, the answer is the centre."""
    sweeps: Annotated[int, Ge(1)] = 10
    """Times that the biases of all items and then of all users are solved."""
    l2_user: Annotated[float, Ge(0)] = 5.0
    """Ridge of the users' biases, in ratings."""
    l2_item: Annotated[float, Ge(0)] = 3.0
    """Ridge of the items' biases, in ratings."""
    clip: bool = False
    """Whether predictions stay within the lowest and the highest value of the training data."""

    @field_validator("similarity")
    @classmethod
    def _known_similarity(cls, name: str) -> str:
        if name in VECTORS:
            raise ValueError(f"compares learned vectors, expected a measure of rows: {', '.join(sorted(MEASURES))}")
        if name not in MEASURES:
            raise ValueError(f"unknown similarity{suggest(name, MEASURES)}")
        return name

    @field_validator("weighting")
    @classmethod
    def _known_weighting(cls, name: str | None) -> str | None:
        if name is not None and name not in functions(weighting):
            raise ValueError(f"unknown weighting{suggest(name, functions(weighting))}")
        return name

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if faults := [*self._likeness_faults(), *self._idle()]:
            raise ValueError("\n".join(faults))
        return self

    def _likeness_faults(self) -> list[str]:
        """Measures that make no sense for what is learned."""
        name, faults = self.similarity, []
        if self.learns == "events" and name in OF_VALUES:
            faults.append(
                f"similarity: '{name}' compares values, which learns='events' does not read; expected learns='values', "
                f"or another measure: {', '.join(sorted(MEASURES.keys() - OF_VALUES))}"
            )
        if self.learns == "values" and name in {*ONE_WAY, *SEQUENCES}:
            kind = "differs by direction" if name in ONE_WAY else "compares the order of events"
            faults.append(
                f"similarity: '{name}' {kind}, and says nothing of values; expected learns='events', or another "
                f"measure: {', '.join(sorted(MEASURES.keys() - SEQUENCES.keys() - ONE_WAY))}"
            )
        return faults

    def _idle(self) -> list[str]:
        """Settings that nothing would look at."""
        faults = []
        if self.learns == "events":
            faults += [f"{name}: of learns='values', got learns='events'" for name in self._set(OF_PREDICTION)]
        if self.weighting is not None and (self.learns == "values" or self.similarity in {*COUNTING, *SEQUENCES}):
            about = "learns='values'" if self.learns == "values" else f"similarity='{self.similarity}'"
            faults.append(f"weighting: got '{self.weighting}', which {about} does not look at")
        if self.weighting != "bm25":
            faults += [f"{name}: of weighting='bm25', got {self.weighting!r}" for name in self._set(OF_BM25)]
        return faults

    def _set(self, names: tuple[str, ...]) -> list[str]:
        """Those of ``names`` that are not as they are by default."""
        return [name for name in names if getattr(self, name) != type(self).model_fields[name].default]
