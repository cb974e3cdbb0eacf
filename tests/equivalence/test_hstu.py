"""HSTU: a layer is its formula written out with loops, and times are compared as they should be."""

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

LENGTH, WIDTH, HEADS, PLACES = 7, 6, 2, 10
NAN = math.nan


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def times() -> Tensor:
    gaps_BL = torch.rand(2, LENGTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 12
    times_BL = gaps_BL.exp().cumsum(1) + 1e9
    times_BL[0, 0], times_BL[1, 3] = NAN, NAN
    return times_BL


def bucket(now: float, then: float) -> int:
    if math.isnan(now) or math.isnan(then):
        return N_BUCKETS + 1
    return min(int(math.log(max(abs(now - then), 1.0)) / 0.301), N_BUCKETS)


def plain(block: HSTUBlock, x_LD: Tensor, times_L: list[float], now_L: list[float]) -> Tensor:
    """Equations 2 to 4, one weight after another."""
    normed_LD = F.layer_norm(x_LD, (WIDTH,), eps=1e-6)
    u_LD, q_LD = F.silu(normed_LD @ block.gate_query.weight.T).chunk(2, -1)
    k_LD, v_LD = F.silu(normed_LD @ block.key_value.weight.T).chunk(2, -1)
    rows = []
    for i in range(LENGTH):
        heads = []
        for head in range(HEADS):
            cut = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
            total = torch.zeros(WIDTH // HEADS)
            for j in range(i + 1):
                score = q_LD[i, cut] @ k_LD[j, cut] + block.step_weights[i - j]
                if block.time_weights is not None:
                    score = score + block.time_weights[bucket(now_L[i], times_L[j])]
                total = total + F.silu(score) / PLACES * v_LD[j, cut]
            heads.append(total)
        gathered = F.layer_norm(torch.cat(heads), (WIDTH,), eps=1e-6)
        rows.append(block.out(gathered * u_LD[i]) + x_LD[i])
    return torch.stack(rows)


@pytest.mark.parametrize("time_bias", [False, True])
def test_a_layer_is_its_formula(time_bias: bool) -> None:
    torch.manual_seed(0)
    block = HSTUBlock(WIDTH, HEADS, PLACES, time_bias, 0.0)
    with torch.no_grad():
        for parameter in block.parameters():  # as small as at first, nothing would be seen of the weights
            parameter.normal_()
    x_BLD, times_BL = normal(2, LENGTH, WIDTH), times()
    now_BL = times_BL + 5000.0 * torch.arange(LENGTH)
    given = (times_BL, now_BL) if time_bias else (None, None)
    found = block(x_BLD, pair_relations(LENGTH, None, *given, "cpu"))
    for row in range(2):
        expected = plain(block, x_BLD[row], times_BL[row].tolist(), now_BL[row].tolist())
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-4)
    targets = TargetPositions.from_flat(torch.tensor([1, 6, 8, 9, 13]), 2, LENGTH)
    some = block(x_BLD, pair_relations(LENGTH, targets, *given, "cpu"), targets)
    torch.testing.assert_close(some, targets.select(found), rtol=1e-4, atol=1e-5)


def test_gradients_are_exact() -> None:
    q, k, v = (normal(2, 1, 4, 3, seed=n).double().requires_grad_() for n in range(3))
    weights = normal(5, seed=3).double().requires_grad_()
    index = torch.randint(5, (2, 4, 4), generator=torch.Generator().manual_seed(4))

    def mixed(q: Tensor, k: Tensor, v: Tensor, weights: Tensor) -> Tensor:
        alike = pointwise_attention(q, k, v, gather_weights(weights, index[0]), torch.ones(4, 4).tril() > 0)
        apart = pointwise_attention(q, k, v, gather_weights(weights, index)[:, None], (index > 0)[:, None])
        return alike + apart

    assert torch.autograd.gradcheck(mixed, (q, k, v, weights))


def test_the_time_asked_at_stands_in_the_place_of_the_positions_own() -> None:
    torch.manual_seed(0)
    settings = {"embedding_dim": WIDTH, "max_length": PLACES, "time_bias": True, "dropout": 0.0}
    items_BL = torch.randint(20, (2, LENGTH), generator=torch.Generator().manual_seed(5))
    times_BL = times()
    last_B = torch.full((2,), LENGTH - 1)

    def answer(model: HSTU, **columns: Tensor) -> Tensor:
        read = Sequences(items_BL, last_B + 1, torch.full((2,), -1), columns)
        return model.encode_sequence(model.embed(read), read, last_B)

    own, told = (HSTU(HSTU.Config(**settings, query_time=on), DataSchema(1, 20)) for on in (False, True))
    told.load_state_dict(own.state_dict())
    assert own.columns == ("times",)
    assert told.columns == ("times", "query_times")
    with torch.no_grad():
        for block in (*own.blocks, *told.blocks):
            block.time_weights.copy_(normal(N_BUCKETS + 2, seed=6))
    same = answer(told, times=times_BL, query_times=times_BL)
    torch.testing.assert_close(answer(own, times=times_BL), same)
    for later in (times_BL + 1e7, torch.full_like(times_BL, NAN)):
        other = answer(told, times=times_BL, query_times=later)
        assert other.isfinite().all()
        assert ((other - same).abs().amax(1) > 1e-3).all()


@pytest.mark.parametrize("given", [{"query_time": True}, {"normalize": False, "temperature": 0.1}])
def test_settings_without_effect_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{list(given)[-1]}: .* with .* false"):
        parse(HSTU.Config, given, "model")
    kept = HSTU.Config(normalize=False)
    assert parse(HSTU.Config, kept.model_dump(), "model") == kept


def test_scores_are_cosines_where_asked() -> None:
    torch.manual_seed(0)
    model = HSTU(
        HSTU.Config(embedding_dim=WIDTH, max_length=PLACES, normalize=True, temperature=0.1), DataSchema(1, 20)
    ).eval()
    read = Sequences(torch.tensor([[20, 3, 4]]), torch.tensor([3]), torch.tensor([-1]))
    hidden = model.encode_sequence(model.embed(read), read, torch.tensor([2]))
    cosines = F.cosine_similarity(hidden, model.items.weight[:20])
    torch.testing.assert_close(hidden @ model.item_vectors().T, cosines[None] / 0.1)
