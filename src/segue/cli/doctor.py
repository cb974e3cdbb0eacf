"""``segue doctor``: check the installation."""

from __future__ import annotations

from typing import Any

import typer

from segue.cli.console import Json, Terminal

__all__ = ["doctor"]

PACKAGES = ("torch", "numpy", "scipy", "polars", "pydantic", "numba", "safetensors", "typer", "rich")
EXTRAS = {
    "tensorboard": "track",
    "mlflow-skinny": "track",
    "wandb": "track",
    "nvidia-ml-py": "track",
    "matplotlib": "plots",
    "altair": "report",
    "transformers": "huggingface",
}


def doctor(context: typer.Context, json: Json = False) -> None:
    """Check the installation: packages, devices, folders and models.

    The exit status is 1 if something is broken.
    """
    terminal = Terminal.from_context(context, json)
    report = _report()
    if terminal.json:
        terminal.result(report)
    else:
        from segue.reports.tables import key_value_grid

        terminal.table(key_value_grid(report))
    if report["errors"]:
        raise typer.Exit(1)


def _report() -> dict[str, Any]:
    from segue.experiment.paths import recipes_folder, runs_folder
    from segue.experiment.resources import describe_machine, thread_count
    from segue.version import __version__

    errors: list[str] = []
    devices = _devices(errors)
    models = _models(errors)
    return {
        "segue": __version__,
        "machine": describe_machine(),
        "packages": {name: _version(name, errors) for name in PACKAGES},
        "extras": {name: _version(name, None) or f"missing, in segue[{extra}]" for name, extra in EXTRAS.items()},
        "devices": devices,
        "threads": thread_count(),
        "models": models,
        "recipes": sorted(str(path.relative_to(recipes_folder())) for path in recipes_folder().glob("*/*.toml")),
        "runs": str(runs_folder()),
        **_archives(errors),
        "errors": errors,
    }


def _version(name: str, errors: list[str] | None) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        if errors is not None:
            errors.append(f"{name}: not installed: pip install segue")
        return None


def _devices(errors: list[str]) -> list[str]:
    try:
        import torch
    except ImportError as error:
        errors.append(f"torch: {error}")
        return []
    found = ["cpu", *(f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count()))]
    return [*found, "mps"] if torch.backends.mps.is_available() else found


def _models(errors: list[str]) -> list[str]:
    """Return the keys of the models that can be imported; the others are errors."""
    from segue.core.registry import model_class, model_keys

    found = []
    for key in model_keys():
        try:
            model_class(key)
        except Exception as error:  # a plugin may raise anything
            errors.append(f"model {key}: {type(error).__name__}: {error}")
        else:
            found.append(key)
    return found


def _archives(errors: list[str]) -> dict[str, Any]:
    import os
    from pathlib import Path

    from segue.data import list_sources

    folder = os.environ.get("SEGUE_ARCHIVES")
    if folder and not Path(folder).is_dir():
        errors.append(f"SEGUE_ARCHIVES={folder}: no such folder")
    return {
        "archives": folder or "SEGUE_ARCHIVES is not set",
        "available_data": [key for key, _, there in list_sources() if there],
    }
