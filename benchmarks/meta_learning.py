"""Ratings of new users and of new items: meta-learning compared with fine-tuning, fold-in and means.

Two protocols, see :mod:`benchmarks.meta_learning_splits`: ten ratings of users who are not in training, and ratings of
warm and cold items by warm and cold users. Settings are chosen on the validation users by RMSE.

Shapes: N queries, C candidates, M metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from time import process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe_lines
from benchmarks.meta_learning_rows import BASELINE, CONSTANT, FINE_TUNING, ROWS, candidates, prepare_row
from benchmarks.meta_learning_splits import (
    COLD_ITEMS,
    GROUPS,
    N_RATINGS,
    NEW_USERS,
    QUERY,
    QUERY_QUADRANT,
    Protocol,
    split_quadrants,
    split_users,
)
from benchmarks.table_rows import correct, head_lines, select_rows, significance_mark
from segue.core.types import Dataset
from segue.data import load
from segue.evaluation.bootstrap import estimate
from segue.evaluation.significance import compare_all

__all__ = ["PROTOCOLS", "measure", "page", "rating_metrics", "run"]

RELEVANT = 4.0
"""Least rating that is relevant."""
LOWER_IS_BETTER = ("MAE", "RMSE")
PUBLISHED = {
    "TaNP": (0.6036, 0.6145, 0.7993),
    "MAMO": (0.5923, 0.6079, 0.8073),
    "MeLU": (0.5061, 0.5044, 0.7016),
}
"""P@5, nDCG@5 and MRR@5 of MovieLens 1M in RecBole-MetaRec, on a split of its own."""

Values = NDArray[np.float64]
"""Metrics of each query, ``(M, N)``."""


def rating_metrics(
    k: int, is_graded: bool, scores_NC: NDArray[Any], ratings_NC: NDArray[Any], rng: np.random.Generator
) -> Values:
    """Return precision and MRR (unless graded), nDCG and mean absolute error of each query; ties are in random order.

    Relevant are ratings of :data:`RELEVANT` and more; without any, precision, nDCG and MRR are 0.

    Args:
        k: cut-off.
        is_graded: use the gains ``2^rating - 1`` in nDCG, not those of relevant ratings.
    """
    order_NC = np.lexsort((rng.random(scores_NC.shape), -scores_NC), axis=1)
    ranked_NC = np.take_along_axis(ratings_NC, order_NC, axis=1).astype(np.float64)
    gains_NC = np.exp2(ranked_NC) - 1 if is_graded else (ranked_NC >= RELEVANT).astype(np.float64)
    discounts = 1.0 / np.log2(np.arange(k) + 2)
    ideal = -np.sort(-gains_NC, axis=1)[:, :k] @ discounts
    ndcg = np.divide(gains_NC[:, :k] @ discounts, ideal, out=np.zeros(len(ideal)), where=ideal > 0)
    mae = np.abs(scores_NC.astype(np.float64) - ratings_NC).mean(axis=1)
    if is_graded:
        return np.stack([ndcg, mae])
    hits_NK = ranked_NC[:, :k] >= RELEVANT
    mrr = np.where(hits_NK.any(axis=1), 1.0 / (hits_NK.argmax(axis=1) + 1), 0.0)
    return np.stack([hits_NK.mean(axis=1), ndcg, mrr, mae])


@dataclass(frozen=True)
class Measured:
    """How a protocol is measured."""

    split: Callable[[Dataset, int], Protocol]
    metrics: tuple[str, ...]
    compute: Callable[..., Values]
    rows: tuple[str, ...] = tuple(ROWS)


USERS, QUADRANTS = "users", "quadrants"
PROTOCOLS = {
    USERS: Measured(split_users, ("P@5", "nDCG@5", "MRR@5", "MAE"), partial(rating_metrics, 5, False)),
    QUADRANTS: Measured(
        split_quadrants,
        ("nDCG@3", "MAE"),
        partial(rating_metrics, 3, True),
        tuple(name for name in ROWS if name not in ("factorization_machine", "maml, first order")),
    ),
}


def run(options: Any) -> dict[str, Any]:
    """Measure all rows with several seeds; a seed draws the split and the model."""
    quick = options.quick
    source = options.source or ("ml-100k" if quick else "ml-1m")
    names = select_rows(options.models, ROWS, BASELINE)
    data = load(source)
    seeds = range(1 if quick else options.seeds)
    return {
        "data": {"name": data.name, "hash": data.header.get("hash"), "items": data.n_items},
        "seeds": len(seeds),
        "protocols": {name: measure(name, data, names, seeds, quick) for name in PROTOCOLS},
    }


def measure(
    protocol: str,
    data: Dataset,
    names: list[str],
    seeds: range,
    quick: bool = False,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure rows on the test queries of one split per seed."""
    task = PROTOCOLS[protocol]
    names = [name for name in names if name in task.rows]
    values: dict[str, dict[str, list[Values]]] = {}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    chosen: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    sizes = []
    for seed in seeds:
        split = task.split(data, seed)
        sizes.append(int((split.parts.train.histories.lengths > 0).sum()))
        networks: dict[str, Any] = {}
        for name in names:
            started = process_time()
            scorer, settings = prepare_row(name, split.parts, seed, quick, networks)
            trained, found = process_time(), []
            for group, held_out in split.groups.items():
                items_NC, ratings_NC = candidates(held_out)
                scores_NC = scorer(held_out.queries, items_NC)
                found.append(task.compute(scores_NC, ratings_NC, np.random.default_rng(seed)))
                values.setdefault(group, {}).setdefault(name, []).append(found[-1])
            seconds[name].append((trained - started, process_time() - trained))
            chosen[name].append(settings)
            log(f"{protocol}, {name}, seed {seed}: {[np.round(one.mean(axis=1), 4).tolist() for one in found]}")
    return {
        "metrics": list(task.metrics),
        "training_users": float(np.mean(sizes)),
        "rows": {
            name: {
                "kind": ROWS[name].kind,
                "settings": dict(ROWS[name].settings),
                "chosen": chosen[name],
                "train_seconds": float(np.mean([one[0] for one in seconds[name]])),
                "score_seconds": float(np.mean([one[1] for one in seconds[name]])),
            }
            for name in names
        },
        "groups": {group: _summarize(found, task.metrics) for group, found in values.items()},
    }


