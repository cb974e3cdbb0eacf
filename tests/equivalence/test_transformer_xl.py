"""Compare relative attention with its formula, and segments with memory with one long segment."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segue.core.batches import Sequences
from segue.core.types import DataSchema, Events, Queries
from segue.models.sequential.transformer_xl import TransformerXL
from segue.nn.layers.attention_kernels import biased_attention
from segue.nn.layers.relative_attention import RelativeBlock, relative_shift, sinusoidal_encoding

WIDTH, HEADS = 6, 2


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build_model(**settings: int) -> TransformerXL:
    torch.manual_seed(0)
    config = TransformerXL.Config(embedding_dim=WIDTH, num_heads=HEADS, num_blocks=3, dropout=0.0, **settings)
    model = TransformerXL(config, DataSchema(n_users=1, n_items=20)).eval()
    with torch.no_grad():
        for block in model.blocks:
            for bias in (block.to_content, block.to_distance):
                bias.normal_()
    return model


def encode(model: TransformerXL, items_BL: Tensor, last_B: Tensor | None = None) -> Tensor:
    lengths_B = torch.full((len(items_BL),), items_BL.shape[1])
    sequences = Sequences(items_BL, lengths_B, torch.full_like(lengths_B, -1))
    return model.encode_sequence(model.embed(sequences), sequences, last_B)


def test_sinusoidal_encoding_of_distances() -> None:
    encoding_KD = sinusoidal_encoding(9, WIDTH, torch.zeros(1))
    for row, distance in enumerate(range(8, -1, -1)):
        angles = [distance / 10_000 ** (2 * k / WIDTH) for k in range(WIDTH // 2)]
        expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        torch.testing.assert_close(encoding_KD[row], torch.tensor(expected))


@pytest.mark.parametrize("memory", [0, 1, 4])
def test_relative_shift(memory: int) -> None:
    segment = 5
    keys = memory + segment
    by_distance = randn(2, 3, segment, keys)
    actual = relative_shift(by_distance)
    for i in range(segment):
        for j in range(memory + i + 1):
            distance = memory + i - j
            torch.testing.assert_close(actual[:, :, i, j], by_distance[:, :, i, keys - 1 - distance])


@pytest.mark.parametrize("memory", [0, 3])
def test_relative_block_matches_its_formula(memory: int) -> None:
    torch.manual_seed(0)
    block = RelativeBlock(WIDTH, HEADS, 2.0, 0.0)
    torch.nn.init.normal_(block.to_content)
    torch.nn.init.normal_(block.to_distance)
    x_BSD, memory_BZD = randn(2, 4, WIDTH), randn(2, memory, WIDTH, seed=1)
    actual = block(x_BSD, memory_BZD, sinusoidal_encoding(memory + 4, WIDTH, x_BSD))
    at_distance = sinusoidal_encoding(20, WIDTH, x_BSD).flip(0) @ block.distance.weight.T
    for row in range(2):
        normed_KD = block.norm_attention(torch.cat([memory_BZD[row], x_BSD[row]]))
        key_KD, value_KD = block.key_value(normed_KD).chunk(2, -1)
        for i in range(4):
            query_D, head_outputs = block.query(normed_KD[memory + i]), []
            for head in range(HEADS):
                head_columns = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
                u, v = block.to_content[head, 0], block.to_distance[head, 0]
                scores = [
                    (query_D[head_columns] + u) @ key_KD[j, head_columns]
                    + (query_D[head_columns] + v) @ at_distance[memory + i - j, head_columns]
                    for j in range(memory + i + 1)
                ]
                weights = torch.softmax(torch.stack(scores) / (WIDTH // HEADS) ** 0.5, 0)
                head_outputs.append(weights @ value_KD[: memory + i + 1, head_columns])
            x_D = x_BSD[row, i] + block.out(torch.cat(head_outputs))
            x_D = x_D + block.down(F.relu(block.up(block.norm_feed(x_D))))
            torch.testing.assert_close(actual[row, i], x_D, rtol=1e-4, atol=1e-5)


def test_gradients_of_biased_attention() -> None:
    def attention(*x: Tensor) -> Tensor:
        torch.manual_seed(3)  # same dropout mask in every evaluation
        return biased_attention(*x[:3], 0.3, x[3].masked_fill(torch.ones(4, 4).triu(1) > 0, -math.inf))

    x = [randn(2, 1, 4, 3, seed=n).double().requires_grad_() for n in range(3)]
    assert torch.autograd.gradcheck(attention, (*x, randn(2, 1, 4, 4, seed=3).double().requires_grad_()))


def test_segments_with_enough_memory_equal_one_segment() -> None:
    items_BL = torch.randint(20, (3, 23), generator=torch.Generator().manual_seed(0))
    expected = encode(build_model(segment_length=23, memory_length=0), items_BL)
    for segment in (1, 4, 10):
        actual = encode(build_model(segment_length=segment, memory_length=23), items_BL)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    short_memory = encode(build_model(segment_length=4, memory_length=4), items_BL)
    torch.testing.assert_close(short_memory[:, :4], expected[:, :4], rtol=1e-5, atol=1e-5)
    assert ((short_memory - expected)[:, -1].abs().amax(-1) > 1e-4).all()


def test_last_positions_equal_the_full_output() -> None:
    model = build_model(segment_length=4, memory_length=6)
    items_BL = torch.randint(20, (4, 23), generator=torch.Generator().manual_seed(0))
    last_B = torch.tensor([22, 3, 12, 21])
    torch.testing.assert_close(encode(model, items_BL, last_B), encode(model, items_BL)[torch.arange(4), last_B])


def test_receptive_field_is_blocks_times_memory() -> None:
    model = build_model(segment_length=4, memory_length=4)
    items_BL = torch.arange(20)[None] % 7
    is_reached = []
    for position in range(20):
        changed_BL = items_BL.clone()
        changed_BL[0, position] = 19
        is_reached.append(not torch.equal(encode(model, changed_BL)[0, -1], encode(model, items_BL)[0, -1]))
    # the last segment starts at 16; three blocks see the three preceding segments
    assert is_reached == [False] * 4 + [True] * 16


def test_long_histories_are_read_to_their_beginning() -> None:
    model = build_model(segment_length=4, memory_length=16, max_length=8)
    rows = [list(range(19)), [7, *range(1, 19)]]
    scores_NI = model.score(Queries.anonymous(Events.of(rows)))
    assert np.abs(scores_NI[0] - scores_NI[1]).max() > 1e-5


def test_gradients_stop_at_the_memory() -> None:
    model = build_model(segment_length=4, memory_length=4)
    x_BLD = randn(1, 8, WIDTH).requires_grad_()
    sequences = Sequences(torch.zeros(1, 8, dtype=torch.int64), torch.tensor([8]), torch.tensor([-1]))
    model.encode_sequence(x_BLD, sequences)[0, -1, 0].backward()
    assert x_BLD.grad is not None
    assert (x_BLD.grad[0, :4] == 0).all()
    assert (x_BLD.grad[0, 4:] != 0).any()
