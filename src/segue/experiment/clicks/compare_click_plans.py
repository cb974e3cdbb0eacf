"""Compare click-through models on the same rows: of one split, or of a table.

Models are folders of trained models, or keys of models that are trained on the same rows with the same seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segue.core.config import suggest
from segue.core.examples.click_model import SETTINGS, ClickModel
from segue.core.registry import model_class, model_keys
from segue.data.examples.database import hide_password
from segue.data.examples.read import MemoryMode, read_parts
from segue.data.examples.splits import ExampleSplit, split_table
from segue.data.examples.table import ExampleRows
from segue.data.raw_log import Log, no_log
from segue.experiment.clicks.click_plan import GROUPS, ClickPlan, make_click_plan, read_click_plan
from segue.experiment.clicks.evaluate_click_model import ClickComparison, compare_click_models
from segue.experiment.clicks.train_click_model import (
    find_click_model,
    open_click_model,
    record_estimates,
    train_click_model,
)
from segue.experiment.settings import unused_training

__all__ = [
    "ComparedModels",
    "compare_on_split",
    "compare_on_table",
    "make_compared_plans",
    "open_compared_models",
    "own_click_overrides",
    "read_click_split",
]


@dataclass(frozen=True)
class ComparedModels:
    """What is compared: trained models by name, and keys of models to train."""

    names: tuple[str, ...]
    """All names in their order: a folder, or a key or ``KEY@LABEL``."""
    trained: Mapping[str, ClickModel]
    folders: Mapping[str, Path]
    """Those of the trained models."""

    @property
    def untrained(self) -> list[str]:
        """Names of models to train."""
        return [name for name in self.names if name not in self.trained]


def open_compared_models(names: Sequence[str], log: Log = no_log) -> ComparedModels:
    """Open the folders among ``names``; all others are keys.

    Args:
        log: receives a message for each key that is the name of a folder, too.

    Raises:
        ValueError: fewer than two names, one given twice, or one that is neither a folder nor a key.
    """
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"models: got {', '.join(names) or 'none'}, expected at least 2, each once")
    known, folders = model_keys(), {}
    for name in names:
        path = Path(name).expanduser()
        if name.partition("@")[0] in known:
            if path.exists():
                log(f"{name}: a model is trained; for that in the folder of the same name, write ./{name}")
        elif path.exists():
            folders[name] = find_click_model(path)
        else:
            raise ValueError(f"models: '{name}' is neither a folder nor the key of a model{suggest(name, known)}")
    return ComparedModels(tuple(names), {name: open_click_model(one) for name, one in folders.items()}, folders)


def compare_on_table(
    compared: ComparedModels,
    table: ExampleRows,
    data: str,
    query: str | None = None,
    *,
    baseline: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare trained models on all rows of a table; return the record.

    Args:
        data: address of the table.
        query: its query, if it is in a database.

    Raises:
        ValueError: a model is not trained, or the table is the one that a model was trained on.
    """
    if compared.untrained:
        raise ValueError(f"models: '{compared.untrained[0]}' is not trained, expected folders of trained models")
    for name, folder in compared.folders.items():
        plan = read_click_plan(folder / SETTINGS, {})
        is_same_address = (plan.task.data, plan.task.query) == (hide_password(data), query)
        if is_same_address or _has_rows_of_training(compared.trained[name], plan, table):
            raise ValueError(
                f"data: {name} was trained on rows of {table.name}; leave out the table to compare on the part that "
                "its split holds out, or name another table"
            )
    found = compare_click_models(compared.trained, table, baseline, seed)
    return _record(found, {name: [one] for name, one in compared.trained.items()}, table, "table")


