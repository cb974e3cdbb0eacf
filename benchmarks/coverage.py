"""Whether 95 % intervals contain the truth, and paired tests keep their error rate, in the simulated world.

A large population is simulated once, so that its mean is the truth. Each repetition draws users, examples or queries
from it with replacement, and computes intervals or tests as Segue does. With 1,000 repetitions, a share of 95 % has a
standard error of 0.7 %. Nothing is trained on what is drawn: intervals are over users or queries, for a given model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.coverage_policies import measure_policies, policy_tables
from benchmarks.machine import describe_lines
from benchmarks.table_rows import head_lines, row_line

__all__ = ["page", "run"]

Values = NDArray[np.float64]

SOURCE, QUICK_SOURCE = "simulated?users=20000&items=500&seed=1", "simulated?users=400&items=60&seed=1"
METRICS = ("ndcg@10", "mrr@10", "hit_rate@10", "hit_rate@1")
MODELS = ("item_knn", "popular")
USERS = (30, 100, 300, 1_000)
EXAMPLES = (200, 1_000, 5_000)
POSITIVE_SHARES = (0.5, 0.1, 0.02)
TEST_USERS = (10, 30, 300)
FAMILY_USERS = 300
NULLS, EFFECTS = 6, 3
"""Models of a family that are as good as the baseline, and better ones."""
PERMUTATIONS = 999
LEVEL = 0.05


def run(options: Any) -> dict[str, Any]:
    """Measure coverage and error rates."""
    repetitions = 10 if options.quick else 1_000
    found: dict[str, Any] = {"seed": options.seed, "repetitions": repetitions}
    values = population_values(QUICK_SOURCE if options.quick else SOURCE)
    found["source"] = QUICK_SOURCE if options.quick else SOURCE
    rng = np.random.default_rng(options.seed)
    found["ranking"] = ranking_coverage(values[MODELS[0]], repetitions, rng)
    found["auc"] = auc_coverage(repetitions, rng)
    first, second = (values[model][:, 0] for model in MODELS)
    found["tests"] = test_error_rates(first, second, repetitions, rng)
    found["families"] = family_error_rates(first, second, repetitions, rng)
    return found | measure_policies(repetitions, rng, quick=options.quick)


def population_values(source: str) -> dict[str, Values]:
    """Return the metrics of each user, ``(U, metrics)``, by model."""
    import segue

    split = segue.split(segue.load(source))
    found = {}
    for key in MODELS:
        result = segue.evaluate(segue.train(key, split), split, metrics=METRICS)
        found[key] = np.column_stack([result.values[name] for name in METRICS])
    return found


def ranking_coverage(values_UM: Values, repetitions: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Measure the bootstrap intervals of ranking metrics, for several numbers of users."""
    from segue.evaluation.bootstrap import estimate

    truth_M = values_UM.mean(0)
    rows = []
    for users in USERS:
        drawn = [values_UM[rng.integers(len(values_UM), size=users)] for _ in range(repetitions)]
        found = [estimate(one, seed) for seed, one in enumerate(drawn)]
        for number, metric in enumerate(METRICS):
            ends = np.array([(one[number].low, one[number].high) for one in found])
            rows.append(
                {"metric": metric, "users": users, "truth": truth_M[number], **share_inside(ends, truth_M[number])}
            )
    return rows


def share_inside(ends_R2: Values, truth: float) -> dict[str, float]:
    """Return how often an interval contains the truth, is above or below it, and the mean width."""
    low_R, high_R = ends_R2.T
    return {
        "covered": float(((low_R <= truth) & (truth <= high_R)).mean()),
        "above": float((low_R > truth).mean()),
        "below": float((high_R < truth).mean()),
        "width": float((high_R - low_R).mean()),
    }


