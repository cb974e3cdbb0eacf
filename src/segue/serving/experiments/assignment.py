"""Experiments: which users are answered by which model, and which model answers unseen beside it.

The SHA-256 of an experiment's salt and a user's id is a number from 0 to 1, and the shares of the variants, one after
the other, divide what lies between. So a user keeps his variant as long as the experiment stays as it is: over
requests, processes, machines and releases, and nothing has to be kept.
"""

from __future__ import annotations

import hashlib
import logging
import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from annotated_types import Gt, Le, MinLen
from pydantic import StringConstraints, model_validator

from segue.core.config import Settings, parse
from segue.core.files import read_json
from segue.serving.stores.store import Store, StoreError

__all__ = ["Experiment", "Experiments", "Route", "Variant", "assign", "noted", "read_experiments"]

Name: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,100}$")]

logger = logging.getLogger("segue.serving.experiments.assignment")


class Variant(Settings):
    """One way to answer."""

    model: Name
    """The model that answers, by its name."""
    share: Annotated[float, Gt(0), Le(1)]
    """Of all users."""


class Experiment(Settings):
    """Variants that are compared. One with other variants is another experiment, and wants another name."""

    name: Name
    """What it is called in exposures."""
    variants: Annotated[dict[Name, Variant], MinLen(1)]
    """By name; the first is the control. Users beyond the sum of their shares are outside."""
    salt: Name | None = None
    """What is hashed with a user's id; without it, the name. Another salt divides users anew,
    independently."""
    shadow: Name | None = None
    """A model that answers too, unseen: its lists are only compared with those that are shown."""

    @model_validator(mode="after")
    def _fits(self) -> Experiment:
        if self.taken > 1 + 1e-9:
            raise ValueError(f"variants: the shares sum to {self.taken:.6g}, expected at most 1")
        if len(self.variants) == 1 and self.shadow is None:
            raise ValueError("variants: only one, and no shadow: there is nothing to compare")
        return self

    @property
    def taken(self) -> float:
        """The share of all users that are in the experiment."""
        return math.fsum(variant.share for variant in self.variants.values())

    @property
    def control(self) -> str:
        """The variant that the others are compared with."""
        return next(iter(self.variants))


@dataclass(frozen=True)
class Route:
    """Where an experiment sends a user."""

    experiment: str
    variant: str
    model: str
    shadow: str | None = None


def assign(experiment: Experiment, user: str) -> str | None:
    """The variant of a user, always the same; ``None``: he is outside the experiment."""
    salt = experiment.name if experiment.salt is None else experiment.salt
    hashed = hashlib.sha256(f"{salt}\0{user}".encode("utf-8", "surrogatepass")).digest()
    place = (int.from_bytes(hashed[:8], "big") >> 11) * 2.0**-53  # 53 bits: all that a float tells apart from 0 to 1
    end = 0.0
    for name, variant in experiment.variants.items():
        end += variant.share
        if place < end:
            return name
    return None


class Experiments:
    """The experiments of a file, which may change while the service runs.

    A user is in the first experiment of the file whose shares include him, and in no other. Whoever runs the service
    calls :meth:`follow` now and then.

    Args:
        path: the file, JSON or TOML; ``None``: there are no experiments.
        known: is told each model that is named, and refuses it with a ``ValueError`` where there is none.
        kept: where experiments are noted for :func:`noted`.

    Raises:
        ValueError: the file is missing, is not one of experiments, or names a model that is refused.
    """

    def __init__(
        self,
        path: Path | None,
        known: Callable[[str], object] = lambda name: None,
        kept: Store | None = None,
    ) -> None:
        self._path, self._known, self._store = path, known, kept
        self._stamp = _stamp(path)
        self._all: tuple[Experiment, ...] = ()
        if path is not None:
            self._take(path)

    @property
    def all(self) -> tuple[Experiment, ...]:
        """The experiments in the order of the file."""
        return self._all

    def route(self, user: str | None) -> Route | None:
        """Where a user is sent; ``None``: he is in no experiment, or it is not known who he is."""
        if user is None:
            return None
        for experiment in self._all:
            variant = assign(experiment, user)
            if variant is not None:
                return Route(experiment.name, variant, experiment.variants[variant].model, experiment.shadow)
        return None

    def follow(self) -> None:
        """Read the file anew if it has changed; one that is broken, or is gone, is told in the log and changes nothing.

        Never raises; models may be opened meanwhile, so it is nothing for a thread that answers.
        """
        stamp = _stamp(self._path)
        if self._path is None or stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._take(self._path)
        except Exception as error:  # also whatever is wrong with a model that is opened for it
            logger.error("experiments: kept as they were, as the new file does not do: %s", error)
        else:
            logger.info("experiments: read anew: %s", ", ".join(e.name for e in self._all) or "none")

    def _take(self, path: Path) -> None:
        found = read_experiments(path)
        for model in dict.fromkeys(model for experiment in found for model in _models(experiment)):
            self._known(model)
        before = {experiment.name: _divided(experiment) for experiment in self._all}
        for experiment in found:
            if before.get(experiment.name, _divided(experiment)) != _divided(experiment):
                logger.warning(
                    "experiments: %s divides users in another way than before; what was measured until now is not"
                    " comparable: give it a new name",
                    experiment.name,
                )
        self._all = found
        if self._store is not None:
            try:
                for experiment in found:
                    self._store.put(_note(experiment.name), experiment.model_dump_json())
            except StoreError as error:
                logger.error("experiments: not noted in the store: %s", error)


