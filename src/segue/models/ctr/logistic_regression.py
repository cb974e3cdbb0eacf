"""Logistic regression on ids, features, and matches of history and item.

Richardson et al. 2007, doi:10.1145/1242572.1242643, predicted clicks by logistic regression; cross products of the
history and the item are the wide part of Wide & Deep (Cheng et al. 2016, arXiv:1606.07792).

The probability that user u likes item i after the history H is

    sigmoid(c + b_u + b_i + w . x_i + v . z_u + sum_c g_c p_c(H) x_ic + r(H))

with features x_i of the item, z_u of the user, and the profile p(H), the mean of the features of the items in H,
shrunk towards 0. A weight g_c is the sum of one for the column c and one for its whole feature, so that rare actors
share what is learned about actors; r(H) is linear in the rate of likes, where H has negative events too. An event is
predicted from the events before it alone, in training as in use. New items are scored by their features, new users by
their history.

In a table of labeled examples every code of a category and of tags has a weight, and every number and dimension of a
vector; missing ones have a weight of their own.

All weights are fit together by Newton's method; there is no randomness.

Shapes: T events, U users, I items, N queries, K candidates, C columns of item features, F columns of user features,
S item features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import NDArray
from pydantic import model_validator
from scipy.sparse import csr_array, eye_array, hstack, vstack
from scipy.special import expit

from segue.core.config import Search, Settings, reject_unused
from segue.core.examples.fields import Examples
from segue.core.examples.log_fields import NO_CATALOG
from segue.core.features import encode_features, infer_features
from segue.core.model import Solver, StateArrays, Validate
from segue.core.model_arrays import load_array, load_csr
from segue.core.ratings import collect_ratings, rated_events
from segue.core.run import Run
from segue.core.types import Codes, DataSchema, Dataset, Events, Feature, Queries, Scores
from segue.solvers.fm.feature_matrix import feature_rows
from segue.solvers.logistic.example_design import (
    CandidateWeights,
    count_design_columns,
    design_of_examples,
    linear_terms,
)
from segue.solvers.logistic.history_matches import match_earlier_events, profiles
from segue.solvers.logistic.newton import LogisticLoss
from segue.solvers.training_iterations import run_iterations

__all__ = ["LogisticRegression"]

L2_INTERCEPT = 1e-3
"""Keeps the intercept finite where all labels are equal."""

Input = Literal["item_features", "user_features", "popularity", "history"]


class LogisticRegression(Solver):
    """Predict whether a user likes an item, from ids, features and history."""

    requires_ratings = True
    predicts_ratings = True
    validation_metric = "rmse"
    reads_examples = True
    settings_of_logs = ("inputs", "threshold", "history", "shrinkage", "l2_item", "l2_user", "l2_history")
    is_cpu_only = True

    class Config(Settings):
        """Settings of ``logistic_regression``."""

        inputs: tuple[Input, ...] = ("item_features", "user_features", "popularity", "history")
        """Inputs in addition to the ids of user and item: the features of items and users (left out where the data has
        none), ``popularity`` (the logarithm of the item's training events), and ``history`` (matches of the item's
        features and popularity with those of the history)."""
        threshold: float | None = None
        """Events with a value above it are positive; none: the middle between the lowest and the highest value."""
        history: Literal["positive", "all"] = "positive"
        """Events of the history that count: the positive ones, or all, with a weight of -1 for negative ones."""
        shrinkage: Annotated[float, Gt(0)] = 10.0
        """Number of events without features that are added to each history."""
        l2_item: Annotated[float, Gt(0), Search(0.01, 100.0, log=True)] = 1.0
        """L2 regularization of the weights of item ids."""
        l2_user: Annotated[float, Gt(0), Search(0.01, 100.0, log=True)] = 3.0
        """L2 regularization of the weights of user ids."""
        l2_features: Annotated[float, Gt(0), Search(0.01, 1000.0, log=True)] = 10.0
        """L2 regularization of the weights of features and popularity, and of all weights of a table of examples."""
        l2_history: Annotated[float, Gt(0), Search(0.001, 10.0, log=True)] = 0.1
        """L2 regularization of the weights of matches with the history."""
        iterations: Annotated[int, Ge(1)] = 8
        """Number of Newton steps."""

        @model_validator(mode="after")
        def _all_used(self) -> LogisticRegression.Config:
            history = "history" in self.inputs, "the input history"
            has_features = bool({"item_features", "user_features", "popularity"} & set(self.inputs))
            names = dict.fromkeys(("history", "shrinkage", "l2_history"), history)
            reject_unused(self, {**names, "l2_features": (has_features, "features or popularity as inputs")})
            return self

    def __init__(self, config: Config, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.levels_2 = np.array([0.0, 1.0], np.float32)  # mean values of negative and positive events
        self.threshold = 0.5
        self.weights_P = np.zeros(0, np.float32)  # of the columns of a table

    def fit(self, train: Dataset | Examples, run: Run, validate: Validate | None) -> None:
        """Run all Newton steps; log the mean loss and validation metrics.

        Raises:
            ValueError: no event has a value, the threshold leaves no positive or no negative event, or a setting is not
                used for a table of examples.
        """
        if isinstance(train, Examples):
            self._fit_examples(train, run, validate)
            return
        values = collect_ratings(train, "logistic_regression").values
        low, high = float(values.min()), float(values.max())
        self.threshold = (low + high) / 2 if self.config.threshold is None else self.config.threshold
        is_positive_T = values > self.threshold
        if self.config.threshold is not None and is_positive_T.all() == is_positive_T.any():
            kind = "positive" if is_positive_T.all() else "negative"
            raise ValueError(
                f"threshold: got {self.threshold:g}, with which all events are {kind}; the values are from {low:g} to "
                f"{high:g}, expected a threshold from {low:g} to below {high:g}"
            )
        self.levels_2 = np.array(
            [
                values[is_positive_T == label].mean() if (is_positive_T == label).any() else bound
                for label, bound in ((False, low), (True, high))
            ],
            np.float32,
        )
        self._encode_features(train)
        events = rated_events(train.histories)
        blocks = self._design(events)
        sizes = {name: block.shape[1] for name, (block, _) in blocks.items()}
        l2_P = np.repeat([l2 for _, l2 in blocks.values()], list(sizes.values()))
        loss = LogisticLoss(csr_array(hstack([block for block, _ in blocks.values()])), is_positive_T, l2_P)
        self._minimize(loss, lambda weights_P: self._set_weights(weights_P, sizes), run, validate)

    def _fit_examples(self, examples: Examples, run: Run, validate: Validate | None) -> None:
        """Fit the weights of the columns of a table."""
        fields = type(self.config).model_fields
        for name in self.settings_of_logs:
            if (value := getattr(self.config, name)) != fields[name].default:
                raise ValueError(f"model.{name}: got {value!r}, which is used for interaction logs alone; leave it out")
        assert examples.labels is not None
        l2_P = np.full(count_design_columns(examples.fields), self.config.l2_features)
        l2_P[0] = L2_INTERCEPT
        loss = LogisticLoss(design_of_examples(examples), examples.labels > 0, l2_P, examples.weights)

        def publish(weights_P: NDArray[np.float64]) -> None:
            self.weights_P = weights_P.astype(np.float32)

        self._minimize(loss, publish, run, validate)

    def _minimize(
        self,
        loss: LogisticLoss,
        publish: Callable[[NDArray[np.float64]], None],
        run: Run,
        validate: Validate | None,
    ) -> None:
        """Take all Newton steps; ``publish`` reads the weights."""
        state = np.zeros(len(loss.l2_P))

        def step(iteration: int) -> dict[str, float]:
            nonlocal state
            state = loss.step(state)
            publish(state)
            return {"loss": loss(state) / len(loss.is_positive_T)}

        def restore(arrays: Mapping[str, NDArray[Any]]) -> None:
            nonlocal state
            state = np.array(arrays["weights"])
            publish(state)

        run_iterations(
            self.config.iterations,
            step,
            run,
            arrays=lambda: {"weights": state},
            restore=restore,
            model=self,
            validate=validate,
            validate_every=self.config.iterations,
        )

    def _encode_features(self, train: Dataset) -> None:
        """Set the schema, the columns of items and users, and the profiles."""
        inputs, n_items = self.config.inputs, train.n_items
        tables: dict[str, tuple[Feature, ...]] = {
            name: infer_features(getattr(train, name))[0] if name in inputs else ()
            for name in ("item_features", "user_features")
        }
        self.schema = replace(
            train.schema,
            item_features=tables["item_features"],
            user_features=tables["user_features"],
            n_without_events=0 if tables["item_features"] else train.schema.n_without_events,
        )
        columns_IX: list[Any] = [_feature_columns(tables["item_features"], train.item_features, n_items)]
        if "popularity" in inputs:
            logs_I = np.log1p(np.bincount(train.histories.items, minlength=n_items)).astype(np.float32)
            columns_IX.append(csr_array(((logs_I - logs_I.mean()) / (logs_I.std() or 1.0))[:, None]))
        self.items_IC = csr_array(hstack(columns_IX, format="csr", dtype=np.float32))
        self.users_UF = _feature_columns(tables["user_features"], train.user_features, train.n_users)
        self.feature_of_C = _feature_of_column(tables["item_features"], "popularity" in inputs)
        events = rated_events(train.histories)
        if "history" in inputs:
            weights_T = self._event_weights(events)
            profiles_UC, rates_U = profiles(events, weights_T, self.items_IC, self.config.shrinkage)
            self.profiles_UC, self.rates_U = profiles_UC.astype(np.float32), rates_U.astype(np.float32)

    def _design(self, events: Events) -> dict[str, tuple[Any, float]]:
        """Return the blocks of the design matrix, ``(T, ...)`` each, with their L2."""
        config, rows, items = self.config, events.rows, events.items
        features, history = config.l2_features, config.l2_history
        blocks: dict[str, tuple[Any, float]] = {
            "intercept": (csr_array(np.ones((events.size, 1))), L2_INTERCEPT),
            "items": (csr_array(eye_array(self.schema.n_items, format="csr"))[items], config.l2_item),
            "users": (csr_array(eye_array(self.schema.n_users, format="csr"))[rows], config.l2_user),
            "item_features": (self.items_IC[items], features),
            "user_features": (self.users_UF[rows], features),
        }
        if "history" in config.inputs:
            matches_TC, rates_T = match_earlier_events(
                events, self._event_weights(events), self.items_IC, config.shrinkage
            )
            blocks["matches"] = matches_TC, history
            blocks["feature_matches"] = csr_array(matches_TC @ self._features_of_columns()), history
            if config.history == "all":
                blocks["rates"] = csr_array(rates_T[:, None]), history
        return blocks

    def _event_weights(self, events: Events) -> NDArray[np.float32]:
        """Return the weight of each event in a profile, ``(T,)``.

        Events without a value, which occur in queries alone, are positive.
        """
        if events.values is None:
            return np.ones(events.size, np.float32)
        is_positive_T = (events.values > self.threshold) | np.isnan(events.values)
        return np.where(is_positive_T, 1.0, -1.0 if self.config.history == "all" else 0.0).astype(np.float32)

    def _features_of_columns(self) -> csr_array[Any]:
        """Return the indicator of each column's feature, ``(C, S)``."""
        count = int(self.feature_of_C.max(initial=-1)) + 1
        return csr_array(eye_array(count, format="csr"))[self.feature_of_C]

    def _set_weights(self, weights_P: NDArray[np.float64], sizes: Mapping[str, int]) -> None:
        """Compute the arrays that predict from the weights of all columns."""
        parts = dict(zip(sizes, np.split(weights_P, np.cumsum(list(sizes.values()))[:-1]), strict=True))
        self.items_I = (parts["intercept"] + parts["items"] + self.items_IC @ parts["item_features"]).astype(np.float32)
        self.users_U = parts["users"].astype(np.float32)
        self.user_features_F = parts["user_features"].astype(np.float32)
        self.matches_C, self.rate_1 = np.zeros(self.items_IC.shape[1], np.float32), np.zeros(1, np.float32)
        if "matches" in parts:
            by_feature_C = self._features_of_columns() @ parts["feature_matches"]
            self.matches_C = (parts["matches"] + by_feature_C).astype(np.float32)
            self.rate_1 = parts.get("rates", np.zeros(1)).astype(np.float32)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return expected values.

        They are probabilities where the values of the data are 0 and 1. A known user without a history has the one of
        the training data. Events of a history without a value are positive.
        """
        if self.schema.fields:
            raise ValueError(NO_CATALOG)
        if candidates is None:
            return self._to_values(self._all_logits(queries))
        rows = np.arange(len(queries)).repeat(candidates.shape[1])
        return self._to_values(self._pair_logits(queries, rows, candidates.ravel()).reshape(candidates.shape))

    def predict_logits(self, examples: Examples) -> Scores:
        """Return the logits of examples of a table, ``(T,)``."""
        names = {one.name for one in examples.fields}
        logits: Scores = (linear_terms(examples, self.weights_P, names) + self.weights_P[0]).astype(np.float32)
        return logits

    def candidate_scorer(self, items: Examples, n_numbers: int = 0) -> CandidateWeights:
        """Prepare fast scores of candidates."""
        return CandidateWeights(self.weights_P, items, n_numbers)

    def predict(self, users: Codes, items: Codes, times: NDArray[np.int64] | None = None) -> Scores:
        """See :meth:`segue.core.model.Predictor.predict`.

        The history is that of the training data.
        """
        distinct, rows = np.unique(users, return_inverse=True)
        queries = Queries.of_users(distinct.astype(np.int32), Events.of([[]] * len(distinct)))
        return self._to_values(self._pair_logits(queries, rows, items))

    def clip_predictions(self, scores: Scores) -> Scores:
        """See :meth:`segue.core.model.Predictor.clip_predictions`.

        Scores are in the scale of the data already.
        """
        return scores

    def _profiles(self, queries: Queries) -> tuple[csr_array[Any], NDArray[np.float64]]:
        """Return the profiles ``(N, C)`` of histories and their rates ``(N,)``."""
        history = queries.history
        if "history" not in self.config.inputs:
            return csr_array((len(queries), self.items_IC.shape[1]), dtype=np.float32), np.zeros(len(queries))
        found_NC, rates_N = profiles(history, self._event_weights(history), self.items_IC, self.config.shrinkage)
        is_stored_N = queries.known & (history.lengths == 0)
        if is_stored_N.any():
            rows = np.where(is_stored_N, len(queries) + queries.users, np.arange(len(queries)))
            found_NC = csr_array(vstack([found_NC, self.profiles_UC], format="csr"))[rows]
            rates_N = np.concatenate([rates_N, self.rates_U])[rows]
        return found_NC, rates_N

    def _user_logits(self, queries: Queries, rates_N: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum of the terms that depend on the query alone, ``(N,)``."""
        users = np.where(queries.known, queries.users, 0)
        logits_N: NDArray[np.float64] = np.where(queries.known, self.users_U[users], 0.0) + rates_N * self.rate_1[0]
        if features := self.schema.user_features:
            stored_NK = self._by_feature(self.users_UF[users]) * queries.known[:, None]
            if queries.profile is None:
                found_N: NDArray[np.float64] = logits_N + stored_NK.sum(1)
                return found_N
            encoded_NJ = encode_features(features, queries.profile)
            starts = np.cumsum([0, *(feature.size for feature in features)])[:-1]
            is_stored_NK = np.isnan(encoded_NJ[:, starts]) & queries.known[:, None]
            given_NK = self._by_feature(feature_rows(features, encoded_NJ))
            logits_N = logits_N + np.where(is_stored_NK, stored_NK, given_NK).sum(1)
        return logits_N

    def _by_feature(self, rows_NF: csr_array[Any]) -> NDArray[np.float64]:
        """Return what each user feature adds to the logits of some users, ``(N, K)``."""
        feature_of_F = _feature_of_column(self.schema.user_features, False)
        weights_FK = np.zeros((len(feature_of_F), len(self.schema.user_features)))
        weights_FK[np.arange(len(feature_of_F)), feature_of_F] = self.user_features_F
        found_NK: NDArray[np.float64] = np.asarray(rows_NF @ weights_FK)
        return found_NK

    def _all_logits(self, queries: Queries) -> NDArray[np.float64]:
        """Return the logits of all items, ``(N, I)``."""
        profiles_NC, rates_N = self._profiles(queries)
        matches_NI = (profiles_NC.multiply(self.matches_C[None, :]) @ self.items_IC.T).toarray()
        user_N1 = self._user_logits(queries, rates_N)[:, None]
        logits: NDArray[np.float64] = matches_NI + user_N1 + self.items_I
        return logits

    def _pair_logits(self, queries: Queries, rows_T: NDArray[np.int64], items_T: Codes) -> NDArray[np.float64]:
        """Return the logits of the query ``rows_T`` and the item of each pair, ``(T,)``."""
        profiles_NC, rates_N = self._profiles(queries)
        weights_NC = csr_array(profiles_NC.multiply(self.matches_C[None, :]))
        matches_T = np.asarray(weights_NC[rows_T].multiply(self.items_IC[items_T]).sum(axis=1)).ravel()
        pairs: NDArray[np.float64] = matches_T + self._user_logits(queries, rates_N)[rows_T] + self.items_I[items_T]
        return pairs

    def explain_features(self, queries: Queries, item: int) -> tuple[str, dict[str, float]]:
        """Return weight times value by feature.

        See :class:`segue.core.model.FeatureExplainer`.
        The term ``item`` holds the intercept and the item's id, features and popularity.
        """
        profiles_1C, rates_1 = self._profiles(queries)
        products_C = csr_array(profiles_1C.multiply(self.matches_C[None, :]).multiply(self.items_IC[[item]])).toarray()[
            0
        ]
        names = [*(feature.name for feature in self.schema.item_features), "popularity"]
        sums_S = np.bincount(self.feature_of_C, products_C, minlength=0)
        terms = {"item": float(self.items_I[item])}
        terms["user"] = float(self._user_logits(queries, rates_1)[0])
        terms |= {f"match of {name}": float(value) for name, value in zip(names, sums_S, strict=False)}
        return "log-odds", {name: value for name, value in terms.items() if value}

    def _to_values(self, logits: NDArray[np.floating[Any]]) -> Scores:
        low, high = self.levels_2.tolist()
        values: Scores = (low + (high - low) * expit(logits.astype(np.float64))).astype(np.float32)
        return values

    def arrays(self) -> StateArrays:
        """Return weights, the columns of items and users, and profiles."""
        if self.schema.fields:
            return {"weights": self.weights_P}
        found = {
            "levels": self.levels_2,
            "threshold": np.array([self.threshold], np.float32),
            "items": self.items_I,
            "users": self.users_U,
            "matches": self.matches_C,
            "rate": self.rate_1,
            **_csr_arrays("item_columns", self.items_IC),
        }
        if self.schema.user_features:
            found |= {"user_features": self.user_features_F, **_csr_arrays("user_columns", self.users_UF)}
        if "history" in self.config.inputs:
            found |= {"rates": self.rates_U, **_csr_arrays("profiles", self.profiles_UC)}
        return found

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        if self.schema.fields:
            self.weights_P = load_array(arrays, "weights", (count_design_columns(self.schema.fields),), np.float32)
            return
        n_items, n_users = self.schema.n_items, self.schema.n_users
        features = self.schema.item_features
        self.feature_of_C = _feature_of_column(features, "popularity" in self.config.inputs)
        n_columns = len(self.feature_of_C)
        self.levels_2 = load_array(arrays, "levels", (2,), np.float32)
        self.threshold = float(load_array(arrays, "threshold", (1,), np.float32)[0])
        self.items_I = load_array(arrays, "items", (n_items,), np.float32)
        self.users_U = load_array(arrays, "users", (n_users,), np.float32)
        self.items_IC = _load_csr(arrays, "item_columns", (n_items, n_columns))
        self.users_UF, self.user_features_F = _no_columns(n_users), np.zeros(0, np.float32)
        if self.schema.user_features:
            width = sum(_width(feature) for feature in self.schema.user_features)
            self.users_UF = _load_csr(arrays, "user_columns", (n_users, width))
            self.user_features_F = load_array(arrays, "user_features", (width,), np.float32)
        self.matches_C = load_array(arrays, "matches", (n_columns,), np.float32)
        self.rate_1 = load_array(arrays, "rate", (1,), np.float32)
        if "history" in self.config.inputs:
            self.profiles_UC = _load_csr(arrays, "profiles", (n_users, n_columns))
            self.rates_U = load_array(arrays, "rates", (n_users,), np.float32)


