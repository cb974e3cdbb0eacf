"""Likes of MovieLens 1M as in CoLLM: logistic regression next to language models of seven billion parameters.

The models learn from the events before April 2002, settings are chosen on those before September 2002, and the test is
the rest. The label of each event is predicted from its user, item and the user's earlier events, which in validation
and test include those of the same period, as in the published evaluation: there, the liked items alone.

UAUC is the mean over users with both labels of the AUC of their own events (``uAUC_me`` in
``minigpt4/tasks/rec_base_task.py`` of the repository zyang1580/CoLLM at commit 66ddd4d).

Shapes: E events of a part, R resamples, M metrics.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from time import process_time
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import segue
from benchmarks.machine import describe_lines
from benchmarks.table_rows import head_lines, interval_cell, row_line, select_rows
from segue.core.types import Dataset, Events, HeldOut, Queries, Split
from segue.data import load
from segue.data.filters import parse_time
from segue.data.sources.collm_ml_1m import TEST_FROM, VALID_FROM
from segue.evaluation.click_metrics import auc, uauc, user_aucs

__all__ = ["PUBLISHED", "ROWS", "Part", "Row", "measure", "page", "run", "select_events", "smoothed_means"]

Values = NDArray[np.float64]

METRICS = ("AUC", "UAUC")
STEPS = ("choice", "training", "test")
MEANS, MEANS_LABELS, MEANS_RETRAINED = (
    "item mean + user mean",
    "item mean + user mean (labels)",
    "item mean + user mean (retrained)",
)
"""Baselines, each with the inputs of a group of rows."""
RESAMPLES = 1_000
SMOOTHED = tuple({"prior": prior} for prior in (3.0, 5.0, 10.0, 20.0))
ALS_GRID = tuple({"l2": l2} for l2 in (0.03, 0.07, 0.2, 0.5))
PUBLISHED = {
    "MF": (0.6482, 0.6361),
    "SASRec": (0.7078, 0.6884),
    "DIN": (0.7166, 0.6459),
    "TALLRec, 7B": (0.7097, 0.6818),
    "CoLLM-MF, 7B": (0.7295, 0.6875),
    "BinLLM, 7B": (0.7425, 0.6956),
    "SellaRec, 7B (own table, with its own runs of the others)": (0.7606, 0.7464),
}
TARGETS = ("BinLLM, 7B", "SellaRec, 7B (own table, with its own runs of the others)")


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    kind: str
    model: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    grid: tuple[Mapping[str, Any], ...] = ({},)
    """Settings to choose from on validation."""
    history: str = "likes"
    """``likes``: earlier liked items, as published; ``all``: earlier items with their labels; ``none``: only what was
    learned of the user in training, for models that read each item of a history as an event with a label."""
    learns_validation: bool = False
    """Whether the chosen model is trained again, with the validation events."""
    seeds: int | None = 1
    """Number of seeds; 1 where there is no randomness, none: all."""

    reads_features: bool = False
    """Whether the model reads features of films, which the published models do not."""

    @property
    def baseline(self) -> str:
        """Return the means that know the same labels and events."""
        if self.history == "all":
            return MEANS_LABELS
        return MEANS_RETRAINED if self.learns_validation else MEANS


LOGISTIC = "logistic_regression"
CREW = ("all", "directors")
"""Film features that may be chosen: the whole crew, or directors without writers and actors."""
GRID = tuple(
    {"crew": crew, "l2_history": l2, "shrinkage": shrinkage}
    for crew in CREW
    for l2 in (0.03, 0.1, 0.3)
    for shrinkage in (5.0, 10.0)
)
FEATURES = ("item_features", "popularity")
ROWS: dict[str, Row] = {
    "item mean": Row("smoothed log odds", grid=SMOOTHED, history="none"),
    MEANS: Row("smoothed log odds", grid=SMOOTHED, history="none"),
    MEANS_RETRAINED: Row("the same, with the validation months", grid=SMOOTHED, history="none", learns_validation=True),
    MEANS_LABELS: Row("the same, user's share of likes in the history", grid=SMOOTHED, history="all"),
    "als": Row("matrix factorization", "als", grid=ALS_GRID, history="none", seeds=None),
    "als (retrained)": Row(
        "the same, retrained with the validation months",
        "als",
        grid=ALS_GRID,
        history="none",
        learns_validation=True,
        seeds=None,
    ),
    "als (labels)": Row("history with liked and disliked films", "als", grid=ALS_GRID, history="all", seeds=None),
    "factorization_machine": Row(
        "Bayesian, with films' features",
        "factorization_machine",
        {"likelihood": "ordered_probit", "inputs": ("item_features",), "iterations": 60, "num_samples": 20},
        tuple({"embedding_dim": width} for width in (0, 8)),
        history="none",
        seeds=None,
        reads_features=True,
    ),
    "logistic_regression (ids)": Row(
        "ids only", LOGISTIC, {"inputs": ()}, tuple({"l2_item": l2} for l2 in (1.0, 2.0, 4.0))
    ),
    "logistic_regression (features)": Row(
        "ids, films' features, popularity",
        LOGISTIC,
        {"inputs": FEATURES},
        tuple({"crew": crew, "l2_features": l2} for crew in CREW for l2 in (5.0, 10.0, 20.0)),
        reads_features=True,
    ),
    LOGISTIC: Row("the same, and matches with liked films", LOGISTIC, grid=GRID, reads_features=True),
    "logistic_regression (retrained)": Row(
        "the same, retrained with the validation months", LOGISTIC, grid=GRID, learns_validation=True
    ),
    "logistic_regression (labels)": Row(
        "history with liked and disliked films", LOGISTIC, {"history": "all"}, GRID, history="all"
    ),
}


@dataclass(frozen=True, eq=False)
class Part:
    """The events of validation or test, each with the user's earlier events."""

    queries: Mapping[str, Queries]
    """One query per event, by kind of history: ``likes``, ``all`` and ``none``."""
    users_E: NDArray[np.int64]
    items_E: NDArray[np.int32]
    labels_E: NDArray[np.bool_]
    is_warm_E: NDArray[np.bool_]
    """Whether user and item occur in training."""


