"""Recommend the most popular items to everyone.

Cremonesi, Koren and Turrin 2010, doi:10.1145/1864708.1864721.

Shapes: I items.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Gt

from segue.core.config import Settings
from segue.core.model import Validate
from segue.core.run import Run
from segue.core.types import Dataset
from segue.solvers.popularity import PopularityModel, item_counts

__all__ = ["Popular"]


class Popular(PopularityModel):
    """Score items by the logarithm of their share of the training events.

    Only events of the target action count, if there is one.
    """

    class Config(Settings):
        """Settings of ``popular``."""

        smoothing: Annotated[float, Gt(0)] = 1.0
        """Events added to the count of each item, so that unseen items get a small probability."""

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Count the events of each item."""
        counts_I = item_counts(train) + self.config.smoothing
        self.log_popularity_I = np.log(counts_I / counts_I.sum()).astype(np.float32)
