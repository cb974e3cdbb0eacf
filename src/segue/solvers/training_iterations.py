"""Run the iterations of a solver: progress, metrics, checkpoints and resuming."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from segue.core.config import Settings
from segue.core.model import Recommender, StateArrays, Validate
from segue.core.model_arrays import explain_divergence
from segue.core.run import Interrupted, Run

__all__ = ["run_iterations"]

Metrics = Mapping[str, float]
"""Metrics of an iteration: ``loss`` and others."""


def run_iterations(
    n_iterations: int,
    step: Callable[[int], Metrics],
    run: Run,
    *,
    arrays: Callable[[], StateArrays],
    restore: Callable[[Mapping[str, NDArray[Any]]], None],
    model: Recommender,
    validate: Validate | None = None,
    validate_every: int = 1,
    checkpoint_every: int = 1,
    publish: Callable[[], None] = lambda: None,
    stop: Callable[[Metrics], bool] = lambda _: False,
) -> None:
    """Call ``step`` with 0, 1, ... ``n_iterations - 1``.

    Log its metrics and save checkpoints.

    An interrupted run resumes after its last checkpoint, bit-identically if each iteration draws its random numbers
    from ``run.rng`` under its own name.

    Args:
        arrays: returns the state that later iterations need.
        restore: restores that state.
        model: evaluated by ``validate``.
        validate_every: iterations between validations; the last iteration is always validated.
        checkpoint_every: iterations between checkpoints; there is always one after the last iteration.
        publish: updates the model from the current state; called before each validation and at the end.
        stop: whether an iteration with these metrics is the last one; called before its checkpoint.

    Raises:
        Interrupted: a stop was requested; the checkpoint is saved.
    """
    checkpoint = run.resume()
    first = 0
    if checkpoint is not None:
        first = int(checkpoint[0]["iterations"])
        restore(checkpoint[1])
    with run.interruptible(), run.progress(n_iterations, type(model).__name__.lower(), "iterations") as progress:
        progress(first)
        for iteration in range(first, n_iterations):
            start = time.monotonic()
            metrics = {**step(iteration), "seconds": time.monotonic() - start}
            if validate is not None and ((iteration + 1) % validate_every == 0 or iteration + 1 == n_iterations):
                start = time.monotonic()
                with explain_divergence(model, arrays, f"iteration {iteration + 1}", *_settings(model)):
                    publish()
                    metrics |= {f"valid/{name}": value for name, value in validate(model).items()}
                metrics["validation_seconds"] = time.monotonic() - start
            run.log(iteration + 1, metrics)
            is_last = stop(metrics) or iteration + 1 == n_iterations
            is_interrupted = run.interrupted  # read once, so that an interruption always saves a checkpoint
            if (iteration + 1) % checkpoint_every == 0 or is_last or is_interrupted:
                done = n_iterations if is_last else iteration + 1
                run.save_checkpoint({"iterations": done}, arrays())
            progress(1, f"loss {metrics['loss']:.4f}" if "loss" in metrics else "")
            if is_interrupted:
                raise Interrupted(
                    f"interrupted after iteration {iteration + 1} of {n_iterations}; the checkpoint is saved"
                )
            if is_last:
                break
    publish()


def _settings(model: Recommender) -> tuple[Settings, ...]:
    config = getattr(model, "config", None)
    return (config,) if isinstance(config, Settings) else ()
