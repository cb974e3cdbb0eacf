"""Attention: the own path on a CPU is torch's own, and each layer is its formula written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segue.models.parts.attention import AttentionBlock, CausalBlock, at
from segue.models.parts.causal import causal_attention, open_attention
from segue.models.parts.ligr import LiGRBlock

LENGTHS = torch.tensor([5, 1, 9])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def attended(block: AttentionBlock, x_LD: Tensor, position: int, seen: int) -> Tensor:
    """What one position gathers from the first ``seen`` ones, head by head."""
    width = x_LD.shape[-1] // block.heads
    key_LD, value_LD = block.key_value(x_LD[:seen]).chunk(2, -1)
    query_D = block.query(x_LD[position])
    heads = []
    for head in range(block.heads):
        cut = slice(head * width, (head + 1) * width)
        weights = torch.softmax(key_LD[:, cut] @ query_D[cut] / width**0.5, 0)
        heads.append(weights @ value_LD[:, cut])
    return block.out(torch.cat(heads))


@pytest.mark.parametrize("questions", [9, 3])
def test_attention_over_lengths_is_torchs_with_a_mask(questions: int) -> None:
    seen = (torch.arange(9) < LENGTHS[:, None])[:, None, None]
    found, expected = ([normal(3, 2, n, 4, seed=n).requires_grad_() for n in (questions, 9, 9)] for _ in range(2))
    weight = normal(3, 2, questions, 4, seed=4)
    # a share that drops next to nothing: the own path is taken, and differs by its rounding to sixteen bits
    own = open_attention(*found, 1e-9, LENGTHS)
    (own * weight).sum().backward()
    theirs = F.scaled_dot_product_attention(*expected, attn_mask=seen)
    (theirs * weight).sum().backward()
    torch.testing.assert_close(own, theirs, rtol=1e-3, atol=1e-4)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(open_attention(*expected, 0.0, LENGTHS), theirs)


def test_the_gradient_of_attention_with_dropout_is_exact() -> None:
    def mixed(causal: bool, *x: Tensor) -> Tensor:
        torch.manual_seed(3)  # the same mask in every evaluation
        return causal_attention(*x, 0.3) if causal else open_attention(*x, 0.3, torch.tensor([4, 2]))

    x = [normal(2, 1, 4, 3, seed=n).double().requires_grad_() for n in range(3)]
    assert torch.autograd.gradcheck(lambda *x: mixed(True, *x), x)
    assert torch.autograd.gradcheck(lambda *x: mixed(False, *x), x)


def test_a_block_sees_what_came_before_or_all_there_is() -> None:
    block = CausalBlock(8, 2, 2.0, 0.0)
    x_BLD = normal(3, 9, 8)
    for lengths in (None, LENGTHS):
        found = block(x_BLD, None, lengths)
        for row, length in enumerate(LENGTHS.tolist()):
            normed_LD = block.norm_attention(x_BLD[row])
            for position in range(length):
                seen = position + 1 if lengths is None else length
                x_D = x_BLD[row, position] + attended(block, normed_LD, position, seen)
                x_D = x_D + block.down(F.relu(block.up(block.norm_feed(x_D))))
                torch.testing.assert_close(found[row, position], x_D, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(block(x_BLD, LENGTHS - 1, lengths), at(found, LENGTHS - 1))


def test_a_ligr_block_is_its_formula() -> None:
    block = LiGRBlock(8, 2, 3.0, 0.0)
    x_BLD = normal(3, 9, 8)
    found = block(x_BLD)
    opened, linear = block.up.weight.chunk(2)
    for row in range(3):
        normed_LD = block.norm_attention(x_BLD[row])
        for position in range(9):
            x_D = x_BLD[row, position]
            gate = torch.sigmoid(block.gate_attention(x_D))
            x_D = x_D + attended(block, normed_LD, position, position + 1) * gate
            normed_D = block.norm_feed(x_D)
            fed = block.down.weight @ (F.silu(opened @ normed_D) * (linear @ normed_D))
            x_D = x_D + fed * torch.sigmoid(block.gate_feed(x_D))
            torch.testing.assert_close(found[row, position], x_D, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(block(x_BLD, LENGTHS - 1), at(found, LENGTHS - 1))
