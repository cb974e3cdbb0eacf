"""The file system is the registry: a module of a package is an entry, and its name is the key."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from segue.core.config import suggest

if TYPE_CHECKING:
    from segue.core.model import Model

__all__ = ["builtin_models", "functions", "keys", "model_class", "model_keys", "module"]

MODELS = "segue.models"
"""The package whose folders are families of models and whose files are models."""

PLUGINS = "segue.models"
"""The entry-point group through which other packages add models."""


def keys(package: str) -> list[str]:
    """Names of the modules in ``package``; nothing is imported but the package itself."""
    path = importlib.import_module(package).__path__
    return sorted(entry.name for entry in pkgutil.iter_modules(path) if not entry.ispkg)


def module(package: str, key: str, noun: str) -> ModuleType:
    """The module ``package.key``; an unknown key is a ``ValueError`` with the nearest known one."""
    if key not in keys(package):
        raise ValueError(f"{noun}: unknown '{key}'{suggest(key, keys(package))}")
    return importlib.import_module(f"{package}.{key}")


def functions(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """The functions a module names in ``__all__``: losses, metrics, similarities, schedules."""
    return {name: getattr(module, name) for name in module.__all__}


@cache
def builtin_models() -> dict[str, str]:
    """Model keys and the modules that hold them: the files in the family folders of ``segue.models``."""
    path = importlib.import_module(MODELS).__path__
    families = [entry.name for entry in pkgutil.iter_modules(path) if entry.ispkg]
    return {key: f"{MODELS}.{family}.{key}" for family in families for key in keys(f"{MODELS}.{family}")}


def model_keys() -> list[str]:
    """Keys of all models: files in the families of ``segue.models`` and entry points of the group ``segue.models``."""
    return sorted({*builtin_models(), *(entry.name for entry in entry_points(group=PLUGINS))})


def model_class(key: str) -> type[Model]:
    """The model class behind ``key``; a missing vendor package is told by the model's own import."""
    for entry in entry_points(group=PLUGINS):
        if entry.name == key:
            return cast("type[Model]", entry.load())
    if key not in model_keys():
        raise ValueError(f"model: unknown '{key}'{suggest(key, model_keys())}")
    found = importlib.import_module(builtin_models()[key])
    return cast("type[Model]", getattr(found, found.__all__[0]))
