"""Arithmetic of the benchmarks: operations, rates, metrics, ratios."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import (
    ablation,
    environments,
    equal_budget_tuning,
    flops,
    gpu,
    large,
    losses,
    ranking_speed,
    ratings,
    ratings_speed,
    report,
    scaling,
    time_to_accuracy,
)
from benchmarks.__main__ import MODULES, PARTS, RUNNERS
from benchmarks.compare_libraries import COMPARISONS, MODELS, SETTINGS, histories
from benchmarks.runners.measure import ThroughputMeter, ValidationTimer, memory, score
from segue.core.config import parse
from segue.core.registry import model_class
from segue.core.types import Dataset, Events, HeldOut, Queries, Split, Vocab
from segue.experiment.paths import recipes_folder
from segue.experiment.plan import make_plan
from tests.nightly import only_nightly


def test_operations_of_one_target() -> None:
    job = {"model": "sasrec", "embedding_dim": 4, "inner": 8, "num_blocks": 2, "items": 10}
    actual = flops.needed(job, np.array([5]))
    assert actual["context"] == 3.0
    assert actual["head"] == 3 * 2 * 4 * 10
    assert actual["dense"] == 3 * 2 * (4 * 2 * 4 * 4 + 2 * 2 * 4 * 8)
    assert actual["attention"] == 3 * 2 * 2 * (2 * 4 * 3)
    assert actual["target"] == actual["head"] + actual["dense"] + actual["attention"]


def test_masked_target_costs_all_positions_per_mask() -> None:
    job = {"model": "bert4rec", "embedding_dim": 4, "inner": 8, "num_blocks": 2, "items": 10, "mask_prob": 0.25}
    actual, causal = flops.needed(job, np.array([5])), flops.needed(job | {"model": "sasrec"}, np.array([5]))
    assert actual["context"] == 5.0
    assert actual["head"] == causal["head"]
    assert actual["dense"] == 4 * causal["dense"]
    assert actual["attention"] / actual["context"] == 4 * causal["attention"] / causal["context"]


def test_operations_of_recurrent_layers() -> None:
    job = {"model": "gru4rec", "embedding_dim": 4, "inner": 8, "items": 10}
    one, two = (flops.needed(job | {"num_blocks": blocks}, np.array([5])) for blocks in (1, 2))
    assert one["dense"] == 3 * 2 * (3 * 8 * (4 + 8) + 8 * 4)
    assert two["dense"] - one["dense"] == 3 * 2 * 3 * 8 * (8 + 8)
    assert one["attention"] == 0.0


def test_visible_positions() -> None:
    lengths = np.array([1, 4])
    assert flops.visible(lengths) == (1 + 1 + 2 + 3 + 4) / 5
    assert flops.visible(lengths, bidirectional=True) == (1 + 4 + 4 + 4 + 4) / 5


def test_score_uses_the_last_item_as_target() -> None:
    offsets, items = np.array([0, 3, 5]), np.array([7, 8, 9, 5, 6], np.int32)
    actual = score(np.array([[9, 1, -1], [0, 1, 6]]), offsets, items)
    assert actual == {"hit_rate@3": 1.0, "ndcg@3": (1.0 + 1.0 / np.log2(4)) / 2}
    assert score(np.array([[7, 8], [5, -1]]), offsets, items)["hit_rate@2"] == 0.0
    assert score(np.array([[7, 8], [5, -1]]), offsets, items, before=1)["ndcg@2"] == (1.0 + 1.0 / np.log2(3)) / 2


def test_whole_histories_end_with_the_target() -> None:
    history, targets = Events.of([[1, 2], [3]]), Events.of([[0], [4]])
    test = HeldOut(Queries.of_users(np.array([0, 1], np.int32), history), targets)
    train = Dataset("two", Vocab(["a", "b"]), Vocab([str(i) for i in range(5)]), history)
    offsets, items = histories(Split(train, test, test))
    assert offsets.tolist() == [0, 3, 5]
    assert items.tolist() == [1, 2, 0, 3, 4]


def test_throughput_excludes_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = ThroughputMeter(warm_up=1)
    for at, targets in ((10.0, 1000), (12.0, 6), (14.0, 4)):
        monkeypatch.setattr("benchmarks.runners.measure.time.perf_counter", lambda at=at: at)
        monkeypatch.setattr("benchmarks.runners.measure.time.process_time", lambda at=at: 2 * at)
        meter.batch(targets, 2)
    assert meter.figures()["targets_per_second"] == 10 / 4.0
    assert meter.figures()["sequences_per_second"] == 4 / 4.0
    assert meter.figures()["targets_per_cpu_second"] == 10 / 8.0
    short = ThroughputMeter(warm_up=1)
    short.batch(1, 1)
    with pytest.raises(ValueError, match="1 batches"):
        short.figures()


def test_validation_timer_excludes_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("benchmarks.runners.measure.time.perf_counter", lambda: now[0])
    timer = ValidationTimer((np.array([0, 3]), np.array([7, 8, 9], np.int32)), limit=100.0, target=0.6)
    for seconds in (2.0, 3.0):
        timer.start()
        now[0] += seconds
        timer.stop()
        now[0] += 50.0
        is_over = timer.record_lists(np.array([[1, 8]]))
    assert timer.points == [(2.0, 1 / np.log2(3)), (5.0, 1 / np.log2(3))]
    assert is_over  # the target is reached
    assert not ValidationTimer(timer.events, 100.0, None).record_lists(np.array([[8, 1]]))
    assert ValidationTimer(timer.events, 0.0, None).record_lists(np.array([[8, 1]]))  # the limit is reached


def test_time_to_accuracy_table() -> None:
    runs = {"rectools": {"points": [(1.0, 0.1), (60.0, 0.2)]}, "segue": {"points": [(4.0, 0.21)]}}
    one = {"model": "sasrec", "length": 50, "library": "rectools", "minutes": 1.0, "target": 0.2, "runs": runs}
    one |= {"training_settings": "equal"}
    one |= {"settings": {"embedding_dim": 64}, "segue_settings": {"windows": "all"}, "peer_settings": {}}
    actual = one | {"peer_seconds": 60.0, "segue_seconds": 4.0}
    assert "| 0.2000 | 60 | 4.0 | 15.0 x less |" in "\n".join(time_to_accuracy.lines([actual]))
    assert "not reached" in "\n".join(time_to_accuracy.lines([actual | {"segue_seconds": None}]))


def test_time_to_accuracy_is_compared_at_lower_accuracies_and_states_partial_epochs() -> None:
    peer = {"points": [(10.0, 0.185), (20.0, 0.195), (60.0, 0.2)], "batches": 1_414, "epoch_batches": 7_673}
    own = {"points": [(4.0, 0.185), (8.0, 0.21)]}
    one = {"model": "bert4rec", "length": 50, "library": "recbole", "minutes": 1.0, "target": 0.2}
    one |= {"training_settings": "equal", "peer_seconds": 60.0, "segue_seconds": 8.0}
    one |= {"settings": {}, "segue_settings": {}, "peer_settings": {}, "runs": {"recbole": peer, "segue": own}}
    text = "\n".join(time_to_accuracy.lines([one]))
    assert "| 7.5 x less | 2.5 x less | 2.5 x less |" in text  # at all, 95 % and 90 % of 0.2
    assert "recbole 3 (median 10.0 s, longest 40.0 s apart, in 1,414 of the 7,673 batches of the first epoch)" in text
    assert "segue 2 (median 4.0 s, longest 4.0 s apart)" in text


def test_races_have_one_run_with_the_training_settings_of_the_other_library() -> None:
    for one in time_to_accuracy.TIME_COMPARISONS:
        equal, recipe = one.own_settings.values()
        same = SETTINGS | MODELS[one.model] | one.peer
        for name in ("batch", "learning_rate", "mask_last_prob"):
            assert (SETTINGS | MODELS[one.model] | equal).get(name) == same.get(name), name
        assert recipe != equal


def test_comparisons_have_all_settings() -> None:
    for comparison in COMPARISONS:
        assert {"model", "length", "embedding_dim", "num_blocks", "inner", "batch"} <= comparison.settings().keys()
        assert "segue" in comparison.libraries
    assert len({comparison.name for comparison in COMPARISONS}) == len(COMPARISONS)


def test_operations_and_bytes_of_a_position() -> None:
    config = {"embedding_dim": 4, "num_blocks": 2, "num_heads": 2}
    actual = {"layer_parameters": 100, "parameters": 200, "saved_bytes": 12.0, "positions": 40}
    operations, moved = gpu.needed({"model": "sasrec", "config": config, "length": 5, "items": 10}, actual)
    assert operations == 6 * 100 + 3 * 2 * 4 * 4 * 3 + 6 * 4 * 10
    assert moved == 2 * 12.0 + 40 * 200 / 40
    operations, _ = gpu.needed({"model": "xlstm", "config": config, "length": 5, "items": 10}, actual)
    assert operations == 6 * 100 + 3 * 1 * 4 * 8 * 4 + 6 * 4 * 10


def test_gpu_variants_include_every_kernel() -> None:
    assert list(gpu.variants("cpu")) == ["SASRec", "xLSTM", "xLSTM without sLSTM, native"]
    assert sum("triton" in name for name in gpu.variants("cuda:0")) >= 1
    for key, config in gpu.variants("cuda").values():
        parse(model_class(key).Config, config, "model")


def test_gpu_without_a_device() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("a CUDA device is available")
    with pytest.raises(ValueError, match="no CUDA device"):
        gpu.run("cuda", print)


def test_gpu_boards_show_test_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[bool] = []

    def ensure_run(plan: Any, log: Any, read_test: bool = False) -> Path:
        requests.append(read_test)
        return Path(plan.task.model)

    monkeypatch.setattr(gpu, "ensure_run", ensure_run)
    monkeypatch.setattr(gpu, "read_test_results", lambda folder: ({"part": "test", "run": folder.name}, None))
    actual = gpu.boards("cpu", print, quick=True)
    assert [board["record"]["run"] for board in actual] == ["sasrec", "xlstm"]
    assert requests == [True, True]


def test_memory_peak_is_at_least_current() -> None:
    actual = memory()
    assert actual["peak"] >= actual["now"] > 1


def test_loss_implementations_agree() -> None:
    actual = losses.measure(items=50, embedding_dim=4, batch=4, length=6, filled=0.5, repeat=1)
    assert (actual["targets"], actual["positions"]) == (12, 24)
    assert actual["blocked"]["loss"] == pytest.approx(actual["flat"]["loss"], rel=1e-5)
    assert actual["blocked"]["loss"] == pytest.approx(actual["transposed"]["loss"], rel=1e-5)


@only_nightly
def test_large_catalog(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    # measured in a separate process, as other tests may determine the peak of this one
    actual = large.run("simulated?users=20&items=300&seed=1", torch.get_num_threads(), quick=True)
    assert (actual["items"], actual["evaluated_users"]) == (300, 20)
    assert actual["targets"] > 20 * 3
    assert actual["peak_mib"] >= actual["train_peak_mib"] > actual["import_mib"]


def test_ratios() -> None:
    own, other = {"rate": 60.0, "seconds": 1.0}, {"rate": 10.0, "seconds": 4.0}
    assert report._ratio(own, other, "rate", True) == "6.00 x more"
    assert report._ratio(own, other, "seconds", False) == "4.00 x less"
    assert report._ratio(own, {}, "rate", True) == ""


def test_unknown_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEGUE_PEERS", str(tmp_path))
    with pytest.raises(ValueError, match="expected one of rectools, recbole, xlstm"):
        environments.interpreter("lightfm")
    assert environments.interpreter("rectools") is None
    with pytest.raises(ValueError, match="no environment 'rectools' there"):
        environments.interpreter("rectools", install=True)


@pytest.mark.parametrize("study", [file.stem for file in ablation.STUDIES.glob("*.toml")])
def test_ablation_variants_are_distinct(study: str) -> None:
    content, changes = ablation.variants(study)
    prints = [
        ablation.make_variant_plan(content, changed, seed).fingerprint()
        for changed in changes.values()
        for seed in range(2)
    ]
    assert len(set(prints)) == len(prints) == 2 * len(changes)


def test_unknown_study() -> None:
    with pytest.raises(ValueError, match=r"study: no 'ml-2k' in .*, expected one of amazon-beauty, ml-100k"):
        ablation.variants("ml-2k")


def segue_settings() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return model and settings of every run of Segue, by name."""
    settings = {f"scaling {name}": run for name, run in {**scaling.MODELS, **scaling.RECURRENT}.items()}
    groups = {"ratings_speed": ratings_speed.RUNS, **ranking_speed.RUNS}
    for group, runs in groups.items():
        for name, (library, job) in runs.items():
            if library == "segue":
                settings[f"{group} {name}"] = job["model"], job["settings"]
    return settings


