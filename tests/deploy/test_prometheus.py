"""Rules and boards: Prometheus' own tool accepts them, and a real Prometheus answers them from real metrics."""

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
from operator_docs import DEPLOY, GIVEN, OTHERS, RECORDED, SERIES, names, rules, selected

from segue.core.events import Events
from segue.serving.monitoring.drift import Drift
from segue.serving.monitoring.metric_definitions import CLOSED
from segue.serving.monitoring.metrics import Metrics

PROMETHEUS = DEPLOY / "prometheus"
KEY = "segue_00000000_secret"
TESTS = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text("utf-8"))["tests"]
ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
BOARDS = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((DEPLOY / "grafana/dashboards").iterdir())}
SHOWN = [
    (f"{name}: {panel['title']}", target["expr"])
    for name, board in BOARDS.items()
    for panel in board["panels"]
    for target in panel.get("targets", [])
]
Ask = Callable[[str], list[Any]]


def promtool(*words: str) -> str:
    """What the tool says; a refusal is a failure."""
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed: apt install prometheus")
    done = subprocess.run([tool, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def configured(folder: Path, target: str) -> Path:
    """The configuration of deploy/ with its secret, its rules and one target put in, and haste."""
    told = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text("utf-8"))
    told["global"] = {"scrape_interval": "200ms", "evaluation_interval": "200ms"}
    told["rule_files"] = [str(PROMETHEUS / name) for name in told["rule_files"]]
    (job,) = told["scrape_configs"]
    assert {"names": ["segue"], "type": "A", "port": 8000} | job["dns_sd_configs"][0] == job.pop("dns_sd_configs")[0]
    job["static_configs"] = [{"targets": [target]}]
    job["authorization"] = {"credentials_file": str(folder / "metrics.key")}
    (folder / "metrics.key").write_text(KEY + "\n")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(told))
    return folder / "prometheus.yml"


def test_the_tool_accepts_configuration_and_rules(tmp_path: Path) -> None:
    promtool("check", "config", "--syntax-only", str(PROMETHEUS / "prometheus.yml"))
    assert f"{len(rules())} rules found" in promtool("check", "config", str(configured(tmp_path, "127.0.0.1:8000")))
    assert f"{len(rules())} rules found" in promtool("check", "rules", str(PROMETHEUS / "rules.yml"))


def test_rules_do_as_they_say() -> None:
    assert "SUCCESS" in promtool("test", "rules", str(PROMETHEUS / "rules_test.yml"))


def test_every_alert_is_tested_both_ways_and_explained() -> None:
    cases = [case for test in TESTS for case in test.get("alert_rule_test", [])]
    fires = {case["alertname"] for case in cases if case.get("exp_alerts")}
    rests = {case["alertname"] for case in cases if not case.get("exp_alerts")}
    assert fires == rests == set(ALERTS)
    text = (DEPLOY / "README.md").read_text("utf-8")
    for name, rule in ALERTS.items():
        assert rule["labels"].keys() == {"severity"}
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"].endswith(".")
        assert f"| `{name}` |" in text, name
    assert set(re.findall(r"^\| `(Segue\w+)` \|", text, re.MULTILINE)) == set(ALERTS)


def test_what_is_asked_for_exists() -> None:
    asked = [(rule.get("record") or rule["alert"], rule["expr"]) for rule in rules()]
    asked += [(test["name"], series["series"]) for test in TESTS for series in test["input_series"]]
    known = SERIES | RECORDED
    for where, query in [*asked, *SHOWN]:
        assert names(query), where
        assert names(query) <= known.keys() | OTHERS, where
        for name, label, operator, value in selected(query):
            if name in known:
                assert label in known[name] | GIVEN | {"le"}, (where, name, label)
            if label in CLOSED and operator in ("=", "!="):
                assert value in CLOSED[label], (where, label, value)


def test_labels_that_are_kept_are_those_of_the_name() -> None:
    for name, labels in RECORDED.items():
        rule = next(rule for rule in rules() if rule.get("record") == name)
        kept = {frozenset(re.split(r",\s*", found)) for found in re.findall(r"by \(([^)]*)\)", rule["expr"])}
        assert labels in [set(found) - {"le"} for found in kept], name
        assert labels <= {label for series in names(rule["expr"]) for label in SERIES.get(series, ())} | GIVEN, name


def test_all_that_is_measured_is_shown_or_warned_of() -> None:
    used = {name for _, query in SHOWN for name in names(query)}
    used |= {name for rule in rules() for name in names(rule["expr"])}
    bare = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used} | used
    assert not {name for name in SERIES if re.sub(r"_(bucket|sum|count)$", "", name) not in bare}
    assert RECORDED.keys() <= used


def test_the_reader_of_queries_reads_them() -> None:
    query = (
        'sum by (job, le) (rate(a_bucket{x=~"b{c}", y!="d"}[5m])) / (job:e:ratio > 0) and on (job) f or 0 * g{z="h"}'
    )
    assert names(query) == {"a_bucket", "job:e:ratio", "f", "g"}
    assert list(selected(query)) == [
        ("a_bucket", "x", "=~", "b{c}"),
        ("a_bucket", "y", "!=", "d"),
        ("g", "z", "=", "h"),
    ]


