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

__all__ = ["busy", "describe"]

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
