"""Transfer from one catalog to another through text, with 1, 10 and 100 % of the target's data.

A model of texts is pre-trained on the source and fine-tuned on the target; its twin has equal settings and is trained
on the target from scratch. The target is split leave-one-out, and the queries of all users are the test. A share of the
data is a share of the users with their whole training histories, drawn at random and nested: the users of 1 % are among
those of 10 %. Models see no training event of the other users, and validation, which stops training, has the queries of
the drawn users only. So the data of 1 % is what a shop with few users would have. The test queries are those of all
users, and every model reads their histories.

Source and target may list the same films. Therefore a model is also pre-trained without the events of the films that
the target has too (same title and year).
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

import segue
from benchmarks.machine import describe_lines
from benchmarks.table_rows import correct, difference_cells, head_lines, interval_cell, row_line, select_rows
from segue.core.types import Dataset, Events, Mask, Split
from segue.data import load
from segue.evaluation.bootstrap import estimate
from segue.evaluation.evaluate import evaluate
from segue.evaluation.significance import compare_all

__all__ = ["ROWS", "SHARES", "add_plots", "draw_users", "measure", "page", "run", "without_items"]

SOURCE, TARGET = "ml-1m-text", "ml-100k"
TEXTS = ("title", "genres", "plot")
SHARES = (0.01, 0.1, 1.0)
METRICS = ("hit_rate@10", "ndcg@10")
NO_TUNING = 0.0
"""Key of the results without fine-tuning."""

NETWORK: Mapping[str, Any] = {"max_length": 50}
"""Settings of every network, which has the backbone ``sasrec``."""
PRETRAINING: Mapping[str, Any] = {
    "epochs": 8,
    "batch_size": 64,
    "learning_rate": 2e-3,
    "loss": "sampled_softmax",
    "num_negatives": 512,
}
TRAINING: Mapping[float, Mapping[str, Any]] = {
    0.01: {"epochs": 100, "patience": 15},
    0.1: {"epochs": 60, "patience": 15},
    1.0: {"epochs": 25, "patience": 4},
}
"""Training on the target, by share; the same for all networks."""
COMMON: Mapping[str, Any] = {"batch_size": 32, "learning_rate": 1e-3, "metric": "ndcg@100"}
EASE_L2 = (10.0, 100.0, 1000.0)
"""Values from which validation chooses."""


@dataclass(frozen=True)
class Row:
    """One row of the tables."""

    model: str
    what: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None
    """``all``: pre-trained on the whole source; ``other films``: on the films that the target does not have."""
    twin: str | None = None
    """The row with equal settings that is trained from scratch."""

    @property
    def is_network(self) -> bool:
        """Whether the model is trained in epochs."""
        return self.model in ("transfer", "sasrec")


OWN = {"id_embeddings": True}
ROWS: dict[str, Row] = {
    "transfer": Row("transfer", "text", {}, "all", "scratch"),
    "transfer@other-films": Row("transfer", "text", {}, "other films", "scratch"),
    "transfer@ids": Row("transfer", "text and ids", OWN, "all", "scratch@ids"),
    "scratch": Row("transfer", "text"),
    "scratch@ids": Row("transfer", "text and ids", OWN),
    "sasrec": Row("sasrec", "ids"),
    "ease": Row("ease", "ids"),
    "popular": Row("popular", "counts"),
}


def run(options: Any) -> dict[str, Any]:
    """Measure the transfer from MovieLens 1M with plots to MovieLens 100K."""
    names = _names(options.models)
    if options.quick:
        logs = [load(f"simulated?users=120&items=40&seed={seed}") for seed in (1, 2)]
        small = [segue.add_text(data, ["title", "description"]) for data in logs]
        return measure(small[0], small[1], names, range(1), quick=True)
    source, target = load(SOURCE), load(options.source or TARGET)
    target, share = add_plots(target, source)
    encoded = [segue.add_text(data, list(TEXTS), log=print) for data in (source, target)]
    return measure(encoded[0], encoded[1], names, range(options.seeds)) | {"with_plot": share}


def _names(models: str | None) -> list[str]:
    """Return the rows of ``--models`` and their twins."""
    names = select_rows(models, ROWS)
    return list(dict.fromkeys([*names, *(twin for name in names if (twin := ROWS[name].twin))]))


def measure(
    source: Dataset,
    target: Dataset,
    names: list[str],
    seeds: range,
    quick: bool = False,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure the rows ``names`` for each share of the target's users.

    Args:
        quick: one epoch of everything.
    """
    parts, shared = segue.split(target), _shared_titles(source, target)
    disjoint = without_items(source, shared[0])
    kinds = [kind for name in names if (kind := ROWS[name].source) is not None]
    sources = {kind: disjoint if kind == "other films" else source for kind in kinds}
    values: dict[float, dict[str, list[NDArray[np.float64]]]] = {share: {} for share in (NO_TUNING, *SHARES)}
    seconds: dict[str, list[float]] = {}
    sizes: dict[float, list[int]] = {share: [] for share in SHARES}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", segue.SegueWarning)  # a row may be below a baseline: that is measured
        for seed in seeds:
            folders = {kind: Path(folder) / f"{seed} {kind}" for kind in sources}
            for kind, data in sources.items():
                started = process_time()
                settings = {**NETWORK, **PRETRAINING, **({"epochs": 1} if quick else {})}
                segue.save(segue.train("transfer", data, seed=seed, baseline="none", **settings), folders[kind])
                seconds.setdefault(f"pre-training, {kind}", []).append(process_time() - started)
                log(f"seed {seed}: pre-trained on {kind}, {seconds[f'pre-training, {kind}'][-1]:.0f} CPU s")
            drawn = {share: draw_users(parts, share, seed) for share in SHARES}
            for share, (part, is_drawn) in {NO_TUNING: drawn[SHARES[0]], **drawn}.items():
                if share:
                    sizes[share].append(int(part.train.histories.size))
                for name in names:
                    if share == NO_TUNING and (ROWS[name].source is None or ROWS[name].settings):
                        continue
                    started = process_time()
                    model = _train(ROWS[name], part, share, seed, folders, quick)
                    seconds.setdefault(f"{name} {share}", []).append(process_time() - started)
                    found = _evaluate(model, parts, is_drawn)
                    values[share].setdefault(name, []).append(found)
                    log(f"seed {seed}, {share:.0%}, {name}: {' '.join(f'{one:.4f}' for one in found.mean(axis=1))}")
    is_shared = shared[1][parts.test.targets.items]
    return {
        "source": _describe(source),
        "target": _describe(target),
        "other_films": {
            "items": int((np.bincount(disjoint.histories.items) > 0).sum()),
            "events": disjoint.histories.size,
        },
        "shared_items": int(shared[1].sum()),
        "shared_targets": float(is_shared.mean()),
        "users": {str(share): int(draw_users(parts, share, 0)[1].sum()) for share in SHARES},
        "events": {str(share): float(np.mean(sizes[share])) for share in SHARES},
        "queries": len(parts.test),
        "seeds": len(seeds),
        "rows": {str(share): _summarize(found, is_shared) for share, found in values.items()},
        "tests": _paired_tests(values),
        "seconds": {name: float(np.mean(each)) for name, each in seconds.items()},
    }


