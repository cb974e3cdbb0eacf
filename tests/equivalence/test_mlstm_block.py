"""The mLSTM block with its written-out steps is the block as its figure draws it (arXiv:2405.04517, figure 10)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segue.nn.xlstm import mlstm
from segue.nn.xlstm.blocks import MLSTMBlock

WIDTH, HEADS = 12, 3


def block(kernel: int, soft_cap: float, form: str, moved: float = 0.3) -> MLSTMBlock:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = MLSTMBlock(WIDTH, HEADS, 2, kernel, 4, 2.0, soft_cap, 0.0, form, 8).double()  # type: ignore[arg-type]
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(torch.randn_like(parameter) * moved)
    return made


def drawn(it: MLSTMBlock, x_BLD: Tensor) -> Tensor:
    """One operation after the other, with torch's own convolution and automatic gradients."""
    wide, gate = it.up(it.norm(x_BLD)).chunk(2, -1)
    taps = it.convolution.weight
    mixed = F.silu(
        F.conv1d(F.pad(wide.mT, (taps.shape[-1] - 1, 0)), taps, it.convolution.bias, groups=wide.shape[-1]).mT
    )

    def blockwise(y: Tensor, weight: Tensor) -> Tensor:
        return torch.einsum("blni,nio->blno", y.unflatten(-1, weight.shape[:2]), weight).flatten(-2)

    small = it.value.shape[1]
    q, k = (blockwise(mixed, weight) for weight in it.query_key.split(small, -1))
    v = blockwise(wide, it.value)
    gates = it.gates(torch.cat([q, k, v], -1)).mT
    i, f = (mlstm.soft_cap(gates, it.soft_cap) if it.soft_cap else gates).chunk(2, 1)
    split = [y.unflatten(-1, (HEADS, -1)).transpose(1, 2) for y in (q, k, v)]
    memory = mlstm.initial_state(len(x_BLD), HEADS, split[0].shape[-1], x_BLD)
    outputs = []
    for t in range(x_BLD.shape[1]):
        q_t, k_t, v_t, i_t, f_t = (y[:, :, t] for y in (*split, i, f))
        h, memory = mlstm.step(q_t, k_t, v_t, i_t, f_t, memory)
        outputs.append(h)
    h_BLHP = torch.stack(outputs, 1)
    normed = F.layer_norm(h_BLHP, h_BLHP.shape[-1:]).flatten(-2) * it.head_norm.weight
    out: Tensor = x_BLD + it.down((normed + it.skip * mixed) * F.silu(gate))
    return out


@pytest.mark.parametrize("form", ["parallel", "chunkwise"])
@pytest.mark.parametrize(("length", "kernel", "soft_cap"), [(1, 4, 15.0), (3, 4, 15.0), (21, 4, 0.0), (21, 1, 15.0)])
def test_output_and_every_gradient(length: int, kernel: int, soft_cap: float, form: str) -> None:
    it = block(kernel, soft_cap, form)
    make = torch.Generator().manual_seed(1)
    x_BLD = torch.randn(3, length, WIDTH, generator=make, dtype=torch.float64).requires_grad_()
    found, expected = it(x_BLD), drawn(it, x_BLD)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    weights = torch.randn(found.shape, generator=make, dtype=torch.float64)
    inputs = {"x": x_BLD, **dict(it.named_parameters())}
    got = torch.autograd.grad((found * weights).sum(), list(inputs.values()))
    wanted = torch.autograd.grad((expected * weights).sum(), list(inputs.values()))
    for name, gradient, other in zip(inputs, got, wanted, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-6, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("form", ["parallel", "chunkwise"])
def test_half_precision_is_near_full(form: str) -> None:
    # near its beginning: once queries are large, the sign of a sum that is nearly nothing is anybody's guess
    it = block(4, 15.0, form, moved=0.05).float()
    x_BLD = torch.randn(3, 21, WIDTH, generator=torch.Generator().manual_seed(1)).requires_grad_()
    exact = it(x_BLD)
    with torch.autocast("cpu", torch.bfloat16):
        half = it(x_BLD)
    assert (half - exact).norm() <= 0.05 * exact.norm()
    wanted, got = (torch.autograd.grad(y.square().sum(), list(it.parameters())) for y in (exact, half))
    for gradient, other in zip(got, wanted, strict=True):
        assert (gradient - other).norm() <= 0.2 * other.norm()
        assert gradient.dtype == torch.float32


def test_gates_that_forget_at_once_leave_no_denormal_numbers() -> None:
    """They change nothing and make products many times slower."""
    make = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, 200, 8, generator=make) for _ in range(3))
    i, f = torch.zeros(1, 1, 200), torch.full((1, 1, 200), -0.2)
    kept = []

    def pack(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        mlstm.parallel(q.requires_grad_(), k, v, i, f)
    least = torch.finfo(torch.float32).tiny
    assert sum(x.numel() for x in kept) > 200 * 100
    assert not any(((x != 0) & (x.abs() < least)).any() for x in kept if x.is_floating_point())
