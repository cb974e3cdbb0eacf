"""Train one model in memory, from settings by name; the counterpart of a run without a run folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from segue.core import bundle
from segue.core.bundle import TrainedModel
from segue.core.run import Run
from segue.core.types import Dataset, Split
from segue.evaluation.evaluate import make_validator
from segue.evaluation.metrics import resolve_metrics
from segue.experiment.data import user_feature_names, validate_inputs
from segue.experiment.plan import make_plan
from segue.training.settings import CustomLoss
from segue.training.train import train

__all__ = ["train_model"]


@dataclass(frozen=True)
class _Recorder:
    """Keeps what training logs, for runs without a folder."""

    lines: list[dict[str, float]] = field(default_factory=list)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.lines.append({"step": step, **values})


def train_model(
    name: str,
    data: Split | Dataset,
    settings: Mapping[str, Any],
    *,
    seed: int = 0,
    device: str = "cpu",
    recipe: str | Path | None = None,
    folder: str | Path | None = None,
    progress: bool = False,
    callbacks: Sequence[Any] = (),
    loss: str | Callable[..., Any] | None = None,
    metric: str | Callable[..., Any] | None = None,
) -> TrainedModel:
    """Train the model ``name``; see :func:`segue.train` for the arguments.

    Raises:
        ValueError: an unknown model or setting, or data that the model cannot be trained on.
        Interrupted: the user asked to stop; with ``folder``, the checkpoint is written.
    """
    train_data = data.train if isinstance(data, Split) else data
    custom = CustomLoss(loss) if callable(loss) else None
    named = {"loss": loss if custom is None else str(custom), "metric": None if callable(metric) else metric}
    named = {key: value for key, value in named.items() if value is not None}
    assignments = [f"{key}={json.dumps(value)}" for key, value in {**settings, **named}.items()]
    chosen = make_plan({"model": name, "data": train_data.name}, assignments, recipe)
    held = [part.queries for part in (data.valid, data.test) if len(part)] if isinstance(data, Split) else []
    validate_inputs(chosen, not held or any(queries.times is not None for queries in held))
    out = None if folder is None else Path(folder)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    recorder = _Recorder()
    run = Run(seed, out, device, (recorder,), show_progress=progress)
    validate = None
    training = chosen.training
    if callable(metric):  # early stopping looks the metric up by its name
        training = training.model_copy(update={"metric": resolve_metrics([metric])[0].name})
    if custom is not None:  # the plan holds its name
        training = training.model_copy(update={"loss": custom})
    if isinstance(data, Split) and len(data.valid):
        validate = make_validator(data.valid, metric if callable(metric) else chosen.metric)
    model = train(name, chosen.model, training, train_data, run, validate, tuple(callbacks))
    metadata = {"data": train_data.name, "seed": seed, "user_features": user_feature_names(train_data)}
    trained = bundle.create(name, model, train_data, metadata)
    return replace(trained, training_history=tuple(run.history() or recorder.lines))
