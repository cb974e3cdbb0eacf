"""NARM's attention against its formula, and its two interests against the scores they make."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from segue.core.batches import Sequences
from segue.core.types import DataSchema, Events, Queries
from segue.models.sequential.narm import NARM
from segue.nn.layers import additive_attention
from segue.nn.layers.additive_attention import additive_scores

N_ITEMS = 9


def plain(query_BLA: Tensor, key_BLA: Tensor, weight_A: Tensor) -> Tensor:
    return (torch.sigmoid(query_BLA[:, :, None] + key_BLA[:, None]) @ weight_A).tril()


@pytest.mark.parametrize("room", [1, 500, 1 << 18])
def test_scores_are_the_formula_forward_and_backward(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(additive_attention.ELEMENTS, "cpu", room)
    make = torch.Generator().manual_seed(0)
    shapes = [(3, 21, 5), (3, 21, 5), (5,)]
    given = [torch.randn(*shape, generator=make, dtype=torch.float64).requires_grad_() for shape in shapes]
    found, expected = additive_scores(*given), plain(*given)
    torch.testing.assert_close(found, expected)
    slopes = torch.randn(3, 21, 21, generator=make, dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad((found * slopes).sum(), given),
        torch.autograd.grad((expected * slopes).sum(), given),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def model(attention: str, **settings: object) -> NARM:
    torch.manual_seed(0)
    config = NARM.Config.model_validate({"embedding_dim": 6, "hidden_dim": 8, "attention": attention, **settings})
    made = NARM(config, DataSchema(1, N_ITEMS)).eval()
    torch.nn.init.normal_(made.attention_weight)
    return made


QUERIES = Queries.anonymous(Events.of([[1, 2, 3, 2], [], [8], [4, 5, 6, 7, 0, 1, 2, 3, 4, 5]]))


@pytest.mark.parametrize("attention", ["sum", "softmax"])
@pytest.mark.parametrize("length", [5, 200])
def test_interests_add_up_to_the_score(attention: str, length: int) -> None:
    asked = model(attention, max_length=length, item_bias=True)
    torch.nn.init.normal_(asked.offsets)  # type: ignore[arg-type]
    found = asked.interests(QUERIES)
    np.testing.assert_allclose(
        found.global_scores + found.local_scores + asked.bias, asked.score(QUERIES), rtol=1e-5, atol=1e-6
    )
    candidates = np.array([[3, 1]] * len(QUERIES), np.int32)
    some = asked.interests(QUERIES, candidates)
    np.testing.assert_array_equal(some.global_scores, np.take_along_axis(found.global_scores, candidates, 1))
    np.testing.assert_array_equal(some.local_scores, np.take_along_axis(found.local_scores, candidates, 1))
    assert np.ptp(found.local_scores[0]) > 1e-3
    assert np.ptp(found.global_scores[0]) > 1e-3


@pytest.mark.parametrize("length", [5, 200])
def test_attention_is_over_the_history_alone(length: int) -> None:
    asked = model("softmax", max_length=length)
    found = asked.interests(QUERIES)
    assert len(found.attention) == QUERIES.history.size
    sums = [part.sum() for part in np.split(found.attention, QUERIES.history.offsets[1:-1])]
    np.testing.assert_allclose(sums, [1, 0, 1, 1], rtol=1e-6)
    read = np.minimum(QUERIES.history.lengths, length)
    for part, count in zip(np.split(found.attention, QUERIES.history.offsets[1:-1]), read, strict=True):
        assert (part[: len(part) - count] == 0).all()
        assert (part[len(part) - count :] > 0).all()


def test_the_present_interest_is_the_attended_states() -> None:
    asked = model("sum")
    items = torch.tensor([[N_ITEMS, 1, 2, 3, 2]])
    states_LH = asked.gru(asked.items(items) * 6**0.5)[0][0]
    scores_L = torch.sigmoid(asked.query(states_LH[-1]) + asked.key(states_LH)) @ asked.attention_weight
    found = asked.interests(QUERIES.rows_between(0, 1))
    np.testing.assert_allclose(found.attention, scores_L[1:].detach().numpy(), rtol=1e-5, atol=1e-6)
    present = asked.local_out((scores_L[1:, None] * states_LH[1:]).sum(0)) @ asked.item_vectors().T
    np.testing.assert_allclose(found.local_scores[0], present.detach().numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        found.global_scores[0],
        (asked.global_out(states_LH[-1]) @ asked.item_vectors().T).detach().numpy(),
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize("attention", ["sum", "softmax"])
def test_every_position_answers_as_if_it_were_the_last(attention: str) -> None:
    asked = model(attention)
    items_BL = torch.tensor([[N_ITEMS, 1, 2, 3, 2], [5, 6, N_ITEMS, N_ITEMS, N_ITEMS]])
    read = Sequences(items_BL, torch.tensor([5, 2]), torch.tensor([-1, -1]))
    whole = asked.encode_sequence(asked.embed(read), read)
    for position in range(5):
        last = torch.tensor([position, min(position, 1)])
        found = asked.encode_sequence(asked.embed(read), read, last)
        torch.testing.assert_close(found, whole[torch.arange(2), last])
