"""Look up losses, samplers and optimizers by name, and check their settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from segue.core.config import Settings, suggest
from segue.core.registry import exported_functions
from segue.nn.losses import losses, negative_samplers

__all__ = [
    "ignored_loss_settings",
    "is_sampled",
    "loss_function",
    "loss_settings",
    "optimizer_class",
    "setting_names",
    "setting_users",
    "supported_settings",
    "unused_settings",
    "validate_choice",
]

OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop")
"""Optimizers named in error messages about their settings."""

UNSUPPORTED = {
    "lbfgs": "it evaluates the loss of a batch several times per step",
    "sparseadam": "it needs sparse gradients, and those of item embeddings are dense",
    "muon": "it supports only matrices, and a network also has norms and biases",
}
"""Classes of ``torch.optim`` that the loop cannot use, and why."""


def loss_function(name: str) -> Callable[..., Tensor]:
    """Return the function of a built-in or custom loss.

    Raises:
        ValueError: a custom function of which only the name is known, as in the settings of a stored run.
    """
    function: Callable[..., Tensor] | None = getattr(name, "function", None) or exported_functions(losses).get(name)
    if function is None:
        raise ValueError(f"training.loss: '{name}' is a custom function and only its name is stored; pass the function")
    return function


def is_sampled(loss: str) -> bool:
    """Return whether a loss uses negatives.

    It does if its function has a parameter ``negatives``.
    """
    return "negatives" in inspect.signature(loss_function(loss)).parameters


def setting_names(function: Callable[..., Any]) -> list[str]:
    """Return the training settings that a loss or sampler uses.

    These are its keyword-only parameters.
    """
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """Return the class of ``torch.optim`` with this name, ignoring case.

    Raises:
        ValueError: the name is unknown, or the loop cannot use the class.
    """
    kinds = {
        key.lower(): kind
        for key, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
    }
    if (reason := UNSUPPORTED.get(name.lower())) is not None:
        raise ValueError(f"not supported: {reason}")
    if name.lower() not in kinds:
        raise ValueError(f"unknown{suggest(name.lower(), kinds.keys() - UNSUPPORTED.keys())}")
    return kinds[name.lower()]


def supported_settings(name: str) -> list[str]:
    """Return the settings that an optimizer uses.

    They are among ``betas``, ``momentum`` and ``weight_decay``.
    """
    parameters = inspect.signature(optimizer_class(name)).parameters
    return [setting for setting in ("betas", "momentum", "weight_decay") if setting in parameters]


def validate_choice(choice: str, name: str) -> None:
    """Check that a built-in ``choice`` of this name exists.

    ``choice`` is ``loss``, ``sampler`` or ``optimizer``.

    Raises:
        ValueError: the name is unknown or not supported; the message says why.
    """
    if choice == "optimizer":
        optimizer_class(name)
        return
    names = exported_functions(losses if choice == "loss" else negative_samplers)
    if name not in names:
        raise ValueError(f"unknown{suggest(name, names)}")


def setting_users() -> Mapping[str, Mapping[str, list[str]]]:
    """Map each setting that only some choices use to these choices.

    A value consists of the kind of choice and the names of the choices that use the setting.
    """
    users: dict[str, dict[str, list[str]]] = {}
    for choice, module in (("loss", losses), ("sampler", negative_samplers)):
        for name, function in exported_functions(module).items():
            used: Iterable[str] = setting_names(function)
            if choice == "loss" and is_sampled(name):
                used = [*used, "num_negatives", "sampler"]
            for setting in used:
                users.setdefault(setting, {}).setdefault(choice, []).append(name)
    for name in OPTIMIZERS:
        for setting in supported_settings(name):
            users.setdefault(setting, {}).setdefault("optimizer", []).append(name)
    return users


def unused_settings(training: Settings) -> list[str]:
    """Return an error line for every changed setting that nothing uses.

    A setting is changed if it differs from its default, and unused if no chosen component uses it.
    """
    errors, values = [], dict(training)
    if hasattr(values["loss"], "function") or values["loss"] in exported_functions(losses):
        sampled, by_loss = is_sampled(values["loss"]), setting_names(loss_function(values["loss"]))
    else:  # the name of a custom function: what it uses is not known
        return []
    for setting, by in setting_users().items():
        value = values[setting]
        (choice, names), *_ = by.items()
        chosen = values[choice]
        if choice == "loss":
            is_used = setting in by_loss or (sampled and setting in ("num_negatives", "sampler"))
        else:
            is_used = setting in supported_settings(chosen) if choice == "optimizer" else chosen in names
        if value == type(training).model_fields[setting].default or (is_used and (choice != "sampler" or sampled)):
            continue
        if choice == "sampler" and not sampled:
            errors.append(f"{setting}: got {value!r}, but the loss '{values['loss']}' draws no negatives")
        else:
            errors.append(
                f"{setting}: got {value!r}, but the {choice} '{chosen}' does not use it; used by {', '.join(names)}"
            )
    return errors


def loss_settings() -> list[str]:
    """Return the settings that determine the loss, including those of its negatives."""
    return ["loss", "temperature", *(setting for setting, by in setting_users().items() if "optimizer" not in by)]


def ignored_loss_settings(training: Settings, builtin_loss: str) -> list[str]:
    """Return an error line for every changed loss setting that the model ignores.

    The model has a loss of its own. A setting is changed if it differs from its default.
    """
    return [
        f"training.{setting}: got {value!r}, but this model minimizes {builtin_loss}"
        for setting in loss_settings()
        if (value := getattr(training, setting)) != type(training).model_fields[setting].default
    ]
