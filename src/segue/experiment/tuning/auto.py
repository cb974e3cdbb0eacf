"""Choose the best model for some data within a time, and train it as a run."""

from __future__ import annotations

import shutil
import tempfile
import time as system_time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from segue.core import bundle
from segue.core.bundle import TrainedModel
from segue.core.files import write_json, write_text
from segue.core.model import LOWER_IS_BETTER, Solver
from segue.core.registry import model_class, model_keys
from segue.core.run import Run
from segue.core.types import Dataset, Split
from segue.data.splits import split
from segue.evaluation.metrics import parse_metric
from segue.evaluation.ranking import ExcludeSeen
from segue.evaluation.simple_baselines import RANKING_BASELINES
from segue.experiment.arguments import as_assignments, check_device, check_seed, device_of_model, take_split_settings
from segue.experiment.data import load_data, split_data, user_feature_names
from segue.experiment.inference.argument_checks import FilePath, check_arguments, format_count
from segue.experiment.paths import recipes_folder
from segue.experiment.plan import Plan, make_plan, resolve_overrides
from segue.experiment.quality import count_parts, explain_repeats, training_repeat_share
from segue.experiment.records.saved_models import open as open_model
from segue.experiment.records.training_record import check_unchanged, describe_plan, describe_training_data
from segue.experiment.run_experiment import run_plan
from segue.experiment.run_folder import create_run
from segue.experiment.tuning.recipe import describe_values
from segue.experiment.tuning.search import Attempt, ModelSearch
from segue.experiment.tuning.space import apply_values
from segue.experiment.tuning.trial import TrialParts
from segue.experiment.tuning.tune import check_validation, parse_duration
from segue.experiment.tuning.validation import Clock, ValidationRecorder
from segue.training.train import train

__all__ = ["AutoResult", "auto", "auto_run", "find_candidates", "format_report"]

Log = Callable[[str], None]

SOLVERS = ("item_knn", "ials", "ease")
"""Models without a training loop that are tried on all data."""

NETWORKS = ("xlstm", "sasrec", "gru4rec", "lightgcn", "lstm", "multi_vae")
"""Networks that are tried, in this order after those with a recipe for the data."""

MAX_NETWORKS = 4
"""Number of networks among which the time is divided."""

START = {"model.windows": "all", "model.mask_seen": True}
"""Settings of sequential models without a recipe for the data."""


@dataclass(frozen=True, eq=False, repr=False)
class AutoResult:
    """Everything that was tried, and the best of it on validation."""

    data: str
    metric: str
    best: Attempt
    baseline: Attempt
    """The strongest simple baseline on validation."""
    attempts: tuple[Attempt, ...]
    skipped: Mapping[str, str]
    """Models that were not tried, with the reason."""
    seconds: float
    """Time that was used, with the final run."""
    limit: float
    """Time that was allowed."""
    run: Path | None = None
    """Folder of the final run; ``None`` for data in memory."""
    trained: TrainedModel | None = None

    @property
    def model(self) -> TrainedModel:
        """The trained model."""
        if self.trained is not None:
            return self.trained
        assert self.run is not None
        return open_model(self.run)

    @property
    def ranking(self) -> list[Attempt]:
        """The attempts, best first on validation; those without a value come last."""
        return sorted(self.attempts, key=lambda one: -1.0 if one.estimate is None else one.estimate.mean, reverse=True)

    @property
    def table(self) -> pl.DataFrame:
        """One row per attempt, best first.

        ``mean``, ``low`` and ``high`` are the validation metric with its 95 % interval.
        """
        rows = []
        for one in self.ranking:
            found = one.estimate
            interval = (None, None, None) if found is None else (found.mean, found.low, found.high)
            settings = describe_values({f".{key}": value for key, value in one.settings.items()})
            rows.append((one.model, one.kind, *interval, one.seconds, one.state, one is self.best, settings, one.note))
        numbers = dict.fromkeys(("mean", "low", "high", "seconds"), pl.Float64)
        schema = {"model": pl.String, "kind": pl.String, **numbers, "state": pl.String, "is_best": pl.Boolean}
        return pl.DataFrame(rows, schema={**schema, "settings": pl.String, "note": pl.String}, orient="row")

    def describe(self) -> list[str]:
        """Say what was chosen and why, and what was not tried."""
        best, baseline = self.best, self.baseline
        tried = len({one.model for one in self.attempts})
        attempts = format_count(len(self.attempts), "attempt")
        counts = f"the best of {attempts} with {format_count(tried, 'model')} on validation"
        lines = [f"chosen: {best.model}, {self.metric} {best.estimate}, {counts}"]
        if best.kind == "baseline":
            was_tried = any(one.kind != "baseline" and one.estimate is not None for one in self.attempts)
            lines.append(
                "no model was better than this simple baseline on validation, so it is the result"
                if was_tried
                else "the time ended before any model was measured: this is the best of the simple baselines measured; "
                "give more than the time of reading the data, the baselines and the final run"
            )
        elif best.estimate is not None and baseline.estimate is not None:
            lead = best.estimate.mean - baseline.estimate.mean
            lines.append(f"strongest simple baseline: {baseline.model}, {self.metric} {baseline.estimate}; {lead:+.4f}")
            if best.estimate.low <= baseline.estimate.high:
                lines.append("the intervals of both overlap: a paired comparison on the test part would tell more")
        lines.append(
            "the value of the best of several attempts is too high on average; the test part was not read: "
            "segue evaluate RUN reads it"
        )
        lines += [f"not tried: {name}: {reason}" for name, reason in self.skipped.items()]
        return [*lines, f"time: {self.seconds:.0f} of {self.limit:.0f} s"]

    def record(self) -> dict[str, Any]:
        """Return the result as JSON holds it."""
        return {
            "data": self.data,
            "metric": self.metric,
            "best": self.best.record(),
            "baseline": self.baseline.record(),
            "attempts": [one.record() for one in self.ranking],
            "skipped": dict(self.skipped),
            "seconds": round(self.seconds, 3),
            "limit": self.limit,
            "run": None if self.run is None else str(self.run),
            "text": self.describe(),
        }

    def __repr__(self) -> str:
        return "\n".join([f"AutoResult: {self.data}", *(f"  {line}" for line in self.describe())])

    def _repr_html_(self) -> str:
        return f"<p>{'<br>'.join(self.describe())}</p>{self.table._repr_html_()}"