@pytest.mark.parametrize("name", segue_settings())
def test_settings_of_segue_are_valid(name: str) -> None:
    model, settings = segue_settings()[name]
    parse(model_class(model).Config, settings, "model")


@pytest.mark.parametrize("task", ratings.TASKS)
def test_rating_tasks_are_valid(task: str) -> None:
    for name in ratings.rating_models(task):
        model, _, variant = name.partition("@")
        data = ratings.TASKS[task].data
        recipe = recipes_folder() / data / f"{model}-{variant}.toml" if variant else None
        overrides = [*ratings.TASKS[task].repetitions[0], *ratings.QUICK.get(model, [])]
        make_plan({"model": model, "data": data}, overrides, recipe)


def test_tuning_trials_are_valid() -> None:
    for model in equal_budget_tuning.sequential_models():
        for trial in equal_budget_tuning.trials(2):
            make_plan({"model": model, "data": "ml-100k"}, [*equal_budget_tuning.FIXED, *trial], "none")


def test_parts_have_a_function_or_a_static_page() -> None:
    plain = {"losses", "large", "dataset_build", "dataset_open", "evaluation"}
    assert set(PARTS) == set(RUNNERS) | plain | {"compare_checkouts"}
    for part in MODULES:
        module = import_module(f"benchmarks.{part}")
        assert {"page", "run"} <= set(module.__all__)
