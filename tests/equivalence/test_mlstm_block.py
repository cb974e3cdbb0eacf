"""Compare the mLSTM block and its manual backward pass with its definition (arXiv:2405.04517, figure 10)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segue.nn.xlstm import mlstm
from segue.nn.xlstm.blocks import MLSTMBlock

WIDTH, HEADS = 12, 3


def build_block(kernel: int, soft_cap: float, form: str, noise: float = 0.3) -> MLSTMBlock:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = MLSTMBlock(WIDTH, HEADS, 2, kernel, 4, 2.0, soft_cap, 0.0, form, 8).double()  # type: ignore[arg-type]
        with torch.no_grad():
            for parameter in block.parameters():
                parameter.add_(torch.randn_like(parameter) * noise)
    return block


def block_by_definition(block: MLSTMBlock, x_BLD: Tensor) -> Tensor:
    """Compute the block step by step with torch's convolution and automatic differentiation."""
    up, gate = block.up(block.norm(x_BLD)).chunk(2, -1)
    kernel_weight = block.convolution.weight
    convolved = F.silu(
        F.conv1d(
            F.pad(up.mT, (kernel_weight.shape[-1] - 1, 0)), kernel_weight, block.convolution.bias, groups=up.shape[-1]
        ).mT
    )

    def block_diagonal(y: Tensor, weight: Tensor) -> Tensor:
        return torch.einsum("blni,nio->blno", y.unflatten(-1, weight.shape[:2]), weight).flatten(-2)

    block_size = block.value.shape[1]
    q, k = (block_diagonal(convolved, weight) for weight in block.query_key.split(block_size, -1))
    v = block_diagonal(up, block.value)
    gates = block.gates(torch.cat([q, k, v], -1)).mT
    i, f = (mlstm.soft_cap(gates, block.soft_cap) if block.soft_cap else gates).chunk(2, 1)
    split = [y.unflatten(-1, (HEADS, -1)).transpose(1, 2) for y in (q, k, v)]
    state = mlstm.initial_state(len(x_BLD), HEADS, split[0].shape[-1], x_BLD)
    outputs = []
    for t in range(x_BLD.shape[1]):
        q_t, k_t, v_t, i_t, f_t = (y[:, :, t] for y in (*split, i, f))
        h, state = mlstm.step(q_t, k_t, v_t, i_t, f_t, state)
        outputs.append(h)
    h_BLHP = torch.stack(outputs, 1)
    normed = F.layer_norm(h_BLHP, h_BLHP.shape[-1:]).flatten(-2) * block.head_norm.weight
    out: Tensor = x_BLD + block.down((normed + block.skip * convolved) * F.silu(gate))
    return out


@pytest.mark.parametrize("form", ["parallel", "chunkwise"])
@pytest.mark.parametrize(("length", "kernel", "soft_cap"), [(1, 4, 15.0), (3, 4, 15.0), (21, 4, 0.0), (21, 1, 15.0)])
def test_output_and_all_gradients_match_the_definition(length: int, kernel: int, soft_cap: float, form: str) -> None:
    block = build_block(kernel, soft_cap, form)
    generator = torch.Generator().manual_seed(1)
    x_BLD = torch.randn(3, length, WIDTH, generator=generator, dtype=torch.float64).requires_grad_()
    actual, expected = block(x_BLD), block_by_definition(block, x_BLD)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10)
    weights = torch.randn(actual.shape, generator=generator, dtype=torch.float64)
    inputs = {"x": x_BLD, **dict(block.named_parameters())}
    gradients = torch.autograd.grad((actual * weights).sum(), list(inputs.values()))
    expected_gradients = torch.autograd.grad((expected * weights).sum(), list(inputs.values()))
    for name, gradient, expected_gradient in zip(inputs, gradients, expected_gradients, strict=True):
        torch.testing.assert_close(
            gradient, expected_gradient, rtol=1e-6, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("form", ["parallel", "chunkwise"])
def test_bfloat16_is_close_to_float32(form: str) -> None:
    # near the initialization: large queries make the sign of sums close to zero numerically unstable
    block = build_block(4, 15.0, form, noise=0.05).float()
    x_BLD = torch.randn(3, 21, WIDTH, generator=torch.Generator().manual_seed(1)).requires_grad_()
    expected = block(x_BLD)
    with torch.autocast("cpu", torch.bfloat16):
        autocast_output = block(x_BLD)
    assert (autocast_output - expected).norm() <= 0.05 * expected.norm()
    expected_gradients, gradients = (
        torch.autograd.grad(y.square().sum(), list(block.parameters())) for y in (expected, autocast_output)
    )
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert (gradient - expected_gradient).norm() <= 0.2 * expected_gradient.norm()
        assert gradient.dtype == torch.float32


def test_fast_forgetting_saves_no_denormal_numbers() -> None:
    """Denormal numbers do not change the result and make matrix products many times slower."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, 200, 8, generator=generator) for _ in range(3))
    i, f = torch.zeros(1, 1, 200), torch.full((1, 1, 200), -0.2)
    saved = []

    def pack(x: Tensor) -> Tensor:
        saved.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        mlstm.parallel(q.requires_grad_(), k, v, i, f)
    smallest_normal = torch.finfo(torch.float32).tiny
    assert sum(x.numel() for x in saved) > 200 * 100
    assert not any(((x != 0) & (x.abs() < smallest_normal)).any() for x in saved if x.is_floating_point())
