"""Compare the xLSTM cells with the packages ``xlstm`` and ``mlstm_kernels``, forward and backward.

Run by ``make crosscheck`` in an environment with both packages; otherwise these tests are skipped. The packages add
their epsilon after the stabilizer, as Segue does, but initialize the stabilizer with 0, and Segue with minus infinity:
outputs agree to about epsilon relative to the normalizer, not to the last bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from segue.nn.xlstm import mlstm, slstm

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    kernels = pytest.importorskip("mlstm_kernels.torch", reason="mlstm_kernels is not installed: make crosscheck")
    cells = pytest.importorskip("xlstm.blocks.slstm.cell", reason="xlstm is not installed: make crosscheck")
    backends = pytest.importorskip("xlstm.blocks.mlstm.backends")
    large = pytest.importorskip("xlstm.xlstm_large.components")

pytestmark = pytest.mark.filterwarnings("default")

Function = Callable[..., Tensor]
TOLERANCE = {torch.float32: 5e-4, torch.float64: 1e-6}


def inputs(length: int, gates: float, dtype: torch.dtype, heads: int = 3, width: int = 16) -> list[Tensor]:
    """Return q, k, v, i, f; ``gates`` scales the gates, and forget gates are mostly open, as initialized."""
    make = torch.Generator().manual_seed(length)
    qkv = [torch.randn(2, heads, length, width, generator=make, dtype=torch.float64) for _ in range(3)]
    i, f = (gates * torch.randn(2, heads, length, generator=make, dtype=torch.float64) for _ in range(2))
    return [x.to(dtype) for x in (*qkv, i, f + 3.0)]


def forward_and_backward(function: Function, arguments: list[Tensor]) -> list[Tensor]:
    """Return the output and the gradients of a fixed random projection of it."""
    leaves = [x.clone().requires_grad_() for x in arguments]
    out = function(*leaves)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), leaves)]


def assert_equal(ours: list[Tensor], theirs: list[Tensor], names: str, tolerance: float) -> None:
    for name, a, b in zip(names.split(), ours, theirs, strict=True):
        error = (a.double() - b.double()).abs().max() / b.double().abs().max()
        assert error < tolerance, f"{name}: relative error {error:.1e}"


def recurrent(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    """Apply Segue's step to all positions."""
    memory = mlstm.initial_state(q.shape[0], q.shape[1], q.shape[3], q)
    outputs = []
    for t in range(q.shape[2]):
        h, memory = mlstm.step(q[:, :, t], k[:, :, t], v[:, :, t], i[:, :, t], f[:, :, t], memory)
        outputs.append(h)
    return torch.stack(outputs, 2)


