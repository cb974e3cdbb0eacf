"""The two-tower model: its loss, its estimate of frequencies, and its user tower, against their formulas."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from segue.core.config import parse
from segue.core.types import Dataset, Events, Queries
from segue.models.neural.two_tower import TwoTower, _RecencyAttention, _StreamingFrequency
from segue.nn.losses.losses import cross_entropy
from segue.testing import dataset, small, train_small

N_ITEMS, N_USERS = 30, 12


def world() -> Dataset:
    rng = np.random.default_rng(0)
    weights = 1.0 / np.arange(1, 21)
    rows = [rng.choice(20, size=n, p=weights / weights.sum()) for n in rng.integers(2, 9, N_USERS)]
    table = pl.DataFrame({"id": [f"i{code}" for code in range(N_ITEMS)], "color": ["red", "blue", "green"] * 10})
    return replace(dataset(Events.of(rows), N_ITEMS), item_features=table.lazy())


def build(data: Dataset | None = None, **settings: Any) -> TwoTower:
    data = world() if data is None else data
    config: Any = small(TwoTower.Config, {"id_dropout": 0.0, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TwoTower(config, TwoTower.schema_for(config, data))
        model.prepare(data)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight) * 0.1)
    return model.train()


def one_batch(model: TwoTower) -> Any:
    return next(model.batches(world(), N_USERS, np.random.default_rng(0))[1])


@pytest.mark.parametrize("frequencies", ["counts", "streaming"])
@pytest.mark.parametrize("item_bias", [False, True])
def test_the_loss_is_the_corrected_in_batch_softmax(frequencies: str, item_bias: bool) -> None:
    """Yi et al. 2019, eq. 4 and 5: a target is one of all targets of the batch, duplicates included."""
    model = build(frequencies=frequencies, item_bias=item_bias)
    batch = one_batch(model)
    found, count = model.objective(batch, cross_entropy)
    targets = batch.targets_M
    counts = np.bincount(targets, minlength=N_ITEMS)
    if frequencies == "counts":
        probabilities = np.bincount(world().histories.items, minlength=N_ITEMS) / world().histories.size
    else:
        probabilities = np.minimum(1.0, counts / counts.sum())  # after one batch
    hidden = model.encode_sequence(model.embed(batch), batch).flatten(0, 1)[batch.positions_M]
    logits = (hidden @ model.item_vectors().t() + torch.from_numpy(model.bias))[:, targets].double()
    corrected = logits - torch.from_numpy(np.log(probabilities[targets]))
    expected = (corrected.logsumexp(1) - corrected.diagonal()).mean()
    # all duplicates of a target count as correct, which adds a constant
    duplicates = np.log(counts[targets]).mean()
    assert count == len(targets)
    assert duplicates > 0
    torch.testing.assert_close(found.double() + duplicates, expected, rtol=1e-4, atol=1e-4)


def test_seen_items_are_no_negatives() -> None:
    model = build(mask_seen=True)
    batch = one_batch(model)
    found, _ = model.objective(batch, cross_entropy)
    hidden = model.encode_sequence(model.embed(batch), batch).flatten(0, 1)[batch.positions_M]
    logits = (hidden @ model.item_vectors().t()).double()
    counts = np.bincount(world().histories.items, minlength=N_ITEMS)
    in_batch = np.bincount(batch.targets_M, minlength=N_ITEMS)
    with np.errstate(divide="ignore", invalid="ignore"):
        bias = np.log(in_batch) - np.log(counts / counts.sum() * in_batch.sum())
    logits += torch.from_numpy(np.nan_to_num(bias, nan=-np.inf))
    length = batch.items_BL.shape[1]
    for row, (position, target) in enumerate(zip(batch.positions_M.tolist(), batch.targets_M.tolist(), strict=True)):
        before = batch.items_BL[position // length, : position % length + 1].tolist()
        seen = sorted({item for item in before if item not in (target, N_ITEMS)})
        logits[row, seen] = -torch.inf
    expected = torch.nn.functional.cross_entropy(logits, batch.targets_M)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_only_items_of_the_batch_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    rows: list[int] = []
    assert model.inputs is not None
    vectors: Any = model.inputs.items.vectors  # type: ignore[union-attr]
    embed = vectors.embed_groups

    def count(part: torch.Tensor, groups: Any) -> list[torch.Tensor]:
        rows.append(len(part))
        found: list[torch.Tensor] = embed(part, groups)
        return found

    monkeypatch.setattr(vectors, "embed_groups", count)
    batch = one_batch(model)
    model.objective(batch, cross_entropy)[0].backward()
    assert rows == [len({*batch.items_BL.flatten().tolist(), *batch.targets_M.tolist()})]
    assert rows[0] < N_ITEMS


def test_frequencies_are_estimated_as_in_the_paper() -> None:
    """Algorithm 2, for one draw per batch."""
    rng = np.random.default_rng(0)
    stream = rng.choice(4, size=300, p=[0.5, 0.3, 0.15, 0.05])
    estimate, rate = _StreamingFrequency(4, 0.1), 0.1
    gap, last = np.zeros(4), np.zeros(4)
    for now, item in enumerate(stream, 1):
        found = estimate.update(torch.tensor([int(item)]), torch.tensor([1]))
        gap[item] = (1 - rate) * gap[item] + rate * (now - last[item]) if gap[item] else now - last[item]
        last[item] = now
        np.testing.assert_allclose(found, 1 / gap[item], rtol=1e-4)


def test_frequencies_follow_the_stream() -> None:
    rng = np.random.default_rng(0)
    estimate = _StreamingFrequency(3, 0.005)
    for probabilities in ([0.6, 0.3, 0.1], [0.1, 0.2, 0.7]):
        gaps = []
        for batch in rng.choice(3, size=(200, 50), p=probabilities):
            items, counts = np.unique(batch, return_counts=True)
            estimate.update(torch.from_numpy(items), torch.from_numpy(counts))
            gaps.append(1 / estimate.gap_I.numpy())
        np.testing.assert_allclose(np.mean(gaps[100:], axis=0), probabilities, rtol=0.2)


def test_history_is_pooled_as_the_formula_says() -> None:
    torch.manual_seed(0)
    pooling = _RecencyAttention(6, 3, 9)
    with torch.no_grad():
        pooling.weight_HD.normal_()
        pooling.age_HL.add_(torch.randn(3, 9))
    x = torch.randn(2, 7, 6)
    found = pooling(x)
    for row in range(2):
        for position in range(7):
            for head in range(3):
                past = x[row, : position + 1]
                logit = 8 * torch.tanh(past @ pooling.weight_HD[head] / 8)
                weights = torch.softmax(logit + pooling.age_HL[head, : position + 1].flip(0), 0)
                expected = weights @ past[:, 2 * head : 2 * head + 2]
                torch.testing.assert_close(found[row, position, 2 * head : 2 * head + 2], expected)
    last = torch.tensor([6, 2])
    torch.testing.assert_close(pooling(x, last), found[torch.arange(2), last])


def test_extreme_weights_of_the_history_stay_finite() -> None:
    pooling = _RecencyAttention(4, 2, 200)
    with torch.no_grad():
        pooling.weight_HD.fill_(1e4)
        pooling.age_HL.mul_(100.0)
    x = torch.randn(2, 200, 4, requires_grad=True)
    found = pooling(x)
    found.sum().backward()
    assert found.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_scores_are_cosines_divided_by_the_temperature() -> None:
    model = build(temperature=0.1).eval()
    queries = Queries.anonymous(Events.of([[1, 2], []]))
    np.testing.assert_allclose(np.linalg.norm(model.vectors, axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(model.encode(queries), axis=1), 10.0, rtol=1e-5)


@pytest.mark.parametrize("features", [{}, {"item_features": None}])
def test_features_that_the_data_lacks_are_left_out(features: dict[str, Any]) -> None:
    model: Any = train_small("two_tower", replace(world(), **features), epochs=1)
    assert model.config.inputs == ("item_features", "user_features")
    assert (model.inputs is None) == bool(features)
    assert np.isfinite(model.score(Queries.anonymous(Events.of([[0]])))).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frequency_rate": 0.5}, r"model\.frequency_rate: got 0\.5, which only frequencies='streaming' uses"),
        ({"inputs": (), "id_dropout": 0.5}, r"model\.id_dropout: got 0\.5, which only the input item_features uses"),
        ({"inputs": ("item_features",), "feature_dropout": 0.5}, r"model\.feature_dropout: got 0\.5"),
        ({"temperature": 0.0}, r"model\.temperature: got 0\.0"),
    ],
)
def test_invalid_settings_are_rejected(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(TwoTower.Config, values, "model")


def test_sizes_that_do_not_fit_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"model\.num_heads: got 3, expected a divisor of embedding_dim=16"):
        train_small("two_tower", world(), num_heads=3)
    with pytest.raises(ValueError, match=r"model\.objective: 'cloze' needs a bidirectional encoder"):
        train_small("two_tower", world(), objective="cloze")
