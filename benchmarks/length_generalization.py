"""How good a recurrent model is beyond the length it was trained on: the same questions with less and less history.

A run's model answers validation with the newest 50, 100, 200, 400 events of each history, and with all; what is left
out of the lists is always the whole history. NDCG@10 with 95 % intervals, by the length of the history: the groups
beyond ``max_length`` ask whether a state that training never reached helps or harms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import told
from segue.core.model import Factored
from segue.core.types import Codes, Domain, Queries, Scores

__all__ = ["CUTS", "page", "run"]

CUTS: tuple[int | None, ...] = (50, 100, 200, 400, None)
"""Newest events that are read."""

GROUPS = (0, 50, 100, 200, 400, 10**9)
"""Ends of the groups of histories: more than one, and up to the next."""


@dataclass(eq=False)
class Cut:
    """A model that reads the newest ``length`` events of a history."""

    model: Factored
    length: int
    domain: Domain
    scale: Literal["logit", "score"]

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """The model's own, of less."""
        return self.model.encode(replace(queries, history=queries.history.last(self.length)))

    @property
    def vectors(self) -> NDArray[np.float32]:
        """The model's own."""
        return self.model.vectors

    @property
    def bias(self) -> NDArray[np.float32]:
        """The model's own."""
        return self.model.bias

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """The model's own, of less."""
        return self.model.score(replace(queries, history=queries.history.last(self.length)), candidates)


def run(ask: Any) -> dict[str, Any]:
    """NDCG@10 by how much is read and by the length of the history."""
    from segue.core import bundle
    from segue.data.splits import split
    from segue.evaluation.bootstrap import estimate
    from segue.evaluation.evaluate import evaluate
    from segue.experiment.data import reopen
    from segue.experiment.paths import SETTINGS, find_run
    from segue.experiment.plan import read_plan

    folder = find_run(ask.run)
    plan = read_plan(folder / SETTINGS)
    trained = bundle.load(folder / "bundle")
    model: Any = trained.model
    if not getattr(model, "recurrent", False):
        raise ValueError(f"run: '{trained.key}' reads no more than its window; expected a recurrent model")
    data = reopen(folder)
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
        reader = model if cut is None else Cut(model, cut, model.domain, model.scale)
        values_N = evaluate(reader, valid, ks=(10,), seed=plan.run.seed).values["ndcg@10"]
        for group in [None, *range(len(GROUPS) - 1)]:
            inside = np.ones(len(values_N), bool) if group is None else group_N == group
            if inside.any():
                (mean,) = estimate(values_N[inside][:, None], plan.run.seed)
                over, upto = (None, None) if group is None else GROUPS[group : group + 2]
                figures = {"questions": int(inside.sum()), "mean": mean.mean, "low": mean.low, "high": mean.high}
                found["rows"].append({"read": cut, "over": over, "upto": upto, **figures})
    return found


def page(found: dict[str, Any]) -> str:
    """The table, as Markdown: a line per group of histories, a column per amount that is read."""
    lines = [
        f"# {found['run']} beyond the length it was trained on",
        "",
        f"`{found['model']}` on {found['data']}, trained on windows of {found['max_length']} targets; NDCG@10 on "
        "validation with 95 % intervals, whole catalogue, whole history removed.",
        "",
        "| events in the history | questions | "
        + " | ".join("all read" if cut is None else f"newest {cut} read" for cut in CUTS)
        + " |",
        "| --- | ---: | " + " | ".join("---:" for _ in CUTS) + " |",
    ]
    for over, upto in dict.fromkeys((row["over"], row["upto"]) for row in found["rows"]):
        rows = {row["read"]: row for row in found["rows"] if (row["over"], row["upto"]) == (over, upto)}
        name = "all" if over is None else f"more than {over}" if upto == GROUPS[-1] else f"{over + 1} to {upto}"
        cells = [f"{rows[cut]['mean']:.4f} ({rows[cut]['low']:.4f} to {rows[cut]['high']:.4f})" for cut in CUTS]
        lines.append(f"| {name} | {rows[None]['questions']:,} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"* data: {found['data']}, hash {found['hash']}; bootstrap with seed {found['seed']}",
        *(f"* warning: {text}" for text in found["warnings"]),
        *told(found["machine"]),
    ]
    return "\n".join([*lines, ""])
