"""Store the lists that a run recommended, and compare those of several runs.

Shapes: N queries, k items of the longest list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from segue.core.files import read_json
from segue.core.types import Queries, Recommendations
from segue.core.vocab import Vocab
from segue.evaluation.beyond_accuracy.stability import describe_overlaps
from segue.experiment.run_folder import LISTS, METRICS

__all__ = ["compare_lists", "write_lists"]


def write_lists(folder: Path, queries: Queries, top: Recommendations, users: Vocab, items: Vocab) -> None:
    """Write one row per query: the ids of the user and of the items, best first.

    An unknown user is null. Nothing is written if nothing was ranked.
    """
    if not len(top):
        return
    ids = pl.Series("user", users.decode(queries.users)).set(pl.Series(~queries.known), None)
    is_used = np.arange(top.items.shape[1]) < top.lengths[:, None]
    rows = pl.DataFrame({"row": np.repeat(np.arange(len(top)), top.lengths), "items": items.decode(top.items[is_used])})
    lists = rows.group_by("row", maintain_order=True).agg("items")
    table = pl.DataFrame({"row": np.arange(len(top)), "user": ids}).join(lists, on="row", how="left")
    table.select("user", pl.col("items").fill_null([])).write_parquet(folder / LISTS)


def compare_lists(runs: Mapping[str, Sequence[Path]]) -> dict[str, Any] | None:
    """Compare the lists of models, and of the seeds of a model, on the test part.

    Args:
        runs: the run of each seed by model.

    Returns:
        ``k``, the compared length, and ``pairs``, see
        :func:`segue.evaluation.beyond_accuracy.stability.describe_overlaps`; ``None`` if a run has no lists of the test
        part: it was evaluated on validation only, ranks nothing or is of an older version.
    """
    folders = [folder for seeds in runs.values() for folder in seeds]
    if not all((folder / LISTS).exists() and read_json(folder / METRICS).get("part") == "test" for folder in folders):
        return None
    columns = {folder: pl.read_parquet(folder / LISTS)["items"] for folder in folders}
    ids = pl.concat([column.explode().drop_nulls() for column in columns.values()]).unique().sort()
    lists = {model: [_encode(columns[folder], ids) for folder in seeds] for model, seeds in runs.items()}
    k = min(one.items.shape[1] for seeds in lists.values() for one in seeds)
    return {"k": k, "pairs": describe_overlaps(lists, k)}


def _encode(column: pl.Series, ids: pl.Series) -> Recommendations:
    """Return lists of ids as codes, ``(N, k)``."""
    lengths = column.list.len().cast(pl.Int64).to_numpy()
    codes = column.explode().drop_nulls().cast(pl.Enum(ids)).to_physical().to_numpy()
    items = np.zeros((len(column), max(1, int(lengths.max(initial=0)))), np.int32)
    items[np.arange(items.shape[1]) < lengths[:, None]] = codes
    return Recommendations(items, np.zeros(items.shape, np.float32), lengths)
