"""All forms of the mLSTM equal the formula of the paper, forward and backward."""

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
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    vectors = [randn(batch, heads, length, width).requires_grad_() for _ in range(3)]
    return (*vectors, *((randn(batch, heads, length) * gates).requires_grad_() for _ in range(2)))


def parallel_by_definition(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    """Compute the parallel form as in the paper (arXiv:2405.04517, eqs. 64-71)."""
    length = q.shape[2]
    total = F.logsigmoid(f).cumsum(-1)
    logs = total[..., :, None] - total[..., None, :] + i[..., None, :]
    logs = logs.masked_fill(~torch.ones(length, length, dtype=torch.bool).tril(), -math.inf)
    m = logs.amax(-1, keepdim=True)
    scores = q @ k.mT / math.sqrt(q.shape[-1]) * torch.exp(logs - m)
    norm = torch.maximum(scores.sum(-1, keepdim=True).abs(), torch.exp(-m)) + mlstm.EPSILON
    return scores @ v / norm


def stepwise(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    state = mlstm.initial_state(len(q), q.shape[1], q.shape[-1], q)
    outputs = []
    for t in range(q.shape[2]):
        h, state = mlstm.step(q[:, :, t], k[:, :, t], v[:, :, t], i[:, :, t], f[:, :, t], state)
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
def test_every_form_matches_the_paper_forward_and_backward(form: str, gates: float) -> None:
    given_inputs = inputs(2, 3, 37, 8, seed=1, gates=gates)
    weights = torch.randn(2, 3, 37, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected, actual = parallel_by_definition(*given_inputs), FORMS[form](*given_inputs)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), given_inputs)
    gradients = torch.autograd.grad((actual * weights).sum(), given_inputs)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-8)


@given(length=st.integers(1, 40), chunk=st.integers(1, 20), cut=st.integers(0, 40), seed=st.integers(0, 1000))
def test_chunkwise_continues_from_its_state(length: int, chunk: int, cut: int, seed: int) -> None:
    given_inputs = [x.detach() for x in inputs(1, 2, length, 4, seed)]
    whole, end_state = mlstm.chunkwise(*given_inputs, chunk=chunk)
    cut = min(cut, length - 1)
    outputs, state = [], None
    for part in (slice(0, cut), slice(cut, length)):
        if part.start < part.stop:
            output, state = mlstm.chunkwise(*(x[:, :, part] for x in given_inputs), chunk=chunk, state=state)
            outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, 2), whole, rtol=1e-9, atol=1e-10)
    assert state is not None
    for actual, expected in zip(state, end_state, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10)


def test_final_output_equals_the_parallel_form() -> None:
    q, k, v, i, f = (x.detach() for x in inputs(3, 2, 21, 4, seed=4))
    last = torch.tensor([0, 7, 20])
    rows = torch.arange(3)
    expected = mlstm.parallel(q, k, v, i, f)[rows, :, last]
    actual = mlstm.final_output(q[rows, :, last], k, v, i, f, last)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10)


def test_large_gates_stay_finite_in_single_precision() -> None:
    q, k, v, i, f = (x.detach().float() for x in inputs(1, 1, 50, 4, seed=5))
    for form in FORMS.values():
        assert torch.isfinite(form(q, k, v, i * 40, f * 40)).all()


def test_soft_cap_bounds_large_and_preserves_small_values() -> None:
    x = torch.tensor([-1e4, -0.1, 0.0, 0.1, 1e4])
    capped = mlstm.soft_cap(x, 15.0)
    assert capped.abs().max() <= 15.0
    torch.testing.assert_close(capped[1:4], x[1:4], rtol=1e-4, atol=0.0)


def test_chunkwise_is_linear_and_parallel_is_quadratic_in_length() -> None:
    """Count the floating-point operations of matrix products instead of measuring time."""
    from torch.utils.flop_counter import FlopCounterMode

    def flops(form: str, length: int) -> int:
        tensors = [x.detach().float() for x in inputs(1, 1, length, 16, seed=0)]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            mlstm.chunkwise(*tensors, chunk=32) if form == "chunkwise" else parallel_by_definition(*tensors)
        return counter.get_total_flops()

    assert flops("chunkwise", 1024) == 4 * flops("chunkwise", 256)
    assert flops("parallel", 1024) == 16 * flops("parallel", 256)
