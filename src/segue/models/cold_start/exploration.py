"""Explore items that little is known about, beside the best of a base model.

Four policies change the scores of the base model, by default ``popular``:

* ``thompson``: add a random error of the size of the uncertainty of the item's rate of events (Thompson 1933,
  doi:10.1093/biomet/25.3-4.285; Chapelle and Li 2011, "An empirical evaluation of Thompson sampling");
* ``ucb``: add the uncertainty itself, an upper confidence bound (Auer, Cesa-Bianchi and Fischer 2002,
  doi:10.1023/A:1013689704352);
* ``novelty``: subtract the logarithm of the item's popularity (Vargas and Castells 2011, doi:10.1145/2043932.2043955);
* ``random_share``: replace a random share of the first positions by random items (epsilon-greedy).

With n events, the rate of an item has a gamma distribution of shape n + ``prior_events``, whose logarithm has the
standard deviation ``sqrt(trigamma(n + prior_events))``. Random numbers depend on the seed, the user and the history:
equal queries get equal lists, and each event of the user draws new ones. An item that the base model cannot score, as
it has no events, starts from the lowest score of the others.

Shapes: N queries, I items, C candidates.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal, Self

import numpy as np
from annotated_types import Ge, Gt, Le
from pydantic import Field, model_validator

from segue.core.config import Settings, reject_unused
from segue.core.model import Model, Solver, StateArrays, Validate, select_candidates
from segue.core.model_arrays import load_array
from segue.core.run import Run
from segue.core.types import Codes, DataSchema, Dataset, Queries, Scores
from segue.solvers.popularity import item_counts
from segue.solvers.profiles.base_models import base_arrays, build_base, check_base, restore_base
from segue.solvers.profiles.query_hash import Words, hash_queries, uniform_numbers

__all__ = ["Exploration"]

EXPLORED_POSITIONS = 100
"""Positions of a list of which ``random_share`` replaces a share."""


class Exploration(Solver):
    """Change the scores of a base model by an exploration policy."""

    class Config(Settings):
        """Settings of ``exploration``."""

        policy: Literal["thompson", "ucb", "novelty", "random_share"] = "thompson"
        """How lists depart from those of the base model."""
        strength: Annotated[float, Ge(0)] = 1.0
        """Multiplier of the random error, of the uncertainty or of the logarithm of the popularity; 0: the base."""
        share: Annotated[float, Ge(0), Le(1)] = 0.1
        """For ``random_share``: share of the positions that get a random item."""
        prior_events: Annotated[float, Gt(0)] = 1.0
        """Events added to the count of each item."""
        base: str = "popular"
        """Key of the base model, which must be one that is not a neural network."""
        base_settings: dict[str, Any] = Field(default={})
        """Settings of the base model that differ from its defaults."""

        @model_validator(mode="after")
        def _all_used(self) -> Self:
            is_share = self.policy == "random_share"
            scaled = dict.fromkeys(("strength", "prior_events"), (not is_share, "another policy than 'random_share'"))
            reject_unused(self, {**scaled, "share": (is_share, "policy='random_share'")})
            check_base(self.base, self.base_settings, ("exploration", "hybrid"))
            return self

    def __init__(self, config: Config, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.base = build_base(config.base, config.base_settings, schema)

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Train the base model and count the events of each item.

        Raises:
            ValueError: the base model cannot be trained on the data.
        """
        self.base.fit(train, run, None)
        self.schema = replace(self.base.schema, n_without_events=0)  # items without events are explored, too
        self.counts_I = item_counts(train).astype(np.float32)
        self.seed_1 = np.array([run.derive_seed("exploration")], np.uint64)

    @property
    def inner_models(self) -> tuple[Model, ...]:
        """See :attr:`segue.core.model.Model.inner_models`."""
        return (self.base,)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return the scores of the base model, changed by the policy.

        Scores of the base that are not logits are standardized for each query. With ``random_share``, scores are
        negative positions.
        """
        from scipy.special import ndtri, polygamma

        config, scores_NI = self.config, np.array(self.base.score(queries))
        n_scored = self.schema.n_items - self.base.schema.n_unscored
        scores_NI[:, n_scored:] = scores_NI[:, :n_scored].min(axis=1, keepdims=True)
        items_1I = np.arange(self.schema.n_items, dtype=np.int32)[None]
        words_N = hash_queries(queries, self.seed_1)
        if config.policy == "random_share":
            scores_NI = self._replace_positions(scores_NI, words_N, items_1I)
            return select_candidates(scores_NI, candidates)
        if self.base.scale != "logit":
            deviations_N1 = scores_NI[:, :n_scored].std(axis=1, keepdims=True)
            scores_NI -= scores_NI[:, :n_scored].mean(axis=1, keepdims=True)
            scores_NI /= np.where(deviations_N1 > 0, deviations_N1, 1.0)
        counts_I = self.counts_I + np.float32(config.prior_events)
        if config.policy == "novelty":
            scores_NI -= np.float32(config.strength) * np.log(counts_I / counts_I.sum())
            return select_candidates(scores_NI, candidates)
        bonus_NI: Any = (config.strength * np.sqrt(polygamma(1, counts_I))).astype(np.float32)
        if config.policy == "thompson":
            numbers_NI = uniform_numbers(words_N, items_1I) + np.float32(2.0**-25)  # greater than 0, at most 1
            bonus_NI = bonus_NI * ndtri(np.minimum(numbers_NI, np.float32(1 - 2.0**-24)))
        return select_candidates((scores_NI + bonus_NI).astype(np.float32), candidates)

    def _replace_positions(self, scores_NI: Scores, words_N: Words, items_1I: Codes) -> Scores:
        """Return negative positions, a share of them with random items.

        Only the first :data:`EXPLORED_POSITIONS` are explored.
        """
        n_items = scores_NI.shape[1]
        is_random_NI = uniform_numbers(words_N ^ np.uint64(1), items_1I) < self.config.share  # by position
        is_random_NI[:, EXPLORED_POSITIONS:] = False
        n_random_N1 = is_random_NI.sum(axis=1, keepdims=True)
        random_order_NI = np.argsort(uniform_numbers(words_N, items_1I), axis=1, kind="stable")
        draw_NI = np.argsort(random_order_NI, axis=1)  # position of each item in the random order
        is_drawn_NI = draw_NI < n_random_N1
        # drawn items in random order, then the others in the order of the base
        order_NI = np.lexsort((np.where(is_drawn_NI, draw_NI, -scores_NI), ~is_drawn_NI), axis=1)
        # positions of random items, then all others
        positions_NI = np.argsort(~is_random_NI, axis=1, kind="stable")
        found_NI = np.empty((len(scores_NI), n_items), np.float32)
        np.put_along_axis(found_NI, order_NI, -positions_NI.astype(np.float32), axis=1)
        return found_NI

    def arrays(self) -> StateArrays:
        """Return the counts of items, the seed and the arrays of the base model."""
        return {"counts": self.counts_I, "seed": self.seed_1, **base_arrays(self.base, "base")}

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        restore_base(self.base, self.schema, arrays, "base")
        self.counts_I = load_array(arrays, "counts", (self.schema.n_items,), np.float32)
        self.seed_1 = load_array(arrays, "seed", (1,), np.uint64)
