"""Check the arguments of training, comparison and cross-validation.

Settings are sorted by the group that reads them. A setting that nothing reads is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segue.core.config import Settings, suggest
from segue.core.model import Solver
from segue.core.registry import model_class
from segue.data.filters import Filters
from segue.data.splits import SplitSettings
from segue.experiment.settings import EvaluationSettings, RunSettings, unused_settings, unused_training
from segue.features.knowledge.derive import KnowledgeSettings
from segue.features.text.settings import TextSettings
from segue.training.settings import Training

__all__ = [
    "GROUPS",
    "as_assignments",
    "check_device",
    "check_seed",
    "check_seeds",
    "device_of_model",
    "reject_settings",
    "reject_unused",
    "setting_group",
    "take_data_settings",
    "take_split_settings",
    "unused_by_model",
]

GROUPS: Mapping[str, type[Settings]] = {
    "training": Training,
    "filters": Filters,
    "text": TextSettings,
    "knowledge": KnowledgeSettings,
    "split": SplitSettings,
    "evaluation": EvaluationSettings,
    "run": RunSettings,
}
"""The groups of settings that do not depend on the model."""

DEFAULT_STRATEGY: str = SplitSettings.model_fields["strategy"].default

WHERE = {
    "filters": "filters apply when data is loaded, as in segue.load(data, {}=...)",
    "text": "text is encoded before training, as in segue.add_text(data, columns=...)",
    "knowledge": "triples are derived before training, as in segue.add_knowledge(data, columns=...)",
    "split": "it is a setting of the split, as in segue.split(data, {}=...)",
    "evaluation": "it is a setting of the evaluation, see segue.evaluate",
    "run": "use the arguments for seeds and the device",
}
"""What to do with a setting of a group that a function does not read."""


def check_seed(seed: Any, name: str = "seed") -> int:
    """Return ``seed`` as an integer.

    Raises:
        ValueError: it is not a whole number of at least 0.
    """
    is_whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    if not is_whole or seed < 0:
        raise ValueError(f"{name}: got {seed!r}, expected a whole number of at least 0")
    return int(seed)


def check_seeds(seeds: Any) -> tuple[int, ...]:
    """Return ``seeds`` as integers.

    Raises:
        ValueError: it is not a list of different seeds, or empty.
    """
    if isinstance(seeds, str) or not isinstance(seeds, Iterable):
        raise ValueError(f"seeds: got {seeds!r}, expected a list such as (0, 1)")
    checked = tuple(check_seed(seed, "seeds") for seed in seeds)
    if not checked:
        raise ValueError("seeds: got none, expected at least one")
    if len(set(checked)) < len(checked):
        raise ValueError(f"seeds: got {checked}, expected each seed once")
    return checked


def check_device(device: Any) -> str:
    """Return the name of a device of torch that can be used here.

    Raises:
        ValueError: torch does not know the device, or it is not available.
    """
    if device == "cpu":
        return "cpu"
    import torch

    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device: got {device!r}, expected cpu, cuda, cuda:1 or mps") from None
    try:
        if chosen.type == "meta":
            raise RuntimeError("it has no memory")
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError, ModuleNotFoundError):
        raise ValueError(
            f"device: got '{chosen}', which PyTorch cannot use on this machine; expected an available device such as "
            "cpu"
        ) from None
    return str(chosen)


def device_of_model(model: str, device: str) -> tuple[str, str | None]:
    """Return the device that a model uses, and a note if it is another one.

    Raises:
        ValueError: torch does not know ``device``, or it is not available.
    """
    device = check_device(device)
    if device == "cpu" or not model_class(model).is_cpu_only:
        return device, None
    return "cpu", f"device: '{model}' runs on the CPU only, so it uses cpu instead of {device}"


def as_assignments(settings: Mapping[str, Any]) -> list[str]:
    """Format settings as overrides ``name=value``.

    Numbers and arrays of numpy are accepted.

    Raises:
        ValueError: a value cannot be written as JSON.
    """
    assignments, errors = [], []
    for name, value in settings.items():
        try:
            assignments.append(f"{name}={json.dumps(value, default=_to_plain)}")
        except TypeError:
            errors.append(
                f"{name}: got {type(value).__name__} {value!r}, expected a number, text, true or false, a list or a "
                "mapping"
            )
    if errors:
        raise ValueError("\n".join(errors))
    return assignments


def _to_plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError


def setting_group(name: str, models: Iterable[str], strategy: Any = DEFAULT_STRATEGY) -> str | None:
    """Return the group that reads the setting ``name``.

    ``None`` if no group or several groups read it.

    Args:
        strategy: strategy of the split, which determines the settings of the split that are read.
    """
    group, dot, _ = name.partition(".")
    if dot:
        return group if group in GROUPS or group == "model" else None
    keys = list(models)
    owners = {owner for owner, kind in GROUPS.items() if name in kind.model_fields}
    if any(name in model_class(model).Config.model_fields for model in keys):
        owners.add("model")
    unused = unused_settings(keys, strategy)
    owners = {owner for owner in owners if name not in unused.get(owner, ())} or owners
    return owners.pop() if len(owners) == 1 else None


def take_data_settings(
    settings: Mapping[str, Any], models: Iterable[str], strategy: str = DEFAULT_STRATEGY
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Separate the settings of the data and its split from those of the models.

    Args:
        strategy: strategy of the split, unless the settings name another.

    Returns:
        The values by group and key, and the other settings.
    """
    keys = list(models)
    strategy = settings.get("strategy", settings.get("split.strategy", strategy))
    data: dict[str, dict[str, Any]] = {"filters": {}, "text": {}, "knowledge": {}, "split": {}}
    rest: dict[str, Any] = {}
    for name, value in settings.items():
        group = setting_group(name, keys, strategy)
        if group in data:
            data[group][name.rpartition(".")[2]] = json.loads(as_assignments({name: value})[0].partition("=")[2])
        else:
            rest[name] = value
    return data, rest


