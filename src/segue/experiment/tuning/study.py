"""Run the trials of one model as a study of Optuna, which is stored in a database.

The random choices of a trial follow from the seed and from the trials before it, so an interrupted study continues as
if it had not been interrupted. Several processes can work on a study in the same database.
"""

from __future__ import annotations

import os
import socket
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from segue.core.config import Choices, Search
from segue.core.messages import hide_passwords
from segue.experiment.tuning.space import Space
from segue.experiment.tuning.trial import Trial
from segue.experiment.tuning.validation import Report

if TYPE_CHECKING:
    import optuna

__all__ = ["StoredTrial", "Study", "open_study", "storage_address"]

HEARTBEAT = 30
"""Seconds between two signs of life of a worker."""

GRACE = 120
"""Seconds without a sign of life after which a trial counts as interrupted."""

RANDOM_TRIALS = 5
"""Trials with random values before values are chosen by the results so far."""

DAMAGED = (LookupError, TypeError, ValueError)
"""Errors when damaged trials are read."""

Objective = Callable[[Mapping[str, Any] | None, Report], Trial]
"""Trains with values by setting, or with the settings that tuning starts from (``None``)."""


class _SurplusTrialError(Exception):
    """Another worker has started the last trial at the same time."""


class _OutOfTimeError(Exception):
    """The time was over before the first validation of a trial."""


@dataclass(frozen=True)
class StoredTrial:
    """A finished trial of a study."""

    number: int
    """Position in the study, from 0: the settings that tuning starts from."""
    values: Mapping[str, Any] | None
    """Values by setting; ``None`` for the settings that tuning starts from."""
    state: str
    """``complete``, ``stopped`` (the time was over), ``pruned`` or ``failed``."""
    mean: float | None
    """The validation metric; ``None`` if the trial was never validated."""
    low: float | None
    high: float | None
    seconds: float
    epochs: int | None
    best_epoch: int | None
    error: str | None


OUTCOME = TypeAdapter(StoredTrial)
"""Checks what is stored of a trial."""


def storage_address(storage: str | None, folder: Path) -> str:
    """Return the address of the database of a study as SQLAlchemy reads it.

    Args:
        storage: ``sqlite:///FILE`` or ``postgresql://...``; ``None``: a file in ``folder``.

    Raises:
        ValueError: another kind of address.
    """
    if storage is None:
        folder.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{(folder / 'study.db').resolve()}"
    kind, separator, rest = storage.partition("://")
    if separator and kind in ("postgresql", "postgres"):
        return f"postgresql+psycopg://{rest}"
    if separator and kind == "sqlite" and len(rest) > 1:
        return storage
    shown = f"{kind}://..." if separator else storage  # the rest may have a password
    raise ValueError(f"storage: got '{shown}', expected sqlite:///FILE or postgresql://USER@HOST/DATABASE")


def open_study(
    address: str | None, name: str, lower_is_better: bool, seed: int, space: Space, start: Mapping[str, Any]
) -> Study:
    """Open a study, or create it.

    Args:
        address: of the database; ``None``: the study is kept in memory.
        start: values by setting that tuning starts from, for the settings of the space.

    Raises:
        ValueError: Optuna is not installed, or the database cannot be opened or has other content than trials.
    """
    try:
        import optuna
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import SQLAlchemyError
        from sqlalchemy.pool import NullPool
    except ImportError:
        raise ValueError("tuning needs Optuna, which is not installed: pip install 'segue[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = (
                None
                if address is None
                else optuna.storages.RDBStorage(
                    address,
                    engine_kwargs={"poolclass": NullPool},  # no connection stays open
                    heartbeat_interval=HEARTBEAT,
                    grace_period=GRACE,
                )
            )
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            direction="minimize" if lower_is_better else "maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2),
            load_if_exists=True,
        )
        found = Study(study, seed, space, start, address)
        found.fail_interrupted()
        _ = found.trials  # damaged ones are an error before anything is trained
    except (SQLAlchemyError, StorageInternalError, ImportError, RuntimeError, *DAMAGED) as error:
        raise _explain(address, error) from None
    return found


def _explain(address: str | None, error: Exception) -> ValueError:
    """Return the error that says which database cannot be used, why, and what to do."""
    cause = (error.__cause__ if type(error).__name__ == "StorageInternalError" else None) or error
    reason = (str(cause) or type(cause).__name__).splitlines()[0]
    if isinstance(error, DAMAGED):
        reason = f"a trial in it is damaged ({reason})"
    return ValueError(
        f"storage: cannot use the database {_describe_place(address)}: {reason}; {_advise(address)}, or name another "
        "database or folder"
    )


def _describe_place(address: str | None) -> str:
    return "in memory" if address is None else hide_passwords(address.removeprefix("sqlite:///"))


def _advise(address: str | None) -> str:
    is_file = address is not None and address.startswith("sqlite:///")
    return "restore the file from a copy, or delete it to begin again" if is_file else "check the server and its tables"


