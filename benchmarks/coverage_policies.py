"""Error and coverage of off-policy estimators by overlap, in the simulated world.

Queries of simulated users have 20 candidates, of which the logging policy draws lists of three by softmax of their
popularity. The target policy draws lists by softmax of the scores of ``item_knn``; its temperature is the overlap. Its
value is known, as the probabilities of clicks are.

Shapes: Q queries of the population, N sampled queries, C candidates, K positions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.table_rows import head_lines, row_line

__all__ = ["measure_policies", "policy_tables"]

Values = NDArray[np.float64]

SOURCE, QUICK_SOURCE = "simulated?users=10000&items=500&max_length=200&seed=2", "simulated?users=200&items=60&seed=2"
QUERIES = (500, 2_000)
TEMPERATURES = (2.0, 1.0, 0.5, 0.25, None)
"""Of the target policy, in standard deviations of its scores; ``None``: the best items in order."""
LOGGING_TEMPERATURE = 1.0
SHRINKAGE = 20.0
"""Impressions with the overall click rate that are added to each item in the model of rewards."""
FOLDS = 2


def measure_policies(repetitions: int, rng: np.random.Generator, *, quick: bool) -> dict[str, Any]:
    """Measure bias, error and coverage of each estimator, by temperature and number of queries."""
    import segue
    from segue.core.examples.list_policies import plackett_luce, top_k
    from segue.data.simulator import ImpressionSettings, SimulatedImpressions

    data = segue.load(QUICK_SOURCE if quick else SOURCE)
    world = SimulatedImpressions.of(data, ImpressionSettings(temperature=LOGGING_TEMPERATURE))
    scores_QC = _model_scores(segue.train("item_knn", data).model, world)
    n_positions = len(world.examination_K)
    targets = [
        top_k(scores_QC, n_positions) if one is None else plackett_luce(scores_QC, n_positions, one)
        for one in TEMPERATURES
    ]
    rows: list[dict[str, Any]] = []
    for queries in QUERIES:
        found = [_repeat(world, targets, rng.integers(len(scores_QC), size=queries), rng) for _ in range(repetitions)]
        for number, (temperature, target_QCK) in enumerate(zip(TEMPERATURES, targets, strict=True)):
            own = [one[number] for one in found]
            rows += _summarize(own, world.value(target_QCK), world.value(world.propensity_QCK), temperature, queries)
    return {"policy_source": QUICK_SOURCE if quick else SOURCE, "policies": rows}


def _model_scores(model: Any, world: Any) -> Values:
    """Return the standardized scores of the candidates, ``(Q, C)``."""
    from segue.core.types import Queries

    queries = Queries.of_users(np.arange(world.dataset.n_users, dtype=np.int32), world.dataset.histories)
    scores_QC = model.score(queries, world.candidates_QC.astype(np.int32)).astype(np.float64)
    scores_QC -= scores_QC.mean(1, keepdims=True)
    return np.asarray(scores_QC / np.maximum(scores_QC.std(1, keepdims=True), 1e-9))


def _repeat(
    world: Any, targets: list[Values], query_N: NDArray[np.int64], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Draw a log, and return all estimates of each target policy."""
    from segue.evaluation.off_policy import estimators as formulas
    from segue.evaluation.off_policy.overlap import OverlapLimits, find_thin_overlap, measure_overlap

    shown_NK, clicks_NK = world.sample(query_N, rng)
    rewards_NK = clicks_NK.astype(np.float64)
    n, n_positions = shown_NK.shape
    rows, positions = np.arange(n)[:, None], np.arange(n_positions)
    logged_NKK = world.propensity_QCK[query_N[:, None], shown_NK]
    predicted_NCK = _predict(world.candidates_QC[query_N], shown_NK, rewards_NK, world.dataset.n_items, rng)
    predicted_NK = predicted_NCK[rows, shown_NK, positions]
    on_policy = formulas.on_policy(rewards_NK)
    every, overlaps = [on_policy], []
    for target_QCK in targets:
        target_NCK = target_QCK[query_N]
        target_NKK = target_NCK[rows, shown_NK]
        weights_NK = target_NKK[rows, positions, positions] / logged_NKK[rows, positions, positions]
        mass_NK = np.ones_like(weights_NK)
        expected_N = (target_NCK * predicted_NCK).sum((1, 2))
        clip = formulas.default_clip(weights_NK.size)
        every += [
            formulas.ips(rewards_NK, weights_NK),
            formulas.clipped_ips(rewards_NK, weights_NK, clip),
            formulas.snips(rewards_NK, weights_NK, mass_NK),
            formulas.direct_method(expected_N),
            formulas.doubly_robust(rewards_NK, weights_NK, predicted_NK, expected_N),
            formulas.ips(rewards_NK, formulas.examination_weights(target_NKK, logged_NKK, world.examination_K)),
        ]
        overlaps.append(measure_overlap(weights_NK, mass_NK))
    values_BT = formulas.resample_values(every, None, int(rng.integers(2**31)))
    found, names = [], formulas.ESTIMATORS
    for number, overlap in enumerate(overlaps):
        columns = range(1 + number * len(names), 1 + (number + 1) * len(names))
        estimates = {
            name: formulas.to_estimate(every[column].value, values_BT[:, column])
            for name, column in zip(names, columns, strict=True)
        }
        differences = {
            name: formulas.to_estimate(every[column].value - on_policy.value, values_BT[:, column] - values_BT[:, 0])
            for name, column in zip(names, columns, strict=True)
        }
        found.append(
            {
                "estimates": estimates,
                "differences": differences,
                "effective_sample_size": overlap.effective_sample_size,
                "is_refused": bool(find_thin_overlap(overlap, OverlapLimits())),
            }
        )
    return found


