"""Train the models of a study and keep what was measured.

A training with the same settings, data and seed is done once for all studies. A measurement is kept until the study,
the data or the version of Segue changes, so an interrupted study continues where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core import bundle
from segue.core.bundle import TrainedModel
from segue.core.files import atomic_folder, read_json, write_json
from segue.core.messages import arg
from segue.core.model import Model, Solver
from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Dataset, HeldOut, Split
from segue.data.splits import split
from segue.evaluation.evaluate import EvaluationResult, make_validator
from segue.experiment.arguments import unused_by_model
from segue.experiment.data import load_data, load_run_data
from segue.experiment.evaluate import evaluate
from segue.experiment.paths import runs_folder
from segue.experiment.plan import Plan, make_plan
from segue.experiment.resources import count_parameters
from segue.studies.framework.studied_models import StudiedModel, check_sequence_model
from segue.studies.framework.study import Cell, Grid
from segue.training.settings import Training
from segue.training.train import train
from segue.version import __version__

__all__ = ["COMMON", "StudyContext", "Trained", "has_setting"]

MASK = "mask_seen=true"

COMMON = (
    *("embedding_dim=64", "max_length=50", "windows=all", "dropout=0.3", MASK, "batch_size=32"),
    *("schedule=one_cycle", "training.learning_rate=3e-3"),
)
"""Settings that all models of all studies have in common unless a study or the user changes them.

