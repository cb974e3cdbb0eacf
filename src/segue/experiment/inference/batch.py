"""Recommend for many users into a file.

The work is done block by block and can be resumed; the file is written in one step at the end. Finished blocks are kept
in a folder next to the output until all are done. After an interruption they are used again if the model, the log, the
users and all settings are the same; otherwise the work starts over.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from segue.core.bundle import TrainedModel
from segue.core.files import read_json, write_json
from segue.core.messages import warn
from segue.experiment.inference.code_mapping import list_ids
from segue.experiment.inference.files import check_suffix, write_table
from segue.experiment.inference.frames import as_frame, id_texts, is_frame, typed_ids
from segue.experiment.inference.queries import build_queries
from segue.experiment.inference.query_context import context_rows
from segue.experiment.inference.query_inputs import parse_time
from segue.experiment.inference.recommend import recommend_block
from segue.experiment.inference.user_tables import read_user_columns
from segue.version import __version__

__all__ = ["BLOCK_USERS", "recommend_to_file"]

BLOCK_USERS = 2_000
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
    context: Any = None,
    time: Any = None,
    log: Callable[[str], None] = lambda text: None,
) -> int:
    """Write ``k`` recommendations for each user to ``out`` and return the row count.

    Args:
        users: user ids; or a table with ``user_id``, which may have columns with the context of the queries and with
            features of new users; ``None``: all users of the log.
        constraints: ``allow``, ``deny``, ``filter`` and ``rules`` of :func:`segue.recommend`.
        block_users: users of a block; an interruption loses at most one block.
        context: context of the queries: a mapping, or a table or list with one row per user.
        time: time of the queries, see :func:`segue.recommend`.
        log: receives progress.

    Raises:
        ValueError: the suffix of ``out`` is unknown, or a constraint is malformed.
    """
    check_suffix(out)
    out = out.expanduser()
    source = trained.log
    table = as_frame(users, "users") if is_frame(users) else None
    of_table = None if table is None else read_user_columns(trained, table)
    if table is not None:
        users, table = table["user_id"], table.unique("user_id", keep="first", maintain_order=True)
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
    contexts = None if context is None else [dict(row) for row in context_rows(context, len(ids))]
    seconds = None if time is None else parse_time(time)
    for name, value in (("context", contexts), ("columns", of_table), ("time", seconds)):
        settings[name] = hashlib.sha256(repr(value).encode()).hexdigest()
    parts = out.with_name(f".{out.name}.parts")
    starts = range(0, len(ids), block_users) if ids else range(1)
    paths = [parts / f"{number:06d}.parquet" for number in range(len(starts))]
    _prepare(parts, settings, paths, log)
    unknown: dict[str, list[str]] = {}
    texts: dict[str, None] = {}
    for start, path in zip(starts, paths, strict=True):
        about = path.with_suffix(".json")
        if not path.exists():
            part = slice(start, start + block_users)
            of_users = ids[part] if table is None else table[part]
            context = None if contexts is None else contexts[part]
            block = replace(build_queries(trained, of_users, context=context, time=time), keys=keys[part])
            found, faults = recommend_block(trained, block, k, exclude_seen=exclude_seen, **(constraints or {}))
            write_json(about, {"unknown": block.unknown, "texts": list(dict.fromkeys([*block.warnings, *faults]))})
            found.write_parquet(path.with_suffix(".new"))
            os.replace(path.with_suffix(".new"), path)
            log(f"recommend: {min(start + block_users, len(ids)):,} of {len(ids):,} users")
        said = read_json(about)
        texts |= dict.fromkeys(said["texts"])
        for what, listed in said["unknown"].items():
            unknown.setdefault(what, []).extend(listed)
    result = pl.scan_parquet(paths)
    rows = int(result.select(pl.len()).collect().item())
    write_table(out, result)
    shutil.rmtree(parts, ignore_errors=True)
    lines = [f"{what}: {list_ids(list(dict.fromkeys(listed)))}" for what, listed in unknown.items()] + list(texts)
    if lines:
        warn("; ".join(lines))
    return rows


def _prepare(parts: Path, settings: Mapping[str, Any], paths: list[Path], log: Callable[[str], None]) -> None:
    """Keep the finished blocks of the same work and remove all others."""
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
