"""Retrieve candidates by one model, and order them by a click-through model.

Covington et al. 2016, doi:10.1145/2959100.2959190.

The ranker learns from candidates as it will see them: the last events of the training users are held out, a retriever
is trained on the other events, and its candidates for the history before a held-out event are examples, positive where
the user chose the item. The retriever that is used in the end is then trained on everything.

An example has the fields of :mod:`segue.core.examples.log_fields`, and the numbers of
:mod:`segue.solvers.two_stage.candidate_numbers`: of the retrieval, and of repeats where items of the history are
candidates. The standardized score of the retriever, times a weight that is chosen on held-out queries, is also added to
the logit, so that a ranker that has learned little leaves the order of the retriever. Items that are not candidates are
ranked below all candidates, in the order of the retriever.

Shapes: U users, N queries, I items, C candidates of a query, T examples, K numbers of a candidate.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from annotated_types import Ge, Gt, Le, Lt
from numpy.typing import NDArray
from pydantic import Field, model_validator

from segue.core.bundle import read_schema
from segue.core.config import Settings, suggest
from segue.core.examples.context_dropout import hide_query_context
from segue.core.examples.fields import Examples
from segue.core.examples.fields import Field as ExampleField
from segue.core.examples.log_fields import LogFields, log_fields, log_schema
from segue.core.examples.propensities import estimate_by_counts, inverse_propensities, read_positions
from segue.core.examples.settings import check_propensities
from segue.core.features import encode_features
from segue.core.model import ExampleModel, Extensible, Model, Solver, StateArrays, Validate, select_candidates
from segue.core.model_arrays import load_array
from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Codes, DataSchema, Dataset, Mask, Queries, Scores
from segue.solvers.profiles.base_models import base_arrays, check_restorable, combine_schemas, restore_member
from segue.solvers.two_stage.candidate_numbers import CandidatePairs, choose_candidates, number_names
from segue.solvers.two_stage.held_out_events import (
    HeldOutEvents,
    choose_weight,
    divide_queries,
    hold_out,
    make_query_validator,
)

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Ranker"]

BLOCK_CELLS = 4_000_000
"""Scores of the retriever that are held in memory at once."""

OF_NETWORKS: dict[str, Any] = {"batch_size": 2_048, "epochs": 30, "patience": 3, "objective": "softmax"}
OF_RANKERS: dict[str, dict[str, Any]] = {
    "gradient_boosting": {
        **{"objective": "lambdarank", "metric": "ndcg@10", "learning_rate": 0.05, "num_leaves": 15},
        **{"column_fraction": 0.5, "category_l2": 100.0, "category_smoothing": 100.0},
        **{"min_category_examples": 1_000, "max_split_categories": 8},
    }
}
"""Settings of models that order, unless others are given: of networks, and by key. Most users are in one query, so that
trees would learn the ids by heart without strong regularization of categories."""

FEW_QUERIES = 20
"""With fewer queries, a note states that they chose the weight of the retriever."""

Input = Literal["item_features", "user_features", "context", "history", "retrieval", "repeats"]


class Ranker(Solver):
    """A retriever and a ranker."""

    reads_query_context = True

    class Config(Settings):
        """Settings of ``ranker``."""

        retriever: str = "ease"
        """Key of the model that selects candidates."""
        ranker: str = "gradient_boosting"
        """Key of the model that orders them, one that can be trained on labeled examples."""
        settings: dict[str, dict[str, Any]] = Field(default={})
        """Settings of both by key, those of the model and those of its training, such as ``{"ease": {"l2": 200}}``."""
        inputs: tuple[Input, ...] = ("item_features", "user_features", "context", "history", "retrieval", "repeats")
        """Inputs of the ranker in addition to the ids of user and item, where the log has them; ``repeats`` (how often
        the user has chosen the candidate, also in the same context) is one with ``retrieve_seen`` alone."""
        num_candidates: Annotated[int, Ge(1)] = 200
        """Number of items that the ranker orders."""
        retrieve_seen: bool = False
        """Whether items of the history are candidates, before all others; set to true where users return to items."""
        retrieval_weight: Annotated[float, Ge(0)] | None = None
        """Weight of the standardized score of the retriever in the order, in addition to the logit of the ranker; needs
        the input ``retrieval``. None: that of several with the best NDCG@10 on a tenth of the training queries."""
        max_history: Annotated[int, Ge(1)] = 50
        """Number of the newest events of a history that the ranker reads."""
        num_targets: Annotated[int, Ge(1)] = 1
        """Number of the last events of each training user that the ranker learns from, each with the history before;
        where the log has a target action, of the events with this action."""
        max_queries: Annotated[int, Ge(1)] = 50_000
        """Maximum number of such events, those of users who are drawn at random."""
        context_dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
        """Fraction of the training queries whose context is hidden, so that queries without context are ranked well."""
        position: str | None = None
        """Context column with the position at which the chosen item was shown, from 1. It is no input; queries are
        weighted by the inverse of the propensity of that position."""
        propensities: tuple[float, ...] | None = None
        """How likely each position is examined, relative to the first; none: estimated by the number of training events
        per position, which is right where positions were drawn at random."""
        min_propensity: Annotated[float, Gt(0), Le(1)] = 0.1
        """Smaller propensities are raised to this value, so that no query has a very large weight."""

        @model_validator(mode="after")
        def _check_models(self) -> Self:
            if unknown := [key for key in self.settings if key not in (self.retriever, self.ranker)]:
                raise ValueError(f"settings: got settings of '{unknown[0]}', which is neither retriever nor ranker")
            if not model_class(self.ranker).reads_examples:
                raise ValueError(f"ranker: got '{self.ranker}', expected a click-through model such as deepfm")
            if self.retriever in ("ranker", "llm", self.ranker):
                raise ValueError(
                    f"retriever: got '{self.retriever}', expected a model other than ranker, llm and the ranker"
                )
            if self.retrieval_weight is not None and "retrieval" not in self.inputs:
                raise ValueError(f"retrieval_weight: got {self.retrieval_weight:g} without the input 'retrieval'")
            if self.propensities is not None:
                check_propensities(self.propensities)
                if self.position is None:
                    raise ValueError("propensities: got some without 'position', the context column that they are of")
            return self

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.retriever: Model | None = None
        self.ranker: Model | None = None
        self.popularity_I = np.zeros(schema.n_items, np.float32)
        self.retrieval_weight = 0.0
        """Weight of the standardized score of the retriever."""
        self.own_schema = schema
        """Features and context that the ranker reads; ``schema`` also has those of the retriever."""
        self.tables: LogFields | None = None
        self._scorer: Any = None
        """What scores candidates fast; ``None``: not made yet; ``False``: the ranker has none."""
        self._query_tables: LogFields | None = None
        """:attr:`tables` with the fields of the retrieval."""

    @property
    def inner_models(self) -> tuple[Model, ...]:
        """See :attr:`segue.core.model.Model.inner_models`."""
        return () if self.retriever is None else (self.retriever,)

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Train the ranker on out-of-fold candidates, then the retriever on everything.

        Raises:
            ValueError: a model cannot be trained on this data.
        """
        position = self.config.position
        if position is not None and position not in (names := [one.name for one in train.event_context]):
            raise ValueError(
                f"model.position: '{position}' is no context column of '{train.name}'{suggest(position, names)}"
            )
        found = log_schema(train, self.config.inputs)
        context = tuple(one for one in found.event_context if one.name != position)
        self.schema = self.own_schema = replace(found, event_context=context)
        self._train_ranker(train, run, validate)
        retriever = self.config.retriever
        self.retriever = run.train_part(retriever, self._settings_of(retriever), train, validate, retriever)
        self._use_log(train)
        self.schema = self._combined_schema()
        if "repeats" in self.config.inputs and not self.config.retrieve_seen and (count := _count_repeats(train)):
            self.training_notes += (
                "the input 'repeats' has no numbers with retrieve_seen=false, as items of the history are no candidates"
                f"; {count:,} of {train.histories.size:,} events repeat an item of the user",
            )
        validated = {} if validate is None else {f"valid/{name}": value for name, value in validate(self).items()}
        run.log(1, {"retrieval_weight": self.retrieval_weight, **validated})
        check_restorable(self)

    def _combined_schema(self) -> DataSchema:
        """Return the schema with the features that one of the two models reads."""
        assert self.retriever is not None
        found = combine_schemas(self.own_schema, (self, self.retriever))
        graph = self.retriever.schema
        return replace(found, n_entities=graph.n_entities, n_relations=graph.n_relations)

    def _settings_of(self, key: str) -> dict[str, Any]:
        """Return the settings of one of the two models."""
        own: dict[str, Any] = self.config.settings.get(key, {})
        if key != self.config.ranker:
            return own
        kind = model_class(key)
        if issubclass(kind, Solver):
            return OF_RANKERS.get(key, {}) | own
        has_objective = "objective" in kind.Config.model_fields
        return {name: value for name, value in OF_NETWORKS.items() if has_objective or name != "objective"} | own

    def _train_ranker(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Train the ranker on the candidates of held-out events, if there are any."""
        config = self.config
        held_out = hold_out(train, config.num_targets, config.max_queries, run.rng("queries"))
        is_hidden_N = run.rng("context").random(len(held_out.targets)) < config.context_dropout
        held_out = replace(
            held_out,
            queries=hide_query_context(held_out.queries, is_hidden_N),
            weights=self._weight_queries(train, held_out.events),
        )
        rest = train.with_histories(held_out.earlier)
        self._use_log(rest)
        name = f"fold/{config.retriever}"
        self.retriever = run.train_part(config.retriever, self._settings_of(config.retriever), rest, validate, name)
        examples = self._make_examples(held_out)
        if examples is None:
            self.training_notes = (
                f"ranker: none of the last events of {len(held_out.targets)} users is among the "
                f"{config.num_candidates} candidates of '{config.retriever}'; candidates keep the order of the "
                "retriever",
            )
            return
        learn, check = divide_queries(examples, run.rng("validation"))
        settings = self._settings_of(config.ranker)
        self.ranker = run.train_part(config.ranker, settings, learn, make_query_validator(check), config.ranker)
        self.training_notes = self.ranker.training_notes
        if "retrieval" in config.inputs:
            assert isinstance(self.ranker, ExampleModel)
            weight = config.retrieval_weight
            if weight is None:
                scores_T = check.numbers[:, -len(self._number_names)]  # the first of the numbers that were appended
                weight = choose_weight(check, self.ranker.predict_logits(check), scores_T)
                assert check.users is not None
                if (n_queries := len(np.unique(check.users))) < FEW_QUERIES:
                    self.training_notes += (
                        f"ranker: only {n_queries} held-out queries chose the weight of the retriever, {weight:g}; "
                        "compare ranker and retriever on validation",
                    )
            self.retrieval_weight = weight

    def _weight_queries(self, train: Dataset, events: NDArray[np.int64]) -> Scores | None:
        """Return the weight of each held-out event, ``(N,)``, 1 on average."""
        config = self.config
        if config.position is None or not len(events):
            return None
        (feature,) = (one for one in train.event_context if one.name == config.position)
        column_T: NDArray[Any] = train.histories.context[config.position]
        if feature.kind == "category":
            values = [_to_number(config.position, text) for text in feature.categories]
            column_T = np.append(values, np.nan)[column_T]
        positions_T = read_positions(config.position, column_T)
        propensities = config.propensities or estimate_by_counts(positions_T)
        weights_N = inverse_propensities(propensities, positions_T[events], config.min_propensity)
        relative_N: Scores = (weights_N / weights_N.mean()).astype(np.float32)
        return relative_N

    def _use_log(self, train: Dataset) -> None:
        """Encode the features and count the events of a log."""
        self._scorer = None
        fields = log_fields(self.own_schema, "history" in self.config.inputs)
        self.tables = LogFields.of(train, self.own_schema, fields, self.config.max_history)
        logs_I = np.log1p(np.bincount(train.histories.items, minlength=train.n_items))
        self.popularity_I = ((logs_I - logs_I.mean()) / (logs_I.std() or 1.0)).astype(np.float32)

    def _make_examples(self, held_out: HeldOutEvents) -> Examples | None:
        """Return the candidates of queries as examples; their ``users`` are the queries.

        Queries whose target is no candidate are left out; ``None``: all are. So are events of the user that were held
        out later, which are neither chosen nor rejected at the time of the query.
        """
        parts = []
        step = max(1, BLOCK_CELLS // self.schema.n_items)
        for start in range(0, len(held_out.targets), step):
            block = held_out.queries.rows_between(start, start + step)
            later = held_out.later.rows_between(start, start + step)
            scores_NI = self._retrieve(block)
            candidates_NC, is_valid_NC = self._candidates(scores_NI, block)
            is_later_NI = np.zeros(scores_NI.shape, np.bool_)
            is_later_NI[later.rows, later.items] = True
            is_later_NC = np.take_along_axis(is_later_NI, candidates_NC, axis=1)
            labels_NC = (candidates_NC == held_out.targets[start : start + step, None]) & is_valid_NC
            is_used_NC = is_valid_NC & (labels_NC | ~is_later_NC) & labels_NC.any(axis=1, keepdims=True)
            rows_T, columns_T = np.nonzero(is_used_NC)
            if not len(rows_T):
                continue
            examples = self._examples(CandidatePairs(block, scores_NI, candidates_NC, rows_T, columns_T))
            labels_T = labels_NC[rows_T, columns_T].astype(np.float32)
            weights_T = None if held_out.weights is None else held_out.weights[rows_T + start]
            parts.append(replace(examples, labels=labels_T, users=rows_T + start, weights=weights_T))
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
        """Return candidates, ``(N, C)``, and which of them are valid."""
        return choose_candidates(scores_NI, queries, self.config.num_candidates, self.config.retrieve_seen)

    def _examples(self, pairs: CandidatePairs) -> Examples:
        """Return examples of some candidates."""
        assert self.tables is not None
        examples = self.tables.of_pairs(pairs.queries, pairs.rows, pairs.items)
        numbers_TK = self._numbers(pairs)
        return examples if numbers_TK is None else examples.with_numbers(self._number_names, numbers_TK)

    @property
    def _number_names(self) -> tuple[str, ...]:
        return number_names(self.config.inputs, self.config.retrieve_seen)

    def _numbers(self, pairs: CandidatePairs) -> Scores | None:
        """Return the numbers of some candidates, ``(T, K)``.

        ``None``: the ranker does not read them."""
        context = self.own_schema.event_context
        return pairs.numbers(self._number_names, self.popularity_I, self.config.num_candidates, context)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return the logits of candidates, and lower numbers for other items.

        Other items are in the order of the retriever.
        """
        scores_NI = self._retrieve(queries)
        candidates_NC, is_valid_NC = self._candidates(scores_NI, queries)
        rows_T, columns_T = np.nonzero(is_valid_NC)
        if self.ranker is None or not len(rows_T):
            return select_candidates(scores_NI, candidates)
        logits_T = self._order(CandidatePairs(queries, scores_NI, candidates_NC, rows_T, columns_T))
        lowest_N = np.full(len(queries), np.inf, np.float32)
        np.minimum.at(lowest_N, rows_T, logits_T)
        lowest_N[~np.isfinite(lowest_N)] = 0.0
        low_N1, high_N1 = scores_NI.min(1, keepdims=True), scores_NI.max(1, keepdims=True)
        scores_NI = (scores_NI - high_N1) / np.where(high_N1 > low_N1, high_N1 - low_N1, 1.0) + lowest_N[:, None] - 1
        scores_NI[rows_T, candidates_NC[rows_T, columns_T]] = logits_T
        return select_candidates(scores_NI.astype(np.float32), candidates)

    def _order(self, pairs: CandidatePairs) -> Scores:
        """Return the logits of some candidates, ``(T,)``."""
        if self._scorer is None:
            self._prepare_scorer()
        logits_T: Scores
        if self._scorer is False:
            assert isinstance(self.ranker, ExampleModel)
            examples = self._examples(pairs)
            logits_T, numbers_TK = self.ranker.predict_logits(examples), None
            if self._number_names:
                numbers_TK = examples.numbers[:, -len(self._number_names) :]
        else:
            assert self._query_tables is not None
            count, numbers_TK = len(pairs.queries), self._numbers(pairs)
            alone = self._query_tables.of_pairs(pairs.queries, np.arange(count), np.zeros(count, np.int32))
            logits_T = self._scorer.score(alone, pairs.rows, pairs.items, numbers_TK)
        if numbers_TK is None or not self.retrieval_weight:
            return logits_T
        return logits_T + np.float32(self.retrieval_weight) * numbers_TK[:, 0]

    def _prepare_scorer(self) -> None:
        """Compute what depends on items alone, if the ranker can be divided."""
        assert self.tables is not None
        names = self._number_names
        fields = (*self.tables.fields, *(ExampleField(name, "number") for name in names))
        self._query_tables = replace(self.tables, fields=fields)
        make: Any = getattr(self.ranker, "candidate_scorer", None)
        self._scorer = (make and make(self._query_tables.of_items(), len(names))) or False

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
        about = json.dumps(asdict(self.own_schema))
        found: dict[str, NDArray[Any]] = {
            "popularity": self.popularity_I,
            "retrieval_weight": np.array([self.retrieval_weight]),
            "has_ranker": np.array([self.ranker is not None]),
            "own_schema": np.frombuffer(about.encode(), np.uint8),
        }
        if self.tables is not None:
            found |= self.tables.arrays()
        return found

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        self.popularity_I = load_array(arrays, "popularity", (self.schema.n_items,), np.float32)
        self.retrieval_weight = float(load_array(arrays, "retrieval_weight", (1,), np.float64)[0])
        self.own_schema = _read_own_schema(self.schema, arrays)
        fields = log_fields(self.own_schema, "history" in self.config.inputs)
        self.tables = LogFields.restore(arrays, self.own_schema, fields, self.config.max_history)
        self.retriever = restore_member(self.config.retriever, self.schema, arrays)
        if load_array(arrays, "has_ranker", (1,), np.bool_)[0]:
            self.ranker = restore_member(self.config.ranker, DataSchema(0, 0), arrays)
            expected = [*(one.name for one in fields), *self._number_names]
            if (found := [one.name for one in self.ranker.schema.fields]) != expected:
                raise ValueError(f"array 'own_schema' in the saved model: got the fields {expected}, expected {found}")

    @property
    def can_add_items(self) -> bool:
        """See :attr:`segue.core.model.Extensible.can_add_items`.

        The retriever must be able to score added items.
        """
        return isinstance(self.retriever, Extensible) and self.retriever.can_add_items

    def with_items(self, codes: Codes, table: pl.DataFrame) -> Self:
        """See :meth:`segue.core.model.Extensible.with_items`.

        The ranker knows added items by their features, and as items with the fewest events.
        """
        if not self.can_add_items:
            raise ValueError(f"ranker: the retriever '{self.config.retriever}' reads no item features; items need them")
        assert isinstance(self.retriever, Extensible)
        assert self.tables is not None
        added = int((codes >= self.schema.n_items).sum())
        sizes = {
            "n_items": self.schema.n_items + added,
            "n_without_events": self.schema.n_without_events + added,
        }
        extended = type(self)(self.config, replace(self.schema, **sizes))
        extended.retriever, extended.ranker = self.retriever.with_items(codes, table), self.ranker
        extended.own_schema = replace(self.own_schema, **sizes)
        extended.retrieval_weight = self.retrieval_weight
        extended.popularity_I = np.pad(self.popularity_I, (0, added), constant_values=self.popularity_I.min())
        features_IJ = np.pad(self.tables.item_features, ((0, added), (0, 0)), constant_values=np.nan)
        features_IJ[codes] = encode_features(self.own_schema.item_features, table)
        extended.tables = replace(
            self.tables,
            schema=extended.own_schema,
            fields=log_fields(extended.own_schema, "history" in self.config.inputs),
            is_training_item=np.pad(self.tables.is_training_item, (0, added)),
            item_features=features_IJ,
        )
        return extended


def _read_own_schema(schema: DataSchema, arrays: StateArrays) -> DataSchema:
    """Return the features that the ranker reads, with the sizes of ``schema``."""
    content = load_array(arrays, "own_schema", (None,), np.uint8).tobytes()
    try:
        own = read_schema(json.loads(content))
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"array 'own_schema' in the saved model: malformed: {error!r}") from None
    return replace(own, n_users=schema.n_users, n_items=schema.n_items)


def _count_repeats(train: Dataset) -> int:
    """Count the events whose item the user has had before."""
    events = train.histories
    return int(events.size - len(np.unique(events.rows * train.n_items + events.items)))


def _to_number(name: str, text: str) -> float:
    """Return a position that was read as a category."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"model.position: column '{name}' has {text!r}, expected whole numbers from 1") from None