def compare_on_split(
    compared: ComparedModels,
    task: Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    seeds: Sequence[int] = (),
    baseline: str | None = None,
    read_test: bool = False,
    folder: Path | None = None,
    progress: bool = False,
    log: Log = no_log,
) -> dict[str, Any]:
    """Compare models on the validation part of one split, or on its test part.

    Keys are trained on the training part. Folders must have been trained on it.

    Args:
        task: values of :class:`segue.experiment.clicks.click_plan.ClickTask` but ``model``; without keys it is empty,
            and data and split are those of the folders.
        overrides: settings; those of one model are ``NAME.KEY=VALUE``.
        seeds: each key is trained once per seed, and its metrics are averaged; none: the seed of the settings.
        read_test: whether to use the test part.
        folder: where trained models are stored, each in a folder of its name; required with keys.

    Returns:
        the data, the part, and by model its metrics and folders, and the paired tests by metric.

    Raises:
        ValueError: a setting is unknown, models have different data, splits or labels, or the split has no such part.
        Interrupted: the user asked to stop; the same call continues.
    """
    plans = make_compared_plans(compared, task, overrides, seeds)
    first = next(iter(plans.values()))[0]
    if baseline is not None and baseline not in plans:
        raise ValueError(f"baseline: unknown '{baseline}'{suggest(baseline, plans)}")
    split = read_click_split(plans, compared.untrained, log)
    part = "test" if read_test else "valid"
    held_out: ExampleRows = getattr(split, part)
    if not len(held_out):
        share = "split.test" if read_test else "split.valid"
        raise ValueError(f"{part}: the split has no such part, expected some rows to compare on; set {share} above 0")
    for name, model in compared.trained.items():
        _check_rows(name, model, split)
    models: dict[str, list[ClickModel]] = {name: [model] for name, model in compared.trained.items()}
    for name in compared.untrained:
        models[name] = []
        for plan in plans[name]:
            log(f"{name}: training with seed {plan.run.seed}")
            assert folder is not None
            own = folder / name if len(plans[name]) == 1 else folder / name / f"seed-{plan.run.seed}"
            valid = split.valid if len(split.valid) else None
            models[name].append(
                train_click_model(
                    plan,
                    split.train,
                    valid,
                    data_hash=split.rows_hash,
                    folder=own,
                    progress=progress,
                    log=_prefix(log, name),
                )
            )
    models = {name: models[name] for name in compared.names}
    found = compare_click_models(models, held_out, baseline, first.run.seed)
    record = _record(found, models, held_out, part)
    record["split"] = split.settings.model_dump(mode="json")
    record["seeds"] = list(seeds) if compared.untrained else []
    record["folder"] = None if not compared.untrained else str(folder)
    return record


def _has_rows_of_training(model: ClickModel, plan: ClickPlan, table: ExampleRows) -> bool:
    """Check whether a table is the training part or all data of a model.

    Rows are compared, not paths: a copy of a file has the same rows.
    """
    trained = model.metadata or {}
    hashes = {trained.get("rows_hash"), trained.get("data_hash")}
    column = plan.split.column
    # a column of given parts is in no part
    rows = table.drop(column) if plan.split.strategy == "given" and column in table.columns else table.without_parts()
    return rows.rows_hash in hashes


def read_click_split(plans: Mapping[str, Sequence[ClickPlan]], untrained: Sequence[str], log: Log) -> ExampleSplit:
    """Read the data of all plans.

    These are those of a model to train, if there is one: paths of trained models may be relative to another folder.
    Rows stay on the disk if all models can be trained on them there.
    """
    first = next((plans[name][0] for name in untrained), next(iter(plans.values()))[0])
    modes = {plan.memory for repeated in plans.values() for plan in repeated}
    task = first.task
    memory: MemoryMode = first.memory if len(modes) == 1 else "all"
    table = read_parts(task.data, task.valid, task.test, task.query, task.separator, log, memory)
    return split_table(table, first.split)


def _prefix(log: Log, name: str) -> Log:
    return lambda text: log(f"{name}: {text}")


