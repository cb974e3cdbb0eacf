"""Gradient boosted decision trees of LightGBM.

They are a strong reference for tables, and a reranker.

Friedman 2001, doi:10.1214/aos/1013203451; Ke et al. 2017, "LightGBM". Categories are split into two sets by their
statistics in a node (Fisher 1958). Tags are counted; a history becomes its length and its matches with the item.
``target_statistics`` adds counts and mean labels of combinations of categories, such as user and item.

``binary`` minimizes the logarithmic loss. ``lambdarank`` (Burges 2010, "From RankNet to LambdaRank to LambdaMART")
orders the examples of a query by NDCG: those of a user in a table, or an event of a log with its sampled items. Its
scores are no logits of probabilities until they are calibrated.

Shapes: T examples, M events, N queries, C candidates, P columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt, Le, Lt, MinLen
from numpy.typing import NDArray

from segue.core.config import Choices, Search, Settings
from segue.core.examples.context_dropout import hide_context
from segue.core.examples.fields import Examples, Field
from segue.core.examples.interaction_pairs import InteractionPairs
from segue.core.examples.log_fields import NO_CATALOG, LogFields, log_fields, log_schema, positive_events, score_pairs
from segue.core.examples.queries import examples_with_users
from segue.core.model import LOWER_IS_BETTER, Solver, StateArrays, Validate
from segue.core.model_arrays import load_array
from segue.core.run import Run
from segue.core.types import Codes, DataSchema, Dataset, Queries, Scores
from segue.solvers.boosting.candidate_trees import CandidateTrees
from segue.solvers.boosting.target_statistics import TargetStatistics
from segue.solvers.boosting.tree_columns import category_columns, count_columns, tree_columns
from segue.solvers.boosting.trees import Trees
from segue.solvers.training_iterations import run_iterations

__all__ = ["GradientBoosting"]

MAX_QUERY = 10_000
"""Examples of a query that LightGBM can order."""

LOWEST = float(np.finfo(np.float64).min)
"""Value of the metric before the first validation; finite, as arrays of checkpoints are."""

EXAMPLES_PER_BLOCK = 65_536
"""Pairs of users and items that are scored at a time."""

FIXED: dict[str, Any] = {"verbosity": -1, "deterministic": True, "force_row_wise": True, "bagging_freq": 1}
"""Parameters of LightGBM that are not settings; the same model for any number of threads."""

Input = Literal["item_features", "user_features", "context", "history"]


class GradientBoosting(Solver):
    """Trees, each fitted to the gradient of the loss.

    Needs the extra ``boosting``.
    """

    reads_examples = True
    settings_of_logs = ("inputs", "max_history", "num_negatives", "context_dropout")
    reads_query_context = True

    class Config(Settings):
        """Settings of ``gradient_boosting``."""

        objective: Literal["binary", "lambdarank"] = "binary"
        """What trees minimize: the logarithmic loss of labels, or the ranking loss of each query."""
        iterations: Annotated[int, Ge(1)] = 300
        """Maximum number of trees."""
        learning_rate: Annotated[float, Gt(0), Search(0.01, 0.3, log=True)] = 0.1
        """Factor on the values of each tree."""
        num_leaves: Annotated[int, Ge(2), Search(7, 255, log=True)] = 63
        """Maximum number of leaves of a tree."""
        min_examples: Annotated[int, Ge(1), Search(5, 200, log=True)] = 20
        """Minimum number of examples of a leaf."""
        l2: Annotated[float, Ge(0), Choices((0.0, 1.0, 10.0))] = 0.0
        """L2 regularization of the values of leaves."""
        category_l2: Annotated[float, Ge(0)] = 1.0
        """L2 regularization in splits of categories, in addition."""
        category_smoothing: Annotated[float, Ge(0)] = 1.0
        """Number of examples that smooth the statistics of a category."""
        min_category_examples: Annotated[int, Ge(1)] = 5
        """Minimum number of examples of a set of categories in a split."""
        max_split_categories: Annotated[int, Ge(1)] = 256
        """Maximum number of categories on the smaller side of a split; fewer if target statistics represent them."""
        target_statistics: tuple[Annotated[tuple[str, ...], MinLen(1)], ...] = ()
        """Sets of fields of categories whose counts and mean labels in training are inputs, such as ``[["user"],
        ["item"], ["user", "item"]]``. Training examples have those of the other folds."""
        statistics_folds: Annotated[int, Ge(2)] = 10
        """Number of folds for ``target_statistics``."""
        statistics_prior: Annotated[float, Gt(0)] = 1.0
        """Number of examples with the mean label that are added to each group of ``target_statistics``."""
        column_fraction: Annotated[float, Gt(0), Le(1), Search(0.5, 1.0)] = 1.0
        """Fraction of the columns that a tree may use, drawn at random."""
        row_fraction: Annotated[float, Gt(0), Le(1)] = 1.0
        """Fraction of the examples that a tree is fitted to, drawn at random."""
        metric: str | None = None
        """Validation metric that chooses the number of trees; none: ``auc`` of a table, and ``ndcg@10`` of a log."""
        validate_every: Annotated[int, Ge(1)] = 10
        """Trees between validations and checkpoints."""
        patience: Annotated[int, Ge(1)] = 5
        """Validations without improvement before training stops early."""
        inputs: tuple[Input, ...] = ("item_features", "user_features", "context", "history")
        """Inputs of a log in addition to the ids of user and item, where the log has them; a table has its own
        columns."""
        max_history: Annotated[int, Ge(1)] = 50
        """Number of the newest events of a history that are read."""
        num_negatives: Annotated[int, Gt(0)] = 4
        """Sampled items per event of a log, from those that the user has not interacted with."""
        context_dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
        """Fraction of the events of a log whose context is hidden in training, so that queries without context are
        ranked well."""

    def __init__(self, config: Config, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.tables: LogFields | None = None
        self.trees = Trees("", ())
        self.booster: Any = None
        self.statistics: TargetStatistics | None = None

    def fit(self, train: Dataset | Examples, run: Run, validate: Validate | None) -> None:
        """Add trees until the validation metric no longer improves.

        Those of the best validation are kept.

        Raises:
            ValueError: LightGBM is not installed, the validation metric is unknown, a query of ``lambdarank`` is too
                long, or a table has no users for it.
        """
        examples = train if isinstance(train, Examples) else self._examples_of_log(train, run.rng("negatives"))
        config, metric = self.config, self.config.metric or ("auc" if isinstance(train, Examples) else "ndcg@10")
        if config.objective == "lambdarank":
            examples = examples_with_users(examples, config.objective)
        if config.target_statistics:
            self.statistics, examples = TargetStatistics.fit(
                examples, config.target_statistics, config.statistics_prior, config.statistics_folds, run.rng("folds")
            )
        data_TP, data = self._training_data(examples)
        margins_T = np.zeros(len(examples))
        best, best_trees, n_without_improvement = LOWEST, 0, 0

        def step(index: int) -> dict[str, float]:
            n_before, count = len(self.trees), config.validate_every
            if n_before:
                data.set_init_score(margins_T)
            added = _lightgbm().Booster(self._parameters(run.derive_seed(f"trees/{index}")), data)
            for _ in range(min(count, config.iterations - index * count)):
                added.update()
            margins_T[:] += added.predict(data_TP, raw_score=True, num_threads=run_threads())
            self._use(self.trees.extended(added.model_to_string()))
            return {"trees": len(self.trees), "added": len(self.trees) - n_before}

        def restore(arrays: Mapping[str, NDArray[Any]]) -> None:
            nonlocal best, best_trees, n_without_improvement
            self._use(Trees.parse(arrays["trees"].tobytes().decode()))
            margins_T[:] = arrays["margins"]
            best = float(arrays["best"][0])
            best_trees, n_without_improvement = arrays["counts"].tolist()

        def checkpoint() -> dict[str, NDArray[Any]]:
            counts = np.array([best_trees, n_without_improvement])
            return {**self._tree_array(), "margins": margins_T, "best": np.array([best]), "counts": counts}

        def stop(metrics: Mapping[str, float]) -> bool:
            nonlocal best, best_trees, n_without_improvement
            if validate is not None:
                value = _metric_of(metrics, metric)
                if value > best:
                    best, best_trees, n_without_improvement = value, len(self.trees), 0
                else:
                    n_without_improvement += 1
            return n_without_improvement >= config.patience or not metrics["added"]

        n_rounds = -(-config.iterations // config.validate_every)
        run_iterations(
            n_rounds, step, run, arrays=checkpoint, restore=restore, model=self, validate=validate, stop=stop
        )
        if best_trees:
            self._use(self.trees.first(best_trees))

    def _examples_of_log(self, train: Dataset, rng: np.random.Generator) -> Examples:
        """Return the positive events with sampled items; ``users`` are the events."""
        config = self.config
        self.schema = log_schema(train, config.inputs)
        self.tables = LogFields.of(train, self.schema, self._fields(), config.max_history)
        events, pairs = positive_events(train), InteractionPairs(train.histories, train.n_items)
        count = len(events)
        examples = self.tables.with_negatives(train, events, pairs, config.num_negatives, rng)
        assert examples.weights is not None
        events_T = np.tile(np.arange(count), config.num_negatives + 1)
        is_used_T = np.flatnonzero(examples.weights)
        if self.schema.event_context and config.context_dropout:
            is_hidden_M = rng.random(count) < config.context_dropout
            examples = hide_context(examples, np.tile(is_hidden_M, config.num_negatives + 1))
        return replace(examples, users=events_T, weights=None).take(is_used_T)

    def _fields(self) -> tuple[Field, ...]:
        return self.schema.fields or log_fields(self.schema, "history" in self.config.inputs)

    def _training_data(self, examples: Examples) -> tuple[NDArray[np.float32], Any]:
        """Return the matrix of examples, and LightGBM's version of it with the labels."""
        groups = None
        if self.config.objective == "lambdarank":
            examples, groups = _by_query(examples)
        columns_TP = tree_columns(examples)
        data = _lightgbm().Dataset(
            columns_TP,
            examples.labels,
            weight=examples.weights,
            group=groups,
            categorical_feature=category_columns(examples.fields),
            params={**FIXED, "min_data_in_leaf": self.config.min_examples, "feature_pre_filter": False},
        )
        return columns_TP, data

    def _parameters(self, seed: int) -> dict[str, Any]:
        config = self.config
        return {
            **FIXED,
            "objective": config.objective,
            "learning_rate": config.learning_rate,
            "num_leaves": config.num_leaves,
            "min_data_in_leaf": config.min_examples,
            "lambda_l2": config.l2,
            "cat_l2": config.category_l2,
            "cat_smooth": config.category_smoothing,
            "min_data_per_group": config.min_category_examples,
            "max_cat_threshold": config.max_split_categories,
            "feature_fraction": config.column_fraction,
            "bagging_fraction": config.row_fraction,
            "seed": seed % 2**31,
            "num_threads": run_threads(),
        }

    def predict_logits(self, examples: Examples) -> Scores:
        """Return the logits of examples, or the scores of ``lambdarank``, ``(T,)``."""
        if self.booster is None or not len(examples):
            return np.zeros(len(examples), np.float32)
        if self.statistics is not None:
            examples = self.statistics.extend(examples)
        scores = self.booster.predict(tree_columns(examples), raw_score=True, num_threads=run_threads())
        return np.asarray(scores, np.float32)

    def candidate_scorer(self, items: Examples, n_numbers: int = 0) -> CandidateTrees | None:
        """Prepare fast scores of candidates.

        See :class:`segue.solvers.boosting.candidate_trees.CandidateTrees`.

        ``None``: there are no trees, or they cannot be divided.
        """
        if self.booster is None or self.statistics is not None:
            return None
        return CandidateTrees.of(self.trees, items, n_numbers)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return the logits of items, or the scores of ``lambdarank``.

        Raises:
            ValueError: the model was trained on a table of examples.
        """
        if self.schema.fields:
            raise ValueError(NO_CATALOG)
        assert self.tables is not None
        return score_pairs(self.tables, queries, candidates, self.predict_logits, EXAMPLES_PER_BLOCK)

    def _use(self, trees: Trees) -> None:
        self.trees = trees
        self.booster = _lightgbm().Booster(model_str=trees.text()) if len(trees) else None

    def _tree_array(self) -> dict[str, NDArray[Any]]:
        return {"trees": np.frombuffer(self.trees.text().encode(), np.uint8)}

    def arrays(self) -> StateArrays:
        """Return the trees in LightGBM's format, statistics, and the tables of a log."""
        found = self._tree_array()
        for part in (self.tables, self.statistics):
            found |= part.arrays() if part is not None else {}
        return found

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        stored = load_array(arrays, "trees", (None,), np.uint8)
        fields = self._fields()
        if sets := self.config.target_statistics:
            self.statistics = TargetStatistics.restore(arrays, sets, self.config.statistics_prior)
            fields = self.statistics.extend_fields(fields)
        n_columns = count_columns(fields)
        try:
            trees = Trees.parse(text := stored.tobytes().decode())
            if trees.text() != text:
                raise ValueError("the text of the trees has other parts")
            if len(trees) and trees.n_columns != n_columns:
                raise ValueError(f"trees of {trees.n_columns} columns, expected {n_columns}")
            self._use(trees)
        except (ValueError, _lightgbm().basic.LightGBMError) as error:
            raise ValueError(f"array 'trees' in the saved model: {error}") from None
        if not self.schema.fields:
            self.tables = LogFields.restore(arrays, self.schema, self._fields(), self.config.max_history)


