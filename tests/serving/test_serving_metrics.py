"""Metrics: each thing is counted where it should be, by several threads and processes, and labels stay few."""

import os
import re
import shutil
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import rankdata

from segue.core.events import Events
from segue.serving.monitoring import metric_definitions
from segue.serving.monitoring.coverage import Coverage, percentiles
from segue.serving.monitoring.drift import Drift
from segue.serving.monitoring.metric_definitions import CLOSED, INSTRUMENTS, OPEN, Instruments
from segue.serving.monitoring.metrics import Metrics

parser = pytest.importorskip("prometheus_client.parser", reason="prometheus-client is not installed")

WORKER = """
import os
import sys
from segue.core.events import Events
from segue.serving.monitoring.drift import Drift
from segue.serving.monitoring.metrics import Metrics
version, requests, way = sys.argv[1:]
metrics = Metrics()
metrics.arrived()
metrics.ready(True)
metrics.model("films", "sasrec", version, active=True)
metrics.watch("films", Drift(Events.of([[0, 1, 2]] * 10), 3, fewest=1))
for _ in range(int(requests)):
    metrics.arrived()
    metrics.request("/v1/recommend", "POST", 200, 0.003)
if way == "stay":
    metrics._watched["films"].asked(Events.of([[2, 2]] * 3))
print(metrics.text()[0].decode(), flush=True)
if way == "leave":
    metrics.close()
elif way == "die":
    os._exit(1)
elif way == "stay":
    print("# stays", flush=True)
    sys.stdin.read()
"""


