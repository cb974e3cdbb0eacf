"""Provide the context of one training run.

The context holds random streams, device, folder, checkpoints, history, progress and interruption. It is passed
explicitly to the code that trains; there is no global state.
"""

from __future__ import annotations

import json
import signal
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from segue.core.files import (
    atomic_folder,
    find_damage,
    load_arrays,
    read_checked_json,
    recover_interrupted_write,
    save_arrays,
    sha256,
    write_checked_json,
    write_text,
)

__all__ = ["Interrupted", "Progress", "ResourceMonitor", "Run", "Tracker"]

ARRAYS = "arrays.safetensors"
"""File of a checkpoint's arrays."""


TrainPart: TypeAlias = Callable[[str, Mapping[str, Any], Any, "Run", Any], Any]
"""Returns a trained model: ``train_part(key, settings, data, run, validate)``."""


class Interrupted(Exception):
    """Training was interrupted.

    It can be resumed from the checkpoint in the run's folder.
    """


class Tracker(Protocol):
    """Receiver of training metrics: TensorBoard, MLflow, ..."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record the values of one step."""
        ...


class ResourceMonitor(Protocol):
    """Measurements of the device and the process during training."""

    def collect(self, values: Mapping[str, float]) -> Mapping[str, float]:
        """Return the measurements since the last call, for the history.

        Args:
            values: what training logs for the same step.
        """
        ...

    def describe(self) -> str:
        """Describe the last measurement in a few words, for the progress bar."""
        ...

    def record_flops(self, per_step: float, per_target: float) -> None:
        """Record the operations of training per optimizer step and per target."""
        ...


class Progress(Protocol):
    """Callback that advances a progress bar."""

    def __call__(self, by: int, note: str = "") -> None:
        """Advance by ``by`` units and show ``note``."""
        ...


class Run:
    """The context of one training run.

    Args:
        seed: determines all random streams, together with their names.
        folder: where checkpoints and history are stored; ``None``: nowhere.
        device: a torch device such as ``cpu`` or ``cuda:0``.
        trackers: receive every logged value.
        show_progress: whether to draw progress bars on the terminal.
        monitor: measures the resources that training uses; ``None``: nothing does.
    """

    def __init__(
        self,
        seed: int = 0,
        folder: Path | None = None,
        device: str = "cpu",
        trackers: tuple[Tracker, ...] = (),
        show_progress: bool = False,
        monitor: ResourceMonitor | None = None,
    ) -> None:
        self.seed = seed
        self.folder = folder
        self.device = device
        self.trackers = trackers
        self.show_progress = show_progress
        self.monitor = monitor
        self.interrupted = False
        self._train_part: TrainPart | None = None

    def set_trainer(self, train_part: TrainPart) -> None:
        """Set the function that trains the parts of a model."""
        self._train_part = train_part

    def train_part(self, key: str, settings: Mapping[str, Any], data: Any, validate: Any, name: str) -> Any:
        """Train a model that is a part of another one, and return it.

        The result is that of training it alone with the same seed.

        Args:
            key: key of the model.
            settings: those of the model and those of its training, by name.
            data: a :class:`segue.core.types.Dataset`.
            validate: a :data:`segue.core.model.Validate`, or ``None``.
            name: unique name of the part; the folder of its checkpoints, within that of this run.

        Raises:
            ValueError: unknown settings, or data that the model cannot be trained on.
        """
        assert self._train_part is not None, "segue.training.train sets it"
        part = Run(self.seed, None if self.folder is None else self.folder / name, self.device, (), self.show_progress)
        return self._train_part(key, settings, data, part, validate)

    def derive_seed(self, name: str) -> int:
        """Derive a 63-bit seed for the stream ``name``."""
        stream = np.random.SeedSequence([self.seed, zlib.crc32(name.encode())])
        return int(stream.generate_state(1, np.uint64)[0] >> np.uint64(1))

    def rng(self, name: str) -> np.random.Generator:
        """Create the random stream ``name``, from its beginning."""
        return np.random.default_rng(self.derive_seed(name))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append a line to ``history.jsonl`` and send it to the trackers.

        The line also has the measurements of the monitor.
        """
        if self.monitor is not None:
            values = {**values, **self.monitor.collect(values)}
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / "history.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        for tracker in self.trackers:
            tracker.log(step, values)

    def history(self) -> list[dict[str, float]]:
        """Return all lines logged so far."""
        path = None if self.folder is None else self.folder / "history.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path and path.exists() else []

    def save_checkpoint(self, metadata: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Replace the checkpoint with ``metadata`` (JSON) and ``arrays``, atomically."""
        if self.folder is None:
            return
        lines = len(self.history())
        with atomic_folder(self.folder / "checkpoint") as folder:
            save_arrays(folder / ARRAYS, arrays)
            hashes = {ARRAYS: sha256(folder / ARRAYS)}
            about = {"seed": self.seed, "history_lines": lines, "sha256": hashes, **metadata}
            write_checked_json(folder / "metadata.json", about)

    def resume(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
        """Load the last checkpoint, or return ``None``.

        The history after the checkpoint is removed, because it will be logged again.

        Raises:
            ValueError: the checkpoint has another seed, or is broken.
        """
        if self.folder is None:
            return None
        recover_interrupted_write(self.folder / "checkpoint")
        if not (self.folder / "checkpoint").exists():
            self._truncate_history(0)
            return None
        folder = self.folder / "checkpoint"
        metadata = read_checked_json(folder / "metadata.json")
        if errors := find_damage(folder, metadata.get("sha256", {ARRAYS: ""})):
            raise ValueError("\n".join(errors))
        if metadata["seed"] != self.seed:
            raise ValueError(f"{self.folder}: its checkpoint has seed {metadata['seed']}, this run has {self.seed}")
        self._truncate_history(metadata["history_lines"])
        return metadata, load_arrays(folder / ARRAYS)

    def _truncate_history(self, lines: int) -> None:
        path = None if self.folder is None else self.folder / "history.jsonl"
        if path and path.exists():
            write_text(path, "".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:lines]))

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Handle Ctrl-C and SIGTERM within the context.

        The first signal sets ``interrupted``, and the second raises KeyboardInterrupt.
        """

        def interrupt(signum: int, frame: FrameType | None) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True

        before: dict[int, Any] = {}
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            try:
                before[number] = signal.signal(number, interrupt)
            except ValueError:  # not the main thread: signals cannot be handled here
                break
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def progress(self, total: int, title: str, unit: str = "items") -> Iterator[Progress]:
        """Show a progress bar of ``total`` units, if progress is shown at all.

        The bar has the rate and the remaining time.
        """
        if not self.show_progress:
            yield _no_progress
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Bar(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=total, note="", rate="")

            def advance(by: int, note: str = "") -> None:
                speed = bar.tasks[0].speed
                if self.monitor is not None:
                    note = f"{note} {self.monitor.describe()}"
                bar.update(task, advance=by, note=note, rate=f"{speed:,.0f} {unit}/s" if speed else "")

            yield advance


def _no_progress(by: int, note: str = "") -> None:
    """Do nothing."""
