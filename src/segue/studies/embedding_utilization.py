"""Embedding utilization: spectrum, isotropy and accuracy by width.

Shapes: I items, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.messages import arg
from segue.core.registry import model_class
from segue.core.types import Mask
from segue.evaluation.popularity_groups import popularity_groups
from segue.studies.framework.context import StudyContext
from segue.studies.framework.drawing import draw_lines
from segue.studies.framework.study import Cell, Grid, StudyChart, StudyTable
from segue.studies.framework.summary import by_model, describe_overlap, mean_of, spread_of

__all__ = [
    "DEFAULT",
    "FULL",
    "METHOD",
    "QUESTION",
    "REQUIRES",
    "answer",
    "describe_vectors",
    "figures",
    "run",
    "tables",
]

QUESTION = "How much of their embedding space do sequence models use, and does more width help?"
METHOD = """
Each model is trained with several widths. Of its item vectors, centered, the effective rank is the exponential of the
entropy of the normalized singular values (Roy and Vetterli 2007), the utilization is the effective rank divided by
the width, and the spectrum is the share of the variance in the largest tenth of the directions. Isotropy is the ratio
of the smallest to the largest value of the partition function over the principal directions (Mu and Viswanath 2018),
1 for vectors that are spread evenly; the mean cosine is that of pairs of different items. Accuracy is NDCG@10 of the
test part, also by the popularity of the item to find: the head are the most popular items with a fifth of the
training events, the tail the least popular ones with a fifth.
"""
REQUIRES = ("embedding_dim",)
DEFAULT = Grid(values=(16, 64), settings=("epochs=3",))
FULL = Grid(values=(8, 16, 32, 64, 128, 256), seeds=(0, 1, 2), settings=("epochs=12", "patience=12"))

METRIC = "ndcg@10"


def run(context: StudyContext) -> list[Cell]:
    """Train every model with every width.

    Raises:
        ValueError: a model has no item vectors.
    """
    for model in context.grid.models:
        if not hasattr(model_class(model), "vectors"):
            raise ValueError(
                f"{arg('models')}: got {model}, which has no item vectors; the study {context.name} measures those"
            )
    return [
        context.cell({"model": model, "width": width, "seed": seed}, partial(_measure, context, model, width, seed))
        for model in context.grid.models
        for width in context.grid.values
        for seed in context.grid.seeds
    ]


def _measure(context: StudyContext, key: str, width: int, seed: int) -> dict[str, Any]:
    trained = context.train(key, f"embedding_dim={width}", seed=seed)
    found = context.evaluate(trained.bundle)
    events_I = context.item_events
    targets = context.parts.test.targets
    groups = {name: is_member for name, _, is_member in popularity_groups(events_I)}
    vectors_ID = trained.model.vectors.astype(np.float64)
    return {
        METRIC: found[METRIC].mean,
        "interval": [found[METRIC].low, found[METRIC].high],
        "by_popularity": {
            name: _mean_of_targets(found.values[METRIC], targets, is_member) for name, is_member in groups.items()
        },
        "ranks": {
            name: describe_vectors(vectors_ID[is_member])["effective_rank"] for name, is_member in groups.items()
        },
        **describe_vectors(vectors_ID),
        "parameters": trained.parameters,
    }


def describe_vectors(vectors_ID: NDArray[np.float64]) -> dict[str, Any]:
    """Measure vectors ``(I, D)``: effective rank, spectrum, isotropy, mean cosine."""
    centered_ID = vectors_ID - vectors_ID.mean(0)
    singular_R = np.linalg.svd(centered_ID, compute_uv=False)
    share_R = singular_R / singular_R.sum()
    positive = share_R[share_R > 0]
    rank = float(np.exp(-(positive * np.log(positive)).sum()))
    variance_R = singular_R**2 / (singular_R**2).sum()
    directions_DD = np.linalg.svd(vectors_ID, full_matrices=False)[2]
    log_sums = _log_sum_exp(vectors_ID @ np.concatenate([directions_DD, -directions_DD]).T)
    unit_ID = vectors_ID / np.linalg.norm(vectors_ID, axis=1, keepdims=True).clip(1e-12)
    n_items = len(unit_ID)
    width = vectors_ID.shape[1]
    return {
        "effective_rank": rank,
        "utilization": rank / width,
        "top_tenth": float(variance_R[: max(1, round(width / 10))].sum()),
        "spectrum": [float(value) for value in variance_R],
        "isotropy": float(np.exp(log_sums.min() - log_sums.max())),
        "mean_cosine": float((np.square(unit_ID.sum(0)).sum() - n_items) / max(1, n_items * (n_items - 1))),
    }


def _log_sum_exp(values: NDArray[np.float64]) -> NDArray[np.float64]:
    top = values.max(0)
    result: NDArray[np.float64] = top + np.log(np.exp(values - top).sum(0))
    return result


def _mean_of_targets(values_N: NDArray[np.float64], targets: Any, is_member_I: Mask) -> float | None:
    """Return the mean over queries whose first target is a member.

    ``None``: there are none.
    """
    chosen = is_member_I[targets.items[targets.offsets[:-1]]]
    return float(values_N[chosen].mean()) if chosen.any() else None


def tables(cells: Sequence[Cell]) -> list[StudyTable]:
    """Return a row per model and width."""
    rows = [
        [
            model,
            width,
            mean_of(chosen, METRIC),
            spread_of(chosen, METRIC),
            *(mean_of(chosen, "by_popularity", name) for name in ("head", "middle", "tail")),
            *(
                mean_of(chosen, name)
                for name in ("effective_rank", "utilization", "top_tenth", "isotropy", "mean_cosine")
            ),
        ]
        for (model, width), chosen in by_model(cells, "width").items()
    ]
    columns = (
        *("model", "width", "NDCG@10", "± seeds", "head", "middle", "tail"),
        *("effective rank", "utilization", "variance of the top tenth", "isotropy", "mean cosine"),
    )
    return [StudyTable("Accuracy and item vectors by width", columns, rows)]


def figures(cells: Sequence[Cell]) -> Mapping[str, StudyChart]:
    """Draw accuracy and rank by width, and the spectrum of the largest width."""
    groups = by_model(cells, "width")
    models = list(dict.fromkeys(model for model, _ in groups))
    widths = sorted({width for _, width in groups})

    def line(model: str, name: str) -> list[tuple[float, float]]:
        return [(width, mean_of(groups[model, width], name) or 0.0) for width in widths]

    spectra = {
        model: [
            (float(number + 1), value)
            for number, value in enumerate(np.mean([cell["spectrum"] for cell in groups[model, widths[-1]]], axis=0))
            if value > 0
        ]
        for model in models
    }
    return {
        "NDCG@10 by width": draw_lines(
            {model: line(model, METRIC) for model in models}, "width", "NDCG@10", log_x=True
        ),
        "Effective rank by width": draw_lines(
            {model: line(model, "effective_rank") for model in models}, "width", "effective rank", log_x=True
        ),
        f"Spectrum with width {widths[-1]}": draw_lines(
            spectra, "principal direction", "share of the variance", log_y=True
        ),
    }


def answer(cells: Sequence[Cell]) -> list[str]:
    """State utilization and gain of width, model by model."""
    groups = by_model(cells, "width")
    widths = sorted({width for _, width in groups})
    low, high = widths[0], widths[-1]
    sentences = []
    for model in dict.fromkeys(model for model, _ in groups):
        first, last = groups[model, low], groups[model, high]
        sentences.append(
            f"`{model}` uses an effective rank of {mean_of(last, 'effective_rank'):.1f} of {high} dimensions "
            f"({mean_of(last, 'utilization'):.0%}) and {mean_of(first, 'effective_rank'):.1f} of {low} "
            f"({mean_of(first, 'utilization'):.0%}). NDCG@10 is {mean_of(first, METRIC):.3f} with width {low} and "
            f"{mean_of(last, METRIC):.3f} with {high}{describe_overlap(first, last, METRIC)}."
        )
    return sentences
