"""Mult-VAE and Mult-DAE: autoencoders of item sets with a multinomial likelihood.

Liang et al. 2018, arXiv:1802.05814. A history is a set of items, represented by a vector over the catalog with ones for
its items, divided by its norm; training drops some of the items. Encoder and decoder have one or two tanh layers; the
decoder's output is a softmax over the catalog, and the loss is the negative log-likelihood of all items of the set:

    loss = - sum_i x_i log softmax(f(z))_i  +  beta KL(N(mu, sigma²) | N(0, 1)),        z = mu + sigma eps

averaged over users. beta rises from 0 to ``kl_weight`` over ``kl_annealing_epochs``; the paper found values below 1
best (Mult-VAE^PR, section 2.2.2). The variant ``dae`` has no noise and no KL term. The model has no user parameters:
every user is folded in from the history of the query.

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

from segue.core.config import Choices, Search, Settings
from segue.core.model import select_candidates
from segue.core.network import Loss, Network
from segue.core.types import Codes, DataSchema, Dataset, Queries, Scores
from segue.nn.precision import full_precision
from segue.solvers.biased_factor_model import cosine_similarity

__all__ = ["MultiVAE"]

ROWS = 4096
"""Histories encoded at once in prediction."""


@dataclass(frozen=True, eq=False)
class _ItemSets:
    """Distinct items of each user of a batch."""

    offsets: Tensor
    """int64 ``(N + 1,)`` start of each user's items in ``items_T``."""
    items_T: Tensor
    """int64 item codes."""
    batches: int = 1
    """Number of batches per epoch."""

    @classmethod
    def of(cls, history_NI: csr_array[Any], batches: int = 1) -> Self:
        offsets, items_T = (torch.from_numpy(a.astype(np.int64)) for a in (history_NI.indptr, history_NI.indices))
        return cls(offsets, items_T, batches)

    def to(self, device: str) -> Self:
        return type(self)(self.offsets.to(device), self.items_T.to(device), self.batches)


