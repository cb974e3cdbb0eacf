"""Send a run to Weights & Biases, or keep it on disk for ``wandb sync``."""

from __future__ import annotations

import netrc
import os
import secrets
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from segue.core.messages import hide_passwords
from segue.training.trackers.addresses import TrackerAddress
from segue.training.trackers.client import (
    RunDescription,
    RunResults,
    StartedRun,
    Status,
    check_folder,
    plain_name,
)

__all__ = ["WandbTracker"]

PROJECT = "segue"
"""Project of runs whose address names none, without ``WANDB_PROJECT``."""

EXIT_CODES: Mapping[Status, int] = {"finished": 0, "failed": 1, "interrupted": 130}
SERVICE = "wandb-core"
"""Name of the process that the client starts."""


TEARDOWN_SECONDS = 1.0
"""Time to remove the client's hooks after its process has ended."""


class WandbTracker:
    """Tracker that sends a run to Weights & Biases; needs the extra ``track``.

    ``WANDB_MODE``, ``WANDB_PROJECT``, ``WANDB_ENTITY``, ``WANDB_DIR``, ``WANDB_BASE_URL`` and ``WANDB_API_KEY`` apply.

    Raises:
        ValueError: the client is not installed, it would ask for an API key, or its folder is not writable.
    """

    def __init__(self, address: TrackerAddress) -> None:
        try:
            import wandb
        except ImportError:
            raise ValueError("Weights & Biases is not installed: pip install 'segue[track]'") from None
        self._wandb, self.name = wandb, str(address)
        entity, _, project = address.place.rpartition("/")
        self._entity, self._project = entity or None, project or os.environ.get("WANDB_PROJECT") or PROJECT
        self._mode: Any = address.mode or os.environ.get("WANDB_MODE") or "online"
        if self._mode == "online" and not _has_credentials():
            raise ValueError(
                f"{self.name}: found no API key, expected WANDB_API_KEY or the result of 'wandb login'; or use "
                "wandb:PROJECT?mode=offline"
            )
        self._folder = Path(os.environ.get("WANDB_DIR") or ".")
        if self._mode != "disabled":
            check_folder(self._folder, self.name)
        self._run: Any = None
        self._services_before: set[int] = set()

    def start(self, about: RunDescription, run_id: str | None) -> StartedRun:
        """Begin or continue a run."""
        self._services_before = _services()
        is_secret = any(hide_passwords(argument) != argument for argument in sys.argv)
        settings = self._wandb.Settings(console="off", silent=True, x_disable_meta=is_secret)
        self._run = self._wandb.init(
            project=self._project,
            entity=self._entity,
            mode=self._mode,
            dir=str(self._folder),
            id=run_id or secrets.token_hex(4),
            resume=None if self._mode == "offline" else "allow",
            name=about.name,
            settings=settings,
        )
        self._run.config.update({**about.parameters, **about.tags}, allow_val_change=True)
        place = self._run.url if self._mode == "online" else f"stored in {self._run.settings.sync_dir}"
        return StartedRun(str(self._run.id), place)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values of one step."""
        self._run.log({plain_name(name): value for name, value in values.items()}, step=step)

    def log_results(self, results: RunResults) -> None:
        """Log final metrics, figures, the model card, predictions and files.

        They become the summary, media, a table and an artifact.
        """
        media: dict[str, Any] = {}
        for name, path in results.figures.items():
            media[f"figures/{name}"] = self._wandb.Image(str(path))
        if results.predictions is not None:
            rows: Any = [list(row) for row in results.predictions.rows]
            media["predictions"] = self._wandb.Table(columns=list(results.predictions.columns), data=rows)
        media["card"] = self._wandb.Html(f"<pre>{_escape(results.card)}</pre>", inject=False)
        self._run.log(media)
        self._run.summary.update({plain_name(name): value for name, value in results.metrics.items()})
        artifact = self._wandb.Artifact(f"run-{self._run.id}", type="segue-run")
        for name, path in results.files.items():
            artifact.add_file(str(path), name=name)
        self._run.log_artifact(artifact)

    def finish(self, status: Status) -> None:
        """End the run, and wait until it is sent."""
        self._run.finish(exit_code=EXIT_CODES[status])

    def abandon(self) -> None:
        """End the client's own process.

        Python would otherwise wait for it at exit, until it gives up. What it has not sent stays on disk, for
        ``wandb sync``.
        """
        for pid in _services() - self._services_before:
            with suppress(psutil.Error):
                psutil.Process(pid).kill()
        thread = threading.Thread(target=self._tear_down, daemon=True)
        thread.start()
        thread.join(TEARDOWN_SECONDS)

    def _tear_down(self) -> None:
        """Remove what the client has registered for the exit of Python."""
        with suppress(Exception):  # the connection to the process is lost
            self._wandb.teardown(exit_code=1)


def _services() -> set[int]:
    """Return the processes that the client has started in this process."""
    found = set[int]()
    with suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if SERVICE in child.name():
                    found.add(child.pid)
    return found


def _has_credentials() -> bool:
    """Return whether the client can log in without a prompt."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    places = [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]
    for path in (Path(place).expanduser() for place in places if place):
        with suppress(OSError, netrc.NetrcParseError):
            if host in netrc.netrc(str(path)).hosts:
                return True
    return False


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
