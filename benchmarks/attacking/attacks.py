"""The attacks, which are scripts in ``tests/serving/attacks``, and how to run one."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ATTACKS", "AttackScript", "start_attack", "wait_for_report"]

FOLDER = Path(__file__).parents[2] / "tests" / "serving" / "attacks"


@dataclass(frozen=True)
class AttackScript:
    """One attack."""

    title: str
    """What the attacker does, for tables."""
    scope: str | None = "read"
    """Scope of the attacker's key; ``None``: no key."""
    soak_strength: float | None = None
    """Strength among the clients of a soak test; ``None``: not part of it, as it needs scope ``write``."""


ATTACKS = {
    "trailers": AttackScript("endless trailers", None, 0.5),
    "missing_bodies": AttackScript("1,000 bodies that never arrive", None, 0.2),
    "unfinished_bodies": AttackScript("600 unfinished bodies of 2 MB", "read", 0.05),
    "slow_headers": AttackScript("500 slow headers", None, 0.2),
    "idle_connections": AttackScript("1,100 idle connections", None, 0.2),
    "unknown_users": AttackScript("reads of unknown users", "read", 0.25),
    "large_bodies": AttackScript("8 clients, bodies of 2 MB", "read", 0.25),
    "expensive_reranks": AttackScript("8 clients, 256 reranks each", "read", 0.25),
    "long_explanations": AttackScript("4 clients explain 2,000 events", "read", 0.25),
    "disconnecting_clients": AttackScript("clients leave 256 reranks", "read", 0.25),
    "model_names": AttackScript("damaged and unloaded models", "read", 1.0),
    "malformed_bodies": AttackScript("malformed bodies", "read", 0.2),
    "deletions": AttackScript("deletions under load", "write"),
    "replaced_store": AttackScript("SQLite file replaced", "write"),
}
"""By name of the script."""


def start_attack(
    name: str, address: str, key: str | None, seconds: float, strength: float = 1.0, **more: str
) -> subprocess.Popen[str]:
    """Start a script as a process of its own.

    Args:
        more: further options of the script.
    """
    command = [sys.executable, str(FOLDER / f"{name}.py"), address, "--seconds", f"{seconds:g}"]
    command += ["--strength", f"{strength:g}", *(() if key is None else ("--key", key))]
    command += [part for option, value in more.items() for part in (f"--{option}", value)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for_report(process: subprocess.Popen[str], seconds: float) -> dict[str, Any]:
    """Return the report of an attack.

    Raises:
        RuntimeError: it failed, or did not end within ``seconds``.
    """
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise RuntimeError(f"{process.args!r}: not finished within {seconds:g} s") from None
    if process.returncode != 0:
        raise RuntimeError(f"{process.args!r}: exit status {process.returncode}")
    report: dict[str, Any] = json.loads(output)
    return report