def read_experiments(path: Path) -> tuple[Experiment, ...]:
    """The experiments of a file: ``{"experiments": [...]}`` in JSON, or ``[[experiments]]`` in TOML.

    Raises:
        ValueError: no such file, or all that is wrong with it.
    """
    raw = _toml(path) if path.suffix == ".toml" else read_json(path)
    if not isinstance(raw, dict) or set(raw) != {"experiments"} or not isinstance(raw["experiments"], list):
        raise ValueError(f"{path}: expected a list of 'experiments' and nothing else")
    found, faults = [], []
    for number, one in enumerate(raw["experiments"], 1):
        try:
            found.append(_parsed(one, f"{path}: experiment {number}"))
        except ValueError as error:
            faults.append(str(error))
    names = [experiment.name for experiment in found]
    faults += [f"{path}: '{name}' is there more than once" for name in dict.fromkeys(names) if names.count(name) > 1]
    salts = [experiment.salt or experiment.name for experiment in found]
    faults += [f"{path}: salt '{one}': more than one experiment has it" for one in dict.fromkeys(salts)
               if salts.count(one) > 1]  # fmt: skip
    full = next((place for place, experiment in enumerate(found, 1) if experiment.taken > 1 - 1e-9), len(found))
    faults += [
        f"{path}: '{name}' gets nobody, as '{names[full - 1]}' before it takes everybody" for name in names[full:]
    ]
    if faults:
        raise ValueError("\n".join(faults))
    return tuple(found)


def noted(kept: Store, name: str) -> Experiment | None:
    """An experiment as the service that ran it last noted it in its store; ``None``: it never did."""
    text = kept.get(_note(name))
    return None if text is None else Experiment.model_validate_json(text)


def _toml(path: Path) -> Any:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not TOML: {error}") from None


def _parsed(raw: Any, where: str) -> Experiment:
    if not isinstance(raw, dict):
        raise ValueError(f"{where}: got {raw!r}, expected a table with name and variants")
    variants = raw.get("variants")
    if isinstance(variants, dict):  # each by itself, so that a fault names it
        checked = {}
        for name, variant in variants.items():
            if not isinstance(variant, dict):
                raise ValueError(f"{where}.variants.{name}: got {variant!r}, expected a table with model and share")
            checked[name] = parse(Variant, variant, f"{where}.variants.{name}")
        raw = raw | {"variants": checked}
    return parse(Experiment, raw, where)


def _models(experiment: Experiment) -> list[str]:
    shown = [variant.model for variant in experiment.variants.values()]
    return shown if experiment.shadow is None else [*shown, experiment.shadow]


def _divided(experiment: Experiment) -> tuple[Any, ...]:
    return experiment.salt or experiment.name, tuple(
        (name, variant.share) for name, variant in experiment.variants.items()
    )


def _note(name: str) -> str:
    return f"experiment/{name}"


def _stamp(path: Path | None) -> tuple[int, ...] | None:
    if path is None:
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
