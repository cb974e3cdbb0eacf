"""Every dropout of a network drops with the configured probability, in training and only there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segue.core.registry import model_class
from segue.core.types import Dataset, Events, Vocab
from segue.nn.layers import attention_kernels
from segue.nn.layers import dropout as dropout_module

P = 0.3
SMALL: dict[str, Any] = {"embedding_dim": 8, "max_length": 6, "dropout": P}

SITES: dict[str, tuple[dict[str, Any], int]] = {
    "sasrec": ({"num_blocks": 2, "num_heads": 2}, 1 + 2 * 4),  # input; attention weights and output, feed-forward twice
    "bert4rec": ({"num_blocks": 2, "num_heads": 2}, 1 + 2 * 3),  # input; attention weights and output, feed-forward
    "gru4rec": ({"num_layers": 1}, 2),  # input, output
    "lstm": ({"num_layers": 1}, 2),
    "xlstm": ({"num_blocks": 2, "slstm_at": (1,), "num_heads": 2}, 1 + 1 + 2),  # input; mLSTM output; sLSTM output, ffn
    "esasrec": ({"num_blocks": 2, "num_heads": 2}, 1 + 2 * 4),  # as sasrec
    "hstu": ({"num_blocks": 2, "num_heads": 2}, 1 + 2),  # input; output of the attention
    "narm": ({}, 3),  # input, global and local interest
    "nextitnet": ({"num_blocks": 2}, 1 + 2),  # input; output of a block
    "transformer_xl": ({"num_blocks": 2, "num_heads": 2}, 1 + 2 * 4),  # as sasrec
}
"""Settings by model, and the number of dropouts in one forward pass in training."""


class Switch:
    """Record the dropouts of a forward pass, and switch all of them off but one."""

    def __init__(self, active: int | None = None) -> None:
        self.active = active
        self.found: list[float] = []

    def is_on(self, p: float) -> bool:
        self.found.append(p)
        return self.active == len(self.found) - 1


@pytest.fixture
def switch(monkeypatch: pytest.MonkeyPatch) -> Switch:
    found = Switch()
    mask, attention = dropout_module.dropout_mask, F.scaled_dot_product_attention

    def switched_mask(like: Tensor, p: float) -> tuple[Tensor, float]:
        return mask(like, p) if found.is_on(p) else (torch.ones_like(like), 1.0)

    def switched_attention(*args: Any, dropout_p: float = 0.0, **options: Any) -> Tensor:
        is_on = dropout_p > 0 and found.is_on(dropout_p)
        return attention(*args, dropout_p=dropout_p if is_on else 0.0, **options)

    monkeypatch.setattr(dropout_module, "dropout_mask", switched_mask)
    monkeypatch.setattr(attention_kernels, "dropout_mask", switched_mask)
    monkeypatch.setattr(F, "scaled_dot_product_attention", switched_attention)
    return found


def world() -> Dataset:
    rows = [[(user + step) % 12 for step in range(4 + user % 3)] for user in range(6)]
    return Dataset("walk", Vocab([f"u{u}" for u in range(6)]), Vocab([str(i) for i in range(12)]), Events.of(rows))


def network(key: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    kind: Any = model_class(key)
    model = kind(kind.Config(**{**SMALL, **SITES[key][0], **settings}), world().schema)
    model.prepare(world())
    return model


def forward(model: Any) -> Tensor:
    batch = next(iter(model.batches(world(), 6, np.random.default_rng(0))[1]))
    encoded: Tensor = model.encode_sequence(model.embed(batch), batch)
    return encoded.detach()


@pytest.mark.parametrize("key", SITES)
def test_every_dropout_of_a_forward_pass_drops(key: str, switch: Switch) -> None:
    model = network(key).train()
    expected = forward(model)  # all of them are off
    assert switch.found == [P] * SITES[key][1]
    for site in range(SITES[key][1]):
        switch.found, switch.active = [], site
        assert not torch.equal(forward(model), expected), f"dropout {site} has no effect"


@pytest.mark.parametrize("key", SITES)
def test_dropout_is_random_in_training_and_absent_in_evaluation(key: str) -> None:
    model = network(key)
    model.train()
    assert not torch.equal(forward(model), forward(model))
    model.eval()
    assert torch.equal(forward(model), forward(model))


@pytest.mark.parametrize("key", SITES)
def test_a_network_without_dropout_is_deterministic_in_training(key: str) -> None:
    model = network(key, dropout=0.0).train()
    trained = forward(model)
    torch.testing.assert_close(forward(model.eval()), trained)
    assert torch.equal(forward(model.train()), trained)


@pytest.mark.parametrize("key", ["gru4rec", "lstm"])
def test_recurrent_layers_have_dropout_between_them(key: str) -> None:
    assert network(key, num_layers=2).encoder.layers.dropout == P


def test_dropout_zeroes_the_configured_share_and_rescales_the_rest() -> None:
    torch.manual_seed(0)
    x = torch.ones(200_000, requires_grad=True)
    dropped = dropout_module.dropout(x, P, True)
    dropped.sum().backward()
    assert (dropped == 0).double().mean().item() == pytest.approx(P, abs=0.01)
    assert dropped.max().item() == pytest.approx(1 / (1 - P), rel=1e-3)
    assert x.grad is not None
    assert torch.equal(x.grad, dropped.detach())
    assert torch.equal(dropout_module.dropout(x, P, False), x)
