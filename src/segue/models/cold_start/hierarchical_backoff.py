"""Back off from the profile to the cluster, and from there to the population.

A profile is a combination of categories and of intervals of numbers, such as women of 25 to 35 who are engineers. Its
distribution over items is that of its training users, smoothed by the distribution of the user's cluster, which is
smoothed by that of all users:

    p(i | profile) = (n_profile,i + m p(i | cluster)) / (n_profile + m)

These are hierarchical Dirichlet priors (MacKay and Bauman Peto 1995, doi:10.1017/S1351324900000218). ``m`` has the
greatest likelihood of the events of each training user given the others of the same profile. Clusters are latent
classes with probabilities by profile, updated by the history; see :mod:`segue.solvers.profiles.latent_classes`.

Shapes: U users, N queries, I items, C candidates, G profiles, F features, K clusters.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import NDArray
from pydantic import Field
from scipy.sparse import csr_array

from segue.core.config import Settings
from segue.core.model import Solver, StateArrays, Validate, select_candidates
from segue.core.model_arrays import check_range, load_array, load_csr
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Queries, Scores
from segue.solvers.profiles.latent_classes import LatentClasses, event_counts, fit_latent_classes
from segue.solvers.profiles.user_profiles import UserProfiles

__all__ = ["HierarchicalBackoff"]

LOG = logging.getLogger(__name__)

CONCENTRATIONS = 10.0 ** np.arange(0.0, 6.25, 0.25)
"""Values of m to choose from, in events."""


class HierarchicalBackoff(Solver):
    """Score items by their probability given profile, cluster and population."""

    scale = "logit"
    required_features = ("user_features",)

    class Config(Settings):
        """Settings of ``hierarchical_backoff``."""

        num_clusters: Annotated[int, Ge(1)] = 10
        """Number of clusters of users."""
        iterations: Annotated[int, Ge(1)] = 40
        """Number of iterations of expectation maximization of the clusters."""
        smoothing: Annotated[float, Gt(0)] = 300.0
        """Events, distributed like those of all users, that are added to each cluster."""
        concentration: Annotated[float, Gt(0)] | None = None
        """Events, distributed like those of the cluster, that are added to each profile; none: the number with the
        greatest likelihood.
        """
        event_weight: Annotated[float, Ge(0)] = 0.5
        """Weight of the evidence of an event about the user's cluster; 0 ignores the history."""
        prefixes: dict[str, Annotated[int, Ge(1)]] = Field(default={})
        """Number of leading characters that are read of a text column, such as ``{"zip_code": 1}`` for the region."""

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Fit clusters, count the items of each profile, and choose the concentration.

        Raises:
            ValueError: the data has no usable user feature.
        """
        config, counts_UI = self.config, event_counts(train)
        self.profiles = UserProfiles.fit(train, config.prefixes, "hierarchical_backoff")
        self.schema = replace(train.schema, user_features=self.profiles.features)
        rows_UF = self.profiles.rows_UF
        sizes = config.num_clusters, config.iterations, config.smoothing
        self.classes = fit_latent_classes(counts_UI, rows_UF, *sizes, run.rng("init"), run.log)
        self.cells_GF, cell_U = np.unique(self.profiles.cells(rows_UF), axis=0, return_inverse=True)
        cell_U = np.ravel(cell_U)
        ones_U = np.ones(len(cell_U), np.float32)
        members_GU = csr_array((ones_U, (cell_U, np.arange(len(cell_U)))), shape=(len(self.cells_GF), len(cell_U)))
        counts_GI = csr_array(members_GU @ counts_UI)
        counts_GI.sort_indices()
        self._set_counts(counts_GI)
        self.concentration_1 = np.array([config.concentration or self._choose_concentration(counts_UI, cell_U)])
        LOG.info(
            "hierarchical_backoff: %d profiles of %d users; concentration %.3g events",
            len(self.cells_GF),
            train.n_users,
            self.concentration_1[0],
        )

    def _set_counts(self, counts_GI: csr_array[Any]) -> None:
        self.counts_GI, self._totals_G = counts_GI, np.asarray(counts_GI.sum(axis=1)).ravel()
        self._cell_numbers = {cell.tobytes(): number for number, cell in enumerate(self.cells_GF)}

    def _choose_concentration(self, counts_UI: csr_array[Any], cell_U: NDArray[np.int64]) -> float:
        """Return the concentration with the greatest likelihood.

        It is that of each user's events given those of the other users.
        """
        none_UI = 0 * counts_UI
        classes_UK = self.classes.probabilities(self.profiles.rows_UF, none_UI, 0.0)
        table = counts_UI.tocoo()
        users, items = table.coords
        cluster_T = np.einsum("tk,tk->t", classes_UK[users], np.exp(self.classes.log_items_KI).T[items])
        others_T = np.asarray(self.counts_GI[cell_U[users], items]).ravel() - table.data
        totals_T = (self._totals_G[cell_U] - np.asarray(counts_UI.sum(axis=1)).ravel())[users]
        likelihoods = [
            float(table.data @ np.log((others_T + m * cluster_T) / (totals_T + m)).astype(np.float64))
            for m in CONCENTRATIONS
        ]
        return float(CONCENTRATIONS[int(np.argmax(likelihoods))])

    def _find_cells(self, cell: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return the profile, or all that agree with it in the features that are known."""
        if (number := self._cell_numbers.get(cell.tobytes())) is not None:
            return np.array([number])
        if not cell.any():
            return np.zeros(0, np.int64)
        return np.flatnonzero(((self.cells_GF == cell) | (cell == 0)).all(axis=1))

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return logarithms of probabilities of the items."""
        rows_NF = self.profiles.rows(queries)
        history_NI = queries.history.csr(self.schema.n_items)
        classes_NK = self.classes.probabilities(rows_NF, history_NI, self.config.event_weight)
        concentration = np.float32(self.concentration_1[0])
        scores_NI = concentration * self.classes.mix(classes_NK)
        totals_N = np.full(len(queries), concentration)
        for row, cell in enumerate(self.profiles.cells(rows_NF)):
            members = self._find_cells(cell)
            scores_NI[row] += np.asarray(self.counts_GI[members].sum(axis=0)).ravel()
            totals_N[row] += self._totals_G[members].sum()
        return select_candidates(np.log(scores_NI / totals_N[:, None]).astype(np.float32), candidates)

    def arrays(self) -> StateArrays:
        """Return the clusters, the counts of each profile and the training profiles."""
        return {
            **self.classes.arrays(),
            **self.profiles.arrays(),
            "cells": self.cells_GF,
            "counts": np.asarray(self.counts_GI.data, np.float32),
            "count_items": self.counts_GI.indices.astype(np.int32),
            "count_offsets": self.counts_GI.indptr.astype(np.int64),
            "concentration": self.concentration_1,
        }

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        schema = self.schema
        self.profiles = UserProfiles.restore(schema.user_features, arrays, schema.n_users, self.config.prefixes)
        size = self.config.num_clusters, schema.n_items, self.profiles.width
        self.classes = LatentClasses.restore(arrays, *size)
        self.cells_GF = load_array(arrays, "cells", (None, len(schema.user_features)), np.int32)
        for column, n_values in zip(self.cells_GF.T, self.profiles.cell_sizes, strict=True):
            check_range("cells", column, n_values)
        self.concentration_1 = load_array(arrays, "concentration", (1,), np.float64)
        shape = len(self.cells_GF), schema.n_items
        self._set_counts(load_csr(arrays, "counts", "count_items", "count_offsets", shape))