OURS: dict[str, Function] = {
    "parallel": mlstm.parallel,
    "chunkwise": lambda *x: mlstm.chunkwise(*x, chunk=32)[0],
    "step": recurrent,
}
THEIRS: dict[str, Function] = {
    "parallel": lambda *x: kernels.get_mlstm_kernel("parallel--native_autograd")(*x),
    "chunkwise": lambda *x: kernels.get_mlstm_kernel("chunkwise--native_autograd")(*x, chunk_size=64),
    "step": lambda *x: kernels.get_mlstm_sequence_kernel("native_sequence__native")(*x, dtype_state=x[0].dtype),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("gates", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("theirs", THEIRS)
@pytest.mark.parametrize("ours", OURS)
def test_mlstm_forms_equal_the_native_kernels(ours: str, theirs: str, gates: float, dtype: torch.dtype) -> None:
    arguments = inputs(128, gates, dtype)
    expected = forward_and_backward(THEIRS[theirs], arguments)
    assert_equal(forward_and_backward(OURS[ours], arguments), expected, "h dq dk dv di df", TOLERANCE[dtype])


@pytest.mark.parametrize("length", [1, 2, 33, 200])
@pytest.mark.parametrize("ours", OURS)
def test_mlstm_at_lengths_that_no_chunk_divides(ours: str, length: int) -> None:
    arguments = inputs(length, 1.0, torch.float64)
    expected = forward_and_backward(THEIRS["parallel"], arguments)
    actual = forward_and_backward(OURS[ours], arguments)
    assert_equal(actual[:5], expected[:5], "h dq dk dv di", 1e-6)
    torch.testing.assert_close(actual[5], expected[5], rtol=1e-6, atol=1e-6)


def test_mlstm_memory_is_the_kernels_state() -> None:
    arguments = inputs(64, 1.0, torch.float64)
    _, (C, n, m) = mlstm.chunkwise(*arguments, chunk=16)
    kernel = kernels.get_mlstm_sequence_kernel("native_sequence__native")
    _, theirs = kernel(*arguments, return_last_states=True, dtype_state=torch.float64)
    scale = torch.exp(m - theirs[2][..., 0])
    torch.testing.assert_close(C * scale[..., None, None], theirs[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(n * scale[..., None], theirs[1], rtol=1e-9, atol=1e-12)


def test_mlstm_equals_the_cell_of_the_first_package() -> None:
    arguments = inputs(50, 1.0, torch.float64)

    def cell(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
        return backends.parallel_stabilized_simple(q, k, v, i[..., None], f[..., None])

    assert_equal(
        forward_and_backward(mlstm.parallel, arguments), forward_and_backward(cell, arguments), "h dq dk dv di df", 1e-9
    )


def test_soft_cap() -> None:
    x = torch.linspace(-60, 60, 101)
    torch.testing.assert_close(mlstm.soft_cap(x, 15.0), large.soft_cap(x, 15.0))


HEADS, WIDTH, BATCH, LENGTH = 2, 8, 3, 40


def slstm_cell(dtype: torch.dtype) -> tuple[torch.nn.Module, Tensor]:
    """Return the package's cell with random weights and biases, and gate inputs ``(B, L, 4 H D)``."""
    torch.manual_seed(0)
    config = cells.sLSTMCellConfig(hidden_size=HEADS * WIDTH, num_heads=HEADS, backend="vanilla", dtype="float32")
    cell = cells.sLSTMCell(config)
    for parameter in cell.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    make = torch.Generator().manual_seed(2)
    x = torch.randn(BATCH, LENGTH, 4 * HEADS * WIDTH, generator=make, dtype=torch.float64)
    return cell.to(dtype), (1.5 * x).to(dtype)


def our_slstm(x_BLX: Tensor, R: Tensor, bias: Tensor) -> Tensor:
    """Apply Segue's recurrence to the package's layout: gates i, f, z, o, then heads, then width."""
    gates = (x_BLX + bias).view(BATCH, LENGTH, 4, HEADS, WIDTH)
    input_LHBG = gates.permute(1, 3, 0, 2, 4).reshape(LENGTH, HEADS, BATCH, 4 * WIDTH)
    y_LHBD, _ = slstm.sequence(input_LHBG, R.transpose(1, 2))
    return y_LHBD.permute(2, 1, 0, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_slstm_equals_the_vanilla_cell(dtype: torch.dtype) -> None:
    cell, x = slstm_cell(dtype)
    weights = [cell._recurrent_kernel_.detach(), cell._bias_.detach()]

    def theirs(x: Tensor, R: Tensor, bias: Tensor) -> Tensor:
        arguments = {"_recurrent_kernel_": R, "_bias_": bias}
        return torch.func.functional_call(cell, arguments, (x,))[0]

    tolerance = {torch.float32: 1e-4, torch.float64: 1e-9}[dtype]
    ours = forward_and_backward(our_slstm, [x, *weights])
    assert_equal(ours, forward_and_backward(theirs, [x, *weights]), "y dx dR dbias", tolerance)


def test_slstm_steps_equal_the_vanilla_cell() -> None:
    cell, x = slstm_cell(torch.float64)
    expected = cell(x)[0]
    gates = (x + cell._bias_).view(BATCH, LENGTH, 4, HEADS, WIDTH).permute(1, 3, 0, 2, 4)
    memory = slstm.initial_state(HEADS, BATCH, WIDTH, x)
    for t in range(LENGTH):
        memory = slstm.step(gates[t].reshape(HEADS, BATCH, -1), cell._recurrent_kernel_.transpose(1, 2), memory)
        torch.testing.assert_close(memory[0].permute(1, 0, 2), expected[:, :, t], rtol=1e-9, atol=1e-12)
