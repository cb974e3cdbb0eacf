"""The same models under every evaluation protocol: how far the protocols put them apart, and in which order.

Each model is trained once per protocol and seed on the split of the protocol, which also says what validation ranks;
protocols that agree on both share the training. Values are means over the seeds, with intervals over the queries.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

import segue
from benchmarks.machine import describe_lines
from benchmarks.stronger_baselines import baseline_lines
from benchmarks.table_rows import head_lines, interval_cell, row_line, select_rows
from segue.core.bundle import TrainedModel
from segue.core.model import Solver
from segue.core.registry import model_class
from segue.core.types import Split
from segue.data.split_settings import SplitSettings
from segue.data.splits import split
from segue.evaluation.bootstrap import estimate_values
from segue.experiment.protocols.presets import PROTOCOLS, Protocol
from segue.studies.protocols import kendall_tau

__all__ = ["MODELS", "page", "run"]

SASREC: dict[str, Any] = {
    "embedding_dim": 64,
    "num_blocks": 2,
    "max_length": 50,
    "windows": "all",
    "dropout": 0.3,
    "epochs": 5,
    "batch_size": 32,
    "learning_rate": 0.002,
    "baseline": "none",
}
MODELS: dict[str, dict[str, Any]] = {
    "popular": {"baseline": "none"},
    "item_knn": {"baseline": "none"},
    "ease": {"baseline": "none"},
    "sasrec": SASREC,
}
"""Settings by model; all others are the defaults, without a recipe."""

QUICK = {"epochs": 1, "embedding_dim": 8, "num_blocks": 1}

METRICS = ("hit_rate@10", "ndcg@10", "hit_rate@20", "mrr@20")

Log = Callable[[str], None]


def run(source: str | None, models: str | None, seeds: int, log: Log, quick: bool = False) -> dict[str, Any]:
    """Train and evaluate every model under every protocol.

    Args:
        source: default: MovieLens 100K.
        models: names separated by commas; ``None``: all of :data:`MODELS`.
        quick: a small simulated log and one epoch, which checks that the part runs.
    """
    source = source or ("simulated?users=60&items=400&seed=1" if quick else "ml-100k")
    names, started = select_rows(models, MODELS), time.perf_counter()
    data = segue.load(source)
    trained: dict[tuple[Any, ...], list[TrainedModel]] = {}
    results: dict[str, Any] = {}
    for protocol in PROTOCOLS.values():
        parts = split(data, SplitSettings(**protocol.split))
        counts = {"train_events": parts.train.histories.size, "queries": len(parts.test), **_targets(parts)}
        rows = {}
        for name in names:
            settings = {**MODELS[name], **(QUICK if quick and name == "sasrec" else {})}
            n_seeds = 1 if issubclass(model_class(name), Solver) else seeds
            key = (name, protocol.strategy, protocol.exclude_seen)
            if key not in trained:
                own = {**settings, "exclude_seen": protocol.exclude_seen}
                trained[key] = [segue.train(name, parts, seed=seed, recipe="none", **own) for seed in range(n_seeds)]
            rows[name] = _measure(trained[key], parts, protocol)
            log(f"{protocol.name}, {name}: {_headline(protocol)} {rows[name]['metrics'][_headline(protocol)][0]:.4f}")
        results[protocol.name] = {"counts": counts, "models": rows}
    return {
        "source": source,
        "data": {"users": data.n_users, "items": data.n_items, "events": data.histories.size}
        | {"hash": data.header.get("hash")},
        "seeds": seeds,
        "settings": {name: {**MODELS[name], **(QUICK if quick and name == "sasrec" else {})} for name in names},
        "protocols": results,
        "seconds": time.perf_counter() - started,
    }


def _targets(parts: Split) -> dict[str, Any]:
    return {"targets_in_history": float(parts.metadata["test"]["targets_in_history"])}


def _headline(protocol: Protocol) -> str:
    """Return the metric by which the models are ordered: NDCG@10 among the items that the protocol ranks."""
    return "sampled_ndcg@10" if protocol.sampled else "ndcg@10"


def _measure(models: Sequence[TrainedModel], parts: Split, protocol: Protocol) -> dict[str, Any]:
    """Return mean and interval of each metric, and the mean of each seed."""
    found = [segue.evaluate(model, parts, metrics=METRICS, protocol=protocol.name) for model in models]  # type: ignore[arg-type]
    names = list(found[0].estimates)
    averaged = {name: np.mean([one.values[name] for one in found], axis=0) for name in names}
    estimates = estimate_values(averaged, 0)
    return {
        "metrics": {name: [one.mean, one.low, one.high] for name, one in estimates.items()},
        "seed_means": {name: [one[name].mean for one in found] for name in names},
    }


def _means(found: Mapping[str, Any], protocol: str) -> dict[str, float]:
    metric = _headline(PROTOCOLS[protocol])
    return {name: row["metrics"][metric][0] for name, row in found["protocols"][protocol]["models"].items()}


def page(found: Mapping[str, Any]) -> str:
    """Format the results as Markdown."""
    names = list(found["protocols"])
    models = list(next(iter(found["protocols"].values()))["models"])
    data = found["data"]
    return "\n".join(
        [
            f"# Evaluation protocols on {found['source']}",
            "",
            f"The same models under the protocols of `--protocol`, on {data['events']:,} events of {data['users']:,} "
            f"users and {data['items']:,} items. Networks: mean of {found['seeds']} seed(s); the other models have no "
            "randomness. Brackets: 95 % intervals over the queries, which do not include the randomness of training. "
            "Those of `session` are too narrow, as the queries of one session depend on each other.",
            "",
            *(f"- `{name}`: {_settings(own)}" for name, own in found["settings"].items()),
            "",
            "| protocol | predicts | training events | test queries | targets in the history |",
            "| --- | --- | ---: | ---: | ---: |",
            *(_protocol_row(name, one["counts"]) for name, one in found["protocols"].items()),
            "",
            "## NDCG@10",
            "",
            "Of `ncf` among 99 sampled items, of the others among all that the protocol ranks.",
            "",
            *baseline_lines(f"protocols-{found['source']}"),
            *head_lines(["model", *names], numbers=len(names)),
            *(row_line([f"`{model}`", *(_cell(found, name, model) for name in names)]) for model in models),
            "",
            "## Other metrics",
            "",
            *_metric_table(found, models),
            "",
            "## Order of the models",
            "",
            "| protocol | best first, by NDCG@10 |",
            "| --- | --- |",
            *(f"| `{name}` | {', '.join(_ordered(_means(found, name)))} |" for name in names),
            "",
            f"Kendall's tau between the orders: 1 is the same order, -1 the opposite one. {len(models)} models are "
            f"{len(models) * (len(models) - 1) // 2} pairs, so each pair that changes places counts much.",
            "",
            *head_lines(["", *names], numbers=len(names)),
            *(
                row_line(
                    [f"`{first}`", *(f"{kendall_tau(_means(found, first), _means(found, one)):.2f}" for one in names)]
                )
                for first in names
            ),
            "",
            *_conclusions(found, names, models),
            "",
            f"Settings were not tuned. Data hash {data['hash']}. The whole took {found['seconds'] / 60:.1f} minutes.",
            *describe_lines(found["machine"]),
            "",
        ]
    )


def _settings(own: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in own.items() if key != "baseline") or "defaults"


def _protocol_row(name: str, counts: Mapping[str, Any]) -> str:
    return (
        f"| `{name}` | {PROTOCOLS[name].summary} | {counts['train_events']:,} | {counts['queries']:,} | "
        f"{counts['targets_in_history']:.1%} |"
    )


def _cell(found: Mapping[str, Any], protocol: str, model: str) -> str:
    means = _means(found, protocol)
    mean, *interval = found["protocols"][protocol]["models"][model]["metrics"][_headline(PROTOCOLS[protocol])]
    return interval_cell(mean, interval, bold=model == _ordered(means)[0])


def _metric_table(found: Mapping[str, Any], models: Sequence[str]) -> list[str]:
    """Return one row per protocol and model with all metrics."""
    lines = head_lines(["protocol", "model", *METRICS, "sampled hit_rate@10"], numbers=len(METRICS) + 1)
    for name, one in found["protocols"].items():
        for model in models:
            metrics = one["models"][model]["metrics"]
            cells = [f"{metrics[metric][0]:.4f}" if metric in metrics else "" for metric in METRICS]
            sampled = metrics.get("sampled_hit_rate@10")
            lines.append(row_line([f"`{name}`", f"`{model}`", *cells, "" if sampled is None else f"{sampled[0]:.4f}"]))
    return lines


def _ordered(means: Mapping[str, float]) -> list[str]:
    return sorted(means, key=lambda name: -means[name])


def _conclusions(found: Mapping[str, Any], names: Sequence[str], models: Sequence[str]) -> list[str]:
    """State how far apart the protocols put each model, and which pairs change places."""
    lines = ["## How far apart", ""]
    for model in models:
        values = {name: _means(found, name)[model] for name in names}
        low, high = min(values, key=lambda one: values[one]), max(values, key=lambda one: values[one])
        ratio = f", {values[high] / values[low]:.1f} times as much" if values[low] > 0 else ""
        lines.append(f"- `{model}`: {values[low]:.4f} under `{low}`, {values[high]:.4f} under `{high}`{ratio}.")
    changes = {
        (a, b): {name: _means(found, name)[a] > _means(found, name)[b] for name in names}
        for a, b in combinations(models, 2)
    }
    turned = [
        f"`{a}` is above `{b}` under {', '.join(f'`{n}`' for n, is_above in one.items() if is_above)}, and not under "
        f"{', '.join(f'`{n}`' for n, is_above in one.items() if not is_above)}"
        for (a, b), one in changes.items()
        if len(set(one.values())) > 1
    ]
    text = "; ".join(turned) if turned else "no pair of models changes places"
    return [*lines, "", f"{text}. Differences within the intervals may be chance."]
