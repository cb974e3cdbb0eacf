"""Bayesian PMF: factors sampled from their posterior.

Salakhutdinov and Mnih 2008, doi:10.1145/1390156.1390267.

While ``pmf`` and ``als`` compute the most probable factors for a given regularization, this model samples factors and
their hyperparameters by Gibbs sampling, and predicts the mean over samples. It is robust to overfitting for any number
of factors, has no setting that requires tuning, and quantifies its uncertainty (:meth:`BayesianPMF.deviation`).

Samples are stored side by side as one wide factor model. For each sample, the factors of an unknown user are the
conditional mean given the history.

Shapes: U users, I items, N queries, T ratings, D dimensions, B dimensions including the bias, C candidates.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Lt

from segue.core.config import Settings
from segue.core.model import StateArrays, Validate, select_candidates
from segue.core.model_arrays import load_array
from segue.core.ratings import collect_ratings, rated_events
from segue.core.run import Run
from segue.core.types import Codes, DataSchema, Dataset, Events, Queries, Scores
from segue.solvers.bayesian.gibbs_kernels import sample_factor_rows
from segue.solvers.bayesian.gibbs_sampler import GibbsSampler, PosteriorSample, fixed_columns
from segue.solvers.biased_factor_model import BiasedFactorModel
from segue.solvers.standardize import standardize
from segue.solvers.training_iterations import run_iterations

__all__ = ["BayesianPMF"]

CHECKPOINT_EVERY = 10


class BayesianPMF(BiasedFactorModel):
    """Mean prediction over posterior samples of the factors."""

    class Config(Settings):
        """Settings of ``bayesian_pmf``."""

        embedding_dim: Annotated[int, Ge(1)] = 32
        """Number of factors of a user and of an item."""
        iterations: Annotated[int, Ge(1)] = 200
        """Number of Gibbs sampling iterations."""
        burn_in: Annotated[float, Ge(0), Lt(1)] = 0.2
        """Share of the iterations before the first sample is kept."""
        num_samples: Annotated[int, Ge(1)] = 24
        """Number of samples to keep, evenly spaced; memory and prediction time are proportional to it."""
        biases: bool = True
        """Include biases of users and items."""
        implicit: bool = True
        """Let the mean of a user depend on the items they rated, and that of an item on its users: the Bayesian form of
        SVD++. False: the model of the paper.
        """
        noise_precision: Annotated[float, Gt(0)] | None = None
        """Precision (inverse variance) of a rating around its mean, relative to that of all ratings; none: sampled."""
        clip_predictions: bool = False
        """Clip predictions to the range of the training ratings."""

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.kept_iterations = _kept_iterations(config)
        n_samples, width = len(self.kept_iterations), config.embedding_dim + config.biases
        shapes = {
            "item_biases": (n_samples, schema.n_items if config.biases else 0),
            "means": (n_samples, width),
            "precisions": (n_samples, width, width),
            "noise_precisions": (n_samples, 1),
            "links": (n_samples, schema.n_items if config.implicit else 0, width),
            "std": (1,),
        }
        self.extra_arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        self._sets: tuple[Scores, list[PosteriorSample]] | None = None

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Run all iterations; log the training error of each sample.

        Raises:
            ValueError: no event has a value.
        """
        config, ratings = self.config, collect_ratings(train, "bayesian_pmf")
        mean, std, targets_T = standardize(ratings.values)
        value_range = float(ratings.values.min()), float(ratings.values.max())
        seen_UI = train.histories.csr(train.n_items) if config.implicit else None
        sampler = GibbsSampler(
            ratings, targets_T, config.embedding_dim, config.biases, config.noise_precision, seen_UI, run.rng("init")
        )
        samples: list[PosteriorSample] = []
        last_sample: list[PosteriorSample] = []

        def step(iteration: int) -> dict[str, float]:
            last_sample[:], error = sampler.step(run.rng(f"sweep/{iteration}"))
            if iteration in self.kept_iterations:
                samples.extend(last_sample)
            metrics = {"loss": error, "train/rmse": float(np.sqrt(error)) * std}
            return {**metrics, "noise": std / float(np.sqrt(sampler.state["precisions"][0]))}

        def arrays() -> StateArrays:
            stacked = {
                f"sample/{n}/{name}": array
                for n, sample in enumerate(samples)
                for name, array in sample._asdict().items()
            }
            return {**sampler.state, **stacked}

        def restore(loaded: StateArrays) -> None:
            sampler.state = {
                name: load_array(loaded, name, array.shape, array.dtype.type) for name, array in sampler.state.items()
            }
            count = len({name.split("/")[1] for name in loaded if name.startswith("sample/")})
            samples[:] = [
                PosteriorSample(*(loaded[f"sample/{n}/{name}"] for name in PosteriorSample._fields))
                for n in range(count)
            ]

        run_iterations(
            config.iterations,
            step,
            run,
            arrays=arrays,
            restore=restore,
            model=self,
            validate=validate,
            checkpoint_every=CHECKPOINT_EVERY,
            publish=lambda: self._publish(samples or last_sample, mean, std, value_range),
        )

    def _publish(
        self, samples: list[PosteriorSample], mean: float, std: float, value_range: tuple[float, float]
    ) -> None:
        """Set the state of the model to the mean over these samples."""
        count, first = len(samples), int(self.config.biases)
        share = np.float32(std / count)
        users_UB = np.concatenate([sample.users_UB[:, first:] * share for sample in samples], axis=1)
        items_IB = np.concatenate([sample.items_IB[:, first:] for sample in samples], axis=1)
        user_biases_U, item_biases_I = np.zeros(len(users_UB), np.float32), np.zeros(len(items_IB), np.float32)
        for n, sample in enumerate(samples):
            if first:
                user_biases_U += share * sample.users_UB[:, 0]
                item_biases_I += share * sample.items_IB[:, 0]
                self.extra_arrays["item_biases"][n] = sample.items_IB[:, 0]
            self.extra_arrays["means"][n], self.extra_arrays["precisions"][n] = sample.mean_B, sample.precision_BB
            self.extra_arrays["noise_precisions"][n], self.extra_arrays["links"][n] = (
                sample.noise_precision,
                sample.links_IB,
            )
        self.extra_arrays["std"] = np.array([std], np.float32)
        self._set_factors(
            mean, np.column_stack([user_biases_U, users_UB]), np.column_stack([item_biases_I, items_IB]), value_range
        )

    def _samples(self) -> list[PosteriorSample]:
        """Return the kept samples, without users."""
        if self._sets is None or self._sets[0] is not self.items_ID:
            width, extra_arrays = self.config.embedding_dim, self.extra_arrays
            no_users_UB = np.zeros((0, width), np.float32)
            samples = []
            for n, first in enumerate(range(1, self.items_ID.shape[1], width)):
                items_IB = self.items_ID[:, first : first + width]
                if self.config.biases:
                    items_IB = np.column_stack([extra_arrays["item_biases"][n], items_IB])
                parts = (
                    extra_arrays["means"][n],
                    extra_arrays["precisions"][n],
                    extra_arrays["noise_precisions"][n],
                    extra_arrays["links"][n],
                )
                samples.append(PosteriorSample(no_users_UB, np.ascontiguousarray(items_IB), *parts))
            self._sets = self.items_ID, samples
        return self._sets[1]

    def fold_in(self, history: Events) -> Scores:
        """Compute conditional means of a user's factors for each sample, side by side."""
        samples, first = self._samples(), int(self.config.biases)
        share = self.extra_arrays["std"][0] / np.float32(max(1, len(samples)))
        means = [self._conditional_means(history, sample, with_roots=False)[0] * share for sample in samples]
        biases_N = sum(rows_NB[:, 0] for rows_NB in means) if first else np.zeros(len(history), np.float32)
        return np.column_stack([biases_N, *(rows_NB[:, first:] for rows_NB in means)]).astype(np.float32)

    def _conditional_means(self, history: Events, sample: PosteriorSample, with_roots: bool) -> tuple[Scores, Scores]:
        """Compute the ``(N, B)`` conditional means of users for one sample.

        With ``with_roots``, also return the ``(N, B, B)`` roots of the precisions.
        """
        known = rated_events(history)
        assert known.values is not None
        means_NB = sample.mean_B[None]
        if self.config.implicit:
            seen_NI = history.csr(self.schema.n_items)
            lengths_N = np.maximum(np.diff(seen_NI.indptr), 1).astype(np.float32)
            means_NB = means_NB + np.asarray((seen_NI @ sample.links_IB) / np.sqrt(lengths_N)[:, None], np.float32)
        targets_T = (known.values - self.mean) / self.extra_arrays["std"][0]
        residuals_T, vectors_IB = fixed_columns(targets_T, known.items, sample.items_IB, self.config.biases)
        _, rows_NB, _, roots_NBB = sample_factor_rows(
            known.offsets,
            known.items,
            residuals_T,
            vectors_IB,
            noise_precision=float(sample.noise_precision[0]),
            precision_DD=sample.precision_BB,
            means_RD=means_NB,
            normals_RD=np.zeros((len(history), len(sample.mean_B)), np.float32),
            with_roots=with_roots,
        )
        return rows_NB, roots_NBB

    def deviation(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Compute standard deviations of predicted values, in the scale of the data.

        They include the uncertainty of the user's factors given the history, the uncertainty of the items (the spread
        over samples), and the noise of ratings. Both known and unknown users are represented by their histories.

        Args:
            queries: the queries.
            candidates: ``(N, C)`` items; none: all, ``(N, I)``.
        """
        sums_NI, squares_NI, within_NI = (np.zeros((len(queries), self.schema.n_items)) for _ in range(3))
        samples = self._samples()
        for sample in samples:
            rows_NB, roots_NBB = self._conditional_means(queries.history, sample, with_roots=True)
            no_events = np.zeros(0, np.float32), np.zeros(0, np.int32)
            _, vectors_IB = fixed_columns(*no_events, sample.items_IB, self.config.biases)
            means_NI = rows_NB @ vectors_IB.T + (sample.items_IB[:, 0] if self.config.biases else 0.0)
            sums_NI += means_NI
            squares_NI += np.square(means_NI, dtype=np.float64)
            whitened_NBB = np.linalg.inv(roots_NBB).transpose(0, 2, 1)
            for n in range(len(queries)):
                within_NI[n] += np.square(vectors_IB @ whitened_NBB[n]).sum(axis=1) + 1.0 / sample.noise_precision[0]
        between_NI = squares_NI / len(samples) - np.square(sums_NI / len(samples))
        deviations_NI = np.sqrt(np.maximum(between_NI, 0.0) + within_NI / len(samples)) * float(
            self.extra_arrays["std"][0]
        )
        return select_candidates(deviations_NI.astype(np.float32), candidates)


def _kept_iterations(config: BayesianPMF.Config) -> list[int]:
    """Return the iterations whose samples are kept."""
    first = int(config.burn_in * config.iterations)
    count = min(config.num_samples, config.iterations - first)
    kept_iterations: list[int] = np.unique(
        (np.linspace(config.iterations - 1, first, count) + 1e-9).astype(np.int64)
    ).tolist()
    return kept_iterations
