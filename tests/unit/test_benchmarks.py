"""The arithmetic of the benchmarks: a wrong count would be a wrong claim."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import ablation, environments, flops, gpu, large, losses, report, time_to_accuracy
from benchmarks.compare_libraries import CONTESTS, histories
from benchmarks.runners.measure import Clock, Race, memory, score
from segue.core.config import parse
from segue.core.registry import model_class
from segue.core.types import Dataset, Events, HeldOut, Queries, Split, Vocab


def test_operations_of_one_target() -> None:
    ask = {"model": "sasrec", "width": 4, "inner": 8, "blocks": 2, "items": 10}
    found = flops.needed(ask, np.array([5]))
    assert found["context"] == 3.0
    assert found["head"] == 3 * 2 * 4 * 10
    assert found["dense"] == 3 * 2 * (4 * 2 * 4 * 4 + 2 * 2 * 4 * 8)
    assert found["attention"] == 3 * 2 * 2 * (2 * 4 * 3)
    assert found["target"] == found["head"] + found["dense"] + found["attention"]


def test_a_hidden_item_costs_the_positions_around_it() -> None:
    ask = {"model": "bert4rec", "width": 4, "inner": 8, "blocks": 2, "items": 10, "hidden_share": 0.25}
    found, causal = flops.needed(ask, np.array([5])), flops.needed(ask | {"model": "sasrec"}, np.array([5]))
    assert found["context"] == 5.0
    assert found["head"] == causal["head"]
    assert found["dense"] == 4 * causal["dense"]
    assert found["attention"] / found["context"] == 4 * causal["attention"] / causal["context"]


def test_operations_of_recurrent_layers() -> None:
    ask = {"model": "gru4rec", "width": 4, "inner": 8, "items": 10}
    one, two = (flops.needed(ask | {"blocks": blocks}, np.array([5])) for blocks in (1, 2))
    assert one["dense"] == 3 * 2 * (3 * 8 * (4 + 8) + 8 * 4)
    assert two["dense"] - one["dense"] == 3 * 2 * 3 * 8 * (8 + 8)
    assert one["attention"] == 0.0


def test_visible_positions_are_counted_one_by_one() -> None:
    lengths = np.array([1, 4])
    assert flops.visible(lengths) == (1 + 1 + 2 + 3 + 4) / 5
    assert flops.visible(lengths, both_ways=True) == (1 + 4 + 4 + 4 + 4) / 5


def test_lists_are_scored_by_the_last_item() -> None:
    offsets, items = np.array([0, 3, 5]), np.array([7, 8, 9, 5, 6], np.int32)
    found = score(np.array([[9, 1, -1], [0, 1, 6]]), offsets, items)
    assert found == {"hit_rate@3": 1.0, "ndcg@3": (1.0 + 1.0 / np.log2(4)) / 2}
    assert score(np.array([[7, 8], [5, -1]]), offsets, items)["hit_rate@2"] == 0.0
    assert score(np.array([[7, 8], [5, -1]]), offsets, items, before=1)["ndcg@2"] == (1.0 + 1.0 / np.log2(3)) / 2


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
        monkeypatch.setattr("benchmarks.runners.measure.time.perf_counter", lambda at=at: at)
        monkeypatch.setattr("benchmarks.runners.measure.time.process_time", lambda at=at: 2 * at)
        clock.batch(targets, 2)
    assert clock.figures()["targets_per_second"] == 10 / 4.0
    assert clock.figures()["sequences_per_second"] == 4 / 4.0
    assert clock.figures()["targets_per_processor_second"] == 10 / 8.0
    short = Clock(warm_up=1)
    short.batch(1, 1)
    with pytest.raises(ValueError, match="1 batches"):
        short.figures()


def test_a_race_counts_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("benchmarks.runners.measure.time.perf_counter", lambda: now[0])
    race = Race((np.array([0, 3]), np.array([7, 8, 9], np.int32)), limit=100.0, level=0.6)
    for seconds in (2.0, 3.0):
        race.start()
        now[0] += seconds
        race.stop()
        now[0] += 50.0
        over = race.judge(np.array([[1, 8]]))
    assert race.points == [(2.0, 1 / np.log2(3)), (5.0, 1 / np.log2(3))]
    assert over  # the level
    assert not Race(race.events, 100.0, None).judge(np.array([[8, 1]]))
    assert Race(race.events, 0.0, None).judge(np.array([[8, 1]]))  # the time


def test_the_time_to_the_level_is_told() -> None:
    sides = {"rectools": {"points": [(1.0, 0.1), (60.0, 0.2)]}, "segue": {"points": [(4.0, 0.21)]}}
    race = {"model": "sasrec", "length": 50, "library": "rectools", "minutes": 1.0, "level": 0.2, "sides": sides}
    race |= {"settings": {"width": 64}, "segue_settings": {"windows": "all"}, "peer_settings": {}}
    found = race | {"peer_seconds": 60.0, "segue_seconds": 4.0}
    assert "| 0.2000 | 60 | 4.0 | 15.0 x less |" in "\n".join(time_to_accuracy.page([found]))
    assert "not reached" in "\n".join(time_to_accuracy.page([found | {"segue_seconds": None}]))


def test_every_contest_has_settings_for_all_its_sides() -> None:
    for contest in CONTESTS:
        assert {"model", "length", "width", "blocks", "inner", "batch"} <= contest.settings().keys()
        assert "segue" in contest.libraries
    assert len({contest.name for contest in CONTESTS}) == len(CONTESTS)


def test_what_a_position_needs_on_a_device() -> None:
    config = {"width": 4, "blocks": 2, "heads": 2}
    found = {"layer_parameters": 100, "parameters": 200, "kept_bytes": 12.0, "positions": 40}
    operations, moved = gpu.needed({"model": "sasrec", "config": config, "length": 5, "items": 10}, found)
    assert operations == 6 * 100 + 3 * 2 * 4 * 4 * 3 + 6 * 4 * 10
    assert moved == 2 * 12.0 + 40 * 200 / 40
    operations, _ = gpu.needed({"model": "xlstm", "config": config, "length": 5, "items": 10}, found)
    assert operations == 6 * 100 + 3 * 1 * 4 * 8 * 4 + 6 * 4 * 10


def test_every_kernel_has_a_row_on_a_device() -> None:
    assert list(gpu.variants("cpu")) == ["SASRec", "xLSTM", "xLSTM without sLSTM, native"]
    assert sum("triton" in name for name in gpu.variants("cuda:0")) >= 1
    for key, config in gpu.variants("cuda").values():
        parse(model_class(key).Config, config, "model")


def test_without_a_device_the_part_ends_with_one_line() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a device")
    with pytest.raises(ValueError, match="no CUDA device"):
        gpu.run("cuda", print)


def test_memory_peak_is_at_least_what_is_used() -> None:
    found = memory()
    assert found["peak"] >= found["now"] > 1


def test_the_loss_is_the_same_however_it_is_written() -> None:
    found = losses.measure(items=50, width=4, batch=4, length=6, filled=0.5, repeat=1)
    assert (found["targets"], found["positions"]) == (12, 24)
    assert found["blocked"]["loss"] == pytest.approx(found["flat"]["loss"], rel=1e-5)
    assert found["blocked"]["loss"] == pytest.approx(found["transposed"]["loss"], rel=1e-5)


def test_a_large_catalogue_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    # in a process of its own: peaks of this one may be of other tests
    found = large.run("simulated?users=20&items=300&seed=1", torch.get_num_threads(), quick=True)
    assert (found["items"], found["evaluated_users"]) == (300, 20)
    assert found["targets"] > 20 * 3
    assert found["peak_mib"] >= found["train_peak_mib"] > found["import_mib"]


def test_ratios_say_how_many_times_better() -> None:
    own, other = {"rate": 60.0, "seconds": 1.0}, {"rate": 10.0, "seconds": 4.0}
    assert report._ratio(own, other, "rate", True) == "6.00 x more"
    assert report._ratio(own, other, "seconds", False) == "4.00 x less"
    assert report._ratio(own, {}, "rate", True) == ""


def test_an_unknown_peer_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEGUE_PEERS", str(tmp_path))
    with pytest.raises(ValueError, match="expected one of rectools, recbole, xlstm"):
        environments.interpreter("lightfm")
    assert environments.interpreter("rectools") is None
    with pytest.raises(ValueError, match="no environment 'rectools' there"):
        environments.interpreter("rectools", install=True)


@pytest.mark.parametrize("study", [file.stem for file in ablation.STUDIES.glob("*.toml")])
def test_every_variant_of_an_ablation_is_a_training_of_its_own(study: str) -> None:
    asked, changes = ablation.variants(study)
    prints = [ablation.planned(asked, changed, seed).fingerprint() for changed in changes.values() for seed in range(2)]
    assert len(set(prints)) == len(prints) == 2 * len(changes)


def test_an_unknown_study_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"study: no 'ml-2k' in .*, expected one of amazon-beauty, ml-100k"):
        ablation.variants("ml-2k")
