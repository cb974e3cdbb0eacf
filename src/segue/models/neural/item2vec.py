"""Item2vec: word2vec with histories as sentences.

Barkan and Koenigstein 2016, arXiv:1603.04259. Skip-gram with negative sampling learns an input vector x_i and an output
vector y_i of each item from the items near it in histories; see :mod:`segue.solvers.skip_gram`. A query is the mean of
the input vectors of its history, in which recent events weigh more. There are two ways to score an item j:

- ``conditional``: ``mean x . y_j + popularity_weight ln P_noise(j)``. Skip-gram learns ``x_i . y_j ≈ ln P(j | i) - ln
  P_noise(j)`` up to a constant, where P(j | i) is the probability that j is near i. With a weight of 1, the score is
  thus the mean of ``ln P(j | i)`` over the history; with 0, it is the lift of j over its popularity.
- ``cosine``: the mean cosine of x_j and the input vectors of the history, as in the paper.

The window and the distribution of negatives matter more than the other settings, and good values differ from those for
text (Caselles-Dupré et al. 2018, arXiv:1804.04212). Histories without known items are scored as the mean event.

Shapes: I items, N queries, D dimensions, T events.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray
from pydantic import model_validator

from segue.core.config import Settings, reject_unused
from segue.core.model import Solver, StateArrays, Validate, select_candidates
from segue.core.model_arrays import load_array
from segue.core.run import Run
from segue.core.types import Codes, DataSchema, Dataset, Queries, Scores
from segue.solvers.biased_factor_model import cosine_similarity
from segue.solvers.skip_gram import SkipGram, SkipGramOptions
from segue.solvers.training_iterations import run_iterations

__all__ = ["Item2Vec"]

MAX_EVENTS = 2**31 - 1
"""Upper bound on the number of events of an item in a saved model."""


class Item2Vec(Solver):
    """Skip-gram vectors of items; users are represented by their histories alone."""

    class Config(Settings):
        """Settings of ``item2vec``."""

        embedding_dim: Annotated[int, Ge(1)] = 64
        """Dimensions of an item vector."""
        iterations: Annotated[int, Ge(1)] = 30
        """Number of passes over all histories."""
        window: Annotated[int, Ge(1)] = 5
        """Maximum distance of two items of a pair, in events; the window of each event is drawn from 1 to this."""
        pairs: Literal["both", "later"] = "both"
        """``both``: an item predicts the items around it; ``later``: only those after it."""
        num_negatives: Annotated[int, Ge(1)] = 5
        """Negatives per pair."""
        sampler_alpha: Annotated[float, Ge(-2), Le(2)] = 0.75
        """Exponent of item counts in the distribution of negatives; 0: uniform, 1: by count."""
        subsample: Annotated[float, Ge(0)] = 0.0
        """Items with a larger share of all events are dropped at random in each pass; 0: none, text: 0.001."""
        learning_rate: Annotated[float, Gt(0)] = 0.05
        """Step size at the start; it falls linearly to 0.4 % of this."""
        scoring: Literal["conditional", "cosine"] = "conditional"
        """``conditional``: probability of an item near those of the history; ``cosine``: similarity to them."""
        popularity_weight: Annotated[float, Ge(0)] = 0.5
        """For conditional scoring: weight of the logarithm of the distribution of negatives."""
        half_life: Annotated[float, Gt(0)] | None = 2.0
        """Number of later events after which the weight of an event halves; none: all events weigh the same."""
        num_threads: Annotated[int, Ge(1)] = 1
        """Threads that update the vectors without locks; with more than one, training is not reproducible."""

        @model_validator(mode="after")
        def _check_popularity_weight(self) -> Self:
            reject_unused(self, {"popularity_weight": (self.scoring == "conditional", "scoring='conditional'")})
            return self

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        zeros_ID = np.zeros((schema.n_items, config.embedding_dim), np.float32)
        zeros_I = np.zeros(schema.n_items, np.float32)
        self._set_vectors(zeros_ID, zeros_ID, zeros_I, np.zeros(schema.n_items, np.int64))

    @classmethod
    def exceeds_memory(cls, config: Any, schema: DataSchema, max_bytes: int) -> bool:
        """See :meth:`segue.core.model.Model.exceeds_memory`."""
        return 8 * schema.n_items * int(config.embedding_dim) > max_bytes

    def _set_vectors(
        self, inputs_ID: Scores, outputs_ID: Scores, log_noise_I: Scores, counts_I: NDArray[np.int64]
    ) -> None:
        """Set the learned state and derive the vectors of queries and items from it."""
        self.inputs_ID, self.outputs_ID = inputs_ID, outputs_ID
        self.log_noise_I, self.counts_I = log_noise_I, counts_I
        if self.config.scoring == "cosine":
            norms_I = np.maximum(np.linalg.norm(inputs_ID, axis=1), np.finfo(np.float32).tiny)
            self._query_ID: Scores = inputs_ID / norms_I[:, None]
            self._vectors_ID: Scores = self._query_ID
            self._bias_I: Scores = np.zeros_like(log_noise_I)
        else:
            self._query_ID, self._vectors_ID = inputs_ID, outputs_ID
            self._bias_I = np.float32(self.config.popularity_weight) * log_noise_I
        weights_I = (counts_I / max(counts_I.sum(), 1)).astype(np.float32)
        self._mean_event_D: Scores = weights_I @ self._query_ID

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Run all iterations; log the mean loss of the pairs.

        Raises:
            ValueError: training diverged.
        """
        config, histories = self.config, train.histories
        options = SkipGramOptions(
            size=config.embedding_dim,
            epochs=config.iterations,
            window=config.window,
            num_negatives=config.num_negatives,
            sampler_alpha=config.sampler_alpha,
            subsample=config.subsample,
            learning_rate=config.learning_rate,
            is_forward=config.pairs == "later",
            num_threads=config.num_threads,
        )
        trainer = SkipGram(histories.offsets, histories.items, train.n_items, options, run.rng("init"))
        smallest = trainer.noise_V[trainer.noise_V > 0].min()
        log_noise_I = np.log(np.maximum(trainer.noise_V, smallest)).astype(np.float32)

        def step(iteration: int) -> dict[str, float]:
            loss = trainer.run_epoch(iteration, run.rng(f"sweep/{iteration}"))
            if not (np.isfinite(loss) and np.isfinite(trainer.inputs_VD).all()):
                raise ValueError(
                    f"item2vec.learning_rate: got {config.learning_rate:g}, and training diverged; use a smaller one"
                )
            return {"loss": loss}

        run_iterations(
            config.iterations,
            step,
            run,
            arrays=trainer.arrays,
            restore=trainer.restore,
            model=self,
            validate=validate,
            publish=lambda: self._set_vectors(trainer.inputs_VD, trainer.outputs_VD, log_noise_I, trainer.counts_V),
        )

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """Return the weighted mean vector of each history, ``(N, D)``.

        Items without training events are ignored.
        """
        history = queries.history
        weights_T = (self.counts_I[history.items] > 0).astype(np.float32)
        if self.config.half_life is not None:
            steps_back = history.offsets[1:][history.rows] - 1 - np.arange(history.size)
            weights_T *= np.maximum(np.exp2(-steps_back / self.config.half_life), np.finfo(np.float32).tiny)
        total_N = np.bincount(history.rows, weights_T, minlength=len(history)).astype(np.float32)
        rows_ND: Scores = history.csr(self.schema.n_items, weights_T) @ self._query_ID
        is_known = total_N > 0
        rows_ND[is_known] /= total_N[is_known, None]
        rows_ND[~is_known] = self._mean_event_D
        return rows_ND

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Return the vectors that scores are computed with, ``(n_items, D)``."""
        return self._vectors_ID

    @property
    def bias(self) -> NDArray[np.float32]:
        """Return the item biases, ``(n_items,)``."""
        return self._bias_I

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Compute scores; see the module."""
        scores_NI: Scores = self.encode(queries) @ self._vectors_ID.T + self._bias_I
        return select_candidates(scores_NI, candidates)

    def similar(self, items: Codes) -> Scores:
        """Return cosine similarities of input vectors.

        They are 0 for items without training events.
        """
        return cosine_similarity(self.inputs_ID, items)

    def arrays(self) -> StateArrays:
        """Return input and output vectors, log-probabilities of negatives, and counts."""
        return {
            "inputs": self.inputs_ID,
            "outputs": self.outputs_ID,
            "log_noise": self.log_noise_I,
            "counts": self.counts_I,
        }

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        n_items, width = self.schema.n_items, self.config.embedding_dim
        self._set_vectors(
            load_array(arrays, "inputs", (n_items, width), np.float32),
            load_array(arrays, "outputs", (n_items, width), np.float32),
            load_array(arrays, "log_noise", (n_items,), np.float32),
            _load_counts(arrays, n_items),
        )


def _load_counts(arrays: StateArrays, n_items: int) -> NDArray[np.int64]:
    """Return the number of events of each item.

    Raises:
        ValueError: it is negative or impossibly large.
    """
    counts_I = load_array(arrays, "counts", (n_items,), np.int64)
    if len(counts_I) and not 0 <= int(counts_I.min()) <= int(counts_I.max()) < MAX_EVENTS:
        raise ValueError(f"array 'counts' in the saved model: got {counts_I.min()} to {counts_I.max()} events")
    return counts_I