def _lightgbm() -> Any:
    try:
        import lightgbm
    except ModuleNotFoundError as error:
        if error.name != "lightgbm":
            raise
        raise ValueError("lightgbm is not installed: pip install 'segue[boosting]'") from None
    return lightgbm


def run_threads() -> int:
    """Return the number of threads for LightGBM.

    It is that of torch, so that one setting limits both.
    """
    import torch

    return torch.get_num_threads()


def _metric_of(metrics: Mapping[str, float], name: str) -> float:
    """Return a validation metric, negative if lower is better.

    Raises:
        ValueError: there is no such metric.
    """
    if f"valid/{name}" not in metrics:
        known = [key.removeprefix("valid/") for key in metrics if key.startswith("valid/")]
        raise ValueError(f"model.metric: got '{name}', expected one of {', '.join(known)}")
    return -metrics[f"valid/{name}"] if name in LOWER_IS_BETTER else metrics[f"valid/{name}"]


def _by_query(examples: Examples) -> tuple[Examples, NDArray[np.int64]]:
    """Return the examples in the order of their queries, and the number of each.

    Raises:
        ValueError: a query has too many examples for LightGBM.
    """
    assert examples.users is not None
    _, rows_T, counts = np.unique(examples.users, return_inverse=True, return_counts=True)
    if counts.max() > MAX_QUERY:
        raise ValueError(
            f"model.objective: lambdarank reads at most {MAX_QUERY:,} examples of a user, one has {counts.max():,}; "
            "use binary, or let examples.user name a column of queries"
        )
    return examples.take(np.argsort(rows_T, kind="stable")), counts
