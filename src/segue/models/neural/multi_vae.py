"""Mult-VAE and Mult-DAE: autoencoders of who had what, with a multinomial likelihood (Liang et al. 2018,
arXiv:1802.05814).

A history is read as a bag of items: a vector of ones over the catalogue, divided by its length, of which training drops
a part. Encoder and decoder are a layer or two of tanh; the decoder's output is a softmax over the catalogue, from which
all items of the bag were drawn:

    loss = - sum_i x_i log softmax(f(z))_i  +  beta KL(N(mu, sigma²) | N(0, 1)),        z = mu + sigma eps

averaged over users. beta rises from 0 over ``annealing`` epochs to ``kl_weight``, which below 1 is what the paper found
best (Mult-VAE^PR, section 2.2.2). The form ``dae`` has no noise and no second term. The model knows nothing of users:
everybody is folded in from the history that is asked about.

Shapes: U users, I items, N queries or users of a batch, T events of these, C candidates, W latent width, H width of the
hidden layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray
from pydantic import model_validator
from scipy.sparse import csr_array
from torch import Tensor, nn

from segue.core.config import Settings
from segue.core.model import pick_candidates
from segue.core.network import Loss, Network
from segue.core.types import Codes, Dataset, Domain, Queries, Scores
from segue.nn.variational_losses import gaussian_kl, multinomial_nll
from segue.solvers.biased_factor_model import cosine_likeness

__all__ = ["MultiVAE"]

ROWS = 4096
"""Histories that are encoded at once when answering."""


@dataclass(frozen=True, eq=False)
class _Bags:
    """What some users had, each item once."""

    offsets: Tensor
    """int64 ``(N + 1,)`` where each user's items begin in ``items_T``."""
    items_T: Tensor
    """int64 item codes."""
    batches: int = 1
    """Batches in an epoch."""

    @classmethod
    def of(cls, had_NI: csr_array[Any], batches: int = 1) -> Self:
        offsets, items_T = (torch.from_numpy(a.astype(np.int64)) for a in (had_NI.indptr, had_NI.indices))
        return cls(offsets, items_T, batches)

    def to(self, device: str) -> Self:
        return type(self)(self.offsets.to(device), self.items_T.to(device), self.batches)


