"""Attackers among the clients of a soak test: attack and quiet periods alternate."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.attacking.attacks import ATTACKS, start_attack, wait_for_report

__all__ = ["Attackers", "attack_totals"]

GRACE_SECONDS = 2.0
"""Part of a period in which a script starts and waits for its last responses."""


class Attackers(threading.Thread):
    """Runs one attack script per attacked period until :meth:`stop`.

    Periods follow the clock, so that services that are tested at the same time are attacked at the same time.

    Args:
        address: of the service.
        key: API key with scope ``read``.
        period: seconds of a period; attacked and quiet periods alternate.
    """

    def __init__(self, address: str, key: str, period: float) -> None:
        super().__init__(daemon=True)
        self._address, self._key, self._period = address, key, period
        self._stopped = threading.Event()
        self.attacks: list[dict[str, Any]] = []
        """Attacks: kind, begin, end, and the report of the script."""
        self.errors: list[str] = []

    def run(self) -> None:
        """Attack until stopped."""
        names = itertools.cycle(name for name, one in ATTACKS.items() if one.soak_strength is not None)
        while not self._stopped.is_set():
            self._attack(next(names))
            rest = time.time() % (2 * self._period)
            self._stopped.wait(2 * self._period - rest)

    def stop(self) -> None:
        """Finish the running attack and stop."""
        self._stopped.set()
        self.join()

    def _attack(self, name: str) -> None:
        one, begin = ATTACKS[name], time.time()
        seconds = max(1.0, self._period - GRACE_SECONDS)
        key = None if one.scope is None else self._key
        process = start_attack(name, self._address, key, seconds, one.soak_strength or 1.0)
        try:
            report = wait_for_report(process, seconds + 60)
        except RuntimeError as error:
            self.errors.append(f"{name}: {error}")
            return
        self.attacks.append({"kind": f"attack {name}", "begin": begin, "end": time.time(), "report": report})


def attack_totals(attacks: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Sum the reports of the attacks by kind: number of attacks, bytes, connections, requests, statuses, others."""
    totals: dict[str, dict[str, Any]] = {}
    for one in attacks:
        report = one["report"]
        total = totals.setdefault(report["attack"], {"attacks": 0, "statuses": {}})
        total["attacks"] += 1
        for status, count in report["statuses"].items():
            total["statuses"][status] = total["statuses"].get(status, 0) + count
        for name, value in report.items():
            if isinstance(value, int) and not isinstance(value, bool):
                total[name] = total.get(name, 0) + value
    return totals
