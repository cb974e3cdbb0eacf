"""Compare NARM's attention with its formula, and its global and local scores with the model's scores."""

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


def scores_by_definition(query_BLA: Tensor, key_BLA: Tensor, weight_A: Tensor) -> Tensor:
    return (torch.sigmoid(query_BLA[:, :, None] + key_BLA[:, None]) @ weight_A).tril()


@pytest.mark.parametrize("n_elements", [1, 500, 1 << 18])
def test_scores_match_the_formula_forward_and_backward(n_elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(additive_attention.ELEMENTS, "cpu", n_elements)
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 21, 5), (3, 21, 5), (5,)]
    inputs = [torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    actual, expected = additive_scores(*inputs), scores_by_definition(*inputs)
    torch.testing.assert_close(actual, expected)
    weights = torch.randn(3, 21, 21, generator=generator, dtype=torch.float64)
    for gradient, expected_gradient in zip(
        torch.autograd.grad((actual * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(gradient, expected_gradient)


def build_model(attention: str, **settings: object) -> NARM:
    torch.manual_seed(0)
    config = NARM.Config.model_validate({"embedding_dim": 6, "hidden_dim": 8, "attention": attention, **settings})
    model = NARM(config, DataSchema(1, N_ITEMS)).eval()
    torch.nn.init.normal_(model.attention_weight)
    return model


QUERIES = Queries.anonymous(Events.of([[1, 2, 3, 2], [], [8], [4, 5, 6, 7, 0, 1, 2, 3, 4, 5]]))


@pytest.mark.parametrize("attention", ["sum", "softmax"])
@pytest.mark.parametrize("length", [5, 200])
def test_global_and_local_scores_sum_to_the_score(attention: str, length: int) -> None:
    model = build_model(attention, max_length=length, item_bias=True)
    torch.nn.init.normal_(model.offsets)  # type: ignore[arg-type]
    actual = model.interests(QUERIES)
    np.testing.assert_allclose(
        actual.global_scores + actual.local_scores + model.bias, model.score(QUERIES), rtol=1e-5, atol=1e-6
    )
    candidates = np.array([[3, 1]] * len(QUERIES), np.int32)
    selected = model.interests(QUERIES, candidates)
    np.testing.assert_array_equal(selected.global_scores, np.take_along_axis(actual.global_scores, candidates, 1))
    np.testing.assert_array_equal(selected.local_scores, np.take_along_axis(actual.local_scores, candidates, 1))
    assert np.ptp(actual.local_scores[0]) > 1e-3
    assert np.ptp(actual.global_scores[0]) > 1e-3


@pytest.mark.parametrize("length", [5, 200])
def test_attention_covers_only_the_history(length: int) -> None:
    model = build_model("softmax", max_length=length)
    actual = model.interests(QUERIES)
    assert len(actual.attention) == QUERIES.history.size
    sums = [weights_L.sum() for weights_L in np.split(actual.attention, QUERIES.history.offsets[1:-1])]
    np.testing.assert_allclose(sums, [1, 0, 1, 1], rtol=1e-6)
    n_read = np.minimum(QUERIES.history.lengths, length)
    for weights_L, count in zip(np.split(actual.attention, QUERIES.history.offsets[1:-1]), n_read, strict=True):
        assert (weights_L[: len(weights_L) - count] == 0).all()
        assert (weights_L[len(weights_L) - count :] > 0).all()


def test_local_scores_come_from_attended_states() -> None:
    model = build_model("sum")
    items = torch.tensor([[N_ITEMS, 1, 2, 3, 2]])
    states_LH = model.gru(model.items(items) * 6**0.5)[0][0]
    scores_L = torch.sigmoid(model.query(states_LH[-1]) + model.key(states_LH)) @ model.attention_weight
    actual = model.interests(QUERIES.rows_between(0, 1))
    np.testing.assert_allclose(actual.attention, scores_L[1:].detach().numpy(), rtol=1e-5, atol=1e-6)
    expected_local = model.local_out((scores_L[1:, None] * states_LH[1:]).sum(0)) @ model.item_vectors().T
    np.testing.assert_allclose(actual.local_scores[0], expected_local.detach().numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        actual.global_scores[0],
        (model.global_out(states_LH[-1]) @ model.item_vectors().T).detach().numpy(),
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize("attention", ["sum", "softmax"])
def test_every_position_is_encoded_as_if_it_were_last(attention: str) -> None:
    model = build_model(attention)
    items_BL = torch.tensor([[N_ITEMS, 1, 2, 3, 2], [5, 6, N_ITEMS, N_ITEMS, N_ITEMS]])
    n_read = Sequences(items_BL, torch.tensor([5, 2]), torch.tensor([-1, -1]))
    expected = model.encode_sequence(model.embed(n_read), n_read)
    for position in range(5):
        last = torch.tensor([position, min(position, 1)])
        actual = model.encode_sequence(model.embed(n_read), n_read, last)
        torch.testing.assert_close(actual, expected[torch.arange(2), last])
