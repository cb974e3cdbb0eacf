"""The arithmetic of the benchmarks: a wrong count would be a wrong claim."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import flops, peers, report
from benchmarks.beside import histories, score
from benchmarks.sides.measure import Clock, memory

from segue.core.types import Dataset, Events, HeldOut, Queries, Split, Vocab


def test_operations_of_one_target() -> None:
    found = flops.sasrec(width=4, inner=8, blocks=2, items=10, context=3.0)
    assert found["head"] == 3 * 2 * 4 * 10
    assert found["dense"] == 3 * 2 * (4 * 2 * 4 * 4 + 2 * 2 * 4 * 8)
    assert found["attention"] == 3 * 2 * 2 * (2 * 4 * 3)
    assert found["target"] == found["head"] + found["dense"] + found["attention"]


def test_visible_positions_are_counted_one_by_one() -> None:
    lengths = np.array([1, 4])
    assert flops.visible(lengths) == (1 + 1 + 2 + 3 + 4) / 5


def test_lists_are_scored_by_the_last_item() -> None:
    offsets, items = np.array([0, 3, 5]), np.array([7, 8, 9, 5, 6], np.int32)
    found = score(np.array([[9, 1, -1], [0, 1, 6]]), offsets, items)
    assert found == {"hit_rate@3": 1.0, "ndcg@3": (1.0 + 1.0 / np.log2(4)) / 2}
    assert score(np.array([[7, 8], [5, -1]]), offsets, items)["hit_rate@2"] == 0.0


def test_whole_histories_end_with_the_target() -> None:
    asked, targets = Events.of([[1, 2], [3]]), Events.of([[0], [4]])
    test = HeldOut(Queries.of_users(np.array([0, 1], np.int32), asked), targets)
    train = Dataset("two", Vocab(["a", "b"]), Vocab([str(i) for i in range(5)]), asked)
    offsets, items = histories(Split(train, test, test))
    assert offsets.tolist() == [0, 3, 5]
    assert items.tolist() == [1, 2, 0, 3, 4]


def test_the_warm_up_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(warm_up=1)
    for at, targets in ((10.0, 1000), (12.0, 6), (14.0, 4)):
        monkeypatch.setattr("benchmarks.sides.measure.time.perf_counter", lambda at=at: at)
        clock.batch(targets)
    assert clock.figures()["targets_per_second"] == 10 / 4.0
    short = Clock(warm_up=1)
    short.batch(1)
    with pytest.raises(ValueError, match="1 batches"):
        short.figures()


def test_memory_peak_is_at_least_what_is_used() -> None:
    found = memory()
    assert found["peak"] >= found["now"] > 1


def test_ratios_say_how_many_times_better() -> None:
    own, other = {"rate": 60.0, "seconds": 1.0}, {"rate": 10.0, "seconds": 4.0}
    assert report._ratio(own, other, "rate", True) == "6.00 x more"
    assert report._ratio(own, other, "seconds", False) == "4.00 x less"
    assert report._ratio(own, {}, "rate", True) == ""


def test_an_unknown_peer_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEGUE_PEERS", str(tmp_path))
    with pytest.raises(ValueError, match="expected one of rectools, recbole, xlstm"):
        peers.interpreter("lightfm")
    assert peers.interpreter("rectools") is None
    with pytest.raises(ValueError, match="no environment 'rectools' there"):
        peers.interpreter("rectools", install=True)
