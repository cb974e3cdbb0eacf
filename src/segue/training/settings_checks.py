"""Which losses, samplers and optimisers there are, and which settings each looks at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from segue.core.config import suggest
from segue.core.registry import functions
from segue.nn.losses import losses, negative_samplers
from segue.training.configured_loss import names_of, samples
from segue.training.optim import optimizer_class, takes

if TYPE_CHECKING:
    from segue.training.train import Training

__all__ = ["known", "overlooked", "unused", "users"]

OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop")
"""Those that are named where a setting belongs to others."""


def known(choice: str, name: str) -> None:
    """Nothing, if there is a ``choice`` (loss, sampler, optimizer) of that name.

    Raises:
        ValueError: there is none, or it cannot be used here, with the reason.
    """
    if choice == "optimizer":
        optimizer_class(name)
        return
    names = functions(losses if choice == "loss" else negative_samplers)
    if name not in names:
        raise ValueError(f"unknown{suggest(name, names)}")


def users() -> Mapping[str, Mapping[str, list[str]]]:
    """For each setting that not every choice looks at, by choice, the names of those that do."""
    found: dict[str, dict[str, list[str]]] = {}
    for choice, module in (("loss", losses), ("sampler", negative_samplers)):
        for name, function in functions(module).items():
            own: Iterable[str] = names_of(function)
            if choice == "loss" and samples(name):
                own = [*own, "negatives", "sampler"]
            for setting in own:
                found.setdefault(setting, {}).setdefault(choice, []).append(name)
    for name in OPTIMIZERS:
        for setting in takes(name):
            found.setdefault(setting, {}).setdefault("optimizer", []).append(name)
    return found


def unused(training: Training) -> list[str]:
    """A line for every setting that is not at its default and that nothing chosen looks at."""
    faults = []
    sampled = samples(training.loss)
    for setting, by in users().items():
        value = getattr(training, setting)
        if value == type(training).model_fields[setting].default:
            continue
        (choice, names), *_ = by.items()
        chosen = getattr(training, choice)
        if choice == "sampler" and not sampled:
            faults.append(f"{setting}: got {value!r}, but the loss '{training.loss}' draws no negatives")
        elif setting in takes(chosen) if choice == "optimizer" else chosen in names:
            continue
        else:
            faults.append(
                f"{setting}: got {value!r}, but the {choice} '{chosen}' does not use it; used by {', '.join(names)}"
            )
    return faults


def overlooked(training: Training, own_loss: str) -> list[str]:
    """A line for every setting of the loss that is not at its default, for a model that has a loss of its own."""
    of_losses = [setting for setting, by in users().items() if "optimizer" not in by]
    return [
        f"training.{setting}: got {value!r}, but this model minimises {own_loss}"
        for setting in ("loss", "temperature", *of_losses)
        if (value := getattr(training, setting)) != type(training).model_fields[setting].default
    ]
