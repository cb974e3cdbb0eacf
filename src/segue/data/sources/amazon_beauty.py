"""Amazon Beauty (McAuley, 2014) as used by S3-Rec or BERT4Rec; no times.

The variant of S3-Rec is 5-core, that of BERT4Rec is larger.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import polars as pl

from segue.data.archives import Archive, ArchiveSpec
from segue.data.delimited import read_delimited
from segue.data.raw_log import RawLog, SourceLocation
from segue.data.user_sequences import read_user_sequences

__all__ = ["ABOUT", "ARCHIVE", "SETTINGS", "read"]

ABOUT = "Amazon Beauty: 22,363 users, 12,101 items (S3-Rec, 5-core); ?variant=bert4rec: 40,226 users, 54,542 items"
S3REC = "https://raw.githubusercontent.com/RUCAIBox/CIKM2020-S3Rec/master/data"
ARCHIVE = ArchiveSpec(
    members=("Beauty.s3rec.txt", "beauty.bert4rec.txt"),
    files={
        "amazon-beauty/Beauty.s3rec.txt": (f"{S3REC}/Beauty.txt", None),
        "amazon-beauty/Beauty_item2attributes.json": (f"{S3REC}/Beauty_item2attributes.json", None),
        "amazon-beauty/beauty.bert4rec.txt": (
            "https://raw.githubusercontent.com/FeiSun/BERT4Rec/master/data/beauty.txt",
            None,
        ),
    },
)
SETTINGS = {"variant": ("s3rec", "bert4rec")}


def read(archive: Archive, settings: Mapping[str, str]) -> RawLog:
    """Read events in the order of the file, with its ids.

    Items have ``asin`` and ``attributes``.
    """
    if settings.get("variant", "s3rec") == "bert4rec":
        location = SourceLocation(f"{archive.path.name}:beauty.bert4rec.txt", 1, "line")
        schema = {"user": pl.Int32, "item": pl.Int32}
        events = read_delimited(archive.read("beauty.bert4rec.txt"), location.name, schema, " ")
        return RawLog(events, location, warnings=archive.warnings)
    events, location = read_user_sequences(archive, "Beauty.s3rec.txt")
    return RawLog(events, location, _items(archive), _users(archive), warnings=archive.warnings)


def _json(archive: Archive, member: str) -> dict[str, Any]:
    try:
        return dict(json.loads(archive.read(member)))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{archive.path.name}:{member}: expected a JSON object ({error})") from None


def _items(archive: Archive) -> pl.DataFrame | None:
    """Return ``id`` with ``asin`` and ``attributes``.

    Attributes are codes as text, if the archive contains them.
    """
    parts = []
    if archive.name("datamaps.json"):
        parts.append(_table(_json(archive, "datamaps.json")["id2item"], "asin"))
    if archive.name("Beauty_item2attributes.json"):
        tagged = _json(archive, "Beauty_item2attributes.json")
        columns = {"id": list(tagged), "attributes": [[str(code) for code in codes] for codes in tagged.values()]}
        parts.append(pl.DataFrame(columns, schema={"id": pl.String, "attributes": pl.List(pl.String)}))
    if len(parts) == 2:
        return parts[0].join(parts[1], on="id", how="left", maintain_order="left")
    return parts[0] if parts else None


def _users(archive: Archive) -> pl.DataFrame | None:
    if archive.name("datamaps.json") is None:
        return None
    return _table(_json(archive, "datamaps.json")["id2user"], "amazon_id")


def _table(names: Mapping[str, str], column: str) -> pl.DataFrame:
    return pl.DataFrame({"id": list(names), column: list(names.values())}, schema={"id": pl.String, column: pl.String})
