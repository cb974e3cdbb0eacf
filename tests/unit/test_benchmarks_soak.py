"""The trial of the service finds what it looks for: each fault where there is one, and none where there is none."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import soak
from benchmarks.machine import describe
from benchmarks.soaking import checks
from benchmarks.soaking.monitor import counted
from segue.serving.stores.store import Event

NAMES = ("lost", "twice", "unasked", "changed", "disordered", "strangers")


def faults(trail: list[list[Any]], stored: list[tuple[str, str]], user: str = "zoe") -> dict[str, int]:
    found = checks.kept({"zoe": trail}, [Event(user, item, 0, key=key) for key, item in stored])
    return {name: found[name] for name in NAMES if found[name]}


def sent(*keys: str, acknowledged: bool = True, unsure: bool = False) -> list[list[Any]]:
    return [[key, f"i{key}", acknowledged, unsure] for key in keys]


def kept(*keys: str) -> list[tuple[str, str]]:
    return [(key, f"i{key}") for key in keys]


FORGOTTEN = [None, None, True, False]


@pytest.mark.parametrize(
    ("trail", "stored", "expected"),
    [
        (sent("1", "2"), kept("1", "2"), {}),
        (sent("1", "2"), kept("1"), {"lost": 1}),
        (sent("1", "2"), kept("1", "2", "2"), {"twice": 1, "disordered": 1}),
        (sent("1", "2"), kept("2", "1"), {"disordered": 1}),
        (sent("1"), kept("1", "9"), {"unasked": 1}),
        (sent("1"), [("1", "other")], {"changed": 1}),
        (sent("1", acknowledged=False), [], {}),
        (sent("1", acknowledged=False), kept("1"), {}),
        (sent("1", unsure=True), [], {"lost": 1}),
        ([*sent("1"), FORGOTTEN, *sent("2")], kept("2"), {}),
        ([*sent("1"), FORGOTTEN, *sent("2")], kept("1", "2"), {"unasked": 1}),
        ([*sent("1", unsure=True), FORGOTTEN], kept("1"), {}),  # a first attempt may come after all
        ([*sent("1"), [None, None, False, True], *sent("2")], [], {}),
        ([*sent("1"), [None, None, True, True], *sent("2")], kept("1", "2"), {"unasked": 1}),
    ],
)
def test_what_is_kept(trail: list[list[Any]], stored: list[tuple[str, str]], expected: dict[str, int]) -> None:
    assert faults(trail, stored) == expected


def test_somebody_whom_nobody_told_of() -> None:
    assert faults([], kept("1"), "bob") == {"strangers": 1}


def asked(begin: float, end: float, status: int = 200, **more: Any) -> dict[str, Any]:
    told = {"op": "recommend", "begin": begin, "end": end, "status": status, "wanted": 200, "error": ""}
    return told | {"questions": 1, "steps": {"model": 1} if status == 200 else {}} | more


def rows(attempts: list[dict[str, Any]], counts: dict[str, float], kills: tuple[float, ...] = ()) -> dict[str, bool]:
    scrapes = [{"begin": 9.9, "end": 10.0, "counts": counts}]
    found = checks.counters(attempts, scrapes, [{"begin": 0.0}], kills, walkers=1)
    return {row["what"]: row["fits"] for row in found}


def test_counters_are_between_what_was_answered_and_what_was_begun() -> None:
    attempts = [asked(1, 2), asked(8, 9.5), asked(9, 12, 0, error="ReadError")]
    for count, fits in ((0, False), (1, True), (2, True), (3, True), (4, False)):
        told = {"segue_request_seconds_count/2xx": count, "segue_answers_total/model": count}
        found = rows(attempts, told)
        assert found["answers 2xx"] is fits
        assert found["step model"] is fits
    assert rows(attempts, {"segue_answers_total/model": 1}, kills=(5.0,))["answers 2xx"]


def test_a_failure_that_is_not_counted_is_told() -> None:
    attempts = [asked(1, 2, 503, message="the store does not answer")]
    found = rows(attempts, {})
    assert [name for name, fits in found.items() if not fits] == ["answers 5xx", "refused: 503", "store failures"]


def test_failures_are_explained_by_what_was_done_at_the_time() -> None:
    seen = [{"kind": "worker_killed", "begin": 10, "end": 12}, {"kind": "store_killed", "begin": 30, "end": 31}]
    cut, busy = {"status": 0, "error": "ReadError"}, {"status": 503}
    for told, at, explained in (
        (cut, 11, True),
        (cut, 20, False),
        (cut, 30, False),
        (busy, 30, True),
        (busy, 11, False),
        ({"status": 500}, 30, False),
    ):
        found = checks.refusals([asked(at, at + 0.1) | told], seen, [])
        assert (found["unexplained_count"] == 0) is explained


def test_counters_are_read_by_their_label_and_probes_are_left_out() -> None:
    text = (
        "# TYPE segue_request_seconds histogram\n"
        'segue_request_seconds_count{route="/v1/events",status="2xx"} 3\n'
        'segue_request_seconds_count{route="/v1/recommend",status="2xx"} 4\n'
        'segue_request_seconds_count{route="/metrics",status="2xx"} 9\n'
        "# TYPE segue_model_activations counter\n"
        "segue_model_activations_total 2\n"
    )
    assert counted(text) == {"segue_request_seconds_count/2xx": 7, "segue_model_activations_total/": 2}


def test_memory_is_that_of_who_lives_longest() -> None:
    samples = [(float(when), 1, 100_000_000 + 1000 * when) for when in range(0, 3600, 10)]
    samples += [(float(when), 2, 10**9 * when) for when in range(0, 600, 10)]
    found = checks.memory(samples, 0, 3600)
    assert found["slope_mb_per_hour"] == pytest.approx(3.6)
    assert found["minutes"] == pytest.approx(59.8, abs=0.1)


def test_the_page_tells_what_came_out() -> None:
    attempts = [asked(number / 10, number / 10 + 0.05) for number in range(100)] + [asked(14, 14.05)]
    seen = [{"kind": "service_restarted", "begin": 10, "end": 14, "note": ""}]
    samples = [(float(when), 1, 100_000_000) for when in range(0, 3600, 10)]
    trial = {
        "attempts": len(attempts),
        "compared": 3,
        "events": checks.kept({"zoe": sent("1", "2")}, [Event("zoe", "i1", 0, key="1")]),
        "traffic_faults": {"counts": {"stale": 1}, "texts": {"stale": ["zoe: shown 1 events"]}},
        "trouble_faults": [],
        "refusals": checks.refusals(attempts, seen, []),
        "counters": [],
        "memory": checks.memory(samples, 0, 3600),
        "speeds": checks.speeds(attempts, seen),
        "gaps": checks.gaps(attempts, seen),
        "disturbances": seen,
        "samples": samples,
        "busy_percent": 50.0,
        "others_percent": 40.0,
        "others": ["python"],
    }
    verdict = soak.verdict(trial)
    assert [text.startswith("yes") for text in verdict.values()] == [False, False, True, True, True, True]
    found = {"machine": describe(), "rest_percent": 15.0, "busy_before_percent": 0.0, "runs": {"sqlite": trial}}
    page = soak.page(found | {"minutes": 60.0, "walkers": 8, "source": "simulated"})
    for told in ("**no**: lost 1", "| 4.1 s | 10 s | service restarted |", "stale: zoe", "recommend, calm"):
        assert told in page
    assert soak.figure(trial).startswith("<svg")