def _feature_columns(features: tuple[Feature, ...], table: Any, count: int) -> csr_array[Any]:
    """Encode a table as ``(count, C)`` columns; without features it has none."""
    if not features:
        return _no_columns(count)
    return feature_rows(features, encode_features(features, table.lazy().collect()))


def _no_columns(count: int) -> csr_array[Any]:
    empty: Any = csr_array((count, 0), dtype=np.float32)
    columns: csr_array[Any] = empty
    return columns


def _width(feature: Feature) -> int:
    """Return the number of columns of a feature; the last one marks unknown values."""
    return (len(feature.categories) or feature.size) + 1


def _feature_of_column(features: tuple[Feature, ...], has_popularity: bool) -> NDArray[np.int64]:
    """Return the number of each column's feature, ``(C,)``."""
    widths = [*map(_width, features), *([1] if has_popularity else [])]
    return np.arange(len(widths)).repeat(widths)


def _csr_arrays(name: str, matrix: csr_array[Any]) -> dict[str, NDArray[Any]]:
    """Name the arrays of a sparse matrix."""
    matrix.sort_indices()
    return {
        name: matrix.data.astype(np.float32),
        f"{name}_indices": matrix.indices.astype(np.int32),
        f"{name}_offsets": matrix.indptr.astype(np.int64),
    }


def _load_csr(arrays: StateArrays, name: str, shape: tuple[int, int]) -> csr_array[Any]:
    return load_csr(arrays, name, f"{name}_indices", f"{name}_offsets", shape)
