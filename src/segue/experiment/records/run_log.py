"""Write everything that a run reports to ``train.log``."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["TRAIN_LOG", "EpochLog", "RunLog"]

TRAIN_LOG = "train.log"
"""File of a run with one line per message."""


class RunLog:
    """Appends messages to ``train.log`` and passes them on.

    Within its context the file also gets warnings and the error that ends the run.

    Args:
        folder: of the run; a resumed run continues its file.
        log: receives every message too.
    """

    def __init__(self, folder: Path, log: Callable[[str], None]) -> None:
        self._path, self._log, self._lock = folder / TRAIN_LOG, log, threading.Lock()
        self._catch = warnings.catch_warnings()

    def __call__(self, text: str) -> None:
        """Report a message."""
        self.write(text)
        self._log(text)

    def write(self, text: str) -> None:
        """Write a message to the file only.

        Nothing is written before the folder exists, or where the file cannot be written.
        """
        line = f"{datetime.now(UTC).isoformat(timespec='seconds')} {text.strip()}\n"
        with self._lock, suppress(OSError), self._path.open("a", encoding="utf-8") as file:
            file.write(line)

    def __enter__(self) -> Self:
        """Begin to record warnings."""
        self._catch.__enter__()
        show = warnings.showwarning

        def record(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> None:
            self.write(f"warning: {message}")
            show(message, category, *args, **kwargs)

        warnings.showwarning = record
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Record the error that ended the run, if there is one."""
        self._catch.__exit__(kind, error, trace)
        if kind is not None:
            self.write(f"{kind.__name__}: {error}")


@dataclass(frozen=True)
class EpochLog:
    """Tracker that reports one line per epoch."""

    write: Callable[[str], None]
    metric: str

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Report loss, validation metric and resources of an epoch."""
        keys = {"loss": "loss", self.metric: f"valid/{self.metric}"}
        found = [f"{name} {values[key]:.4f}" for name, key in keys.items() if key in values]
        if not found:
            return
        if (rate := values.get("targets_per_second")) is not None:
            found.append(f"{rate:,.0f} targets/s")
        readings = {
            "cpu_percent": "CPU {:.0f} %",
            "device_percent": "GPU {:.0f} %",
            "device_power_watts": "{:.0f} W",
        }
        for name, text in readings.items():
            if (value := values.get(f"monitor/{name}")) is not None:
                found.append(text.format(value))
        self.write(f"epoch {step}: {', '.join(found)}")
