"""The most popular items for everyone: the baseline to beat (Cremonesi, Koren and Turrin 2010,
doi:10.1145/1864708.1864721).

Shapes: N queries, I items, C candidates.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Gt

from segue.core.config import Settings
from segue.core.model import Arrays, Solver, Validate
from segue.core.model_arrays import take_back
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Queries, Scores
from segue.solvers.popularity import counts

__all__ = ["Popular"]


class Popular(Solver):
    """The logarithm of each item's share of the training events; where one kind is the target, of that kind."""

    class Config(Settings):
        """Settings of ``popular``."""

        smoothing: Annotated[float, Gt(0)] = 1.0
        """Events added to each item's count, so that an item never seen keeps a small share; more evens shares out."""

    scale = "logit"
    log_shares_I: Scores

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Count."""
        smooth_I = counts(train) + self.config.smoothing
        self.log_shares_I = np.log(smooth_I / smooth_I.sum()).astype(np.float32)

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
