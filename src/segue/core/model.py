"""Define the recommender protocols and the base classes of trainable models.

Shapes: N queries, I items, C candidates, D width of a factored model.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, TypeGuard, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from segue.core.config import Settings
from segue.core.examples.fields import Examples
from segue.core.types import Codes, DataSchema, Events, Mask, Queries, Scores

if TYPE_CHECKING:
    import polars as pl

    from segue.core.run import Run
    from segue.core.state import State

__all__ = [
    "FALLBACK_NOTES",
    "LOWER_IS_BETTER",
    "DeadlineAware",
    "ExampleModel",
    "Extensible",
    "Factored",
    "FallbackDescriber",
    "FeatureExplainer",
    "Model",
    "Predictor",
    "Recommender",
    "Similar",
    "SimilarUsers",
    "Solver",
    "StateArrays",
    "Streaming",
    "Validate",
    "describe_fallbacks",
    "explain_features",
    "is_deadline_aware",
    "is_factored",
    "is_lower_better",
    "is_query_mean",
    "nested_models",
    "select_candidates",
]

StateArrays = Mapping[str, NDArray[Any]]
"""A model's learned state: arrays by name, as stored in a bundle."""

Validate = Callable[["Recommender"], Mapping[str, float]]
"""Compute validation metrics by name, such as ``ndcg@10``, for the current state of a model."""

FALLBACK_NOTES: Mapping[str, str] = {
    "language_model": "no language model is set",
    "time": "the time did not suffice",
    "tokens": "the prompt has more tokens than max_tokens",
    "titles": "the history or the candidates have no titles",
    "error": "the language model failed",
}
"""Reasons of a :class:`DeadlineAware` model for the scores of a simpler model, and their descriptions."""

LOWER_IS_BETTER = frozenset({"rmse", "rmse_by_user", "rmse_by_item", "mae", "mae_by_user", "mae_by_item", "log_loss"})
"""Metrics of predictions for which lower values are better."""

LOWER_LIST_METRICS = frozenset({"gini", "popularity", "popularity_lift", "miscalibration", "gap"})
"""Metrics of recommendation lists for which lower values are better, without argument and cutoff."""


OF_ALL_QUERIES = frozenset({"rmse", "rmse_by_item", "mae", "mae_by_item", "coverage", "gini", "entropy", "gap"})
"""Metrics that are not means over queries, without argument and cutoff: single values per query mean nothing."""


def is_query_mean(metric: str) -> bool:
    """Return whether a metric, such as ``ndcg@10``, is a mean over the queries."""
    return re.split("[:@]", metric)[0] not in OF_ALL_QUERIES


def is_lower_better(metric: str) -> bool:
    """Return whether lower values of a metric, such as ``gini@10``, are better."""
    return metric in LOWER_IS_BETTER or re.split("[:@]", metric)[0] in LOWER_LIST_METRICS


@runtime_checkable
class Recommender(Protocol):
    """Anything that scores catalog items for queries."""

    schema: DataSchema

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return finite scores of catalog items for each query.

        The shape is ``(N, n_items)`` for the whole catalog, or ``(N, C)`` for ``candidates (N, C)``. Queries of unknown
        users and queries with an empty history are valid.
        """
        ...


@runtime_checkable
class Factored(Recommender, Protocol):
    """A recommender whose scores are ``encode(queries) @ vectors.T + bias``."""

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """Return one vector per query, ``(N, D)``."""
        ...

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Item vectors, ``(n_items, D)``."""
        ...

    @property
    def bias(self) -> NDArray[np.float32]:
        """Item biases, ``(n_items,)``."""
        ...


def is_factored(model: Recommender) -> TypeGuard[Factored]:
    """Check whether a recommender is :class:`Factored`.

    This is ten times as fast as ``isinstance`` on a protocol.
    """
    return hasattr(model, "encode") and hasattr(model, "vectors") and hasattr(model, "bias")


@runtime_checkable
class Streaming(Factored, Protocol):
    """A factored model with a recurrent state.

    Each event costs the same, regardless of the length of the history.
    """

    scale: ClassVar[Literal["logit", "score"]]

    def state(self, queries: Queries) -> State:
        """Compute the state after each query's history, which may be empty."""
        ...

    def step(self, state: State, events: Events) -> State:
        """Update the state with further events.

        Row n of ``events``, oldest first, continues row n of ``state``.

        Raises:
            ValueError: the state belongs to another model, or its arrays or the events do not fit.
        """
        ...

    def encode_state(
        self,
        state: State,
        times: NDArray[np.int64] | None = None,
        context: Mapping[str, NDArray[Any]] | None = None,
    ) -> NDArray[np.float32]:
        """Return what :meth:`encode` returns for the whole histories, ``(N, D)``.

        Args:
            times: ``(N,)`` query times, for models that use them.
            context: ``(N,)`` context columns of the queries by name, likewise; see ``Queries.context``.
        """
        ...


