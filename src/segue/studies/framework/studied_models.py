"""Find the models that a study measures: trained for it, or of finished runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from segue.core import bundle
from segue.core.bundle import TrainedModel
from segue.core.files import sha256
from segue.core.messages import arg
from segue.core.registry import model_class
from segue.experiment.paths import bundle_folder, find_run
from segue.experiment.plan import Plan, make_plan
from segue.experiment.run_folder import read_run_plan

__all__ = ["StudiedModel", "changed_settings", "check_sequence_model", "open_runs"]


@dataclass(frozen=True, eq=False)
class StudiedModel:
    """A model that a study measures.

    Attributes:
        about: what distinguishes it in a cell: ``model`` and ``seed``; of a run also ``run`` and a hash of its weights.
        plan: the settings that it was, or will be, trained with.
        load: returns the model, which is trained first if need be.
        run: folder of its run; ``None``: it is trained for the study.
    """

    about: Mapping[str, Any]
    plan: Plan
    load: Callable[[], TrainedModel]
    run: Path | None = None

    @property
    def length(self) -> int:
        """Maximum number of targets in a training window, the setting ``max_length``."""
        return int(self.plan.model.model_dump()["max_length"])


def changed_settings(plan: Plan) -> list[str]:
    """Return the settings ``group.key=value`` of a run that are not the defaults.

    Data, seed and device are left out.
    """
    defaults = make_plan({"model": plan.task.model, "data": plan.task.data}, recipe="none").values()
    return [
        f"{group}.{key}={json.dumps(value)}"
        for group, values in plan.values().items()
        if group not in ("task", "run")
        for key, value in values.items()
        if value != defaults[group].get(key)
    ]


def open_runs(study: str, names: Sequence[str | Path]) -> list[StudiedModel]:
    """Return the models of finished runs.

    The runs have the same data, split and ranked items. A model is named by its key; if several runs of a key differ in
    more than the seed, by the name of its run.

    Raises:
        ValueError: a run is unknown, unfinished or given twice, has another kind of model, or other data.
    """
    folders = [find_run(name) for name in names]
    resolved = [folder.resolve() for folder in folders]
    if twice := [folder.name for folder in resolved if resolved.count(folder) > 1]:
        raise ValueError(f"{arg('runs')}: {twice[0]} is given twice, expected different runs")
    plans = [read_run_plan(folder) for folder in folders]
    for folder, plan in zip(folders, plans, strict=True):
        check_sequence_model(study, plan.task.model, f"{arg('runs')}: {folder.name}")
        if plan.comparison_key() != plans[0].comparison_key():
            raise ValueError(
                f"{arg('runs')}: {folder.name} and {folders[0].name} differ in data, split or ranked items; expected "
                "runs with the same"
            )
    return [
        StudiedModel(
            {
                "model": plan.task.model if _differ_in_seed(plan, plans) else folder.name,
                "seed": plan.run.seed,
                "run": folder.name,
                "weights": sha256(bundle_folder(folder) / "arrays.safetensors")[:12],
            },
            plan,
            partial(_load, folder),
            folder,
        )
        for folder, plan in zip(folders, plans, strict=True)
    ]


def check_sequence_model(study: str, key: str, origin: str) -> None:
    """Check that a model reads sequences of events.

    Args:
        origin: who names the model, the start of the message.

    Raises:
        ValueError: it does not.
    """
    from segue.nn.sequence_model import SequenceModel  # needs torch

    if not issubclass(model_class(key), SequenceModel):
        raise ValueError(f"{origin}: got the model {key}; {study} measures models of sequences such as lstm or sasrec")


def _differ_in_seed(plan: Plan, plans: Sequence[Plan]) -> bool:
    """Return whether all plans with the model of ``plan`` differ in the seed alone."""
    same = [one for one in plans if one.task.model == plan.task.model]
    has_equal_settings = all((one.model, one.training) == (plan.model, plan.training) for one in same)
    return has_equal_settings and len({one.run.seed for one in same}) == len(same)


def _load(run: Path) -> TrainedModel:
    return replace(bundle.load(bundle_folder(run)), folder=run)
