"""Experiments: assign users to model variants and select shadow models.

The variant of a user determines which model answers them and which shadow model runs beside it. The SHA-256 of an
experiment's salt and a user id is mapped to a number in [0, 1), which the shares of the variants divide in order. A
user's variant is therefore stable across requests, processes, machines and releases without being stored, as long as
the experiment does not change.
"""

from __future__ import annotations

import hashlib
import logging
import math
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from annotated_types import Gt, Le, MinLen
from pydantic import StringConstraints, model_validator

from segue.core.config import Settings, parse
from segue.core.files import read_json
from segue.serving.stores.store import Store, StoreError

__all__ = [
    "Assignment",
    "Experiment",
    "Experiments",
    "Variant",
    "assign_variant",
    "load_recorded_experiment",
    "read_experiments",
]

Name: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,100}$")]

logger = logging.getLogger("segue.serving.experiments.assignment")


class Variant(Settings):
    """Variant of an experiment."""

    model: Name
    """Name of the model that answers."""
    share: Annotated[float, Gt(0), Le(1)]
    """Share of all users."""


class Experiment(Settings):
    """Variants to compare.

    Changed variants make a new experiment, which needs a new name.
    """

    name: Name
    """Name, recorded in exposures."""
    variants: Annotated[dict[Name, Variant], MinLen(1)]
    """Variants by name; the first is the control. Users beyond the sum of the shares are not in the experiment."""
    salt: Name | None = None
    """Salt that is hashed with the user id; default: the name. A different salt divides users independently."""
    shadow: Name | None = None
    """Name of a shadow model: its lists are compared with those shown but never shown themselves."""

    @model_validator(mode="after")
    def _check_shares(self) -> Experiment:
        if self.allocated_share > 1 + 1e-9:
            raise ValueError(f"variants: the shares sum to {self.allocated_share:.6g}, expected at most 1")
        if len(self.variants) == 1 and self.shadow is None:
            raise ValueError("variants: got one variant and no shadow model, expected at least two models to compare")
        return self

    @property
    def allocated_share(self) -> float:
        """Share of all users that are in the experiment."""
        return math.fsum(variant.share for variant in self.variants.values())

    @property
    def control(self) -> str:
        """Name of the control variant."""
        return next(iter(self.variants))


@dataclass(frozen=True)
class Assignment:
    """Assignment of a user to a variant."""

    experiment: str
    variant: str
    model: str
    shadow: str | None = None


def assign_variant(experiment: Experiment, user: str) -> str | None:
    """Return the variant of a user, which is always the same.

    ``None`` if the user is not in the experiment.
    """
    salt = experiment.name if experiment.salt is None else experiment.salt
    digest = hashlib.sha256(f"{salt}\0{user}".encode("utf-8", "surrogatepass")).digest()
    bucket = (int.from_bytes(digest[:8], "big") >> 11) * 2.0**-53  # 53 bits, the precision of a float in [0, 1)
    end = 0.0
    for name, variant in experiment.variants.items():
        end += variant.share
        if bucket < end:
            return name
    return None


class Experiments:
    """Experiments of a file that may change while the service runs.

    A user is in the first experiment of the file whose shares include them, and in no other. The service calls
    :meth:`reload_if_changed` periodically.

    Args:
        path: file, JSON or TOML; ``None``: no experiments.
        load_models: called with the names of all models, which must stay loaded while the experiments are in force;
            raises ``ValueError`` if one cannot be loaded.
        store: where experiments are recorded for :func:`load_recorded_experiment`.

    Raises:
        ValueError: the file is missing or invalid, or names an unknown model.
    """

    def __init__(
        self,
        path: Path | None,
        load_models: Callable[[Sequence[str]], object] = lambda names: None,
        store: Store | None = None,
    ) -> None:
        self._path, self._load_models, self._store = path, load_models, store
        self._fingerprint = _file_fingerprint(path)
        self._experiments: tuple[Experiment, ...] = ()
        if path is not None:
            self._load(path)

    @property
    def all(self) -> tuple[Experiment, ...]:
        """Experiments in the order of the file."""
        return self._experiments

    def assign(self, user: str | None) -> Assignment | None:
        """Assign a user to a variant.

        ``None`` if the user is in no experiment or not identified.
        """
        if user is None:
            return None
        for experiment in self._experiments:
            variant = assign_variant(experiment, user)
            if variant is not None:
                return Assignment(experiment.name, variant, experiment.variants[variant].model, experiment.shadow)
        return None

    def reload_if_changed(self) -> None:
        """Reload the file if it has changed.

        An invalid or missing file is logged and ignored. Never raises. It may load models, so do not call it in the
        engine thread.
        """
        fingerprint = _file_fingerprint(self._path)
        if self._path is None or fingerprint == self._fingerprint:
            return
        self._fingerprint = fingerprint
        try:
            self._load(self._path)
        except Exception as error:  # including any error in loading a model
            logger.error("experiments: new file rejected, previous experiments stay in force: %s", error)
        else:
            logger.info("experiments: reloaded: %s", ", ".join(e.name for e in self._experiments) or "none")

    def _load(self, path: Path) -> None:
        experiments = read_experiments(path)
        self._load_models(list(dict.fromkeys(model for experiment in experiments for model in _models(experiment))))
        previous = {experiment.name: _allocation(experiment) for experiment in self._experiments}
        for experiment in experiments:
            if previous.get(experiment.name, _allocation(experiment)) != _allocation(experiment):
                logger.warning(
                    "experiments: %s now assigns users differently, so earlier results are not comparable;"
                    " give it a new name",
                    experiment.name,
                )
        self._experiments = experiments
        if self._store is not None:
            try:
                for experiment in experiments:
                    self._store.put_setting(_setting_name(experiment.name), experiment.model_dump_json())
            except StoreError as error:
                logger.error("experiments: cannot be recorded in the store: %s", error)


