"""Transformer-XL: relative attention is its formula, and segments with enough memory are one segment."""

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


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model(**settings: int) -> TransformerXL:
    torch.manual_seed(0)
    config = TransformerXL.Config(embedding_dim=WIDTH, num_heads=HEADS, num_blocks=3, dropout=0.0, **settings)
    made = TransformerXL(config, DataSchema(n_users=1, n_items=20)).eval()
    with torch.no_grad():
        for block in made.blocks:
            for bias in (block.to_content, block.to_distance):
                bias.normal_()
    return made


def hidden(it: TransformerXL, items_BL: Tensor, last_B: Tensor | None = None) -> Tensor:
    lengths_B = torch.full((len(items_BL),), items_BL.shape[1])
    read = Sequences(items_BL, lengths_B, torch.full_like(lengths_B, -1))
    return it.encode_sequence(it.embed(read), read, last_B)


def test_the_encoding_is_of_distances() -> None:
    far_KD = sinusoidal_encoding(9, WIDTH, torch.zeros(1))
    for row, distance in enumerate(range(8, -1, -1)):
        angles = [distance / 10_000 ** (2 * k / WIDTH) for k in range(WIDTH // 2)]
        expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        torch.testing.assert_close(far_KD[row], torch.tensor(expected))


@pytest.mark.parametrize("memory", [0, 1, 4])
def test_shifting_puts_distances_where_they_belong(memory: int) -> None:
    segment = 5
    keys = memory + segment
    by_distance = normal(2, 3, segment, keys)
    found = relative_shift(by_distance)
    for i in range(segment):
        for j in range(memory + i + 1):
            distance = memory + i - j
            torch.testing.assert_close(found[:, :, i, j], by_distance[:, :, i, keys - 1 - distance])


@pytest.mark.parametrize("memory", [0, 3])
def test_a_block_is_its_formula(memory: int) -> None:
    torch.manual_seed(0)
    block = RelativeBlock(WIDTH, HEADS, 2.0, 0.0)
    torch.nn.init.normal_(block.to_content)
    torch.nn.init.normal_(block.to_distance)
    x_BSD, memory_BZD = normal(2, 4, WIDTH), normal(2, memory, WIDTH, seed=1)
    found = block(x_BSD, memory_BZD, sinusoidal_encoding(memory + 4, WIDTH, x_BSD))
    at_distance = sinusoidal_encoding(20, WIDTH, x_BSD).flip(0) @ block.distance.weight.T
    for row in range(2):
        normed_KD = block.norm_attention(torch.cat([memory_BZD[row], x_BSD[row]]))
        key_KD, value_KD = block.key_value(normed_KD).chunk(2, -1)
        for i in range(4):
            query_D, gathered = block.query(normed_KD[memory + i]), []
            for head in range(HEADS):
                cut = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
                u, v = block.to_content[head, 0], block.to_distance[head, 0]
                scores = [
                    (query_D[cut] + u) @ key_KD[j, cut] + (query_D[cut] + v) @ at_distance[memory + i - j, cut]
                    for j in range(memory + i + 1)
                ]
                weights = torch.softmax(torch.stack(scores) / (WIDTH // HEADS) ** 0.5, 0)
                gathered.append(weights @ value_KD[: memory + i + 1, cut])
            x_D = x_BSD[row, i] + block.out(torch.cat(gathered))
            x_D = x_D + block.down(F.relu(block.up(block.norm_feed(x_D))))
            torch.testing.assert_close(found[row, i], x_D, rtol=1e-4, atol=1e-5)


def test_the_gradient_of_biased_attention_is_exact() -> None:
    def mixed(*x: Tensor) -> Tensor:
        torch.manual_seed(3)  # the same mask in every evaluation
        return biased_attention(*x[:3], 0.3, x[3].masked_fill(torch.ones(4, 4).triu(1) > 0, -math.inf))

    x = [normal(2, 1, 4, 3, seed=n).double().requires_grad_() for n in range(3)]
    assert torch.autograd.gradcheck(mixed, (*x, normal(2, 1, 4, 4, seed=3).double().requires_grad_()))


def test_with_enough_memory_segments_are_one_segment() -> None:
    items_BL = torch.randint(20, (3, 23), generator=torch.Generator().manual_seed(0))
    whole = hidden(model(segment_length=23, memory_length=0), items_BL)
    for segment in (1, 4, 10):
        found = hidden(model(segment_length=segment, memory_length=23), items_BL)
        torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)
    short = hidden(model(segment_length=4, memory_length=4), items_BL)
    torch.testing.assert_close(short[:, :4], whole[:, :4], rtol=1e-5, atol=1e-5)
    assert ((short - whole)[:, -1].abs().amax(-1) > 1e-4).all()


def test_the_last_positions_alone_are_those_of_all() -> None:
    it = model(segment_length=4, memory_length=6)
    items_BL = torch.randint(20, (4, 23), generator=torch.Generator().manual_seed(0))
    last_B = torch.tensor([22, 3, 12, 21])
    torch.testing.assert_close(hidden(it, items_BL, last_B), hidden(it, items_BL)[torch.arange(4), last_B])


def test_memory_reaches_back_as_far_as_blocks_times_memory_and_no_further() -> None:
    it = model(segment_length=4, memory_length=4)
    items_BL = torch.arange(20)[None] % 7
    reached = []
    for changed in range(20):
        other = items_BL.clone()
        other[0, changed] = 19
        reached.append(not torch.equal(hidden(it, other)[0, -1], hidden(it, items_BL)[0, -1]))
    # the last segment begins at 16; three blocks see three segments before it
    assert reached == [False] * 4 + [True] * 16


def test_a_history_longer_than_any_window_is_read_to_its_beginning() -> None:
    it = model(segment_length=4, memory_length=16, max_length=8)
    rows = [list(range(19)), [7, *range(1, 19)]]
    scores_NI = it.score(Queries.anonymous(Events.of(rows)))
    assert np.abs(scores_NI[0] - scores_NI[1]).max() > 1e-5


def test_the_gradient_stops_at_the_memory() -> None:
    it = model(segment_length=4, memory_length=4)
    x_BLD = normal(1, 8, WIDTH).requires_grad_()
    read = Sequences(torch.zeros(1, 8, dtype=torch.int64), torch.tensor([8]), torch.tensor([-1]))
    it.encode_sequence(x_BLD, read)[0, -1, 0].backward()
    assert x_BLD.grad is not None
    assert (x_BLD.grad[0, :4] == 0).all()
    assert (x_BLD.grad[0, 4:] != 0).any()
