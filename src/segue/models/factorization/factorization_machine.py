"""Bayesian factorization machine for ratings.

Rendle 2010, doi:10.1109/ICDM.2010.127.

The score of a rating depends on its features: the user, the item, the time, the other items of the user, the other
users of the item, and the features of user and item. Each feature has a weight and a vector, and the interaction of two
features is weighted by the inner product of their vectors:

    intercept + sum_c w_c x_c + sum_{c<c'} (v_c . v_c') x_c x_c'

Coefficients and their priors are sampled (Freudenthaler, Schmidt-Thieme and Rendle 2011), over relational blocks
(Rendle 2013, doi:10.14778/2535573.2488340); a prediction is the mean over posterior samples. Rendle, Zhang and Koren
2019 (arXiv:1905.01395) found this model, with these features, to be more accurate on ratings than newer ones. A score
is the mean of a normally distributed rating, or of a hidden value whose position between cutpoints determines the level
of the rating (ordered probit: Albert and Chib 1993, doi:10.1080/01621459.1993.10476321; myFM by Ohtsuki, 2020).

Shapes: U users, I items, N queries, C candidates, T ratings or pairs, M posterior samples, W bias and vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from annotated_types import Ge, Gt, Le, Lt
from numpy.typing import NDArray
from pydantic import model_validator

from segue.core.config import Settings, reject_unused
from segue.core.model import Solver, StateArrays, Validate, select_candidates
from segue.core.model_arrays import load_array
from segue.core.ratings import collect_ratings, rated_events
from segue.core.run import Run
from segue.core.types import Codes, DataSchema, Dataset, Queries, Scores
from segue.solvers.biased_factor_model import cosine_similarity
from segue.solvers.fm.design import Input, TimeBins, encode_new_users, schema_for
from segue.solvers.fm.fold_in import fold_in_users
from segue.solvers.fm.posterior_samples import PosteriorSamples
from segue.solvers.fm.sampler import FactorizationMachineSampler
from segue.solvers.training_iterations import run_iterations

__all__ = ["FactorizationMachine"]

N_VALIDATIONS = 20
"""Approximate number of validations during training."""


class FactorizationMachine(Solver):
    """Predict ratings from ids, implicit features, features and times.

    The model is linear if ``embedding_dim`` is 0.
    """

    requires_ratings = True
    predicts_ratings = True
    validation_metric = "rmse"

    class Config(Settings):
        """Settings of ``factorization_machine``."""

        likelihood: Literal["gaussian", "ordered_probit"] = "gaussian"
        """``gaussian``: ratings are normally distributed around their scores. ``ordered_probit``: ratings are ordered
        levels, which fits star ratings better.
        """
        learner: Literal["gibbs", "als"] = "gibbs"
        """``gibbs``: sample coefficients and priors from the posterior. ``als``: compute a point estimate by coordinate
        descent, with fixed priors.
        """
        inputs: tuple[Input, ...] = ("implicit_user", "implicit_item")
        """Features in addition to user and item: ``implicit_user`` (all items of the user), ``implicit_item`` (all
        users of the item), ``user_features``, ``item_features``, and ``date`` (the date of the rating, which requires a
        protocol that provides query times).
        """
        embedding_dim: Annotated[int, Ge(0)] = 16
        """Dimensions of the feature vectors; 0: a linear model."""
        iterations: Annotated[int, Ge(1)] = 200
        """Number of iterations; each updates all coefficients once."""
        burn_in: Annotated[float, Ge(0), Lt(1)] = 0.1
        """Share of the iterations before the first sample is kept."""
        num_samples: Annotated[int, Ge(1)] = 40
        """Number of samples to keep, evenly spaced; the model's size is proportional to it."""
        days_per_bin: Annotated[int, Ge(1), Le(36_500)] = 1
        """Length of a time bin in days, for ``date``."""
        user_noise: bool = True
        """For ``gibbs``: learn a noise level for each user, so that users with erratic ratings count less."""
        l2: Annotated[float, Gt(0)] = 8.0
        """For ``als``: L2 regularization of feature vectors, for ratings scaled to standard deviation 1."""
        l2_bias: Annotated[float, Gt(0)] = 2.0
        """For ``als``: L2 regularization of feature weights, for ratings scaled to standard deviation 1."""
        clip_predictions: bool = False
        """Clip predictions to the range of the training ratings."""

        @model_validator(mode="after")
        def _all_used(self) -> Self:
            is_sampled = self.learner == "gibbs"
            sampled = dict.fromkeys(("num_samples", "user_noise"), (is_sampled, "learner='gibbs'"))
            estimated = dict.fromkeys(("l2", "l2_bias"), (not is_sampled, "learner='als'"))
            reject_unused(self, {**sampled, **estimated, "days_per_bin": ("date" in self.inputs, "the input date")})
            return self

    def __init__(self, config: Config, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.time_bins = TimeBins(np.zeros(0, np.int64), config.days_per_bin)
        self.value_range = np.zeros(2, np.float32)

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Run all iterations; log loss, error and validation metrics.

        Loss and training error are those of the current state, not of the mean over samples.

        Raises:
            ValueError: no event has a value, there are too many levels, or an input is missing in the data.
        """
        config, ratings = self.config, collect_ratings(train, "factorization_machine")
        self.schema = schema_for(config.inputs, train)
        self.value_range = np.array([ratings.values.min(), ratings.values.max()], np.float32)
        sampler = FactorizationMachineSampler(config, train, ratings, run.rng("init"))
        self.time_bins = sampler.time_bins

        def step(iteration: int) -> dict[str, float]:
            metrics = sampler.step(iteration, run.rng(f"sweep/{iteration}"))
            self.samples = sampler.samples()
            return metrics

        def restore(arrays: Mapping[str, NDArray[Any]]) -> None:
            sampler.restore(arrays)
            self.samples = sampler.samples()

        run_iterations(
            config.iterations,
            step,
            run,
            arrays=sampler.arrays,
            restore=restore,
            model=self,
            validate=validate,
            validate_every=max(1, config.iterations // N_VALIDATIONS),
        )

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Compute predicted values, not clipped.

        Known users keep their rows from training; unknown users are folded in from implicit features, user features and
        the values of the history.
        """
        users = np.where(queries.known, queries.users, 0)
        users_MNW = self.samples.users[:, users]
        if (new := np.flatnonzero(~queries.known)).size:
            history = queries.history.take(new)
            profile = None if queries.profile is None else queries.profile[new]
            new_users_NF = encode_new_users(self.schema, self.config.inputs, history, profile)
            rated = rated_events(history)
            users_MNW[:, new] = fold_in_users(
                self.samples, new_users_NF, rated, self.time_bins.rows(rated.times, rated.size, rated.time_known)
            )
        bins_N = self.time_bins.rows(queries.times, len(queries), queries.time_known)
        users_MNW = self.samples.at_times(users_MNW, bins_N)
        noise_scales_MN = self.samples.noise_scales(users, queries.known)
        return select_candidates(self.samples.expected_ratings(users_MNW, noise_scales_MN), candidates)

    def predict(self, users: Codes, items: Codes, times: NDArray[np.int64] | None = None) -> Scores:
        """See :meth:`segue.core.model.Predictor.predict`."""
        predictions = self.samples.predict_pairs(users, items, self.time_bins.rows(times, len(users)))
        return self.clip_predictions(predictions)

    def clip_predictions(self, scores: Scores) -> Scores:
        """See :meth:`segue.core.model.Predictor.clip_predictions`."""
        return np.clip(scores, *self.value_range) if self.config.clip_predictions else scores

    def similar(self, items: Codes) -> Scores:
        """Return cosine similarities of item vectors, averaged over samples."""
        similarities = [cosine_similarity(rows_IW[:, 1:], items) for rows_IW in self.samples.items]
        mean: Scores = np.mean(similarities, axis=0, dtype=np.float32)
        return mean

    def arrays(self) -> StateArrays:
        """Return the samples, the time bins and the value range."""
        return {**self.samples.arrays(), "bins": self.time_bins.bins_P, "value_range": self.value_range}

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        config = self.config
        self.samples = PosteriorSamples.from_arrays(
            arrays, self.schema, config.embedding_dim, config.likelihood == "ordered_probit"
        )
        self.time_bins = TimeBins(load_array(arrays, "bins", (None,), np.int64), config.days_per_bin)
        self.value_range = load_array(arrays, "value_range", (2,), np.float32)
