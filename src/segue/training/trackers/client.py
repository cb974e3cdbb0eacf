"""Define what a tracking tool receives of a run."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

__all__ = [
    "PredictionRows",
    "RunDescription",
    "RunResults",
    "StartedRun",
    "TrackerClient",
    "check_folder",
    "plain_name",
    "to_markdown",
]

Status = Literal["finished", "failed", "interrupted"]


@dataclass(frozen=True)
class RunDescription:
    """What is known of a run before training."""

    name: str
    folder: Path
    parameters: Mapping[str, Any]
    """Settings such as ``model.embedding_dim``."""
    tags: Mapping[str, str]
    """Facts such as model, data, version and command."""


@dataclass(frozen=True)
class PredictionRows:
    """Predictions as text: one row per query."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class RunResults:
    """What is known of a run after training and evaluation."""

    metrics: Mapping[str, float]
    """Final metrics such as ``final/valid/ndcg@10``."""
    card: str
    """Model card as Markdown."""
    figures: Mapping[str, Path] = field(default_factory=dict)
    """PNG files by name."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """Files by their path within the run's folder."""
    predictions: PredictionRows | None = None


@dataclass(frozen=True)
class StartedRun:
    """A run that a tracking tool has begun or continued."""

    run_id: str | None
    """Identifies the run in the tool, to continue it; ``None``: it needs none."""
    url: str | None = None
    """Address where the run can be seen."""


def check_folder(folder: Path, tracker: str) -> None:
    """Create the folder of a tracker, and check that files can be written to it.

    Raises:
        ValueError: they cannot; the message names the tracker.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror or str(error)
        raise ValueError(f"{tracker}: cannot write to {folder}: {reason}; expected a writable folder") from None


class TrackerClient(Protocol):
    """The client of one tracking tool.

    Every method but ``abandon`` is called in the same background thread, and may raise anything.
    """

    name: str
    """The address without passwords."""

    def start(self, about: RunDescription, run_id: str | None) -> StartedRun:
        """Begin a run, or continue the run ``run_id``."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the metrics of one step."""
        ...

    def log_results(self, results: RunResults) -> None:
        """Log final metrics, figures, files, predictions and the model card."""
        ...

    def finish(self, status: Status) -> None:
        """End the run, and send what is not sent yet."""
        ...

    def abandon(self) -> None:
        """Give up the connection.

        Called in the main thread while another call may be blocked.
        """
        ...


def plain_name(metric: str) -> str:
    """Return a metric's name in letters that every tool allows.

    ``ndcg@10`` is ``ndcg_at_10``.
    """
    return re.sub(r"[^\w./-]", "_", metric.replace("@", "_at_"))


def to_markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Format a table as Markdown."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [list(columns), ["---"] * len(columns), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
