"""Write a run as TensorBoard events."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segue.training.trackers.addresses import TrackerAddress
from segue.training.trackers.client import (
    RunDescription,
    RunResults,
    StartedRun,
    Status,
    check_folder,
    to_markdown,
)

__all__ = ["TensorBoard"]

SHOWN_PREDICTIONS = 20
"""Queries whose predictions are shown as text."""


class TensorBoard:
    """Tracker that writes TensorBoard events; needs the extra ``track``.

    Metrics are scalars, settings are hyperparameters, and the model card and predictions are texts. Files are not
    copied: TensorBoard has no place for them, and they are in the run's folder.

    Args:
        folder: where events are written if the address names no folder.

    Raises:
        ValueError: TensorBoard is not installed, or the folder of the address is not writable.
    """

    def __init__(self, address: TrackerAddress, folder: Path) -> None:
        try:
            import tensorboard.summary.writer.event_file_writer as writer
        except ImportError:
            raise ValueError("TensorBoard is not installed: pip install 'segue[track]'") from None
        self.name = str(address)
        if address.place:
            check_folder(Path(address.place).expanduser(), self.name)
        self._open, self._root, self._folder, self._step = writer.EventFileWriter, address.place, folder, 0
        self._writer: Any = None

    def start(self, about: RunDescription, run_id: str | None) -> StartedRun:
        """Open a file of events, and write the settings."""
        from tensorboard.plugins.hparams import summary_v2

        folder = Path(self._root).expanduser() / about.name if self._root else self._folder
        self._writer = self._open(str(folder))
        simple = {
            name: value if isinstance(value, bool | int | float) else str(value)
            for name, value in about.parameters.items()
        }
        self._add(summary_v2.hparams_pb(simple, trial_id=about.name))
        self._add_text("parameters", to_markdown(("setting", "value"), list(simple.items())))
        self._add_text("run", to_markdown(("name", "value"), list(about.tags.items())))
        self._writer.flush()
        return StartedRun(None)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add one scalar per value."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._step = max(step, self._step)
        self._add(Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()]), step)
        self._writer.flush()

    def log_results(self, results: RunResults) -> None:
        """Add final metrics, figures, the model card and some predictions."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self.log(self._step, results.metrics)
        self._add_text("model card", results.card)
        for name, path in results.figures.items():
            png = path.read_bytes()
            width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
            image = Summary.Image(encoded_image_string=png, width=width, height=height, colorspace=4)
            self._add(Summary(value=[Summary.Value(tag=name, image=image)]))
        if results.predictions is not None:
            shown = results.predictions.rows[:SHOWN_PREDICTIONS]
            self._add_text("predictions", to_markdown(results.predictions.columns, shown))
        self._writer.flush()

    def finish(self, status: Status) -> None:
        """Close the file."""
        self._writer.close()

    def abandon(self) -> None:
        """Do nothing: no process waits for the file."""

    def _add_text(self, tag: str, text: str) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING
        from tensorboard.plugins.text import metadata

        tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()], tensor_shape=TensorShapeProto())
        about = metadata.create_summary_metadata(tag, "")
        self._add(Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=tensor)]))

    def _add(self, summary: Any, step: int | None = None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=time.time(), step=self._step if step is None else step, summary=summary))
