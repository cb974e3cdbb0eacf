"""Simple baselines where users return to items: how often the user has chosen an item before.

Shapes: N queries, I items, T events of the histories.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segue.core.run import Run
from segue.core.types import Codes, Dataset, Queries, Scores
from segue.models.baselines.popular import Popular
from segue.training.settings import Training
from segue.training.train import train

__all__ = ["ALL_COLUMNS", "GRIDS", "OWN", "WEIGHTED", "OwnFrequency", "baselines_of", "make_baseline"]

OWN, WEIGHTED = "own frequency", "own frequency, weighted"
ALL_COLUMNS = "own frequency in context"

Weights = Literal["one", "log_value", "value"]

VALUES: tuple[Weights, ...] = ("one", "log_value", "value")
STRENGTHS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)

GRIDS: dict[str, tuple[dict[str, Any], ...]] = {
    OWN: ({},),
    WEIGHTED: tuple({"weights": name} for name in VALUES),
    ALL_COLUMNS: tuple({"weights": name, "strength": one} for name, one in product(VALUES, STRENGTHS)),
}
"""Settings to choose from on validation; those of :data:`ALL_COLUMNS` also without some columns."""

TIE = 1e-4
"""Factor of the log-popularity, which decides between equal sums."""


class OwnFrequency(Popular):
    """Score items by the weighted number of their events in the history.

    Popularity breaks ties. The weight of an event is 1, its value, or the logarithm of one plus its value; times the
    exponential of ``strength`` for each context column in which it equals the query.
    """

    weights: Weights = "one"
    strength: float = 0.0
    columns: tuple[str, ...] = ()
    """Context columns that are compared."""

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """See :meth:`segue.core.model.Model.score`."""
        history = queries.history
        weights_T = np.ones(history.size)
        if self.weights != "one" and history.values is not None:
            values_T = np.maximum(np.nan_to_num(history.values.astype(np.float64)), 0.0)
            weights_T = values_T if self.weights == "value" else np.log1p(values_T)
        if self.strength:
            weights_T = weights_T * np.exp(self.strength * self._count_equal(queries))
        sums_NI = np.zeros((len(queries), self.schema.n_items))
        np.add.at(sums_NI, (history.rows, history.items), weights_T)
        scores_NI: Scores = (sums_NI + TIE * self.log_popularity_I).astype(np.float32)
        return scores_NI if candidates is None else np.take_along_axis(scores_NI, candidates, axis=1)

    def _count_equal(self, queries: Queries) -> NDArray[np.int64]:
        """Return the number of columns in which each event equals its query, ``(T,)``; missing values differ."""
        counts_T = np.zeros(queries.history.size, np.int64)
        for name in self.columns:
            codes_T = queries.context[name][queries.history.rows]
            counts_T += (codes_T >= 0) & (queries.history.context[name] == codes_T)
        return counts_T


def baselines_of(train_data: Dataset, left_out: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return the context columns that each baseline reads, by name.

    Args:
        left_out: columns without which there is a further baseline each.
    """
    columns = tuple(one.name for one in train_data.event_context if one.kind == "category")
    found: dict[str, tuple[str, ...]] = {OWN: (), WEIGHTED: ()}
    if columns:
        found[ALL_COLUMNS] = columns
        for name in left_out:
            found[f"{ALL_COLUMNS}, without {name}"] = tuple(one for one in columns if one != name)
    return found


def make_baseline(train_data: Dataset, columns: tuple[str, ...], settings: Mapping[str, Any]) -> OwnFrequency:
    """Return a baseline with settings of :data:`GRIDS`."""
    popular: Any = train("popular", {}, Training(), train_data, Run(0))
    model = OwnFrequency(popular.config, popular.schema)
    model.log_popularity_I = popular.log_popularity_I
    model.weights, model.strength = settings.get("weights", "one"), settings.get("strength", 0.0)
    model.columns = columns
    return model
