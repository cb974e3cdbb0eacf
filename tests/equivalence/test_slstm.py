"""The sLSTM over a sequence is its step repeated, and its written-out backward pass is that of autograd."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.nn.xlstm import slstm


def tensors(length: int = 23, heads: int = 2, batch: int = 3, width: int = 5) -> tuple[Tensor, Tensor]:
    make = torch.Generator().manual_seed(0)
    raw = torch.randn(length, heads, batch, 4 * width, generator=make, dtype=torch.float64) * 2
    recurrent = torch.randn(heads, width, 4 * width, generator=make, dtype=torch.float64) * 0.4
    return raw.requires_grad_(), recurrent.requires_grad_()


def plain(raw: Tensor, recurrent: Tensor) -> Tensor:
    """The paper's equations without a stabiliser, in double precision."""
    _, heads, batch, gates = raw.shape
    y = c = n = raw.new_zeros(heads, batch, gates // 4)
    outputs = []
    for step in raw:
        i, f, z, o = (step + y @ recurrent).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.exp(i) * torch.tanh(z)
        n = torch.sigmoid(f) * n + torch.exp(i)
        y = torch.sigmoid(o) * c / n
        outputs.append(y)
    return torch.stack(outputs)


def stepped(raw: Tensor, recurrent: Tensor) -> Tensor:
    memory = slstm.initial_state(raw.shape[1], raw.shape[2], raw.shape[3] // 4, raw)
    outputs = []
    for step in raw:
        memory = slstm.step(step, recurrent, memory)
        outputs.append(memory[0])
    return torch.stack(outputs)


def test_forward_and_backward_are_those_of_the_equations() -> None:
    raw, recurrent = tensors()
    weights = torch.randn((*raw.shape[:-1], 5), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found, _ = slstm.sequence(raw, recurrent)
    got = torch.autograd.grad((found * weights).sum(), (raw, recurrent))
    for other in (plain, stepped):
        expected = other(raw, recurrent)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)
        wanted = torch.autograd.grad((expected * weights).sum(), (raw, recurrent))
        for gradient, reference in zip(got, wanted, strict=True):
            torch.testing.assert_close(gradient, reference, rtol=1e-8, atol=1e-10)


def test_a_memory_goes_on_where_it_stopped_with_its_gradient() -> None:
    raw, recurrent = tensors()
    whole, end = slstm.sequence(raw, recurrent)
    first, memory = slstm.sequence(raw[:9], recurrent)
    second, last = slstm.sequence(raw[9:], recurrent, memory)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    for found, expected in zip(last, end, strict=True):
        torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad(whole.square().sum(), (raw, recurrent))
    got = torch.autograd.grad(first.square().sum() + second.square().sum(), (raw, recurrent))
    for gradient, reference in zip(got, wanted, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-8, atol=1e-10)


def test_large_gates_stay_finite_in_single_precision() -> None:
    raw, recurrent = (x.detach().float() for x in tensors())
    assert torch.isfinite(slstm.sequence(raw * 100, recurrent)[0]).all()
    assert F.mse_loss(slstm.sequence(raw, recurrent)[0].double(), plain(raw.double(), recurrent.double())) < 1e-10
