"""What a recommender is: one small protocol, optional abilities, and the base of the models that train themselves.

Shapes: N queries, I items, C candidates, D width of a factored model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeGuard, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from segue.core.config import Settings
from segue.core.types import Codes, Dataset, Domain, Events, Queries, Scores

if TYPE_CHECKING:
    from segue.core.run import Run
    from segue.core.state import State

__all__ = [
    "LESS_IS_BETTER",
    "Arrays",
    "Factored",
    "Model",
    "Predictor",
    "Recommender",
    "Similar",
    "SimilarUsers",
    "Solver",
    "Streaming",
    "Validate",
    "is_factored",
    "pick_candidates",
]

Arrays = Mapping[str, NDArray[Any]]
"""A model's memory by name, as it is written to a bundle."""

Validate = Callable[["Recommender"], Mapping[str, float]]
"""Validation metrics by name, such as ``ndcg@10``, of a model as it is now."""

LESS_IS_BETTER = frozenset({"rmse", "mae"})
"""The metrics that measure an error; of all others more is better."""


@runtime_checkable
class Recommender(Protocol):
    """Anything that answers queries with scores."""

    domain: Domain

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Scores ``(N, n_items)`` of the whole catalogue, or ``(N, C)`` of ``candidates (N, C)``; all finite.

        An unknown user, an unknown item id or an empty history is a normal question.
        """
        ...


@runtime_checkable
class Factored(Recommender, Protocol):
    """A recommender whose scores are ``encode(queries) @ vectors.T + bias``."""

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """``(N, D)`` one vector per query."""
        ...

    @property
    def vectors(self) -> NDArray[np.float32]:
        """``(n_items, D)``"""
        ...

    @property
    def bias(self) -> NDArray[np.float32]:
        """``(n_items,)``"""
        ...


def is_factored(model: Recommender) -> TypeGuard[Factored]:
    """Whether a recommender is :class:`Factored`, at a tenth of what ``isinstance`` costs: who answers asks often."""
    return hasattr(model, "encode") and hasattr(model, "vectors") and hasattr(model, "bias")


@runtime_checkable
class Streaming(Factored, Protocol):
    """A factored recommender that goes on from what it remembers, event by event, at a cost that never grows."""

    scale: ClassVar[Literal["logit", "score"]]

    def state(self, queries: Queries) -> State:
        """What it remembers after each query's history, which may be empty."""
        ...

    def step(self, state: State, events: Events) -> State:
        """The state after further events: row n of ``events``, oldest first and usually one, goes on from row n.

        Raises:
            ValueError: the state is of another model, or its arrays or the events do not fit.
        """
        ...

    def answer(self, state: State, times: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """``(N, D)`` what :meth:`encode` gives for the whole histories, asked at ``times`` where the model is told."""
        ...


@runtime_checkable
class Predictor(Recommender, Protocol):
    """A recommender that says which value a user would give an item, in the scale of the data."""

    @property
    def predicts(self) -> bool:
        """Whether it can as it is set; some models learn from values or from events alone, as their settings say."""
        ...

    def predict(self, users: Codes, items: Codes, times: NDArray[np.int64] | None = None) -> Scores:
        """``(T,)`` the value that user t would give item t, such as a rating; not clipped unless a setting asks.

        A user or an item without an event in training is answered by what all others have in common.

        Args:
            times: ``(T,)`` when, where the protocol tells it; models that read no time make no use of it.
        """
        ...

    def in_scale(self, scores: Scores) -> Scores:
        """Scores as values in the scale of the data, clipped where a setting asks: what people who were not there in
        training would give, by what their queries tell."""
        ...


@runtime_checkable
class Similar(Protocol):
    """A model with an opinion of its own on which items are alike."""

    def similar(self, items: Codes) -> Scores:
        """``(len(items), n_items)`` likeness of every catalogue item; more is more alike."""
        ...


@runtime_checkable
class SimilarUsers(Protocol):
    """A model with an opinion of its own on who is alike."""

    def similar_users(self, queries: Queries) -> Scores:
        """``(N, n_users)`` likeness of every training user to each who asks; more is more alike."""
        ...


class Model(ABC):
    """A trainable recommender: settings and a domain in, scores out, its memory as named arrays.

    A model file holds one subclass, named first in its ``__all__``; the file's name is the model's key.
    """

    Config: ClassVar[type[Settings]]
    scale: ClassVar[Literal["logit", "score"]] = "score"
    """``logit``: a softmax over the catalogue turns scores into probabilities of the next item."""

    needs_values: ClassVar[bool] = False
    """Whether it learns from values, such as ratings, and not from events alone."""
    chooser: ClassVar[str] = "ndcg@10"
    """The validation metric that tells which of two states of training is better, unless the training names another."""

    config: Any
    domain: Domain

    @abstractmethod
    def __init__(self, config: Any, domain: Domain) -> None:
        """An untrained model for ``domain``, set by ``config``, an instance of ``Config``."""

    @abstractmethod
    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """See :meth:`Recommender.score`."""

    @abstractmethod
    def arrays(self) -> Arrays:
        """All that training has learned, by name."""

    @abstractmethod
    def restore(self, arrays: Arrays) -> None:
        """Take back what :meth:`arrays` gave; a missing name or another shape is a ``ValueError``."""


class Solver(Model):
    """A model that does its own sweeps over the data. The other kind is :class:`segue.core.network.Network`."""

    def __init__(self, config: Any, domain: Domain) -> None:
        self.config = config
        self.domain = domain

    @abstractmethod
    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Learn from ``train``; use ``run`` for random streams, progress, history and interruption."""


def pick_candidates(scores_NI: Scores, candidates: Codes | None) -> Scores:
    """The columns asked for: all, or per query those of ``candidates (N, C)``."""
    return scores_NI if candidates is None else np.take_along_axis(scores_NI, candidates, axis=1)