class MultiVAE(Network):
    """From the bag of a history to a distribution over the catalogue, through a narrow layer."""

    scale: ClassVar[Literal["logit", "score"]] = "logit"
    own_loss = "the multinomial likelihood of a bag of items, and for model.form=vae a divergence"

    class Config(Settings):
        """Settings of ``multi_vae``."""

        form: Literal["vae", "dae"] = "vae"
        """``vae``: a distribution over what lies behind a history. ``dae``: one point."""
        width: Annotated[int, Gt(0)] = 200
        """Width of the narrow layer."""
        hidden_width: Annotated[int, Gt(0)] | None = 600
        """Width of a layer before it and of one after it; none: no such layers, as the paper has it for ``dae``."""
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.5
        """Share of a history that is dropped while training."""
        kl_weight: Annotated[float, Ge(0)] = 0.2
        """Of ``vae``: what the weight of the divergence rises to."""
        annealing: Annotated[float, Ge(0)] = 20.0
        """Of ``vae``: epochs over which it rises."""

        @model_validator(mode="after")
        def _used(self) -> Self:
            faults = [
                f"{name}: got {value}, but the form '{self.form}' does not use it; used by vae"
                for name in ("kl_weight", "annealing")
                if (value := getattr(self, name)) != type(self).model_fields[name].default
            ]
            if self.form != "vae" and faults:
                raise ValueError("\n".join(faults))
            return self

    def __init__(self, config: Any, domain: Domain) -> None:
        super().__init__(config, domain)
        told = config.width * (2 if config.form == "vae" else 1)
        first, last = config.hidden_width or told, config.hidden_width or config.width
        self.read_IH = _weight(domain.n_items, first)
        self.read_H = nn.Parameter(torch.zeros(first))
        self.inner = _linear(first, told) if config.hidden_width else None
        self.outer = _linear(config.width, last) if config.hidden_width else None
        self.items_IH = _weight(domain.n_items, last)
        self.offsets_I = nn.Parameter(torch.zeros(domain.n_items))
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros(1, dtype=torch.int64))  # batches learned from

    def batches(self, train: Dataset, size: int, rng: np.random.Generator) -> tuple[int, Iterator[_Bags]]:
        """All users that have an event, in random order, ``size`` in a batch."""
        had_UI = train.histories.csr(self.domain.n_items)
        order = rng.permutation(np.flatnonzero(train.histories.lengths))
        count = -(-len(order) // size)
        return count, (_Bags.of(had_UI[part], count) for part in np.array_split(order, count))

    def objective(self, batch: _Bags, loss: Loss) -> tuple[Tensor, int]:
        """The negative likelihood of each user's bag and the weighted divergence; ``loss`` is not looked at."""
        bags = batch.to(self.device)
        mean_NW, log_variance_NW = self._told(bags, self.config.dropout)
        point_NW, divergence = mean_NW, mean_NW.new_zeros(())
        if log_variance_NW is not None:
            point_NW = mean_NW + torch.exp(0.5 * log_variance_NW) * torch.randn_like(mean_NW)
            divergence = gaussian_kl(mean_NW, log_variance_NW).mean()
        logits_NI = F.linear(self._hidden(point_NW), self.items_IH, self.offsets_I)
        value = multinomial_nll(logits_NI, bags.offsets, bags.items_T).mean()
        beta = self.beta(batch.batches)
        self.steps += 1
        return value + beta * divergence, len(mean_NW)

    def beta(self, batches: int) -> float:
        """The weight of the divergence now, in epochs of so many ``batches``."""
        rising = self.config.annealing * batches
        return float(self.config.kl_weight * min(1.0, self.steps.item() / rising if rising else 1.0))

    def _told(self, bags: _Bags, dropout: float = 0.0) -> tuple[Tensor, Tensor | None]:
        """``(N, W)`` mean and logarithm of the variance of what lies behind each bag; a point has none."""
        lengths_N = bags.offsets.diff()
        # a bag as a vector of length 1
        weights_T = torch.repeat_interleave(lengths_N.clamp_min(1).rsqrt(), lengths_N)
        weights_T = F.dropout(weights_T, dropout)
        told_NH = self.read_H + F.embedding_bag(
            bags.items_T,
            self.read_IH,
            bags.offsets,
            mode="sum",
            per_sample_weights=weights_T,
            include_last_offset=True,
        )
        if self.inner is not None:
            told_NH = self.inner(torch.tanh(told_NH))
        if self.config.form == "dae":
            return torch.tanh(told_NH), None
        mean_NW, log_variance_NW = told_NH.chunk(2, dim=1)
        return mean_NW, log_variance_NW

    def _hidden(self, point_NW: Tensor) -> Tensor:
        """``(N, H)`` what the catalogue is multiplied with."""
        return point_NW if self.outer is None else torch.tanh(self.outer(point_NW))

    @torch.inference_mode()
    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """``(N, H)`` the decoder's last layer, of the mean of what lies behind each history."""
        had_NI = queries.history.csr(self.domain.n_items)
        found_NH = np.empty((len(queries), self.items_IH.shape[1]), np.float32)
        for start in range(0, len(queries), ROWS):
            bags = _Bags.of(had_NI[start : start + ROWS]).to(self.device)
            found_NH[start : start + ROWS] = self._hidden(self._told(bags)[0]).float().cpu().numpy()
        return found_NH

    @property
    def vectors(self) -> NDArray[np.float32]:
        """``(n_items, H)`` the output weights of the items."""
        return self.items_IH.numpy(force=True)

    @property
    def bias(self) -> NDArray[np.float32]:
        """``(n_items,)`` their offsets."""
        return self.offsets_I.numpy(force=True)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Logits of what else belongs to the bag."""
        scores_NI: Scores = self.encode(queries) @ self.vectors.T + self.bias
        return pick_candidates(scores_NI, candidates)

    def similar(self, items: Codes) -> Scores:
        """The cosine between the items' output weights."""
        return cosine_likeness(self.vectors, items)


def _weight(items: int, width: int) -> nn.Parameter:
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(items, width)))


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