def told(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Every series by its name and its labels, ``name=value``, in the order of the alphabet."""
    text, kind = metrics.text()
    assert kind.startswith("text/plain")
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in parser.text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def busy(metrics: Metrics) -> Metrics:
    """Every method called once."""
    metrics.ready(True)
    metrics.arrived()
    metrics.arrived()
    metrics.request("/v1/recommend", "POST", 200, 0.003)
    metrics.refused("rate")
    metrics.error("RuntimeError")
    metrics.queue("questions", 3, 512)
    metrics.batch(5)
    metrics.engine("onnx", "films", 0.002, 5)
    metrics.step("model", count=4)
    metrics.step("popular", "deadline")
    metrics.cache("answers", hit=True)
    metrics.cache("answers", hit=False)
    metrics.store("sqlite", "append", 0.001)
    metrics.store("sqlite", "kept", 0.2, failed=True)
    metrics.model("films", "sasrec", "0123456789ab", active=True)
    metrics.model("films-new", "xlstm", "ba9876543210", active=False)
    metrics.activated()
    metrics.activated(rollback=True)
    metrics.golden("films", agreed=63, differed=1)
    metrics.asked(np.array([0, 7, 30]), [10, 10, 50], {"known": 2, "none": 1}, unknown_items=2, rules=["deny", "deny"])
    metrics.events(accepted=8, duplicates=1, unknown_items=3)
    metrics.served(np.array([[0, 1], [1, 3]], np.int32), np.array([10.0, 5, 5, 0]), 4, "films")
    metrics.watch("films", Drift(Events.of([[0, 1, 2]] * 10), 4, fewest=1))
    return metrics


def test_each_thing_is_counted_where_it_should_be() -> None:
    found = told(busy(Metrics()))
    expected = {
        ("segue_ready",): 1,
        ("segue_requests_in_flight",): 1,
        ("segue_request_seconds_count", "method=POST", "route=/v1/recommend", "status=2xx"): 1,
        ("segue_request_seconds_bucket", "le=0.0025", "method=POST", "route=/v1/recommend", "status=2xx"): 0,
        ("segue_request_seconds_bucket", "le=0.005", "method=POST", "route=/v1/recommend", "status=2xx"): 1,
        ("segue_refused_total", "reason=rate"): 1,
        ("segue_refused_total", "reason=auth"): 0,
        ("segue_errors_total", "kind=RuntimeError"): 1,
        ("segue_queue_waiting", "kind=questions"): 3,
        ("segue_queue_limit", "kind=questions"): 512,
        ("segue_batch_size_sum", "kind=questions"): 5,
        ("segue_engine_seconds_count", "engine=onnx", "model=films"): 1,
        ("segue_engine_rows_total", "engine=onnx", "model=films"): 5,
        ("segue_answers_total", "cause=none", "step=model"): 4,
        ("segue_answers_total", "cause=deadline", "step=popular"): 1,
        ("segue_answers_total", "cause=none", "step=fallback"): 0,
        ("segue_cache_lookups_total", "cache=answers", "result=hit"): 1,
        ("segue_cache_lookups_total", "cache=answers", "result=miss"): 1,
        ("segue_store_seconds_count", "operation=append", "store=sqlite"): 1,
        ("segue_store_failures_total", "operation=append", "store=sqlite"): 0,
        ("segue_store_failures_total", "operation=kept", "store=sqlite"): 1,
        ("segue_model_active", "key=sasrec", "model=films", "version=0123456789ab"): 1,
        ("segue_model_active", "key=xlstm", "model=films-new", "version=ba9876543210"): 0,
        ("segue_model_activations_total",): 2,
        ("segue_model_rollbacks_total",): 1,
        ("segue_model_golden_queries", "model=films", "result=agreed"): 63,
        ("segue_model_golden_queries", "model=films", "result=differed"): 1,
        ("segue_history_events_count",): 3,
        ("segue_history_events_sum",): 37,
        ("segue_history_events_bucket", "le=0.0"): 1,
        ("segue_history_unknown_items_total",): 2,
        ("segue_questions_total", "user=known"): 2,
        ("segue_questions_total", "user=unknown"): 0,
        ("segue_questions_total", "user=none"): 1,
        ("segue_asked_items_sum",): 70,
        ("segue_rules_total", "rule=deny"): 2,
        ("segue_events_total", "result=accepted"): 8,
        ("segue_events_total", "result=duplicate"): 1,
        ("segue_events_unknown_items_total",): 3,
        ("segue_served_items_total", "model=films"): 4,
        ("segue_served_popularity_total", "model=films"): 7 / 8 + 2 * 1 / 2 + 1 / 8,
        ("segue_served_coverage_ratio", "model=films"): 3 / 4,
        ("segue_drift_sample", "input=items", "model=films"): 0,
    }
    assert {name: found.get(name) for name in expected} == pytest.approx(expected)
    assert np.isnan(found["segue_drift_stability_index", "input=items", "model=films"])


def test_every_instrument_is_used_and_lint_free() -> None:
    metrics = busy(Metrics())
    families = {family.name: family for family in parser.text_string_to_metric_families(metrics.text()[0].decode())}
    for one in INSTRUMENTS:
        family = families[one.name.removesuffix("_total")]
        assert family.type == one.kind, one
        assert family.samples, one
        assert family.documentation == one.text
        assert one.name.startswith("segue_"), one
        assert one.text.endswith("."), one
        assert one.name.endswith("_total") == (one.kind == "counter"), one
        assert all(label in CLOSED or label in OPEN for label in one.labels), one
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt install prometheus")
    done = subprocess.run([promtool, "check", "metrics"], input=metrics.text()[0], capture_output=True, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, "")


def test_metrics_are_independent_of_each_other() -> None:
    one, other = Metrics(), Metrics()
    one.refused("busy")
    assert told(other)["segue_refused_total", "reason=busy"] == 0
    assert told(one)["segue_ready",] == 0


def test_a_caller_cannot_make_series_without_end() -> None:
    metrics = busy(Metrics())
    before = len(told(metrics))
    for n in range(2000):
        metrics.request(f"/{n}", f"M{n}", n, 0.1)
        metrics.refused(f"{n}")
        metrics.error(f"{n}")
        metrics.queue(f"{n}", 1, 2)
        metrics.engine(f"{n}", f"{n}", 0.1, 1)
        metrics.step(f"{n}", f"{n}")
        metrics.store(f"{n}", f"{n}", 0.1, failed=True)
        metrics.golden(f"{n}", 1, 0)
        metrics.asked(np.array([n]), [n], {"known": 1}, rules=[f"{n}"])
    found = told(metrics)
    assert len(found) - before < 10_000
    routes = {part for name in found for part in name if part.startswith("route=")}
    assert "route=other" in routes
    assert len(routes) == OPEN["route"] + 1
    assert found["segue_refused_total", "reason=other"] == 2000
    assert {part for name in found for part in name if part.startswith("method=")} == {"method=POST", "method=other"}
    metrics.request("/v1/recommend", "POST", 200, 0.003)  # what was known before is so still
    assert told(metrics)["segue_request_seconds_count", "method=POST", "route=/v1/recommend", "status=2xx"] == 2
    assert len(metrics._told._children) < 2000


def test_labels_have_room_for_what_the_service_has() -> None:
    assert set(metric_definitions.STEPS) == {"model", "fallback", "neighbours", "popular"}
    assert all(len(values) < 20 for values in CLOSED.values())
    assert not {"user_id", "item", "id", "path", "address", "request"} & (CLOSED.keys() | OPEN.keys())


def test_wrong_labels_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="segue_refused_total: labels"):
        Instruments().count("segue_refused_total", "auth", "auth")


def test_requests_in_flight_are_never_negative() -> None:
    metrics = Metrics()
    metrics.request("/healthz", "GET", 200, 0.001)
    metrics.arrived()
    assert told(metrics)["segue_requests_in_flight",] == 1


def test_one_model_is_active() -> None:
    metrics = Metrics()
    metrics.model("a", "sasrec", "1", active=True)
    metrics.model("b", "xlstm", "2", active=True)
    found = told(metrics)
    assert found["segue_model_active", "key=sasrec", "model=a", "version=1"] == 0
    assert found["segue_model_active", "key=xlstm", "model=b", "version=2"] == 1
    metrics.model("b", "xlstm", "2", active=False)
    metrics.model("a", "sasrec", "1", active=True)
    metrics.model("a", "sasrec", "1", active=True)
    found = told(metrics)
    assert found["segue_model_active", "key=sasrec", "model=a", "version=1"] == 1
    assert found["segue_model_active", "key=xlstm", "model=b", "version=2"] == 0


def test_drift_is_told_when_asked_for() -> None:
    metrics, trained = Metrics(), Events.of([[0, 0, 0, 1, 2]] * 200)
    drift = Drift(trained, 4)
    metrics.watch("films", drift)
    drift.asked(Events.of([[2, 2, 2, 2, 1]] * 200))
    found = told(metrics)
    assert found["segue_drift_stability_index", "input=items", "model=films"] > 0.25
    assert found["segue_drift_stability_index", "input=items", "model=films"] == drift.measures()["items"].stability
    assert found["segue_drift_divergence_ratio", "input=items", "model=films"] > 0.1
    assert found["segue_drift_sample", "input=items", "model=films"] == 1000
    metrics.unwatch("films")
    metrics.unwatch("films")
    drift.asked(trained)
    assert told(metrics)["segue_drift_sample", "input=items", "model=films"] == 1000


def test_nothing_is_lost_between_threads() -> None:
    metrics = Metrics()
    start = threading.Barrier(8)

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        start.wait()
        for _ in range(300):
            metrics.arrived()
            metrics.step("model")
            metrics.served(rng.integers(0, 50, 10).astype(np.int32), None, 50, "films")
            metrics.request("/v1/recommend", "POST", 200, 0.001)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = told(metrics)
    assert found["segue_answers_total", "cause=none", "step=model"] == 2400
    assert found["segue_served_items_total", "model=films"] == 24_000
    assert found["segue_served_coverage_ratio", "model=films"] == 1
    assert found["segue_requests_in_flight",] == 0


def test_processes_add_up(tmp_path: Path) -> None:
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}

    def work(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WORKER, *words]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        return subprocess.Popen(command, env=environment, text=True, **pipes)  # type: ignore[call-overload,no-any-return]

    for way in ("leave", "die"):
        work("v0", "4", way).communicate()
    with work("v1", "3", "stay") as other:
        assert other.stdout is not None
        assert any(line.startswith("# stays") for line in other.stdout)
        text, _ = work("v2", "5", "look").communicate()
        other.communicate()
    lines = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
    found = {name: float(value) for name, _, value in lines}
    assert found['segue_request_seconds_count{method="POST",route="/v1/recommend",status="2xx"}'] == 4 + 4 + 3 + 5
    assert found["segue_requests_in_flight"] == 2  # of the two that live
    assert found["segue_ready"] == 1
    assert found['segue_drift_sample{input="items",model="films"}'] == 6
    assert found['segue_drift_stability_index{input="items",model="films"}'] > 0.25  # though one has nothing to tell
    active = {name for name, value in found.items() if name.startswith("segue_model_active") and value == 1}
    assert {re.findall(r'version="(\w+)"', name)[0] for name in active} == {"v1", "v2"}


def test_without_the_library_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ValueError, match=r"prometheus-client is not installed: pip install 'segue\[serve\]'"):
        Instruments()


def test_coverage_is_what_was_served_lately() -> None:
    rng, now = np.random.default_rng(0), [0.0]
    coverage = Coverage(200, seconds=10, clock=lambda: now[0])
    served: deque[tuple[float, np.ndarray]] = deque()
    for _ in range(300):
        now[0] += float(rng.exponential(1.0))
        items = rng.zipf(1.3, 5).clip(1, 200).astype(np.int32) - 1
        coverage.add(items)
        served.append((now[0], items))
        begin = (now[0] // 10 - 1) * 10  # of the bitmap before
        recent = [items for at, items in served if at >= begin]
        assert coverage.share == len(np.unique(np.concatenate(recent))) / 200
    now[0] += 10
    assert 0 < coverage.share < 1
    now[0] += 35
    assert coverage.share == 0
    coverage.add(np.array([3, 3], np.int32))
    assert coverage.share == 1 / 200
    coverage.add(np.array([], np.int32))
    with pytest.raises(ValueError, match="0 items"):
        Coverage(0)


def test_another_catalogue_begins_anew() -> None:
    metrics = Metrics()
    metrics.served(np.arange(4, dtype=np.int32), None, 4, "films")
    assert told(metrics)["segue_served_coverage_ratio", "model=films"] == 1
    metrics.served(np.arange(4, dtype=np.int32), None, 8, "films")
    assert told(metrics)["segue_served_coverage_ratio", "model=films"] == 0.5
    assert ("segue_served_popularity_total", "model=films") not in told(metrics)


def test_percentiles_are_mean_ranks() -> None:
    popularity_I = np.random.default_rng(0).zipf(1.5, 500)
    np.testing.assert_allclose(percentiles(popularity_I), (rankdata(popularity_I) - 0.5) / 500)
    np.testing.assert_allclose(percentiles(np.zeros(3)), 0.5)
