"""A model that was trained on labeled examples, and the folder that stores it.

The folder contains ``examples.json`` (model key, settings, columns, hashes), ``arrays.safetensors``,
``categories.parquet`` (the categories of all columns), ``text.safetensors`` (what text encoders learned) and
``training.toml`` (all settings). Nothing is pickled.

Shapes: T rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import expit

from segue.core.bundle import read_text_encodings, restore_model, write_text_encodings
from segue.core.config import parse
from segue.core.examples.calibration import Calibration
from segue.core.examples.columns import Column
from segue.core.examples.encoder import ExampleEncoder
from segue.core.examples.fields import Examples
from segue.core.examples.unknown_values import UnknownValues
from segue.core.files import (
    atomic_folder,
    find_damage,
    read_checked_json,
    save_arrays,
    sha256,
    write_checked_json,
    write_text,
)
from segue.core.messages import warn
from segue.core.model import ExampleModel, Model
from segue.core.registry import model_class
from segue.core.types import DataSchema
from segue.version import __version__

__all__ = ["ABOUT", "SETTINGS", "ClickModel"]

ABOUT, ARRAYS, CATEGORIES = "examples.json", "arrays.safetensors", "categories.parquet"
SETTINGS, TEXT = "training.toml", "text.safetensors"
FORMAT = 1
"""Version of the layout."""


@dataclass(frozen=True, eq=False, repr=False)
class ClickModel:
    """A trained model with the encoding of its columns."""

    key: str
    model: Model
    encoder: ExampleEncoder
    calibration: Calibration | None = None
    threshold: float = 0.5
    """Probability from which an example is predicted as positive."""
    metadata: Mapping[str, Any] | None = None
    """Facts about the training, such as metrics of validation."""
    settings: str = ""
    """All settings of the training as TOML, stored as ``training.toml``."""

    def __repr__(self) -> str:
        data = (self.metadata or {}).get("data")
        trained = "" if data is None else f", trained on {data}"
        return f"ClickModel({self.key!r}, {len(self.encoder.columns)} columns{trained})"

    def predict(self, table: Any) -> NDArray[np.float64]:
        """Return the probability that each row is positive, ``(T,)``.

        A warning names columns none of whose values is known from training.

        Args:
            table: rows with the columns of the training, such as what :func:`segue.load_examples` returns; a column of
                labels is ignored.

        Raises:
            ValueError: it is no table, a column is missing, or a cell does not fit its column.
        """
        frame = _as_frame(table)
        with getattr(table, "located", nullcontext)():  # what segue.load_examples returns knows files and lines
            examples = self.encoder.encode(frame, needs_labels=False)
        for note in self.notes(frame, examples):
            warn(note)
        assert isinstance(self.model, ExampleModel)
        return self.probabilities(self.model.predict_logits(examples))

    def notes(self, table: pl.DataFrame, examples: Examples) -> list[str]:
        """Return a note for each column none of whose values is known from training.

        Args:
            examples: the encoded rows of ``table``.
        """
        unknown = UnknownValues(self.encoder)
        unknown.update(table, examples)
        return unknown.notes()

    def probabilities(self, logits_T: NDArray[Any]) -> NDArray[np.float64]:
        """Convert logits to probabilities, calibrated if the model is."""
        if self.calibration is not None:
            return self.calibration.apply(logits_T)
        probabilities: NDArray[np.float64] = expit(np.asarray(logits_T, np.float64))
        return probabilities

    def save(self, folder: Path | str) -> None:
        """Write the model to ``folder`` in one step.

        A saved model there is replaced.

        Raises:
            ValueError: the folder holds something else.
        """
        folder = Path(folder).expanduser()
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"folder: '{folder}' is a file, expected a folder")
        if folder.exists() and any(folder.iterdir()) and not (folder / ABOUT).is_file():
            raise ValueError(f"folder: '{folder}' holds other files, expected a new or empty one")
        with atomic_folder(folder) as fresh:
            save_arrays(fresh / ARRAYS, self.model.arrays())
            columns = [asdict(replace(one, values=pl.Series(dtype=pl.String))) for one in self.encoder.columns]
            for column in columns:
                del column["values"]
            schema = {"column": pl.String, "value": pl.String}  # those of a column without categories, too
            tables = [pl.DataFrame({"column": one.name, "value": one.values}, schema) for one in self.encoder.columns]
            pl.concat(tables).write_parquet(fresh / CATEGORIES)
            texts = write_text_encodings(fresh / TEXT, self.encoder.texts) if self.encoder.texts else []
            if self.settings:
                write_text(fresh / SETTINGS, self.settings)
            about = {
                "format": FORMAT,
                "segue": __version__,
                "model": self.key,
                "config": self.model.config.model_dump(mode="json"),
                "label": self.encoder.label,
                "user": self.encoder.user,
                "columns": columns,
                "text": texts,
                "calibration": None if self.calibration is None else self.calibration.to_json(),
                "threshold": self.threshold,
                "metadata": dict(self.metadata or {}),
                "sha256": {path.name: sha256(path) for path in sorted(fresh.iterdir())},
            }
            write_checked_json(fresh / ABOUT, about)

    @classmethod
    def load(cls, folder: Path | str) -> ClickModel:
        """Read a model after checking the hash of every file.

        Raises:
            ValueError: a file is missing, modified or malformed, or the format is newer; the message names the file.
        """
        folder = Path(folder).expanduser()
        path = folder / ABOUT
        about = read_checked_json(path)
        if about.get("format") != FORMAT:
            raise ValueError(f"{path}: format {about.get('format')}, this Segue reads {FORMAT}")
        try:
            if errors := find_damage(folder, about["sha256"]):
                raise ValueError("\n".join(errors))
            values = pl.read_parquet(folder / CATEGORIES)
            columns = tuple(
                Column(
                    **{**one, "knots": tuple(one["knots"])},
                    values=values.filter(pl.col("column") == one["name"])["value"],
                )
                for one in about["columns"]
            )
            texts = read_text_encodings(folder / TEXT, about, "text")
            encoder = ExampleEncoder(columns, about["label"], about["user"], texts=texts)
            kind = model_class(about["model"])
            config = parse(kind.Config, about["config"], f"{path}: config")
            model = restore_model(kind(config, DataSchema(0, 0, fields=encoder.fields)), folder / ARRAYS)
            stored = about["calibration"]
            calibration = None if stored is None else Calibration.from_json(stored)
            text = (folder / SETTINGS).read_text(encoding="utf-8") if SETTINGS in about["sha256"] else ""
            return cls(about["model"], model, encoder, calibration, about["threshold"], about["metadata"], text)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: malformed: {error!r}") from None


def _as_frame(table: Any) -> pl.DataFrame:
    """Return rows as a frame.

    Raises:
        ValueError: it is no table, its columns have different lengths, or one of a mapping is a single value.
    """
    loaded = getattr(table, "frame", None)  # of what segue.load_examples returns
    rows = loaded if isinstance(loaded, pl.DataFrame) else table
    if isinstance(rows, pl.LazyFrame):
        return rows.collect()
    if isinstance(rows, Mapping):
        for name, cells in rows.items():
            if cells is None or isinstance(cells, str | bytes | int | float):
                raise ValueError(f"column '{name}': got {cells!r}, expected a list with the value of each row")
    if isinstance(rows, pl.DataFrame):
        return rows
    try:
        if rows is not None and not isinstance(rows, str | bytes | Path):
            return pl.DataFrame(rows)
    except pl.exceptions.ShapeError as error:
        raise ValueError(f"table: columns have different lengths: {error}") from None
    except (TypeError, pl.exceptions.PolarsError):
        pass
    raise ValueError(
        f"table: got {str(table)[:60]!r}, expected a table or a mapping from columns to values; segue.load_examples "
        "reads files"
    )