@dataclass(frozen=True)
class Candidates:
    """The models that are tried, in order, with the settings to start from."""

    plans: Mapping[str, Plan]
    baselines: Mapping[str, Plan]
    """The simple baselines with their default settings."""
    skipped: Mapping[str, str]
    """Models that are not tried, with the reason."""


def find_candidates(task: Mapping[str, Any], overrides: Sequence[str], metric: str) -> Candidates:
    """Return the models that are tried on some data.

    A model starts from the recipe for the data, if there is one with the same evaluation protocol.
    """
    texts = [*overrides, f"training.metric={metric}"]
    folder = recipes_folder() / Path(str(task["data"]).partition("?")[0]).stem
    with_recipe = {path.stem for path in folder.glob("*.toml")} & set(model_keys())
    others = [key for key in sorted(with_recipe) if key not in (*SOLVERS, *NETWORKS)]
    solvers = [*SOLVERS, *(key for key in others if issubclass(model_class(key), Solver))]
    networks = [*NETWORKS, *(key for key in others if key not in solvers)]
    networks.sort(key=lambda key: key not in with_recipe)
    reference = make_plan({"model": "popular", **task}, texts, "none").comparison_key()
    plans: dict[str, Plan] = {}
    skipped = dict.fromkeys(networks[MAX_NETWORKS:], f"only {MAX_NETWORKS} networks are tried")
    for key in [*solvers, *networks[:MAX_NETWORKS]]:
        if model_class(key).requires_ratings:
            skipped[key] = "it predicts ratings and is not trained to rank"
            continue
        plan = make_plan({"model": key, **task}, texts)
        if plan.task.recipe is None or plan.comparison_key() != reference:
            plan = _start(make_plan({"model": key, **task}, texts, "none"))
        plans[key] = plan
    baselines = {key: make_plan({"model": key, **task}, texts, "none") for key in RANKING_BASELINES}
    return Candidates(plans, baselines, skipped)


def _start(plan: Plan) -> Plan:
    """Return the settings to start from without a recipe."""
    for name, value in START.items():
        group, _, key = name.partition(".")
        if key in type(getattr(plan, group)).model_fields:
            with suppress(ValueError):  # seen items are ranked
                plan = apply_values(plan, {name: value})
    return plan


