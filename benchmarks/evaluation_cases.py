"""Recommendation lists and targets that several libraries evaluate: MovieLens, and random ones with special cases.

Shapes: N queries, k positions, I items, C tags, T targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.subprocess_runner import Arrays
from segue.core.types import Events, HeldOut, Queries, Recommendations, Scores
from segue.evaluation.beyond_accuracy.training_data import TrainingData

__all__ = ["FEATURE", "Case", "public_cases", "random_cases"]

FEATURE = "genres"
LENGTH = 10
"""Items per list."""


@dataclass(frozen=True, eq=False)
class Case:
    """Lists, targets and training events, and what the formulas of other libraries read of them."""

    name: str
    description: str
    lists: Recommendations
    held_out: HeldOut
    """Targets have values: grades of relevance."""
    training: TrainingData
    scores: Scores | None = None
    """``(N, I)`` scores from which the lists were made, minus infinity where an item is not ranked. ``None``: unknown,
    or not all targets are ranked."""
    completed: NDArray[np.int64] | None = None
    """``(M, k)`` lists of the queries with a target as RecBole completes them."""

    @property
    def n_items(self) -> int:
        """Number of items in the catalog."""
        return self.training.n_items

    @property
    def items(self) -> NDArray[np.int32]:
        """``(N, k)`` items of the lists; meaningless after their ends."""
        return self.lists.items

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """``(N,)`` items per list."""
        return np.asarray(self.lists.lengths, np.int64)

    @cached_property
    def is_used(self) -> NDArray[np.bool_]:
        """``(N, k)`` whether a place is within its list."""
        return np.arange(self.items.shape[1]) < self.lengths[:, None]

    @cached_property
    def n_relevant(self) -> NDArray[np.int64]:
        """``(N,)`` targets per query."""
        return self.held_out.targets.lengths

    @cached_property
    def grades(self) -> NDArray[np.float64]:
        """``(N, I)`` values of the targets, 0 for other items."""
        targets, found = self.held_out.targets, np.zeros((len(self.lists), self.n_items))
        assert targets.values is not None
        found[targets.rows, targets.items] = targets.values
        return found

    @cached_property
    def hits(self) -> NDArray[np.bool_]:
        """``(N, k)`` whether a place of a list has a target."""
        return self.is_used & (np.take_along_axis(self.grades, self.items.astype(np.int64), axis=1) > 0)

    @cached_property
    def tags(self) -> NDArray[np.bool_]:
        """``(I, C)`` whether an item has a tag."""
        table: Any = self.training.feature(FEATURE).table
        return np.asarray(table.toarray() > 0)

    def arrays(self) -> Arrays:
        """Return the arrays that the other libraries read."""
        targets, histories = self.held_out.targets, self.training.histories
        found: Arrays = {
            "lists": np.where(self.is_used, self.items, -1).astype(np.int64),
            "target_users": targets.rows,
            "target_items": targets.items.astype(np.int64),
            "train_users": histories.rows,
            "train_items": histories.items.astype(np.int64),
            "tags": self.tags,
        }
        assert targets.values is not None
        found["target_values"] = targets.values.astype(np.float64)
        return found if self.scores is None else found | {"scores": self.scores}


def public_cases(source: str, models: Sequence[str]) -> tuple[list[Case], dict[str, Any]]:
    """Return the lists of models on the test part of a public log, and a description of the log.

    Args:
        source: its items have genres.
        models: trained with their default settings.
    """
    import segue
    from segue.data.split_settings import SplitSettings
    from segue.data.splits import split
    from segue.evaluation.ranking import rank

    data = segue.load(source)
    parts = split(data, SplitSettings())
    training, test, cases = TrainingData.of(parts.train), parts.test, []
    if test.targets.values is None:
        test = replace(test, targets=replace(test.targets, values=np.ones(test.targets.size, np.float32)))
    for name in models:
        model = segue.train(name, parts, seed=0, baseline="none").model
        scores = np.array(model.score(test.queries))
        scores[test.queries.history.rows, test.queries.history.items] = -np.inf
        are_ranked = np.isfinite(scores[test.targets.rows, test.targets.items]).all()
        lists = rank(model, test, LENGTH).top
        description = f"`{name}` on {data.name}: one target per user, lists of {LENGTH}"
        case = Case(f"{data.name}, {name}", description, lists, test, training, scores if are_ranked else None)
        cases.append(case)
    return cases, {"name": data.name, "source": source, "hash": data.header.get("hash"), "queries": len(test)}


def random_cases(seed: int = 0, users: int = 300, items: int = 120) -> list[Case]:
    """Return random lists with several graded targets per user: complete lists, and special cases."""
    several = _random_case(np.random.default_rng(seed), users, items)
    lengths, targets = several.lengths, several.held_out.targets
    rng = np.random.default_rng(seed + 1)
    short = rng.integers(1, LENGTH + 1, users)
    with_list = rng.random(users) < 0.75
    with_target = rng.random(users) < 0.8
    few = targets.where(with_target[targets.rows])
    text = "several graded targets per user"
    return [
        several,
        _change(several, "short lists", f"{text}, lists of 1 to {LENGTH}", short, targets),
        _change(several, "users without a list", f"{text}, a quarter of the lists empty", lengths * with_list, targets),
        _change(several, "users without a target", f"{text}, a fifth of the users without one", lengths, few),
        _change(several, "all of these", f"{text}, all of the above", short * with_list, few),
    ]


def _random_case(rng: np.random.Generator, users: int, items: int) -> Case:
    """Draw histories, scores, lists and one to fifteen targets per user."""
    popularity_I = rng.dirichlet(np.full(items, 0.5)) + 1e-3
    scores = (rng.normal(size=(users, items)) + np.log(popularity_I)).astype(np.float32)
    histories, targets, values = [], [], []
    for row in range(users):
        drawn = rng.choice(items, int(rng.integers(6, 40)), replace=False, p=popularity_I / popularity_I.sum())
        n_targets = int(rng.integers(1, min(16, len(drawn) - 4)))
        targets.append(drawn[:n_targets].tolist())
        histories.append(drawn[n_targets:].tolist())
        scores[row, histories[-1]] = -np.inf
        values.append(rng.integers(1, 6, n_targets))
    top = np.argsort(-scores, axis=1)[:, :LENGTH].astype(np.int32)
    lists = Recommendations(top, np.take_along_axis(scores, top, 1), np.full(users, LENGTH))
    true = Events.of(targets)
    true = replace(true, values=np.concatenate(values).astype(np.float32))
    tags = [[f"t{tag}" for tag in rng.choice(6, int(rng.integers(1, 4)), replace=False)] for _ in range(items)]
    features = pl.LazyFrame({"id": [str(item) for item in range(items)], FEATURE: tags})
    held_out = HeldOut(Queries.anonymous(Events.of(histories)), true)
    training = TrainingData(Events.of(histories), items, features)
    description = f"random, several graded targets per user, lists of {LENGTH}"
    return Case("several targets", description, lists, held_out, training, scores)


def _change(case: Case, name: str, description: str, lengths: NDArray[np.int64], targets: Events) -> Case:
    """Return a case with other lengths of lists and other targets, without scores."""
    lists, held_out = replace(case.lists, lengths=lengths), replace(case.held_out, targets=targets)
    return Case(name, f"random, {description}", lists, held_out, case.training)
