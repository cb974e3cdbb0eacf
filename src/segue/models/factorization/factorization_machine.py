"""A Bayesian factorisation machine of ratings (Rendle 2010, doi:10.1109/ICDM.2010.127).

A rating's score is a sum over whatever is known of it: who, what, when, what else the person has had, who else has had
the item, features of both; each of these has a weight, and each two of them the product of their vectors:

    offset + sum_c w_c x_c + sum_{c<c'} (v_c . v_c') x_c x_c'

Coefficients and their priors are sampled (Freudenthaler, Schmidt-Thieme and Rendle 2011), over relations (Rendle
2013, doi:10.14778/2535573.2488340); a prediction is the mean over kept samples. With such inputs it is the model that
Rendle, Zhang and Koren 2019 (arXiv:1905.01395) found to be ahead of newer ones on ratings. Scores may be the mean of
ratings, or decide between levels in an order (Albert and Chib 1993, doi:10.1080/01621459.1993.10476321; Ohtsuki's myFM,
2020).

Shapes: U users, I items, N queries, C candidates, T ratings or pairs, M kept samples, W bias and vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt, Le, Lt
from numpy.typing import NDArray

from segue.core.config import Settings
from segue.core.model import Arrays, Solver, Validate, pick_candidates
from segue.core.model_arrays import take_back
from segue.core.ratings import ratings_of, valued
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Domain, Queries, Scores
from segue.solvers.biased_factor_model import cosine_likeness
from segue.solvers.fm.design import Dates, Input, domain_of, newcomers
from segue.solvers.fm.fold_in import welcomed
from segue.solvers.fm.posterior_samples import Samples
from segue.solvers.fm.sampler import Chain
from segue.solvers.training_iterations import sweeps

__all__ = ["FactorizationMachine"]

VALIDATIONS = 20
"""Validations in a training, about."""


class FactorizationMachine(Solver):
    """Ratings from ids, what is implicit, features and dates; linear where ``width`` is 0."""

    needs_values = True
    predicts = True
    chooser = "rmse"

    class Config(Settings):
        """Settings of ``factorization_machine``."""

        likelihood: Literal["gaussian", "ordered_probit"] = "gaussian"
        """What ratings are: numbers about their score, or levels in an order, which fits stars better."""
        learner: Literal["gibbs", "als"] = "gibbs"
        """Samples of the posterior, priors included; or one point, by coordinate descent, with the priors of ``l2``."""
        inputs: tuple[Input, ...] = ("implicit_user", "implicit_item")
        """What is read beside who and what: ``implicit_user`` (the items of the user), ``implicit_item`` (the users of
        the item), ``user_features``, ``item_features``, ``date`` (of the rating, where the protocol tells it)."""
        width: Annotated[int, Ge(0)] = 16
        """Dimensions of the vectors; 0: a linear model."""
        sweeps: Annotated[int, Ge(1)] = 200
        """Times that all coefficients are moved."""
        burn_in: Annotated[float, Ge(0), Lt(1)] = 0.1
        """Share of the sweeps before the first sample is kept."""
        samples: Annotated[int, Ge(1)] = 40
        """Samples that are kept, evenly spread over the other sweeps; the model's size is in proportion to them."""
        days: Annotated[int, Ge(1), Le(36_500)] = 1
        """Days of one period, where ``date`` is read."""
        own_noise: bool = True
        """Of ``gibbs``: whether each user has a noise of his own, so that erratic ratings count for less."""
        l2: Annotated[float, Gt(0)] = 8.0
        """Of ``als``: ridge of the vectors; in units of the ratings' standard deviation."""
        l2_bias: Annotated[float, Gt(0)] = 2.0
        """Of ``als``: ridge of the weights, likewise."""
        clip: bool = False
        """Whether predictions stay within the lowest and the highest rating of the training data."""

    def __init__(self, config: Config, domain: Domain) -> None:
        super().__init__(config, domain)
        self.dates = Dates(np.zeros(0, np.int64), config.days)
        self.limits = np.zeros(2, np.float32)

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Sweep; each sweep's loss, root of the mean squared error and validation go into the run's history.

        Loss and error are those of the sweep's own state, not of the mean over samples that answers.

        Raises:
            ValueError: no event has a value, there are too many levels, or nothing to make an input of.
        """
        config, ratings = self.config, ratings_of(train, "factorization_machine")
        self.domain = domain_of(config.inputs, train)
        self.limits = np.array([ratings.values.min(), ratings.values.max()], np.float32)
        chain = Chain(config, train, ratings, run.rng("init"))
        self.dates = chain.dates

        def once(sweep: int) -> dict[str, float]:
            told = chain.sweep(sweep, run.rng(f"sweep/{sweep}"))
            self.samples = chain.samples()
            return told

        def restore(arrays: Mapping[str, NDArray[Any]]) -> None:
            chain.restore(arrays)
            self.samples = chain.samples()

        sweeps(
            config.sweeps,
            once,
            run,
            arrays=chain.arrays,
            restore=restore,
            model=self,
            validate=validate,
            validate_every=max(1, config.sweeps // VALIDATIONS),
        )

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """The predicted values, never clipped: of known users as in training, of others by what the query tells.

        Of these, what is implicit and features are read as they are, and values tell the rest.
        """
        users = np.where(queries.known, queries.users, 0)
        persons_MNW = self.samples.users[:, users]
        if (new := np.flatnonzero(~queries.known)).size:
            history = queries.history.take(new)
            profile = None if queries.profile is None else queries.profile[new]
            known_NF = newcomers(self.domain, self.config.inputs, history, profile)
            told = valued(history)
            persons_MNW[:, new] = welcomed(self.samples, known_NF, told, self.dates.rows(told.times, told.size))
        persons_MNW = self.samples.of(persons_MNW, self.dates.rows(queries.times, len(queries)))
        roots_MN = self.samples.roots_of(users, queries.known)
        return pick_candidates(self.samples.ratings(persons_MNW, roots_MN), candidates)

    def predict(self, users: Codes, items: Codes, times: NDArray[np.int64] | None = None) -> Scores:
        """See :meth:`segue.core.model.Predictor.predict`."""
        found = self.samples.pairs(users, items, self.dates.rows(times, len(users)))
        return self.in_scale(found)

    def in_scale(self, scores: Scores) -> Scores:
        """See :meth:`segue.core.model.Predictor.in_scale`."""
        return np.clip(scores, *self.limits) if self.config.clip else scores

    def similar(self, items: Codes) -> Scores:
        """The cosine between the items' vectors, averaged over the samples."""
        likeness = [cosine_likeness(rows_IW[:, 1:], items) for rows_IW in self.samples.items]
        mean: Scores = np.mean(likeness, axis=0, dtype=np.float32)
        return mean

    def arrays(self) -> Arrays:
        """The kept samples, the periods, and the limits of the scale."""
        return {**self.samples.arrays(), "periods": self.dates.periods_P, "limits": self.limits}

    def restore(self, arrays: Arrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        config = self.config
        self.samples = Samples.restored(arrays, self.domain, config.width, config.likelihood == "ordered_probit")
        self.dates = Dates(take_back(arrays, "periods", (None,), np.int64), config.days)
        self.limits = take_back(arrays, "limits", (2,), np.float32)
