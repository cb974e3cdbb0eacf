"""Runs on a small log with hostile ids, titles and notes, for the tests of reports."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
import polars as pl
import pytest

from segue.cli import main
from tests.folders import new_folder

__all__ = ["HOSTILE_TITLES", "HOSTILE_USER", "N_USERS", "make_more_runs", "make_runs"]

N_USERS, N_ITEMS = 60, 24
HOSTILE_USER = '<script>window.attacked = 1</script>"'
HOSTILE_TITLES = (
    "<script>window.attacked = 2</script>",
    '" onmouseover="window.attacked = 3',
    "</script><img src=x onerror='window.attacked = 4'>",
    "{{ 7 * 7 }} & 'quoted'",
)


def segue(*arguments: str) -> None:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    assert not left.value.code, arguments


NETWORK = ("--set", "epochs=3", "--set", "embedding_dim=8", "--set", "hidden_dim=8")


@cache
def make_runs() -> Path:
    """Return a folder for ``SEGUE_HOME`` with runs of three models, one with two seeds, and one of another split."""
    home = new_folder()
    log = write_log(home)
    with mock.patch.dict(os.environ, {"SEGUE_HOME": str(home)}):
        tables = ("--items", str(home / "items.csv"), "--users", str(home / "users.csv"))
        segue("data", "prepare", str(log), *tables, "--out", str(home / "world"))
    train(home, "gru", "gru4rec", *NETWORK)
    train(home, "gru-1", "gru4rec", "--seed", "1", *NETWORK)
    train(home, "knn", "item_knn")
    train(home, "popular", "popular")
    train(home, "random", "item_knn", "--set", "strategy=random")
    for name in ("gru", "gru-1"):
        add_notes(home / "runs" / name)
    return home


@cache
def make_more_runs() -> Path:
    """Return the folder of :func:`make_runs` with runs of a rating model, of the test part, and without metrics."""
    home = make_runs()
    train(home, "als", "als")
    train(home, "tested", "item_knn", "--test")
    train(home, "none", "popular", "--set", "split.valid=0", "--set", "strategy=random")
    return home


def train(home: Path, name: str, model: str, *options: str) -> None:
    with mock.patch.dict(os.environ, {"SEGUE_HOME": str(home)}):
        segue("train", model, "--data", str(home / "world"), "--out", str(home / "runs" / name), *options)


def add_notes(run: Path) -> None:
    """Add notes to the record and the model card of a run."""
    record = json.loads((run / "metrics.json").read_text())
    record["warnings"] = [*record["warnings"], "a note: <script>window.attacked = 5</script>"]
    (run / "metrics.json").write_text(json.dumps(record))
    (run / "card.md").write_text("# Card\n\n</pre><script>window.attacked = 6</script>\n", encoding="utf-8")


def write_log(folder: Path) -> Path:
    """Write a log whose next item depends on the last one, and tables of features."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(N_USERS):
        item, time = int(rng.integers(N_ITEMS)), 1_600_000_000 + int(rng.integers(10**7))
        for _ in range(int(rng.integers(6, 16)) if user else 4):  # the hostile id has the shortest history
            rows.append((user_id(user), item, time, float(rng.integers(1, 6))))
            item = (item + 1 + int(rng.integers(3)) ** 2) % N_ITEMS
            time += int(rng.integers(1, 10**5))
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "rating"], orient="row")
    log.unique(["user_id", "item_id"], maintain_order=True).write_csv(folder / "log.csv")
    titles = [HOSTILE_TITLES[n] if n < len(HOSTILE_TITLES) else f"The tale of item {n}" for n in range(N_ITEMS)]
    items = {"item_id": range(N_ITEMS), "title": titles, "genres": ["Drama", "Comedy|Drama", "War"] * 8}
    pl.DataFrame(items).write_csv(folder / "items.csv")
    users = {"user_id": map(user_id, range(N_USERS)), "city": ["Ulm", "<b>Bonn</b>", None] * 20}
    pl.DataFrame({name: list(column) for name, column in users.items()}).write_csv(folder / "users.csv")
    return folder / "log.csv"


def user_id(number: int) -> str:
    return HOSTILE_USER if number == 0 else f"u{number}"