def _train(row: Row, part: Split, share: float, seed: int, folders: Mapping[str, Path], quick: bool) -> Any:
    """Train a row on a part of the target; without fine-tuning if the share is 0."""
    settings: dict[str, Any] = {**row.settings}
    if row.is_network:
        settings |= {**COMMON, **TRAINING.get(share, {}), **(NETWORK if row.source is None else {})}
        settings |= {"source": str(folders[row.source])} if row.source is not None else {}
        settings |= {"epochs": 1} if quick or share == NO_TUNING else {}
        settings |= {"learning_rate": 1e-12} if share == NO_TUNING else {}
    if row.model != "ease":
        return segue.train(row.model, part, seed=seed, recipe="none", baseline="none", **settings).model
    models = [segue.train("ease", part, seed=seed, recipe="none", baseline="none", l2=l2).model for l2 in EASE_L2]
    return max(models, key=lambda model: evaluate(model, part.valid, metrics=[COMMON["metric"]])[COMMON["metric"]].mean)


def _evaluate(model: Any, parts: Split, is_drawn: Mask) -> NDArray[np.float64]:
    """Return the metrics of all test queries, ``(metrics, queries)``; a user that was not drawn is unknown."""
    queries = parts.test.queries
    held_out = replace(parts.test, queries=replace(queries, known=queries.known & is_drawn[queries.users]))
    found = evaluate(model, held_out, metrics=METRICS).values
    return np.stack([found[metric] for metric in METRICS])


