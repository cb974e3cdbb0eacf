"""Ablation: what each layer, training trick and input is worth.

One setting is changed at a time; differences are paired by query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from segue.core.registry import model_class
from segue.evaluation.bootstrap import estimate
from segue.studies.framework.context import StudyContext
from segue.studies.framework.drawing import draw_intervals
from segue.studies.framework.study import Cell, Grid, StudyChart, StudyTable
from segue.training.settings import Training

__all__ = ["DEFAULT", "FULL", "METHOD", "QUESTION", "REQUIRES", "answer", "figures", "run", "tables", "variants_of"]

QUESTION = "Which layers, training tricks and inputs is the accuracy due to?"
METHOD = """
Each model is trained with the common settings, the base, and again with one change at a time; a change is left out for
models that have no such setting or already have that value. The difference is that of NDCG@10 on the test part, change
minus base, each query's mean over the seeds, with a 95 % interval over the users; intervals are not corrected for the
number of changes. A difference below 0 means that what was changed is worth having. Changes of the objective and of
inputs are given as the settings of `segue train --set`.
"""
REQUIRES: tuple[str, ...] = ()
DEFAULT = Grid(values=("dropout=0", "windows=last", "mask_seen=false", "embedding_dim=32"), settings=("epochs=3",))
FULL = Grid(
    values=(
        *("dropout=0", "dropout=0.5", "windows=last", "mask_seen=false", "embedding_dim=32", "embedding_dim=128"),
        *(
            "num_blocks=1",
            "num_layers=2",
            "num_heads=1",
            "slstm_at=[0,1]",
            "slstm_at=[]",
            "max_length=20",
            "max_length=200",
        ),
        *("item_bias=true", "objective=all_action", "inputs=[item_features]", "inputs=[gap]", "inputs=[value]"),
        *(
            "training.learning_rate=1e-3",
            "training.learning_rate=1e-2",
            "schedule=constant",
            "training.clip_norm=0",
            "training.ema=0.999",
        ),
        "training.loss=sampled_softmax",
    ),
    seeds=(0, 1, 2),
    settings=("epochs=12", "patience=12"),
)

METRIC = "ndcg@10"


def run(context: StudyContext) -> list[Cell]:
    """Train the base and every variant of every model."""
    return [
        context.cell({"model": model, "change": change}, partial(_measure, context, model, change))
        for model in context.grid.models
        for change in variants_of(context, model)
    ]


def variants_of(context: StudyContext, key: str) -> list[str]:
    """Return the changes of settings that the model has.

    Those to the value of the base are left out.
    """
    base = context.plan(key)
    found = []
    for change in context.grid.values:
        name = change.partition("=")[0]
        field, kind = name.removeprefix("training."), model_class(key)
        if field not in (Training if name.startswith("training.") else kind.Config).model_fields:
            continue
        try:
            changed = context.plan(key, change)
        except ValueError as error:
            context.log(f"ablation: {key} without {change}: {error}")
            continue
        if (changed.model, changed.training) != (base.model, base.training):
            found.append(change)
    return found


def _measure(context: StudyContext, key: str, change: str) -> dict[str, Any]:
    seeds = context.grid.seeds
    base, changed = (
        np.stack([context.evaluate(context.train(key, *more, seed=seed).bundle).values[METRIC] for seed in seeds])
        for more in ((), (change,))
    )
    difference = estimate((changed.mean(0) - base.mean(0))[:, None])[0]
    return {
        "base": float(base.mean()),
        "base_by_seed": [float(value) for value in base.mean(1)],
        "changed": float(changed.mean()),
        "by_seed": [float(value) for value in changed.mean(1)],
        "difference": difference.mean,
        "interval": [difference.low, difference.high],
    }


def tables(cells: Sequence[Cell]) -> list[StudyTable]:
    """Return a row per model and change."""
    rows = [
        [
            *(cell["model"], f"`{cell['change']}`", cell["base"], cell["changed"], cell["difference"]),
            f"[{cell['interval'][0]:+.3f}, {cell['interval'][1]:+.3f}]",
        ]
        for cell in cells
    ]
    columns = ("model", "change", "base", "changed", "difference", "95 % over users")
    return [StudyTable("One change at a time, NDCG@10", columns, rows)]


def figures(cells: Sequence[Cell]) -> Mapping[str, StudyChart]:
    """Draw the differences with their intervals, a figure per model."""
    models = dict.fromkeys(cell["model"] for cell in cells)
    return {
        f"Changes of {model}": draw_intervals(
            {cell["change"]: (cell["difference"], *cell["interval"]) for cell in cells if cell["model"] == model},
            "difference of NDCG@10",
        )
        for model in models
    }


def answer(cells: Sequence[Cell]) -> list[str]:
    """List the changes whose interval excludes 0 and whose seeds agree on the sign."""
    sentences = []
    for model in dict.fromkeys(cell["model"] for cell in cells):
        own = [cell for cell in cells if cell["model"] == model]
        worse = [cell for cell in own if cell["interval"][1] < 0 and _seeds_agree(cell)]
        better = [cell for cell in own if cell["interval"][0] > 0 and _seeds_agree(cell)]
        parts = [
            f"{verb} it: " + ", ".join(f"`{cell['change']}` ({cell['difference']:+.3f})" for cell in chosen)
            for verb, chosen in (("lower", worse), ("raise", better))
            if chosen
        ]
        rest = len(own) - len(worse) - len(better)
        text = f"`{model}` has {own[0]['base']:.3f}; of {len(own)} changes " + (
            "; ".join(parts) or "none clearly changes it"
        )
        sentences.append(
            text + (f"; of {rest} the interval includes 0, or the seeds disagree." if rest and parts else ".")
        )
    return sentences


def _seeds_agree(cell: Cell) -> bool:
    """Return whether the difference has the same sign with every seed."""
    differences = np.subtract(cell["by_seed"], cell["base_by_seed"])
    return bool((differences > 0).all() or (differences < 0).all())
