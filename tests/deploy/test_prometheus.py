"""Prometheus rules and dashboard queries, checked by promtool and a Prometheus server that scrapes real metrics."""

import http.server
import json
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from deployment import DEPLOY, EXTERNAL_SERIES, RECORDED, SERIES, TARGET_LABELS, label_matchers, rules, series_names

from segue.core.events import Events
from segue.serving.monitoring.drift import Drift
from segue.serving.monitoring.metric_definitions import CLOSED_LABELS
from segue.serving.monitoring.metrics import Metrics

PROMETHEUS = DEPLOY / "prometheus"
KEY = "segue_00000000_secret"
TESTS = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text("utf-8"))["tests"]
ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
DASHBOARDS = {
    path.stem: json.loads(path.read_text("utf-8")) for path in sorted((DEPLOY / "grafana/dashboards").iterdir())
}
PANEL_QUERIES = [
    (f"{name}: {panel['title']}", target["expr"])
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
    for target in panel.get("targets", [])
]
Query = Callable[[str], list[Any]]


def promtool(*words: str) -> str:
    """Run promtool and return its output."""
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed: apt install prometheus")
    result = subprocess.run([tool, *words], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def write_config(folder: Path, target: str) -> Path:
    """Write the configuration of deploy/ with a secret, absolute paths, one target and short intervals."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text("utf-8"))
    config["global"] = {"scrape_interval": "200ms", "evaluation_interval": "200ms"}
    config["rule_files"] = [str(PROMETHEUS / name) for name in config["rule_files"]]
    (job,) = config["scrape_configs"]
    assert {"names": ["segue"], "type": "A", "port": 8000} | job["dns_sd_configs"][0] == job.pop("dns_sd_configs")[0]
    job["static_configs"] = [{"targets": [target]}]
    job["authorization"] = {"credentials_file": str(folder / "metrics.key")}
    (folder / "metrics.key").write_text(KEY + "\n")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    return folder / "prometheus.yml"


def test_promtool_accepts_configuration_and_rules(tmp_path: Path) -> None:
    promtool("check", "config", "--syntax-only", str(PROMETHEUS / "prometheus.yml"))
    assert f"{len(rules())} rules found" in promtool("check", "config", str(write_config(tmp_path, "127.0.0.1:8000")))
    assert f"{len(rules())} rules found" in promtool("check", "rules", str(PROMETHEUS / "rules.yml"))


def test_rule_unit_tests() -> None:
    assert "SUCCESS" in promtool("test", "rules", str(PROMETHEUS / "rules_test.yml"))


def test_every_alert_is_tested_and_documented() -> None:
    cases = [case for test in TESTS for case in test.get("alert_rule_test", [])]
    fires = {case["alertname"] for case in cases if case.get("exp_alerts")}
    silent = {case["alertname"] for case in cases if not case.get("exp_alerts")}
    assert fires == silent == set(ALERTS)
    text = (DEPLOY / "README.md").read_text("utf-8")
    for name, rule in ALERTS.items():
        assert rule["labels"].keys() == {"severity"}
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"].endswith(".")
        assert f"| `{name}` |" in text, name
    assert set(re.findall(r"^\| `(Segue\w+)` \|", text, re.MULTILINE)) == set(ALERTS)


def test_queries_use_existing_series() -> None:
    queries = [(rule.get("record") or rule["alert"], rule["expr"]) for rule in rules()]
    queries += [(test["name"], series["series"]) for test in TESTS for series in test["input_series"]]
    known = SERIES | RECORDED
    for where, query in [*queries, *PANEL_QUERIES]:
        assert series_names(query), where
        assert series_names(query) <= known.keys() | EXTERNAL_SERIES, where
        for name, label, operator, value in label_matchers(query):
            if name in known:
                assert label in known[name] | TARGET_LABELS | {"le"}, (where, name, label)
            if label in CLOSED_LABELS and operator in ("=", "!="):
                assert value in CLOSED_LABELS[label], (where, label, value)


def test_names_of_recorded_series_list_their_labels() -> None:
    for name, labels in RECORDED.items():
        rule = next(rule for rule in rules() if rule.get("record") == name)
        groupings = {frozenset(re.split(r",\s*", labels)) for labels in re.findall(r"by \(([^)]*)\)", rule["expr"])}
        assert labels in [set(grouping) - {"le"} for grouping in groupings], name
        assert (
            labels
            <= {label for series in series_names(rule["expr"]) for label in SERIES.get(series, ())} | TARGET_LABELS
        ), name


def test_every_metric_is_used() -> None:
    used = {name for _, query in PANEL_QUERIES for name in series_names(query)}
    used |= {name for rule in rules() for name in series_names(rule["expr"])}
    base_names = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used} | used
    assert not {name for name in SERIES if re.sub(r"_(bucket|sum|count)$", "", name) not in base_names}
    assert RECORDED.keys() <= used


def test_query_parser() -> None:
    query = (
        'sum by (job, le) (rate(a_bucket{x=~"b{c}", y!="d"}[5m])) / (job:e:ratio > 0) and on (job) f or 0 * g{z="h"}'
    )
    assert series_names(query) == {"a_bucket", "job:e:ratio", "f", "g"}
    assert list(label_matchers(query)) == [
        ("a_bucket", "x", "=~", "b{c}"),
        ("a_bucket", "y", "!=", "d"),
        ("g", "z", "=", "h"),
    ]


class Service:
    """Metrics of a healthy service with traffic."""

    def __init__(self) -> None:
        self.metrics, self._rng = Metrics(), np.random.default_rng(0)
        self.drift = Drift(Events.of([[0, 1, 2, 3]] * 50), 100, min_sample_size=1)
        self.metrics.add_drift("films", self.drift)
        self.metrics.set_ready(True)
        self.metrics.set_store_up(True)
        self.metrics.set_store_size(100, 1_000)
        self.metrics.set_model("films", "sasrec", "0123456789ab", active=True)
        self.metrics.set_golden_queries("films", 64, 0)
        self.metrics.record_error("RuntimeError")
        self.metrics.record_responses("popular", "deadline", 0)

    def record_traffic(self) -> None:
        """Record a batch of requests and an event."""
        metrics, codes = self.metrics, self._rng.integers(0, 100, (4, 10)).astype(np.int32)
        for route in ("recommend", "events"):
            metrics.record_arrival()
            metrics.record_request(f"/v1/{route}", "POST", 200, 0.003)
        metrics.set_queue_length("recommend", 1, 512)
        metrics.record_batch(4)
        for lane in ("plain", "expensive"):
            metrics.record_queue_time(lane, 0.001)
        metrics.record_requests(np.array([4, 4, 3, 0]), [10] * 4, {"known": 3, "none": 1}, rules=["deny"])
        metrics.record_store_call("redis", "recent_events", 0.0005)
        metrics.record_cache_lookup("rules", hit=True)
        metrics.record_engine_run("onnx", "films", 0.002, 4)
        metrics.record_predictions("clicks", 0.003, 100)
        metrics.record_responses("model", count=4)
        metrics.record_served_items(codes, np.arange(100), 100, "films")
        metrics.record_events(1)
        metrics.record_item_changes("put", 1, 1)
        metrics.record_rerank_fallback("films", "time")
        self.drift.record(Events.of([[0, 1, 2, 3]] * 50))


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[Service, str]]:
    """Fake service, and the address where it exports metrics to clients with the key."""
    fake_service = Service()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fake_service.record_traffic()
            body, content_type = fake_service.metrics.render()
            is_authorized = self.headers["Authorization"] == f"Bearer {KEY}" and self.path == "/metrics"
            self.send_response(200 if is_authorized else 401)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body) if is_authorized else 0))
            self.end_headers()
            self.wfile.write(body if is_authorized else b"")

        def log_message(self, *arguments: object) -> None:
            """Log nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield fake_service, f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def query_prometheus(service: tuple[Service, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Query]:
    """Start a Prometheus server that scrapes the service; returns the result of a query, or all rules for ``rules``."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed: apt install prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    config = write_config(folder, service[1])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    log = (folder / "log").open("w")
    process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)

    def run_query(query: str) -> list[Any]:
        url = f"http://{address}/api/v1/" + (
            "rules" if query == "rules" else "query?" + urllib.parse.urlencode({"query": query})
        )
        with urllib.request.urlopen(url, timeout=5) as response:
            data = json.load(response)["data"]
        return [rule for group in data["groups"] for rule in group["rules"]] if query == "rules" else data["result"]

    try:
        for _ in range(200):
            assert process.poll() is None, (folder / "log").read_text()
            try:
                if all(run_query(name) for name in RECORDED) and all(
                    run_query(substitute_variables(query)) for _, query in PANEL_QUERIES
                ):
                    break
            except (urllib.error.URLError, ConnectionError):
                pass
            time.sleep(0.1)
        yield run_query
    finally:
        process.terminate()
        process.wait()
        log.close()


def substitute_variables(query: str) -> str:
    """Replace dashboard variables as Grafana does."""
    variables = {"$__rate_interval": "1m", "$__range": "1m", "$job": "segue", "$instance": ".*"}
    for name, value in variables.items():
        query = query.replace(name, value)
    assert "$" not in query
    return query


def test_scrape_with_key(query_prometheus: Query, service: tuple[Service, str]) -> None:
    assert [(one["metric"]["instance"], one["value"][1]) for one in query_prometheus("up")] == [(service[1], "1")]


def test_every_rule_is_evaluated(query_prometheus: Query) -> None:
    found = {rule["name"]: rule for rule in query_prometheus("rules")}
    assert found.keys() == RECORDED.keys() | ALERTS.keys()
    assert {rule["health"] for rule in found.values()} == {"ok"}, found


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_series_have_values(query_prometheus: Query, name: str) -> None:
    found = query_prometheus(name)
    assert found
    for one in found:
        assert one["metric"].keys() - {"__name__"} == RECORDED[name]
        assert np.isfinite(float(one["value"][1]))


@pytest.mark.parametrize(
    ("where", "query"), PANEL_QUERIES, ids=[f"{where}-{n}" for n, (where, _) in enumerate(PANEL_QUERIES)]
)
def test_every_panel_has_data(query_prometheus: Query, where: str, query: str) -> None:
    assert query_prometheus(substitute_variables(query)), where


def test_values(query_prometheus: Query) -> None:
    def one(query: str) -> float:
        (found,) = query_prometheus(query)
        return float(found["value"][1])

    assert one("job:segue_requests_failed:ratio5m") == 0
    assert one("job:segue_responses_fallback:ratio5m") == 0
    assert one('job_cache:segue_cache_hits:ratio5m{cache="rules"}') == pytest.approx(1)
    assert 0.0025 <= one('job_route:segue_request_duration_seconds:p99_5m{route="/v1/recommend"}') <= 0.005
    assert one("job:segue_active_versions:count") == 1
    assert one("job:segue_store_usage:ratio") == pytest.approx(0.1)
    assert one('job_model_input:segue_drift_stability:max{input="items"}') < 0.1
    assert one("job_model:segue_served_popularity:mean30m") == pytest.approx(0.5, abs=0.1)


def test_alerts(query_prometheus: Query, service: tuple[Service, str]) -> None:
    assert query_prometheus("ALERTS") == []
    service[0].metrics.set_ready(False)
    service[0].metrics.set_golden_queries("films", 63, 1)
    expected = {("SegueNotReady", "pending"), ("SegueGoldenMismatch", "firing")}
    found: set[tuple[str, str]] = set()
    for _ in range(100):
        found = {(one["metric"]["alertname"], one["metric"]["alertstate"]) for one in query_prometheus("ALERTS")}
        if found == expected:
            break
        time.sleep(0.1)
    assert found == expected
