"""Three forms of the mLSTM, and the formula of the paper, are one function, forward and backward."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from segue.nn.xlstm import mlstm

Inputs = tuple[Tensor, ...]


def inputs(batch: int, heads: int, length: int, width: int, seed: int, gates: float = 2.0) -> Inputs:
    make = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=make, dtype=torch.float64)

    vectors = [draw(batch, heads, length, width).requires_grad_() for _ in range(3)]
    return (*vectors, *((draw(batch, heads, length) * gates).requires_grad_() for _ in range(2)))


def paper(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    """The parallel form as the paper writes it (arXiv:2405.04517, eqs. 64-71)."""
    length = q.shape[2]
    total = F.logsigmoid(f).cumsum(-1)
    logs = total[..., :, None] - total[..., None, :] + i[..., None, :]
    logs = logs.masked_fill(~torch.ones(length, length, dtype=torch.bool).tril(), -math.inf)
    m = logs.amax(-1, keepdim=True)
    scores = q @ k.mT / math.sqrt(q.shape[-1]) * torch.exp(logs - m)
    norm = torch.maximum(scores.sum(-1, keepdim=True).abs(), torch.exp(-m)) + mlstm.EPSILON
    return scores @ v / norm


def stepwise(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    memory = mlstm.initial_state(len(q), q.shape[1], q.shape[-1], q)
    outputs = []
    for t in range(q.shape[2]):
        h, memory = mlstm.step(q[:, :, t], k[:, :, t], v[:, :, t], i[:, :, t], f[:, :, t], memory)
        outputs.append(h)
    return torch.stack(outputs, 2)


FORMS = {
    "parallel": mlstm.parallel,
    "chunkwise": lambda *x: mlstm.chunkwise(*x, chunk=8)[0],
    "one chunk": lambda *x: mlstm.chunkwise(*x, chunk=64)[0],
    "stepwise": stepwise,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gates", [0.3, 2.0, 8.0])
def test_every_form_is_the_papers_forward_and_backward(form: str, gates: float) -> None:
    given_inputs = inputs(2, 3, 37, 8, seed=1, gates=gates)
    weights = torch.randn(2, 3, 37, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected, found = paper(*given_inputs), FORMS[form](*given_inputs)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    wanted = torch.autograd.grad((expected * weights).sum(), given_inputs)
    got = torch.autograd.grad((found * weights).sum(), given_inputs)
    for gradient, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-6, atol=1e-8)


@given(length=st.integers(1, 40), chunk=st.integers(1, 20), cut=st.integers(0, 40), seed=st.integers(0, 1000))
def test_a_memory_goes_on_where_it_stopped(length: int, chunk: int, cut: int, seed: int) -> None:
    given_inputs = [x.detach() for x in inputs(1, 2, length, 4, seed)]
    whole, end = mlstm.chunkwise(*given_inputs, chunk=chunk)
    cut = min(cut, length - 1)
    outputs, memory = [], None
    for part in (slice(0, cut), slice(cut, length)):
        if part.start < part.stop:
            out, memory = mlstm.chunkwise(*(x[:, :, part] for x in given_inputs), chunk=chunk, state=memory)
            outputs.append(out)
    torch.testing.assert_close(torch.cat(outputs, 2), whole, rtol=1e-9, atol=1e-10)
    assert memory is not None
    for found, expected in zip(memory, end, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


def test_the_output_at_the_last_positions_alone_is_that_of_the_parallel_form() -> None:
    q, k, v, i, f = (x.detach() for x in inputs(3, 2, 21, 4, seed=4))
    last = torch.tensor([0, 7, 20])
    rows = torch.arange(3)
    expected = mlstm.parallel(q, k, v, i, f)[rows, :, last]
    found = mlstm.final_output(q[rows, :, last], k, v, i, f, last)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


def test_large_gates_stay_finite_in_single_precision() -> None:
    q, k, v, i, f = (x.detach().float() for x in inputs(1, 1, 50, 4, seed=5))
    for form in FORMS.values():
        assert torch.isfinite(form(q, k, v, i * 40, f * 40)).all()


def test_soft_cap_bounds_and_keeps_small_values() -> None:
    x = torch.tensor([-1e4, -0.1, 0.0, 0.1, 1e4])
    capped = mlstm.soft_cap(x, 15.0)
    assert capped.abs().max() <= 15.0
    torch.testing.assert_close(capped[1:4], x[1:4], rtol=1e-4, atol=0.0)


def test_chunkwise_is_linear_in_length_and_parallel_is_not() -> None:
    """Counted, not timed: multiplications of matrices as the profiler's formula counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    def flops(form: str, length: int) -> int:
        tensors = [x.detach().float() for x in inputs(1, 1, length, 16, seed=0)]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            mlstm.chunkwise(*tensors, chunk=32) if form == "chunkwise" else paper(*tensors)
        return counter.get_total_flops()

    assert flops("chunkwise", 1024) == 4 * flops("chunkwise", 256)
    assert flops("parallel", 1024) == 16 * flops("parallel", 256)
