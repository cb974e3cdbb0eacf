"""Bidirectional xLSTM for the cloze objective."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segue.core.batches import Sequences
from segue.core.types import DataSchema, Events, Queries
from segue.models.sequential.xlstm import XLSTM, reverse_sequences
from segue.testing import cycle, hit_rate, train_small

ITEMS = 30
SMALL: dict[str, Any] = {"embedding_dim": 16, "dropout": 0.0, "objective": "cloze"}


def build(blocks: int, slstm_at: tuple[int, ...]) -> XLSTM:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = XLSTM(XLSTM.Config(num_blocks=blocks, slstm_at=slstm_at, **SMALL), DataSchema(3, ITEMS))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def encode(model: XLSTM, rows: list[list[int]]) -> Tensor:
    lengths = torch.tensor([len(row) for row in rows])
    items = torch.full((len(rows), int(lengths.max())), ITEMS)
    for position, row in enumerate(rows):
        items[position, : len(row)] = torch.tensor(row)
    sequences = Sequences(items, lengths, torch.full_like(lengths, -1))
    return model.encode_sequence(model.embed(sequences), sequences).detach()


STACKS = [(2, ()), (2, (0, 1)), (2, (1,)), (3, (1,))]


@pytest.mark.parametrize(("blocks", "slstm_at"), STACKS)
def test_every_state_depends_on_every_item(blocks: int, slstm_at: tuple[int, ...]) -> None:
    model = build(blocks, slstm_at)
    row = [4, 7, 1, 9, 0, 3]
    expected = encode(model, [row])
    for position in range(len(row)):
        changed = encode(model, [[*row[:position], 20, *row[position + 1 :]]])
        difference = (changed - expected)[0].abs().amax(-1)
        assert (difference > 1e-5).all(), f"differences after changing item {position}: {difference.tolist()}"


@pytest.mark.parametrize(("blocks", "slstm_at"), STACKS)
def test_padding_is_ignored(blocks: int, slstm_at: tuple[int, ...]) -> None:
    model = build(blocks, slstm_at)
    rows = [[4, 7, 1], [5], [2, 8, 6, 0, 3, 9, 1]]
    batched = encode(model, rows)
    for position, row in enumerate(rows):
        torch.testing.assert_close(batched[position, : len(row)], encode(model, [row])[0], rtol=1e-4, atol=1e-5)


def test_queries_are_encoded_at_an_appended_mask_token() -> None:
    model = build(2, (1,))
    rows = [[4, 7, 1], [], [2, 8, 6, 0, 3, 9, 1]]
    expected = [encode(model, [[*row, ITEMS + 1]])[0, -1] for row in rows]
    actual = model.encode(Queries.anonymous(Events.of(rows)))
    np.testing.assert_allclose(actual, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_reverse_sequences_is_its_own_inverse() -> None:
    x_BLD, lengths_B = torch.randn(3, 5, 2), torch.tensor([5, 1, 3])
    reversed_BLD = reverse_sequences(x_BLD, lengths_B)
    torch.testing.assert_close(reversed_BLD[2], x_BLD[2, [2, 1, 0, 3, 4]])
    torch.testing.assert_close(reverse_sequences(reversed_BLD, lengths_B), x_BLD)


def test_cloze_training_learns_the_cycle() -> None:
    world = cycle()
    model = train_small("xlstm", world.train, num_blocks=2, epochs=12, objective="cloze", mask_prob=0.3)
    assert getattr(model, "is_cloze", False)
    assert hit_rate(model, world) > 0.95


def test_cloze_needs_two_blocks_and_has_no_state() -> None:
    with pytest.raises(ValueError, match="at least 2 blocks"):
        XLSTM.Config(num_blocks=1, slstm_at=(), objective="cloze")
    with pytest.raises(ValueError, match=r"objective=cloze.*no recurrent state"):
        build(2, ()).state(Queries.anonymous(Events.of([[1]])))
