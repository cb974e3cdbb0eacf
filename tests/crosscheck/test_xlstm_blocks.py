"""Compare xLSTM blocks with those of the package ``xlstm`` for equal weights, forward and backward.

Differences in the package: norm weights are stored minus one, small matrices are stored transposed, and the sLSTM
layer's weights called ``fgate`` feed the input gate and those called ``igate`` the forget gate.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from segue.nn.xlstm.blocks import MLSTMBlock, SLSTMBlock

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    xlstm = pytest.importorskip("xlstm", reason="xlstm is not installed: make crosscheck")

pytestmark = pytest.mark.filterwarnings("default")

WIDTH, HEADS, BLOCKS, LENGTH, BATCH = 32, 2, 2, 37, 3


@pytest.fixture(scope="module")
def stack() -> nn.Module:
    """Build the package's stack of an mLSTM and an sLSTM block with random weights."""
    torch.manual_seed(0)
    config = xlstm.xLSTMBlockStackConfig(
        mlstm_block=xlstm.mLSTMBlockConfig(mlstm=xlstm.mLSTMLayerConfig(num_heads=HEADS)),
        slstm_block=xlstm.sLSTMBlockConfig(
            slstm=xlstm.sLSTMLayerConfig(num_heads=HEADS, backend="vanilla"), feedforward=xlstm.FeedForwardConfig()
        ),
        context_length=LENGTH,
        num_blocks=BLOCKS,
        embedding_dim=WIDTH,
        slstm_at=[1],
    )
    package = xlstm.xLSTMBlockStack(config).double()
    for parameter in package.parameters():
        nn.init.normal_(parameter, std=0.3)
    return package


def mlstm_block(theirs: nn.Module) -> MLSTMBlock:
    """Build Segue's block with the weights of the package's block."""
    ours = MLSTMBlock(WIDTH, HEADS, BLOCKS, 4, 4, 2.0, 0.0, 0.0, "parallel", 16).double()
    layer = theirs.xlstm
    cell = layer.mlstm_cell
    weights = {
        "norm.weight": 1 + theirs.xlstm_norm.weight,
        "up.weight": layer.proj_up.weight,
        "convolution.weight": layer.conv1d.conv.weight,
        "convolution.bias": layer.conv1d.conv.bias,
        "query_key": torch.cat([layer.q_proj.weight.mT, layer.k_proj.weight.mT], -1),
        "value": layer.v_proj.weight.mT,
        "gates.weight": torch.cat([cell.igate.weight, cell.fgate.weight]),
        "gates.bias": torch.cat([cell.igate.bias, cell.fgate.bias]),
        "head_norm.weight": 1 + cell.outnorm.weight,
        "skip": layer.learnable_skip,
        "down.weight": layer.proj_down.weight,
    }
    ours.load_state_dict(weights)
    return ours


def slstm_block(theirs: nn.Module) -> SLSTMBlock:
    """Build Segue's block with the weights of the package's block."""
    ours = SLSTMBlock(WIDTH, HEADS, BLOCKS, 1, 4, 1.3, 0.0).double()
    layer = theirs.xlstm
    cell = layer.slstm_cell
    weights = {
        "norm.weight": 1 + theirs.xlstm_norm.weight,
        "convolution.weight": layer.conv1d.conv.weight,
        "convolution.bias": layer.conv1d.conv.bias,
        "input_forget": torch.cat([layer.fgate.weight.mT, layer.igate.weight.mT], -1),
        "input_output": torch.cat([layer.zgate.weight.mT, layer.ogate.weight.mT], -1),
        "recurrent": cell._recurrent_kernel_.mT,
        "bias": cell._bias_.view(4, HEADS, -1).transpose(0, 1).reshape(HEADS, 1, -1),
        "head_norm.weight": 1 + layer.group_norm.weight,
        "norm_feed.weight": 1 + theirs.ffn_norm.weight,
        "up.weight": theirs.ffn.proj_up.weight,
        "down.weight": theirs.ffn.proj_down.weight,
    }
    ours.load_state_dict(weights)
    return ours


def histories() -> Tensor:
    return torch.randn(BATCH, LENGTH, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def output_and_gradient(block: nn.Module) -> tuple[Tensor, Tensor]:
    x_BLD = histories().requires_grad_()
    y_BLD = block(x_BLD)
    weights = torch.randn(y_BLD.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return y_BLD.detach(), torch.autograd.grad((y_BLD * weights).sum(), x_BLD)[0]


@pytest.mark.parametrize("index", [0, 1], ids=["mlstm", "slstm"])
def test_block_equals_the_packages(stack: nn.Module, index: int) -> None:
    theirs = stack.blocks[index]
    ours = (mlstm_block, slstm_block)[index](theirs)
    for actual, expected in zip(output_and_gradient(ours), output_and_gradient(theirs), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("index", [0, 1], ids=["mlstm", "slstm"])
def test_last_positions_equal_the_packages_steps(stack: nn.Module, index: int) -> None:
    """Last positions of histories of any length equal the package's outputs event by event."""
    theirs = stack.blocks[index]
    ours = (mlstm_block, slstm_block)[index](theirs)
    x_BLD = histories()
    last_B = torch.tensor([0, 17, LENGTH - 1])
    outputs, state = [], {}
    with torch.no_grad():
        for t in range(LENGTH):
            y_B1D, state = theirs.step(x_BLD[:, t : t + 1], **state)
            outputs.append(y_B1D[:, 0])
        expected = torch.stack(outputs, 1)[torch.arange(BATCH), last_B]
        torch.testing.assert_close(ours(x_BLD, last_B), expected, rtol=1e-5, atol=1e-6)


def test_stack_equals_the_packages(stack: nn.Module) -> None:
    final = nn.LayerNorm(WIDTH, bias=False).double()
    final.load_state_dict({"weight": 1 + stack.post_blocks_norm.weight})
    ours = nn.Sequential(mlstm_block(stack.blocks[0]), slstm_block(stack.blocks[1]), final)
    for actual, expected in zip(output_and_gradient(ours), output_and_gradient(stack), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_a_fresh_block_starts_as_the_packages_does() -> None:
    """Compare the deterministic biases: mLSTM forget gates from 3 to 6, sLSTM forget gates by a power law."""
    ours = MLSTMBlock(WIDTH, 4, BLOCKS, 4, 4, 2.0, 15.0, 0.0, "auto", 64)
    torch.testing.assert_close(ours.gates.bias[4:], torch.tensor([3.0, 4.0, 5.0, 6.0]))
    config = xlstm.sLSTMLayerConfig(embedding_dim=WIDTH, num_heads=HEADS, backend="vanilla")
    config._block_idx, config._num_blocks = 1, BLOCKS
    theirs = xlstm.sLSTMLayer(config).slstm_cell
    fresh = SLSTMBlock(WIDTH, HEADS, BLOCKS, 1, 4, 1.3, 0.0)
    expected = theirs._bias_.detach().view(4, HEADS, -1).transpose(0, 1).reshape(HEADS, 1, -1)
    torch.testing.assert_close(fresh.bias.detach(), expected)
