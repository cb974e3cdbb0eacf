"""Compare the interface to ``mlstm_kernels`` with Segue, using the package's native kernels, which run everywhere."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from segue.core.types import DataSchema, Events, Queries
from segue.models.sequential.xlstm import XLSTM
from segue.nn.xlstm import mlstm
from segue.nn.xlstm.blocks import MLSTMBlock
from segue.nn.xlstm.triton_kernels import DEFAULT_KERNELS, Kernels, _unavailable_reason

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    kernels = pytest.importorskip("mlstm_kernels.torch", reason="mlstm_kernels is not installed: make crosscheck")

pytestmark = pytest.mark.filterwarnings("default")

NATIVE = Kernels("chunkwise--native_autograd", "native_sequence__native", "native", chunk=16)
"""The ``native`` step kernel is Segue's implementation."""
PARALLEL = Kernels("parallel--native_autograd", "native", "native", chunk=16)


def inputs(length: int, seed: int = 0) -> list[Tensor]:
    make = torch.Generator().manual_seed(seed)
    qkv = [torch.randn(2, 3, length, 8, generator=make, dtype=torch.float64) for _ in range(3)]
    i, f = (torch.randn(2, 3, length, generator=make, dtype=torch.float64) for _ in range(2))
    return [x.requires_grad_() for x in (*qkv, i, f + 3.0)]


@pytest.mark.parametrize("chosen", [NATIVE, PARALLEL], ids=["chunkwise", "parallel"])
@pytest.mark.parametrize("length", [1, 16, 37])
def test_sequences_and_gradients_of_any_length(chosen: Kernels, length: int) -> None:
    arguments = inputs(length)
    heads = chosen.run_chunkwise(*arguments)
    assert heads is not None
    expected = mlstm.parallel_heads(*arguments)
    weights = torch.randn(2, length, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for actual, expected_head in zip(heads, expected, strict=True):
        torch.testing.assert_close(actual, expected_head, rtol=1e-5, atol=1e-6)
    gradients, expected_gradients = (
        torch.autograd.grad(sum((h * weights).sum() for h in out), arguments)  # type: ignore[arg-type]
        for out in (heads, expected)
    )
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [1, 5, 40])
def test_continuing_from_empty_and_nonempty_states(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """States may have different stabilizers but represent the same memory and give the same outputs."""
    native_state = package_state = mlstm.initial_state(2, 3, 8, torch.zeros(1, dtype=torch.float64))
    for seed in (1, 2):
        arguments = [x.detach() for x in inputs(length, seed)]
        actual = NATIVE.run_sequence(*arguments, package_state)
        assert actual is not None
        expected, native_state = mlstm.chunkwise_heads(*arguments, 16, native_state)
        heads, package_state = actual
        for h, expected_head in zip(heads, expected, strict=True):
            torch.testing.assert_close(h, expected_head, rtol=1e-5, atol=1e-6)
        step_arguments = [x[:, :, 0] for x in arguments]
        with monkeypatch.context() as patch:
            patch.setattr(Kernels, "_select", lambda *_: "native")
            step_output = NATIVE.run_step(*step_arguments, package_state)
        assert step_output is not None
        expected, native_state = mlstm.step_heads(*step_arguments, native_state)
        heads, package_state = step_output
        for h, expected_head in zip(heads, expected, strict=True):
            torch.testing.assert_close(h, expected_head, rtol=1e-5, atol=1e-6)


def test_blocks_are_equal_with_either_kernel() -> None:
    torch.manual_seed(0)
    native_block = MLSTMBlock(16, 2, 2, 4, 4, 2.0, 15.0, 0.0, "auto", 16).double()
    other = MLSTMBlock(16, 2, 2, 4, 4, 2.0, 15.0, 0.0, "auto", 16, NATIVE).double()
    with torch.no_grad():
        for parameter in native_block.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    other.load_state_dict(native_block.state_dict())
    x_BLD = torch.randn(2, 23, 16, dtype=torch.float64)
    torch.testing.assert_close(other(x_BLD), native_block(x_BLD), rtol=1e-5, atol=1e-6)
    lengths_B = torch.tensor([23, 9])
    states = [block.initial_state(2) for block in (native_block, other)]
    for part, lengths in ((x_BLD, lengths_B), (x_BLD[:, :1], torch.tensor([1, 1]))):
        outputs = []
        for index, block in enumerate((native_block, other)):
            out, states[index] = block.advance(part, lengths, states[index])
            outputs.append(out)
        for row, length in enumerate(lengths.tolist()):
            torch.testing.assert_close(outputs[1][row, :length], outputs[0][row, :length], rtol=1e-5, atol=1e-6)


def test_states_are_interchangeable_between_kernels() -> None:
    torch.manual_seed(0)
    model = XLSTM(XLSTM.Config(embedding_dim=16, slstm_at=()), DataSchema(1, 9)).eval()
    history = Events.of([np.arange(30) % 9])
    state = model.state(Queries.anonymous(history))
    for block in model.blocks:
        block.kernels = NATIVE
    np.testing.assert_allclose(
        model.encode_state(state), model.encode(Queries.anonymous(history)), rtol=1e-3, atol=1e-4
    )


def test_kernel_names_exist_in_the_package() -> None:
    assert _unavailable_reason("chunkwise", "chunkwise--native_autograd", "cpu") is None
    assert "is not among" in (_unavailable_reason("chunkwise", "chunkwise--native", "cpu") or "")
    for kind, name in DEFAULT_KERNELS.items():
        assert "CUDA" in (_unavailable_reason(kind, name, "cpu") or "")
