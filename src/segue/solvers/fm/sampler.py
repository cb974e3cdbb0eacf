"""A chain of states of a factorisation machine, and which of them are kept.

Shapes: T ratings, C columns, W = 1 + D bias and vector, M kept states.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.model import Arrays
from segue.core.ratings import Ratings
from segue.core.types import Dataset, Scores
from segue.solvers.fm.design import blocks_of
from segue.solvers.fm.gibbs_sweep import Sweeper
from segue.solvers.fm.likelihoods import Gaussian, OrderedProbit, Target
from segue.solvers.fm.parameters import Coefficients, row_sums, scores_of
from segue.solvers.fm.posterior_samples import Samples
from segue.solvers.fm.relational_blocks import Relations

__all__ = ["Chain"]

KEPT = "kept/"


class Chain:
    """All that a training moves.

    Args:
        config: ``likelihood``, ``learner``, ``inputs``, ``width``, ``sweeps``, ``burn_in``, ``samples``, ``days``,
            ``own_noise``, ``l2``, ``l2_bias``.
    """

    def __init__(self, config: Any, train: Dataset, ratings: Ratings, rng: np.random.Generator) -> None:
        self.config, self.n_users = config, train.n_users
        draws = config.learner == "gibbs"
        blocks, self.dates = blocks_of(train, ratings, config.inputs, config.days, "factorization_machine.inputs")
        self.relations = Relations(blocks)
        self.sweeper = Sweeper(self.relations, draws, draws and config.own_noise)
        self.target: Target = Gaussian(ratings.values)
        if config.likelihood == "ordered_probit":
            self.target = OrderedProbit(ratings.values, draws, "factorization_machine.likelihood")
        self.state = Coefficients.begun(self.relations, config.width, rng)
        if not draws:
            self.state.precisions[0], self.state.precisions[1:] = config.l2_bias, config.l2
        self.settled = int(config.burn_in * config.sweeps)
        count = min(config.samples, config.sweeps - self.settled) if draws else 1
        self.keeps = set(np.linspace(config.sweeps - 1, self.settled, count).round().astype(int).tolist())
        self.kept: Samples | None = None
        self._look()

    def sweep(self, number: int, rng: np.random.Generator) -> dict[str, float]:
        """Move on by one state; its loss and error."""
        settling = number < self.settled
        errors_T = self.target.errors(self.scores_T, self._roots(), rng, settling)
        self.sweeper.sweep(self.state, self.vectors_SD, errors_T, rng, self.target.offset, self.target.noisy)
        self._look()
        if number in self.keeps:
            self.kept = self._sample() if self.kept is None else Samples.joined([self.kept, self._sample()])
        return self.target.told(self.scores_T, self._roots(), float(self.state.noise[0]))

    def samples(self) -> Samples:
        """What is kept; before anything is, the state as it is."""
        return self._sample() if self.kept is None else self.kept

    def arrays(self) -> Arrays:
        """All that a later sweep needs."""
        kept = {} if self.kept is None else {f"{KEPT}{name}": array for name, array in self.kept.arrays().items()}
        return {**self.state.arrays(), **self.target.arrays(), **kept}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take back what :meth:`arrays` gave."""
        self.state = self.state.restored(arrays)
        self.target.restore(arrays)
        found = {name.removeprefix(KEPT): array for name, array in arrays.items() if name.startswith(KEPT)}
        self.kept = Samples(**found, ordered=self._ordered) if found else None
        self._look()

    def _look(self) -> None:
        """Rows and scores of the state as it is, always from its coefficients: a resumed run has the same."""
        state, relations = self.state, self.relations
        self.biases_S, self.vectors_SD = row_sums(relations.by_row, state.linear_C, state.factors_DC)
        self.scores_T = scores_of(float(state.offset[0]), relations.places_BT, self.biases_S, self.vectors_SD)

    def _roots(self) -> Scores:
        """``(T,)``"""
        roots_U: Scores = np.sqrt(self.state.own_U).astype(np.float32)
        found_T: Scores = roots_U[self.relations.places_BT[0]]
        return found_T

    @property
    def _ordered(self) -> bool:
        return bool(self.config.likelihood == "ordered_probit")

    def _sample(self) -> Samples:
        """The state as answers need it."""
        state, wide = self.state, self.config.width + 1
        rows_SW = np.column_stack([self.biases_S, self.vectors_SD])
        tables = [rows_SW[self.relations.part(block)] for block in range(len(self.relations.blocks))]
        dates = tables[2] if len(tables) > 2 else np.zeros((0, wide))
        # of the users' block, what stands behind the ids is known of newcomers too
        behind = slice(self.n_users, int(self.relations.columns_B[1]))
        columns = np.column_stack([state.linear_C[behind], state.factors_DC[:, behind].T])
        # of ratings that are their scores, the noise says nothing to what is expected
        roots = np.sqrt(state.own_U) if self.sweeper.own_noise and self._ordered else np.zeros(0)
        return Samples(
            offsets=_single(state.offset),
            noises=_single(state.noise),
            users=_single(tables[0]),
            items=_single(tables[1]),
            dates=_single(dates),
            roots=_single(roots),
            cuts=_single(self.target.cuts_J),
            values=_single(self.target.values_K),
            columns=_single(columns),
            means=_single(state.means[:, 0]),
            precisions=_single(state.precisions[:, 0]),
            ordered=self._ordered,
        )


def _single(array: NDArray[Any]) -> Scores:
    """A first dimension of one state."""
    return np.ascontiguousarray(array, np.float32)[None]