def take_split_settings(settings: Mapping[str, Any], function: str) -> dict[str, dict[str, Any]]:
    """Return the settings of the data and its split by group and key.

    Raises:
        ValueError: another setting, which ``function`` does not use.
    """
    data, other = take_data_settings(settings, [])
    unused = [*other, *(f"{group}.{key}" for group in ("text", "knowledge") for key in data[group])]
    if unused:
        known = [*Filters.model_fields, *SplitSettings.model_fields]
        raise ValueError(
            f"{unused[0]}: {function} does not use this setting, expected a filter or a setting of the split"
            f"{suggest(unused[0], known)}"
        )
    return data


def reject_settings(settings: Iterable[str], model: str, groups: Iterable[str], function: str) -> None:
    """Reject settings of ``groups``, which ``function`` does not read.

    Raises:
        ValueError: one line per setting.
    """
    rejected = set(groups)
    errors = []
    for name in settings:
        group = setting_group(name, [model])
        if group in rejected:
            hint = WHERE[group].format(name.rpartition(".")[2])
            errors.append(f"{name}: {function} does not use this setting; {hint}")
    if errors:
        raise ValueError("\n".join(errors))


def unused_by_model(model: str, names: Iterable[str]) -> list[str]:
    """Return the settings among ``names`` that the training of a model never reads.

    Callbacks are among them: only the training loop runs them.
    """
    kind = model_class(model)
    unused = {*unused_training(model), *(["callbacks"] if issubclass(kind, Solver) else [])}
    return [
        name
        for name in names
        if name.removeprefix("training.") in unused
        and (name.startswith("training.") or name not in kind.Config.model_fields)
    ]


def reject_unused(model: str, names: Iterable[str]) -> None:
    """Reject settings that the training of a model never reads.

    Raises:
        ValueError: one line per setting.
    """
    if unused := unused_by_model(model, names):
        reasons = unused_training(model)
        default = next(iter(reasons.values()))  # of callbacks, which solvers do not run
        raise ValueError(
            "\n".join(f"{name}: {reasons.get(name.removeprefix('training.'), default)}" for name in unused)
        )
