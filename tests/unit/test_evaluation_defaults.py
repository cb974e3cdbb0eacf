"""Defaults of the evaluation, of statistics and of recommendation are the documented ones."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from segue.core import recommend as recommendation
from segue.data.splits import folds, sliding_windows
from segue.evaluation import bootstrap, confidence_sequences, significance, simple_baselines
from segue.evaluation.evaluate import DEFAULT_METRICS, evaluate, evaluate_lists, make_validator
from segue.evaluation.leakage import check_leakage
from segue.evaluation.metrics import resolve_metrics
from segue.evaluation.ranking import rank
from segue.evaluation.rating_metrics import training_errors
from segue.evaluation.sampled import rank_sampled
from segue.training import optim

DEFAULTS: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (
        evaluate,
        {
            "ks": (5, 10),
            "metrics": DEFAULT_METRICS,
            "exclude_seen": True,
            "seed": 0,
            "sampled": None,
            "groups": None,
            "warmth": None,
            "items": "all",
            "errors": (),
            "training": None,
            "labels": None,
        },
    ),
    (
        evaluate_lists,
        {
            "ks": (5, 10),
            "metrics": DEFAULT_METRICS,
            "seed": 0,
            "groups": None,
            "warmth": None,
            "training": None,
            "labels": None,
        },
    ),
    (make_validator, {"metric": "ndcg@10", "exclude_seen": True}),
    (resolve_metrics, {"ks": (10,)}),
    (rank, {"k": 10, "exclude_seen": True, "candidates": None}),
    (rank_sampled, {"seed": 0, "candidates": None, "exclude_seen": True}),
    (training_errors, {"use_times": False}),
    (check_leakage, {"ordered": None}),
    (bootstrap.estimate, {"seed": 0, "resamples": 1000}),
    (bootstrap.resample_means, {"resamples": 1000}),
    (significance.compare_pair, {"seed": 0, "stat_test": "randomization"}),
    (
        significance.compare_all,
        {"baseline": None, "seed": 0, "permutations": 9_999, "stat_test": "randomization", "correction": "holm"},
    ),
    (simple_baselines.sample_queries, {"count": 5_000}),
    (
        confidence_sequences.asymptotic_confidence_sequence,
        {"analysis_times": None, "alpha": 0.05, "expected_users": 10_000, "min_users": 100},
    ),
    (
        confidence_sequences.bounded_confidence_sequence,
        {"treatment_share": 0.5, "upper": 1.0, "analysis_times": None, "alpha": 0.05, "expected_users": 10_000},
    ),
    (confidence_sequences.sample_ratio_mismatch, {"expected_users": 10_000}),
    (confidence_sequences.look_schedule, {"dense": 1_000, "step": 0.005}),
    (folds, {"k": 5, "over": "interactions"}),
    (sliding_windows, {"count": 3, "train": None, "valid": None}),
    (recommendation.recommend, {"exclude_seen": True, "allowed": None, "exclude_rows": None}),
    (
        recommendation.recommend_from_state,
        {"seen": None, "times": None, "exclude_seen": True, "allowed": None, "context": None},
    ),
]


@pytest.mark.parametrize(("function", "defaults"), DEFAULTS, ids=lambda part: getattr(part, "__name__", ""))
def test_defaults(function: Callable[..., Any], defaults: dict[str, Any]) -> None:
    parameters = inspect.signature(function).parameters.values()
    assert {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty} == defaults


def test_constants() -> None:
    assert bootstrap.CONFIDENCE == 0.95
    assert confidence_sequences.TYPICAL_VARIANCE == 0.05
    assert simple_baselines.DAMPING == 5.0
    assert (optim.FINAL_LR_FRACTION, optim.WARMUP_FRACTION) == (0.01, 0.3)


def test_the_default_seed_is_zero() -> None:
    values = {"a": np.random.default_rng(0).random(30), "b": np.random.default_rng(1).random(30)}
    assert significance.compare_all(values) == significance.compare_all(values, seed=0)
    assert significance.compare_all(values) != significance.compare_all(values, seed=1)
