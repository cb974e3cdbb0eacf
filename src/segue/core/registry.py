"""Find registry entries in the file system.

Each module of a package is an entry, and its name is the key.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from segue.core.config import suggest

if TYPE_CHECKING:
    from segue.core.model import Model

__all__ = ["builtin_models", "exported_functions", "keys", "load_module", "model_class", "model_keys", "plugins"]

MODELS = "segue.models"
"""Package with one folder per model family and one file per model."""

PLUGINS = "segue.models"
"""Entry-point group for models from other packages."""


def plugins(group: str) -> Mapping[str, EntryPoint]:
    """Map the names to the entry points of ``group``, which other packages declare.

    Nothing is imported. The metadata of installed packages is read once for each module search path.
    """
    return _read_entry_points(group, tuple(sys.path), entry_points)


@cache
def _read_entry_points(
    group: str, path: tuple[str, ...], read: Callable[..., Iterable[EntryPoint]]
) -> Mapping[str, EntryPoint]:
    return {entry.name: entry for entry in read(group=group)}


def keys(package: str, group: str | None = None) -> list[str]:
    """List the modules in ``package``, and the plugins of ``group``.

    Nothing is imported.
    """
    path = importlib.import_module(package).__path__
    found = {entry.name for entry in pkgutil.iter_modules(path) if not entry.ispkg}
    return sorted(found | (plugins(group).keys() if group else set()))


def load_module(package: str, key: str, noun: str, group: str | None = None) -> ModuleType:
    """Import the module ``package.key``, or the one that a plugin of ``group`` names.

    Raises:
        ValueError: the key is unknown; the message suggests the closest known one.
    """
    if key not in keys(package, group):
        raise ValueError(f"{noun}: unknown '{key}'{suggest(key, keys(package, group))}")
    if group and key in plugins(group):
        return cast("ModuleType", plugins(group)[key].load())
    return importlib.import_module(f"{package}.{key}")


def exported_functions(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """Return the functions named in the ``__all__`` of a module.

    These are losses, metrics, similarities or schedules.
    """
    return {name: getattr(module, name) for name in module.__all__}


@cache
def builtin_models() -> dict[str, str]:
    """Map the keys of built-in models to their modules.

    The modules are the files in the family folders of ``segue.models``.
    """
    path = importlib.import_module(MODELS).__path__
    families = [entry.name for entry in pkgutil.iter_modules(path) if entry.ispkg]
    return {key: f"{MODELS}.{family}.{key}" for family in families for key in keys(f"{MODELS}.{family}")}


def model_keys() -> list[str]:
    """List the keys of all models.

    These are the files in the families of ``segue.models``, and entry points.
    """
    return sorted({*builtin_models(), *plugins(PLUGINS)})


def model_class(key: str) -> type[Model]:
    """Import the model class of ``key``.

    Raises:
        ValueError: the key is unknown; the message suggests the closest known one.
    """
    if (entry := plugins(PLUGINS).get(key)) is not None:
        return cast("type[Model]", entry.load())
    if key not in model_keys():
        raise ValueError(f"model: unknown '{key}'{suggest(key, model_keys())}")
    module = importlib.import_module(builtin_models()[key])
    return cast("type[Model]", getattr(module, module.__all__[0]))
