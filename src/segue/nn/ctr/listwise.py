"""Listwise softmax cross-entropy over the examples of each query.

Cao et al. 2007, "Learning to Rank: From Pairwise Approach to Listwise Approach" (ListNet with the top-one
probability). The loss of a query is the mean over its positive examples of their negative log-probabilities in a
softmax over all its examples:

    loss = sum_{i positive} w_i (log sum_j exp(z_j) - z_i) / count of positives

Shapes: B examples, G queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segue.core.examples.fields import Examples
from segue.core.examples.queries import rows_with_users

__all__ = ["codes_of", "listwise_softmax", "log_softmax_of_groups", "query_batches"]


def listwise_softmax(logits_B: Tensor, labels_B: Tensor, weights_B: Tensor | None, groups_B: Tensor) -> Tensor:
    """Return the mean loss of the queries that have a positive example.

    Args:
        weights_B: weights of positive examples; examples with the weight 0 are left out.
        groups_B: query of each example, from 0.
    """
    z_B = logits_B.float()
    weights_B = torch.ones_like(z_B) if weights_B is None else weights_B
    log_shares_B = log_softmax_of_groups(z_B.masked_fill(weights_B == 0, -torch.inf), groups_B)
    positives_B = labels_B * (weights_B > 0)
    n_groups = int(groups_B.max()) + 1 if len(groups_B) else 0
    counts_G = positives_B.new_zeros(n_groups).index_add(0, groups_B, positives_B)
    factors_B = positives_B * weights_B / counts_G.clamp_min(1e-9)[groups_B]
    losses_B = torch.where(positives_B > 0, factors_B * log_shares_B, 0.0)
    return -losses_B.sum() / (counts_G > 0).sum().clamp_min(1)


def log_softmax_of_groups(z_B: Tensor, groups_B: Tensor) -> Tensor:
    """Return logarithms of the softmax over the elements of each group, ``(B,)``."""
    n_groups = int(groups_B.max()) + 1 if len(groups_B) else 0
    highest_G = z_B.detach().new_full((n_groups,), -torch.inf).scatter_reduce(0, groups_B, z_B.detach(), "amax")
    centered_B = z_B - torch.where(highest_G.isfinite(), highest_G, 0.0)[groups_B]
    sums_G = z_B.new_zeros(n_groups).index_add(0, groups_B, centered_B.exp())
    return centered_B - sums_G.clamp_min(1e-38).log()[groups_B]


def query_batches(examples: Examples, size: int, rng: np.random.Generator) -> tuple[int, Iterator[NDArray[np.int64]]]:
    """Return the number of batches of whole queries, and the examples of each.

    A batch has about ``size`` examples, those of a query next to each other.

    Examples without a user are in no batch.

    Raises:
        ValueError: no example has a user.
    """
    rows_T = rows_with_users(examples, "softmax")
    assert examples.users is not None
    _, queries_T = np.unique(examples.users[rows_T], return_inverse=True)
    n_queries = int(queries_T.max()) + 1
    ranks = np.empty(n_queries, np.int64)
    ranks[rng.permutation(n_queries)] = np.arange(n_queries)
    order_T = rows_T[np.argsort(ranks[queries_T], kind="stable")]
    n_batches = min(n_queries, max(1, round(len(rows_T) / size)))
    ends = np.cumsum(np.bincount(ranks[queries_T], minlength=n_queries))
    last = np.linspace(0, n_queries, n_batches + 1).astype(np.int64)[1:-1] - 1
    return n_batches, iter(np.split(order_T, ends[last]))


def codes_of(users: NDArray[Any]) -> NDArray[np.int64]:
    """Return users as codes from 0, ``(B,)``."""
    return np.unique(users, return_inverse=True)[1].astype(np.int64)
