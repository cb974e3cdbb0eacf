"""Figures, targets and page of the attack benchmark, and the attackers of the soak test."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import attack, soak
from benchmarks.attacking import attacks
from benchmarks.attacking.attacks import ATTACKS
from benchmarks.attacking.plain_clients import Sample, summarize
from benchmarks.attacking.service import fill_library
from benchmarks.machine import describe, free_port
from benchmarks.soaking import checks
from benchmarks.soaking.attackers import attack_totals


def samples(*seconds: float, client: int = 0, status: int = 200, begin: float = 0.0) -> list[Sample]:
    """Requests of one client, one after another."""
    found = []
    for one in seconds:
        found.append(Sample(client, begin, begin + one, status))
        begin += one
    return found


def test_summary_counts_the_requests_sent_in_the_period() -> None:
    actual = summarize(samples(*[0.1] * 100), 1.0, 2.0)
    assert 9 <= actual["requests"] <= 11
    assert actual["p50_ms"] == pytest.approx(100)
    assert actual["failed"] == {}
    assert actual["blocked_seconds"] == pytest.approx(0.1)


def test_a_failed_request_is_never_answered() -> None:
    fast = samples(*[0.01] * 980)
    actual = summarize([*fast, *samples(*[0.001] * 20, status=503, begin=9.8)], 0.0, 10.0)
    assert actual["failed"] == {"503": 20}
    assert actual["p50_ms"] == pytest.approx(10)
    assert actual["p99_ms"] is None
    assert summarize([], 0.0, 1.0)["p50_ms"] is None


def test_blocked_time_is_that_of_the_client_that_waits_longest() -> None:
    patient = samples(*[0.1] * 200)
    blocked = [
        *samples(0.1, 0.1, client=1),
        *samples(7.0, client=1, begin=0.2),
        *samples(*[0.1] * 50, client=1, begin=7.2),
    ]
    assert summarize([*patient, *blocked], 0.0, 5.0)["blocked_seconds"] == pytest.approx(7.0)
    never = [*samples(0.1, client=1), *samples(8.0, client=1, begin=0.1, status=0)]
    assert summarize([*patient, *never], 0.0, 5.0)["blocked_seconds"] == pytest.approx(8.0)


def trial(name: str = "trailers", side: str = "new", **more: Any) -> dict[str, Any]:
    calm = {"requests": 500, "answered": 500, "failed": {}, "p50_ms": 5.0, "p99_ms": 20.0, "blocked_seconds": 0.2}
    report = {"attack": name, "connections": 3, "sent_bytes": 10**6, "statuses": {"400": 3}}
    return {
        "side": side,
        "attack": name,
        "memory_mb": [500.0, 520.0],
        "store_mb": [1.0, 1.1],
        "quiet": calm,
        "attacked": calm,
        "probes": calm,
        "report": report,
        "is_alive": True,
        "tracebacks": 0,
    } | more


def missed(*trials: dict[str, Any]) -> list[str]:
    return [text for _, violations in attack.targets({"trials": trials}) for text in violations]


CALM = trial()["attacked"]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, []),
        ({"memory_mb": [500.0, 2000.0]}, ["trailers: 1,500 MB"]),
        ({"attacked": CALM | {"blocked_seconds": 7.0}}, ["trailers: 7.0 s"]),
        ({"probes": CALM | {"blocked_seconds": 7.0}}, ["trailers: 7.0 s"]),
        ({"attacked": CALM | {"failed": {"0": 2, "503": 1}}}, ["trailers: 2 x no response, 1 x 503"]),
        ({"store_mb": [1.0, 78.0]}, ["trailers: 77.0 MB"]),
        ({"tracebacks": 2}, ["trailers: 2"]),
        ({"report": trial()["report"] | {"statuses": {"500": 1, "503": 9}}}, ["trailers: 500"]),
        ({"attack": "deletions", "report": trial()["report"] | {"traces": 4}}, ["deletions: 4"]),
        ({"attack": "replaced_store", "report": trial()["report"] | {"lost": 4}}, ["replaced_store: 4"]),
        ({"attack": "model_names", "report": trial()["report"] | {"leaks": 4}}, ["model_names: 4"]),
    ],
)
def test_each_target_can_be_missed(more: dict[str, Any], expected: list[str]) -> None:
    assert missed(trial(**more)) == expected


def test_the_ratio_of_p99_is_the_median_of_the_repetitions() -> None:
    def rerank(p99: float | None) -> dict[str, Any]:
        return trial("expensive_reranks", attacked=CALM | {"p99_ms": p99})

    assert missed(rerank(50.0), rerank(40.0), rerank(1000.0)) == []
    assert missed(rerank(50.0), rerank(None), rerank(1000.0)) == ["median 50.0 of 2.5, inf, 50.0"]
    assert attack.typical([rerank(50.0), rerank(None), rerank(70.0)])["attacked"]["p99_ms"] == 70.0


def test_page_compares_both_sides_and_names_what_is_not_met() -> None:
    before = trial("expensive_reranks", "old", attacked=CALM | {"p99_ms": 560.0})
    now = trial("expensive_reranks", attacked=CALM | {"p99_ms": None, "failed": {"503": 9}})
    found = {"machine": describe(), "max_load_percent": 15.0, "load_before_percent": 0.0, "sides": ["old", "new"]}
    page = attack.page(found | {"items": 10, "users": 5, "seconds": 8.0, "trials": [before, now]})
    for text in (
        "is below 3 times its quiet value: **no**: median inf of inf",
        "| before | 500 → 520 | 0.2 | 5.0 → 5.0 | 20.0 → 560 | 28.0 | 0 of 500 |",
        "| now | 500 → 520 | 0.2 | 5.0 → 5.0 | 20.0 → none | inf | 9 x 503 of 500 |",
        "* before: 28.0; median 28.0",
        "no traceback in the log: yes",
    ):
        assert text in page


def test_every_script_is_part_of_the_benchmark() -> None:
    assert {path.stem for path in attacks.FOLDER.glob("*.py")} == {*ATTACKS, "attacker"}
    soaked = {name for name, one in ATTACKS.items() if one.soak_strength is not None}
    assert {name for name, one in ATTACKS.items() if one.scope in (None, "read")} == soaked


def test_a_script_reports_that_the_service_is_away() -> None:
    process = attacks.start_attack("idle_connections", f"http://127.0.0.1:{free_port()}", None, 0.1, 0.001)
    assert attacks.wait_for_report(process, 30) == {"attack": "idle_connections", "refused": 1, "statuses": {}}
    with pytest.raises(RuntimeError, match="exit status 2"):
        attacks.wait_for_report(attacks.start_attack("idle_connections", "http://10.0.0.1:1", None, 0.1), 30)


def test_the_library_has_damaged_models_and_names_outside(tmp_path: Path) -> None:
    from segue.serving.artifacts.manifest import Manifest
    from tests.serving.world import artifact_folder

    fill_library(artifact_folder("ease"), tmp_path / "library")
    names = {path.name for path in (tmp_path / "library").iterdir()}
    assert {"spare0", "damaged", "outside", "absolute"} < names
    assert Manifest.read(tmp_path / "library" / "spare0").name == "spare0"
    text = json.loads((tmp_path / "library" / "outside" / "artifact.json").read_text())
    assert "../../secret.txt" in text["sha256"]


def test_totals_of_attacks() -> None:
    reports = [{"attack": "trailers", "connections": 2, "statuses": {"400": 2}, "files": ["a"]}] * 2
    actual = attack_totals([{"kind": "attack trailers", "begin": 0, "end": 1, "report": one} for one in reports])
    assert actual == {"trailers": {"attacks": 2, "connections": 4, "statuses": {"400": 4}}}


def test_server_errors_of_clients_and_attackers() -> None:
    attempts = [{"status": status} for status in (200, 503, 500, 0)]
    reports = [{"report": {"statuses": {"500": 2, "503": 9, "504": 1, "200": 5}}}]
    assert checks.server_errors(attempts, reports) == {"500": 3, "504": 1}


def test_latencies_under_attack_are_apart_from_those_during_faults() -> None:
    attempts = [
        {"op": "recommend", "begin": begin, "end": begin + 0.1, "status": 200, "expected": 200}
        for begin in (1.0, 11.0, 31.0)
    ]
    faults, attacked = [{"begin": 30, "end": 31}], [{"begin": 10, "end": 12}, {"begin": 30, "end": 32}]
    actual = checks.latencies(attempts, faults, attacked)
    assert set(actual) == {"recommend, normal", "recommend, under attack", "recommend, during faults"}


def test_the_size_of_a_store_is_explained_by_its_contents() -> None:
    assert checks.check_store_size(10**6, 100, 0, 5)["explained"] > 10**6
    actual = checks.check_store_size(77_000_000, 100, 100, 10)
    assert actual["size"] > actual["explained"]


@pytest.mark.parametrize(
    ("attacked_ms", "responses", "expected"),
    [
        (250.0, 500, "yes: 250 ms under attack, 100 ms otherwise, 2.5 times"),
        (400.0, 500, "**no**"),
        (9.0, 5, "too few"),
    ],
)
def test_soak_bounds_p99_under_attack(attacked_ms: float, responses: int, expected: str) -> None:
    latencies = {
        "recommend, normal": {"responses": 500, "p99_ms": 100.0},
        "recommend, under attack": {"responses": responses, "p99_ms": attacked_ms},
    }
    assert soak.describe_ratio(latencies).startswith(expected)
    assert soak.describe_ratio({}).startswith("too few")
