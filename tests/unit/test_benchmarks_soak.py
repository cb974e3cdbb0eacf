"""Checks of the soak test detect each kind of fault and report none without faults."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import soak
from benchmarks.machine import describe
from benchmarks.soaking import checks
from benchmarks.soaking.monitor import COUNTERS, parse_counters
from segue.serving.monitoring.metric_definitions import METRICS, REJECTION_REASONS, SOURCES
from segue.serving.stores.store import Event


def violations(trail: list[list[Any]], stored: list[tuple[str, str]], user: str = "zoe") -> dict[str, int]:
    actual = checks.check_events({"zoe": trail}, [Event(user, item, 0, key=key) for key, item in stored])
    return {name: actual[name] for name in checks.VIOLATIONS if actual[name]}


def sent(*keys: str, acknowledged: bool = True, uncertain: bool = False) -> list[list[Any]]:
    return [[key, f"i{key}", acknowledged, uncertain] for key in keys]


def stored(*keys: str) -> list[tuple[str, str]]:
    return [(key, f"i{key}") for key in keys]


DELETED = [None, None, True, False]


@pytest.mark.parametrize(
    ("trail", "rows", "expected"),
    [
        (sent("1", "2"), stored("1", "2"), {}),
        (sent("1", "2"), stored("1"), {"lost": 1}),
        (sent("1", "2"), stored("1", "2", "2"), {"duplicated": 1, "reordered": 1}),
        (sent("1", "2"), stored("2", "1"), {"reordered": 1}),
        (sent("1"), stored("1", "9"), {"unexpected": 1}),
        (sent("1"), [("1", "other")], {"changed": 1}),
        (sent("1", acknowledged=False), [], {}),
        (sent("1", acknowledged=False), stored("1"), {}),
        (sent("1", uncertain=True), [], {"lost": 1}),
        ([*sent("1"), DELETED, *sent("2")], stored("2"), {}),
        ([*sent("1"), DELETED, *sent("2")], stored("1", "2"), {"unexpected": 1}),
        ([*sent("1", uncertain=True), DELETED], stored("1"), {}),  # a first attempt may be executed late
        ([*sent("1"), [None, None, False, True], *sent("2")], [], {}),
        ([*sent("1"), [None, None, True, True], *sent("2")], stored("1", "2"), {"unexpected": 1}),
    ],
)
def test_check_events(trail: list[list[Any]], rows: list[tuple[str, str]], expected: dict[str, int]) -> None:
    assert violations(trail, rows) == expected


def test_events_of_an_unknown_user() -> None:
    assert violations([], stored("1"), "bob") == {"unknown_users": 1}


def attempt(begin: float, end: float, status: int = 200, **more: Any) -> dict[str, Any]:
    common = {"op": "recommend", "begin": begin, "end": end, "status": status, "expected": 200, "error": ""}
    return common | {"queries": 1, "sources": {"model": 1} if status == 200 else {}} | more


def consistent(
    attempts: list[dict[str, Any]], counts: dict[str, float], kills: tuple[float, ...] = ()
) -> dict[str, bool]:
    scrapes = [{"begin": 9.9, "end": 10.0, "counts": counts}]
    actual = checks.check_counters(attempts, scrapes, [{"begin": 0.0}], kills, clients=1)
    return {row["what"]: row["is_consistent"] for row in actual}


def test_counters_lie_between_responses_and_requests() -> None:
    attempts = [attempt(1, 2), attempt(8, 9.5), attempt(9, 12, 0, error="ReadError")]
    for count, expected in ((0, False), (1, True), (2, True), (3, True), (4, False)):
        counts = {
            "segue_request_duration_seconds_count/2xx": count,
            "segue_recommend_responses_total/model": count,
        }
        actual = consistent(attempts, counts)
        assert actual["responses 2xx"] is expected
        assert actual["source model"] is expected
    assert consistent(attempts, {"segue_recommend_responses_total/model": 1}, kills=(5.0,))["responses 2xx"]


def test_uncounted_failure_is_detected() -> None:
    attempts = [attempt(1, 2, 503, message="event store unavailable; nothing was changed")]
    actual = consistent(attempts, {})
    assert [name for name, right in actual.items() if not right] == ["responses 5xx", "rejected: 503", "store failures"]


def test_failures_are_explained_by_the_fault_at_the_time() -> None:
    faults = [{"kind": "worker_killed", "begin": 10, "end": 12}, {"kind": "store_killed", "begin": 30, "end": 31}]
    disconnected, rejected = {"status": 0, "error": "ReadError"}, {"status": 503}
    for outcome, at, is_explained in (
        (disconnected, 11, True),
        (disconnected, 20, False),
        (disconnected, 30, False),
        (rejected, 30, True),
        (rejected, 11, False),
        ({"status": 500}, 30, False),
    ):
        actual = checks.explain_failures([attempt(at, at + 0.1) | outcome], faults, [])
        assert (actual["unexplained_count"] == 0) is is_explained


def test_parse_counters_excludes_probes() -> None:
    name = "segue_request_duration_seconds"
    text = (
        f"# TYPE {name} histogram\n"
        f'{name}_count{{route="/v1/events",status="2xx"}} 3\n'
        f'{name}_count{{route="/v1/recommend",status="2xx"}} 4\n'
        f'{name}_count{{route="/metrics",status="2xx"}} 9\n'
        "# TYPE segue_model_activations counter\n"
        "segue_model_activations_total 2\n"
    )
    assert parse_counters(text) == {f"{name}_count/2xx": 7, "segue_model_activations_total/": 2}


def test_counters_exist_in_the_service() -> None:
    labels = {metric.name: metric.labels for metric in METRICS}
    for name, label in COUNTERS.items():
        assert not label or label in labels[name.removesuffix("_count")]
    assert "overloaded" in REJECTION_REASONS
    assert SOURCES == ("model", "fallback", "neighbors", "popular")


def test_memory_trend_of_the_longest_lived_worker() -> None:
    samples = [(float(when), 1, 100_000_000 + 1000 * when) for when in range(0, 3600, 10)]
    samples += [(float(when), 2, 10**9 * when) for when in range(0, 600, 10)]
    actual = checks.memory_trend(samples, 0, 3600)
    assert actual["slope_mb_per_hour"] == pytest.approx(3.6)
    assert actual["minutes"] == pytest.approx(59.8, abs=0.1)


def test_page_shows_the_verdict() -> None:
    attempts = [attempt(number / 10, number / 10 + 0.05) for number in range(100)] + [attempt(14, 14.05)]
    faults = [{"kind": "service_restarted", "begin": 10, "end": 14, "note": ""}]
    samples = [(float(when), 1, 100_000_000) for when in range(0, 3600, 10)]
    trial = {
        "attempts": len(attempts),
        "compared": 3,
        "events": checks.check_events({"zoe": sent("1", "2")}, [Event("zoe", "i1", 0, key="1")]),
        "client_errors": {"counts": {"stale": 1}, "texts": {"stale": ["zoe: 1 events shown"]}},
        "injector_errors": [],
        "failures": checks.explain_failures(attempts, faults, []),
        "counters": [],
        "memory": checks.memory_trend(samples, 0, 3600),
        "latencies": checks.latencies(attempts, faults),
        "gaps": checks.find_gaps(attempts, faults),
        "faults": faults,
        "samples": samples,
        "load_percent": 50.0,
        "others_percent": 40.0,
        "others": ["python"],
    }
    verdict = soak.verdict(trial)
    assert [text.startswith("yes") for text in verdict.values()] == [False, False, True, True, True, True]
    actual = {"machine": describe(), "max_load_percent": 15.0, "load_before_percent": 0.0, "runs": {"sqlite": trial}}
    page = soak.page(actual | {"minutes": 60.0, "clients": 8, "source": "simulated"})
    for text in ("**no**: lost 1", "| 4.1 s | 10 s | service restarted |", "stale: zoe", "recommend, normal"):
        assert text in page
    assert soak.figure(trial).startswith("<svg")
