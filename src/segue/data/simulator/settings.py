"""The settings of the simulated world."""

from __future__ import annotations

from typing import Annotated, Self

from annotated_types import Ge, Gt, Le, Lt
from pydantic import model_validator

from segue.core.config import Settings

__all__ = ["SimulatorSettings"]

Share = Annotated[float, Ge(0.0), Le(1.0)]


class SimulatorSettings(Settings):
    """A world: its size, its catalogue and how its people choose."""

    users: Annotated[int, Ge(1), Lt(2**31)] = 1000
    """Number of users."""
    items: Annotated[int, Ge(2), Lt(2**31)] = 500
    """Number of items in the catalogue."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Everything follows from it."""
    min_length: Annotated[int, Ge(1)] = 5
    """Fewest events of a user."""
    mean_length: Annotated[float, Gt(0.0)] = 40.0
    """Events per user on average, before ``max_length`` cuts."""
    max_length: Annotated[int, Ge(1)] = 2000
    """Most events of a user; the size of the catalogue is a second limit."""
    length_spread: Annotated[float, Ge(0.0), Le(3.0)] = 0.8
    """Standard deviation of the logarithm of the length beyond ``min_length``."""
    tastes: Annotated[int, Ge(1), Le(64)] = 8
    """Number of hidden tastes."""
    appetites: Annotated[int, Ge(1), Le(3)] = 3
    """Number of hidden kinds of user: plain, curious (of the long tail), loyal (follows, returns)."""
    genres: Annotated[int, Ge(1), Le(18)] = 18
    """Number of genres in the catalogue."""
    popularity: Annotated[float, Ge(0.0), Le(3.0)] = 0.9
    """Exponent of the Zipf law of popularity; 0 makes all equal."""
    focus: Annotated[float, Ge(0.0), Le(4.0)] = 1.5
    """How much taste decides: 0 ignores genres, more keeps closer to those of the taste."""
    drift: Share = 0.02
    """Probability that the taste moves before an event within a session."""
    session_drift: Share = 0.25
    """Probability that the taste moves before the first event of a session."""
    session_length: Annotated[float, Ge(1.0)] = 8.0
    """Events per session on average."""
    series: Annotated[float, Ge(0.0), Le(0.9)] = 0.2
    """Share of the items that belong to a series."""
    sequels: Annotated[float, Ge(0.0), Le(0.6)] = 0.4
    """Probability of going on with a series, for a plain user."""
    repeats: Annotated[float, Ge(0.0), Le(0.6)] = 0.0
    """Probability of coming back to an item of the history, for a plain user; 0: nobody ever does."""
    recency: Annotated[float, Gt(0.0), Le(1.0)] = 0.9
    """Weight of an event in repeats, against the event after it."""
    novelty: Share = 0.5
    """How far curious users turn to the long tail: 0 not at all, 1 as if there were no popularity."""
    profile: Annotated[float, Ge(0.0), Le(5.0)] = 1.0
    """How much age, gender and occupation say about tastes and appetites."""

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        if self.min_length > min(self.max_length, self.items):
            raise ValueError(
                f"min_length: got {self.min_length}, expected at most max_length {self.max_length} "
                f"and the number of items {self.items}"
            )
        if self.mean_length < self.min_length:
            raise ValueError(f"mean_length: got {self.mean_length}, expected at least min_length {self.min_length}")
        return self
