"""FinalMLP: two towers over gated embeddings, joined by a bilinear form.

Mao et al. 2023, arXiv:2304.00902.

    x_k = 2 sigmoid(gate_k(c_k)) * [v_1, ..., v_F],   k = 1, 2
    logit(x) = b + w_1 . o_1 + w_2 . o_2 + sum_h o_1h^T W_h o_2h,   o_k = tower_k(x_k)

The gates read learned vectors, or the embeddings of fields that ``gate_fields`` names.

Shapes: B examples, F fields, D width of an embedding, E = F D, H heads, O width of a tower's output.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from segue.core.config import suggest
from segue.core.types import DataSchema
from segue.nn.ctr.click_network import ClickNetwork, TowerSettings
from segue.nn.ctr.field_embeddings import ExampleBatch
from segue.nn.ctr.layers import Tower

__all__ = ["FinalMLP"]


class FinalMLP(ClickNetwork):
    """Two gated towers and a bilinear form."""

    class Config(TowerSettings):
        """Settings of ``finalmlp``."""

        hidden_2: tuple[Annotated[int, Gt(0)], ...] = ()
        """Widths of the layers of the second tower; empty: those of ``hidden``."""
        num_heads: Annotated[int, Gt(0)] = 1
        """Number of heads of the bilinear form; must divide the last widths of both towers."""
        gate_hidden: Annotated[int, Ge(0)] = 64
        """Width of the hidden layer of the gates; 0: no gates."""
        gate_fields: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        """Fields that the gates of the first and of the second tower read; empty: a learned vector."""

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        width, hidden_2 = len(self.fields) * config.embedding_dim, config.hidden_2 or config.hidden
        for hidden in (config.hidden, hidden_2):
            if hidden[-1] % config.num_heads:
                raise ValueError(
                    f"model.num_heads: got {config.num_heads}, expected a divisor of the width {hidden[-1]}"
                )
        self.embed = self.embeddings()
        self.gates = nn.ModuleList(self._gate(names, width) for names in config.gate_fields if config.gate_hidden)
        self.tower_1 = self.tower(width, out=None)
        self.tower_2 = Tower(width, hidden_2, config.dropout, config.batch_norm)
        self.linear_1, self.linear_2 = nn.Linear(config.hidden[-1], 1), nn.Linear(hidden_2[-1], 1, bias=False)
        per_head = config.hidden[-1] // config.num_heads, hidden_2[-1] // config.num_heads
        self.bilinear_HOO = nn.Parameter(torch.empty(config.num_heads, *per_head))
        nn.init.xavier_normal_(self.bilinear_HOO)

    def _gate(self, names: tuple[str, ...], width: int) -> _Gate:
        known = {one.name: index for index, one in enumerate(self.fields)}
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"model.gate_fields: unknown field '{unknown[0]}'{suggest(unknown[0], known)}")
        return _Gate([known[name] for name in names], self.config.embedding_dim, self.config.gate_hidden, width)

    def logits(self, batch: ExampleBatch) -> Tensor:
        """Return the logit of each example, ``(B,)``."""
        x_BFD = self.embed(batch)
        x_BE = x_BFD.flatten(1)
        first, second = (gate(x_BFD) * x_BE for gate in self.gates) if len(self.gates) else (x_BE, x_BE)
        out_1, out_2 = self.tower_1(first), self.tower_2(second)
        heads_1, heads_2 = (out.unflatten(1, (self.config.num_heads, -1)) for out in (out_1, out_2))
        products_BHO = torch.einsum("bho,hop->bhp", heads_1, self.bilinear_HOO)
        joint_B = (products_BHO * heads_2).sum((1, 2))
        logits_B: Tensor = self.linear_1(out_1)[:, 0] + self.linear_2(out_2)[:, 0] + joint_B
        return logits_B


class _Gate(nn.Module):
    """Weights of the inputs of a tower, from 0 to 2."""

    def __init__(self, fields: list[int], dim: int, hidden: int, width: int) -> None:
        super().__init__()
        self.fields = fields
        self.learned_D = nn.Parameter(torch.zeros(dim)) if not fields else None
        self.layers = Tower(dim * (len(fields) or 1), (hidden,), 0.0, False, width)

    def forward(self, x_BFD: Tensor) -> Tensor:
        """Return weights ``(B, E)``, or ``(1, E)`` for all examples."""
        inputs = x_BFD[:, self.fields].flatten(1) if self.learned_D is None else self.learned_D[None]
        weights: Tensor = 2 * torch.sigmoid(self.layers(inputs))
        return weights
