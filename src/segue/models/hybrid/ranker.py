"""Retrieve candidates by one model, and order them by a click-through model.

Covington et al. 2016, doi:10.1145/2959100.2959190.

The ranker learns from candidates as it will see them: the last events of the training users are held out, a retriever
is trained on the other events, and its candidates for the earlier history are examples, positive where the user chose
the item. The retriever that is used in the end is then trained on everything.

An example has the fields of :mod:`segue.core.examples.log_fields`, and numbers of the retrieval: the score of the
retriever, standardized over the candidates of the query; the logarithm of the rank; and the logarithm of the number of
training events of the item. Items that are not candidates are ranked below all candidates, in the order of the
retriever.

Shapes: N queries, I items, C candidates of a query, T examples, K numbers of the retrieval.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from pydantic import Field, model_validator

from segue.core.config import Settings
from segue.core.examples.fields import Examples
from segue.core.examples.log_fields import LogFields, log_fields
from segue.core.features import infer_features
from segue.core.model import ExampleModel, Model, Solver, StateArrays, Validate, select_candidates
from segue.core.model_arrays import load_array
from segue.core.recommend import exclude
from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Codes, DataSchema, Dataset, Events, Mask, Queries, Scores
from segue.solvers.profiles.base_models import base_arrays, check_restorable, restore_member

__all__ = ["Ranker"]

BLOCK_CELLS = 4_000_000
"""Scores of the retriever that are held in memory at once."""

VALIDATION_SHARE = 0.1
"""Share of the queries on whose candidates the best epoch of the ranker is chosen."""

OF_NETWORKS: dict[str, Any] = {"batch_size": 2_048, "epochs": 30, "patience": 3}
OF_RANKERS: dict[str, dict[str, Any]] = {"gradient_boosting": {"objective": "lambdarank", "metric": "ndcg@10"}}
"""Settings of models that order, unless others are given: of networks, and by key."""

RETRIEVAL = ("retrieval.score", "retrieval.rank", "retrieval.popularity")
"""Names of the numbers of the retrieval."""

Input = Literal["item_features", "user_features", "context", "history", "retrieval"]


class Ranker(Solver):
    """A retriever and a ranker."""

    class Config(Settings):
        """Settings of ``ranker``."""

        retriever: str = "ease"
        """Key of the model that selects candidates."""
        ranker: str = "gradient_boosting"
        """Key of the model that orders them, one that can be trained on labeled examples."""
        settings: dict[str, dict[str, Any]] = Field(default={})
        """Settings of both by key, those of the model and those of its training, such as ``{"ease": {"l2": 200}}``."""
        inputs: tuple[Input, ...] = ("item_features", "user_features", "context", "history", "retrieval")
        """Inputs of the ranker in addition to the ids of user and item, where the log has them."""
        num_candidates: Annotated[int, Ge(1)] = 200
        """Number of items that the ranker orders."""
        retrieve_seen: bool = False
        """Whether items of the history are candidates; set to true where users return to items."""
        max_history: Annotated[int, Ge(1)] = 50
        """Number of the newest events of a history that the ranker reads."""
        num_targets: Annotated[int, Ge(1)] = 1
        """Number of the last events of each training user that the ranker learns from."""
        max_queries: Annotated[int, Ge(1)] = 50_000
        """Maximum number of queries that the ranker learns from, drawn at random."""

        @model_validator(mode="after")
        def _check_models(self) -> Self:
            if unknown := [key for key in self.settings if key not in (self.retriever, self.ranker)]:
                raise ValueError(f"settings: got settings of '{unknown[0]}', which is neither retriever nor ranker")
            if self.retriever in ("ranker", "llm", self.ranker):
                raise ValueError(
                    f"retriever: got '{self.retriever}', expected a model other than ranker, llm and the ranker"
                )
            if not model_class(self.ranker).reads_examples:
                raise ValueError(f"ranker: got '{self.ranker}', expected a click-through model such as deepfm")
            return self

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.retriever: Model | None = None
        self.ranker: Model | None = None
        self.popularity_I = np.zeros(schema.n_items, np.float32)
        self.tables: LogFields | None = None

    @property
    def inner_models(self) -> tuple[Model, ...]:
        """See :attr:`segue.core.model.Model.inner_models`."""
        return () if self.retriever is None else (self.retriever,)

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Train the ranker on out-of-fold candidates, then the retriever on everything.

        Raises:
            ValueError: a model cannot be trained on this data.
        """
        self._use_schema(train)
        self._train_ranker(train, run)
        retriever = self.config.retriever
        self.retriever = run.train_part(retriever, self._settings_of(retriever), train, validate, retriever)
        self._use_log(train)
        run.log(1, {} if validate is None else {f"valid/{name}": value for name, value in validate(self).items()})
        check_restorable(self)

    def _settings_of(self, key: str) -> dict[str, Any]:
        """Return the settings of one of the two models."""
        own: dict[str, Any] = self.config.settings.get(key, {})
        if key != self.config.ranker:
            return own
        is_network = not issubclass(model_class(key), Solver)
        return (OF_NETWORKS if is_network else OF_RANKERS.get(key, {})) | own

    def _train_ranker(self, train: Dataset, run: Run) -> None:
        """Train the ranker on the candidates of held-out events, if there are any."""
        config = self.config
        earlier, queries, targets = _hold_out(
            train.histories, config.num_targets, config.max_queries, run.rng("queries")
        )
        rest = train.with_histories(earlier)
        self._use_log(rest)
        name = f"fold/{config.retriever}"
        self.retriever = run.train_part(config.retriever, self._settings_of(config.retriever), rest, None, name)
        examples = self._make_examples(queries, targets)
        if examples is None:
            self.training_notes = (
                f"ranker: none of the last events of {len(queries)} users is among the {config.num_candidates} "
                f"candidates of '{config.retriever}'; candidates keep the order of the retriever",
            )
            return
        learn, check = _divide(examples, run.rng("validation"))
        settings = self._settings_of(config.ranker)
        self.ranker = run.train_part(config.ranker, settings, learn, _make_validator(check), config.ranker)

    def _use_schema(self, train: Dataset) -> None:
        inputs = self.config.inputs
        self.schema = replace(
            train.schema,
            item_features=infer_features(train.item_features)[0] if "item_features" in inputs else (),
            user_features=infer_features(train.user_features)[0] if "user_features" in inputs else (),
            event_context=train.event_context if "context" in inputs else (),
        )

    def _use_log(self, train: Dataset) -> None:
        """Encode the features and count the events of a log."""
        fields = log_fields(self.schema, "history" in self.config.inputs)
        self.tables = LogFields.of(train, self.schema, fields, self.config.max_history)
        logs_I = np.log1p(np.bincount(train.histories.items, minlength=train.n_items))
        self.popularity_I = ((logs_I - logs_I.mean()) / (logs_I.std() or 1.0)).astype(np.float32)

    def _make_examples(self, queries: Queries, targets: Events) -> Examples | None:
        """Return the candidates of queries as examples; their ``users`` are the queries.

        Queries without a target among the candidates are left out; ``None``: all are.
        """
        parts = []
        step = max(1, BLOCK_CELLS // self.schema.n_items)
        for start in range(0, len(queries), step):
            block = queries.rows_between(start, start + step)
            scores_NI = self._retrieve(block)
            candidates_NC, is_valid_NC = self._candidates(scores_NI, block)
            is_target_NI = np.zeros(scores_NI.shape, np.bool_)
            own = targets.rows_between(start, start + step)
            is_target_NI[own.rows, own.items] = True
            labels_NC = np.take_along_axis(is_target_NI, candidates_NC, axis=1) & is_valid_NC
            is_used_NC = is_valid_NC & labels_NC.any(axis=1, keepdims=True)
            rows_T, columns_T = np.nonzero(is_used_NC)
            if not len(rows_T):
                continue
            examples = self._examples(block, scores_NI, candidates_NC, rows_T, columns_T)
            labels_T = labels_NC[rows_T, columns_T].astype(np.float32)
            parts.append(replace(examples, labels=labels_T, users=rows_T + start))
        return Examples.concat(parts) if parts else None

    def _retrieve(self, queries: Queries) -> Scores:
        """Return the scores of the retriever, ``(N, I)``.

        Items that it cannot score are last.
        """
        assert self.retriever is not None
        scores_NI = np.array(self.retriever.score(queries))
        n_scored = self.schema.n_items - self.retriever.schema.n_unscored
        if n_scored < self.schema.n_items:
            scores_NI[:, n_scored:] = scores_NI[:, :n_scored].min(1, keepdims=True) if n_scored else 0.0
        return scores_NI

    def _candidates(self, scores_NI: Scores, queries: Queries) -> tuple[Codes, Mask]:
        """Return candidates, ``(N, C)``, and which of them are valid.

        The best ones are first.
        """
        open_NI = scores_NI.copy()
        if not self.config.retrieve_seen:
            exclude(open_NI, queries.history)
        count = min(self.config.num_candidates, self.schema.n_items)
        top_NC = np.argpartition(-open_NI, count - 1, axis=1)[:, :count]
        found_NC = np.take_along_axis(open_NI, top_NC, axis=1)
        order_NC = np.lexsort((top_NC, -found_NC))
        candidates_NC = np.take_along_axis(top_NC, order_NC, axis=1).astype(np.int32)
        return candidates_NC, np.isfinite(np.take_along_axis(found_NC, order_NC, axis=1))

    def _examples(
        self,
        queries: Queries,
        scores_NI: Scores,
        candidates_NC: Codes,
        rows_T: NDArray[np.int64],
        columns_T: NDArray[np.int64],
    ) -> Examples:
        """Return examples of some candidates, given by row and column."""
        assert self.tables is not None
        items_T = candidates_NC[rows_T, columns_T]
        examples = self.tables.of_pairs(queries, rows_T, items_T)
        if "retrieval" not in self.config.inputs:
            return examples
        found_NC = np.take_along_axis(scores_NI, candidates_NC, axis=1)
        deviation_N1 = found_NC.std(1, keepdims=True)
        scaled_NC = (found_NC - found_NC.mean(1, keepdims=True)) / np.where(deviation_N1 > 0, deviation_N1, 1.0)
        ranks_T = np.log1p(columns_T) / np.log1p(self.config.num_candidates) * 2 - 1
        numbers_TK = np.stack([scaled_NC[rows_T, columns_T], ranks_T, self.popularity_I[items_T]], axis=1)
        return examples.with_numbers(RETRIEVAL, numbers_TK.astype(np.float32))

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return the logits of candidates, and lower numbers for other items.

        Other items are in the order of the retriever.
        """
        scores_NI = self._retrieve(queries)
        candidates_NC, is_valid_NC = self._candidates(scores_NI, queries)
        rows_T, columns_T = np.nonzero(is_valid_NC)
        if self.ranker is None or not len(rows_T):
            return select_candidates(scores_NI, candidates)
        assert isinstance(self.ranker, ExampleModel)
        logits_T = self.ranker.predict_logits(self._examples(queries, scores_NI, candidates_NC, rows_T, columns_T))
        lowest_N = np.full(len(queries), np.inf, np.float32)
        np.minimum.at(lowest_N, rows_T, logits_T)
        lowest_N[~np.isfinite(lowest_N)] = 0.0
        low_N1, high_N1 = scores_NI.min(1, keepdims=True), scores_NI.max(1, keepdims=True)
        scores_NI = (scores_NI - high_N1) / np.where(high_N1 > low_N1, high_N1 - low_N1, 1.0) + lowest_N[:, None] - 1
        scores_NI[rows_T, candidates_NC[rows_T, columns_T]] = logits_T
        return select_candidates(scores_NI.astype(np.float32), candidates)

    def arrays(self) -> StateArrays:
        """Return the arrays of both models, and the tables of the ranker.

        The names of the former start with the key of the model.
        """
        found = dict(self.own_arrays())
        for key, model in ((self.config.retriever, self.retriever), (self.config.ranker, self.ranker)):
            if model is not None:
                found |= base_arrays(model, key)
        return found

    def own_arrays(self) -> StateArrays:
        """Return the arrays that are not of the two models."""
        found: dict[str, NDArray[Any]] = {
            "popularity": self.popularity_I,
            "has_ranker": np.array([self.ranker is not None]),
        }
        if self.tables is not None:
            found |= self.tables.arrays()
        return found

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        self.popularity_I = load_array(arrays, "popularity", (self.schema.n_items,), np.float32)
        fields = log_fields(self.schema, "history" in self.config.inputs)
        self.tables = LogFields.restore(arrays, self.schema, fields, self.config.max_history)
        self.retriever = restore_member(self.config.retriever, self.schema, arrays)
        if load_array(arrays, "has_ranker", (1,), np.bool_)[0]:
            self.ranker = restore_member(self.config.ranker, DataSchema(0, 0), arrays)


def _hold_out(
    histories: Events, count: int, max_queries: int, rng: np.random.Generator
) -> tuple[Events, Queries, Events]:
    """Hold out the last events of users with at least two, but never their first.

    Returns:
        all other events ``(U rows)``, the queries before the held-out events, and these.
    """
    lengths_U = histories.lengths
    users = np.sort(rng.permutation(np.flatnonzero(lengths_U >= 2))[:max_queries])
    held_U = np.zeros_like(lengths_U)
    held_U[users] = np.minimum(count, lengths_U[users] - 1)
    earlier = histories.slice_rows(np.zeros_like(lengths_U), lengths_U - held_U)
    targets = histories.slice_rows(lengths_U - held_U, lengths_U).take(users)
    return earlier, Queries.of_users(users.astype(np.int32), earlier.take(users)), targets


def _divide(examples: Examples, rng: np.random.Generator) -> tuple[Examples, Examples]:
    """Divide examples by query for learning and for choosing the best epoch.

    With a single query both parts are equal.
    """
    assert examples.users is not None
    groups = np.unique(examples.users)
    n_check = min(len(groups) - 1, int(np.ceil(VALIDATION_SHARE * len(groups))))
    if not n_check:
        return examples, examples
    is_check_T = np.isin(examples.users, rng.permutation(groups)[:n_check])
    return examples.take(np.flatnonzero(~is_check_T)), examples.take(np.flatnonzero(is_check_T))


def _make_validator(examples: Examples) -> Validate:
    """Return a function that computes the mean NDCG@10 of the candidates."""
    labels, groups = examples.labels, examples.users
    assert labels is not None
    assert groups is not None

    def validate(model: Any) -> Mapping[str, float]:
        order = np.lexsort((-model.predict_logits(examples), groups))
        starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
        ranks_T = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
        gains_T = np.where(ranks_T < 10, labels[order] / np.log2(ranks_T + 2), 0.0)
        ideal = np.array([(1 / np.log2(np.arange(2, min(10, n) + 2))).sum() for n in range(1, int(labels.sum()) + 1)])
        found = np.add.reduceat(gains_T, starts)
        counts = np.add.reduceat(labels[order], starts).astype(np.int64)
        return {"ndcg@10": float((found / ideal[counts - 1]).mean())}

    return validate