def _predict(
    candidates_NC: NDArray[np.int64], shown_NK: NDArray[np.int64], rewards_NK: Values, n_items: int, rng: Any
) -> Values:
    """Return cross-fitted click rates of each candidate at each position, ``(N, C, K)``.

    They are the rates of the items, shrunk towards the overall rate, times the relative rates of the positions: wrong,
    as they do not know the users.
    """
    items_NK = np.take_along_axis(candidates_NC, shown_NK, axis=1)
    fold_N = rng.integers(FOLDS, size=len(items_NK))
    found_NCK = np.empty((*candidates_NC.shape, items_NK.shape[1]))
    for fold in range(FOLDS):
        is_other = fold_N != fold
        items, rewards = items_NK[is_other], rewards_NK[is_other]
        rate = max(rewards.mean(), 1e-9)
        shown_I = np.bincount(items.ravel(), minlength=n_items)
        clicked_I = np.bincount(items.ravel(), weights=rewards.ravel(), minlength=n_items)
        rate_I = (clicked_I + SHRINKAGE * rate) / (shown_I + SHRINKAGE)
        found_NCK[~is_other] = rate_I[candidates_NC[~is_other]][:, :, None] * (rewards.mean(0) / rate)
    return found_NCK


def _summarize(
    found: list[dict[str, Any]], truth: float, logged: float, temperature: float | None, queries: int
) -> list[dict[str, Any]]:
    """Return one row per estimator."""
    rows = []
    is_allowed = np.array([not one["is_refused"] for one in found])
    sizes = [one["effective_sample_size"] for one in found]
    for name in found[0]["estimates"]:
        means, lows, highs = np.array(
            [(one["estimates"][name].mean, one["estimates"][name].low, one["estimates"][name].high) for one in found]
        ).T
        is_inside = (lows <= truth) & (truth <= highs)
        difference = truth - logged
        has_difference = [one["differences"][name].low <= difference <= one["differences"][name].high for one in found]
        rows.append(
            {
                "temperature": temperature,
                "queries": queries,
                "estimator": name,
                "truth": truth,
                "logged": logged,
                "effective_sample_size": float(np.mean(sizes)),
                "refused": float(1 - is_allowed.mean()),
                "bias": float(means.mean() - truth),
                "bias_error": float(means.std() / np.sqrt(len(means))),
                "rmse": float(np.sqrt(np.square(means - truth).mean())),
                "covered": float(is_inside.mean()),
                "covered_if_allowed": float(is_inside[is_allowed].mean()) if is_allowed.any() else None,
                "difference_covered": float(np.mean(has_difference)),
            }
        )
    return rows


def policy_tables(found: dict[str, Any]) -> list[str]:
    """Format error and coverage by overlap."""
    lines = [
        "## Off-policy estimators by overlap",
        "",
        f"`{found['policy_source']}`: a query per user, 20 candidates, lists of three. The logging policy is a softmax "
        "of popularity, the target policy a softmax of the scores of `item_knn`, whose temperature is in standard "
        "deviations of the scores. The value is the number of clicks per list. Bias with its standard error; `ESS` is "
        "the mean effective sample size of the position with the smallest; `refused` is the share of repetitions that "
        "the default limits refuse; the last column is the coverage of the interval of the difference from the logging "
        "policy. Refused repetitions count in all columns but `covered if allowed`. The model of rewards of `dm` and "
        "`dr` knows items and positions, and not the users; `pbm` knows how likely positions are examined. For `dm`, "
        "`segue.evaluate_policy` gives no interval: that of the bootstrap, shown here, does not know the bias.",
    ]
    for queries in dict.fromkeys(row["queries"] for row in found["policies"]):
        labels = ["temperature", "value", "ESS", "refused", "estimator", "bias", "RMSE", "covered"]
        lines += ["", f"### {queries:,} queries", "", *head_lines([*labels, "covered if allowed", "difference"], 9)]
        for row in found["policies"]:
            if row["queries"] != queries:
                continue
            is_first = row["estimator"] == "ips"
            temperature = "best in order" if row["temperature"] is None else f"{row['temperature']:g}"
            lead = [
                temperature,
                f"{row['truth']:.4f}",
                f"{row['effective_sample_size']:,.0f}",
                _percent(row["refused"]),
            ]
            bias = f"{row['bias']:+.4f} ± {row['bias_error']:.4f}"
            cells = [row["estimator"], bias, f"{row['rmse']:.4f}", _mark(row["covered"])]
            cells += [_mark(row["covered_if_allowed"]), _mark(row["difference_covered"])]
            lines.append(row_line([*(lead if is_first else [""] * len(lead)), *cells]))
    return lines


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _mark(covered: float | None) -> str:
    if covered is None:
        return "all refused"
    return _percent(covered) if 0.93 <= covered <= 0.97 else f"**{_percent(covered)}**"
