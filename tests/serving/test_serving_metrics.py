"""Metrics of the service: counting, threads, processes and bounded labels."""

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
from segue.serving.monitoring.coverage import Coverage, popularity_percentiles
from segue.serving.monitoring.drift import Drift
from segue.serving.monitoring.metric_definitions import CLOSED_LABELS, METRICS, OPEN_LABELS, MetricRegistry
from segue.serving.monitoring.metrics import Metrics

parser = pytest.importorskip("prometheus_client.parser", reason="prometheus-client is not installed")

WORKER = """
import os
import sys
from segue.core.events import Events
from segue.serving.monitoring.drift import Drift
from segue.serving.monitoring.metrics import Metrics
version, requests, mode = sys.argv[1:]
metrics = Metrics()
metrics.record_arrival()
metrics.set_ready(True)
metrics.set_model("films", "sasrec", version, active=True)
metrics.add_drift("films", Drift(Events.of([[0, 1, 2]] * 10), 3, min_sample_size=1))
for _ in range(int(requests)):
    metrics.record_arrival()
    metrics.record_request("/v1/recommend", "POST", 200, 0.003)
if mode == "keep-running":
    metrics._drifts["films"].record(Events.of([[2, 2]] * 3))
print(metrics.render()[0].decode(), flush=True)
if mode == "close":
    metrics.close()
elif mode == "die":
    os._exit(1)
elif mode == "keep-running":
    print("# running", flush=True)
    sys.stdin.read()
"""