def read_experiments(path: Path) -> tuple[Experiment, ...]:
    """Read the experiments of a file.

    The file contains ``{"experiments": [...]}`` in JSON, or ``[[experiments]]`` in TOML.

    Raises:
        ValueError: the file does not exist, or a list of everything wrong with it.
    """
    raw = _read_toml(path) if path.suffix == ".toml" else read_json(path)
    if not isinstance(raw, dict) or set(raw) != {"experiments"} or not isinstance(raw["experiments"], list):
        raise ValueError(f"{path}: expected a list 'experiments' and nothing else")
    experiments, errors = [], []
    for number, table in enumerate(raw["experiments"], 1):
        try:
            experiments.append(_parse_experiment(table, f"{path}: experiment {number}"))
        except ValueError as error:
            errors.append(str(error))
    names = [experiment.name for experiment in experiments]
    errors += [f"{path}: '{name}' occurs more than once" for name in dict.fromkeys(names) if names.count(name) > 1]
    salts = [experiment.salt or experiment.name for experiment in experiments]
    errors += [
        f"{path}: salt '{salt}' is used by more than one experiment"
        for salt in dict.fromkeys(salts)
        if salts.count(salt) > 1
    ]
    full = next(
        (number for number, experiment in enumerate(experiments, 1) if experiment.allocated_share > 1 - 1e-9),
        len(experiments),
    )
    errors += [
        f"{path}: '{name}' receives no users, as '{names[full - 1]}' before it receives all" for name in names[full:]
    ]
    if errors:
        raise ValueError("\n".join(errors))
    return tuple(experiments)


def load_recorded_experiment(store: Store, name: str) -> Experiment | None:
    """Return an experiment as last recorded in the store by a service, or ``None``."""
    text = store.get_setting(_setting_name(name))
    return None if text is None else Experiment.model_validate_json(text)


def _read_toml(path: Path) -> Any:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: invalid TOML: {error}") from None


def _parse_experiment(raw: Any, where: str) -> Experiment:
    if not isinstance(raw, dict):
        raise ValueError(f"{where}: got {raw!r}, expected a table with name and variants")
    variants = raw.get("variants")
    if isinstance(variants, dict):  # validated one by one, so that errors name the variant
        parsed = {}
        for name, variant in variants.items():
            if not isinstance(variant, dict):
                raise ValueError(f"{where}.variants.{name}: got {variant!r}, expected a table with model and share")
            parsed[name] = parse(Variant, variant, f"{where}.variants.{name}")
        raw = raw | {"variants": parsed}
    return parse(Experiment, raw, where)


def _models(experiment: Experiment) -> list[str]:
    models = [variant.model for variant in experiment.variants.values()]
    return models if experiment.shadow is None else [*models, experiment.shadow]


def _allocation(experiment: Experiment) -> tuple[Any, ...]:
    return experiment.salt or experiment.name, tuple(
        (name, variant.share) for name, variant in experiment.variants.items()
    )


def _setting_name(experiment: str) -> str:
    return f"experiment/{experiment}"


def _file_fingerprint(path: Path | None) -> tuple[int, ...] | None:
    if path is None:
        return None
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
