"""Frappe_x1: uses of Android apps in context, and apps that were not used.

Baltrunas et al. 2015, arXiv:1505.03014; the parts and their negatives are those of Neural Factorization Machines,
doi:10.1145/3077136.3080777, and of the benchmark BARS. The raw log, which holds positives of all parts, is not read.
"""

from __future__ import annotations

import polars as pl

from segue.data.archives import Archive, ArchiveSpec
from segue.data.examples.read import read_delimited_examples
from segue.data.examples.table import ExampleTable, Part, join_parts

__all__ = ["ABOUT", "ARCHIVE", "read"]

ABOUT = "Frappe_x1: 288,609 labeled uses of apps in context, 10 fields, given parts; research only, no redistribution"
MEMBERS: dict[Part, str] = {"train": "train_seed0.csv", "valid": "validation.csv", "test": "test.csv"}
ARCHIVE = ArchiveSpec(members=tuple(f"frappe/{name}" for name in MEMBERS.values()))
REDRAWN = (
    "the negatives of the training part were drawn again as the published ones had been, because these are lost; "
    "validation and test are the published ones. Compare logarithmic losses with published figures with care"
)


def read(archive: Archive) -> ExampleTable:
    """Read ``label``, ``user``, ``item`` and eight columns of the context.

    All of them are categories.
    """
    tables: dict[Part, ExampleTable] = {}
    for part, member in MEMBERS.items():
        name = f"{archive.path.name}:{member}"
        table = read_delimited_examples(archive.read(f"frappe/{member}"), name, ",")
        frame = table.frame.with_columns(pl.exclude("label").cast(pl.String))
        notes = (f"{name}: {REDRAWN}",) if part == "train" else ()
        tables[part] = ExampleTable(frame, table.location, (*table.notes, *notes, *archive.warnings))
    return join_parts(tables)