def auto_run(
    task: Mapping[str, Any],
    overrides: Sequence[str],
    seconds: float,
    *,
    metric: str = "ndcg@10",
    out: Path | None = None,
    progress: bool = False,
    log: Log,
    command: str = "",
    clock: Clock = system_time.monotonic,
) -> AutoResult:
    """Choose a model for data by its address within a time, and train it as a run.

    Args:
        task: ``data`` and other values of :class:`segue.experiment.settings.TaskSettings`, without the model.
        overrides: settings of data, split, evaluation and run.
        seconds: time for everything, the final run included.
        metric: the validation metric by which the model is chosen.
        out: folder of the run; ``None``: a new one.
        command: the command line, for the record.

    Raises:
        ValueError: a setting of a model, a metric of predicted ratings, or a split without validation.
        Interrupted: the user asked to stop.
    """
    started = clock()
    _check_metric(metric)
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: exists, expected a new or an empty folder for the run")
    try:
        given = resolve_overrides(["popular"], overrides)
    except ValueError as error:
        raise ValueError(f"{error}; auto reads settings of data, split, evaluation and run, not of models") from None
    if chosen := [f"{group}.{key}" for group in ("model", "training") for key in given[group]]:
        raise ValueError(f"{', '.join(chosen)}: auto chooses the settings of models; segue tune searches around yours")
    candidates = find_candidates(task, overrides, metric)
    first = next(iter(candidates.plans.values()))
    _check_items(first)
    loading = clock()
    parts = split(load_data(first, log, progress), first.split)
    overhead = clock() - loading
    log(count_parts(parts))
    with tempfile.TemporaryDirectory(prefix="segue-auto-") as work:
        place = (Path(work), overhead, log, clock)
        search = _search(parts, candidates, metric, started + seconds, seconds, *place)
        best = search.run()
        log(f"chosen: {best.model}, {metric} {best.estimate}")
        plan = _with_baseline(best.plan, search.strongest_baseline)
        folder = create_run(plan, out)
        result = _result(search, str(task["data"]), seconds, clock() - started, folder)
        write_json(folder / "auto.json", result.record())
        write_text(folder / "auto.md", format_report(result))
        if best.checkpoint is not None:
            _move_checkpoint(best.checkpoint, folder, plan, parts)
        run_plan(plan, folder, log=log, progress=progress, command=command or "auto")
    return replace(result, seconds=clock() - started)


def _check_metric(metric: str) -> None:
    if metric in LOWER_IS_BETTER:
        raise ValueError(f"metric: got '{metric}', but auto chooses models that rank, expected one such as ndcg@10")
    parse_metric(metric)


def _check_items(plan: Plan) -> None:
    if plan.evaluation.items != "all":
        raise ValueError(f"evaluation.items: got '{plan.evaluation.items}', but auto ranks all items; remove it")


def _with_baseline(plan: Plan, baseline: Attempt) -> Plan:
    """Compare the final model with the strongest baseline alone, which is known."""
    return replace(plan, evaluation=plan.evaluation.model_copy(update={"baseline": baseline.model}))


def _move_checkpoint(source: Path, folder: Path, plan: Plan, parts: Split) -> None:
    """Give a run the checkpoint of a trial, so that it is not trained again."""
    check_unchanged(folder, {**describe_plan(plan), **describe_training_data(parts)})
    for name in ("history.jsonl", "checkpoint"):
        if (source / name).exists():
            shutil.move(source / name, folder / name)


def _search(
    parts: Split,
    candidates: Candidates,
    metric: str,
    deadline: float,
    seconds: float,
    work: Path,
    overhead: float,
    log: Log,
    clock: Clock,
) -> ModelSearch:
    """Check the split, and prepare the search."""
    first = next(iter(candidates.plans.values()))
    check_validation(parts, "auto", first.evaluation.sampled)
    exclude_seen = first.evaluation.exclude_seen
    if exclude_seen is True and (note := explain_repeats(training_repeat_share(parts))) is not None:
        log(f"warning: {note}")
    seed, own = first.run.seed, TrialParts(parts.train, parts.valid)
    return ModelSearch(
        own,
        metric,
        candidates.plans,
        candidates.baselines,
        exclude_seen,
        seed,
        total=seconds,
        deadline=deadline,
        folder=work,
        clock=clock,
        log=log,
        overhead=overhead,
        skipped=dict(candidates.skipped),
    )


def _result(search: ModelSearch, data: str, limit: float, seconds: float, run: Path | None) -> AutoResult:
    found = tuple(search.attempts)
    return AutoResult(
        data, search.metric, search.best, search.strongest_baseline, found, search.skipped, seconds, limit, run
    )


