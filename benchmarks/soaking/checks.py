"""Checks after a soak test: acknowledged against stored events, responses against counters, memory, latency."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from segue.serving.stores.store import Event

__all__ = [
    "VIOLATIONS",
    "check_counters",
    "check_events",
    "check_store_size",
    "explain_failures",
    "find_gaps",
    "latencies",
    "memory_trend",
    "server_errors",
]

VIOLATIONS = ("lost", "duplicated", "unexpected", "changed", "reordered", "unknown_users")
"""Ways in which stored events may contradict the acknowledged ones."""

ALLOWED_FAILURES = {
    "worker_killed": (True, False),
    "service_restarted": (True, True),
    "store_restarted": (False, True),
    "store_killed": (False, True),
    "store_frozen": (False, True),
    "store_locked": (False, True),
}
"""By fault, whether connections may fail during it, and whether responses may be 503."""

RECOVERY_SECONDS = 3.0
"""Time after a fault that still counts as part of it."""

QUIET_SECONDS = 1.0
"""Time after an attack that is not part of the quiet period."""

ROW_BYTES, USER_BYTES, BASE_BYTES = 1_024, 65_536, 16_777_216
"""What the size of a store may be, indexes included: per event or exposure, per user with a state, and at least."""

Row = Mapping[str, Any]


def check_events(trails: Mapping[str, Sequence[Sequence[Any]]], events: Iterable[Event]) -> dict[str, Any]:
    """Compare acknowledged events with those in the store.

    Args:
        trails: by user, in the order in which one client acted, ``[key, item, is_acknowledged, is_uncertain]`` of
            events, and the same with a key of ``None`` for the deletion of the user. Uncertain: a request failed in a
            way that does not tell whether it was executed.
        events: all events of the store, in its order.
    """
    stored: dict[str, list[tuple[str | None, str]]] = {}
    for event in events:
        stored.setdefault(event.user, []).append((event.key, event.item))
    found: Counter[str] = Counter(users=len(trails), stored=sum(map(len, stored.values())))
    texts: list[str] = []
    for user, trail in trails.items():
        acknowledged: dict[str, str] = {}
        may_exist: set[str] = set()
        may_be_deleted: set[str] = set()  # by a deletion that was executed late
        is_deletion_pending = False
        for key, item, is_acknowledged, is_uncertain in trail:
            if key is None:
                found["deleted_users"] += is_acknowledged
                is_deletion_pending |= is_uncertain or not is_acknowledged
                if is_acknowledged:
                    found["deleted"] += len(acknowledged)
                    acknowledged = {}
                else:
                    may_be_deleted |= set(acknowledged)
                continue
            found["acknowledged"] += is_acknowledged
            found["unacknowledged"] += not is_acknowledged
            if is_acknowledged:
                acknowledged[key] = item
                may_be_deleted |= {key} if is_deletion_pending else set()
            if is_uncertain or not is_acknowledged:
                may_exist.add(key)
        rows = stored.pop(user, [])
        counts = Counter(key for key, _ in rows)
        violations = {
            "lost": [key for key in acknowledged if key not in counts and key not in may_be_deleted],
            "duplicated": [key for key, count in counts.items() if count > 1],
            "unexpected": [key for key in counts if key not in acknowledged and key not in may_exist],
            "changed": [key for key, item in rows if key in acknowledged and acknowledged[key] != item],
        }
        if [key for key, _ in rows if key in acknowledged] != [key for key in acknowledged if key in counts]:
            violations["reordered"] = [user]
        for kind, keys in violations.items():
            found[kind] += len(keys)
            texts += [f"{kind}: {user} {key}" for key in keys[:3]]
    found["unknown_users"] = sum(map(len, stored.values()))
    names = (*VIOLATIONS, "deleted", "deleted_users", "unacknowledged")
    return {**dict.fromkeys(names, 0), **found, "texts": texts[:20]}


def explain_failures(attempts: Sequence[Row], faults: Sequence[Row], lifetimes: Sequence[Row]) -> dict[str, Any]:
    """Count failed requests by kind, and list those that no injected fault explains."""
    found: dict[str, Any] = {"failed": Counter(), "unexplained": [], "unexplained_count": 0}
    windows = [
        (*ALLOWED_FAILURES[fault["kind"]], fault["begin"] - 0.1, fault["end"] + RECOVERY_SECONDS)
        for fault in faults
        if fault["kind"] in ALLOWED_FAILURES
    ]
    for one in attempts:
        if one["status"] == one["expected"]:
            continue
        found["failed"][f"{one['status']}" if one["status"] else one["error"]] += 1
        is_explained = any(
            one["end"] >= begin
            and one["begin"] <= end
            and (may_disconnect if not one["status"] else one["status"] == 503 and may_reject)
            for may_disconnect, may_reject, begin, end in windows
        )
        if not is_explained:
            found["unexplained_count"] += 1
            text = f"{one['begin']:.1f} {one['op']}: {one['status']} {one['error']} {one.get('message', '')}"
            found["unexplained"] += [text] if len(found["unexplained"]) < 20 else []
    found["statuses"] = sorted({lifetime.get("status") for lifetime in lifetimes}, key=str)
    return found


Count = Callable[[Row], int]


def _counters() -> dict[str, tuple[str, Count, Count]]:
    """Return by title a counter of the service, how much a request adds to it, and how much it may add if it failed."""
    counters: dict[str, tuple[str, Count, Count]] = {
        f"responses {status}xx": (
            f"segue_request_duration_seconds_count/{status}xx",
            lambda one, status=status: one["status"] // 100 == status,
            lambda one: not one["status"],
        )
        for status in (2, 4, 5)
    }
    counters["rejected: 503"] = (
        "segue_rejected_requests_total/overloaded",
        lambda one: one["status"] == 503,
        lambda one: not one["status"],
    )
    counters["store failures"] = (
        "segue_errors_total/store",
        lambda one: "store unavailable" in one.get("message", "") or one.get("store_failures", 0) > 0,
        lambda one: 10**9,
    )
    for source in ("model", "fallback", "neighbors", "popular"):
        counters[f"source {source}"] = (
            f"segue_recommend_responses_total/{source}",
            lambda one, source=source: one.get("sources", {}).get(source, 0),
            lambda one: one["queries"] * (one["status"] != 200),
        )
    counters["activations"] = (
        "segue_model_activations_total/",
        lambda one: one["op"] == "activate" and one["status"] == 200,
        lambda one: one["op"] == "activate" and not one["status"],
    )
    return counters


def check_counters(
    attempts: Sequence[Row],
    scrapes: Sequence[Row],
    lifetimes: Sequence[Row],
    kills: Sequence[float],
    clients: int,
    has_attackers: bool = False,
) -> list[dict[str, Any]]:
    """Compare the counters of the service with the requests of the clients, per lifetime of the service.

    The last scrape of a lifetime must include all responses of up to a second before it began, and no more requests
    than were sent before it ended; requests without a response may or may not be included. A killed worker may have
    sent responses that it had not counted yet, at most one per client: this is the tolerance. What it had counted is in
    a file and remains. Attackers raise all counters but that of activations, which then have no maximum.
    """
    rows = []
    for number, lifetime in enumerate(lifetimes):
        own_scrapes = [one for one in scrapes if lifetime["begin"] <= one["begin"] <= lifetime.get("end", np.inf)]
        if not own_scrapes:
            continue
        last = own_scrapes[-1]
        own = [one for one in attempts if lifetime["begin"] <= one["begin"] <= last["end"]]
        tolerance = clients * sum(lifetime["begin"] <= kill <= last["end"] for kill in kills)
        decreases = sum(
            value > after["counts"].get(name, 0)
            for before, after in pairwise(own_scrapes)
            for name, value in before["counts"].items()
        )
        for name, (counter, certain, possible) in _counters().items():
            minimum = sum(certain(one) for one in own if one["end"] <= last["begin"] - 1)
            maximum = sum(certain(one) or possible(one) for one in own)
            if has_attackers and name != "activations":
                maximum = 10**9
            count = int(last["counts"].get(counter, 0))
            if name == "store failures":  # one failure may affect a whole batch of requests
                is_consistent = count > 0 or not minimum
            else:
                is_consistent = minimum - tolerance <= count <= maximum
            rows.append({"lifetime": number + 1, "what": name, "minimum": minimum, "maximum": maximum,
                         "counted": count, "tolerance": tolerance, "is_consistent": bool(is_consistent),
                         "decreases": decreases})  # fmt: skip
    return rows


def memory_trend(samples: Sequence[tuple[float, int, int]], begin: float, until: float) -> dict[str, Any]:
    """Fit the memory of the longest-lived worker after the first quarter: MB, and MB per hour by least squares."""
    if not samples:
        return {}
    lived = {pid: [when for when, one, _ in samples if one == pid] for _, pid, _ in samples}
    pid = max(lived, key=lambda one: lived[one][-1] - lived[one][0])
    after = max(begin + (until - begin) / 4, lived[pid][0] + 5)
    rows = [(when, size / 1e6) for when, one, size in samples if one == pid and when >= after]
    found: dict[str, Any] = {"processes": len(lived), "minutes": (lived[pid][-1] - lived[pid][0]) / 60}
    if len(rows) < 5:
        return found
    for name, part in (("slope", rows), ("slope_of_last_half", rows[len(rows) // 2 :])):
        hours, sizes = np.array(part).T
        found[f"{name}_mb_per_hour"] = float(np.polyfit((hours - hours[0]) / 3600, sizes, 1)[0])
    found |= {"first_mb": rows[0][1], "last_mb": rows[-1][1], "max_mb": max(size for _, size in rows)}
    return found


def latencies(
    attempts: Sequence[Row], faults: Sequence[Row], attacks: Sequence[Row] = ()
) -> dict[str, dict[str, float]]:
    """Compute milliseconds of successful responses by operation: normal, under attack, and with a fault at the time."""
    groups: dict[str, list[float]] = {}
    for one in attempts:
        if one["status"] == one["expected"] == 200:
            if _overlaps(one, faults, RECOVERY_SECONDS):
                period = "during faults"
            else:
                period = "under attack" if _overlaps(one, attacks, QUIET_SECONDS) else "normal"
            groups.setdefault(f"{one['op']}, {period}", []).append(one["end"] - one["begin"])
    found = {}
    for name, seconds in sorted(groups.items()):
        p50, p95, p99 = (1000 * np.quantile(seconds, [0.5, 0.95, 0.99])).tolist()
        found[name] = {
            "responses": len(seconds),
            "p50_ms": p50,
            "p95_ms": p95,
            "p99_ms": p99,
            "max_ms": 1000 * max(seconds),
        }
    return found


def _overlaps(attempt: Row, periods: Sequence[Row], after: float) -> bool:
    return any(attempt["end"] >= one["begin"] and attempt["begin"] <= one["end"] + after for one in periods)


def server_errors(attempts: Sequence[Row], attacks: Sequence[Row]) -> dict[str, int]:
    """Count statuses 5xx other than 503, of all clients and attackers."""
    found = Counter(str(one["status"]) for one in attempts)
    for one in attacks:
        found.update(one["report"]["statuses"])
    return {status: count for status, count in sorted(found.items()) if status[0] == "5" and status != "503"}


def check_store_size(size: int, events: int, exposures: int, users: int) -> dict[str, int]:
    """Compare the size of a store in bytes with the size that its contents explain.

    Args:
        size: bytes of the store.
        events: number of events, deleted ones included, as their space may not be reused yet.
        exposures: number of exposures.
        users: number of users with events, each of whom may have states.
    """
    explained = BASE_BYTES + ROW_BYTES * (events + exposures) + USER_BYTES * users
    return {"size": size, "explained": explained, "events": events, "exposures": exposures, "users": users}


def find_gaps(attempts: Sequence[Row], faults: Sequence[Row], min_seconds: float = 1.0) -> list[dict[str, Any]]:
    """List intervals without a recommendation, in seconds, with the faults at the time."""
    ends = sorted(one["end"] for one in attempts if one["op"] in ("recommend", "batch") and one["status"] == 200)
    found = []
    for before, after in pairwise(ends):
        if after - before >= min_seconds:
            during = [
                fault["kind"]
                for fault in faults
                if fault["begin"] <= after and fault["end"] + RECOVERY_SECONDS >= before
            ]
            found.append({"at": before, "seconds": after - before, "during": ", ".join(during) or "no fault"})
    return found