def select_events(data: Dataset, is_part_T: NDArray[np.bool_], is_train_T: NDArray[np.bool_]) -> Part:
    """Make a query of each event in ``is_part_T``; its histories are the earlier events of its user.

    Raises:
        ValueError: an event has a value other than 0 and 1.
    """
    events = data.histories
    if events.values is None or not np.isin(events.values, (0.0, 1.0)).all():
        raise ValueError(f"{data.name}: expected values of 0 and 1")
    index = np.flatnonzero(is_part_T)
    users_E = events.rows[index]
    known = np.bincount(events.rows[is_train_T], minlength=data.n_users) > 0
    is_known_item = np.bincount(events.items[is_train_T], minlength=data.n_items) > 0
    lengths = index - events.offsets[users_E]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    earlier = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - events.offsets[users_E], lengths)
    histories = Events(offsets, events.items[earlier], values=events.values[earlier])
    kinds = {
        "all": histories,
        "likes": histories.where(events.values[earlier] > 0),
        "none": histories.where(np.zeros(len(earlier), np.bool_)),
    }
    users = users_E.astype(np.int32)
    return Part(
        {name: Queries(history, users, known[users_E]) for name, history in kinds.items()},
        users_E,
        events.items[index],
        events.values[index] > 0,
        known[users_E] & is_known_item[events.items[index]],
    )


def smoothed_means(
    train: Events, prior: float, users: Literal["training", "history"] | None, count: int
) -> Callable[[Part], Values]:
    """Return the log odds of the item's share of likes, plus those of the user, as a function of a part.

    Args:
        prior: number of events with the mean label that are added to each item and user.
        users: whether the share of a user is that in training, or in the history of the query with its labels; none:
            items alone.
        count: number of items.
    """
    assert train.values is not None
    mean = float(train.values.mean())

    def log_odds(likes: NDArray[Any], counts: NDArray[Any]) -> Values:
        share = (likes + prior * mean) / (counts + prior)
        odds: Values = np.log(share / (1.0 - share))
        return odds

    def count_likes(codes: NDArray[Any], labels: NDArray[Any], size: int) -> tuple[NDArray[Any], NDArray[Any]]:
        return np.bincount(codes, labels.astype(np.float64), size), np.bincount(codes, minlength=size)

    items_I = log_odds(*count_likes(train.items, train.values, count))
    users_U = log_odds(*count_likes(train.rows, train.values, len(train)))

    def score(part: Part) -> Values:
        if users is None:
            return items_I[part.items_E]
        if users == "training":
            return items_I[part.items_E] + users_U[part.users_E]
        history = part.queries["all"].history
        assert history.values is not None
        return items_I[part.items_E] + log_odds(*count_likes(history.rows, history.values, len(history)))

    return score


