"""Samplers draw as often as they say; with that, a sample stands for the whole catalogue without bias."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from segue.core.registry import exported_functions
from segue.nn.losses import negative_samplers
from segue.nn.losses.negatives import SampleNegatives
from segue.training.settings_checks import setting_names
from segue.training.train import Training

COUNTS = torch.tensor([40, 0, 1, 9, 16, 25, 4, 0, 5, 0])
"""How often each of ten items is in the training data; the batch below has them as often."""

TARGETS = torch.repeat_interleave(torch.arange(10), COUNTS)


def made(name: str, counts: Tensor = COUNTS, **settings: float) -> SampleNegatives:
    sampler = exported_functions(negative_samplers)[name]
    own = {key: getattr(Training(), key) for key in setting_names(sampler)} | settings
    draw: SampleNegatives = sampler(counts, **own)
    return draw


def scene(width: int = 3) -> tuple[Tensor, Tensor, None, Tensor]:
    make = torch.Generator().manual_seed(1)
    hidden = torch.randn(len(TARGETS), width, generator=make)
    return hidden, torch.randn(10, width, generator=make), None, TARGETS


CASES = [
    ("uniform", {}),
    ("popularity", {"sampler_alpha": 0.0}),
    ("popularity", {"sampler_alpha": 0.5}),
    ("popularity", {"sampler_alpha": 1.0}),
    ("in_batch", {}),
    ("mixed", {"in_batch_fraction": 0.3}),
    ("mixed", {"in_batch_fraction": 0.0}),
    ("mixed", {"in_batch_fraction": 1.0}),
]


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_items_are_drawn_as_often_as_is_told(name: str, settings: dict[str, float]) -> None:
    torch.manual_seed(0)
    many = 200_000
    drawn = made(name, **settings)(many, *scene())
    found_I = torch.bincount(drawn.items_K, minlength=10) / many
    told_I = torch.zeros(10).scatter_(0, drawn.items_K, drawn.log_q_K.exp())
    if name == "uniform" or settings.get("in_batch_fraction", 1.0) < 1.0:
        # even chances are told for the items that are not the target: of nine, not of ten
        even = (1.0 - settings.get("in_batch_fraction", 0.0)) / 9
        told_I = told_I - even + even * 0.9
    torch.testing.assert_close(found_I, told_I, rtol=0.05, atol=1e-3)


@pytest.mark.parametrize("name", ["popularity", "in_batch", "mixed"])
def test_a_corrected_sample_stands_for_the_catalogue(name: str) -> None:
    torch.manual_seed(0)
    many = 100_000
    drawn = made(name, COUNTS + 1)(
        many, scene()[0], torch.zeros(10, 3), None, torch.arange(10).repeat_interleave(COUNTS + 1)
    )
    score_I = torch.linspace(-1.0, 2.0, 10)
    estimate = torch.logsumexp(score_I[drawn.items_K] - drawn.log_q_K - math.log(many), 0)
    near = 0.05 if name != "mixed" else math.log(10 / 9)  # even chances are told among nine items
    torch.testing.assert_close(estimate, torch.logsumexp(score_I, 0), rtol=0, atol=near)


def test_items_without_a_count_are_not_drawn_by_popularity() -> None:
    torch.manual_seed(0)
    drawn = made("popularity", sampler_alpha=0.1)(10_000, *scene())
    assert set(drawn.items_K.tolist()) == set(torch.nonzero(COUNTS)[:, 0].tolist())


def test_the_last_item_with_a_count_is_the_end_of_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda k, dtype: torch.ones(k, dtype=dtype))
    assert made("popularity")(3, *scene()).items_K.tolist() == [8, 8, 8]


def test_hard_keeps_the_best_of_a_pool() -> None:
    hidden, vectors, _, targets = scene()
    torch.manual_seed(0)
    pool = made("uniform")(200, hidden, vectors, None, targets)
    torch.manual_seed(0)
    kept = made("hard", hard_pool_factor=20.0)(10, hidden, vectors, None, targets)
    scores = (hidden @ vectors[pool.items_K].T).masked_fill(pool.items_K == targets[:, None], -math.inf)
    made_of = torch.softmax(scores, 1).sum(0)
    assert sorted(kept.items_K.tolist()) == sorted(pool.items_K[made_of.topk(10).indices].tolist())
    # corrected by it, each kept item weighs as much as it did in the pool
    torch.testing.assert_close(kept.log_q_K + math.log(10), pool.log_q_K[:10] + math.log(200))


def test_hard_without_a_larger_pool_is_uniform() -> None:
    torch.manual_seed(0)
    kept = made("hard", hard_pool_factor=1.0)(10, *scene())
    torch.manual_seed(0)
    even = made("uniform")(10, *scene())
    assert sorted(kept.items_K.tolist()) == sorted(even.items_K.tolist())
    torch.testing.assert_close(kept.log_q_K, even.log_q_K)


@pytest.mark.parametrize("name", exported_functions(negative_samplers))
def test_the_same_seed_draws_the_same_and_no_gradient_is_asked_for(name: str) -> None:
    draw, (hidden, vectors, _, targets) = made(name), scene()
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(draw(17, hidden.requires_grad_(), vectors.requires_grad_(), None, targets))
    assert len(found[0].items_K) == len(found[0].log_q_K) == 17
    assert torch.equal(found[0].items_K, found[1].items_K)
    assert found[0].items_K.dtype == torch.int64
    assert found[0].log_q_K.dtype == torch.float32
    assert not found[0].log_q_K.requires_grad


@pytest.mark.parametrize("name", exported_functions(negative_samplers))
def test_a_catalogue_of_one_item_can_be_drawn_from(name: str) -> None:
    one = torch.zeros(4, dtype=torch.int64)
    drawn = made(name, torch.tensor([4]))(5, torch.ones(4, 2), torch.ones(1, 2), None, one)
    assert drawn.items_K.tolist() == [0] * 5
    assert torch.isfinite(drawn.log_q_K).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", exported_functions(negative_samplers))
def test_a_device_draws_there(name: str) -> None:
    hidden, vectors, _, targets = scene()
    drawn = made(name, COUNTS.cuda())(50, hidden.cuda(), vectors.cuda(), None, targets.cuda())
    assert {drawn.items_K.device.type, drawn.log_q_K.device.type} == {"cuda"}
    assert 0 <= drawn.items_K.min() <= drawn.items_K.max() < 10


def test_popularity_draws_quickly_from_a_large_catalogue() -> None:
    counts = torch.arange(1_000_000)
    draw = made("popularity", counts)
    for _ in range(50):
        items = draw(256, torch.ones(1, 1), torch.ones(1, 1), None, torch.zeros(1, dtype=torch.int64)).items_K
    assert items.min() > 0
