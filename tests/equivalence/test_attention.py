"""Compare attention with torch's implementation, and each block with its formula."""

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


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def attention_output(block: AttentionBlock, x_LD: Tensor, position: int, visible: int) -> Tensor:
    """Compute the attention output of one position over the first ``visible`` positions, head by head."""
    width = x_LD.shape[-1] // block.num_heads
    key_LD, value_LD = block.key_value(x_LD[:visible]).chunk(2, -1)
    query_D = block.query(x_LD[position])
    heads = []
    for head in range(block.num_heads):
        cut = slice(head * width, (head + 1) * width)
        weights = torch.softmax(key_LD[:, cut] @ query_D[cut] / width**0.5, 0)
        heads.append(weights @ value_LD[:, cut])
    return block.out(torch.cat(heads))


def assert_target_positions_match(block: torch.nn.Module, x_BLD: Tensor, *extra_inputs: Tensor | None) -> None:
    all_BLD = block(x_BLD, None, *extra_inputs)
    last = TargetPositions.last(LENGTHS - 1)
    torch.testing.assert_close(block(x_BLD, last, *extra_inputs), last.select(all_BLD))
    positions_M = torch.tensor([0, 3, 4, 9, 18, 20, 26])  # 3, 1 and 3 of the 9 positions of each sequence
    torch.testing.assert_close(
        block(x_BLD, TargetPositions.from_flat(positions_M, 3, 9), *extra_inputs),
        all_BLD.flatten(0, 1)[positions_M],
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("n_queries", [9, 3])
def test_length_masked_attention_matches_torch(n_queries: int) -> None:
    visible = (torch.arange(9) < LENGTHS[:, None])[:, None, None]
    actual, expected = ([randn(3, 2, n, 4, seed=n).requires_grad_() for n in (n_queries, 9, 9)] for _ in range(2))
    weight = randn(3, 2, n_queries, 4, seed=4)
    # a dropout rate close to zero selects our implementation, which rounds the rate to 16 bits
    ours = length_masked_attention(*actual, 1e-9, LENGTHS)
    (ours * weight).sum().backward()
    theirs = F.scaled_dot_product_attention(*expected, attn_mask=visible)
    (theirs * weight).sum().backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    for tensor, reference in zip(actual, expected, strict=True):
        torch.testing.assert_close(tensor.grad, reference.grad, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(length_masked_attention(*expected, 0.0, LENGTHS), theirs)


def test_gradients_of_attention_with_dropout() -> None:
    def attention(causal: bool, *x: Tensor) -> Tensor:
        torch.manual_seed(3)  # same dropout mask in every evaluation
        return causal_attention(*x, 0.3) if causal else length_masked_attention(*x, 0.3, torch.tensor([4, 2]))

    x = [randn(2, 1, 4, 3, seed=n).double().requires_grad_() for n in range(3)]
    assert torch.autograd.gradcheck(lambda *x: attention(True, *x), x)
    assert torch.autograd.gradcheck(lambda *x: attention(False, *x), x)


def test_transformer_block_matches_its_formula_with_causal_and_length_masks() -> None:
    block = TransformerBlock(8, 2, 2.0, 0.0)
    x_BLD = randn(3, 9, 8)
    for lengths in (None, LENGTHS):
        actual = block(x_BLD, None, lengths)
        for row, length in enumerate(LENGTHS.tolist()):
            normed_LD = block.norm_attention(x_BLD[row])
            for position in range(length):
                visible = position + 1 if lengths is None else length
                x_D = x_BLD[row, position] + attention_output(block, normed_LD, position, visible)
                x_D = x_D + block.down(F.relu(block.up(block.norm_feed(x_D))))
                torch.testing.assert_close(actual[row, position], x_D, rtol=1e-4, atol=1e-5)
        assert_target_positions_match(block, x_BLD, lengths)


def test_ligr_block_matches_its_formula() -> None:
    block = LiGRBlock(8, 2, 3.0, 0.0)
    x_BLD = randn(3, 9, 8)
    actual = block(x_BLD)
    gate_weight, linear_weight = block.up.weight.chunk(2)
    for row in range(3):
        normed_LD = block.norm_attention(x_BLD[row])
        for position in range(9):
            x_D = x_BLD[row, position]
            attention_gate = torch.sigmoid(block.gate_attention(x_D))
            x_D = x_D + attention_output(block, normed_LD, position, position + 1) * attention_gate
            normed_D = block.norm_feed(x_D)
            feed_forward = block.down.weight @ (F.silu(gate_weight @ normed_D) * (linear_weight @ normed_D))
            x_D = x_D + feed_forward * torch.sigmoid(block.gate_feed(x_D))
            torch.testing.assert_close(actual[row, position], x_D, rtol=1e-4, atol=1e-5)
    assert_target_positions_match(block, x_BLD)


@pytest.mark.parametrize("norm_first", [False, True])
def test_bert_block_matches_torch_encoder_layer(norm_first: bool) -> None:
    block = BertBlock(8, 2, 4.0, 0.0, norm_first)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 32, 0.0, "gelu", batch_first=True, norm_first=norm_first)
    names = {"out": layer.self_attn.out_proj, "up": layer.linear1, "down": layer.linear2}
    names |= {"norm_attention": layer.norm1, "norm_feed": layer.norm2}
    for name, module in names.items():
        module.load_state_dict(getattr(block, name).state_dict())
    with torch.no_grad():
        layer.self_attn.in_proj_weight.copy_(torch.cat([block.query.weight, block.key_value.weight]))
        layer.self_attn.in_proj_bias.copy_(torch.cat([block.query.bias, block.key_value.bias]))
    x_BLD = randn(3, 9, 8)
    padding = torch.arange(9) >= LENGTHS[:, None]
    actual, expected = block(x_BLD, None, LENGTHS), layer(x_BLD, src_key_padding_mask=padding)
    torch.testing.assert_close(actual[~padding], expected[~padding], rtol=1e-4, atol=1e-5)
    assert_target_positions_match(block, x_BLD, LENGTHS)


@pytest.mark.parametrize("key", ["sasrec", "bert4rec", "esasrec"])
def test_cloze_is_bidirectional_and_ignores_padding(key: str) -> None:
    cls = model_class(key)
    model = cls(
        cls.Config(objective="cloze", embedding_dim=8, max_length=9, dropout=0.0), DataSchema(n_users=1, n_items=20)
    )
    assert isinstance(model, SequenceModel)

    def encode_first(items_BL: Tensor) -> Tensor:
        sequences = Sequences(items_BL, LENGTHS, torch.full((3,), -1))
        return model.encode_sequence(model.embed(sequences), sequences)[:, 0]

    items_BL = torch.randint(20, (3, 9), generator=torch.Generator().manual_seed(0))
    items_BL[:, 0] = 21  # mask token
    padded, changed = items_BL.clone(), items_BL.clone()
    padded[torch.arange(9) >= LENGTHS[:, None]] = 7
    torch.testing.assert_close(encode_first(padded), encode_first(items_BL))
    changed[torch.arange(3), LENGTHS - 1] = 8
    assert ((encode_first(changed) - encode_first(items_BL)).abs().amax(1) > 1e-4).all()
