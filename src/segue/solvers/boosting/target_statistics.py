"""Counts and mean labels of groups of training examples, as inputs of trees.

The examples of a group have equal categories in some fields, such as the same user and item. Each set of fields gives
three numbers: the logarithms of one plus the number of examples of the group and of its positive examples, and its mean
label, smoothed towards that of all examples. A group that does not occur in training has counts of 0.

The statistics of a training example must not contain its own label, or trees would read the label from them. Training
examples are therefore divided into folds at random, and the statistics of an example are those of the other folds, with
counts scaled to the number of all examples (Micci-Barreca 2001, doi:10.1145/507533.507538, for the smoothed means).

Shapes: T examples, S sets of fields, G groups of a set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.config import suggest
from segue.core.events import Scores
from segue.core.examples.fields import Examples, Field, fields_of_kind
from segue.core.model_arrays import load_array

__all__ = ["TargetStatistics"]

PARTS = ("count", "positives", "mean")
"""Numbers of each set of fields."""

Counts = NDArray[np.float64]
Keys = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TargetStatistics:
    """Statistics of the groups of all training examples."""

    sets: tuple[tuple[str, ...], ...]
    """Names of the fields of each set."""
    mean: float
    """Mean label of all training examples."""
    prior: float
    """Number of examples with the mean label that are added to each group."""
    keys: tuple[Keys, ...]
    """For each set, the numbers of its groups in training in ascending order, ``(G,)``."""
    counts: tuple[Counts, ...]
    """Examples of each group, ``(G,)``."""
    positives: tuple[Counts, ...]
    """Sum of their labels."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the numbers that are added to examples."""
        return tuple(f"{'*'.join(one)}:{part}" for one in self.sets for part in PARTS)

    @classmethod
    def fit(
        cls,
        examples: Examples,
        sets: Sequence[Sequence[str]],
        prior: float,
        n_folds: int,
        rng: np.random.Generator,
    ) -> tuple[TargetStatistics, Examples]:
        """Return the statistics, and the training examples with those of the other folds.

        Raises:
            ValueError: a set occurs twice, or a name is not that of a field of categories.
        """
        assert examples.labels is not None
        if repeated := [one for index, one in enumerate(sets) if one in sets[:index]]:
            raise ValueError(f"model.target_statistics: {'*'.join(repeated[0])} occurs twice")
        labels_T = examples.labels.astype(np.float64)
        mean = float(labels_T.mean())
        folds_T = rng.integers(n_folds, size=len(labels_T))
        scale = n_folds / (n_folds - 1)
        keys, counts, positives, columns = [], [], [], []
        for names in sets:
            keys_G, groups_T = np.unique(_group_numbers(examples, names), return_inverse=True)
            cells_T = groups_T * n_folds + folds_T
            size = len(keys_G) * n_folds
            counts_GF = np.bincount(cells_T, minlength=size).reshape(-1, n_folds).astype(np.float64)
            positives_GF = np.bincount(cells_T, labels_T, minlength=size).reshape(-1, n_folds)
            counts_G, positives_G = counts_GF.sum(1), positives_GF.sum(1)
            others_T = (counts_G[groups_T] - counts_GF[groups_T, folds_T]) * scale
            positives_T = (positives_G[groups_T] - positives_GF[groups_T, folds_T]) * scale
            columns.append(_numbers(others_T, positives_T, mean, prior))
            keys.append(keys_G)
            counts.append(counts_G)
            positives.append(positives_G)
        found = cls(tuple(map(tuple, sets)), mean, prior, tuple(keys), tuple(counts), tuple(positives))
        return found, examples.with_numbers(found.names, np.concatenate(columns, axis=1))

    def extend(self, examples: Examples) -> Examples:
        """Return examples that were not trained on with the statistics of their groups."""
        columns = []
        for names, keys_G, counts_G, positives_G in zip(self.sets, self.keys, self.counts, self.positives, strict=True):
            keys_T = _group_numbers(examples, names)
            at_T = np.minimum(np.searchsorted(keys_G, keys_T), len(keys_G) - 1)
            is_known_T = keys_G[at_T] == keys_T
            counts_T, positives_T = (np.where(is_known_T, one[at_T], 0.0) for one in (counts_G, positives_G))
            columns.append(_numbers(counts_T, positives_T, self.mean, self.prior))
        return examples.with_numbers(self.names, np.concatenate(columns, axis=1))

    def extend_fields(self, fields: Sequence[Field]) -> tuple[Field, ...]:
        """Return the fields of :meth:`extend`."""
        return (*fields, *(Field(name, "number") for name in self.names))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what :meth:`restore` needs."""
        found: dict[str, NDArray[Any]] = {"statistics.mean": np.array([self.mean])}
        for index in range(len(self.sets)):
            found[f"statistics.{index}.keys"] = self.keys[index]
            found[f"statistics.{index}.counts"] = self.counts[index]
            found[f"statistics.{index}.positives"] = self.positives[index]
        return found

    @classmethod
    def restore(
        cls, arrays: Mapping[str, NDArray[Any]], sets: Sequence[Sequence[str]], prior: float
    ) -> TargetStatistics:
        """Read the arrays of a saved model.

        Raises:
            ValueError: an array is missing or malformed, or keys are not in ascending order.
        """
        keys, counts, positives = [], [], []
        for index in range(len(sets)):
            keys_G = load_array(arrays, f"statistics.{index}.keys", (None,), np.int64)
            if not len(keys_G) or (np.diff(keys_G) <= 0).any():
                raise ValueError(f"array 'statistics.{index}.keys' in the saved model: expected ascending numbers")
            keys.append(keys_G)
            counts.append(load_array(arrays, f"statistics.{index}.counts", (len(keys_G),), np.float64))
            positives.append(load_array(arrays, f"statistics.{index}.positives", (len(keys_G),), np.float64))
        mean = float(load_array(arrays, "statistics.mean", (1,), np.float64)[0])
        return cls(tuple(map(tuple, sets)), mean, prior, tuple(keys), tuple(counts), tuple(positives))


def _group_numbers(examples: Examples, names: Sequence[str]) -> Keys:
    """Return a number per example, equal for equal categories in the fields, ``(T,)``.

    Raises:
        ValueError: a name is not that of a field of categories, or there are too many combinations to number.
    """
    categories = fields_of_kind(examples.fields, "category")
    known = [one.name for one in categories]
    keys_T = np.zeros(len(examples), np.int64)
    n_combinations = 1
    for name in names:
        if name not in known:
            raise ValueError(f"model.target_statistics: '{name}' is no field of categories{suggest(name, known)}")
        index = known.index(name)
        n_combinations *= categories[index].size
        if n_combinations > np.iinfo(np.int64).max:
            raise ValueError(f"model.target_statistics: {'*'.join(names)} has too many combinations; name fewer fields")
        keys_T = keys_T * categories[index].size + examples.codes[:, index]
    return keys_T


def _numbers(counts_T: Counts, positives_T: Counts, mean: float, prior: float) -> Scores:
    """Return the numbers of a set, ``(T, 3)``."""
    means_T = (positives_T + prior * mean) / (counts_T + prior)
    return np.stack([np.log1p(counts_T), np.log1p(positives_T), means_T], axis=1).astype(np.float32)
