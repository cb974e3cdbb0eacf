"""Several workers that tune on the same trials in PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import segue
from segue.experiment.tuning import tune as tuning
from segue.experiment.tuning.trial import Trial, train_trial

pytestmark = pytest.mark.filterwarnings("ignore::segue.core.messages.SegueWarning")

DATA = "simulated?users=60&items=40&seed=5"


def test_workers_share_the_trials_of_a_study(
    new_address: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    parts = segue.split(DATA)  # prepared once
    address, folder = new_address("postgresql"), tmp_path / "tuned"
    options: dict[str, Any] = {"storage": address, "folder": folder}
    both = threading.Barrier(2)

    def train(*args: Any, **options: Any) -> Trial:
        with suppress(threading.BrokenBarrierError):  # the other worker has ended
            both.wait(timeout=1.0)
        return train_trial(*args, **options)

    monkeypatch.setattr(tuning, "train_trial", train)
    segue.tune("ease", parts, trials=1, **options)  # creates the tables
    both.reset()
    with ThreadPoolExecutor(2) as workers:
        results = list(workers.map(lambda _: segue.tune("ease", parts, trials=8, **options), range(2)))
    assert {name for result in results for name in result.models} == {"ease"}
    lines: list[str] = []
    found = segue.tune("ease", parts, trials=8, log=lines.append, **options).best
    assert "ease: continuing after 8 trials" in lines
    assert not [line for line in lines if "ease: trial" in line], "nothing is left to do"
    assert [one.number for one in found.trials] == list(range(8))
    assert [one.values is None for one in found.trials] == [True] + [False] * 7
    assert len({str(one.values) for one in found.trials}) == 8
    assert not list(folder.rglob("*.db"))


def test_a_server_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="storage: cannot use the database") as caught:
        segue.tune("ease", DATA, trials=1, storage="postgresql://me:secret@127.0.0.1:1/none", folder=tmp_path)
    assert "secret" not in str(caught.value)