def format_report(result: AutoResult) -> str:
    """Format what was tried as Markdown."""
    lines = [f"# Choice of a model for {result.data}", "", *(f"- {line}" for line in result.describe()), ""]
    lines += [f"| model | validation {result.metric} | 95 % | seconds | state | settings |"]
    lines += ["| --- | ---: | ---: | ---: | --- | --- |"]
    for one in result.ranking:
        found = one.estimate
        values = ("", "") if found is None else (f"{found.mean:.4f}", f"{found.low:.4f} to {found.high:.4f}")
        settings = describe_values({f".{key}": value for key, value in one.settings.items()})
        name = f"{one.model} (simple baseline)" if one.kind == "baseline" else one.model
        cells = (name, *values, f"{one.seconds:.1f}", one.note or one.state, settings)
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join([*lines, ""])


@check_arguments(skip=("time", "seed"))
def auto(
    data: Any,
    *,
    time: float | str = "10m",
    metric: str = "ndcg@10",
    seed: int = 0,
    device: str = "cpu",
    exclude_seen: ExcludeSeen = True,
    folder: FilePath | None = None,
    log: Log | None = None,
    **settings: Any,
) -> AutoResult:
    """Choose the best model for some data within a time.

    Simple baselines come first, then models without a training loop, then networks, as far as the time allows. The
    result is the best of all on validation: never below the strongest simple baseline. The test part is not read.

    Args:
        data: the name or path of a log, for which the model is trained as a run; or a split, a dataset or a table.
        time: time for everything, in seconds or as ``"10m"``.
        metric: the ranking metric on validation by which the model is chosen.
        seed: seed of the models and of the values that are tried.
        device: a torch device, such as ``cuda``.
        exclude_seen: whether items of a user's history are removed from the ranking.
        folder: of the run, for data by name or path; ``None``: a new one.
        log: receives one line per attempt, such as ``print``.
        settings: filters and settings of the split, see :func:`segue.baselines`.

    Returns:
        ``result.model`` is the trained model, ``result.run`` the folder of its run; ``result.table`` has everything
        that was tried, and ``result.describe()`` says why the model was chosen.

    Raises:
        ValueError: an unknown setting or metric, or a split without validation.
    """
    seconds, seed, device = parse_duration(time), check_seed(seed), check_device(device)
    log = log or (lambda text: None)
    if seconds is None:
        raise ValueError("time: got None, expected a duration such as 90s, 10m or 2h")
    _check_metric(metric)
    data_settings = take_split_settings(settings, "auto")
    own = {"run.seed": seed, "run.device": device, "evaluation.exclude_seen": exclude_seen}
    if isinstance(data, str | Path) and not isinstance(data, Split | Dataset):
        own |= {f"{group}.{key}": value for group in data_settings for key, value in data_settings[group].items()}
        out = None if folder is None else Path(folder).expanduser()
        return auto_run({"data": str(data)}, as_assignments(own), seconds, metric=metric, out=out, log=log)
    if folder is not None:
        raise ValueError("folder: got one for data in memory, expected a name or path; segue.save stores result.model")
    started = system_time.monotonic()
    parts = split_data(data, data_settings)
    candidates = find_candidates({"data": parts.train.name}, as_assignments(own), metric)
    with tempfile.TemporaryDirectory(prefix="segue-auto-") as work:
        place = (Path(work), 0.0, log, system_time.monotonic)
        search = _search(parts, candidates, metric, started + seconds, seconds, *place)
        trained = _train_best(search.run(), parts, seed, device)
    result = _result(search, parts.train.name, seconds, system_time.monotonic() - started, None)
    return replace(result, trained=trained)


def _train_best(best: Attempt, parts: Split, seed: int, device: str) -> TrainedModel:
    """Train the chosen model in memory, or build it from its checkpoint."""
    plan, found = best.plan, best.estimate
    validate = ValidationRecorder(parts.valid, plan.metric, plan.evaluation.exclude_seen)
    run = Run(seed, best.checkpoint, device_of_model(best.model, device)[0])
    model = train(best.model, plan.model, plan.training, parts.train, run, validate)
    metadata = {
        "data": parts.train.name,
        "seed": seed,
        "user_features": user_feature_names(parts.train),
        "repeat_share": round(training_repeat_share(parts), 6),
        "training_notes": list(model.training_notes),
        "validation": {"metric": plan.metric, "value": None if found is None else round(found.mean, 6)},
    }
    return bundle.create(best.model, model, parts.train, metadata)
