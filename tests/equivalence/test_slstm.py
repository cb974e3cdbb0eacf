"""Compare the sLSTM over a sequence with repeated steps, and its manual backward pass with autograd."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.nn.xlstm import slstm


def make_inputs(length: int = 23, heads: int = 2, batch: int = 3, width: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(length, heads, batch, 4 * width, generator=generator, dtype=torch.float64) * 2
    recurrent = torch.randn(heads, width, 4 * width, generator=generator, dtype=torch.float64) * 0.4
    return raw.requires_grad_(), recurrent.requires_grad_()


def outputs_by_definition(raw: Tensor, recurrent: Tensor) -> Tensor:
    """Compute the paper's equations without a stabilizer, in double precision."""
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


def outputs_by_steps(raw: Tensor, recurrent: Tensor) -> Tensor:
    state = slstm.initial_state(raw.shape[1], raw.shape[2], raw.shape[3] // 4, raw)
    outputs = []
    for step in raw:
        state = slstm.step(step, recurrent, state)
        outputs.append(state[0])
    return torch.stack(outputs)


def test_sequence_matches_the_equations_forward_and_backward() -> None:
    raw, recurrent = make_inputs()
    weights = torch.randn((*raw.shape[:-1], 5), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    actual, _ = slstm.sequence(raw, recurrent)
    gradients = torch.autograd.grad((actual * weights).sum(), (raw, recurrent))
    for implementation in (outputs_by_definition, outputs_by_steps):
        expected = implementation(raw, recurrent)
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-11)
        expected_gradients = torch.autograd.grad((expected * weights).sum(), (raw, recurrent))
        for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
            torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=1e-10)


def test_sequence_continues_from_its_state_with_gradients() -> None:
    raw, recurrent = make_inputs()
    expected_output, end_state = slstm.sequence(raw, recurrent)
    first_part, state = slstm.sequence(raw[:9], recurrent)
    second_part, final_state = slstm.sequence(raw[9:], recurrent, state)
    torch.testing.assert_close(torch.cat([first_part, second_part]), expected_output)
    for actual, expected in zip(final_state, end_state, strict=True):
        torch.testing.assert_close(actual, expected)
    expected_gradients = torch.autograd.grad(expected_output.square().sum(), (raw, recurrent))
    gradients = torch.autograd.grad(first_part.square().sum() + second_part.square().sum(), (raw, recurrent))
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=1e-10)


def test_large_gates_stay_finite_in_single_precision() -> None:
    raw, recurrent = (x.detach().float() for x in make_inputs())
    assert torch.isfinite(slstm.sequence(raw * 100, recurrent)[0]).all()
    assert (
        F.mse_loss(slstm.sequence(raw, recurrent)[0].double(), outputs_by_definition(raw.double(), recurrent.double()))
        < 1e-10
    )
