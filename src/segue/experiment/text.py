"""Encode text and derive triples in memory, and add items to a trained model.

The former are the counterparts of the settings groups ``text`` and ``knowledge`` of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs

from segue.core.bundle import TrainedModel
from segue.core.config import parse, suggest
from segue.core.memory_check import check_not_forked
from segue.core.run import Run
from segue.core.types import Dataset
from segue.data import load
from segue.data.side_tables import read_side_tables
from segue.experiment.arguments import check_device, check_seed
from segue.experiment.inference.argument_checks import FilePath, check_arguments
from segue.features import new_items
from segue.features.knowledge import derive
from segue.features.text.cache import cache_folder
from segue.features.text.encode_items import add_text_features
from segue.features.text.settings import TextSettings

__all__ = ["add_items", "add_knowledge", "add_text", "encode_text"]

Log = Callable[[str], None]


@check_arguments(skip=("columns", "user_columns", "seed"))
def add_text(
    data: Any,
    columns: str | Sequence[str] = (),
    *,
    user_columns: str | Sequence[str] = (),
    encoder: str = "transformer",
    name: str = "text_vector",
    seed: int = 0,
    device: str = "cpu",
    cache: FilePath | None = None,
    progress: bool = False,
    log: Log | None = None,
    **options: Any,
) -> Dataset:
    """Encode the text of items or users as vectors.

    They are for models that read their features.

    Args:
        data: a dataset, or anything that :func:`segue.load` reads.
        columns: item features that hold text, such as ``["title", "plot"]``; the texts of an item are joined.
        user_columns: user features that hold text, such as ``["description"]``; encoded likewise.
        encoder: ``transformer`` (any BERT-family model, MiniLM by default), ``tfidf``, ``word2vec`` or
            ``word_vectors``; ``segue encoders`` lists them with their settings.
        name: name of the item feature, or user feature, with the vectors.
        seed: determines the random choices of encoders that learn from the texts.
        device: a torch device, such as ``cuda``.
        cache: folder of cached vectors; ``None``: ``text`` under ``SEGUE_HOME``, or in the platform's cache folder;
            ``"none"``: nothing is cached.
        progress: whether to draw a progress bar.
        log: receives what was encoded, such as ``print``.
        options: settings of the encoder by name, such as ``pooling="cls"``.

    Returns:
        A dataset with the vectors, null for items or users without text.

    Raises:
        ValueError: a column is missing or holds no text, a setting is unknown, or the encoder is not installed.
    """
    check_not_forked("use a dataset")
    values = {"columns": columns, "user_columns": user_columns, "encoder": encoder, "name": name, "options": options}
    run = Run(check_seed(seed), device=check_device(device), show_progress=progress)
    folder = cache_folder() if cache is None else None if str(cache) == "none" else Path(cache).expanduser()
    return encode_text(data if isinstance(data, Dataset) else load(data), values, run, folder, log)


def encode_text(
    data: Dataset, settings: Mapping[str, Any], run: Run, cache: Path | None, log: Log | None = None
) -> Dataset:
    """Encode text of ``data`` with settings by name, at least ``columns``.

    Args:
        cache: folder of cached vectors; ``None``: nothing is cached.

    Raises:
        ValueError: the settings are invalid or name no column, or the text cannot be encoded.
    """
    wanted = parse(TextSettings, settings, "text")
    if not (wanted.columns or wanted.user_columns):
        raise ValueError(
            "text.columns: got none, and text.user_columns neither, expected item features or user features with text, "
            "such as columns=['title'] or user_columns=['description']"
        )
    return add_text_features(data, wanted, run, cache, log)


@check_arguments(skip=("columns",))
def add_knowledge(data: Any, columns: str | Sequence[str] = (), *, log: Log | None = None) -> Dataset:
    """Derive triples of the knowledge graph from item features.

    Every value of a column is an entity, and the column is the relation, as in ``film - director - person``. The
    triples are added to those that the data has.

    Args:
        data: a dataset, or anything that :func:`segue.load` reads.
        columns: item features, such as ``["genres", "directors"]``; empty: all categories and tags.
        log: receives the statistics of the links, such as ``print``.

    Raises:
        ValueError: the data has no such feature, or a feature has no values that can be entities.
    """
    check_not_forked("use a dataset")
    names = parse(derive.KnowledgeSettings, {"columns": columns}, "knowledge").columns
    return derive.add_knowledge(data if isinstance(data, Dataset) else load(data), names, log=log)


@check_arguments()
def add_items(model: TrainedModel, items: Any, *, log: Log | None = None) -> TrainedModel:
    """Add items that had no events in training to the catalog of a trained model.

    The model must represent items by their features, as ``content``, ``fusion`` and ``two_tower`` do. Text is encoded
    as that of the catalog was. The given model does not change.

    Args:
        items: a file or a table with ``id`` or ``item_id``, and item features such as text by the names that they have
            in the catalog. An item that the catalog has is replaced as a whole: features that are not given are
            unknown.
        log: receives how many items were added and replaced, such as ``print``.

    Returns:
        A model that can be used, saved and exported like any other.

    Raises:
        ValueError: the model reads no item features, an id or a feature does not fit the catalog, or a text encoder is
            not installed.
    """
    check_not_forked("use a model")
    new_items.check_can_add(model)
    text_types = (pl.String, pl.Categorical, pl.Enum)
    texts = [name for name, dtype in model.catalog.collect_schema().items() if dtype in text_types]
    table = read_side_tables(items, None, texts=texts)["items"].table if items is not None else pl.DataFrame()
    if "id" not in table.columns and "item_id" in table.columns:
        table = table.rename({"item_id": "id"})
    if "id" not in table.columns or not len(table):
        if "id" in table.columns:
            raise ValueError(
                f"items: got a table without rows ({', '.join(table.columns)}), expected at least one item"
            )
        found = suggest("id", table.columns) if table.columns else ""
        raise ValueError(f"items: expected at least one row and a column 'id' or 'item_id'{found}")
    extended = new_items.add_items(model, table.with_columns(cs.float().fill_nan(None)))
    if log is not None:
        added = len(extended.items) - len(model.items)
        log(f"items: {added:,} added, {len(table) - added:,} replaced; the catalog has {len(extended.items):,}")
    return extended
