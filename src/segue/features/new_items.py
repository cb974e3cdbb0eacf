"""Add items with their features and text to a trained model.

The items become part of the catalog; models that read item features score them at once. Cells are checked against the
columns of the catalog, so that a table in Python, a file on the command line and a request to the service give the same
errors.

Shapes: N items that are added or replaced, I items of the catalog.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from segue.core.bundle import TrainedModel
from segue.core.config import suggest
from segue.core.events import MAX_SECONDS, Codes, Events
from segue.core.features import MAX_MAGNITUDE, clip_numbers
from segue.core.messages import warn
from segue.core.model import Extensible, is_factored
from segue.core.types import Dataset, Feature, Queries, Vocab
from segue.core.vocab import ID_PATTERN, MAX_ID_LENGTH, has_lone_surrogate
from segue.features.text.encode_items import ItemTexts

__all__ = [
    "MAX_TITLE_LENGTH",
    "MODELS_FOR_NEW_ITEMS",
    "InvalidCell",
    "InvalidItems",
    "add_items",
    "check_can_add",
    "describe_clipped",
    "extend_model",
    "read_items",
]

MODELS_FOR_NEW_ITEMS = (
    "expected content, fusion, maml or two_tower, trained with item features, transfer, or a sequential model with "
    'inputs=["item_features"]'
)
"""What an error says about models that represent items by their features."""

MAX_TITLE_LENGTH = 1024
"""Characters of a title, which responses repeat for every item. Other texts may have any length."""

MAX_REPORTED = 5
"""Errors in the message of :class:`InvalidItems`."""

CONVERSION_ERRORS = (pl.exceptions.PolarsError, ArithmeticError, TypeError, ValueError)

Convert: TypeAlias = Callable[[Any], Any]
"""Convert a value for a column; raises ``ValueError`` or ``TypeError`` if it does not fit."""


@dataclass(frozen=True)
class InvalidCell:
    """A value that does not fit its column."""

    row: int
    column: str
    expected: str
    """What was expected instead, in words."""
    value: Any = None


class InvalidItems(ValueError):
    """Items whose values do not fit the catalog; ``cells`` lists them."""

    def __init__(self, cells: Sequence[InvalidCell]) -> None:
        self.cells = tuple(cells)
        lines = [
            f"items[{cell.row}].{cell.column}: got {_shorten(repr(cell.value))}, expected {cell.expected}"
            for cell in self.cells[:MAX_REPORTED]
        ]
        if len(self.cells) > MAX_REPORTED:
            lines.append(f"and {len(self.cells) - MAX_REPORTED} more")
        super().__init__("\n".join(lines))


def add_items(trained: TrainedModel, items: pl.DataFrame | Sequence[Mapping[str, Any]]) -> TrainedModel:
    """Return a copy of ``trained`` whose catalog has further items.

    An item whose id the catalog has is replaced as a whole: features that are not given become unknown. What the model
    has learned from events of the item stays.

    Args:
        items: a column or key ``id``, and features of the catalog. Text is encoded as that of the catalog was.

    Raises:
        InvalidItems: an id or a feature does not fit the catalog.
        ValueError: the model does not read item features, or a text encoder is not available.
    """
    check_can_add(trained)
    table = ItemTexts(trained.text_encodings).add_to(read_items(trained, items))
    extended = extend_model(trained, table)
    if notes := describe_clipped(trained, table):
        warn("items: " + "; ".join(notes))
    return extended


def check_can_add(trained: TrainedModel) -> None:
    """Check that items can be added to a model.

    Raises:
        ValueError: they cannot; the message names models that can.
    """
    model = trained.model
    if not (isinstance(model, Extensible) and model.can_add_items):
        raise ValueError(
            f"items: cannot be added to a model of '{trained.key}' with these settings, which represents items by "
            f"their events; {MODELS_FOR_NEW_ITEMS}"
        )


def read_items(
    trained: TrainedModel, items: pl.DataFrame | Sequence[Mapping[str, Any]], *, skip_invalid: bool = False
) -> pl.DataFrame:
    """Return ``items`` as ``N`` rows with the columns and types of the catalog.

    Columns that are not given, and vectors that are computed from text, are null.

    Args:
        items: a table, or one mapping per item.
        skip_invalid: leave out items whose id does not fit and columns that the catalog does not have, and replace
            values that do not fit by null.

    Raises:
        InvalidItems: an id is missing, malformed or occurs twice, or a column or value does not fit the catalog.
    """
    rows = items.to_dicts() if isinstance(items, pl.DataFrame) else list(items)
    schema = {name: dtype for name, dtype in trained.catalog.collect_schema().items() if name != "id"}
    computed = {encoding.settings["name"]: encoding.settings["columns"] for encoding in trained.text_encodings}
    errors = _check_ids([row.get("id") for row in rows], trained.items)
    if skip_invalid:
        invalid = {cell.row for cell in errors}
        rows, errors = [one for row, one in enumerate(rows) if row not in invalid], []
    else:
        errors += _check_columns(rows, list(schema), computed)
    texts = [str(row.get("id")).encode(errors="replace").decode() for row in rows]  # an invalid id is an error below
    columns: dict[str, pl.Series] = {"id": pl.Series("id", texts, pl.String)}
    for name, dtype in schema.items():
        cells = [None if name in computed else row.get(name) for row in rows]
        expected, convert = _converter(dtype, _vector_size(trained, name))
        if name == "title" and not skip_invalid:
            expected, convert = _limit_length(expected, convert)
        for row, value in enumerate(cells):
            try:
                cells[row] = None if value is None else convert(value)
            except (ArithmeticError, TypeError, ValueError):
                cells[row] = None
                if not skip_invalid:
                    reason = " without lone surrogates" if has_lone_surrogate(value) else ""
                    errors.append(InvalidCell(row, name, f"{expected}{reason}", value))
        columns[name], invalid_cells = _to_valid_column(name, cells, dtype)
        if not skip_invalid:
            errors += [InvalidCell(row, name, expected, rows[row].get(name)) for row in invalid_cells]
    if errors:
        raise InvalidItems(sorted(errors, key=lambda cell: cell.row))
    return pl.DataFrame(columns)


def describe_clipped(trained: TrainedModel, table: pl.DataFrame) -> list[str]:
    """Describe numbers far outside of their range in training.

    :func:`extend_model` clips them for the scores. Numbers that are
    not farther outside than the range is wide are not listed, such as the year of a new item.
    """
    features = {one.name: one for one in trained.model.schema.item_features}
    notes = []
    for name, rows in clip_numbers([_widen(one) for one in features.values()], table)[1].items():
        low, high = (_format_number(bound, table[name].dtype) for bound in (features[name].low, features[name].high))
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        value = table[name][int(rows[0])]
        shown = f"{value:g}" if isinstance(value, float) else value
        notes.append(f"{name}: {shown}{more} outside of {low} to {high}, the range in training; scored as the nearest")
    return notes


def _widen(feature: Feature) -> Feature:
    """Return a feature whose range is three times as wide."""
    if feature.low is None or feature.high is None:
        return feature
    width = feature.high - feature.low
    return replace(feature, low=feature.low - width, high=feature.high + width)


def _format_number(number: float | None, dtype: pl.DataType) -> str:
    if dtype in (pl.Date, pl.Datetime):
        return str((datetime(1970, 1, 1) + timedelta(seconds=number or 0.0)).date())
    return f"{number:.10g}"


def extend_model(trained: TrainedModel, table: pl.DataFrame) -> TrainedModel:
    """Return a copy of ``trained`` with the items of ``table``.

    See :func:`add_items`; ``table`` is checked, its text is encoded, and it has all columns of the catalog. The model
    scores a number outside of its range in training as the nearest in it; the catalog has the number as given.

    Raises:
        InvalidItems: the score of an item would not be finite.
    """
    assert isinstance(trained.model, Extensible), "see check_can_add"
    codes, known = trained.items.encode(table["id"])
    n_items, added = len(trained.items), np.flatnonzero(~known)
    codes[added] = n_items + np.arange(len(added))
    catalog = trained.catalog.collect()
    rows = np.arange(n_items + len(added))
    rows[codes] = n_items + np.arange(len(table))
    categorical = [name for name, dtype in catalog.schema.items() if dtype in (pl.Categorical, pl.Enum)]
    both = [one.with_columns(pl.col(categorical).cast(pl.String)) for one in (catalog, table.select(catalog.columns))]
    extended = pl.concat(both)[rows]
    items = Vocab(extended["id"], id_type=trained.items.id_type)
    model: Any = trained.model.with_items(codes, clip_numbers(trained.model.schema.item_features, table)[0])
    _check_scores(model, codes, table["id"])

    def load(log: Callable[[], Dataset]) -> Callable[[], Dataset]:
        return lambda: _extend_data(log(), items, extended.lazy(), len(added))

    return replace(
        trained,
        model=model,
        items=items,
        catalog=extended.lazy(),
        load_log=load(lambda: trained.log),
        load_train_log=None if trained.load_train_log is None else load(lambda: trained.train_log),
        folder=None,
    )


def _check_scores(model: Any, codes: Codes, ids: pl.Series) -> None:
    """Check that the scores of added and replaced items are finite.

    Raises:
        InvalidItems: they are not; a row is that of ``codes`` and ``ids``.
    """
    if is_factored(model):
        is_finite_N = np.isfinite(model.vectors[codes]).all(axis=1)
    else:
        is_finite_N = np.isfinite(model.score(Queries.anonymous(Events.of([[], [0]])))[:, codes]).all(axis=0)
    expected = "features that give a finite score: a number may be too large"
    if len(rows := np.flatnonzero(~is_finite_N).tolist()):
        raise InvalidItems([InvalidCell(row, "id", expected, ids[row]) for row in rows])


def _extend_data(data: Dataset, items: Vocab, catalog: pl.LazyFrame, n_added: int) -> Dataset:
    counts = data.header.get("counts", {})
    counts = {**counts, "items_without_events": counts.get("items_without_events", 0) + n_added}
    return replace(data, items=items, item_features=catalog, header={**data.header, "counts": counts})


def _check_columns(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], computed: Mapping[str, Sequence[str]]
) -> list[InvalidCell]:
    """Return columns that cannot be given.

    The catalog does not have them, or they are computed from text.
    """
    errors: dict[str, InvalidCell] = {}
    for row, one in enumerate(rows):
        for name, value in one.items():
            if name == "id" or name in errors:
                continue
            if name not in names:
                hint = suggest(name, names) if names else "; it has none"
                errors[name] = InvalidCell(row, name, f"a feature of the catalog{hint}", value)
            elif name in computed and value is not None:
                source = ", ".join(computed[name])
                errors[name] = InvalidCell(row, name, f"no value: it is computed from the text of {source}", value)
    return list(errors.values())


def _check_ids(ids: Sequence[Any], vocab: Vocab) -> list[InvalidCell]:
    errors, seen = [], set[str]()
    for row, value in enumerate(ids):
        text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
        if not re.match(ID_PATTERN, text) or len(text) > MAX_ID_LENGTH or re.search("[\ud800-\udfff]", text):
            expected = f"a text of 1 to {MAX_ID_LENGTH} characters without control characters, or an integer"
        elif vocab.id_type != "string" and not _is_id_of(text, vocab.id_type):
            expected = f"an id of the type of the catalog's ids, {vocab.id_type}"
        elif text in seen:
            expected = "an id that occurs once"
        else:
            seen.add(text)
            continue
        errors.append(InvalidCell(row, "id", expected, value))
    return errors


def _is_id_of(text: str, id_type: str) -> bool:
    """Return whether a text is a number of an integer type, as this type writes it."""
    if not re.fullmatch(r"-?\d{1,20}", text) or str(int(text)) != text:
        return False
    limits = np.iinfo(id_type)
    return bool(limits.min <= int(text) <= limits.max)


def _vector_size(trained: TrainedModel, name: str) -> int | None:
    """Return the length of the vectors of a feature that the model reads."""
    sizes = [one.size for one in trained.model.schema.item_features if one.name == name and one.kind == "vector"]
    return sizes[0] if sizes else None


def _converter(dtype: pl.DataType, size: int | None) -> tuple[str, Convert]:
    """Return what a column expects in words, and how its values are converted.

    Args:
        size: length of the lists, if it is fixed.
    """
    inner: Any = getattr(dtype, "inner", None)
    if inner is not None:
        expected, convert = _converter(inner, None)
        noun = {"a text": "texts", "true or false": "true or false"}.get(
            expected, "numbers" if "number" in expected else "times"
        )
        noun += expected.removeprefix("a finite number") if expected.startswith("a finite number") else ""
        if isinstance(dtype, pl.Array):
            size = dtype.size
        count = "" if size is None else f"{size} "

        def convert_list(value: Any) -> list[Any]:
            if isinstance(value, str | bytes | Mapping):
                raise TypeError
            known = [convert(one) for one in value if one is not None]
            if size is not None and len(known) != size:
                raise ValueError
            return known

        return f"a list of {count}{noun}", convert_list
    if dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        return "a text", _to_text
    if dtype == pl.Boolean:
        return "true or false", _to_boolean
    if dtype.is_integer():
        return f"a whole number ({dtype})", lambda value: _to_integer(value, dtype)
    if dtype.is_numeric():
        limit = _largest_magnitude(dtype)
        return f"a finite number of at most {limit:g} in magnitude", lambda value: _to_number(value, limit)
    if dtype in (pl.Date, pl.Datetime):
        to_date: Convert = lambda value: _to_datetime(value).date()  # noqa: E731
        return "a time in ISO 8601 or in Unix seconds", to_date if dtype == pl.Date else _to_datetime
    return f"no value: values of type {dtype} cannot be added", _reject


def _limit_length(expected: str, convert: Convert) -> tuple[str, Convert]:
    """Return what a title expects in words, and how it is converted."""

    def convert_title(value: Any) -> Any:
        if isinstance(value, str) and len(value) > MAX_TITLE_LENGTH:
            raise ValueError
        return convert(value)

    return f"{expected} of at most {MAX_TITLE_LENGTH} characters" if expected == "a text" else expected, convert_title


def _to_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    value.encode()  # lone surrogates are an error
    return value


def _to_boolean(value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError
    return bool(value)


def _largest_magnitude(dtype: pl.DataType) -> float:
    if isinstance(dtype, pl.Decimal):
        return min(MAX_MAGNITUDE, 10.0 ** (dtype.precision - dtype.scale))
    return min(MAX_MAGNITUDE, float(np.finfo(str(dtype).lower()).max))


def _to_number(value: Any, limit: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number | Decimal):
        raise TypeError
    if not math.isfinite(value) or abs(float(value)) > limit:
        raise ValueError
    return float(value)


def _to_integer(value: Any, dtype: pl.DataType) -> int:
    if not _to_number(value).is_integer():
        raise ValueError
    bits, is_signed = int(str(dtype).lstrip("UInt")), str(dtype).startswith("Int")
    smallest, largest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if is_signed else (0, 2**bits - 1)
    if not smallest <= int(value) <= largest:
        raise ValueError
    return int(value)


def _to_datetime(value: Any) -> datetime:
    """Convert ISO 8601, Unix seconds, or a date; without a time zone it is UTC."""
    if isinstance(value, str):
        found = datetime.fromisoformat(value)
    elif isinstance(value, datetime):
        found = value
    elif isinstance(value, date):
        found = datetime(value.year, value.month, value.day)
    elif abs(_to_number(value)) < MAX_SECONDS:
        found = datetime(1970, 1, 1) + timedelta(seconds=float(value))
    else:
        raise ValueError
    return found if found.tzinfo is None else found.astimezone(UTC).replace(tzinfo=None)


def _reject(value: Any) -> Any:
    raise TypeError


def _to_valid_column(name: str, cells: list[Any], dtype: pl.DataType) -> tuple[pl.Series, list[int]]:
    """Return cells as a column, and the rows that its type cannot hold.

    These are null in the column.
    """
    try:
        return _to_column(name, cells, dtype), []
    except (*CONVERSION_ERRORS, pl.exceptions.PanicException):
        valid = [cell if _is_convertible(cell, dtype) else None for cell in cells]
    rows = [row for row, cell in enumerate(cells) if cell is not None and valid[row] is None]
    return _to_column(name, valid, dtype), rows


def _is_convertible(cell: Any, dtype: pl.DataType) -> bool:
    try:
        _to_column("", [cell], dtype)
    except (*CONVERSION_ERRORS, pl.exceptions.PanicException):
        return False
    return True


def _to_column(name: str, cells: Sequence[Any], dtype: pl.DataType) -> pl.Series:
    """Return converted cells as a column of a type."""
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        naive = pl.Series(name, cells, pl.Datetime(dtype.time_unit))
        return naive.dt.replace_time_zone("UTC").dt.convert_time_zone(dtype.time_zone)
    if dtype in (pl.Categorical, pl.Enum):
        return pl.Series(name, cells, pl.String)
    return pl.Series(name, cells, dtype)


def _shorten(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