def make_compared_plans(
    compared: ComparedModels, task: Mapping[str, Any], overrides: Sequence[str], seeds: Sequence[int]
) -> dict[str, list[ClickPlan]]:
    """Return the plans of every model, one per seed.

    Raises:
        ValueError: they differ in data, split or label, or a setting is unknown.
    """
    if not compared.untrained and (task or overrides or seeds):
        given = [*task, *(text.partition("=")[0] for text in overrides), *(["seeds"] if seeds else [])]
        raise ValueError(f"{given[0]}: all models are trained, so this has no effect; expected no settings")
    plans: dict[str, list[ClickPlan]] = {}
    for name, path in compared.folders.items():
        plans[name] = [read_click_plan(path / SETTINGS, {})]
    for name, own in own_click_overrides(compared.untrained, overrides).items():
        every = [[*own, f"run.seed={seed}"] for seed in seeds] or [own]
        plans[name] = [make_click_plan({**task, "model": name.partition("@")[0]}, texts) for texts in every]
    plans = {name: plans[name] for name in compared.names}
    expected = _basis(next(iter(plans.values()))[0])
    for name, (plan, *_) in plans.items():
        for setting, value in _basis(plan).items():
            if value != expected[setting]:
                raise ValueError(
                    f"{name}: {setting} is {value!r}, but {expected[setting]!r} for {compared.names[0]}; models are "
                    "compared on the held-out part of one split"
                )
    return plans


def _basis(plan: ClickPlan) -> dict[str, Any]:
    """Return the settings on which compared models must agree.

    Their data is compared by its rows, see :func:`_check_rows`.
    """
    split = {f"split.{name}": value for name, value in plan.split.model_dump().items()}
    return {**split, "examples.label": plan.examples.label}


def _check_rows(name: str, model: ClickModel, split: ExampleSplit) -> None:
    """Check that a model was trained and validated on the parts of a split.

    Raises:
        ValueError: it was trained on other rows, as with the Python API, or the data has changed.
    """
    trained = model.metadata or {}
    got, expected = (trained.get("rows"), trained.get("rows_hash")), (len(split.train), split.train.rows_hash)
    if got != expected:
        raise ValueError(
            f"{name}: it was not trained on the training part of this split, which has {expected[0]:,} rows of "
            f"{split.train.name}, but on {'as many other' if got[0] == expected[0] else got[0]} rows of "
            f"{trained.get('data')}; name a table that it was not trained on"
        )
    valid = trained.get("valid", {})
    if valid.get("rows_hash", split.valid.rows_hash) != split.valid.rows_hash:
        raise ValueError(
            f"{name}: its validation rows, of {valid.get('data')}, are not those of this split, of {split.valid.name}; "
            "name a table that it was not trained on"
        )


def own_click_overrides(names: Sequence[str], overrides: Iterable[str]) -> dict[str, list[str]]:
    """Return the overrides of each model; its own ones are last.

    Settings of the training loop are left out for models without it, if another model has it.

    Raises:
        ValueError: only some of the models have a setting.
    """
    keys = {name: name.partition("@")[0] for name in names}
    found: dict[str, list[str]] = {name: [] for name in names}
    own: dict[str, list[str]] = {name: [] for name in names}
    for text in overrides:
        path = text.partition("=")[0].strip()
        owner = next((name for name in names if path.startswith(f"{name}.")), None)
        if owner is not None:
            own[owner].append(text.strip().removeprefix(f"{owner}."))
            continue
        group, _, field = path.rpartition(".")
        owners = [name for name, key in keys.items() if field in model_class(key).Config.model_fields]
        is_of_models = group == "model" or not (group or any(field in kind.model_fields for kind in GROUPS.values()))
        if is_of_models and owners and len(owners) < len(names):
            hint = " --set ".join(f"{owner}.{field}=..." for owner in owners)
            lacking = ", ".join(name for name in names if name not in owners)
            raise ValueError(f"{path}: not a setting of {lacking}; set it for one model, as in --set {hint}")
        ignoring = {
            name
            for name, key in keys.items()
            if group in ("", "training") and field in unused_training(key) and not (group == "" and name in owners)
        }
        for name in names:
            if name not in ignoring or len(ignoring) == len(names):
                found[name].append(text)
    return {name: [*found[name], *own[name]] for name in names}


def _record(
    found: ClickComparison, models: Mapping[str, Sequence[ClickModel]], table: ExampleRows, part: str
) -> dict[str, Any]:
    """Return a comparison as JSON holds it."""
    tests = {metric: [{**asdict(one), "significant": one.significant} for one in tests]
             for metric, tests in found.tests.items()}  # fmt: skip
    return {
        "data": table.name,
        "part": part,
        "rows": len(table),
        "models": {
            name: {"model": models[name][0].key, "metrics": record_estimates(metrics)}
            for name, metrics in found.metrics.items()
        },
        "tests": tests,
    }
