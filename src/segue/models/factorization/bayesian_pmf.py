"""Bayesian PMF: all factors that the ratings allow, each as often as it is likely (Salakhutdinov and Mnih 2008,
doi:10.1145/1390156.1390267).

Where ``pmf`` and ``als`` keep the one most probable set of factors and need a ridge that fits, this draws sets by Gibbs
sampling, the ridge of every direction with them, and answers by the mean of what they predict. It overfits late however
wide it is, has no setting that must be searched for, and knows how unsure it is (:meth:`BayesianPMF.deviation`).

Kept sets stand side by side as one wide model, so that it answers like any other; of each a new person's factors are
what is expected of them given his history.

Shapes: U users, I items, N queries, T ratings, K kept sets, D width, B width with the bias, C candidates.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Lt

from segue.core.config import Settings
from segue.core.model import Arrays, Validate, pick_candidates
from segue.core.model_arrays import take_back
from segue.core.ratings import ratings_of, valued
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Domain, Events, Queries, Scores
from segue.solvers.bayesian.gibbs_kernels import draw_rows
from segue.solvers.bayesian.gibbs_sampler import Chain, Sample, fixed
from segue.solvers.biased_factor_model import RatingFactors
from segue.solvers.standardize import standardised
from segue.solvers.training_iterations import sweeps

__all__ = ["BayesianPMF"]

CHECKPOINT_EVERY = 10


class BayesianPMF(RatingFactors):
    """The mean over factors drawn from their posterior distribution; a new person's are expected given his history."""

    class Config(Settings):
        """Settings of ``bayesian_pmf``."""

        width: Annotated[int, Ge(1)] = 32
        """Factors of a user and of an item."""
        sweeps: Annotated[int, Ge(1)] = 200
        """Times that everything is drawn."""
        burn_in: Annotated[float, Ge(0), Lt(1)] = 0.2
        """Share of the sweeps, the first ones, of which nothing is kept."""
        samples: Annotated[int, Ge(1)] = 24
        """Sets that are kept, at even distances; memory and the time of an answer grow with them."""
        biases: bool = True
        """Whether users and items have biases beside factors."""
        implicit: bool = True
        """Whether the items that a person has tell of him whatever their ratings, and an item's people of the item: the
        Bayesian form of SVD++. False: as first published."""
        noise_precision: Annotated[float, Gt(0)] | None = None
        """One over the variance of a rating about its mean, in units of that of all ratings; none: it is drawn too."""
        clip: bool = False
        """Whether predictions stay within the lowest and the highest rating of the training data."""

    def __init__(self, config: Any, domain: Domain) -> None:
        super().__init__(config, domain)
        self.kept = _kept(config)
        sets, width = len(self.kept), config.width + config.biases
        shapes = {
            "item_biases": (sets, domain.n_items if config.biases else 0),
            "means": (sets, width),
            "precisions": (sets, width, width),
            "noises": (sets, 1),
            "links": (sets, domain.n_items if config.implicit else 0, width),
            "spread": (1,),
        }
        self.more = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        self._sets: tuple[Scores, list[Sample]] | None = None

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Draw; the root of the mean squared error of each draw goes into the run's history.

        Raises:
            ValueError: no event has a value.
        """
        config, ratings = self.config, ratings_of(train, "bayesian_pmf")
        mean, spread, targets_T = standardised(ratings.values)
        limits = float(ratings.values.min()), float(ratings.values.max())
        had_UI = train.histories.csr(train.n_items) if config.implicit else None
        chain = Chain(ratings, targets_T, config.width, config.biases, config.noise_precision, had_UI, run.rng("init"))
        samples: list[Sample] = []
        last: list[Sample] = []

        def once(sweep: int) -> dict[str, float]:
            last[:], error = chain.sweep(run.rng(f"sweep/{sweep}"))
            if sweep in self.kept:
                samples.extend(last)
            told = {"loss": error, "train/rmse": float(np.sqrt(error)) * spread}
            return {**told, "noise": spread / float(np.sqrt(chain.state["precisions"][0]))}

        def arrays() -> Arrays:
            stacked = {
                f"sample/{n}/{name}": part for n, it in enumerate(samples) for name, part in it._asdict().items()
            }
            return {**chain.state, **stacked}

        def restore(found: Arrays) -> None:
            chain.state = {name: take_back(found, name, now.shape, now.dtype.type) for name, now in chain.state.items()}
            count = len({name.split("/")[1] for name in found if name.startswith("sample/")})
            samples[:] = [Sample(*(found[f"sample/{n}/{name}"] for name in Sample._fields)) for n in range(count)]

        sweeps(
            config.sweeps,
            once,
            run,
            arrays=arrays,
            restore=restore,
            model=self,
            validate=validate,
            checkpoint_every=CHECKPOINT_EVERY,
            show=lambda: self._show(samples or last, mean, spread, limits),
        )

    def _show(self, samples: list[Sample], mean: float, spread: float, limits: tuple[float, float]) -> None:
        """Answer by the mean of these sets."""
        count, first = len(samples), int(self.config.biases)
        share = np.float32(spread / count)
        users_UB = np.concatenate([it.users_UB[:, first:] * share for it in samples], axis=1)
        items_IB = np.concatenate([it.items_IB[:, first:] for it in samples], axis=1)
        user_biases_U, item_biases_I = np.zeros(len(users_UB), np.float32), np.zeros(len(items_IB), np.float32)
        for n, it in enumerate(samples):
            if first:
                user_biases_U += share * it.users_UB[:, 0]
                item_biases_I += share * it.items_IB[:, 0]
                self.more["item_biases"][n] = it.items_IB[:, 0]
            self.more["means"][n], self.more["precisions"][n] = it.mean_B, it.precision_BB
            self.more["noises"][n], self.more["links"][n] = it.noise, it.links_IB
        self.more["spread"] = np.array([spread], np.float32)
        self._keep(mean, np.column_stack([user_biases_U, users_UB]), np.column_stack([item_biases_I, items_IB]), limits)

    def _samples(self) -> list[Sample]:
        """The kept sets, without users."""
        if self._sets is None or self._sets[0] is not self.items_ID:
            width, more = self.config.width, self.more
            nobody_UB = np.zeros((0, width), np.float32)
            sets = []
            for n, first in enumerate(range(1, self.items_ID.shape[1], width)):
                items_IB = self.items_ID[:, first : first + width]
                if self.config.biases:
                    items_IB = np.column_stack([more["item_biases"][n], items_IB])
                parts = more["means"][n], more["precisions"][n], more["noises"][n], more["links"][n]
                sets.append(Sample(nobody_UB, np.ascontiguousarray(items_IB), *parts))
            self._sets = self.items_ID, sets
        return self._sets[1]

    def fold_in(self, history: Events) -> Scores:
        """What is expected of the person's factors in each kept set, given his history, side by side."""
        samples, first = self._samples(), int(self.config.biases)
        share = self.more["spread"][0] / np.float32(max(1, len(samples)))
        found = [self._expected(history, it, roots=False)[0] * share for it in samples]
        biases_N = sum(rows_NB[:, 0] for rows_NB in found) if first else np.zeros(len(history), np.float32)
        return np.column_stack([biases_N, *(rows_NB[:, first:] for rows_NB in found)]).astype(np.float32)

    def _expected(self, history: Events, it: Sample, roots: bool) -> tuple[Scores, Scores]:
        """``(N, B)`` what is expected in one set, and ``(N, B, B)`` roots of the precisions where asked for."""
        known = valued(history)
        assert known.values is not None
        means_NB = it.mean_B[None]
        if self.config.implicit:
            had_NI = history.csr(self.domain.n_items)
            lengths_N = np.maximum(np.diff(had_NI.indptr), 1).astype(np.float32)
            means_NB = means_NB + np.asarray((had_NI @ it.links_IB) / np.sqrt(lengths_N)[:, None], np.float32)
        targets_T = (known.values - self.mean) / self.more["spread"][0]
        sides_T, vectors_IB = fixed(targets_T, known.items, it.items_IB, self.config.biases)
        _, rows_NB, _, roots_NBB = draw_rows(
            known.offsets,
            known.items,
            sides_T,
            vectors_IB,
            noise=float(it.noise[0]),
            precision_DD=it.precision_BB,
            means_RD=means_NB,
            normals_RD=np.zeros((len(history), len(it.mean_B)), np.float32),
            roots=roots,
        )
        return rows_NB, roots_NBB

    def deviation(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Standard deviations of the values that would be given, in the scale of the data.

        They hold what is not known of the person, given his history; what is not known of the items, by how far the
        kept sets are apart; and the noise of ratings. Of each question the history counts, not who asks.

        Args:
            queries: the questions.
            candidates: ``(N, C)`` items; none: all, ``(N, I)``.
        """
        sums_NI, squares_NI, within_NI = (np.zeros((len(queries), self.domain.n_items)) for _ in range(3))
        samples = self._samples()
        for it in samples:
            rows_NB, roots_NBB = self._expected(queries.history, it, roots=True)
            none = np.zeros(0, np.float32), np.zeros(0, np.int32)
            _, vectors_IB = fixed(*none, it.items_IB, self.config.biases)
            found_NI = rows_NB @ vectors_IB.T + (it.items_IB[:, 0] if self.config.biases else 0.0)
            sums_NI += found_NI
            squares_NI += np.square(found_NI, dtype=np.float64)
            whitened_NBB = np.linalg.inv(roots_NBB).transpose(0, 2, 1)
            for n in range(len(queries)):
                within_NI[n] += np.square(vectors_IB @ whitened_NBB[n]).sum(axis=1) + 1.0 / it.noise[0]
        between_NI = squares_NI / len(samples) - np.square(sums_NI / len(samples))
        found = np.sqrt(np.maximum(between_NI, 0.0) + within_NI / len(samples)) * float(self.more["spread"][0])
        return pick_candidates(found.astype(np.float32), candidates)


def _kept(config: BayesianPMF.Config) -> list[int]:
    """The sweeps whose sets are kept."""
    first = int(config.burn_in * config.sweeps)
    count = min(config.samples, config.sweeps - first)
    kept: list[int] = np.unique((np.linspace(config.sweeps - 1, first, count) + 1e-9).astype(np.int64)).tolist()
    return kept
