"""What is popular now: every event counts half as much for each half-life it is older (after Ji, Sun, Zhang and Li
2020, "A Re-visit of the Popularity Baseline in Recommender Systems", arXiv:2005.13829).

"Now" is the newest training event. Data without times has no common now: there the newest event of each user has age
0, the one before it age 1, and the half-life is counted in such events; a line in the log says so.

Shapes: N queries, I items, T events, C candidates.
"""

from __future__ import annotations

import logging
from typing import Annotated

import numpy as np
from annotated_types import Gt
from numpy.typing import NDArray

from segue.core.config import Settings
from segue.core.model import Arrays, Solver, Validate
from segue.core.model_arrays import take_back
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Events, Queries, Scores
from segue.solvers.popularity import counts

__all__ = ["RecentPopular"]

DAY = 86_400
LOG = logging.getLogger(__name__)


class RecentPopular(Solver):
    """The logarithm of each item's share of the decayed training events."""

    class Config(Settings):
        """Settings of ``recent_popular``."""

        half_life: Annotated[float, Gt(0)] = 30.0
        """Days after which an event counts half; where the data has no times, events back from a user's last."""
        smoothing: Annotated[float, Gt(0)] = 1.0
        """Weight, in events of now, of the popularity over all time that is mixed in; it orders what is not recent."""

    scale = "logit"
    log_shares_I: Scores

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Count, each event by its age."""
        if train.histories.times is None:
            LOG.warning("recent_popular: %s has no times; ages are events back from each user's last", train.name)
        recent_I = counts(train, np.exp2(-_ages(train.histories) / self.config.half_life))
        always_I = counts(train) + 1.0
        mixed_I = recent_I + self.config.smoothing * always_I / always_I.sum()
        self.log_shares_I = np.log(mixed_I / mixed_I.sum()).astype(np.float32)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """The same for every query: log shares, whose exponentials sum to 1 over the catalogue."""
        if candidates is not None:
            return self.log_shares_I[candidates]
        return np.tile(self.log_shares_I, (len(queries), 1))

    def arrays(self) -> Arrays:
        """The log shares."""
        return {"log_shares": self.log_shares_I}

    def restore(self, arrays: Arrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        self.log_shares_I = take_back(arrays, "log_shares", (self.domain.n_items,), np.float32)


def _ages(events: Events) -> NDArray[np.float64]:
    """``(T,)`` days since each event, seen from the newest; without times, events of the same user after it."""
    if events.times is None:
        return (events.offsets[1:][events.rows] - 1 - np.arange(events.size)).astype(np.float64)
    now = events.times.max(initial=np.iinfo(np.int64).min)
    days: NDArray[np.float64] = (now - events.times) / DAY
    return days
