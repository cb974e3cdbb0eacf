"""The results of tuning: trials, the best settings, a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from segue.core.model import is_lower_better
from segue.experiment.tuning.recipe import describe_values, recipe_values
from segue.experiment.tuning.space import Space, TunedPlan, apply_values, read_values
from segue.experiment.tuning.study import StoredTrial

__all__ = ["ModelTuning", "TuningResult"]


@dataclass(frozen=True, eq=False, repr=False)
class ModelTuning:
    """The trials of one model, and the best of them by the validation metric."""

    name: str
    metric: str
    start: TunedPlan
    """The settings that tuning starts from: those of the first trial."""
    space: Space
    trials: tuple[StoredTrial, ...]
    importances: Mapping[str, float]
    """How much of the variation of the metric each setting explains; empty for few trials."""
    recipe: Path
    """File of the best settings, which ``segue train --recipe`` and ``segue.train(recipe=...)`` read."""

    @property
    def best(self) -> StoredTrial:
        """The best trial on validation; of equal ones, the first."""
        sign = 1.0 if is_lower_better(self.metric) else -1.0
        measured = [one for one in self.trials if one.state in ("complete", "stopped") and one.mean is not None]
        return min(measured, key=lambda one: sign * float(one.mean or 0.0))

    @property
    def plan(self) -> TunedPlan:
        """The settings of the best trial."""
        return apply_values(self.start, self.best.values or {})

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the best trial that differ from the defaults, by name.

        They are arguments of :func:`segue.train`.
        """
        found = recipe_values(self.plan)
        own, training = found.get("model", {}), found.get("training", {})
        return own | {(f"training.{name}" if name in own else name): value for name, value in training.items()}

    @property
    def seconds(self) -> float:
        """Duration of all trials."""
        return sum(one.seconds for one in self.trials)

    def record(self) -> dict[str, Any]:
        """Return the trials as JSON holds them."""
        return {
            "model": self.start.task.model,
            "best": asdict(self.best),
            "settings": self.settings,
            "start": read_values(self.start, self.space),
            "space": {name: str(one) for name, one in self.space.items()},
            "importances": dict(self.importances),
            "seconds": self.seconds,
            "recipe": str(self.recipe),
            "trials": [asdict(one) for one in self.trials],
        }


@dataclass(frozen=True, eq=False, repr=False)
class TuningResult:
    """Models tuned under the same budget, the best on validation first."""

    data: str
    metric: str
    """The validation metric."""
    models: Mapping[str, ModelTuning]
    comparison: Any = None
    """The comparison of the best settings of each model on the test part, if it was read."""

    @property
    def ranking(self) -> list[str]:
        """Names of the models, best first by their best trial on validation."""
        sign = 1.0 if is_lower_better(self.metric) else -1.0
        return sorted(self.models, key=lambda name: sign * float(self.models[name].best.mean or 0.0))

    @property
    def best(self) -> ModelTuning:
        """The model with the best trial on validation."""
        return self.models[self.ranking[0]]

    @property
    def table(self) -> pl.DataFrame:
        """One row per trial.

        ``mean``, ``low`` and ``high`` are the validation metric with its 95 % interval.
        """
        rows = [
            (
                *(name, one.number, one.state, one.mean, one.low, one.high, one.seconds, one.epochs),
                *(one is tuned.best, describe_values(one.values), one.error),
            )
            for name, tuned in ((name, self.models[name]) for name in self.ranking)
            for one in tuned.trials
        ]
        numbers = dict.fromkeys(("mean", "low", "high", "seconds"), pl.Float64)
        schema = {"model": pl.String, "trial": pl.Int64, "state": pl.String, **numbers, "epochs": pl.Int64}
        texts = {"is_best": pl.Boolean, "values": pl.String, "error": pl.String}
        return pl.DataFrame(rows, schema={**schema, **texts}, orient="row")

    def record(self) -> dict[str, Any]:
        """Return the result as JSON holds it."""
        return {
            "data": self.data,
            "metric": self.metric,
            "best": self.ranking[0],
            "models": {name: self.models[name].record() for name in self.ranking},
        }

    def __repr__(self) -> str:
        lines = [f"TuningResult: {self.data}, validation {self.metric}, 95 % intervals"]
        for name in self.ranking:
            tuned, best = self.models[name], self.models[name].best
            lines.append(
                f"  {name}: {best.mean:.4f} [{best.low:.4f}, {best.high:.4f}], trial {best.number} of "
                f"{len(tuned.trials)} ({describe_values(best.values)}); {tuned.seconds:,.0f} s"
            )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return self.table._repr_html_()