def draw_users(parts: Split, share: float, seed: int) -> tuple[Split, Mask]:
    """Keep the training histories and validation queries of a random share of the users.

    With the same seed, the users of a smaller share are among those of a greater one.

    Returns:
        The split, and which users were drawn, ``(n_users,)``. There is at least one.
    """
    n_users, histories = parts.train.n_users, parts.train.histories
    is_drawn = np.zeros(n_users, np.bool_)
    is_drawn[np.random.default_rng(seed).permutation(n_users)[: max(1, round(share * n_users))]] = True
    kept = histories.slice_rows(np.zeros(n_users, np.int64), np.where(is_drawn, histories.lengths, 0))
    rows = np.flatnonzero(is_drawn[parts.valid.queries.users])
    valid = replace(parts.valid, queries=parts.valid.queries.take(rows), targets=parts.valid.targets.take(rows))
    return replace(parts, train=parts.train.with_histories(kept), valid=valid), is_drawn


def without_items(data: Dataset, is_left_out: Mask) -> Dataset:
    """Remove the events of items; the catalog stays as it is."""
    events, keep = data.histories, ~is_left_out[data.histories.items]
    offsets = np.concatenate([[0], np.cumsum(keep)])[events.offsets]
    columns = {name: column[keep] for name, column in events.columns().items()}
    known = {name: columns.pop(name) for name in ("items", "actions", "values", "times") if name in columns}
    return data.with_histories(Events(offsets, **known, context=columns))


def add_plots(target: Dataset, source: Dataset) -> tuple[Dataset, float]:
    """Give the films of the target the plots of those of the source with the same title and year.

    Returns:
        The target, and the share of its films that have a plot.
    """
    assert source.item_features is not None
    assert target.item_features is not None
    title = pl.col("title").str.strip_chars()
    plots = source.item_features.select(title, "plot").unique("title", keep="first", maintain_order=True)
    table = (
        target.item_features.with_columns(title).join(plots, on="title", how="left", maintain_order="left").collect()
    )
    return replace(target, item_features=table.lazy()), float(table["plot"].is_not_null().mean())  # type: ignore[arg-type]


def _shared_titles(source: Dataset, target: Dataset) -> tuple[Mask, Mask]:
    """Return which items of the source and of the target have a title that the other has too."""
    titles = []
    for data in (source, target):
        assert data.item_features is not None
        titles.append(data.item_features.select(pl.col("title").str.strip_chars()).collect()["title"])
    return titles[0].is_in(titles[1].implode()).to_numpy(), titles[1].is_in(titles[0].implode()).to_numpy()


def _describe(data: Dataset) -> dict[str, Any]:
    return {
        "name": data.name,
        "users": data.n_users,
        "items": data.n_items,
        "events": data.histories.size,
        "hash": data.header.get("hash"),
    }


def _summarize(found: Mapping[str, list[NDArray[np.float64]]], is_shared: Mask) -> dict[str, Any]:
    """Return mean, interval over users and mean of each seed, by row and metric."""
    rows: dict[str, Any] = {}
    for name, seeds in found.items():
        values = np.stack(seeds)  # (seeds, metrics, queries)
        rows[name] = {}
        for column, metric in enumerate(METRICS):
            one = estimate(values[:, column].mean(axis=0)[:, None])[0]
            rows[name][metric] = {
                "mean": one.mean,
                "interval": [one.low, one.high],
                "seeds": values[:, column].mean(axis=1).tolist(),
                "shared": float(values[:, column][:, is_shared].mean()) if is_shared.any() else None,
                "others": float(values[:, column][:, ~is_shared].mean()) if not is_shared.all() else None,
            }
    return rows


