"""Recommend for many users into a file: block by block, resumable, written in one step at the end.

Finished blocks are kept in a folder beside the output until all are done. After an interruption they are used again if
the model, the log, the users and all settings are the same; otherwise the work starts over.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from segue.core.bundle import TrainedModel
from segue.core.files import read_json, write_json
from segue.core.messages import SegueWarning, warn
from segue.experiment.inference.files import check_suffix, write_table
from segue.experiment.inference.frames import id_texts, typed_ids
from segue.experiment.inference.queries import QueryBatch, build_queries
from segue.experiment.inference.recommend import recommend_table
from segue.version import __version__

__all__ = ["BLOCK_USERS", "recommend_to_file"]

BLOCK_USERS = 20_000
"""Users of a block."""

SETTINGS = "settings.json"


def recommend_to_file(
    trained: TrainedModel,
    out: Path,
    users: Any = None,
    k: int = 10,
    *,
    constraints: Mapping[str, Any] | None = None,
    exclude_seen: bool = True,
    block_users: int = BLOCK_USERS,
    log: Callable[[str], None] = lambda text: None,
) -> int:
    """Recommend ``k`` items to each user and write the table to ``out``; return the number of rows.

    Args:
        users: user ids; ``None``: all users of the log.
        constraints: ``allow``, ``deny``, ``filter`` and ``rules`` of :func:`segue.recommend`.
        block_users: users of a block; an interruption loses at most one block.
        log: receives progress.

    Raises:
        ValueError: the suffix of ``out`` is unknown, or a constraint is malformed.
    """
    check_suffix(out)
    source = trained.log
    ids = source.users.ids.to_list() if users is None else list(dict.fromkeys(id_texts(users, "users")))
    keys = typed_ids(ids, source.users, "user_id")
    settings = {
        "segue": __version__,
        "model": _model_hash(trained),
        "log": str(source.header.get("hash")),
        "users": hashlib.sha256("\n".join(ids).encode()).hexdigest(),
        "k": k,
        "exclude_seen": exclude_seen,
        "block_users": block_users,
        "constraints": _constraints_hash(constraints or {}),
    }
    parts = out.with_name(f".{out.name}.parts")
    starts = range(0, len(ids), block_users) if ids else range(1)
    paths = [parts / f"{number:06d}.parquet" for number in range(len(starts))]
    _prepare(parts, settings, paths, log)
    notes: dict[str, None] = {}
    for start, path in zip(starts, paths, strict=True):
        if path.exists():
            continue
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", SegueWarning)
            block = build_queries(trained, ids[start : start + block_users])
            block = QueryBatch(block.queries, keys[start : start + block_users], block.notes, block.warnings)
            table = recommend_table(trained, block, k, exclude_seen=exclude_seen, **(constraints or {}))
        notes |= dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, SegueWarning))
        temporary = path.with_suffix(".new")
        table.write_parquet(temporary)
        os.replace(temporary, path)
        log(f"recommend: {min(start + block_users, len(ids)):,} of {len(ids):,} users")
    result = pl.scan_parquet(paths)
    rows = int(result.select(pl.len()).collect().item())
    write_table(out, result)
    shutil.rmtree(parts, ignore_errors=True)
    if notes:
        warn("; ".join(notes))
    return rows


def _prepare(parts: Path, settings: Mapping[str, Any], paths: list[Path], log: Callable[[str], None]) -> None:
    """Keep finished blocks of the same work; remove those of any other."""
    if parts.exists():
        try:
            same = read_json(parts / SETTINGS) == settings
        except ValueError:
            same = False
        if same:
            log(f"recommend: resuming, {sum(path.exists() for path in paths)} of {len(paths)} blocks are done")
            return
        log(f"recommend: starting over, the unfinished blocks in {parts} are of another model, log or setting")
        shutil.rmtree(parts)
    parts.mkdir(parents=True)
    write_json(parts / SETTINGS, settings)


def _model_hash(trained: TrainedModel) -> str:
    known = trained.metadata.get("sha256", {}).get("arrays.safetensors")
    if known is not None:
        return str(known)
    digest = hashlib.sha256(repr((trained.key, trained.model.config)).encode())
    for name, array in sorted(trained.model.arrays().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _constraints_hash(constraints: Mapping[str, Any]) -> str:
    text = json.dumps(constraints, sort_keys=True, default=lambda value: list(value))
    return hashlib.sha256(text.encode()).hexdigest()
