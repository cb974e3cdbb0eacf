"""Train one model in memory, from settings by name.

This is the counterpart of a run without a run folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from segue.core import bundle
from segue.core.bundle import TrainedModel
from segue.core.messages import QualityWarning, arg, warn
from segue.core.model import Model
from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Dataset, Split
from segue.data.filters import Filters
from segue.data.splits import SplitSettings
from segue.evaluation.evaluate import make_validator
from segue.evaluation.metrics import MetricLike, resolve_metrics
from segue.evaluation.ranking import excludes_all_seen
from segue.experiment.arguments import (
    as_assignments,
    check_device,
    check_seed,
    device_of_model,
    reject_settings,
    reject_unused,
)
from segue.experiment.data import user_feature_names, validate_inputs
from segue.experiment.plan import Plan, make_plan
from segue.experiment.protocols.arguments import check_split
from segue.experiment.quality import check_parts, explain_repeats, judge_model, training_repeat_share
from segue.experiment.records.training_record import (
    check_training_folder,
    check_unchanged,
    describe_functions,
    describe_plan,
    describe_training_data,
    unknown_parts,
)
from segue.experiment.settings import EvaluationSettings, RunSettings
from segue.training.settings import CustomLoss, Training
from segue.training.train import check_callbacks, train

__all__ = ["TrainingJob", "prepare_models", "prepare_training", "train_job", "train_model"]

UNUSED_GROUPS = ("filters", "text", "knowledge", "split", "evaluation", "run")
"""Groups of settings that training in memory does not read."""

UNUSED_SECTIONS = {
    "filters": "pass these settings to segue.load",
    "text": "pass these settings to segue.add_text",
    "knowledge": "pass these settings to segue.add_knowledge",
    "split": "pass these settings to segue.split",
    "evaluation": "pass these settings to segue.evaluate",
}
"""What to do with a section of a recipe that training in memory does not read."""

USED_EVALUATION = tuple(name for key in ("baseline", "exclude_seen", "protocol") for name in (key, f"evaluation.{key}"))
"""Evaluation settings that training does read, for its validation."""


@dataclass(frozen=True)
class _Recorder:
    """Keeps logged training metrics, for runs without a folder."""

    lines: list[dict[str, float]] = field(default_factory=list)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.lines.append({"step": step, **values})


@dataclass(frozen=True)
class TrainingJob:
    """What is needed to train one model, apart from data and seed."""

    plan: Plan
    training: Training
    """Training settings of the plan, with the functions given as loss and metric."""
    metric: MetricLike
    """Validation metric."""
    callbacks: tuple[Any, ...] = ()


def prepare_training(
    name: str, data: str, settings: Mapping[str, Any], recipe: str | Path | None = None, function: str = "train"
) -> TrainingJob:
    """Resolve and check the settings of one model.

    Args:
        data: name of the data, which may have a recipe.
        settings: by name; ``loss`` and ``metric`` may be functions, and ``callbacks`` holds callbacks.
        function: name of the public function, for error messages.

    Raises:
        ValueError: an unknown setting, or one that ``function`` does not use for this model.
    """
    given = {key: value for key, value in settings.items() if key not in ("loss", "metric", "callbacks")}
    loss, metric = settings.get("loss"), settings.get("metric")
    callbacks = check_callbacks(settings.get("callbacks", ()))
    reject_settings([key for key in given if key not in USED_EVALUATION], name, UNUSED_GROUPS, function)
    reject_unused(name, [*given, *(["loss"] if loss is not None else [])])
    custom = CustomLoss(loss) if callable(loss) else None
    named = {"loss": loss if custom is None else str(custom), "metric": None if callable(metric) else metric}
    named = {key: value for key, value in named.items() if value is not None}
    plan = make_plan({"model": name, "data": data}, as_assignments({**given, **named}), recipe)
    _warn_unused_sections(plan, given)
    training = plan.training
    if callable(metric):  # early stopping looks the metric up by its name
        training = training.model_copy(update={"metric": resolve_metrics([metric])[0].name})
    if custom is not None:  # the plan holds its name
        training = training.model_copy(update={"loss": custom})
    return TrainingJob(plan, training, metric if callable(metric) else plan.metric, callbacks)


def prepare_models(
    entries: Mapping[str, tuple[str, Any]],
    data: str,
    common: Mapping[str, Any],
    recipe: str | Path | None,
    function: str,
) -> dict[str, TrainingJob]:
    """Check the settings of all models before any is trained; return them resolved.

    Raises:
        ValueError: the settings of a model are invalid; one that others have is pointed out.
    """
    jobs = {}
    for name, (key, own) in entries.items():
        if "exclude_seen" in own:
            raise ValueError(
                f"exclude_seen: got it for '{name}' alone, expected one value for all models, in {function}"
            )
        for setting in own:
            others = [
                other for other, (model, _) in entries.items() if setting in model_class(model).Config.model_fields
            ]
            groups = (model_class(key).Config, Training, Filters, SplitSettings, EvaluationSettings, RunSettings)
            if others and not any(setting in kind.model_fields for kind in groups):
                raise ValueError(
                    f"{setting}: '{key}' has no such setting; give it only to the models that do, as in "
                    f"{{'{others[0]}': {{'{setting}': {own[setting]!r}}}}}"
                )
        jobs[name] = prepare_training(key, data, {**common, **own}, recipe, function)
    return jobs


def _warn_unused_sections(plan: Plan, given: Mapping[str, Any]) -> None:
    """Warn of sections of the recipe that training in memory does not read."""
    if plan.task.recipe is None:
        return
    for section, hint in UNUSED_SECTIONS.items():
        values = getattr(plan, section)
        changed = [
            key
            for key, field in type(values).model_fields.items()
            if getattr(values, key) != field.default and key not in given and f"{section}.{key}" not in USED_EVALUATION
        ]
        if changed:
            warn(
                f"recipe {plan.task.recipe}: section [{section}] is ignored ({', '.join(changed)}), as the data is "
                f"given; {hint}"
            )


def train_job(job: TrainingJob, data: Split | Dataset, run: Run) -> Model:
    """Train the model of ``job`` on the training part of ``data``.

    The validation part is used if there is one.
    """
    train_data = data.train if isinstance(data, Split) else data
    validate = None
    if isinstance(data, Split) and len(data.valid):
        validate = make_validator(data.valid, job.metric, job.plan.evaluation.exclude_seen)
    return train(job.plan.task.model, job.plan.model, job.training, train_data, run, validate, job.callbacks)


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
    if isinstance(data, Split):
        check_parts(data, ("valid",))
    seed, device = check_seed(seed), check_device(device)
    named = {"loss": loss, "metric": metric, "callbacks": callbacks}
    job = prepare_training(name, train_data.name, {**settings, **_drop_unset(named)}, recipe)
    check_split(job.plan.evaluation.protocol, data)
    held = [part.queries for part in (data.valid, data.test) if len(part)] if isinstance(data, Split) else []
    device, device_note = device_of_model(name, device)
    if device_note is not None:
        warn(f"train: {device_note}")
    has_times = not held or any(queries.times is not None for queries in held)
    validate_inputs(job.plan, has_times, not held or any(queries.context for queries in held))
    out = None if folder is None else Path(folder).expanduser()
    if out is not None:
        _claim_folder(out, job, data, seed)
    recorder = _Recorder()
    run = Run(seed, out, device, (recorder,), show_progress=progress)
    model = train_job(job, data, run)
    quality = judge_model(
        name,
        model,
        train_data,
        data.valid if isinstance(data, Split) else None,
        job.metric,
        exclude_seen=job.plan.evaluation.exclude_seen,
        baseline=job.plan.evaluation.baseline,
        seed=seed,
    )
    repeats = training_repeat_share(data)
    notes = [*quality.warnings]
    if excludes_all_seen(job.plan.evaluation.exclude_seen) and (note := explain_repeats(repeats)) is not None:
        notes.append(note)
    for note in notes:
        warn(f"train: {note}", category=QualityWarning)
    metadata = {
        "data": train_data.name,
        "seed": seed,
        "user_features": user_feature_names(train_data),
        "repeat_share": round(repeats, 6),
        "training_notes": list(model.training_notes),
        **quality.metadata(),
    }
    trained = bundle.create(name, model, train_data, metadata)
    return replace(trained, training_history=tuple(run.history() or recorder.lines))


def _claim_folder(folder: Path, job: TrainingJob, data: Split | Dataset, seed: int) -> None:
    """Check that ``folder`` is new or holds this training; write its record.

    Raises:
        ValueError: the folder holds something else.
    """
    check_training_folder(folder)
    record = {
        **describe_plan(job.plan),
        "seed": seed,
        **describe_functions(job.training.loss, job.metric, job.callbacks),
        **describe_training_data(data),
    }
    check_unchanged(folder, record)
    for reason in unknown_parts(record):
        warn(f"train: {arg('folder')}: an interrupted training cannot be resumed: {reason}")


def _drop_unset(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out ``None`` and empty sequences."""
    return {
        key: value
        for key, value in arguments.items()
        if value is not None and not (isinstance(value, list | tuple) and not value)
    }