def auc_coverage(repetitions: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Measure DeLong's intervals of the AUC, for several numbers of examples and shares of positive ones.

    Scores of positive examples are normal with a mean of 1, those of negative ones of 0, so that the AUC is known.
    """
    from scipy.stats import norm

    from segue.evaluation.auc_variance import auc_estimate

    truth = float(norm.cdf(1 / np.sqrt(2)))
    rows = []
    for share in POSITIVE_SHARES:
        for examples in EXAMPLES:
            ends = []
            for _ in range(repetitions):
                labels = rng.random(examples) < share
                if labels.all() or not labels.any():
                    continue
                found = auc_estimate(labels, rng.normal(size=examples) + labels)
                ends.append((found.low, found.high))
            rows.append({"examples": examples, "share": share, "undefined": 1 - len(ends) / repetitions, "truth": truth}
                        | share_inside(np.array(ends), truth))  # fmt: skip
    return rows


def draw_null(
    first_U: Values, second_U: Values, users: int, models: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], Values]:
    """Draw users, and for each model and user the value of one of two models.

    As a coin decides for each, all are equally good, and their differences are symmetric.

    Returns:
        The users drawn, and the values ``(users, models)``.
    """
    drawn = rng.integers(len(first_U), size=users)
    is_first = rng.random((users, models)) < 0.5
    return drawn, np.where(is_first, first_U[drawn, None], second_U[drawn, None])


def test_error_rates(
    first_U: Values, second_U: Values, repetitions: int, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Measure how often each paired test finds a difference that does not exist."""
    from segue.evaluation.significance import compare_all

    rows = []
    for users in TEST_USERS:
        rejected = dict.fromkeys(("randomization", "bootstrap", "wilcoxon", "student"), 0)
        excluded = 0
        for repetition in range(repetitions):
            _, values = draw_null(first_U, second_U, users, 2, rng)
            for test in rejected:
                named: Any = {"a": values[:, 0], "b": values[:, 1]}
                options: Any = {"permutations": PERMUTATIONS, "stat_test": test, "seed": repetition}
                found = compare_all(named, **options)[0]
                rejected[test] += found.p < LEVEL
            excluded += not found.low <= 0 <= found.high
        rates = {test: count / repetitions for test, count in rejected.items()}
        rows.append({"users": users, **rates, "interval": excluded / repetitions})
    return rows


def family_error_rates(
    first_U: Values, second_U: Values, repetitions: int, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Measure both corrections in families of models, of which some are better than the baseline."""
    from segue.evaluation.significance import compare_all

    rows = []
    for test in ("randomization", "student"):
        any_false = {"none": 0, "holm": 0, "fdr_bh": 0}
        false_share = dict.fromkeys(any_false, 0.0)
        found_share = dict.fromkeys(any_false, 0.0)
        for repetition in range(repetitions):
            drawn, values = draw_null(first_U, second_U, FAMILY_USERS, NULLS + 1, rng)
            named: Any = {"baseline": values[:, 0], **{f"null {n}": values[:, n + 1] for n in range(NULLS)}}
            better = np.maximum(first_U, second_U)[drawn]
            chosen = rng.random((FAMILY_USERS, EFFECTS)) < 0.5
            named |= {f"better {n}": np.where(chosen[:, n], better, values[:, 0]) for n in range(EFFECTS)}
            options: Any = {"permutations": PERMUTATIONS, "stat_test": test, "seed": repetition}
            tests = compare_all(named, "baseline", **options)
            for correction in any_false:
                field = {"none": "p", "holm": "p_holm", "fdr_bh": "p_fdr_bh"}[correction]
                significant = [one.first for one in tests if getattr(one, field) < LEVEL]
                n_false = sum(name.startswith("null") for name in significant)
                any_false[correction] += n_false > 0
                false_share[correction] += n_false / max(1, len(significant))
                found_share[correction] += (len(significant) - n_false) / EFFECTS
        rows += [
            {
                "test": test,
                "correction": correction,
                "any_false": any_false[correction] / repetitions,
                "false_share": false_share[correction] / repetitions,
                "found_share": found_share[correction] / repetitions,
            }
            for correction in any_false
        ]
    return rows


def percent(value: float) -> str:
    """Format a share."""
    return f"{100 * value:.1f} %"


def mark(covered: float) -> str:
    """Format a coverage, in bold where it is outside 93 to 97 %."""
    return percent(covered) if 0.93 <= covered <= 0.97 else f"**{percent(covered)}**"


def page(found: dict[str, Any]) -> str:
    """Format the tables."""
    lines = [
        "# Coverage of intervals and error rates of tests",
        "",
        f"{found['repetitions']:,} repetitions in the simulated world, whose truth is known; a share of 95 % then has "
        f"a standard error of {percent(np.sqrt(0.95 * 0.05 / found['repetitions']))}. Coverages outside 93 to 97 % are "
        "bold.",
        "",
        "## Ranking metrics: bootstrap over users",
        "",
        f"`{MODELS[0]}` on `{found['source']}`.",
        "",
        *head_lines(["metric", "users", "truth", "covered", "interval above", "below", "mean width"], 5),
    ]
    for row in found["ranking"]:
        cells = [row["metric"], f"{row['users']:,}", f"{row['truth']:.4f}", mark(row["covered"])]
        lines.append(row_line([*cells, percent(row["above"]), percent(row["below"]), f"{row['width']:.4f}"]))
    lines += ["", "## AUC: DeLong's interval over examples", ""]
    lines += head_lines(["examples", "positive", "truth", "covered", "interval above", "below", "not defined"], 5)
    for row in found["auc"]:
        cells = [f"{row['examples']:,}", percent(row["share"]), f"{row['truth']:.4f}", mark(row["covered"])]
        lines.append(row_line([*cells, percent(row["above"]), percent(row["below"]), percent(row["undefined"])]))
    tests = ("randomization", "bootstrap", "wilcoxon", "student")
    lines += [
        "",
        "## Paired tests of equally good models",
        "",
        f"Share of repetitions with p below 0.05, NDCG@10 of two models whose values are exchanged at random; "
        f"{PERMUTATIONS} permutations or resamples. `interval`: the 95 % bootstrap interval of the difference excludes "
        "0.",
        "",
        *head_lines(["users", *tests, "interval"], 5),
    ]
    lines += [
        row_line([f"{row['users']:,}", *(percent(row[test]) for test in (*tests, "interval"))])
        for row in found["tests"]
    ]
    lines += [
        "",
        f"## Families: {NULLS} equally good and {EFFECTS} better models against a baseline, {FAMILY_USERS} users",
        "",
        *head_lines(["test", "correction", "any false positive", "false among significant", "better ones found"], 3),
    ]
    for row in found["families"]:
        numbers = (percent(row[name]) for name in ("any_false", "false_share", "found_share"))
        lines.append(row_line([row["test"], row["correction"], *numbers]))
    lines += ["", *policy_tables(found)]
    lines += ["", f"* seed {found['seed']}; no test part of real data is read"]
    return "\n".join([*lines, *describe_lines(found["machine"]), ""])
