"""The machine under a figure: what it is, whether it is at rest, and where a command came from."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

__all__ = ["busy", "describe", "told", "trainings", "undisturbed"]

REST = 15.0
"""Percent of the processors that others may use before a figure is marked as disturbed."""


def busy(seconds: float = 2.0) -> float:
    """Percent of all processors in use over the next ``seconds``, while this process sleeps."""
    return float(psutil.cpu_percent(interval=seconds))


def describe() -> dict[str, Any]:
    """Processor, memory, system, versions, commit, command and date."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return {
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip() or "unknown",
        "processor": names[0].partition(":")[2].strip() if names else platform.processor(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "segue": version("segue"),
        "torch": version("torch"),
    }


def told(machine: dict[str, Any]) -> list[str]:
    """Lines of a page: the machine, and the command that made it."""
    return [
        f"* machine: {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['system']}; Python {machine['python']}, torch {machine['torch']}, Segue {machine['segue']} "
        f"({machine['commit']})",
        f"* made by `{machine['command']}`, {machine['date']}",
    ]


def undisturbed(found: dict[str, Any]) -> str:
    """A line of a page: how busy the machine was before its figures were taken, and whether that spoils them."""
    spoilt = ": **disturbed, not a result**" if found["busy_before_percent"] > found["rest_percent"] else ""
    return (
        f"* {found['busy_before_percent']:.0f} % of the processors were busy with something else when it began{spoilt}"
    )


def trainings(found: dict[str, Any]) -> list[str]:
    """Lines of a page: where the figures of many trainings come from."""
    return [
        f"* data hash {found['data_hash']}; the split was audited before each training, no faults; {found['date']}",
        "* trainings may have shared the machine: their seconds are upper bounds",
        *told(found["machine"]),
    ]
