"""Sampling frequencies match the returned probabilities, so corrected samples estimate the whole catalog."""

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
"""Number of training events of each of ten items; ``TARGETS`` has the same counts."""

TARGETS = torch.repeat_interleave(torch.arange(10), COUNTS)


def build_sampler(name: str, counts: Tensor = COUNTS, **settings: float) -> SampleNegatives:
    sampler = exported_functions(negative_samplers)[name]
    defaults = {key: getattr(Training(), key) for key in setting_names(sampler)} | settings
    draw: SampleNegatives = sampler(counts, **defaults)
    return draw


def make_inputs(width: int = 3) -> tuple[Tensor, Tensor, None, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(len(TARGETS), width, generator=generator)
    return hidden, torch.randn(10, width, generator=generator), None, TARGETS


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
def test_sampling_frequencies_match_the_returned_probabilities(name: str, settings: dict[str, float]) -> None:
    torch.manual_seed(0)
    n_samples = 200_000
    sample = build_sampler(name, **settings)(n_samples, *make_inputs())
    actual_I = torch.bincount(sample.items_K, minlength=10) / n_samples
    expected_I = torch.zeros(10).scatter_(0, sample.items_K, sample.log_q_K.exp())
    if name == "uniform" or settings.get("in_batch_fraction", 1.0) < 1.0:
        # uniform probabilities are relative to the nine items other than the target, not to all ten
        uniform = (1.0 - settings.get("in_batch_fraction", 0.0)) / 9
        expected_I = expected_I - uniform + uniform * 0.9
    torch.testing.assert_close(actual_I, expected_I, rtol=0.05, atol=1e-3)


@pytest.mark.parametrize("name", ["popularity", "in_batch", "mixed"])
def test_corrected_samples_estimate_the_catalog_logsumexp(name: str) -> None:
    torch.manual_seed(0)
    n_samples = 100_000
    sample = build_sampler(name, COUNTS + 1)(
        n_samples, make_inputs()[0], torch.zeros(10, 3), None, torch.arange(10).repeat_interleave(COUNTS + 1)
    )
    score_I = torch.linspace(-1.0, 2.0, 10)
    estimate = torch.logsumexp(score_I[sample.items_K] - sample.log_q_K - math.log(n_samples), 0)
    tolerance = 0.05 if name != "mixed" else math.log(10 / 9)  # uniform probabilities are relative to nine items
    torch.testing.assert_close(estimate, torch.logsumexp(score_I, 0), rtol=0, atol=tolerance)


def test_popularity_does_not_sample_items_without_events() -> None:
    torch.manual_seed(0)
    sample = build_sampler("popularity", sampler_alpha=0.1)(10_000, *make_inputs())
    assert set(sample.items_K.tolist()) == set(torch.nonzero(COUNTS)[:, 0].tolist())


def test_popularity_maps_the_largest_random_number_to_the_last_item(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda k, dtype: torch.ones(k, dtype=dtype))
    assert build_sampler("popularity")(3, *make_inputs()).items_K.tolist() == [8, 8, 8]


def test_hard_selects_the_best_items_of_the_pool() -> None:
    hidden, vectors, _, targets = make_inputs()
    torch.manual_seed(0)
    pool = build_sampler("uniform")(200, hidden, vectors, None, targets)
    torch.manual_seed(0)
    selected = build_sampler("hard", hard_pool_factor=20.0)(10, hidden, vectors, None, targets)
    scores = (hidden @ vectors[pool.items_K].T).masked_fill(pool.items_K == targets[:, None], -math.inf)
    probabilities_K = torch.softmax(scores, 1).sum(0)
    assert sorted(selected.items_K.tolist()) == sorted(pool.items_K[probabilities_K.topk(10).indices].tolist())
    # after correction, each selected item has the same weight as in the pool
    torch.testing.assert_close(selected.log_q_K + math.log(10), pool.log_q_K[:10] + math.log(200))


def test_hard_with_pool_factor_one_is_uniform() -> None:
    torch.manual_seed(0)
    actual = build_sampler("hard", hard_pool_factor=1.0)(10, *make_inputs())
    torch.manual_seed(0)
    expected = build_sampler("uniform")(10, *make_inputs())
    assert sorted(actual.items_K.tolist()) == sorted(expected.items_K.tolist())
    torch.testing.assert_close(actual.log_q_K, expected.log_q_K)


@pytest.mark.parametrize("name", exported_functions(negative_samplers))
def test_samples_are_reproducible_and_need_no_gradient(name: str) -> None:
    draw, (hidden, vectors, _, targets) = build_sampler(name), make_inputs()
    samples = []
    for _ in range(2):
        torch.manual_seed(3)
        samples.append(draw(17, hidden.requires_grad_(), vectors.requires_grad_(), None, targets))
    assert len(samples[0].items_K) == len(samples[0].log_q_K) == 17
    assert torch.equal(samples[0].items_K, samples[1].items_K)
    assert samples[0].items_K.dtype == torch.int64
    assert samples[0].log_q_K.dtype == torch.float32
    assert not samples[0].log_q_K.requires_grad


@pytest.mark.parametrize("name", exported_functions(negative_samplers))
def test_samplers_support_a_catalog_of_one_item(name: str) -> None:
    targets_M = torch.zeros(4, dtype=torch.int64)
    sample = build_sampler(name, torch.tensor([4]))(5, torch.ones(4, 2), torch.ones(1, 2), None, targets_M)
    assert sample.items_K.tolist() == [0] * 5
    assert torch.isfinite(sample.log_q_K).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", exported_functions(negative_samplers))
def test_samples_are_on_the_device_of_the_inputs(name: str) -> None:
    hidden, vectors, _, targets = make_inputs()
    sample = build_sampler(name, COUNTS.cuda())(50, hidden.cuda(), vectors.cuda(), None, targets.cuda())
    assert {sample.items_K.device.type, sample.log_q_K.device.type} == {"cuda"}
    assert 0 <= sample.items_K.min() <= sample.items_K.max() < 10


def test_popularity_is_fast_for_a_large_catalog() -> None:
    counts = torch.arange(1_000_000)
    draw = build_sampler("popularity", counts)
    for _ in range(50):
        items = draw(256, torch.ones(1, 1), torch.ones(1, 1), None, torch.zeros(1, dtype=torch.int64)).items_K
    assert items.min() > 0
