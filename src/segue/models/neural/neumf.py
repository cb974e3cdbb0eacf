"""Neural collaborative filtering: GMF, MLP and NeuMF.

He et al. 2017, arXiv:1708.05031.

A user and an item have one vector for each of two paths, and the logit comes from one path or both:

    gmf      h1 · (p * q) + c1                                  weighted product
    mlp      h2 · relu(W3 relu(W2 relu(W1 [p', q']))) + c2      layers of halving width over both vectors
    neumf    weight (gmf) + (1 - weight) (mlp)                  eq. 12, the output weights scaled as in eq. 13

Trained with binary cross-entropy to separate the items of a user from sampled others, new ones in each epoch (eq. 7).
With ``pretrain_epochs`` the two paths of ``neumf`` first train separately, as two models would, and then jointly from
these weights (section 3.4.1). Unlike in the paper, the optimizer keeps its state, so that any optimizer works.

Training users are represented by their own vectors, regardless of the history of the query. Other users are folded in:
a ridge regression, fitted on the training users, predicts their vectors from the mean item vector of the history. A
history without training items gets the mean vector of all users.

Shapes: U users, I items, N queries, C candidates, E total width of a user's or an item's vectors, H width of a layer,
M pairs of a batch, K items per pair: its own and the negatives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray
from pydantic import model_validator
from torch import Tensor, nn

from segue.core.config import Choices, Search, Settings
from segue.core.examples.interaction_pairs import InteractionPairs
from segue.core.network import Loss, Network
from segue.core.types import Codes, DataSchema, Dataset, Events, Queries, Scores
from segue.solvers.profiles.fold_in_regression import fit_user_regression, predict_user_vectors

__all__ = ["NeuMF"]

CELLS = 1 << 19
"""Maximum number of activations of a layer in prediction (2 MiB), small enough for the CPU cache."""


@dataclass(frozen=True, eq=False)
class _Batch:
    """User-item pairs and their negatives."""

    users_M: Tensor
    items_MK: Tensor
    """The item of the pair first, then its negatives."""
    weights_MK: Tensor
    """1, or 0 for a sampled item that the user has interacted with."""
    batches: int
    """Number of batches per epoch."""


class NeuMF(Network):
    """A product, an MLP, or both, over user and item vectors."""

    builtin_loss = "binary cross-entropy against model.num_negatives sampled items per pair"

    class Config(Settings):
        """Settings of ``neumf``."""

        variant: Literal["gmf", "mlp", "neumf"] = "neumf"
        """The paths of the score: a weighted product, an MLP, or both."""
        embedding_dim: Annotated[int, Gt(0), Choices((8, 16, 32, 64))] = 8
        """Width of the vectors of ``gmf`` and of the last layer of ``mlp``."""
        num_layers: Annotated[int, Gt(0)] = 3
        """Number of layers of ``mlp``, each half as wide as the previous one; its vectors are as wide as the first."""
        num_negatives: Annotated[int, Gt(0), Search(2, 16, log=True)] = 4
        """Negatives per pair, sampled from the items the user has not interacted with."""
        pretrain_epochs: Annotated[float, Ge(0)] = 0.0
        """Epochs in which the paths of ``neumf`` train separately before they train jointly."""
        gmf_weight: Annotated[float, Ge(0), Le(1)] = 0.5
        """Weight of the ``gmf`` logit in ``neumf``; the ``mlp`` logit has the remaining weight."""

        @model_validator(mode="after")
        def _all_used(self) -> Self:
            errors = [
                f"{name}: got {value}, but the variant '{self.variant}' has a single path; used by neumf"
                for name in ("pretrain_epochs", "gmf_weight")
                if (value := getattr(self, name)) != type(self).model_fields[name].default
            ]
            if self.variant != "neumf" and errors:
                raise ValueError("\n".join(errors))
            return self

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        gmf_width = config.embedding_dim if config.variant != "mlp" else 0
        mlp_width = config.embedding_dim << (config.num_layers - 1) if config.variant != "gmf" else 0
        width = gmf_width + mlp_width
        self.widths = gmf_width, mlp_width
        self.users_UE = nn.Parameter(torch.randn(schema.n_users, width).mul_(0.01))
        self.items_IE = nn.Parameter(torch.randn(schema.n_items, width).mul_(0.01))
        self.gmf = nn.Linear(gmf_width, 1) if gmf_width else None
        self.mlp = _Tower(mlp_width, config.num_layers) if mlp_width else None
        self.steps: Tensor
        self.fold_in_EE: Tensor
        self.means_2E: Tensor
        self.is_training_user_U: Tensor
        self.is_training_item_I: Tensor
        self.register_buffer("steps", torch.zeros(1, dtype=torch.int64))  # batches trained on
        self.register_buffer("fold_in_EE", torch.zeros(width, width))
        self.register_buffer(
            "means_2E", torch.zeros(2, width)
        )  # means of the inputs and outputs of the fold-in regression
        self.register_buffer("is_training_user_U", torch.zeros(schema.n_users, dtype=torch.bool))
        self.register_buffer("is_training_item_I", torch.zeros(schema.n_items, dtype=torch.bool))
        self._histories: Events | None = None

    def prepare(self, train: Dataset) -> None:
        """Keep the histories, which :meth:`finalize` needs to fit the fold-in regression."""
        self._histories = train.histories
        self.is_training_user_U.copy_(torch.from_numpy(train.histories.lengths > 0))
        self.is_training_item_I[torch.from_numpy(train.histories.items.astype(np.int64))] = True

    def batches(self, train: Dataset, size: int, rng: np.random.Generator) -> tuple[int, Iterator[_Batch]]:
        """Return the number of batches and all pairs in random order with negatives.

        A batch has as many pairs as ``size`` users have on average.
        """
        pairs = InteractionPairs(train.histories, self.schema.n_items)
        count, parts = pairs.batches(size, rng)

        def batch(part: NDArray[np.int64]) -> _Batch:
            users_M, items_M = pairs.users_P[part], pairs.items_P[part]
            negatives_MK, seen_MK = pairs.sample_unseen(users_M, self.config.num_negatives, rng)
            items_MK = np.concatenate([items_M[:, None], negatives_MK], axis=1)
            weights_MK = np.ones(items_MK.shape, np.float32)
            weights_MK[:, 1:] -= seen_MK
            users, items, weights = (torch.from_numpy(array) for array in (users_M, items_MK, weights_MK))
            return _Batch(users, items, weights, count)

        return count, (batch(part) for part in parts)

    def objective(self, batch: _Batch, loss: Loss) -> tuple[Tensor, int]:
        """Return the loss of a batch, and its number of pairs.

        The loss is the binary cross-entropy, summed over the items of a pair; the argument ``loss`` is not used. While
        the paths train separately, the loss is the sum of their losses.
        """
        device = self.device
        weights_MK, items_MK = batch.weights_MK.to(device), batch.items_MK.to(device)
        user_ME = F.embedding(batch.users_M.to(device), self.users_UE)
        paths = self._paths(user_ME, F.embedding(items_MK, self.items_IE))
        if self.steps.item() >= self.config.pretrain_epochs * batch.batches:
            paths = [self._fused(paths)]
        self.steps += 1
        sign_K = torch.ones(items_MK.shape[1], device=device)
        sign_K[0] = -1.0
        losses = [(F.softplus(logits_MK.float() * sign_K) * weights_MK).sum(1).mean() for logits_MK in paths]
        return torch.stack(losses).sum(), len(items_MK)

    def _paths(self, user_NE: Tensor, items: Tensor) -> list[Tensor]:
        """Return the logits of each path, ``(N, C)``.

        Args:
            items: ``(N, C, E)`` or, shared by all users, ``(C, E)``.
        """
        logits: list[Tensor] = []
        gmf_width = self.widths[0]
        if self.gmf is not None:
            weighted_ND = user_NE[:, :gmf_width] * self.gmf.weight[0]
            factors = items[..., :gmf_width]
            logits_NC = weighted_ND @ factors.t() if items.dim() == 2 else (factors @ weighted_ND[:, :, None])[..., 0]
            logits.append(logits_NC + self.gmf.bias)
        if self.mlp is not None:
            logits.append(self.mlp(user_NE[:, gmf_width:], items[..., gmf_width:]))
        return logits

    def _fused(self, paths: list[Tensor]) -> Tensor:
        weight = self.config.gmf_weight
        return paths[0] if len(paths) == 1 else weight * paths[0] + (1.0 - weight) * paths[1]

    @torch.no_grad()
    def finalize(self) -> None:
        """Fit the regression that folds in users.

        It predicts the vectors of a user from the mean item vector of their history.
        """
        if self._histories is None:
            return
        mean_items_UE, _ = self._mean_item_vectors(self._histories)
        is_training_user = self.is_training_user_U.numpy(force=True)
        users_UE = self.users_UE.numpy(force=True)
        fold_in_EE, means_2E = fit_user_regression(mean_items_UE[is_training_user], users_UE[is_training_user])
        self.fold_in_EE.copy_(torch.from_numpy(fold_in_EE))
        self.means_2E.copy_(torch.from_numpy(means_2E))

    def _mean_item_vectors(self, history: Events) -> tuple[Scores, NDArray[np.bool_]]:
        """Return the mean vector of the training items in each history, ``(N, E)``.

        Also return whether there are any.
        """
        is_training_item_I = self.is_training_item_I.numpy(force=True)
        history_NI = history.csr(self.schema.n_items)
        counts_N = history_NI @ is_training_item_I.astype(np.float32)
        sums_NE = history_NI @ np.where(is_training_item_I[:, None], self.items_IE.numpy(force=True), np.float32(0.0))
        return sums_NE / np.maximum(counts_N, 1.0)[:, None], counts_N > 0

    def _user_vectors(self, queries: Queries) -> Scores:
        """Return the user vectors of queries, ``(N, E)``."""
        mean_items_NE, any_N = self._mean_item_vectors(queries.history)
        user_NE = predict_user_vectors(
            mean_items_NE, any_N, self.fold_in_EE.numpy(force=True), self.means_2E.numpy(force=True)
        )
        known = np.flatnonzero(queries.known)
        known = known[self.is_training_user_U.numpy(force=True)[queries.users[known]]]
        user_NE[known] = self.users_UE.numpy(force=True)[queries.users[known]]
        return user_NE

    @torch.inference_mode()
    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return the logits of the training objective.

        They separate an item of the user from sampled negatives.
        """
        user_NE = torch.from_numpy(self._user_vectors(queries)).to(self.device)
        count = self.schema.n_items if candidates is None else candidates.shape[1]
        scores_NC = np.empty((len(queries), count), np.float32)
        rows = max(1, CELLS // max(1, count * max(self.widths)))
        for start in range(0, len(queries), rows):
            part = slice(start, start + rows)
            items: Tensor = self.items_IE
            if candidates is not None:
                items = F.embedding(torch.from_numpy(candidates[part].astype(np.int64)).to(self.device), items)
            scores_NC[part] = self._fused(self._paths(user_NE[part], items)).cpu().numpy()
        return scores_NC


class _Tower(nn.Module):
    """MLP over the concatenated vectors of a user and an item."""

    def __init__(self, width: int, num_layers: int) -> None:
        super().__init__()
        # the first layer is split in two, so that the part of a user or an item is computed once
        self.user_layer = nn.Linear(width, width)
        self.item_layer = nn.Linear(width, width, bias=False)
        self.layers = nn.ModuleList(nn.Linear(width >> n, width >> (n + 1)) for n in range(num_layers - 1))
        self.out = nn.Linear(width >> (num_layers - 1), 1)

    def forward(self, user_NH: Tensor, items: Tensor) -> Tensor:
        """Return logits ``(N, C)`` for ``items`` ``(N, C, H)`` or ``(C, H)``."""
        x_NCH = (self.user_layer(user_NH)[:, None] + self.item_layer(items)).relu_()
        for layer in self.layers:
            x_NCH = layer(x_NCH).relu_()
        logits_NC: Tensor = self.out(x_NCH)[..., 0]
        return logits_NC