@runtime_checkable
class Predictor(Recommender, Protocol):
    """A recommender that predicts the value a user gives an item.

    The value, such as a rating, is in the scale of the data.
    """

    @property
    def predicts_ratings(self) -> bool:
        """Whether the model predicts values with its current settings.

        Settings may select explicit or implicit feedback.
        """
        ...

    def predict(self, users: Codes, items: Codes, times: NDArray[np.int64] | None = None) -> Scores:
        """Predict the values of pairs of users and items, ``(T,)``.

        Predictions are clipped only if a setting requests it. Users and items without training events get the
        prediction of an average user or item.

        Args:
            times: ``(T,)`` times of the predictions, where the evaluation protocol allows it; models that use no
                times ignore them.
        """
        ...

    def clip_predictions(self, scores: Scores) -> Scores:
        """Convert scores to values in the scale of the data.

        Values are clipped if a setting requests it. This gives the predictions for users who are unknown in training,
        whose scores come from their query histories.
        """
        ...


@runtime_checkable
class DeadlineAware(Recommender, Protocol):
    """A recommender that falls back to a simpler model if it has no time."""

    def until(self, deadline: float) -> Recommender:
        """Return a recommender that falls back for queries that would be late.

        Args:
            deadline: time in the clock of :func:`time.monotonic`.
        """
        ...

    def fallbacks(self, queries: Queries) -> dict[int, str]:
        """Return by row why queries were last answered by the simpler model.

        Other queries are left out. A reason is one of :data:`FALLBACK_NOTES`.
        """
        ...


def is_deadline_aware(model: Recommender) -> TypeGuard[DeadlineAware]:
    """Check whether a recommender is :class:`DeadlineAware`.

    Faster than ``isinstance``; see :func:`is_factored`.
    """
    return hasattr(model, "until") and hasattr(model, "fallbacks")


@runtime_checkable
class ExampleModel(Protocol):
    """A model that predicts the labels of examples."""

    def predict_logits(self, examples: Examples) -> Scores:
        """Return the logit of the probability that each example is positive, ``(T,)``."""
        ...


@runtime_checkable
class FallbackDescriber(Recommender, Protocol):
    """A recommender that cannot use some histories, and says which."""

    def describe_fallbacks(self, queries: Queries) -> dict[int, str]:
        """Say by row how queries are ranked whose history tells the model nothing.

        Empty histories and other queries are left out.
        """
        ...


def _is_fallback_describer(model: Recommender) -> TypeGuard[FallbackDescriber]:
    """Check whether a recommender is :class:`FallbackDescriber`.

    Faster than ``isinstance``; see :func:`is_factored`.
    """
    return hasattr(model, "describe_fallbacks")


def describe_fallbacks(model: Recommender, queries: Queries) -> dict[int, str]:
    """Say by row how queries are ranked whose history is not used.

    See :class:`FallbackDescriber`. Models whose scores the model uses for a query are named by their keys.
    """
    if _is_fallback_describer(model):
        return model.describe_fallbacks(queries)
    if not isinstance(model, Model):
        return {}
    found: dict[int, list[str]] = {}
    for inner in model.inner_models:
        if not any(_is_fallback_describer(one) for one in nested_models(inner)):
            continue
        rows = np.flatnonzero(model.uses_inner_model(inner, queries))
        name = f"inner model '{type(inner).__module__.rpartition('.')[2]}': " * _is_fallback_describer(inner)
        for row, text in describe_fallbacks(inner, queries.take(rows)).items():
            found.setdefault(int(rows[row]), []).append(name + text)
    return {row: "; ".join(dict.fromkeys(texts)) for row, texts in found.items()}


@runtime_checkable
class FeatureExplainer(Recommender, Protocol):
    """A recommender whose score of an item is a sum of contributions of features."""

    def explain_features(self, queries: Queries, item: int) -> tuple[str, dict[str, float]]:
        """Return what is summed up, such as ``score``, and its terms by name.

        Args:
            queries: exactly one.

        Returns:
            a name, and terms whose sum is the named quantity; none where the settings define no such sum.
        """
        ...


def explain_features(model: Recommender, queries: Queries, item: int) -> tuple[str, dict[str, float]]:
    """Return the contributions of features to the score of an item.

    See :class:`FeatureExplainer`. There are none if the model defines none.
    """
    return model.explain_features(queries, item) if isinstance(model, FeatureExplainer) else ("score", {})


@runtime_checkable
class Similar(Protocol):
    """A model with its own item similarity."""

    def similar(self, items: Codes) -> Scores:
        """Return similarities of all catalog items to ``items``.

        The shape is ``(len(items), n_items)``; higher is more similar.
        """
        ...


