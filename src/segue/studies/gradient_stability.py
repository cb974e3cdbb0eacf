"""Gradient stability: norms per layer and step, clipping, fading by distance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from segue.core.messages import arg
from segue.studies.framework.context import StudyContext
from segue.studies.framework.drawing import draw_lines
from segue.studies.framework.studied_models import check_sequence_model
from segue.studies.framework.study import Cell, Grid, StudyChart, StudyTable
from segue.studies.framework.summary import by_model, mean_of
from segue.training.callbacks import Callback, TrainingState

__all__ = ["DEFAULT", "FULL", "METHOD", "QUESTION", "REQUIRES", "GradientNorms", "answer", "figures", "run", "tables"]

QUESTION = "Do gradients stay stable when sequences get longer?"
METHOD = """
Each model is trained with several lengths. The norm of the gradient is recorded after every step, before clipping,
for the whole network and for each of its layers. A step is clipped if the norm is above `clip_norm`, and an outlier
if it is above ten times the median. Exploding gradients show as outliers and as a ratio of the 99th percentile to the
median far above 1 that grows with the length. Vanishing gradients are measured after the training: the norm of the
gradient of the true item's logit with respect to the vector of an event, by the number of events after it, relative
to the newest event (after Pascanu, Mikolov and Bengio 2013), on test queries with histories that fill the length.
"""
REQUIRES = ("max_length", "epochs")
DEFAULT = Grid(values=(20, 50), settings=("epochs=2",))
FULL = Grid(values=(20, 50, 100, 200), seeds=(0, 1, 2), settings=("epochs=12", "patience=12"))

N_QUERIES = 200
"""Test queries whose gradients by distance are measured."""
OUTLIER = 10.0
"""Multiple of the median norm from which a step is an outlier."""


class GradientNorms(Callback):
    """Record the norm of the gradient of every layer in each step, before clipping."""

    def __init__(self) -> None:
        self.norms: dict[str, list[float]] = {}
        """Norms by the first two parts of the names of modules; ``total``: of all."""
        self._squares: dict[str, float] = {}
        self._handles: list[Any] = []

    def on_train_start(self, state: TrainingState) -> None:
        """Watch all parameters."""
        for name, parameter in state.model.named_parameters():
            module = name.rpartition(".")[0] or name
            layer = ".".join(module.split(".")[:2])
            self._handles.append(parameter.register_post_accumulate_grad_hook(partial(self._add, layer)))

    def _add(self, layer: str, parameter: Any) -> None:
        gradient = parameter.grad
        values = gradient.coalesce().values() if gradient.is_sparse else gradient
        self._squares[layer] = self._squares.get(layer, 0.0) + float(values.float().square().sum())

    def on_step_end(self, state: TrainingState) -> None:
        """Store the norms of the step."""
        for layer, square in {**self._squares, "total": sum(self._squares.values())}.items():
            self.norms.setdefault(layer, []).append(square**0.5)
        self._squares = {}

    def on_train_end(self, state: TrainingState) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()


def run(context: StudyContext) -> list[Cell]:
    """Train every model with every length.

    Raises:
        ValueError: a model does not read sequences of events.
    """
    for model in context.grid.models:
        check_sequence_model(context.name, model, arg("models"))
    return [
        context.cell({"model": model, "length": length, "seed": seed}, partial(_measure, context, model, length, seed))
        for model in context.grid.models
        for length in context.grid.values
        for seed in context.grid.seeds
    ]


def _measure(context: StudyContext, key: str, length: int, seed: int) -> dict[str, Any]:
    from segue.studies.framework.attribution import gradient_norms  # needs torch

    recorder = GradientNorms()
    plan = context.plan(key, f"max_length={length}", seed=seed)
    model: Any = context.fit(plan, context.parts, [recorder])
    total_S = np.array(recorder.norms["total"])
    test = context.parts.test
    is_long = test.queries.history.lengths >= length
    rows = np.flatnonzero(is_long)[:N_QUERIES]
    targets = test.targets.items[test.targets.offsets[:-1]]
    norms_NL = gradient_norms(model, test.queries.take(rows), targets[rows], length) if len(rows) else None
    read_NL = None if norms_NL is None else norms_NL[:, ~np.isnan(norms_NL).all(0)]
    by_distance = None if read_NL is None else np.nanmean(read_NL / read_NL[:, :1], axis=0)
    clip = plan.training.clip_norm
    return {
        "steps": len(total_S),
        "median": float(np.median(total_S)),
        "p99": float(np.percentile(total_S, 99)),
        "maximum": float(total_S.max()),
        "outliers": float((total_S > OUTLIER * np.median(total_S)).mean()),
        "clipped": float((total_S > clip).mean()) if clip else 0.0,
        "clip_norm": clip,
        "layers": {name: float(np.median(norms)) for name, norms in recorder.norms.items() if name != "total"},
        "by_step": _thin(total_S),
        "queries": len(rows),
        "by_distance": None if by_distance is None else [float(value) for value in by_distance],
    }


def _thin(values: Any, n_points: int = 100) -> list[float]:
    """Return the means of consecutive steps, at most ``n_points``."""
    return [float(part.mean()) for part in np.array_split(values, min(n_points, len(values)))]


def tables(cells: Sequence[Cell]) -> list[StudyTable]:
    """Return norms by length, and by layer for the largest length."""
    groups = by_model(cells, "length")
    rows = [
        [
            model,
            length,
            *(mean_of(chosen, name) for name in ("median", "p99", "maximum", "outliers", "clipped")),
            _last(chosen),
        ]
        for (model, length), chosen in groups.items()
    ]
    longest = max(length for _, length in groups)
    layers = [
        [model, layer, mean_of(chosen, "layers", layer)]
        for (model, length), chosen in groups.items()
        if length == longest
        for layer in chosen[0]["layers"]
    ]
    columns = ("model", "length", "median norm", "99th percentile", "maximum", "outliers", "clipped", "oldest / newest")
    note = (
        "Outliers and clipped are shares of the steps. The last column is the gradient of the oldest event that is "
        "read, relative to the newest one."
    )
    return [
        StudyTable("Norm of the gradient by length", columns, rows, note),
        StudyTable(f"Median norm by layer, length {longest}", ("model", "layer", "median norm"), layers),
    ]


def _last(cells: Sequence[Cell]) -> float | None:
    found = [cell["by_distance"][-1] for cell in cells if cell["by_distance"]]
    return float(np.mean(found)) if found else None


def figures(cells: Sequence[Cell]) -> Mapping[str, StudyChart]:
    """Draw the norm by step and the gradient by distance, for the largest length."""
    groups = by_model(cells, "length")
    longest = max(length for _, length in groups)
    chosen = {model: group for (model, length), group in groups.items() if length == longest}
    steps = {
        model: list(zip(np.linspace(0, 1, len(group[0]["by_step"])), group[0]["by_step"], strict=True))
        for model, group in chosen.items()
    }
    distance = {
        model: [(float(back), value) for back, value in enumerate(group[0]["by_distance"])]
        for model, group in chosen.items()
        if group[0]["by_distance"]
    }
    found = {
        f"Norm of the gradient during training, length {longest}": draw_lines(
            steps, "share of the training", "norm before clipping", log_y=True
        )
    }
    if distance:
        found[f"Gradient by distance, length {longest}"] = draw_lines(
            distance, "events after it", "gradient relative to the newest event", log_y=True
        )
    return found


def answer(cells: Sequence[Cell]) -> list[str]:
    """State outliers, clipping and fading, model by model."""
    groups = by_model(cells, "length")
    lengths = sorted({length for _, length in groups})
    sentences = []
    for model in dict.fromkeys(model for model, _ in groups):
        first, last = groups[model, lengths[0]], groups[model, lengths[-1]]
        outliers, faded = mean_of(last, "outliers"), _last(last)
        text = (
            f"`{model}`: the median norm is {mean_of(first, 'median'):.2f} with length {lengths[0]} and "
            f"{mean_of(last, 'median'):.2f} with {lengths[-1]}; {outliers:.1%} of the steps are outliers there and "
            f"{mean_of(last, 'clipped'):.1%} are clipped."
        )
        if faded is not None:
            text += f" The gradient of the oldest of {lengths[-1]} events is {faded:.2g} times that of the newest."
        sentences.append(text)
    return sentences
