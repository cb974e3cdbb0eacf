"""Protocols: the same models under every evaluation protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any, cast

import numpy as np

from segue.core.config import parse
from segue.core.types import Split
from segue.data.split_settings import SplitSettings
from segue.data.splits import split
from segue.evaluation.sampled import check_sampling
from segue.experiment.evaluate import evaluate
from segue.experiment.protocols.presets import PROTOCOLS, find_protocol
from segue.studies.framework.context import StudyContext
from segue.studies.framework.drawing import draw_lines
from segue.studies.framework.study import Cell, Grid, Row, StudyChart, StudyTable
from segue.studies.framework.summary import by_model, is_apart, mean_of, spread_of

__all__ = ["DEFAULT", "FULL", "METHOD", "QUESTION", "REQUIRES", "answer", "figures", "kendall_tau", "run", "tables"]

QUESTION = "How far apart do evaluation protocols put the same models, and do they agree on the order?"
METHOD = """
Each model is trained once per split and evaluated under the protocols of `segue compare --protocol`; protocols with the
same split share the trained model, whose epoch is chosen on the validation part of that split by NDCG@10 over the
catalog without the items of the history. The metric is NDCG@10 of the test part, among the sampled items where the
protocol samples. Kendall's tau is 1 if two protocols order the models the same way and -1 if they reverse the order.
`popular`, `item_knn` and `ease` are included, as protocols differ most between simple models and networks.
"""
REQUIRES: tuple[str, ...] = ()
DEFAULT = Grid(values=tuple(PROTOCOLS), settings=("epochs=3", "mask_seen=false"))
FULL = Grid(values=tuple(PROTOCOLS), seeds=(0, 1, 2), settings=("epochs=12", "patience=12", "mask_seen=false"))

REFERENCES = ("popular", "item_knn", "ease")


def run(context: StudyContext) -> list[Cell]:
    """Train every model on every split, and evaluate it under every protocol."""
    for name in context.grid.values:  # errors come before the first training
        held_out, sampled = _split(context, name).test, find_protocol(name).sampled
        check_sampling(held_out, context.data.n_items, sampled)
    models = dict.fromkeys((*context.grid.models, *REFERENCES))
    return [
        context.cell({"model": model, "protocol": name, "seed": seed}, partial(_measure, context, model, name, seed))
        for model in models
        for name in context.grid.values
        for seed in (context.grid.seeds if model not in REFERENCES else context.grid.seeds[:1])
    ]


def _split(context: StudyContext, name: str) -> Split:
    return split(context.data, parse(SplitSettings, find_protocol(name).split, "split"))


def _measure(context: StudyContext, key: str, name: str, seed: int) -> dict[str, Any]:
    protocol, parts = find_protocol(name), _split(context, name)
    label = "" if protocol.strategy == context.plan(key).split.strategy else protocol.strategy
    trained = context.train(key, seed=seed, parts=parts, label=label)
    found = evaluate(trained.bundle, parts, metrics=("ndcg@10",), protocol=cast("Any", name))
    metric = "sampled_ndcg@10" if protocol.sampled else "ndcg@10"
    return {
        "value": found[metric].mean,
        "interval": [found[metric].low, found[metric].high],
        "queries": len(parts.test),
    }


def _values(cells: Sequence[Cell]) -> dict[str, dict[str, float]]:
    """Return the mean over the seeds by protocol and model."""
    found: dict[str, dict[str, float]] = {}
    for (model, name), chosen in by_model(cells, "protocol").items():
        found.setdefault(name, {})[model] = mean_of(chosen, "value")
    return found


def _agreement(cells: Sequence[Cell]) -> dict[tuple[str, str], float]:
    """Return Kendall's tau of every pair of protocols."""
    values = _values(cells)
    return {(one, other): kendall_tau(values[one], values[other]) for one, other in combinations(values, 2)}


def kendall_tau(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Return Kendall's tau of the orders of models by two metrics.

    It is the share of pairs in the same order, minus that in the opposite order; equal values count as neither.
    """
    signs = [np.sign(first[a] - first[b]) * np.sign(second[a] - second[b]) for a, b in combinations(first, 2)]
    return float(np.mean(signs)) if signs else 1.0


def tables(cells: Sequence[Cell]) -> list[StudyTable]:
    """Return values and ranks by protocol, and the agreement of protocols."""
    values, groups = _values(cells), by_model(cells, "protocol")
    models = list(next(iter(values.values())))
    rows: list[Row] = [[name, int(groups[models[0], name][0]["queries"]), *values[name].values()] for name in values]
    places: list[Row] = [
        [name, *(1 + sum(other > own for other in values[name].values()) for own in values[name].values())]
        for name in values
    ]
    spreads: list[Row] = [[name, *(spread_of(groups[model, name], "value") for model in models)] for name in values]
    pairs: list[Row] = [[one, other, tau] for (one, other), tau in _agreement(cells).items()]
    return [
        StudyTable("NDCG@10 by protocol", ("protocol", "queries", *models), rows),
        StudyTable("Rank by protocol", ("protocol", *models), places),
        StudyTable("Standard deviation over seeds", ("protocol", *models), spreads),
        StudyTable("Agreement of protocols", ("protocol", "other", "Kendall's tau"), pairs),
    ]


def figures(cells: Sequence[Cell]) -> Mapping[str, StudyChart]:
    """Draw the values of every model relative to the best of the protocol."""
    values = _values(cells)
    models = list(next(iter(values.values())))
    lines = {
        model: [
            (number + 1.0, values[name][model] / (max(values[name].values()) or 1.0))
            for number, name in enumerate(values)
        ]
        for model in models
    }
    names = ", ".join(f"{number + 1} {name}" for number, name in enumerate(values))
    return {"Models by protocol": draw_lines(lines, f"protocol: {names}", "NDCG@10 / best of the protocol")}


def answer(cells: Sequence[Cell]) -> list[str]:
    """State the best model by protocol, the widest range, the least agreement."""
    values = _values(cells)
    best = "; ".join(f"`{name}`: {_best(cells, name, found)}" for name, found in values.items())
    models = list(next(iter(values.values())))
    widest = max(
        models,
        key=lambda model: max(values[name][model] for name in values) - min(values[name][model] for name in values),
    )
    low, high = (choose(values, key=lambda name: values[name][widest]) for choose in (min, max))
    sentences = [
        f"The best model by protocol is {best}.",
        f"`{widest}` has an NDCG@10 of {values[low][widest]:.3f} under `{low}` and {values[high][widest]:.3f} under "
        f"`{high}`.",
    ]
    pairs = _agreement(cells)
    if pairs and len(models) > 1:
        (one, other), tau = min(pairs.items(), key=lambda pair: pair[1])
        sentences.append(f"`{one}` and `{other}` agree least on the order of the models (Kendall's tau {tau:.2f}).")
    return sentences


def _best(cells: Sequence[Cell], protocol: str, values: Mapping[str, float]) -> str:
    """Name the best model under a protocol, and those that are not clearly below it."""
    groups, ordered = by_model(cells, "protocol"), sorted(values, key=lambda model: -values[model])
    first = groups[ordered[0], protocol]
    near = [model for model in ordered[1:] if not is_apart(first, groups[model, protocol], "value")]
    return f"`{ordered[0]}`" + (f" (not clearly above {', '.join(f'`{model}`' for model in near)})" if near else "")
