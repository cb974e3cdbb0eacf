"""Predict the rows of requests by click-through models, without HTTP.

Predictions run in the one engine thread, as recommendations do: a request with few rows is a plain call, and one with
many rows runs in steps, between which other requests are answered. There is no fallback: a probability that no model
has computed would be wrong, so a request that cannot meet its deadline gets an error.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from segue.core.examples.click_model import ABOUT, ARRAYS, ClickModel
from segue.core.examples.columns import CellError
from segue.core.examples.unknown_values import UnknownValues
from segue.core.files import read_checked_json
from segue.core.model import ExampleModel
from segue.features.text.text_columns import with_text_columns
from segue.serving import schemas
from segue.serving.artifacts.artifact import convert_errors
from segue.serving.clicks.read_rows import check_columns, rows_to_frame, unread_columns
from segue.serving.errors import describe_value
from segue.serving.monitoring.metrics import Metrics
from segue.serving.scheduling.engine_scheduler import Outputs
from segue.serving.scheduling.steps import Steps, StepTimer
from segue.serving.settings import ServingSettings

__all__ = [
    "STEP_ROWS",
    "ClickService",
    "DeadlineMissed",
    "InvalidRows",
    "Job",
    "LoadedClickModel",
    "PredictJob",
    "load_click_model",
]

logger = logging.getLogger("segue.serving")

STEP_ROWS = 256
"""Rows that are predicted in one step."""

MAX_NOTES = 20
"""Notes of a response at most."""


class InvalidRows(ValueError):
    """Rows that cannot be predicted: the invalid ``field`` and the ``reason``."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field, self.reason = field, reason


class DeadlineMissed(Exception):
    """The deadline of a request passed before its rows were predicted."""


@dataclass(frozen=True, eq=False)
class LoadedClickModel:
    """A click-through model that is ready to predict."""

    model: ClickModel
    info: schemas.ModelInfo

    @cached_property
    def known_columns(self) -> frozenset[str]:
        """Columns of the training, those that were left out included."""
        columns = (self.model.metadata or {}).get("columns", ())
        encoder = self.model.encoder
        names = {encoder.label, encoder.user or "", *(column.name for column in encoder.columns)}
        return frozenset(names | {str(column["column"]) for column in columns})


def load_click_model(folder: Path) -> LoadedClickModel:
    """Read a model that ``segue clicks train`` or ``save`` wrote.

    Its name is that of the folder of its training.

    Raises:
        ValueError: a file is missing, modified or malformed, or a text encoder is not available.
    """
    with convert_errors(folder):
        model = with_text_columns(ClickModel.load(folder))
        if (set_eval_mode := getattr(model.model, "eval", None)) is not None:
            set_eval_mode()
        version = read_checked_json(folder / ABOUT)["sha256"][ARRAYS][:12]
    folder = folder.resolve()
    name = folder.parent.name if folder.name == "model" else folder.name
    return LoadedClickModel(model, schemas.ModelInfo(name=name, key=model.key, version=version, engine="native"))


@dataclass(frozen=True, eq=False)
class PredictJob:
    """Rows to predict, until a monotonic time."""

    model: LoadedClickModel
    rows: Sequence[Mapping[str, Any]]
    deadline: float


Job: TypeAlias = PredictJob | Callable[[], Steps[Any]]
"""Work for the engine thread: rows to predict, or a large body to parse."""


class ClickService:
    """Answers requests for predictions.

    Args:
        models: at least one; the first one answers requests that name no model.

    Raises:
        ValueError: two models have the same name.
    """

    def __init__(self, models: Sequence[LoadedClickModel], settings: ServingSettings, metrics: Metrics) -> None:
        self.settings, self.metrics = settings, metrics
        self.models = {one.info.name: one for one in models}
        if len(self.models) < len(models):
            names = [one.info.name for one in models]
            raise ValueError(f"models: got {', '.join(names)}, expected different names; rename a folder")
        for at, one in enumerate(models):
            metrics.set_model(one.info.name, one.info.key, one.info.version, at == 0)

    @property
    def default(self) -> LoadedClickModel:
        """The model of requests that name none."""
        return next(iter(self.models.values()))

    def run_jobs(self, jobs: Sequence[Job], max_rows: int) -> Outputs:
        """Yield the result of each job, or its exception, in steps; not thread-safe.

        Args:
            max_rows: not used; requests are predicted one by one, so that a result does not depend on other requests.
        """
        for index, job in enumerate(jobs):
            result: Any
            try:
                result = yield from self.predict_in_steps(job) if isinstance(job, PredictJob) else job()
            except Exception as error:
                result = error
            yield [(index, result)]

    def predict_in_steps(self, job: PredictJob) -> Steps[schemas.PredictResponse]:
        """Return the predictions of the rows of a request.

        Raises:
            InvalidRows: a column is missing, or a cell does not fit its column; names the row and the column.
            DeadlineMissed: the deadline passed before the last step.
        """
        trained, info = job.model.model, job.model.info
        assert isinstance(trained.model, ExampleModel)
        try:
            check_columns(job.rows, trained.encoder)
        except ValueError as error:
            raise InvalidRows("rows", str(error)) from None
        unknown, timer = UnknownValues(trained.encoder), StepTimer()
        probabilities: list[float] = []
        for start in range(0, len(job.rows), STEP_ROWS):
            if time.monotonic() > job.deadline:
                self.metrics.record_deadline_miss()
                raise DeadlineMissed
            probabilities += yield from timer.run(self._predict_step(job, start, unknown))
            yield
        self.metrics.record_engine_run(info.engine, info.name, timer.seconds, len(job.rows))
        notes = unknown.notes()
        for name in unread_columns(job.rows, job.model.known_columns):
            notes.append(f"column '{name[:64]}' is not in the training data and is ignored")
        return schemas.PredictResponse(
            probabilities=probabilities,
            predictions=[probability >= trained.threshold for probability in probabilities],
            model=info,
            notes=notes[:MAX_NOTES],
        )

    def _predict_step(self, job: PredictJob, start: int, unknown: UnknownValues) -> Steps[list[float]]:
        """Return the probabilities of the rows of one step."""
        trained, rows = job.model.model, job.rows[start : start + STEP_ROWS]
        assert isinstance(trained.model, ExampleModel)
        try:
            frame = rows_to_frame(rows, trained.encoder, start)
        except CellError as error:
            raise InvalidRows(f"rows[{error.row}].{error.column}", error.problem) from None
        try:
            examples = trained.encoder.encode(frame, needs_labels=False)
        except CellError as error:
            # the message of the encoder has the cell, which may identify a person
            expected = error.problem.rpartition(", expected ")[2]
            got = describe_value(rows[error.row].get(error.column))
            raise InvalidRows(f"rows[{start + error.row}].{error.column}", f"expected {expected}, got {got}") from None
        unknown.update(frame, examples)
        yield
        logits_T = trained.model.predict_logits(examples)
        found: list[float] = trained.probabilities(logits_T).tolist()
        return found
