"""Compare an HSTU layer with its formula in plain loops; check time buckets and query times."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segue.core.batches import Sequences
from segue.core.config import parse
from segue.core.types import DataSchema
from segue.models.sequential.hstu import HSTU
from segue.nn.layers.hstu_block import HSTUBlock
from segue.nn.layers.pointwise_attention import N_BUCKETS, gather_weights, pair_relations, pointwise_attention
from segue.nn.target_positions import TargetPositions

LENGTH, WIDTH, HEADS, MAX_LENGTH = 7, 6, 2, 10
NAN = math.nan


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def times() -> Tensor:
    gaps_BL = torch.rand(2, LENGTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 12
    times_BL = gaps_BL.exp().cumsum(1) + 1e9
    times_BL[0, 0], times_BL[1, 3] = NAN, NAN
    return times_BL


def time_bucket(query_time: float, event_time: float) -> int:
    if math.isnan(query_time) or math.isnan(event_time):
        return N_BUCKETS + 1
    return min(int(math.log(max(abs(query_time - event_time), 1.0)) / 0.301), N_BUCKETS)


def layer_by_definition(block: HSTUBlock, x_LD: Tensor, times_L: list[float], now_L: list[float]) -> Tensor:
    """Compute equations 2 to 4 with one attention weight at a time."""
    normed_LD = F.layer_norm(x_LD, (WIDTH,), eps=1e-6)
    u_LD, q_LD = F.silu(normed_LD @ block.gate_query.weight.T).chunk(2, -1)
    k_LD, v_LD = F.silu(normed_LD @ block.key_value.weight.T).chunk(2, -1)
    rows = []
    for i in range(LENGTH):
        heads = []
        for head in range(HEADS):
            head_columns = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
            head_output = torch.zeros(WIDTH // HEADS)
            for j in range(i + 1):
                score = q_LD[i, head_columns] @ k_LD[j, head_columns] + block.step_weights[i - j]
                if block.time_weights is not None:
                    score = score + block.time_weights[time_bucket(now_L[i], times_L[j])]
                head_output = head_output + F.silu(score) / MAX_LENGTH * v_LD[j, head_columns]
            heads.append(head_output)
        normed_output = F.layer_norm(torch.cat(heads), (WIDTH,), eps=1e-6)
        rows.append(block.out(normed_output * u_LD[i]) + x_LD[i])
    return torch.stack(rows)


@pytest.mark.parametrize("time_bias", [False, True])
def test_hstu_block_matches_its_formula(time_bias: bool) -> None:
    torch.manual_seed(0)
    block = HSTUBlock(WIDTH, HEADS, MAX_LENGTH, time_bias, 0.0)
    with torch.no_grad():
        for parameter in block.parameters():  # initial weights are too small to affect the output
            parameter.normal_()
    x_BLD, times_BL = randn(2, LENGTH, WIDTH), times()
    now_BL = times_BL + 5000.0 * torch.arange(LENGTH)
    given = (times_BL, now_BL) if time_bias else (None, None)
    actual = block(x_BLD, pair_relations(LENGTH, None, *given, "cpu"))
    for row in range(2):
        expected = layer_by_definition(block, x_BLD[row], times_BL[row].tolist(), now_BL[row].tolist())
        torch.testing.assert_close(actual[row], expected, rtol=1e-4, atol=1e-4)
    targets = TargetPositions.from_flat(torch.tensor([1, 6, 8, 9, 13]), 2, LENGTH)
    selected = block(x_BLD, pair_relations(LENGTH, targets, *given, "cpu"), targets)
    torch.testing.assert_close(selected, targets.select(actual), rtol=1e-4, atol=1e-5)


def test_gradients_of_pointwise_attention() -> None:
    q, k, v = (randn(2, 1, 4, 3, seed=n).double().requires_grad_() for n in range(3))
    weights = randn(5, seed=3).double().requires_grad_()
    index = torch.randint(5, (2, 4, 4), generator=torch.Generator().manual_seed(4))

    def attention(q: Tensor, k: Tensor, v: Tensor, weights: Tensor) -> Tensor:
        shared = pointwise_attention(q, k, v, gather_weights(weights, index[0]), torch.ones(4, 4).tril() > 0)
        separate = pointwise_attention(q, k, v, gather_weights(weights, index)[:, None], (index > 0)[:, None])
        return shared + separate

    assert torch.autograd.gradcheck(attention, (q, k, v, weights))


def test_query_time_replaces_the_time_of_the_last_position() -> None:
    torch.manual_seed(0)
    settings = {"embedding_dim": WIDTH, "max_length": MAX_LENGTH, "time_bias": True, "dropout": 0.0}
    items_BL = torch.randint(20, (2, LENGTH), generator=torch.Generator().manual_seed(5))
    times_BL = times()
    last_B = torch.full((2,), LENGTH - 1)

    def encode(model: HSTU, **columns: Tensor) -> Tensor:
        sequences = Sequences(items_BL, last_B + 1, torch.full((2,), -1), columns)
        return model.encode_sequence(model.embed(sequences), sequences, last_B)

    event_model, query_model = (
        HSTU(HSTU.Config(**settings, query_time=use_query_time), DataSchema(1, 20)) for use_query_time in (False, True)
    )
    query_model.load_state_dict(event_model.state_dict())
    assert event_model.columns == ("times",)
    assert query_model.columns == ("times", "query_times")
    with torch.no_grad():
        for block in (*event_model.blocks, *query_model.blocks):
            block.time_weights.copy_(randn(N_BUCKETS + 2, seed=6))
    expected_BD = encode(query_model, times=times_BL, query_times=times_BL)
    torch.testing.assert_close(encode(event_model, times=times_BL), expected_BD)
    for later_BL in (times_BL + 1e7, torch.full_like(times_BL, NAN)):
        changed_BD = encode(query_model, times=times_BL, query_times=later_BL)
        assert changed_BD.isfinite().all()
        assert ((changed_BD - expected_BD).abs().amax(1) > 1e-3).all()


@pytest.mark.parametrize("given", [{"query_time": True}, {"normalize": False, "temperature": 0.1}])
def test_unused_settings_are_rejected(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{list(given)[-1]}: .* with .* false"):
        parse(HSTU.Config, given, "model")
    config = HSTU.Config(normalize=False)
    assert parse(HSTU.Config, config.model_dump(), "model") == config


def test_scores_are_cosines_with_normalize() -> None:
    torch.manual_seed(0)
    model = HSTU(
        HSTU.Config(embedding_dim=WIDTH, max_length=MAX_LENGTH, normalize=True, temperature=0.1), DataSchema(1, 20)
    ).eval()
    sequences = Sequences(torch.tensor([[20, 3, 4]]), torch.tensor([3]), torch.tensor([-1]))
    hidden = model.encode_sequence(model.embed(sequences), sequences, torch.tensor([2]))
    cosines = F.cosine_similarity(hidden, model.items.weight[:20])
    torch.testing.assert_close(hidden @ model.item_vectors().T, cosines[None] / 0.1)