class Study:
    """The trials of one model on one split."""

    def __init__(
        self, study: optuna.Study, seed: int, space: Space, start: Mapping[str, Any], address: str | None = None
    ) -> None:
        self._study, self.seed, self.space, self.start, self._address = study, seed, space, start, address

    def fail_interrupted(self) -> None:
        """Mark running trials as failed whose process has ended; they are repeated.

        Those of other machines are marked by Optuna when they give no sign of life.
        """
        from optuna.trial import TrialState

        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            host, _, process = str(trial.user_attrs.get("worker", "")).rpartition(":")
            if host == socket.gethostname() and not _is_alive(int(process)):
                self._study.tell(trial.number, state=TrialState.FAIL)

    @property
    def trials(self) -> list[StoredTrial]:
        """The finished trials in the order in which they began, without interrupted ones."""
        return [_read_trial(number, trial) for number, trial in enumerate(self._counted()) if trial.state.is_finished()]

    @property
    def n_running(self) -> int:
        """Number of trials that are running now, of all workers."""
        return sum(not trial.state.is_finished() for trial in self._counted())

    def _counted(self) -> list[optuna.trial.FrozenTrial]:
        from optuna.exceptions import StorageInternalError
        from optuna.trial import TrialState
        from sqlalchemy.exc import SQLAlchemyError

        try:
            every = self._study.get_trials(deepcopy=False)
        except (SQLAlchemyError, StorageInternalError) as error:
            raise _explain(self._address, error) from None
        return [trial for trial in every if trial.state is not TrialState.FAIL]

    def run_trial(self, objective: Objective, n_trials: int) -> bool:
        """Run one trial, unless the study has ``n_trials`` already.

        Returns:
            Whether there may be further trials.

        Raises:
            Interrupted: the user asked to stop; the trial is marked as failed, and will be repeated.
            ValueError: the settings that tuning starts from cannot be trained, or the database cannot be used.
        """
        import optuna
        from sqlalchemy.exc import SQLAlchemyError

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            try:
                self._study.optimize(lambda trial: self._run(trial, objective, n_trials), n_trials=1)
            except (_SurplusTrialError, _OutOfTimeError):
                return False
            except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
                raise _explain(self._address, error) from None
        return True

    def _run(self, trial: optuna.Trial, objective: Objective, n_trials: int) -> float:
        import optuna

        trial.set_user_attr("worker", f"{socket.gethostname()}:{os.getpid()}")
        number = sum(one.number < trial.number for one in self._counted())
        if number >= n_trials:
            raise _SurplusTrialError
        values = self._suggest(trial, number)

        def report(epoch: int, value: float) -> bool:
            trial.report(value, epoch)
            return number > 0 and trial.should_prune()

        found = objective(values, report)
        if found.estimate is None and found.state in ("paused", "stopped"):
            raise _OutOfTimeError
        if found.state == "failed" and number == 0:
            raise ValueError(str(found.error))
        state = "stopped" if found.state == "paused" else found.state
        estimate = found.estimate
        mean, low, high = (None, None, None) if estimate is None else (estimate.mean, estimate.low, estimate.high)
        outcome = StoredTrial(
            number, values, state, mean, low, high, found.seconds, found.epochs, found.best_epoch, found.error
        )
        trial.set_user_attr("outcome", asdict(outcome))
        if estimate is None or state in ("pruned", "failed"):
            raise optuna.TrialPruned
        return estimate.mean

    def _suggest(self, trial: optuna.Trial, number: int) -> dict[str, Any] | None:
        """Choose the values of a trial by the results of the trials before it.

        The first trial has the settings that tuning starts from. Those within the space are stored as its values, and
        ``None`` is returned.
        """
        from optuna.samplers import PartialFixedSampler, TPESampler

        stream = np.random.SeedSequence([self.seed, number, zlib.crc32(self._study.study_name.encode())])
        self._study.sampler = TPESampler(n_startup_trials=RANDOM_TRIALS, seed=int(stream.generate_state(1)[0]))
        known = {name: value for name, value in self.start.items() if value in self.space[name]}
        if number == 0:
            self._study.sampler = PartialFixedSampler(known, self._study.sampler)
        found: dict[str, Any] = {}
        for name, one in self.space.items():
            if number == 0 and name not in known:
                continue
            if isinstance(one, Choices):
                found[name] = trial.suggest_categorical(name, list(one.values))
            elif isinstance(one.low, int) and isinstance(one.high, int):
                found[name] = trial.suggest_int(name, one.low, one.high, log=one.log)
            else:
                found[name] = _rounded(trial.suggest_float(name, one.low, one.high, log=one.log), one)
        return found if number else None

    def importances(self) -> dict[str, float]:
        """Return how much of the variation of the metric each setting explains.

        Nothing is returned for few trials.
        """
        import optuna
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

        if len([one for one in self.trials if one.values is not None and one.state != "failed"]) < 2 * RANDOM_TRIALS:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = get_param_importances(self._study, evaluator=PedAnovaImportanceEvaluator())
            except (ValueError, RuntimeError, optuna.exceptions.OptunaError):
                return {}
        return {name: float(value) for name, value in found.items()}


def _rounded(value: float, one: Search) -> float:
    """Round to three digits, so that a recipe can be read; within the range."""
    return min(max(float(f"{value:.3g}"), one.low), one.high)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _read_trial(number: int, trial: optuna.trial.FrozenTrial) -> StoredTrial:
    """Return a finished trial.

    Raises:
        ValueError: what is stored of it is damaged.
    """
    try:
        return OUTCOME.validate_python({**trial.user_attrs["outcome"], "number": number})
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"trial {number}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (KeyError, TypeError):
        raise ValueError(f"trial {number}: no outcome") from None
