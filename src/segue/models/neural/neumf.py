"""Neural collaborative filtering: GMF, MLP and NeuMF (He et al. 2017, arXiv:1708.05031).

A user and an item have a vector for each of two paths, and a logit comes from one path or from both:

    gmf      h1 · (p * q) + c1                                  a product, every dimension with a weight
    mlp      h2 · relu(W3 relu(W2 relu(W1 [p', q']))) + c2      layers of halving width over both vectors
    neumf    share (gmf) + (1 - share) (mlp)                    eq. 12, the output weights scaled as in eq. 13

It learns to tell the items that a user had from others, drawn anew in each epoch, by binary cross-entropy (eq. 7).
With ``pretraining`` the two paths of ``neumf`` first learn for so many epochs each by itself, as two models would, and
then together, from where they stand: the weights of the fused model are those of the two (section 3.4.1). Unlike there
the optimiser keeps what it knows, so that any optimiser may go on.

Users are ids: somebody who was there in training is answered by his own vectors, whatever his history is now. Somebody
who was not gets the vectors that a ridge regression, over the users of the training, makes of the mean vectors of the
items in his history; with a history that says nothing, the mean vectors of all users.

Shapes: U users, I items, N queries, C candidates, E width of all vectors of a user or an item, H width of a layer,
M pairs of a batch, K items of each: its own and those drawn.
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

from segue.core.config import Settings
from segue.core.network import Loss, Network
from segue.core.types import Codes, Dataset, Domain, Events, Queries, Scores
from segue.solvers.interaction_pairs import Holdings

__all__ = ["NeuMF"]

CELLS = 1 << 19
"""Numbers of a layer held at once when answering (2 MiB): few enough to stay near the processor."""

RIDGE = 0.01
"""Of the regression that folds in: a share of the mean variance of what it reads."""


@dataclass(frozen=True, eq=False)
class _Batch:
    """Some pairs, and items that their users did not have."""

    users_M: Tensor
    items_MK: Tensor
    """The item of the pair first, then those drawn for it."""
    counts_MK: Tensor
    """1, or 0 for an item that was drawn although the user had it."""
    batches: int
    """Batches in an epoch."""


class NeuMF(Network):
    """A product, layers, or both, over vectors of users and items."""

    own_loss = "binary cross-entropy against model.negatives_each items for each that was had"

    class Config(Settings):
        """Settings of ``neumf``."""

        form: Literal["gmf", "mlp", "neumf"] = "neumf"
        """The paths that make the score: a weighted product, layers, or both."""
        width: Annotated[int, Gt(0)] = 8
        """Predictive factors: width of the vectors of ``gmf``, and of the last layer of ``mlp``."""
        layers: Annotated[int, Gt(0)] = 3
        """Layers of ``mlp``, each half as wide as the one before; its vectors are as wide as the first."""
        negatives_each: Annotated[int, Gt(0)] = 4
        """Items drawn for each that was had, from those that the user did not have."""
        pretraining: Annotated[float, Ge(0)] = 0.0
        """Epochs in which the paths of ``neumf`` learn each by itself, before they learn together."""
        gmf_share: Annotated[float, Ge(0), Le(1)] = 0.5
        """Of ``neumf``: weight of the logit of ``gmf``; the rest is that of ``mlp``."""

        @model_validator(mode="after")
        def _used(self) -> Self:
            faults = [
                f"{name}: got {value}, but the form '{self.form}' has one path; used by neumf"
                for name in ("pretraining", "gmf_share")
                if (value := getattr(self, name)) != type(self).model_fields[name].default
            ]
            if self.form != "neumf" and faults:
                raise ValueError("\n".join(faults))
            return self

    def __init__(self, config: Any, domain: Domain) -> None:
        super().__init__(config, domain)
        of_gmf = config.width if config.form != "mlp" else 0
        of_mlp = config.width << (config.layers - 1) if config.form != "gmf" else 0
        width = of_gmf + of_mlp
        self.widths = of_gmf, of_mlp
        self.users_UE = nn.Parameter(0.01 * torch.randn(domain.n_users, width))
        self.items_IE = nn.Parameter(0.01 * torch.randn(domain.n_items, width))
        self.gmf = nn.Linear(of_gmf, 1) if of_gmf else None
        self.mlp = _Tower(of_mlp, config.layers) if of_mlp else None
        self.steps: Tensor
        self.fold_in_EE: Tensor
        self.means_2E: Tensor
        self.met_U: Tensor
        self.met_I: Tensor
        self.register_buffer("steps", torch.zeros(1, dtype=torch.int64))  # batches learned from
        self.register_buffer("fold_in_EE", torch.zeros(width, width))
        self.register_buffer("means_2E", torch.zeros(2, width))  # of what is read and of what comes of it
        self.register_buffer("met_U", torch.zeros(domain.n_users, dtype=torch.bool))
        self.register_buffer("met_I", torch.zeros(domain.n_items, dtype=torch.bool))
        self._histories: Events | None = None

    def prepare(self, train: Dataset) -> None:
        """Keep the histories at hand until training is over, to learn to fold others in."""
        self._histories = train.histories
        self.met_U.copy_(torch.from_numpy(train.histories.lengths > 0))
        self.met_I[torch.from_numpy(train.histories.items.astype(np.int64))] = True

    def batches(self, train: Dataset, size: int, rng: np.random.Generator) -> tuple[int, Iterator[_Batch]]:
        """All pairs in random order, items drawn for each; in a batch as many as ``size`` users have on average."""
        pairs = Holdings(train.histories, self.domain.n_items)
        count, parts = pairs.batches(size, rng)

        def batch(part: NDArray[np.int64]) -> _Batch:
            users_M, items_M = pairs.users_P[part], pairs.items_P[part]
            others_MK, had_MK = pairs.others(users_M, self.config.negatives_each, rng)
            items_MK = np.concatenate([items_M[:, None], others_MK], axis=1)
            counts_MK = np.ones(items_MK.shape, np.float32)
            counts_MK[:, 1:] -= had_MK
            read = torch.from_numpy
            return _Batch(read(users_M), read(items_MK), read(counts_MK), count)

        return count, (batch(part) for part in parts)

    def objective(self, batch: _Batch, loss: Loss) -> tuple[Tensor, int]:
        """Binary cross-entropy of each pair with its drawn items, summed over these; ``loss`` is not looked at.

        While paths learn each by itself it is the sum of theirs.
        """
        device = self.device
        counts_MK, items_MK = batch.counts_MK.to(device), batch.items_MK.to(device)
        people_ME = F.embedding(batch.users_M.to(device), self.users_UE)
        paths = self._paths(people_ME, F.embedding(items_MK, self.items_IE))
        if self.steps.item() >= self.config.pretraining * batch.batches:
            paths = [self._fused(paths)]
        self.steps += 1
        sign_K = torch.ones(items_MK.shape[1], device=device)
        sign_K[0] = -1.0
        told = [(F.softplus(logits_MK.float() * sign_K) * counts_MK).sum(1).mean() for logits_MK in paths]
        return torch.stack(told).sum(), len(items_MK)

    def _paths(self, people_NE: Tensor, items: Tensor) -> list[Tensor]:
        """``(N, C)`` logits of each path, for ``items`` ``(N, C, E)``, or ``(C, E)`` that are the same for all."""
        found: list[Tensor] = []
        of_gmf = self.widths[0]
        if self.gmf is not None:
            told_ND = people_NE[:, :of_gmf] * self.gmf.weight[0]
            factors = items[..., :of_gmf]
            logits_NC = told_ND @ factors.t() if items.dim() == 2 else (factors @ told_ND[:, :, None])[..., 0]
            found.append(logits_NC + self.gmf.bias)
        if self.mlp is not None:
            found.append(self.mlp(people_NE[:, of_gmf:], items[..., of_gmf:]))
        return found

    def _fused(self, paths: list[Tensor]) -> Tensor:
        share = self.config.gmf_share
        return paths[0] if len(paths) == 1 else share * paths[0] + (1.0 - share) * paths[1]

    @torch.no_grad()
    def settle(self) -> None:
        """Learn how the vectors of users follow from those of the items they had."""
        if self._histories is None:
            return
        heard_UE, _ = self._heard(self._histories)
        met = self.met_U.numpy(force=True)
        x_UE = heard_UE[met].astype(np.float64)
        y_UE = self.users_UE.numpy(force=True)[met].astype(np.float64)
        means_2E = np.stack([x_UE.mean(axis=0), y_UE.mean(axis=0)])
        x_UE, y_UE = x_UE - means_2E[0], y_UE - means_2E[1]
        gram_EE = x_UE.T @ x_UE
        gram_EE += (RIDGE * gram_EE.diagonal().mean() + np.finfo(np.float32).tiny) * np.eye(len(gram_EE))
        self.fold_in_EE.copy_(torch.from_numpy(np.linalg.solve(gram_EE, x_UE.T @ y_UE)))
        self.means_2E.copy_(torch.from_numpy(means_2E))

    def _heard(self, history: Events) -> tuple[Scores, NDArray[np.bool_]]:
        """``(N, E)`` the mean vectors of the items in each history that were there in training, and whether any was."""
        met_I = self.met_I.numpy(force=True)
        had_NI = history.csr(self.domain.n_items)
        counts_N = had_NI @ met_I.astype(np.float32)
        sums_NE = had_NI @ np.where(met_I[:, None], self.items_IE.numpy(force=True), np.float32(0.0))
        return sums_NE / np.maximum(counts_N, 1.0)[:, None], counts_N > 0

    def _people(self, queries: Queries) -> Scores:
        """``(N, E)`` the vectors of who asks."""
        heard_NE, any_N = self._heard(queries.history)
        read_E, mean_E = self.means_2E.numpy(force=True)
        heard_NE[~any_N] = read_E
        people_NE: Scores = mean_E + (heard_NE - read_E) @ self.fold_in_EE.numpy(force=True)
        known = np.flatnonzero(queries.known)
        known = known[self.met_U.numpy(force=True)[queries.users[known]]]
        people_NE[known] = self.users_UE.numpy(force=True)[queries.users[known]]
        return people_NE

    @torch.inference_mode()
    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Logits that the person would have each item, were the drawn items all that he might have instead."""
        people_NE = torch.from_numpy(self._people(queries)).to(self.device)
        count = self.domain.n_items if candidates is None else candidates.shape[1]
        scores_NC = np.empty((len(queries), count), np.float32)
        rows = max(1, CELLS // max(1, count * max(self.widths)))
        for start in range(0, len(queries), rows):
            part = slice(start, start + rows)
            items: Tensor = self.items_IE
            if candidates is not None:
                items = F.embedding(torch.from_numpy(candidates[part].astype(np.int64)).to(self.device), items)
            scores_NC[part] = self._fused(self._paths(people_NE[part], items)).cpu().numpy()
        return scores_NC


class _Tower(nn.Module):
    """Layers over the vectors of a user and of an item side by side."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        # the first layer in two halves, so that what comes of a user or an item is computed once
        self.of_user = nn.Linear(width, width)
        self.of_item = nn.Linear(width, width, bias=False)
        self.further = nn.ModuleList(nn.Linear(width >> n, width >> (n + 1)) for n in range(layers - 1))
        self.out = nn.Linear(width >> (layers - 1), 1)

    def forward(self, people_NH: Tensor, items: Tensor) -> Tensor:
        """``(N, C)`` logits, for ``items`` ``(N, C, H)`` or ``(C, H)``."""
        x_NCH = (self.of_user(people_NH)[:, None] + self.of_item(items)).relu_()
        for layer in self.further:
            x_NCH = layer(x_NCH).relu_()
        logits_NC: Tensor = self.out(x_NCH)[..., 0]
        return logits_NC
