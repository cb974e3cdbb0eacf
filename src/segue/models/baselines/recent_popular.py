"""Recommend recently popular items.

The weight of an event halves with each half-life of its age. After Ji, Sun, Zhang and Li 2020, "A Re-visit of the
Popularity Baseline in Recommender Systems", arXiv:2005.13829. Ages are relative to the newest training event. In data
without real times, the age of an event is the number of later events of the same user, and the half-life counts such
events; a warning is logged. Where only some times are real, the other events count in the all-time popularity alone.

Shapes: I items, T events.
"""

from __future__ import annotations

import logging
from typing import Annotated

import numpy as np
from annotated_types import Gt
from numpy.typing import NDArray

from segue.core.config import Settings
from segue.core.model import Validate
from segue.core.run import Run
from segue.core.types import Dataset, Events
from segue.solvers.popularity import PopularityModel, item_counts

__all__ = ["RecentPopular"]

SECONDS_PER_DAY = 86_400
LOG = logging.getLogger(__name__)


class RecentPopular(PopularityModel):
    """Score items by the logarithm of their age-weighted share of the training events."""

    class Config(Settings):
        """Settings of ``recent_popular``."""

        half_life: Annotated[float, Gt(0)] = 30.0
        """Number of days after which the weight of an event halves; in data without real times, number of later
        events of the user.
        """
        smoothing: Annotated[float, Gt(0)] = 1.0
        """Weight, in events of age 0, of the all-time popularity mixed in; it ranks items without recent events."""

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Sum the weights of each item's events."""
        known = train.histories.time_known
        if not known.any():
            LOG.warning("recent_popular: %s has no real times; ages are events back from each user's last", train.name)
        elif not known.all():
            LOG.warning(
                "recent_popular: %d of %d times of %s are not real; these events count in the all-time popularity only",
                known.size - int(known.sum()),
                known.size,
                train.name,
            )
        recent_I = item_counts(train, np.exp2(-_ages(train.histories) / self.config.half_life))
        all_time_I = item_counts(train) + 1.0
        mixed_I = recent_I + self.config.smoothing * all_time_I / all_time_I.sum()
        self.log_popularity_I = np.log(mixed_I / mixed_I.sum()).astype(np.float32)


def _ages(events: Events) -> NDArray[np.float64]:
    """Return the ``(T,)`` ages of the events in days before the newest event.

    In data without real times, the age of an event is the number of later events of the same user. Otherwise the age is
    infinite where the time is not real.
    """
    known = events.time_known
    if events.times is None or not known.any():
        return (events.offsets[1:][events.rows] - 1 - np.arange(events.size)).astype(np.float64)
    newest = events.times[known].max()
    return np.where(known, (newest - events.times) / SECONDS_PER_DAY, np.inf)
