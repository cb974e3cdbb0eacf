"""Describe the machine, its load and the command behind a figure."""

from __future__ import annotations

import platform
import socket
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

__all__ = ["MAX_LOAD", "cpu_load", "describe", "describe_lines", "free_port", "load_line", "training_lines"]

MAX_LOAD = 15.0
"""CPU load of other processes, in percent, above which a figure is marked as disturbed."""


def cpu_load(seconds: float = 2.0) -> float:
    """Measure the load of all CPUs in percent over the next ``seconds``, while this process sleeps."""
    return float(psutil.cpu_percent(interval=seconds))


def free_port() -> int:
    """Return a free TCP port of the loopback interface."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def describe() -> dict[str, Any]:
    """Collect processor, memory, system, versions, commit, command and date."""
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


def describe_lines(machine: dict[str, Any]) -> list[str]:
    """Format the machine and the command as lines of a page."""
    return [
        f"* machine: {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['system']}; Python {machine['python']}, torch {machine['torch']}, Segue {machine['segue']} "
        f"({machine['commit']})",
        f"* command: `{machine['command']}`, {machine['date']}",
    ]


def load_line(found: dict[str, Any]) -> str:
    """Format the CPU load before the measurement as a line of a page, with a mark if it was too high."""
    mark = ": **disturbed, not a result**" if found["load_before_percent"] > found["max_load_percent"] else ""
    return f"* CPU load of other processes at the start: {found['load_before_percent']:.0f} %{mark}"


def training_lines(found: dict[str, Any]) -> list[str]:
    """Format the data, the date and the machine of several trainings as lines of a page."""
    return [
        f"* data hash {found['data_hash']}; the split was checked for leakage before each training and passed; "
        f"{found['date']}",
        "* trainings may have run concurrently: training times are upper bounds",
        *describe_lines(found["machine"]),
    ]
