"""Amazon-Book, 10-core, of KGAT with its train and test files; no times.

Source: Wang et al. 2019, arXiv:1905.07854.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from segue.data.archives import Archive, ArchiveSpec
from segue.data.delimited import read_delimited
from segue.data.raw_log import PREDEFINED_SPLIT_PREFIX, RawLog
from segue.data.user_sequences import read_user_sequences

__all__ = ["ABOUT", "ARCHIVE", "read"]

ABOUT = "Amazon-Book of KGAT: 70,679 users, 24,915 items, 846,434 events, with the predefined split kgat; no times"
URL = "https://raw.githubusercontent.com/xiangwang1223/knowledge_graph_attention_network/master/Data/amazon-book"
SHA256 = {
    "train.txt": "4d10106bb06a77e11df660429903c0067aeb85b86431807836b0d8b7edc30c38",
    "test.txt": "f47eff9d35fb95c07d74251a991478a84095ce6c5969b0dafcb4afe99fc716ec",
    "user_list.txt": "ae2e001d4e49fd82d4c7e25f950827a8be2fbd5c6f3a16dacb2d104edb32310e",
    "item_list.txt": "efea8518cd68e515584fdfbfca95f318b25ef551c64498c5935897c2b02e436f",
    "entity_list.txt": "b03e9cb7eeab38756f0b10c06478a611201a7d42cb16acb8513624dda05270ca",
    "relation_list.txt": "50fe9c6560224b20d8ace78ae8ca0b8dad39248f6dc900f6744b633ba8c33f4b",
}
FOLDER = "amazon-book-kgat"
ARCHIVE = ArchiveSpec(
    members=tuple(f"{FOLDER}/{name}" for name in ("train.txt", "test.txt", "user_list.txt", "item_list.txt")),
    files={f"{FOLDER}/{name}": (f"{URL}/{name}", f"sha256:{digest}") for name, digest in SHA256.items()},
)


def read(archive: Archive, settings: Mapping[str, str]) -> RawLog:
    """Read training events, then test events, with the ids of the files.

    Items have ``asin`` and ``freebase_id``.
    """
    train, location = read_user_sequences(archive, "train.txt")
    test, _ = read_user_sequences(archive, "test.txt")
    events = pl.concat(
        [
            part.with_columns(pl.lit(code, pl.UInt8).alias(f"{PREDEFINED_SPLIT_PREFIX}kgat"))
            for code, part in ((1, train), (2, test))
        ]
    )
    note = f"{archive.path.name}: no times; the order within a user is that of train.txt, then test.txt"
    return RawLog(
        events,
        location,
        _read_ids(archive, "item_list.txt", ("asin", "id", "freebase_id")),
        _read_ids(archive, "user_list.txt", ("amazon_id", "id")),
        warnings=archive.warnings,
        notes=(note,),
    )


def _read_ids(archive: Archive, member: str, columns: tuple[str, ...]) -> pl.DataFrame:
    """Read a list of external ids; its first line is a header, which is skipped."""
    name = f"{archive.path.name}:{member}"
    body = archive.read(member).partition(b"\n")[2].replace(b"\r", b"")
    frame = read_delimited(body, name, dict.fromkeys(columns, pl.String), " ")
    return frame.select("id", *(column for column in columns if column != "id"))