class Service:
    """A service that is well and has traffic, as far as metrics go."""

    def __init__(self) -> None:
        self.metrics, self._rng = Metrics(), np.random.default_rng(0)
        self.drift = Drift(Events.of([[0, 1, 2, 3]] * 50), 100, fewest=1)
        self.metrics.watch("films", self.drift)
        self.metrics.ready(True)
        self.metrics.model("films", "sasrec", "0123456789ab", active=True)
        self.metrics.golden("films", 64, 0)
        self.metrics.error("RuntimeError")
        self.metrics.step("popular", "deadline", 0)

    def traffic(self) -> None:
        """A batch of questions, and an event."""
        metrics, codes = self.metrics, self._rng.integers(0, 100, (4, 10)).astype(np.int32)
        for route in ("recommend", "events"):
            metrics.arrived()
            metrics.request(f"/v1/{route}", "POST", 200, 0.003)
        metrics.queue("questions", 1, 512)
        metrics.batch(4)
        metrics.asked(np.array([4, 4, 3, 0]), [10] * 4, {"known": 3, "none": 1}, rules=["deny"])
        metrics.store("redis", "kept", 0.0005)
        metrics.cache("answers", hit=True)
        metrics.engine("onnx", "films", 0.002, 4)
        metrics.step("model", count=4)
        metrics.served(codes, np.arange(100), 100, "films")
        metrics.events(1)
        self.drift.asked(Events.of([[0, 1, 2, 3]] * 50))


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[Service, str]]:
    """The service, and where its metrics are told to whoever has the key."""
    told = Service()

    class Door(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.traffic()
            body, kind = told.metrics.text()
            allowed = self.headers["Authorization"] == f"Bearer {KEY}" and self.path == "/metrics"
            self.send_response(200 if allowed else 401)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body) if allowed else 0))
            self.end_headers()
            self.wfile.write(body if allowed else b"")

        def log_message(self, *words: object) -> None:
            """Silence."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Door)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield told, f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def ask(service: tuple[Service, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Asks a Prometheus that has scraped the service; what a query gives, or its rules."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed: apt install prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    config = configured(folder, service[1])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    log = (folder / "log").open("w")
    running = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)

    def call(query: str) -> list[Any]:
        address_ = f"http://{address}/api/v1/" + (
            "rules" if query == "rules" else "query?" + urllib.parse.urlencode({"query": query})
        )
        with urllib.request.urlopen(address_, timeout=5) as answer:
            data = json.load(answer)["data"]
        return [rule for group in data["groups"] for rule in group["rules"]] if query == "rules" else data["result"]

    try:
        for _ in range(200):
            assert running.poll() is None, (folder / "log").read_text()
            try:
                if all(call(name) for name in RECORDED) and all(call(shown(query)) for _, query in SHOWN):
                    break
            except (urllib.error.URLError, ConnectionError):
                pass
            time.sleep(0.1)
        yield call
    finally:
        running.terminate()
        running.wait()
        log.close()


def shown(query: str) -> str:
    """A query of a board, as Grafana asks it."""
    filled = {"$__rate_interval": "1m", "$__range": "1m", "$job": "segue", "$instance": ".*"}
    for name, value in filled.items():
        query = query.replace(name, value)
    assert "$" not in query
    return query


def test_the_key_opens(ask: Ask, service: tuple[Service, str]) -> None:
    assert [(one["metric"]["instance"], one["value"][1]) for one in ask("up")] == [(service[1], "1")]


def test_every_rule_is_evaluated(ask: Ask) -> None:
    found = {rule["name"]: rule for rule in ask("rules")}
    assert found.keys() == RECORDED.keys() | ALERTS.keys()
    assert {rule["health"] for rule in found.values()} == {"ok"}, found


@pytest.mark.parametrize("name", RECORDED)
def test_what_is_recorded_has_a_value(ask: Ask, name: str) -> None:
    found = ask(name)
    assert found
    for one in found:
        assert one["metric"].keys() - {"__name__"} == RECORDED[name]
        assert np.isfinite(float(one["value"][1]))


@pytest.mark.parametrize(("where", "query"), SHOWN, ids=[f"{where}-{n}" for n, (where, _) in enumerate(SHOWN)])
def test_every_panel_shows_something(ask: Ask, where: str, query: str) -> None:
    assert ask(shown(query)), where


def test_numbers_are_right(ask: Ask) -> None:
    def one(query: str) -> float:
        (found,) = ask(query)
        return float(found["value"][1])

    assert one("job:segue_requests_failed:ratio5m") == 0
    assert one("job:segue_answers_below_model:ratio5m") == 0
    assert one('job_cache:segue_cache_hits:ratio5m{cache="answers"}') == pytest.approx(1)
    assert 0.0025 <= one('job_route:segue_request_seconds:p99_5m{route="/v1/recommend"}') <= 0.005
    assert one("job:segue_active_versions:count") == 1
    assert one('job_model_input:segue_drift_stability:max{input="items"}') < 0.1
    assert one("job_model:segue_served_popularity:mean30m") == pytest.approx(0.5, abs=0.1)


def test_alerts_rest_and_see_trouble(ask: Ask, service: tuple[Service, str]) -> None:
    assert ask("ALERTS") == []
    service[0].metrics.ready(False)
    service[0].metrics.golden("films", 63, 1)
    expected = {("SegueNotReady", "pending"), ("SegueGolden", "firing")}
    found: set[tuple[str, str]] = set()
    for _ in range(100):
        found = {(one["metric"]["alertname"], one["metric"]["alertstate"]) for one in ask("ALERTS")}
        if found == expected:
            break
        time.sleep(0.1)
    assert found == expected