They were chosen on the validation part of MovieLens 100K, seed 0, with 12 epochs: ``segue train lstm --data ml-100k
--recipe none --set epochs=12`` with ``--set`` of each prints the metrics.
"""

Log = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Trained:
    """A model of a study.

    Attributes:
        bundle: the model with its catalog and training log.
        history: values of each epoch, such as ``loss`` and ``valid/ndcg@10``.
        parameters: number of trained weights.
    """

    bundle: TrainedModel
    history: Sequence[Mapping[str, float]]
    parameters: int

    @property
    def model(self) -> Any:
        """The model itself."""
        return self.bundle.model


class StudyContext:
    """What a study trains and measures with.

    Args:
        name: key of the study.
        data: a source, file or folder, as for ``segue train --data``.
        grid: what is trained.
        overrides: settings by the user, which take precedence over those of the study.
        source_hash: hash of the study's code; measurements of other code are not reused.
        folder: where measurements are kept; ``None``: beside the runs.
        runs: models of finished runs, which are studied in place of those of the grid, on their data and split.
    """

    def __init__(
        self,
        name: str,
        data: str,
        grid: Grid,
        log: Log,
        overrides: Sequence[str] = (),
        source_hash: str = "",
        folder: Path | None = None,
        runs: Sequence[StudiedModel] = (),
    ) -> None:
        self.name, self.data_query, self.grid, self.log = name, data, grid, log
        self.overrides, self.source_hash = tuple(overrides), source_hash
        self.folder, self.runs = folder or runs_folder() / "studies", runs

    @cached_property
    def first_plan(self) -> Plan:
        """The plan of the first model.

        Its data, split and evaluation settings are those of all models.
        """
        return self.runs[0].plan if self.runs else self.plan(self.grid.models[0])

    @cached_property
    def data(self) -> Dataset:
        """The prepared log."""
        run = self.runs[0].run if self.runs else None
        return load_data(self.first_plan, self.log) if run is None else load_run_data(run)

    @cached_property
    def parts(self) -> Split:
        """The split of the log."""
        return split(self.data, self.first_plan.split)

    @cached_property
    def item_events(self) -> NDArray[np.int64]:
        """Number of training events of each item, ``(I,)``."""
        return np.bincount(self.parts.train.histories.items, minlength=self.data.n_items)

    def plan(self, key: str, *settings: str, seed: int = 0) -> Plan:
        """Plan the training of a model.

        Settings are the common ones, those of the grid, of the user, then those of the cell.

        Raises:
            ValueError: a setting is unknown, or set by the user although the study varies it.
        """
        if seeds := [text for text in self.overrides if _name(text) in ("seed", "run.seed")]:
            raise ValueError(f"--set {seeds[0]}: the seeds of a study are given by {arg('seeds')}")
        names = [_name(text).rpartition(".")[2] for text in settings]
        for text in self.overrides:
            if _name(text).rpartition(".")[2] in names:
                raise ValueError(f"--set {text}: the study {self.name} varies this setting; leave it out")
        shared = [*self.common, *self.grid.settings, *self.overrides]
        texts = [*(text for text in shared if _is_read(key, _name(text))), *settings]
        latest = {_name(text).rpartition(".")[2]: text for text in texts}
        return make_plan({"model": key, "data": self.data_query}, [*latest.values(), f"run.seed={seed}"], "none")

    @property
    def common(self) -> tuple[str, ...]:
        """The common settings; where seen items are ranked, models learn to rank them."""
        given = [text for text in self.overrides if _name(text).rpartition(".")[2] == "exclude_seen"]
        ranks_seen = bool(given) and given[-1].partition("=")[2].strip().lower() != "true"
        return tuple(text for text in COMMON if not (ranks_seen and text == MASK))

    def check_settings(self) -> None:
        """Check the settings of all models, before the first training.

        Raises:
            ValueError: a setting is unknown, or the user sets one that no model of the grid has.
        """
        for text in self.overrides:
            if not any(_is_read(key, _name(text)) for key in self.grid.models):
                raise ValueError(f"--set {text}: not used by {', '.join(self.grid.models)}; leave it out")
        for key in self.grid.models:
            self.plan(key)

    def studied_models(self, *settings: str) -> list[StudiedModel]:
        """Return the models of the runs, or one per model and seed of the grid.

        The latter are trained when they are loaded.

        Raises:
            ValueError: a model does not read sequences of events.
        """
        if self.runs:
            return list(self.runs)
        for key in self.grid.models:
            check_sequence_model(self.name, key, arg("models"))
        return [
            StudiedModel(
                {"model": key, "seed": seed},
                self.plan(key, *settings, seed=seed),
                partial(self._load, key, settings, seed),
            )
            for key in self.grid.models
            for seed in self.grid.seeds
        ]

    def _load(self, key: str, settings: Sequence[str], seed: int) -> TrainedModel:
        return self.train(key, *settings, seed=seed).bundle

    def train(self, key: str, *settings: str, seed: int = 0, parts: Split | None = None, label: str = "") -> Trained:
        """Train a model, or return the one that was trained before.

        Args:
            parts: default: the split of the log; others need a ``label``, by which their models are kept.
        """
        plan, parts = self.plan(key, *settings, seed=seed), parts or self.parts
        folder = self.folder / "models" / self._key({"training": self._about(plan), "label": label})
        if not (folder / "training.json").exists():
            self.log(f"{self.name}: training {' '.join([key, *settings, label])}, seed {seed}")
            self._train(plan, parts, folder)
        about = read_json(folder / "training.json")
        return Trained(bundle.load(folder / "bundle"), **about)

    def fit(self, plan: Plan, parts: Split, callbacks: Sequence[Any] = (), folder: Path | None = None) -> Model:
        """Train a model in this process; it is not kept."""
        validate = make_validator(parts.valid, plan.metric, exclude_seen=plan.evaluation.exclude_seen)
        run = Run(plan.run.seed, folder)
        return train(plan.task.model, plan.model, plan.training, parts.train, run, validate, callbacks)

    def _train(self, plan: Plan, parts: Split, folder: Path) -> None:
        """Train a model and keep it.

        An interrupted training continues from its checkpoint.
        """
        checkpoints = folder.with_name(f"{folder.name}.part")
        model = self.fit(plan, parts, folder=checkpoints)
        about = {
            "history": Run(plan.run.seed, checkpoints).history(),
            "parameters": count_parameters(model),
        }
        with atomic_folder(folder) as fresh:
            bundle.save(fresh / "bundle", bundle.create(plan.task.model, model, parts.train, {}))
            write_json(fresh / "training.json", about)
        shutil.rmtree(checkpoints, ignore_errors=True)  # models without epochs have none

    def evaluate(
        self, trained: TrainedModel, held_out: HeldOut | None = None, metrics: Sequence[str] = ("ndcg@10",)
    ) -> EvaluationResult:
        """Evaluate a model, by default on the test part, which is recorded."""
        exclude_seen = self.first_plan.evaluation.exclude_seen
        return evaluate(trained, held_out or self.parts, metrics=metrics, exclude_seen=exclude_seen)

    def cell(self, about: Mapping[str, Any], compute: Callable[[], Mapping[str, Any]]) -> Cell:
        """Return ``about`` with the measurements of ``compute``, which are kept.

        Args:
            about: what the measurements depend on besides the data and the settings of the grid.
        """
        kept: dict[str, Any] = {"cell": dict(about), "study": self.name, "source": self.source_hash}
        kept |= {"grid": [self.grid.settings, self.grid.seeds]}
        path = self.folder / "cells" / f"{self._key({**kept, **self._data(), 'overrides': self.overrides})}.json"
        if not path.exists():
            found = {**about, **compute()}
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, found)
            self.log(f"{self.name}: measured {', '.join(f'{name} {value}' for name, value in about.items())}")
        found = read_json(path)
        if not (isinstance(found, dict) and found.keys() > about.keys()):
            raise ValueError(f"{path}: expected the measurements of {', '.join(about)}; delete it to measure again")
        return dict(found)

    def _about(self, plan: Plan) -> dict[str, Any]:
        return {
            "model": plan.task.model,
            "settings": plan.model.model_dump(mode="json"),
            "training": plan.training.model_dump(mode="json"),
            "split": plan.split.model_dump(mode="json"),
            "validation": [plan.metric, plan.evaluation.exclude_seen],
            "seed": plan.run.seed,
        }

    def _data(self) -> dict[str, Any]:
        return {"data": self.data.header.get("hash"), "version": __version__}

    def _key(self, about: Mapping[str, Any]) -> str:
        text = json.dumps({**about, **self._data()}, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:20]


def has_setting(key: str, name: str) -> bool:
    """Return whether a model, or its training, has a setting."""
    group, _, field = name.rpartition(".")
    kind = model_class(key)
    if field in kind.Config.model_fields and group != "training":
        return True
    return field in Training.model_fields and not issubclass(kind, Solver) and not unused_by_model(key, [name])


def _is_read(key: str, name: str) -> bool:
    """Return whether a setting for all models is passed to this one.

    Unknown ones are, so that they are errors.
    """
    field = name.rpartition(".")[2]
    is_known = field in Training.model_fields or field in {_name(text) for text in COMMON}
    return has_setting(key, name) or not is_known


def _name(text: str) -> str:
    """Return the name of the setting of an override ``name=value``."""
    return text.partition("=")[0].strip()
