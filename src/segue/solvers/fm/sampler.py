"""Markov chain of a factorization machine, and the samples that are kept.

Shapes: T ratings, C columns, W = 1 + D bias and vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.model import StateArrays
from segue.core.ratings import Ratings
from segue.core.types import Dataset, Scores
from segue.solvers.fm.design import build_relations
from segue.solvers.fm.gibbs_updater import GibbsUpdater
from segue.solvers.fm.likelihoods import Gaussian, Likelihood, OrderedProbit
from segue.solvers.fm.parameters import Parameters, row_sums, sum_scores
from segue.solvers.fm.posterior_samples import PosteriorSamples
from segue.solvers.fm.relational_blocks import Relations

__all__ = ["FactorizationMachineSampler"]

SAMPLE_PREFIX = "samples/"


class FactorizationMachineSampler:
    """State of training, one iteration at a time.

    Args:
        config: settings of ``factorization_machine``.
        train: the training data.
        ratings: its ratings.
        rng: source of the initial state.
    """

    def __init__(self, config: Any, train: Dataset, ratings: Ratings, rng: np.random.Generator) -> None:
        self.config, self.n_users = config, train.n_users
        is_sampling = config.learner == "gibbs"
        blocks, self.time_bins = build_relations(
            train, ratings, config.inputs, config.days_per_bin, "factorization_machine.inputs"
        )
        self.relations = Relations(blocks)
        self.updater = GibbsUpdater(self.relations, is_sampling, is_sampling and config.user_noise)
        self.likelihood: Likelihood = Gaussian(ratings.values)
        if config.likelihood == "ordered_probit":
            self.likelihood = OrderedProbit(ratings.values, is_sampling, "factorization_machine.likelihood")
        self.state = Parameters.initialize(self.relations, config.embedding_dim, rng)
        if not is_sampling:
            self.state.precisions[0], self.state.precisions[1:] = config.l2_bias, config.l2
        self.n_burn_in = int(config.burn_in * config.iterations)
        count = min(config.num_samples, config.iterations - self.n_burn_in) if is_sampling else 1
        self.kept_iterations = set(
            np.linspace(config.iterations - 1, self.n_burn_in, count).round().astype(int).tolist()
        )
        self.kept_samples: PosteriorSamples | None = None
        self._refresh()

    def step(self, iteration: int, rng: np.random.Generator) -> dict[str, float]:
        """Run one iteration; return loss and error of its state."""
        is_burn_in = iteration < self.n_burn_in
        errors_T = self.likelihood.errors(self.scores_T, self._user_noise_scales(), rng, is_burn_in)
        self.updater.step(
            self.state, self.vectors_SD, errors_T, rng, self.likelihood.has_intercept, self.likelihood.has_noise
        )
        self._refresh()
        if iteration in self.kept_iterations:
            self.kept_samples = (
                self._current_sample()
                if self.kept_samples is None
                else PosteriorSamples.concatenate([self.kept_samples, self._current_sample()])
            )
        return self.likelihood.metrics(self.scores_T, self._user_noise_scales(), float(self.state.noise_precision[0]))

    def samples(self) -> PosteriorSamples:
        """Return the samples kept so far, or the current state if there are none."""
        return self._current_sample() if self.kept_samples is None else self.kept_samples

    def arrays(self) -> StateArrays:
        """Return the state that later iterations need."""
        kept_samples = (
            {}
            if self.kept_samples is None
            else {f"{SAMPLE_PREFIX}{name}": array for name, array in self.kept_samples.arrays().items()}
        )
        return {**self.state.arrays(), **self.likelihood.arrays(), **kept_samples}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what :meth:`arrays` returned."""
        self.state = self.state.from_arrays(arrays)
        self.likelihood.restore(arrays)
        samples = {
            name.removeprefix(SAMPLE_PREFIX): array for name, array in arrays.items() if name.startswith(SAMPLE_PREFIX)
        }
        self.kept_samples = PosteriorSamples(**samples, ordered=self._is_ordered) if samples else None
        self._refresh()

    def _refresh(self) -> None:
        """Compute rows and scores from the coefficients.

        A resumed run therefore has the same values.
        """
        state, relations = self.state, self.relations
        self.biases_S, self.vectors_SD = row_sums(relations.by_row, state.linear_C, state.factors_DC)
        self.scores_T = sum_scores(float(state.intercept[0]), relations.rows_BT, self.biases_S, self.vectors_SD)

    def _user_noise_scales(self) -> Scores:
        """Return the noise scale of each rating, ``(T,)``."""
        noise_scales_U: Scores = np.sqrt(self.state.user_precision_U).astype(np.float32)
        noise_scales_T: Scores = noise_scales_U[self.relations.rows_BT[0]]
        return noise_scales_T

    @property
    def _is_ordered(self) -> bool:
        return bool(self.config.likelihood == "ordered_probit")

    def _current_sample(self) -> PosteriorSamples:
        """Return the current state as a sample."""
        state, width = self.state, self.config.embedding_dim + 1
        rows_SW = np.column_stack([self.biases_S, self.vectors_SD])
        tables = [rows_SW[self.relations.row_range(block)] for block in range(len(self.relations.blocks))]
        time_bins = tables[2] if len(tables) > 2 else np.zeros((0, width))
        # the feature columns of the users' block apply to unknown users too
        feature_columns = slice(self.n_users, int(self.relations.column_starts_B[1]))
        coefficients = np.column_stack([state.linear_C[feature_columns], state.factors_DC[:, feature_columns].T])
        # expected ratings of the Gaussian likelihood do not depend on the noise
        noise_scales = np.sqrt(state.user_precision_U) if self.updater.user_noise and self._is_ordered else np.zeros(0)
        return PosteriorSamples(
            intercepts=_single(state.intercept),
            noise_precisions=_single(state.noise_precision),
            users=_single(tables[0]),
            items=_single(tables[1]),
            time_bins=_single(time_bins),
            user_noise_scales=_single(noise_scales),
            cutpoints=_single(self.likelihood.cuts_J),
            values=_single(self.likelihood.values_K),
            coefficients=_single(coefficients),
            means=_single(state.means[:, 0]),
            precisions=_single(state.precisions[:, 0]),
            ordered=self._is_ordered,
        )


def _single(array: NDArray[Any]) -> Scores:
    """Add a first dimension of length 1."""
    return np.ascontiguousarray(array, np.float32)[None]
