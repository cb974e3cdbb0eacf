"""Compare dilated convolutions with their formula, and last positions with the full output."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segue.core.batches import Sequences
from segue.core.types import DataSchema
from segue.models.sequential.nextitnet import NextItNet
from segue.nn.layers.dilated_convolution import DilatedConvolution, DilatedStack


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("kernel", "dilation"), [(2, 1), (3, 1), (3, 4), (3, 20)])
def test_convolution_matches_its_formula(kernel: int, dilation: int) -> None:
    torch.manual_seed(0)
    layer = DilatedConvolution(6, kernel, dilation).double()
    x_BLD = randn(2, 15, 6)
    expected = layer.taps.bias.expand(2, 15, 6).clone()
    for t in range(15):
        for tap in range(kernel):
            position = t - (kernel - 1 - tap) * dilation
            if position >= 0:
                expected[:, t] += x_BLD[:, position] @ layer.taps.weight[:, :, tap].t()
    torch.testing.assert_close(layer(x_BLD), F.relu(layer.norm(expected)))


@pytest.mark.parametrize("dilations", [(1, 2), (1, 2, 4, 8), (3, 1, 2, 7, 1, 1)])
def test_last_positions_equal_the_full_output(dilations: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    stack = DilatedStack(6, 3, dilations, 0.0).double()
    for convolution in stack.convolutions:
        torch.nn.init.normal_(convolution.norm.bias)  # type: ignore[union-attr, arg-type]
    x_BLD, last_B = randn(5, 40, 6), torch.tensor([0, 1, 7, 25, 39])
    torch.testing.assert_close(stack(x_BLD, last_B), stack(x_BLD)[torch.arange(5), last_B])


def test_outputs_depend_on_the_receptive_field_only() -> None:
    torch.manual_seed(0)
    model = (
        NextItNet(NextItNet.Config(embedding_dim=8, num_blocks=3, dilations=(1, 4), dropout=0.0), DataSchema(1, 5))
        .double()
        .eval()
    )
    x_BLD = randn(1, 60, 8).requires_grad_()
    sequences = Sequences(torch.zeros(1, 60, dtype=torch.int64), torch.tensor([60]), torch.tensor([-1]))
    (gradient_BLD,) = torch.autograd.grad(
        (model.encode_sequence(x_BLD, sequences)[0, 50] ** 2 * randn(8, seed=1)).sum(), x_BLD
    )
    positions = gradient_BLD[0].abs().sum(-1).nonzero()[:, 0]
    assert model.receptive_field == 1 + 3 * 2 * (1 + 4 + 1)
    assert (positions.min(), positions.max()) == (50 - model.receptive_field + 1, 50)


def test_receptive_field_is_at_most_max_length() -> None:
    assert NextItNet(NextItNet.Config(max_length=10), DataSchema(1, 5)).receptive_field == 10


def test_empty_dilations_are_rejected() -> None:
    with pytest.raises(ValueError, match="dilations"):
        NextItNet.Config(dilations=())