def run(options: Any) -> dict[str, Any]:
    """Measure all rows, or those of ``--models``; with ``--quick``, on validation and without a choice."""
    names = select_rows(options.models, ROWS)
    names = list(dict.fromkeys([*(ROWS[name].baseline for name in names), *names]))
    data = load(options.source or "collm-ml-1m")
    return measure(data, [name for name in ROWS if name in names], 1 if options.quick else options.seeds, options.quick)


def measure(
    data: Dataset,
    names: list[str],
    seeds: int,
    quick: bool = False,
    log: Callable[[str], None] = print,
    cuts: tuple[str, str] = (VALID_FROM, TEST_FROM),
) -> dict[str, Any]:
    """Choose the settings of each row on validation, and measure it on the test.

    Args:
        cuts: first time of the validation, and of the test.
    """
    times = data.histories.times
    assert times is not None
    valid_from, test_from = map(parse_time, cuts)
    is_train, is_test = times < valid_from, times >= test_from
    valid = select_events(data, ~(is_train | is_test), is_train)
    test = valid if quick else select_events(data, is_test, is_train)
    rows: dict[str, Any] = {}
    scores: dict[str, list[Values]] = {}
    for name in names:
        row = ROWS[name]
        started = process_time()
        grid = row.grid[:1] if quick else row.grid
        found = [_metrics(valid, _scorer(name, data, is_train, chosen, 0, quick)(valid)) for chosen in grid]
        best = int(np.argmax([sum(one) for one in found]))
        chosen_at = process_time()
        is_learned = is_train | (row.learns_validation & ~is_test)
        count = min(seeds, row.seeds or seeds)
        scorers = [_scorer(name, data, is_learned, grid[best], seed, quick) for seed in range(count)]
        trained_at = process_time()
        scores[name] = [scorer(test) for scorer in scorers]
        rows[name] = {
            "kind": row.kind,
            "history": row.history,
            "baseline": row.baseline,
            "chosen": dict(grid[best]),
            "valid": found[best],
            "seeds": [_metrics(test, one) for one in scores[name]],
            "warm": float(np.mean([auc(test.labels_E[test.is_warm_E], one[test.is_warm_E]) for one in scores[name]])),
            "cold": float(np.mean([auc(test.labels_E[~test.is_warm_E], one[~test.is_warm_E]) for one in scores[name]])),
            "choice_seconds": chosen_at - started,
            "train_seconds": (trained_at - chosen_at) / count,
            "score_seconds": (process_time() - trained_at) / count,
        }
        log(f"{name}: " + " ".join(f"{value:.4f}" for value in np.mean(rows[name]["seeds"], axis=0)))
    resampled = _resample(test, scores)
    for name, values_RM in resampled.items():
        rows[name]["intervals"] = np.percentile(values_RM, (2.5, 97.5), axis=0).T.tolist()
        baseline = ROWS[name].baseline
        differences_RM = values_RM - resampled[baseline]
        rows[name]["differences"] = [
            [float(np.mean(rows[name]["seeds"], axis=0)[m] - np.mean(rows[baseline]["seeds"], axis=0)[m]), low, high]
            for m, (low, high) in enumerate(np.percentile(differences_RM, (2.5, 97.5), axis=0).T.tolist())
        ]
    return {
        "data": {"name": data.name, "hash": data.header.get("hash")},
        "events": [int(is_train.sum()), len(valid.items_E), len(test.items_E)],
        "users_with_both_labels": len(user_aucs(test.users_E, test.labels_E, test.labels_E)[0]),
        "rows": rows,
    }


def _metrics(part: Part, scores_E: Values) -> tuple[float, float]:
    return auc(part.labels_E, scores_E), uauc(part.users_E, part.labels_E, scores_E)


