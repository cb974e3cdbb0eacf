"""Frappe: uses of Android apps in context, with texts of the apps.

Baltrunas et al. 2015, arXiv:1505.03014.

This is the raw log. It holds the positives of the validation and the test of the click-through benchmark Frappe_x1, so
no model of that benchmark may be trained on it.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from segue.data.archives import Archive, ArchiveSpec
from segue.data.delimited import check_utf8, read_delimited
from segue.data.raw_log import RawLog, SourceLocation

__all__ = ["ABOUT", "ARCHIVE", "CONTEXT", "read", "read_log"]

ABOUT = "Frappe: 957 users, 4,082 apps, 96,203 uses in context, texts of the apps; research only, no redistribution"
ARCHIVE = ArchiveSpec(
    members=("frappe/frappe.csv", "frappe/meta.csv"),
    url="https://raw.githubusercontent.com/irecsys/CARSKit/4ea12feb209ac7f0638af0375c75888178354978/"
    "context-aware_data_sets/Mobile_Frappe.zip",
)
CONTEXT = ("daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city")
"""Columns of the context of each use; ``unknown`` is null, and so is the city 0."""
UNKNOWN = "unknown"
APPS = {
    "item": pl.String, "package": pl.String, "category": pl.String, "downloads": pl.String, "developer": pl.String,
    "icon": pl.String, "language": pl.String, "description": pl.String, "name": pl.String, "price": pl.String,
    "rating": pl.String, "short desc": pl.String,
}  # fmt: skip


def read(archive: Archive, settings: Mapping[str, str]) -> RawLog:
    """Read uses and apps.

    The value of an event is how often the app was used in that context, whose columns are those of :data:`CONTEXT`.
    There are no times: the order is that of the file. Apps have ``title``, ``description``, ``short_description``,
    ``category``, ``developer``, ``language``, ``downloads`` (the lower end of the range), ``price`` (US dollars; null
    in other currencies), ``rating``, ``package`` and ``icon``; 550 of them have only an id.
    """
    events = read_log(archive)
    location = SourceLocation(f"{archive.path.name}:frappe/frappe.csv", 2, "line")
    names = {"user": "user", "item": "item", "value": "cnt", "time": "timestamp", "action": "action"}
    names |= {f"context:{name}": name for name in CONTEXT}
    notes = ("events have no times; their order is that of the file",)
    context = (pl.col(name).alias(f"context:{name}") for name in CONTEXT)
    columns = events.select("user", "item", "value", *context)
    return RawLog(columns, location, _read_apps(archive), names=names, warnings=archive.warnings, notes=notes)


def read_log(archive: Archive) -> pl.DataFrame:
    """Read ``user``, ``item``, ``value`` and the columns of :data:`CONTEXT`."""
    schema = {"user": pl.Int32, "item": pl.Int32, "cnt": pl.Float32, **dict.fromkeys(CONTEXT, pl.String)}
    name, data = f"{archive.path.name}:frappe/frappe.csv", archive.read("frappe/frappe.csv")
    check_utf8(data, name)
    events = read_delimited(data, name, schema, "\t", header=True).rename({"cnt": "value"})
    context = pl.col(CONTEXT).replace([UNKNOWN, ""], None)
    return events.with_columns(context).with_columns(pl.col("city").replace("0", None))


def _read_apps(archive: Archive) -> pl.DataFrame:
    name, data = f"{archive.path.name}:frappe/meta.csv", archive.read("frappe/meta.csv")
    check_utf8(data, name)
    apps = read_delimited(data, name, APPS, "\t", header=True).with_columns(
        pl.col([column for column in APPS if column != "item"]).replace([UNKNOWN, ""], None)
    )
    dollars = pl.col("price").str.extract(r"^\$\s*([\d.,]+)$").str.replace_all(",", "").cast(pl.Float64)
    return apps.select(
        pl.col("item").alias("id"),
        pl.col("name").alias("title"),
        "description",
        pl.col("short desc").alias("short_description"),
        "category",
        "developer",
        "language",
        pl.col("downloads").str.extract(r"^([\d,]+)").str.replace_all(",", "").cast(pl.Int64),
        pl.when(pl.col("price") == "Free").then(0.0).otherwise(dollars).alias("price"),
        pl.col("rating").cast(pl.Float64),
        "package",
        "icon",
    )