class MultiVAE(Network):
    """Map the item set of a history to a distribution over the catalog.

    The map goes through a low-dimensional latent layer.
    """

    scale: ClassVar[Literal["logit", "score"]] = "logit"
    builtin_loss = "the multinomial likelihood of an item set, plus a KL term for model.variant=vae"

    class Config(Settings):
        """Settings of ``multi_vae``."""

        variant: Literal["vae", "dae"] = "vae"
        """``vae``: a Gaussian latent vector. ``dae``: a deterministic one."""
        embedding_dim: Annotated[int, Gt(0), Choices((100, 200, 400))] = 200
        """Width of the latent layer."""
        hidden_dim: Annotated[int, Gt(0)] | None = 600
        """Width of one hidden layer before and one after the latent layer; none: no hidden layers, as in the paper's
        ``dae``."""
        dropout: Annotated[float, Ge(0), Lt(1), Search(0.2, 0.8)] = 0.5
        """Probability in training that an item of a history is dropped."""
        kl_weight: Annotated[float, Ge(0), Search(0.02, 1.0, log=True)] = 0.2
        """Final weight of the KL term of ``vae``."""
        kl_annealing_epochs: Annotated[float, Ge(0)] = 20.0
        """Epochs over which the KL weight of ``vae`` rises linearly from 0."""

        @model_validator(mode="after")
        def _all_used(self) -> Self:
            errors = [
                f"{name}: got {value}, but the variant '{self.variant}' does not use it; used by vae"
                for name in ("kl_weight", "kl_annealing_epochs")
                if (value := getattr(self, name)) != type(self).model_fields[name].default
            ]
            if self.variant != "vae" and errors:
                raise ValueError("\n".join(errors))
            return self

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        encoded = config.embedding_dim * (2 if config.variant == "vae" else 1)
        first, last = config.hidden_dim or encoded, config.hidden_dim or config.embedding_dim
        self.encoder_IH = _weight(schema.n_items, first)
        self.encoder_bias_H = nn.Parameter(torch.zeros(first))
        self.encoder_layer = _linear(first, encoded) if config.hidden_dim else None
        self.decoder_layer = _linear(config.embedding_dim, last) if config.hidden_dim else None
        self.decoder_IH = _weight(schema.n_items, last)
        self.decoder_bias_I = nn.Parameter(torch.zeros(schema.n_items))
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros(1, dtype=torch.int64))  # batches trained on

    def batches(self, train: Dataset, size: int, rng: np.random.Generator) -> tuple[int, Iterator[_ItemSets]]:
        """Return the number of batches and all users with events, in random order.

        A batch has ``size`` users.
        """
        history_UI = train.histories.csr(self.schema.n_items)
        order = rng.permutation(np.flatnonzero(train.histories.lengths))
        count = -(-len(order) // size)
        return count, (_ItemSets.of(history_UI[part], count) for part in np.array_split(order, count))

    def objective(self, batch: _ItemSets, loss: Loss) -> tuple[Tensor, int]:
        """Return the loss of a batch, and its number of users.

        The loss is the negative log-likelihood plus the KL term; the argument ``loss`` is not used.
        """
        sets = batch.to(self.device)
        mean_NW, log_variance_NW = self._encode(sets, self.config.dropout)
        point_NW, kl = mean_NW, mean_NW.new_zeros(())
        if log_variance_NW is not None:
            point_NW = mean_NW + torch.exp(0.5 * log_variance_NW) * torch.randn_like(mean_NW)
            kl = gaussian_kl(mean_NW, log_variance_NW).mean()
        logits_NI = F.linear(self._decode(point_NW), self.decoder_IH, self.decoder_bias_I)
        value = multinomial_nll(logits_NI, sets.offsets, sets.items_T).mean()
        beta = self.beta(batch.batches)
        self.steps += 1
        return value + beta * kl, len(mean_NW)

    def beta(self, batches: int) -> float:
        """Return the current weight of the KL term, given the number of batches per epoch."""
        warmup = self.config.kl_annealing_epochs * batches
        return float(self.config.kl_weight * min(1.0, self.steps.item() / warmup if warmup else 1.0))

    def _encode(self, sets: _ItemSets, dropout: float = 0.0) -> tuple[Tensor, Tensor | None]:
        """Return mean and log-variance of the latent vectors, ``(N, W)``.

        The variant ``dae`` has no variance.
        """
        lengths_N = sets.offsets.diff()
        # item sets as unit vectors
        weights_T = torch.repeat_interleave(lengths_N.clamp_min(1).rsqrt(), lengths_N)
        weights_T = F.dropout(weights_T, dropout)
        encoded_NH = self.encoder_bias_H + F.embedding_bag(
            sets.items_T,
            self.encoder_IH,
            sets.offsets,
            mode="sum",
            per_sample_weights=weights_T,
            include_last_offset=True,
        )
        if self.encoder_layer is not None:
            encoded_NH = self.encoder_layer(torch.tanh(encoded_NH))
        if self.config.variant == "dae":
            return torch.tanh(encoded_NH), None
        mean_NW, log_variance_NW = encoded_NH.chunk(2, dim=1)
        return mean_NW, log_variance_NW

    def _decode(self, point_NW: Tensor) -> Tensor:
        """Return the input of the decoder's last layer, ``(N, H)``."""
        return point_NW if self.decoder_layer is None else torch.tanh(self.decoder_layer(point_NW))

    @torch.inference_mode()
    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """Return the input of the decoder's last layer, ``(N, H)``.

        The decoder is applied to the mean latent vector of each history.
        """
        history_NI = queries.history.csr(self.schema.n_items)
        result_NH = np.empty((len(queries), self.decoder_IH.shape[1]), np.float32)
        for start in range(0, len(queries), ROWS):
            sets = _ItemSets.of(history_NI[start : start + ROWS]).to(self.device)
            result_NH[start : start + ROWS] = self._decode(self._encode(sets)[0]).float().cpu().numpy()
        return result_NH

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Return the output weights of the items, ``(I, H)``."""
        return self.decoder_IH.numpy(force=True)

    @property
    def bias(self) -> NDArray[np.float32]:
        """Return the output biases of the items, ``(I,)``."""
        return self.decoder_bias_I.numpy(force=True)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return the logits of the items."""
        scores_NI: Scores = self.encode(queries) @ self.vectors.T + self.bias
        return select_candidates(scores_NI, candidates)

    def similar(self, items: Codes) -> Scores:
        """Return the cosine similarity of the items' output weights."""
        return cosine_similarity(self.vectors, items)


@full_precision
def multinomial_nll(logits_NI: Tensor, offsets: Tensor, items_T: Tensor) -> Tensor:
    """Return the negative log-likelihood of each item set, ``(N,)``.

    The distribution is a softmax over the catalog. The multinomial coefficient, which does not depend on parameters, is
    omitted.

    Args:
        offsets: int64 ``(N + 1,)`` start of each set in ``items_T``.
    """
    lengths_N = offsets.diff()
    rows_T = torch.repeat_interleave(torch.arange(len(lengths_N), device=items_T.device), lengths_N)
    item_logits_N = logits_NI.new_zeros(len(lengths_N)).index_add(0, rows_T, logits_NI[rows_T, items_T])
    return lengths_N * torch.logsumexp(logits_NI, 1) - item_logits_N


@full_precision
def gaussian_kl(mean_NW: Tensor, log_variance_NW: Tensor) -> Tensor:
    """Return the ``(N,)`` KL divergences of diagonal Gaussians from standard normals."""
    return 0.5 * (log_variance_NW.exp() + mean_NW.square() - 1.0 - log_variance_NW).sum(1)


def _weight(items: int, width: int) -> nn.Parameter:
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(items, width)))


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