def _summarize(values: Mapping[str, list[Values]], metrics: tuple[str, ...]) -> dict[str, Any]:
    """Return means, intervals and paired tests of the queries of all seeds."""
    pooled = {name: np.concatenate(found, axis=1) for name, found in values.items()}
    rows = {}
    for name, found in pooled.items():
        by_seed = np.stack([one.mean(axis=1) for one in values[name]])
        cells = estimate(found.T)
        rows[name] = {
            metric: {"mean": cell.mean, "interval": [cell.low, cell.high], "seeds": by_seed[:, number].tolist()}
            for number, (metric, cell) in enumerate(zip(metrics, cells, strict=True))
        }
    queries = next(iter(pooled.values())).shape[1]
    references = [name for name in (BASELINE, "maml") if name in pooled]
    return {
        "queries": queries,
        "rows": rows,
        "tests": {name: _paired_tests(pooled, name, metrics) for name in references},
    }


def _paired_tests(values: Mapping[str, Values], reference: str, metrics: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Compare every row with ``reference``: by metric and row; the tests of one metric are one family."""
    found: dict[str, dict[str, Any]] = {}
    if len(values) < 2:
        return found
    for number, metric in enumerate(metrics):
        tests = compare_all({name: one[number] for name, one in values.items()}, reference)
        found[metric] = {test["first"]: test for test in correct(tests)}
    return found


def page(found: dict[str, Any]) -> str:
    """Format both tables, the published figures, the verdicts and the tests."""
    low, high = N_RATINGS
    users, quadrants = found["protocols"][USERS], found["protocols"][QUADRANTS]
    name = found["data"]["name"]
    seeds = f"{found['seeds']} seeds, which draw the split and the model"
    lines = [
        f"# Meta-learning: ratings of new users and new items of {name}",
        "",
        "```sh",
        "python -m benchmarks meta_learning",
        "```",
        "",
        "## New users",
        "",
        f"Users with {low} to {high} ratings, divided 8:1:1 at random: {users['training_users']:,.0f} train, and "
        f"{users['groups'][NEW_USERS]['queries'] / found['seeds']:,.0f} each are validation and test. {QUERY} random "
        "ratings of each test user are ranked; the others are known, and so are the features of the user. Relevant are "
        f"ratings of {RELEVANT:g} and more; nDCG has binary relevance; a user without relevant ratings counts as 0. "
        f"{seeds}.",
        "",
        *_table_lines(users, NEW_USERS, published=True),
        "Brackets: 95 % bootstrap interval over the test users of all seeds. ▲ and ▼: better and worse than "
        f"{BASELINE}, paired randomization test over users, p < 0.05 after Holm's correction for the rows of a metric; "
        "△ and ▽: p < 0.05 before the correction. A user may be in the test of several seeds, and counts once for "
        "each. CPU time includes the choice of settings.",
        *(f"\nMeasured later, on the same queries, and not tested: {text}." for text in found.get("added", ())),
        "",
        "The published figures are of RecBole-MetaRec, on another random split of MovieLens 1M, in a version that was "
        "deleted later: weak evidence. Where a random order or plain means pass them, they were not measured under "
        "this protocol, and being above them says nothing.",
        "",
        *_verdict_lines(users, NEW_USERS),
        "",
        "## New items",
        "",
        f"The quadrants of MeLU. The same division of users; {COLD_ITEMS:.0%} of the items, drawn at random, are cold: "
        f"no training event and no history has them. {QUERY_QUADRANT} ratings of warm items and {QUERY_QUADRANT} of "
        "cold items are held out of each test user (cold users), and of as many training users (warm users). nDCG has "
        "the gains 2^rating - 1. A further tenth of the items is cold in validation, and in neither training nor test. "
        "The means and `als` know nothing of a cold item: they order cold items by chance. The settings of "
        "`factorization_machine` were not tuned. Being better than these rows on cold items says little. In MAE, the "
        f"simplest prediction is `{CONSTANT}`, the same rating for all. "
        f"{seeds}.",
        "",
    ]
    for group in GROUPS:
        lines += [f"### {group[0].upper()}{group[1:]}", "", *_table_lines(quadrants, group)]
        lines += [*_verdict_lines(quadrants, group), ""]
    lines += _test_lines({**users["groups"], **quadrants["groups"]})
    lines += [
        "## Settings",
        "",
        "The best epoch of networks and the settings below were chosen by RMSE on the validation users, the learning "
        "rate and batch size of `maml` on those of the first seed, some of whom are test users of the other seeds.",
        "",
        *_setting_lines(users, "new users"),
        *_setting_lines(quadrants, "new items"),
    ]
    return "\n".join([*lines, *_provenance_lines(found), ""])


def _table_lines(found: Mapping[str, Any], group: str, published: bool = False) -> list[str]:
    rows, metrics = found["groups"][group]["rows"], found["metrics"]
    lines = [
        f"{found['groups'][group]['queries']:,} queries.",
        "",
        *head_lines(["row", "method", *metrics, "training, CPU s", "test, CPU s"], len(metrics) + 2),
    ]
    for name in rows:
        cells = [_cell(found["groups"][group], name, metric) if _is_shown(name, metric) else "" for metric in metrics]
        cost = found["rows"][name]
        seconds = f"{cost['train_seconds']:.1f} | {cost['score_seconds']:.2f}"
        lines.append(f"| {name} | {cost['kind']} | {' | '.join(cells)} | {seconds} |")
    if published:
        for name, figures in PUBLISHED.items():
            lines.append(f"| {name}, published | | {' | '.join(f'{value:.4f}' for value in figures)} | | | |")
    return [*lines, ""]


def _is_shown(name: str, metric: str) -> bool:
    """Whether a figure means something: chance predicts no ratings, and a constant ranks by chance."""
    return name != ("random" if metric in LOWER_IS_BETTER else CONSTANT)


def _cell(group: Mapping[str, Any], name: str, metric: str) -> str:
    found = group["rows"][name][metric]
    test = group["tests"].get(BASELINE, {}).get(metric, {}).get(name)
    mark = significance_mark(test, lower_is_better=metric in LOWER_IS_BETTER)
    low, high = found["interval"]
    return f"{found['mean']:.4f} [{low:.3f}, {high:.3f}]{mark and ' ' + mark}"


def _verdict_lines(found: Mapping[str, Any], group: str) -> list[str]:
    """Compare ``maml`` with the best other row, and state which rows are significantly better."""
    rows, tests = found["groups"][group]["rows"], found["groups"][group]["tests"]
    others = [name for name in rows if name not in ("maml", "maml, first order")]
    if "maml" not in rows or not others:
        return []
    lines = []
    for metric in found["metrics"]:
        sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
        shown = [name for name in others if _is_shown(name, metric)]
        ranked = sorted(shown, key=lambda name: -sign * rows[name][metric]["mean"])
        tested = next((name for name in ranked if name in tests["maml"][metric]), ranked[0])
        for best in dict.fromkeys([ranked[0], tested]):
            difference, test = (
                rows["maml"][metric]["mean"] - rows[best][metric]["mean"],
                tests["maml"][metric].get(best),
            )
            if test is None:
                outcome, p = "above" if difference > 0 else "below", "not tested"
            else:
                outcome, p = "better than" if sign * difference > 0 else "worse than", f"p = {test['p_holm']:.4f}"
                if test["p_holm"] >= 0.05:
                    outcome = "not distinguishable from"
            which = "the best other row" if best == ranked[0] else "the best tested row"
            lines.append(
                f"* {metric}: `maml` {rows['maml'][metric]['mean']:.4f} is {outcome} {which}, {best} "
                f"({rows[best][metric]['mean']:.4f}; {p})"
            )
    return lines


def _test_lines(groups: Mapping[str, Any]) -> list[str]:
    lines = [
        "## Paired tests with maml",
        "",
        "Difference of the row to `maml`; paired randomization tests over users; p after Holm's correction for the "
        "rows of a metric in a group. Lower MAE is better.",
        "",
        "| group | metric | row | difference | 95 % interval | p |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for group, found in groups.items():
        for metric, tests in found["tests"].get("maml", {}).items():
            lines += [
                f"| {group} | {metric} | {name} | {test['difference']:+.4f} | [{test['interval'][0]:+.4f}, "
                f"{test['interval'][1]:+.4f}] | {test['p_holm']:.4f} |"
                for name, test in tests.items()
                if _is_shown(name, metric)
            ]
    return [*lines, ""]


def _setting_lines(found: Mapping[str, Any], title: str) -> list[str]:
    lines = []
    for name, row in found["rows"].items():
        if any(row["chosen"]):
            texts = [", ".join(_choice(name, key, value) for key, value in one.items()) for one in row["chosen"]]
            lines.append(f"* {title}, {name}, by seed: {'; '.join(texts)}")
    return lines


def _choice(row: str, key: str, value: float) -> str:
    """Format a chosen setting, and say whether it is at an end of its grid."""
    grid = ROWS[row].grid.get(key, (value,))
    is_end = len(grid) > 1 and value in (min(grid), max(grid))
    return f"{key} {value:g}{' (end of the grid)' if is_end else ''}"


def _provenance_lines(found: Mapping[str, Any]) -> list[str]:
    lines = [
        "* readings of the test part: one of each row and seed by the run of this page; earlier ones were not recorded",
        f"* data hash {found['data']['hash']}",
    ]
    for name in ("maml", FINE_TUNING):
        if name in found["protocols"][USERS]["rows"]:
            settings = found["protocols"][USERS]["rows"][name]["settings"]
            lines.append(f"* {name}: {', '.join(f'{key}={value}' for key, value in settings.items())}")
    return [*lines, *(describe_lines(found["machine"]) if "machine" in found else [])]
