"""Recommend what users of similar profiles like: latent classes of users.

Classes of users are found from their events; the profile gives the probabilities of a new user's class before the first
event, and each event updates them. After Hofmann and Puzicha 1999, "Latent class models for collaborative filtering",
and Dayton and Macready 1988, doi:10.1080/01621459.1988.10478584; see :mod:`segue.solvers.profiles.latent_classes`.

The score of an item is its probability in the mixture of classes, relative to that of an average item.

Shapes: N queries, I items, C candidates, K classes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt
from pydantic import Field

from segue.core.config import Settings
from segue.core.model import Solver, StateArrays, Validate, select_candidates
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Queries, Scores
from segue.solvers.profiles.latent_classes import LatentClasses, event_counts, fit_latent_classes
from segue.solvers.profiles.user_profiles import UserProfiles

__all__ = ["ProfileClusters"]


class ProfileClusters(Solver):
    """Mix the item distributions of classes by profile and history."""

    required_features = ("user_features",)

    class Config(Settings):
        """Settings of ``profile_clusters``."""

        num_clusters: Annotated[int, Ge(1)] = 10
        """Number of classes of users."""
        iterations: Annotated[int, Ge(1)] = 40
        """Number of iterations of expectation maximization."""
        smoothing: Annotated[float, Gt(0)] = 300.0
        """Events, distributed like those of all users, that are added to each class."""
        event_weight: Annotated[float, Ge(0)] = 0.5
        """Weight of the evidence of an event about the user's class; 1 holds if events are independent given the
        class, 0 ignores the history.
        """
        prefixes: dict[str, Annotated[int, Ge(1)]] = Field(default={})
        """Number of leading characters that are read of a text column, such as ``{"zip_code": 1}`` for the region."""

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Fit the classes; log the negative log-likelihood per event of each iteration.

        Raises:
            ValueError: the data has no usable user feature.
        """
        config = self.config
        self.profiles = UserProfiles.fit(train, config.prefixes, "profile_clusters")
        self.schema = replace(train.schema, user_features=self.profiles.features)
        self.classes = fit_latent_classes(
            event_counts(train),
            self.profiles.rows_UF,
            config.num_clusters,
            config.iterations,
            config.smoothing,
            run.rng("init"),
            run.log,
        )

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return probabilities relative to that of an average item."""
        history_NI = queries.history.csr(self.schema.n_items)
        classes_NK = self.classes.probabilities(self.profiles.rows(queries), history_NI, self.config.event_weight)
        return select_candidates(self.classes.mix(classes_NK) * np.float32(self.schema.n_items), candidates)

    def arrays(self) -> StateArrays:
        """Return the classes and the profiles of the training users."""
        return {**self.classes.arrays(), **self.profiles.arrays()}

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        schema = self.schema
        self.profiles = UserProfiles.restore(schema.user_features, arrays, schema.n_users, self.config.prefixes)
        size = self.config.num_clusters, schema.n_items, self.profiles.width
        self.classes = LatentClasses.restore(arrays, *size)