def _scorer(
    name: str, data: Dataset, is_learned: NDArray[np.bool_], chosen: Mapping[str, Any], seed: int, quick: bool
) -> Callable[[Part], Values]:
    """Train a row; return the scores of the events of a part as a function."""
    row, train = ROWS[name], data.histories.where(is_learned)
    if not row.model:
        users: Literal["training", "history"] | None = "history" if row.history == "all" else "training"
        return smoothed_means(train, chosen["prior"], None if name == "item mean" else users, data.n_items)
    nothing = HeldOut(Queries.anonymous(Events.of([])), Events.of([]))
    own = {key: value for key, value in chosen.items() if key != "crew"}
    settings = {**row.settings, **own, **({"iterations": 2} if quick else {})}
    if chosen.get("crew") == "directors":
        assert data.item_features is not None
        data = replace(data, item_features=data.item_features.drop("writers", "actors"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", segue.SegueWarning)  # a row may be below a baseline: that is measured
        parts = Split(data.with_histories(train), nothing, nothing)
        trained: Any = segue.train(row.model, parts, seed=seed, recipe="none", baseline="none", **settings).model

    def score(part: Part) -> Values:
        values: Values = trained.score(part.queries[row.history], part.items_E[:, None])[:, 0].astype(np.float64)
        return values

    return score


def _resample(test: Part, scores: Mapping[str, list[Values]]) -> dict[str, NDArray[np.float64]]:
    """Draw users with all their events; return the metrics of each row, ``(R, M)``, on the same draws."""
    rng = np.random.default_rng(0)
    users, rows_E = np.unique(test.users_E, return_inverse=True)
    own = np.split(np.argsort(rows_E, kind="stable"), np.cumsum(np.bincount(rows_E))[:-1])
    areas = {
        name: np.mean([user_aucs(test.users_E, test.labels_E, one)[1] for one in found], axis=0)
        for name, found in scores.items()
    }
    with_both = np.isin(users, user_aucs(test.users_E, test.labels_E, test.labels_E)[0])
    position = np.where(with_both, np.cumsum(with_both) - 1, -1)
    drawn: dict[str, list[tuple[float, float]]] = {name: [] for name in scores}
    for _ in range(RESAMPLES):
        draw = rng.integers(len(users), size=len(users))
        index = np.concatenate([own[user] for user in draw])
        counted = position[draw][position[draw] >= 0]
        for name, found in scores.items():
            overall = float(np.mean([auc(test.labels_E[index], one[index]) for one in found]))
            drawn[name].append((overall, float(areas[name][counted].mean())))
    return {name: np.array(values) for name, values in drawn.items()}


def page(found: dict[str, Any]) -> str:
    """Format the table, the published figures and the verdicts."""
    rows, (train, valid, test) = found["rows"], found["events"]
    lines = [
        "# Likes of MovieLens 1M, as in CoLLM",
        "",
        f"{train:,} events train, {valid:,} validate and {test:,} are the test, by month. AUC is over all test events; "
        f"UAUC is the mean over the {found['users_with_both_labels']} test users with both labels of the AUC of their "
        "own events, as `uAUC_me` in the code of CoLLM computes it. The published evaluation gives the models each "
        "user's earlier liked films, also those of the test months, and titles. Inputs of the rows differ from these: "
        "rows with films' features read genres, crew and age ratings, `(retrained)` also learns from the validation "
        "months, `(labels)` also knows the disliked films of each user's history, and the means, `als` and "
        "`factorization_machine` do not read histories outside `(labels)`. No row reads titles.",
        "",
        "```sh",
        "python -m benchmarks collm",
        "```",
        "",
        *head_lines(["row", "inputs", *METRICS, "AUC, warm", "AUC, cold", *map("{}, CPU s".format, STEPS)], 7),
    ]
    for name, row in rows.items():
        means = np.mean(row["seeds"], axis=0)
        cells = [interval_cell(mean, interval) for mean, interval in zip(means, row["intervals"], strict=True)]
        cells += [f"{row['warm']:.4f}", f"{row['cold']:.4f}"]
        cells += [f"{row[f'{step}_seconds']:.1f}" for step in ("choice", "train", "score")]
        lines.append(row_line([name, row["kind"], *cells]))
    for name, figures in PUBLISHED.items():
        lines.append(f"| {name} | published | {' | '.join(f'{value:.4f}' for value in figures)} | | | | | |")
    return "\n".join([*lines, "", *_text_lines(rows), *_tail(found)])


def _text_lines(rows: Mapping[str, Any]) -> list[str]:
    lines = [
        "Brackets: 95 % interval, from a bootstrap over test users. Warm: user and item occur in training. Rows with "
        "randomness have the mean of three seeds; the others give the same figures for every seed. The settings of "
        "each row are those with the highest sum of AUC and UAUC on validation, on which inputs and other defaults of "
        "`logistic_regression` had been chosen before. Grids differ in size: 12 settings of "
        "`logistic_regression`, 6 with features alone, 4 of `als` (whose chosen one is at the end of its grid), 2 of "
        "`factorization_machine`. The test was read several times. First once per row and seed, but for "
        f"`{MEANS}`, which an earlier short run had printed; then by a separate run of the means of the other groups "
        "and of `als` (labels); then by this run, which added these rows and changed the inputs of `als` and "
        "`factorization_machine` after their figures had been seen (0.6993 and 0.7172 AUC before). No settings of "
        "other rows were changed. The crew and the age ratings come from `ml-1m-text`.",
        "",
        "Labels and events differ between three groups of rows: `(labels)` reads labels of earlier test events, "
        "`(retrained)` learns from more events, the others do neither. Each row is compared with the means of its own "
        "group. `als` and `factorization_machine` would read liked films as events that all have the value 1; outside "
        "`(labels)` they have what they learned of the user in training, and know nothing of new users.",
        "",
        "| row | chosen settings | validation AUC | validation UAUC |",
        "| --- | --- | ---: | ---: |",
    ]
    for name, row in rows.items():
        chosen = ", ".join(f"{key} {value}" for key, value in row["chosen"].items())
        lines.append(f"| {name} | {chosen} | {row['valid'][0]:.4f} | {row['valid'][1]:.4f} |")
    lines += [
        "",
        "Differences from the means that know the same labels and events, on the same test users, with 95 % intervals, "
        "which are not corrected for their number. Rows with features or histories have more inputs than the means:",
        "",
    ]
    for name, row in rows.items():
        if name != row["baseline"]:
            texts = [
                f"{metric} {mean:+.4f} [{low:+.4f}, {high:+.4f}]"
                for metric, (mean, low, high) in zip(METRICS, row["differences"], strict=True)
            ]
            lines.append(f"* {name}, from {row['baseline']}: {', '.join(texts)}")
    lines += [
        "",
        "## Comparison with published figures",
        "",
        "A published figure is beaten only where inputs are equal and the interval excludes it; above it within the "
        "interval is on par. The figures of SellaRec are from a table whose other rows are its own runs. By this rule "
        "no figure of BinLLM or SellaRec is beaten, and the UAUC of SellaRec is above the interval of every row.",
        "",
    ]
    for target in TARGETS:
        for name in (one for one in rows if ROWS[one].model):
            lines.append(f"* {_verdict(name, rows[name], target)}")
    return [*lines, ""]


def _verdict(name: str, row: Mapping[str, Any], target: str) -> str:
    """Say whether a row is above a published figure, and whether its interval excludes the figure."""
    texts = []
    means = np.mean(row["seeds"], axis=0)
    for metric, mean, (low, high), figure in zip(METRICS, means, row["intervals"], PUBLISHED[target], strict=True):
        side = "above" if mean > figure else "not above"
        excludes = "which its interval excludes" if not low <= figure <= high else "which is within its interval"
        texts.append(f"{metric} {mean:.4f} is {side} {figure:.4f}, {excludes}")
    unequal = ROWS[name].learns_validation or ROWS[name].history == "all" or ROWS[name].reads_features
    note = " Inputs are not equal: no win." if unequal else ""
    return f"{name} and {target}: {'; '.join(texts)}.{note}"


def _tail(found: Mapping[str, Any]) -> list[str]:
    machine = describe_lines(found["machine"]) if "machine" in found else []
    return [f"* data hash {found['data']['hash']}", *machine, ""]
