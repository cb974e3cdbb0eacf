"""One run: its random streams, device, folder, checkpoint, history, progress and interruption.

Passed by hand to whoever trains; there is no global state.
"""

from __future__ import annotations

import json
import signal
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segue.core.files import load_arrays, read_json, save_arrays, settle, write_folder, write_json, write_text

__all__ = ["Interrupted", "Progress", "Run", "Track"]


class Interrupted(Exception):
    """Training stopped because someone asked; the checkpoint in the run's folder goes on from there."""


class Track(Protocol):
    """Somewhere to send numbers while training: TensorBoard, MLflow, ..."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of one step."""
        ...


class Progress(Protocol):
    """A progress bar."""

    def __call__(self, by: int, note: str = "") -> None:
        """Go on by ``by`` units and show ``note``."""
        ...


class Run:
    """What a training has at hand.

    Args:
        seed: every random stream follows from it and from the stream's name.
        folder: where checkpoints and history go; ``None`` keeps nothing.
        device: a torch device such as ``cpu`` or ``cuda:0``.
        trackers: each gets every logged value.
        show: whether progress is drawn on the terminal.
    """

    def __init__(
        self,
        seed: int = 0,
        folder: Path | None = None,
        device: str = "cpu",
        trackers: tuple[Track, ...] = (),
        show: bool = False,
    ) -> None:
        self.seed = seed
        self.folder = folder
        self.device = device
        self.trackers = trackers
        self.show = show
        self.interrupted = False

    def seed_of(self, name: str) -> int:
        """A 63-bit seed of its own for the stream ``name``."""
        stream = np.random.SeedSequence([self.seed, zlib.crc32(name.encode())])
        return int(stream.generate_state(1, np.uint64)[0] >> np.uint64(1))

    def rng(self, name: str) -> np.random.Generator:
        """The random stream ``name``, always from its beginning."""
        return np.random.default_rng(self.seed_of(name))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a line to ``history.jsonl`` and tell the trackers."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / "history.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        for track in self.trackers:
            track.log(step, values)

    def history(self) -> list[dict[str, float]]:
        """All lines logged so far."""
        path = None if self.folder is None else self.folder / "history.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path and path.exists() else []

    def checkpoint(self, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep ``facts`` (JSON) and ``arrays`` in one step, in the place of the last checkpoint."""
        if self.folder is None:
            return
        lines = len(self.history())
        with write_folder(self.folder / "checkpoint") as folder:
            save_arrays(folder / "arrays.safetensors", arrays)
            write_json(folder / "facts.json", {"seed": self.seed, "history_lines": lines, **facts})

    def resume(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
        """The last checkpoint, or ``None``; history after it is cut off, so that it is not told twice.

        Raises:
            ValueError: the checkpoint has another seed, or is broken.
        """
        if self.folder is None:
            return None
        settle(self.folder / "checkpoint")
        if not (self.folder / "checkpoint").exists():
            self._cut_history(0)
            return None
        facts = read_json(self.folder / "checkpoint" / "facts.json")
        if facts["seed"] != self.seed:
            raise ValueError(f"{self.folder}: its checkpoint has seed {facts['seed']}, this run has {self.seed}")
        self._cut_history(facts["history_lines"])
        return facts, load_arrays(self.folder / "checkpoint" / "arrays.safetensors")

    def _cut_history(self, lines: int) -> None:
        path = None if self.folder is None else self.folder / "history.jsonl"
        if path and path.exists():
            write_text(path, "".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:lines]))

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within: the first Ctrl-C or SIGTERM sets ``interrupted``, the second stops at once."""

        def ask(signum: int, frame: FrameType | None) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True

        before: dict[int, Any] = {}
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            try:
                before[number] = signal.signal(number, ask)
            except ValueError:  # not the main thread: nobody can press Ctrl-C here
                break
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def progress(self, total: int, title: str, unit: str = "items") -> Iterator[Progress]:
        """A bar of ``total`` units with rate and time left; silent when nothing is to be shown."""
        if not self.show:
            yield _silent
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
                bar.update(task, advance=by, note=note, rate=f"{speed:,.0f} {unit}/s" if speed else "")

            yield advance


def _silent(by: int, note: str = "") -> None:
    """Draw nothing."""