@runtime_checkable
class SimilarUsers(Protocol):
    """A model with its own user similarity."""

    def similar_users(self, queries: Queries) -> Scores:
        """Return the similarity of every training user to each query.

        The shape is ``(N, n_users)``; higher is more similar.
        """
        ...


@runtime_checkable
class Extensible(Protocol):
    """A model that represents items by their features.

    It can therefore score items that it was not trained with.
    """

    @property
    def can_add_items(self) -> bool:
        """Whether the model reads item features with its current settings."""
        ...

    def with_items(self, codes: Codes, table: pl.DataFrame) -> Self:
        """Return a copy of the model with the features of further items.

        An added item is scored as an item of the catalog that had no event in training.

        Args:
            codes: ``(N,)`` distinct; ``n_items``, ``n_items + 1``, ... in this order for items that are added, or the
                code of an item whose features are replaced.
            table: ``N`` rows with the item features of the schema; missing columns are unknown.

        Raises:
            ValueError: the model reads no item features, or a cell does not fit its feature.
        """
        ...


class Model(ABC):
    """Base class of trainable recommenders.

    A model is built from settings and a schema and stored as named arrays. A model file contains one subclass, named
    first in its ``__all__``; the file's name is the model's key.
    """

    Config: ClassVar[type[Settings]]
    scale: ClassVar[Literal["logit", "score"]] = "score"
    """``logit``: a softmax over the catalog turns scores into probabilities of the next item."""

    requires_ratings: ClassVar[bool] = False
    """Whether the model learns from values, such as ratings, instead of events alone."""
    required_features: ClassVar[tuple[Literal["item_features", "user_features", "knowledge"], ...]] = ()
    """Parts of the data without which the model cannot be trained."""
    validation_metric: ClassVar[str] = "ndcg@10"
    """Default metric for choosing the best epoch on the validation set."""
    reads_examples: ClassVar[bool] = False
    """Whether the model can also be trained on a table of labeled examples."""
    settings_of_logs: ClassVar[tuple[str, ...]] = ()
    """Settings of such a model that only training on an interaction log reads."""
    reads_query_context: ClassVar[bool] = False
    """Whether the input ``context`` is that of the query, and not that of the events of its history."""
    is_cpu_only: ClassVar[bool] = False
    """Whether training and scoring use the CPU, whatever the device of the run."""

    config: Any
    schema: DataSchema
    training_notes: tuple[str, ...] = ()
    """Sentences about the training for its log and record, such as where initial weights come from."""

    @abstractmethod
    def __init__(self, config: Any, schema: DataSchema) -> None:
        """Create an untrained model with settings ``config``, an instance of ``Config``."""

    @property
    def inner_models(self) -> tuple[Model, ...]:
        """Models whose scores this one uses."""
        return ()

    def uses_inner_model(self, inner: Model, queries: Queries) -> Mask:
        """Return for which queries the scores of an inner model are used, ``(N,)``.

        Args:
            inner: one of :attr:`inner_models`.
        """
        return np.ones(len(queries), np.bool_)

    @classmethod
    def exceeds_memory(cls, config: Any, schema: DataSchema, max_bytes: int) -> bool:
        """Return whether the arrays of a new model need more than ``max_bytes``.

        Nothing is allocated. Models that allocate nothing before training give false.
        """
        return False

    @abstractmethod
    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return scores; see :meth:`Recommender.score`."""

    @abstractmethod
    def arrays(self) -> StateArrays:
        """Return the learned state as named arrays."""

    @abstractmethod
    def restore(self, arrays: StateArrays) -> None:
        """Load what :meth:`arrays` returned.

        Raises:
            ValueError: an array is missing or has another shape.
        """


class Solver(Model):
    """A model with its own training iterations.

    Models trained by gradient descent are :class:`segue.core.network.Network`.
    """

    is_cpu_only = True

    def __init__(self, config: Any, schema: DataSchema) -> None:
        self.config = config
        self.schema = schema

    @abstractmethod
    def fit(self, train: Any, run: Run, validate: Validate | None) -> None:
        """Train on ``train``, a dataset; or examples, if the model reads examples.

        ``run`` provides random streams, progress, history, checkpoints and interruption.
        """

    def own_arrays(self) -> StateArrays:
        """Return the arrays that must be finite after training.

        Models that contain others leave out the arrays of these, which are checked when they are trained.
        """
        return self.arrays()


def nested_models(model: Recommender) -> Iterator[Recommender]:
    """Yield a model, and all whose scores it uses."""
    yield model
    for inner in getattr(model, "inner_models", ()):
        yield from nested_models(inner)


def select_candidates(scores_NI: Scores, candidates: Codes | None) -> Scores:
    """Return the scores of the ``candidates (N, C)`` of each query.

    Without candidates, all columns of ``scores_NI`` are returned.
    """
    return scores_NI if candidates is None else np.take_along_axis(scores_NI, candidates, axis=1)
