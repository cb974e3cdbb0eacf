"""Sweep after sweep over the data: progress, figures of each, checkpoints, going on after an interruption."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from segue.core.model import Arrays, Recommender, Validate
from segue.core.run import Interrupted, Run

__all__ = ["sweeps"]

Told = Mapping[str, float]
"""What a sweep says of itself: ``loss`` and what else is known."""


def sweeps(
    count: int,
    once: Callable[[int], Told],
    run: Run,
    *,
    arrays: Callable[[], Arrays],
    restore: Callable[[Mapping[str, NDArray[Any]]], None],
    model: Recommender,
    validate: Validate | None = None,
    validate_every: int = 1,
    checkpoint_every: int = 1,
    show: Callable[[], None] = lambda: None,
) -> None:
    """Call ``once`` with 0, 1, ... ``count - 1``; after each, log what it tells and keep a checkpoint.

    A run that was stopped goes on after its last checkpoint, bit for bit if a sweep draws its random numbers from
    ``run.rng`` under a name of its own.

    Args:
        arrays: all that a later sweep needs.
        restore: takes it back.
        model: what ``validate`` measures.
        validate_every: sweeps between validations; the last is always validated.
        checkpoint_every: sweeps between checkpoints, where they are large; there is always one after the last.
        show: makes the model answer from what was learned so far; called before each validation and at the end.

    Raises:
        Interrupted: someone asked to stop; the checkpoint is written.
    """
    found = run.resume()
    begun = 0
    if found is not None:
        begun = int(found[0]["sweeps"])
        restore(found[1])
    with run.interruptible(), run.progress(count, type(model).__name__.lower(), "sweeps") as progress:
        progress(begun)
        for sweep in range(begun, count):
            start = time.monotonic()
            told = {**once(sweep), "seconds": time.monotonic() - start}
            if validate is not None and ((sweep + 1) % validate_every == 0 or sweep + 1 == count):
                start = time.monotonic()
                show()
                told |= {f"valid/{name}": value for name, value in validate(model).items()}
                told["validation_seconds"] = time.monotonic() - start
            run.log(sweep + 1, told)
            stopped = run.interrupted  # asked once: who stops finds a checkpoint
            if (sweep + 1) % checkpoint_every == 0 or sweep + 1 == count or stopped:
                run.checkpoint({"sweeps": sweep + 1}, arrays())
            progress(1, f"loss {told['loss']:.4f}" if "loss" in told else "")
            if stopped:
                raise Interrupted(f"stopped after sweep {sweep + 1} of {count}")
    show()
