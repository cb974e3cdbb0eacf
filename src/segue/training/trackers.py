"""Where numbers go while training, beside the run's own history."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["TensorBoard"]


class TensorBoard:
    """TensorBoard events in ``folder``; needs the extra ``track``."""

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.summary import Writer
        except ImportError:
            raise ValueError("TensorBoard is not installed: pip install 'segue[track]'") from None
        self._writer = Writer(str(folder))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add one scalar per value."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()
