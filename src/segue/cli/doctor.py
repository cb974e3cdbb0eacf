"""``segue doctor``: is the installation sound, and what does it have to work with?"""

from __future__ import annotations

from typing import Any

import typer

from segue.cli.console import Json, Terminal

__all__ = ["doctor"]

PACKAGES = ("torch", "numpy", "scipy", "polars", "pydantic", "numba", "safetensors", "typer", "rich")
EXTRAS = {"tensorboard": "track", "matplotlib": "plots", "transformers": "huggingface"}


def doctor(context: typer.Context, json: Json = False) -> None:
    """Check the installation.

    Packages, devices, folders and models; the exit status is 1 if something is broken.
    """
    terminal = Terminal.of(context, json)
    report = _report()
    if terminal.json:
        terminal.result(report)
    else:
        from segue.cli.tables import facts

        terminal.table(facts(report))
    if report["faults"]:
        raise typer.Exit(1)


def _report() -> dict[str, Any]:
    from segue import __version__
    from segue.experiment.paths import recipes_folder, runs_folder
    from segue.experiment.resources import machine, threads

    faults: list[str] = []
    devices = _devices(faults)
    models = _models(faults)
    return {
        "segue": __version__,
        "machine": machine(),
        "packages": {name: _version(name, faults) for name in PACKAGES},
        "extras": {name: _version(name, None) or f"absent, in segue[{extra}]" for name, extra in EXTRAS.items()},
        "devices": devices,
        "threads": threads(),
        "models": models,
        "recipes": sorted(str(path.relative_to(recipes_folder())) for path in recipes_folder().glob("*/*.toml")),
        "runs": str(runs_folder()),
        **_archives(faults),
        "faults": faults,
    }


def _version(name: str, faults: list[str] | None) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        if faults is not None:
            faults.append(f"{name}: not installed: pip install segue")
        return None


def _devices(faults: list[str]) -> list[str]:
    try:
        import torch
    except ImportError as error:
        faults.append(f"torch: {error}")
        return []
    found = ["cpu", *(f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count()))]
    return [*found, "mps"] if torch.backends.mps.is_available() else found


def _models(faults: list[str]) -> list[str]:
    """Keys of the models that can be imported; the others are faults."""
    from segue.core.registry import model_class, model_keys

    sound = []
    for key in model_keys():
        try:
            model_class(key)
        except Exception as error:  # whatever a plugin does wrong is what is to be told
            faults.append(f"model {key}: {type(error).__name__}: {error}")
        else:
            sound.append(key)
    return sound


def _archives(faults: list[str]) -> dict[str, Any]:
    import os
    from pathlib import Path

    from segue.data import sources_listed

    folder = os.environ.get("SEGUE_ARCHIVES")
    if folder and not Path(folder).is_dir():
        faults.append(f"SEGUE_ARCHIVES={folder}: no such folder")
    return {
        "archives": folder or "SEGUE_ARCHIVES is not set",
        "data_at_hand": [key for key, _, there in sources_listed() if there],
    }
