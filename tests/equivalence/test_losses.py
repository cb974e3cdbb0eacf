"""Losses against the plain formulas, values and gradients; dropout and attention against torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segue.models.parts import losses
from segue.models.parts.causal import causal_attention
from segue.models.parts.dropout import dropout


def case(targets: int = 700, items: int = 50, width: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    make = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=make, dtype=torch.float64).requires_grad_()

    return draw(targets, width), draw(items, width), draw(items), torch.randint(items, (targets,), generator=make)


@pytest.mark.parametrize("rows", [1, 64, 700, 10_000])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_blocked_cross_entropy_is_cross_entropy(
    rows: int, with_bias: bool, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "ROWS", rows)
    hidden, vectors, offsets, target = case()
    bias = offsets if with_bias else None
    inputs = [x for x in (hidden, vectors, bias) if x is not None]
    found = losses.cross_entropy(hidden * scale, vectors, bias, target) * 3
    logits = scale * hidden @ vectors.T + (0 if bias is None else bias)
    expected = F.cross_entropy(logits, target) * 3
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    for got, wanted in zip(torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-10)


def test_cross_entropy_keeps_one_block_of_logits() -> None:
    hidden, vectors, _, target = case(targets=5000, items=400)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x.numel()), x)[1], lambda x: x):
        losses.cross_entropy(hidden, vectors, None, target)
    assert sum(kept) <= hidden.numel() + vectors.numel() + len(target)


def sampled(name: str, hidden: Tensor, vectors: Tensor, bias: Tensor, target: Tensor, negative: Tensor) -> Tensor:
    """The formulas one position and one negative at a time."""
    items, total = len(vectors), hidden.new_zeros(())
    rate = len(negative) / (items - 1)
    power = rate * (0.75 * (1 - 1 / rate) + 1 / rate)
    for h, t in zip(hidden, target, strict=True):
        positive = h @ vectors[t] + bias[t]
        others = [h @ vectors[j] + bias[j] for j in negative if j != t]
        if name == "bce":
            total = total - F.logsigmoid(positive) - sum(F.logsigmoid(-x) for x in others) / len(negative)
        elif name == "gbce":
            total = total - power * F.logsigmoid(positive) - sum(F.logsigmoid(-x) for x in others)
        else:
            weight = (items - 1) / len(negative)
            total = total - torch.log(positive.exp() / (positive.exp() + weight * sum(x.exp() for x in others)))
    return total / len(target)


@pytest.mark.parametrize("name", ["bce", "gbce", "sampled_softmax"])
def test_sampled_losses_are_their_formulas(name: str) -> None:
    hidden, vectors, bias, target = case(targets=12, items=20)
    negative = torch.tensor([3, 3, 7, 11, int(target[0])])
    found = getattr(losses, name)(hidden, vectors, bias, target, negative)
    torch.testing.assert_close(found, sampled(name, hidden, vectors, bias, target, negative))
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(found, (hidden, vectors, bias)))


def test_sampled_softmax_over_everything_is_cross_entropy() -> None:
    hidden, vectors, bias, target = case(targets=1, items=20)
    negative = torch.tensor([j for j in range(20) if j != int(target[0])])
    found = losses.sampled_softmax(hidden, vectors, bias, target, negative)
    torch.testing.assert_close(found, F.cross_entropy(hidden @ vectors.T + bias, target))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_everywhere_and_keeps_the_mean(share: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(4000, 64, requires_grad=True)
    y = dropout(x, share, training=True)
    dropped = (y == 0).float()
    assert dropped.mean(0).sub(share).abs().max() < 5 * (share * (1 - share) / 4000) ** 0.5
    assert dropped.mean().sub(share).abs() < 5 * (share * (1 - share) / x.numel()) ** 0.5
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 1 / (1 - share)), rtol=1e-4, atol=0)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, y.detach())
    assert dropout(x, share, training=False) is x


def test_attention_with_dropout_is_causal_and_differentiates() -> None:
    make = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, 6, 4, dtype=torch.float64, generator=make).requires_grad_() for _ in range(3))

    def seeded(*x: Tensor) -> Tensor:
        torch.manual_seed(3)
        return causal_attention(*x, 0.3)

    assert torch.autograd.gradcheck(seeded, (q, k, v))
    torch.testing.assert_close(
        causal_attention(q, k, v, 1e-9), F.scaled_dot_product_attention(q, k, v, is_causal=True), rtol=1e-3, atol=1e-3
    )
    later = seeded(q, k, torch.cat([v[:, :, :3], v[:, :, 3:] + 1.0], 2))
    torch.testing.assert_close(later[:, :, :3], seeded(q, k, v)[:, :, :3])