def _paired_tests(values: Mapping[float, Mapping[str, list[NDArray[np.float64]]]]) -> dict[str, list[dict[str, Any]]]:
    """Compare each transfer with its twin at each share; the tests of one metric are a family.

    Values are means over seeds.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for column, metric in enumerate(METRICS):
        tests = []
        for share in SHARES:
            means = {name: np.stack(seeds).mean(axis=0)[column] for name, seeds in values[share].items()}
            for name in means:
                twin = ROWS[name].twin
                if twin in means:
                    test = compare_all({name: means[name], twin: means[twin]})[0]
                    tests.append((share, test))
        corrected = correct([test for _, test in tests])
        found[metric] = [{"share": share, **test} for (share, _), test in zip(tests, corrected, strict=True)]
    return found


def page(found: dict[str, Any]) -> str:
    """Format a table per metric, the paired tests, and the cost."""
    source, target, other = found["source"], found["target"], found["other_films"]
    sizes = ", ".join(
        f"{share:.0%}: {found['users'][str(share)]:,} users with {found['events'][str(share)]:,.0f} training events"
        for share in SHARES
    )
    lines = [
        f"# Transfer: {source['name']} to {target['name']}",
        "",
        f"Pre-trained on {source['events']:,} events of {source['users']:,} users and {source['items']:,} items; "
        f"fine-tuned on a share of the users of the target, which are nested draws ({sizes}). The test is the last "
        f"item of all {found['queries']:,} users of the target (leave-one-out) among its {target['items']:,} items, "
        f"seen items excluded. Mean of {found['seeds']} seed(s), which determine pre-training, draw and fine-tuning.",
        "",
        f"**Both catalogs list the same films**: {found['shared_items']:,} of {target['items']:,} films of the target "
        f"have a namesake in the source (same title and year), and {found['shared_targets']:.1%} of the test targets "
        "are among them. No id is shared, but the text of such a film is the same, so that this transfer is easier "
        "than one between shops with different articles. `transfer@other-films` was pre-trained without any event of "
        f"these films: on {other['events']:,} events of {other['items']:,} films that the target does not have. "
        "Whether users of the target are users of the source too is not known; their ids are not linked.",
        "",
        *_how_lines(found),
        *_verdict_lines(found),
    ]
    for metric in METRICS:
        lines += [f"## {metric}", "", *_metric_lines(found, metric), ""]
    lines += [
        "Brackets: 95 % bootstrap interval over users, of the mean over seeds. `scratch` has the settings of "
        "`transfer` and starts from random weights. `@ids`: text and own embeddings of items.",
        "",
    ]
    lines += [*_shared_lines(found), *_test_lines(found), *_cost_lines(found)]
    lines += [
        "* readings of the test part: one of each row, share and seed by the run of this page; earlier ones were "
        "not recorded"
    ]
    lines += [f"* data hashes {source['hash']} and {target['hash']}"]
    machine = describe_lines(found["machine"]) if "machine" in found else []
    return "\n".join([*lines, *machine, ""])


def _how_lines(found: Mapping[str, Any]) -> list[str]:
    plots = ""
    if "with_plot" in found:
        plots = (
            f"Texts are {', '.join(TEXTS)}, encoded by MiniLM; {found['with_plot']:.1%} of the films of the target "
            "have the plot of their namesake in the source, the others title and genres only. "
            "The events of the source are newer than those of the target, which favors the transfer too."
        )
    return [
        *([plots, ""] if plots else []),
        "Validation has the queries of the drawn users only; it stops training (NDCG@100, as NDCG@10 is 0 for most "
        "models with nine users) and chooses `l2` of `ease`. The learning rate of all networks was chosen on "
        "validation of another draw (seed 100) at 10 %: of 0.001 and 0.0003, `scratch` was better with the higher one "
        "and `transfer` with the lower one; all have the higher one, so that twins have equal settings. There, "
        "`vector_dim=24` in place of 128 was worse for `scratch`, and the default was kept.",
        "",
    ]


def _verdict_lines(found: Mapping[str, Any]) -> list[str]:
    """Say for each share whether transfer is better than its twin, and which row is best."""
    metric = METRICS[1]
    lines = [f"In {metric}, significance after Holm's correction (below):", ""]
    for share in SHARES:
        tests = [test for test in found["tests"][metric] if test["share"] == share]
        parts = [
            f"`{test['first']}` is {_verdict(test)} than `{test['second']}` ({test['difference']:+.4f})"
            for test in tests
        ]
        rows = found["rows"][str(share)]
        best = max(rows, key=lambda name, rows=rows: rows[name][metric]["mean"])  # type: ignore[misc]
        parts.append(f"the best row is `{best}` ({rows[best][metric]['mean']:.4f})")
        lines.append(f"* {share:.0%}: {'; '.join(parts)}")
    lines += ["", "Differences from `ease`, `sasrec` and `popular` were not tested."]
    if weak := [f"{share:.0%}" for share in SHARES if _is_below(found["rows"][str(share)], metric)]:
        lines[-1] += (
            f" At {', '.join(weak)}, `scratch` is below `popular`, so that a gain over it is one over a weak model."
        )
    if found["target"]["name"] == TARGET:
        lines[-1] += (
            " With all data `ease` is not the strongest simple model: `item_knn` with `half_life=3` has 0.0987 "
            "([page of context](context.md)); it was not measured with less."
        )
    return [*lines, ""]


def _is_below(rows: Mapping[str, Any], metric: str, first: str = "scratch", second: str = "popular") -> bool:
    return first in rows and second in rows and rows[first][metric]["mean"] < rows[second][metric]["mean"]


def _verdict(test: Mapping[str, Any]) -> str:
    if test["p_holm"] >= 0.05:
        return "not significantly better or worse"
    return "better" if test["difference"] > 0 else "worse"


def _metric_lines(found: Mapping[str, Any], metric: str) -> list[str]:
    shares = (NO_TUNING, *SHARES)
    heads = ["not fine-tuned", *(f"{share:.0%}" for share in SHARES)]
    lines = head_lines(["model", "represents items by", *heads], len(shares))
    best = {
        share: max((row[metric]["mean"] for row in found["rows"][str(share)].values()), default=0) for share in shares
    }
    for name in found["rows"][str(SHARES[0])]:
        cells = []
        for share in shares:
            one = found["rows"][str(share)].get(name)
            if one is None:
                cells.append("")
                continue
            mean = one[metric]["mean"]
            cells.append(interval_cell(mean, one[metric]["interval"], bold=mean == best[share]))
        lines.append(f"| {name} | {ROWS[name].what} | {' | '.join(cells)} |")
    return lines


def _shared_lines(found: Mapping[str, Any]) -> list[str]:
    """Split the first metric by whether the target of the query has a namesake in the source."""
    metric = METRICS[0]
    heads = " | ".join(f"{share:.0%}, namesake | {share:.0%}, none" for share in SHARES)
    lines = [
        f"## {metric} of test targets with and without a namesake in the source",
        "",
        f"{found['shared_targets']:.1%} of the {found['queries']:,} targets have one; the values of the others "
        "are means over few queries.",
        "",
        f"| model | {heads} |",
        "| --- |" + " ---: |" * (2 * len(SHARES)),
    ]
    for name in found["rows"][str(SHARES[0])]:
        pairs = [found["rows"][str(share)][name][metric] for share in SHARES]
        cells = [one[group] for one in pairs for group in ("shared", "others")]
        lines.append(f"| {name} | {' | '.join('' if cell is None else f'{cell:.4f}' for cell in cells)} |")
    return [*lines, ""]


def _test_lines(found: Mapping[str, Any]) -> list[str]:
    lines = [
        "## Paired tests",
        "",
        "Against training from scratch with equal settings: paired randomization test over users, of the means over "
        "seeds; Holm's correction over the tests of one metric.",
        "",
        "| metric | share | pair | difference | 95 % | p (Holm) |",
        "| --- | ---: | --- | ---: | --- | ---: |",
    ]
    for metric, tests in found["tests"].items():
        lines += [row_line([metric, f"{test['share']:.0%}", *difference_cells(test)]) for test in tests]
    return [*lines, ""]


def _cost_lines(found: Mapping[str, Any]) -> list[str]:
    lines = ["## Cost", "", "CPU seconds of one training, without the encoding of texts.", ""]
    pretraining = {name: one for name, one in found["seconds"].items() if name.startswith("pre-training")}
    lines += [f"* {name}: {one:.0f} s" for name, one in pretraining.items()]
    lines += ["", *head_lines(["model", *(f"{share:.0%}" for share in SHARES)], len(SHARES))]
    for name in found["rows"][str(SHARES[0])]:
        cells = [f"{found['seconds'][f'{name} {share}']:.1f}" for share in SHARES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]
