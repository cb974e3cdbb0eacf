"""Find the settings that tuning searches, and apply values to them.

A model declares its space beside its settings, with :class:`segue.core.config.Search` and
:class:`segue.core.config.Choices`. For networks, the settings of the training loop that have one are added. Training on
labeled examples has larger batches than that on an interaction log.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

from segue.core.config import Choices, Search, parse, search_space
from segue.core.registry import model_class, model_keys
from segue.experiment.clicks.click_plan import ClickPlan
from segue.experiment.plan import Plan
from segue.experiment.settings import unused_training
from segue.training.settings import Training

__all__ = ["Space", "TunedPlan", "apply_values", "check_tunable", "find_space", "read_values", "tunable_models"]

TunedPlan: TypeAlias = Plan | ClickPlan
"""Settings of a training on an interaction log, or on labeled examples."""

PlanT = TypeVar("PlanT", bound=TunedPlan)

Space: TypeAlias = Mapping[str, Search | Choices]
"""Ranges and choices by setting, such as ``model.dropout``."""

OF_EXAMPLES: Space = MappingProxyType({"training.batch_size": Choices((1_024, 2_048, 4_096, 8_192))})
"""Spaces of the training on labeled examples in place of those on a log."""


def tunable_models() -> list[str]:
    """Return the keys of the models that declare a search space."""
    found = []
    for key in model_keys():
        try:
            has_space = bool(search_space(model_class(key).Config))
        except Exception:  # a plugin may raise anything when it is imported
            continue
        found += [key] if has_space else []
    return found


def check_tunable(key: str) -> None:
    """Check that a model declares a search space.

    Raises:
        ValueError: it does not, or the key is unknown; the message lists the models that do.
    """
    if not search_space(model_class(key).Config):
        raise ValueError(
            f"model: '{key}' declares no search space, expected one of {', '.join(tunable_models())}; a setting is "
            "searched if it is annotated with segue.core.config.Search or Choices"
        )


def find_space(plan: TunedPlan, fixed: Collection[str] = ()) -> tuple[Space, list[str]]:
    """Return the space of a model around the settings of ``plan``.

    Args:
        fixed: settings such as ``model.dropout`` that keep the value of the plan.

    Returns:
        The space, and a line per setting that is left out as the other settings exclude its values.

    Raises:
        ValueError: the model declares no space, or nothing is left to search.
    """
    key = plan.task.model
    check_tunable(key)
    space: dict[str, Search | Choices] = {}
    notes = []
    for name, one in _declared_space(plan).items():
        if name in fixed:
            continue
        values = one.values if isinstance(one, Choices) else (one.low, one.high)
        errors = {value: error for value in values if (error := _explain_invalid(plan, name, value)) is not None}
        valid = tuple(value for value in values if value not in errors)
        if isinstance(one, Search) and not errors:
            space[name] = one
        elif isinstance(one, Choices) and len(valid) > 1:
            space[name] = Choices(valid)
        else:
            notes.append(f"{name} is not searched: {next(iter(errors.values()))}")
    if not space:
        reasons = "; ".join([f"fixed: {', '.join(fixed)}"] * bool(fixed) + notes)
        raise ValueError(f"model: no setting of '{key}' is left to search ({reasons}), expected at least one")
    return space, notes


def _declared_space(plan: TunedPlan) -> Space:
    """Return what the settings declare that training reads."""
    kind, unused = model_class(plan.task.model), unused_training(plan.task.model)
    is_of_log = isinstance(plan, Plan)
    of_model = {
        f"model.{name}": one
        for name, one in search_space(kind.Config).items()
        if is_of_log or name not in kind.settings_of_logs
    }
    of_training = {f"training.{name}": one for name, one in search_space(Training).items() if name not in unused}
    replaced = {} if is_of_log else {name: one for name, one in OF_EXAMPLES.items() if name in of_training}
    return {**of_model, **of_training, **replaced}


def _explain_invalid(plan: TunedPlan, name: str, value: Any) -> str | None:
    """Say why ``plan`` does not allow another value of a setting; ``None`` if it does."""
    try:
        apply_values(plan, {name: value})
    except ValueError as error:
        return str(error).splitlines()[0]
    return None


def apply_values(plan: PlanT, values: Mapping[str, Any]) -> PlanT:
    """Return ``plan`` with other values of settings of model and training.

    Raises:
        ValueError: the settings do not allow the values.
    """
    own: dict[str, dict[str, Any]] = {"model": {}, "training": {}}
    for name, value in values.items():
        group, _, key = name.partition(".")
        own[group][key] = value
    model = parse(type(plan.model), {**plan.model.model_dump(), **own["model"]}, "model")
    training = parse(Training, {**plan.training.model_dump(), **own["training"]}, "training")
    if isinstance(plan, Plan) and getattr(model, "mask_seen", False) and not plan.evaluation.exclude_seen:
        raise ValueError("model.mask_seen: got True, which needs evaluation.exclude_seen")
    return replace(plan, model=model, training=training)


def read_values(plan: TunedPlan, space: Space) -> dict[str, Any]:
    """Return the values that ``plan`` has for the settings of a space."""
    return {name: getattr(getattr(plan, name.partition(".")[0]), name.partition(".")[2]) for name in space}
