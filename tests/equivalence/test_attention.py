"""Attention: the own path on a CPU is torch's own, and each layer is its formula written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segue.core.batches import Sequences
from segue.core.registry import model_class
from segue.core.types import DataSchema
from segue.models.sequential.bert4rec import BertBlock
from segue.models.sequential.esasrec import LiGRBlock
from segue.nn.layers.attention import AttentionBlock, TransformerBlock
from segue.nn.layers.attention_kernels import causal_attention, length_masked_attention
from segue.nn.sequence_model import SequenceModel
from segue.nn.target_positions import TargetPositions

LENGTHS = torch.tensor([5, 1, 9])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def attended(block: AttentionBlock, x_LD: Tensor, position: int, seen: int) -> Tensor:
    """What one position gathers from the first ``seen`` ones, head by head."""
    width = x_LD.shape[-1] // block.num_heads
    key_LD, value_LD = block.key_value(x_LD[:seen]).chunk(2, -1)
    query_D = block.query(x_LD[position])
    heads = []
    for head in range(block.num_heads):
        cut = slice(head * width, (head + 1) * width)
        weights = torch.softmax(key_LD[:, cut] @ query_D[cut] / width**0.5, 0)
        heads.append(weights @ value_LD[:, cut])
    return block.out(torch.cat(heads))


def asked_positions_are_those_of_all(block: torch.nn.Module, x_BLD: Tensor, *more: Tensor | None) -> None:
    all_BLD = block(x_BLD, None, *more)
    last = TargetPositions.last(LENGTHS - 1)
    torch.testing.assert_close(block(x_BLD, last, *more), last.select(all_BLD))
    positions_M = torch.tensor([0, 3, 4, 9, 18, 20, 26])  # 3, 1 and 3 of the 9 positions of each sequence
    torch.testing.assert_close(
        block(x_BLD, TargetPositions.from_flat(positions_M, 3, 9), *more),
        all_BLD.flatten(0, 1)[positions_M],
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("questions", [9, 3])
def test_attention_over_lengths_is_torchs_with_a_mask(questions: int) -> None:
    seen = (torch.arange(9) < LENGTHS[:, None])[:, None, None]
    found, expected = ([normal(3, 2, n, 4, seed=n).requires_grad_() for n in (questions, 9, 9)] for _ in range(2))
    weight = normal(3, 2, questions, 4, seed=4)
    # a share that drops next to nothing: the own path is taken, and differs by its rounding to sixteen bits
    own = length_masked_attention(*found, 1e-9, LENGTHS)
    (own * weight).sum().backward()
    theirs = F.scaled_dot_product_attention(*expected, attn_mask=seen)
    (theirs * weight).sum().backward()
    torch.testing.assert_close(own, theirs, rtol=1e-3, atol=1e-4)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(length_masked_attention(*expected, 0.0, LENGTHS), theirs)


def test_the_gradient_of_attention_with_dropout_is_exact() -> None:
    def mixed(causal: bool, *x: Tensor) -> Tensor:
        torch.manual_seed(3)  # the same mask in every evaluation
        return causal_attention(*x, 0.3) if causal else length_masked_attention(*x, 0.3, torch.tensor([4, 2]))

    x = [normal(2, 1, 4, 3, seed=n).double().requires_grad_() for n in range(3)]
    assert torch.autograd.gradcheck(lambda *x: mixed(True, *x), x)
    assert torch.autograd.gradcheck(lambda *x: mixed(False, *x), x)


def test_a_block_sees_what_came_before_or_all_there_is() -> None:
    block = TransformerBlock(8, 2, 2.0, 0.0)
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
        asked_positions_are_those_of_all(block, x_BLD, lengths)


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
    asked_positions_are_those_of_all(block, x_BLD)


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_bert_block_is_torchs_encoder_layer(norm_first: bool) -> None:
    block = BertBlock(8, 2, 4.0, 0.0, norm_first)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 32, 0.0, "gelu", batch_first=True, norm_first=norm_first)
    names = {"out": layer.self_attn.out_proj, "up": layer.linear1, "down": layer.linear2}
    names |= {"norm_attention": layer.norm1, "norm_feed": layer.norm2}
    for name, part in names.items():
        part.load_state_dict(getattr(block, name).state_dict())
    with torch.no_grad():
        layer.self_attn.in_proj_weight.copy_(torch.cat([block.query.weight, block.key_value.weight]))
        layer.self_attn.in_proj_bias.copy_(torch.cat([block.query.bias, block.key_value.bias]))
    x_BLD = normal(3, 9, 8)
    beyond = torch.arange(9) >= LENGTHS[:, None]
    found, expected = block(x_BLD, None, LENGTHS), layer(x_BLD, src_key_padding_mask=beyond)
    torch.testing.assert_close(found[~beyond], expected[~beyond], rtol=1e-4, atol=1e-5)
    asked_positions_are_those_of_all(block, x_BLD, LENGTHS)


@pytest.mark.parametrize("key", ["sasrec", "bert4rec", "esasrec"])
def test_a_cloze_is_answered_from_both_sides_and_never_from_padding(key: str) -> None:
    kind = model_class(key)
    model = kind(
        kind.Config(objective="cloze", embedding_dim=8, max_length=9, dropout=0.0), DataSchema(n_users=1, n_items=20)
    )
    assert isinstance(model, SequenceModel)

    def first(items_BL: Tensor) -> Tensor:
        read = Sequences(items_BL, LENGTHS, torch.full((3,), -1))
        return model.encode_sequence(model.embed(read), read)[:, 0]

    items_BL = torch.randint(20, (3, 9), generator=torch.Generator().manual_seed(0))
    items_BL[:, 0] = 21  # hidden
    padded, changed = items_BL.clone(), items_BL.clone()
    padded[torch.arange(9) >= LENGTHS[:, None]] = 7
    torch.testing.assert_close(first(padded), first(items_BL))
    changed[torch.arange(3), LENGTHS - 1] = 8
    assert ((first(changed) - first(items_BL)).abs().amax(1) > 1e-4).all()
