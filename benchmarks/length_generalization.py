"""Accuracy of a recurrent model on histories shorter and longer than those of training, on the same queries.

The model reads the last 50, 100, 200, 400 events of each history, or all of them; recommendations always exclude the
whole history. NDCG@10 with 95 % intervals is grouped by history length: groups beyond ``max_length`` show whether
states that training never reached improve or degrade accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe_lines
from segue.core.model import Factored
from segue.core.types import Codes, DataSchema, Queries, Scores

__all__ = ["CUTS", "page", "run"]

CUTS: tuple[int | None, ...] = (50, 100, 200, 400, None)
"""Numbers of last events that are read."""

GROUPS = (0, 50, 100, 200, 400, 10**9)
"""Bounds of the groups of history lengths: more than one bound, up to the next."""


@dataclass(eq=False)
class TruncatedHistory:
    """A model that reads only the last ``length`` events of a history."""

    model: Factored
    length: int
    schema: DataSchema
    scale: Literal["logit", "score"]

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """Delegate to the model, with the last events only."""
        return self.model.encode(replace(queries, history=queries.history.last(self.length)))

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Return those of the model."""
        return self.model.vectors

    @property
    def bias(self) -> NDArray[np.float32]:
        """Return those of the model."""
        return self.model.bias

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Delegate to the model, with the last events only."""
        return self.model.score(replace(queries, history=queries.history.last(self.length)), candidates)


def run(options: Any) -> dict[str, Any]:
    """Measure NDCG@10 by the number of events read and by history length."""
    from segue.core import bundle
    from segue.data.splits import split
    from segue.evaluation.bootstrap import estimate
    from segue.evaluation.evaluate import evaluate
    from segue.experiment.data import load_run_data
    from segue.experiment.paths import SETTINGS, find_run
    from segue.experiment.plan import read_plan

    folder = find_run(options.run or "latest")
    plan = read_plan(folder / SETTINGS)
    trained = bundle.load(folder / "bundle")
    model: Any = trained.model
    if not getattr(model, "reads_full_history", False):
        raise ValueError(f"run: '{trained.key}' reads only its window; expected a recurrent model")
    data = load_run_data(folder)
    valid = split(data, plan.split).valid
    lengths = valid.queries.history.lengths
    group_N = np.searchsorted(GROUPS[1:], lengths)
    found: dict[str, Any] = {
        "run": folder.name,
        "model": trained.key,
        "data": plan.task.data,
        "hash": data.header.get("hash"),
        "warnings": list(data.header.get("warnings", [])),
        "seed": plan.run.seed,
        "max_length": model.config.max_length,
        "rows": [],
    }
    for cut in CUTS:
        reader = model if cut is None else TruncatedHistory(model, cut, model.schema, model.scale)
        values_N = evaluate(reader, valid, ks=(10,), seed=plan.run.seed).values["ndcg@10"]
        for group in [None, *range(len(GROUPS) - 1)]:
            inside = np.ones(len(values_N), bool) if group is None else group_N == group
            if inside.any():
                (mean,) = estimate(values_N[inside][:, None], plan.run.seed)
                above, up_to = (None, None) if group is None else GROUPS[group : group + 2]
                figures = {"queries": int(inside.sum()), "mean": mean.mean, "low": mean.low, "high": mean.high}
                found["rows"].append({"read": cut, "above": above, "up_to": up_to, **figures})
    return found


def page(found: dict[str, Any]) -> str:
    """Format a table: a row per group of history lengths, a column per number of events read."""
    lines = [
        f"# Length generalization of {found['run']}",
        "",
        f"`{found['model']}` on {found['data']}, trained on windows of {found['max_length']} targets; NDCG@10 on "
        "validation with 95 % intervals, whole catalog, whole history removed.",
        "",
        "| events in the history | queries | "
        + " | ".join("all read" if cut is None else f"last {cut} read" for cut in CUTS)
        + " |",
        "| --- | ---: | " + " | ".join("---:" for _ in CUTS) + " |",
    ]
    for above, up_to in dict.fromkeys((row["above"], row["up_to"]) for row in found["rows"]):
        rows = {row["read"]: row for row in found["rows"] if (row["above"], row["up_to"]) == (above, up_to)}
        name = "all" if above is None else f"more than {above}" if up_to == GROUPS[-1] else f"{above + 1} to {up_to}"
        cells = [f"{rows[cut]['mean']:.4f} ({rows[cut]['low']:.4f} to {rows[cut]['high']:.4f})" for cut in CUTS]
        lines.append(f"| {name} | {rows[None]['queries']:,} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"* data: {found['data']}, hash {found['hash']}; bootstrap with seed {found['seed']}",
        *(f"* warning: {text}" for text in found["warnings"]),
        *describe_lines(found["machine"]),
    ]
    return "\n".join([*lines, ""])