def parse_metrics(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Return the value of every series, by name and sorted labels ``name=value``."""
    text, content_type = metrics.render()
    assert content_type.startswith("text/plain")
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in parser.text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def fill(metrics: Metrics) -> Metrics:
    """Call every method."""
    metrics.set_ready(True)
    metrics.record_arrival()
    metrics.record_arrival()
    metrics.record_request("/v1/recommend", "POST", 200, 0.003)
    metrics.record_rejection("rate_limited")
    metrics.record_error("RuntimeError")
    metrics.set_queue_length("recommend", 3, 512)
    metrics.record_batch(5)
    metrics.record_queue_time("plain", 0.002)
    metrics.record_cancellation("expensive")
    metrics.record_deadline_miss()
    metrics.record_engine_run("onnx", "films", 0.002, 5)
    metrics.record_predictions("ads", 0.003, 40)
    metrics.record_rerank_fallback("films", "time")
    metrics.record_responses("model", count=4)
    metrics.record_responses("popular", "deadline")
    metrics.record_cache_lookup("rules", hit=True)
    metrics.record_cache_lookup("rules", hit=False)
    metrics.record_store_call("sqlite", "append", 0.001)
    metrics.record_store_call("sqlite", "recent_events", 0.2, failed=True)
    metrics.set_model("films", "sasrec", "0123456789ab", active=True)
    metrics.set_model("films-new", "xlstm", "ba9876543210", active=False)
    metrics.record_activation()
    metrics.record_activation(rollback=True)
    metrics.set_golden_queries("films", matches=63, mismatches=1)
    metrics.record_requests(
        np.array([0, 7, 30]), [10, 10, 50], {"known": 2, "none": 1}, unknown_items=2, rules=["deny", "deny"]
    )
    metrics.record_events(accepted=8, duplicates=1, unknown_items=3)
    metrics.set_store_up(True)
    metrics.set_store_size(700, 1_000)
    metrics.record_item_changes("put", 3, 2)
    metrics.record_item_changes("delete", 1, 1)
    metrics.record_exposures("stored", 5)
    metrics.record_exposures("dropped", 2)
    metrics.record_served_items(np.array([[0, 1], [1, 3]], np.int32), np.array([10.0, 5, 5, 0]), 4, "films")
    metrics.add_drift("films", Drift(Events.of([[0, 1, 2]] * 10), 4, min_sample_size=1))
    return metrics


def test_each_method_updates_its_metrics() -> None:
    found = parse_metrics(fill(Metrics()))
    expected = {
        ("segue_ready",): 1,
        ("segue_requests_in_flight",): 1,
        ("segue_request_duration_seconds_count", "method=POST", "route=/v1/recommend", "status=2xx"): 1,
        ("segue_request_duration_seconds_bucket", "le=0.0025", "method=POST", "route=/v1/recommend", "status=2xx"): 0,
        ("segue_request_duration_seconds_bucket", "le=0.005", "method=POST", "route=/v1/recommend", "status=2xx"): 1,
        ("segue_rejected_requests_total", "reason=rate_limited"): 1,
        ("segue_rejected_requests_total", "reason=unauthorized"): 0,
        ("segue_errors_total", "kind=RuntimeError"): 1,
        ("segue_queue_length", "kind=recommend"): 3,
        ("segue_queue_capacity", "kind=recommend"): 512,
        ("segue_batch_size_sum", "kind=recommend"): 5,
        ("segue_queue_duration_seconds_count", "lane=plain"): 1,
        ("segue_cancelled_calls_total", "lane=plain"): 0,
        ("segue_cancelled_calls_total", "lane=expensive"): 1,
        ("segue_deadline_misses_total",): 1,
        ("segue_engine_duration_seconds_count", "engine=onnx", "model=films"): 1,
        ("segue_engine_rows_total", "engine=onnx", "model=films"): 5,
        ("segue_predicted_rows_total", "model=ads"): 40,
        ("segue_predict_duration_seconds_count", "model=ads"): 1,
        ("segue_predict_duration_seconds_bucket", "le=0.0025", "model=ads"): 0,
        ("segue_predict_duration_seconds_bucket", "le=0.005", "model=ads"): 1,
        ("segue_rerank_fallbacks_total", "limit=time", "model=films"): 1,
        ("segue_recommend_responses_total", "cause=none", "source=model"): 4,
        ("segue_recommend_responses_total", "cause=deadline", "source=popular"): 1,
        ("segue_recommend_responses_total", "cause=none", "source=fallback"): 0,
        ("segue_cache_lookups_total", "cache=rules", "result=hit"): 1,
        ("segue_cache_lookups_total", "cache=rules", "result=miss"): 1,
        ("segue_store_duration_seconds_count", "operation=append", "store=sqlite"): 1,
        ("segue_store_failures_total", "operation=append", "store=sqlite"): 0,
        ("segue_store_failures_total", "operation=recent_events", "store=sqlite"): 1,
        ("segue_store_up",): 1,
        ("segue_store_bytes",): 700,
        ("segue_store_limit_bytes",): 1_000,
        ("segue_item_changes_total", "operation=put"): 3,
        ("segue_item_changes_total", "operation=delete"): 1,
        ("segue_added_items",): 1,
        ("segue_exposures_total", "result=stored"): 5,
        ("segue_exposures_total", "result=dropped"): 2,
        ("segue_model_active", "key=sasrec", "model=films", "version=0123456789ab"): 1,
        ("segue_model_active", "key=xlstm", "model=films-new", "version=ba9876543210"): 0,
        ("segue_model_activations_total",): 2,
        ("segue_model_rollbacks_total",): 1,
        ("segue_model_golden_queries", "model=films", "result=match"): 63,
        ("segue_model_golden_queries", "model=films", "result=mismatch"): 1,
        ("segue_history_length_count",): 3,
        ("segue_history_length_sum",): 37,
        ("segue_history_length_bucket", "le=0.0"): 1,
        ("segue_history_unknown_items_total",): 2,
        ("segue_recommend_requests_total", "user=known"): 2,
        ("segue_recommend_requests_total", "user=unknown"): 0,
        ("segue_recommend_requests_total", "user=none"): 1,
        ("segue_requested_k_sum",): 70,
        ("segue_rules_total", "rule=deny"): 2,
        ("segue_events_total", "result=accepted"): 8,
        ("segue_events_total", "result=duplicate"): 1,
        ("segue_events_unknown_items_total",): 3,
        ("segue_served_items_total", "model=films"): 4,
        ("segue_served_popularity_total", "model=films"): 7 / 8 + 2 * 1 / 2 + 1 / 8,
        ("segue_served_coverage_ratio", "model=films"): 3 / 4,
        ("segue_drift_sample_size", "input=items", "model=films"): 0,
    }
    assert {name: found.get(name) for name in expected} == pytest.approx(expected)
    assert np.isnan(found["segue_drift_stability_index", "input=items", "model=films"])


def test_every_metric_is_used_and_passes_promtool() -> None:
    metrics = fill(Metrics())
    families = {family.name: family for family in parser.text_string_to_metric_families(metrics.render()[0].decode())}
    for metric in METRICS:
        family = families[metric.name.removesuffix("_total")]
        assert family.type == metric.kind, metric
        assert family.samples, metric
        assert family.documentation == metric.description
        assert metric.name.startswith("segue_"), metric
        assert metric.description.endswith("."), metric
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric
        assert all(label in CLOSED_LABELS or label in OPEN_LABELS for label in metric.labels), metric
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt install prometheus")
    result = subprocess.run([promtool, "check", "metrics"], input=metrics.render()[0], capture_output=True, check=False)
    assert (result.returncode, result.stderr.decode()) == (0, "")


def test_registries_are_independent() -> None:
    one, other = Metrics(), Metrics()
    one.record_rejection("overloaded")
    assert parse_metrics(other)["segue_rejected_requests_total", "reason=overloaded"] == 0
    assert parse_metrics(one)["segue_ready",] == 0


def test_the_number_of_series_is_bounded() -> None:
    metrics = fill(Metrics())
    before = len(parse_metrics(metrics))
    for n in range(2000):
        metrics.record_request(f"/{n}", f"M{n}", n, 0.1)
        metrics.record_rejection(f"{n}")
        metrics.record_error(f"{n}")
        metrics.set_queue_length(f"{n}", 1, 2)
        metrics.record_engine_run(f"{n}", f"{n}", 0.1, 1)
        metrics.record_responses(f"{n}", f"{n}")
        metrics.record_store_call(f"{n}", f"{n}", 0.1, failed=True)
        metrics.set_golden_queries(f"{n}", 1, 0)
        metrics.record_requests(np.array([n]), [n], {"known": 1}, rules=[f"{n}"])
    found = parse_metrics(metrics)
    assert len(found) - before < 10_000
    routes = {part for name in found for part in name if part.startswith("route=")}
    assert "route=other" in routes
    assert len(routes) == OPEN_LABELS["route"] + 1
    assert found["segue_rejected_requests_total", "reason=other"] == 2000
    assert {part for name in found for part in name if part.startswith("method=")} == {"method=POST", "method=other"}
    metrics.record_request("/v1/recommend", "POST", 200, 0.003)  # known values are still counted
    assert (
        parse_metrics(metrics)[
            "segue_request_duration_seconds_count", "method=POST", "route=/v1/recommend", "status=2xx"
        ]
        == 2
    )
    assert len(metrics._registry._children) < 2000


def test_label_sets() -> None:
    assert set(metric_definitions.SOURCES) == {"model", "fallback", "neighbors", "popular"}
    assert all(len(values) < 20 for values in CLOSED_LABELS.values())
    assert not {"user_id", "item", "id", "path", "address", "request"} & (CLOSED_LABELS.keys() | OPEN_LABELS.keys())


def test_wrong_number_of_labels() -> None:
    with pytest.raises(ValueError, match="segue_rejected_requests_total: got labels"):
        MetricRegistry().increment("segue_rejected_requests_total", "invalid", "invalid")


def test_requests_in_flight_are_never_negative() -> None:
    metrics = Metrics()
    metrics.record_request("/healthz", "GET", 200, 0.001)
    metrics.record_arrival()
    assert parse_metrics(metrics)["segue_requests_in_flight",] == 1


def test_one_model_is_active() -> None:
    metrics = Metrics()
    metrics.set_model("a", "sasrec", "1", active=True)
    metrics.set_model("b", "xlstm", "2", active=True)
    found = parse_metrics(metrics)
    assert found["segue_model_active", "key=sasrec", "model=a", "version=1"] == 0
    assert found["segue_model_active", "key=xlstm", "model=b", "version=2"] == 1
    metrics.set_model("b", "xlstm", "2", active=False)
    metrics.set_model("a", "sasrec", "1", active=True)
    metrics.set_model("a", "sasrec", "1", active=True)
    found = parse_metrics(metrics)
    assert found["segue_model_active", "key=sasrec", "model=a", "version=1"] == 1
    assert found["segue_model_active", "key=xlstm", "model=b", "version=2"] == 0


def test_drift_is_reported() -> None:
    metrics, trained = Metrics(), Events.of([[0, 0, 0, 1, 2]] * 200)
    drift = Drift(trained, 4)
    metrics.add_drift("films", drift)
    drift.record(Events.of([[2, 2, 2, 2, 1]] * 200))
    found = parse_metrics(metrics)
    assert found["segue_drift_stability_index", "input=items", "model=films"] > 0.25
    assert (
        found["segue_drift_stability_index", "input=items", "model=films"] == drift.measure()["items"].stability_index
    )
    assert found["segue_drift_divergence_ratio", "input=items", "model=films"] > 0.1
    assert found["segue_drift_sample_size", "input=items", "model=films"] == 1000
    metrics.remove_model("films")
    metrics.remove_model("films")
    drift.record(trained)
    assert parse_metrics(metrics)["segue_drift_sample_size", "input=items", "model=films"] == 1000


def test_thread_safety() -> None:
    metrics = Metrics()
    start = threading.Barrier(8)

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        start.wait()
        for _ in range(300):
            metrics.record_arrival()
            metrics.record_responses("model")
            metrics.record_served_items(rng.integers(0, 50, 10).astype(np.int32), None, 50, "films")
            metrics.record_request("/v1/recommend", "POST", 200, 0.001)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = parse_metrics(metrics)
    assert found["segue_recommend_responses_total", "cause=none", "source=model"] == 2400
    assert found["segue_served_items_total", "model=films"] == 24_000
    assert found["segue_served_coverage_ratio", "model=films"] == 1
    assert found["segue_requests_in_flight",] == 0


def test_metrics_of_several_processes(tmp_path: Path) -> None:
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}

    def work(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WORKER, *words]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        return subprocess.Popen(command, env=environment, text=True, **pipes)  # type: ignore[call-overload,no-any-return]

    for mode in ("close", "die"):
        work("v0", "4", mode).communicate()
    with work("v1", "3", "keep-running") as other:
        assert other.stdout is not None
        assert any(line.startswith("# running") for line in other.stdout)
        text, _ = work("v2", "5", "render").communicate()
        other.communicate()
    lines = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
    found = {name: float(value) for name, _, value in lines}
    assert (
        found['segue_request_duration_seconds_count{method="POST",route="/v1/recommend",status="2xx"}'] == 4 + 4 + 3 + 5
    )
    assert found["segue_requests_in_flight"] == 2  # of the two running processes
    assert found["segue_ready"] == 1
    assert found['segue_drift_sample_size{input="items",model="films"}'] == 6
    assert found['segue_drift_stability_index{input="items",model="films"}'] > 0.25  # although one process has no value
    active = {name for name, value in found.items() if name.startswith("segue_model_active") and value == 1}
    assert {re.findall(r'version="(\w+)"', name)[0] for name in active} == {"v1", "v2"}


def test_missing_prometheus_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ValueError, match=r"prometheus-client is not installed: pip install 'segue\[serve\]'"):
        MetricRegistry()


def test_coverage_window() -> None:
    rng, now = np.random.default_rng(0), [0.0]
    coverage = Coverage(200, seconds=10, clock=lambda: now[0])
    served: deque[tuple[float, np.ndarray]] = deque()
    for _ in range(300):
        now[0] += float(rng.exponential(1.0))
        items = rng.zipf(1.3, 5).clip(1, 200).astype(np.int32) - 1
        coverage.add(items)
        served.append((now[0], items))
        begin = (now[0] // 10 - 1) * 10  # of the previous bitmap
        recent = [items for at, items in served if at >= begin]
        assert coverage.ratio == len(np.unique(np.concatenate(recent))) / 200
    now[0] += 10
    assert 0 < coverage.ratio < 1
    now[0] += 35
    assert coverage.ratio == 0
    coverage.add(np.array([3, 3], np.int32))
    assert coverage.ratio == 1 / 200
    coverage.add(np.array([], np.int32))
    with pytest.raises(ValueError, match="got 0 items"):
        Coverage(0)


def test_a_new_catalog_resets_coverage() -> None:
    metrics = Metrics()
    metrics.record_served_items(np.arange(4, dtype=np.int32), None, 4, "films")
    assert parse_metrics(metrics)["segue_served_coverage_ratio", "model=films"] == 1
    metrics.record_served_items(np.arange(4, dtype=np.int32), None, 8, "films")
    assert parse_metrics(metrics)["segue_served_coverage_ratio", "model=films"] == 0.5
    assert ("segue_served_popularity_total", "model=films") not in parse_metrics(metrics)


def test_popularity_percentiles_are_mean_ranks() -> None:
    popularity_I = np.random.default_rng(0).zipf(1.5, 500)
    np.testing.assert_allclose(popularity_percentiles(popularity_I), (rankdata(popularity_I) - 0.5) / 500)
    np.testing.assert_allclose(popularity_percentiles(np.zeros(3)), 0.5)
