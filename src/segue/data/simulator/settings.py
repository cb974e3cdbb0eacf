"""Define the settings of the simulated world."""

from __future__ import annotations

from typing import Annotated, Self

from annotated_types import Ge, Gt, Le, Lt
from pydantic import model_validator

from segue.core.config import Settings

__all__ = ["SimulatorSettings"]

Share = Annotated[float, Ge(0.0), Le(1.0)]


class SimulatorSettings(Settings):
    """Size, catalog and user behavior of a simulated world."""

    users: Annotated[int, Ge(1), Lt(2**31)] = 1000
    """Number of users."""
    items: Annotated[int, Ge(2), Lt(2**31)] = 500
    """Number of items in the catalog."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Seed of all randomness."""
    min_length: Annotated[int, Ge(1)] = 5
    """Minimum number of events per user."""
    mean_length: Annotated[float, Gt(0.0)] = 40.0
    """Mean number of events per user, before ``max_length`` applies."""
    max_length: Annotated[int, Ge(1)] = 2000
    """Maximum number of events per user; at most the number of items."""
    length_spread: Annotated[float, Ge(0.0), Le(3.0)] = 0.8
    """Standard deviation of the logarithm of the length beyond ``min_length``."""
    tastes: Annotated[int, Ge(1), Le(64)] = 8
    """Number of hidden tastes."""
    appetites: Annotated[int, Ge(1), Le(3)] = 3
    """Number of hidden user types: plain, curious (long tail), loyal (series, repeats)."""
    genres: Annotated[int, Ge(1), Le(18)] = 18
    """Number of genres in the catalog."""
    popularity: Annotated[float, Ge(0.0), Le(3.0)] = 0.9
    """Exponent of the Zipf distribution of popularity; 0: uniform."""
    focus: Annotated[float, Ge(0.0), Le(4.0)] = 1.5
    """Influence of taste on choices: 0 ignores genres; higher values concentrate on the genres of the taste."""
    drift: Share = 0.02
    """Probability that the taste changes before an event within a session."""
    session_drift: Share = 0.25
    """Probability that the taste changes before the first event of a session."""
    session_length: Annotated[float, Ge(1.0)] = 8.0
    """Mean number of events per session."""
    series: Annotated[float, Ge(0.0), Le(0.9)] = 0.2
    """Share of items that belong to a series."""
    sequels: Annotated[float, Ge(0.0), Le(0.6)] = 0.4
    """Probability that a plain user continues a series."""
    repeats: Annotated[float, Ge(0.0), Le(0.6)] = 0.0
    """Probability that a plain user repeats an item of the history; 0: no user does."""
    recency: Annotated[float, Gt(0.0), Le(1.0)] = 0.9
    """Weight of an event in repeats relative to the next newer event."""
    novelty: Share = 0.5
    """How much curious users prefer the long tail: 0 not at all, 1 ignores popularity."""
    profile: Annotated[float, Ge(0.0), Le(5.0)] = 1.0
    """How informative age, gender and occupation are about tastes and appetites."""

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
