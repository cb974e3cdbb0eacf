"""What is held against each other after a trial: what was acknowledged and what is kept, what was seen and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from segue.serving.stores.store import Event

__all__ = ["counters", "gaps", "kept", "memory", "refusals", "speeds"]

DOWN = {
    "worker_killed": (True, False),
    "service_restarted": (True, True),
    "store_restarted": (False, True),
    "store_killed": (False, True),
    "store_frozen": (False, True),
    "hold": (False, True),
}
"""By disturbance, whether connections may fail meanwhile, and whether 503 may be answered."""

AFTER = 3.0
"""Seconds after a disturbance that still belong to it."""

Row = Mapping[str, Any]


def kept(trails: Mapping[str, Sequence[Sequence[Any]]], events: Iterable[Event]) -> dict[str, Any]:
    """What was acknowledged against what is in the store.

    Args:
        trails: by user, in the order in which one client did one thing after another, ``[key, item, acknowledged,
            unsure]`` of events, and without a key of his being forgotten. Unsure: something failed in a way that does
            not tell whether it was done.
        events: all of the store, in its order.
    """
    stored: dict[str, list[tuple[str | None, str]]] = {}
    for event in events:
        stored.setdefault(event.user, []).append((event.key, event.item))
    found: Counter[str] = Counter(users=len(trails), stored=sum(map(len, stored.values())))
    texts: list[str] = []
    for user, trail in trails.items():
        acknowledged: dict[str, str] = {}
        maybe: set[str] = set()  # may be there
        gone: set[str] = set()  # may be gone, as a deletion may have come late
        late = False
        for key, item, answered, unsure in trail:
            if key is None:
                found["forgotten"] += answered
                late |= unsure or not answered
                if answered:
                    found["deleted"] += len(acknowledged)
                    acknowledged = {}
                else:
                    gone |= set(acknowledged)
                continue
            found["acknowledged"] += answered
            found["unanswered"] += not answered
            if answered:
                acknowledged[key] = item
                gone |= {key} if late else set()
            if unsure or not answered:
                maybe.add(key)
        there = stored.pop(user, [])
        times = Counter(key for key, _ in there)
        problems = {
            "lost": [key for key in acknowledged if key not in times and key not in gone],
            "twice": [key for key, count in times.items() if count > 1],
            "unasked": [key for key in times if key not in acknowledged and key not in maybe],
            "changed": [key for key, item in there if key in acknowledged and acknowledged[key] != item],
        }
        if [key for key, _ in there if key in acknowledged] != [key for key in acknowledged if key in times]:
            problems["disordered"] = [user]
        for kind, keys in problems.items():
            found[kind] += len(keys)
            texts += [f"{kind}: {user} {key}" for key in keys[:3]]
    found["strangers"] = sum(map(len, stored.values()))
    names = ("lost", "twice", "unasked", "changed", "disordered", "strangers", "deleted", "forgotten", "unanswered")
    return {**dict.fromkeys(names, 0), **found, "texts": texts[:20]}


def refusals(attempts: Sequence[Row], seen: Sequence[Row], lives: Sequence[Row]) -> dict[str, Any]:
    """Failures by kind, and those that nothing that was done to the service explains."""
    found: dict[str, Any] = {"failed": Counter(), "unexplained": [], "unexplained_count": 0}
    windows = [(*DOWN[one["kind"]], one["begin"] - 0.1, one["end"] + AFTER) for one in seen if one["kind"] in DOWN]
    for one in attempts:
        if one["status"] == one["wanted"]:
            continue
        found["failed"][f"{one['status']}" if one["status"] else one["error"]] += 1
        excused = any(
            one["end"] >= begin
            and one["begin"] <= end
            and (cut if not one["status"] else one["status"] == 503 and busy)
            for cut, busy, begin, end in windows
        )
        if not excused:
            found["unexplained_count"] += 1
            text = f"{one['begin']:.1f} {one['op']}: {one['status']} {one['error']} {one.get('message', '')}"
            found["unexplained"] += [text] if len(found["unexplained"]) < 20 else []
    found["statuses"] = sorted({life.get("status") for life in lives}, key=str)
    return found


def counters(
    attempts: Sequence[Row], scrapes: Sequence[Row], lives: Sequence[Row], kills: Sequence[float], walkers: int
) -> list[dict[str, Any]]:
    """For each life of the service and each kind of event: how often traffic saw it, and how often it was counted.

    A life's last scrape must have counted all that was answered a second before it began, and no more than was begun
    before it ended; requests whose answer was lost may or may not be counted. A worker that is killed may have answered
    as many requests as were under way without having counted them: so many each time may be missing. What it counted
    before is in a file, and stays.
    """
    kinds: dict[str, tuple[str, Callable[[Row], int], Callable[[Row], int]]] = {
        f"answers {status}xx": (
            f"segue_request_seconds_count/{status}xx",
            lambda one, status=status: one["status"] // 100 == status,
            lambda one: not one["status"],
        )
        for status in (2, 4, 5)
    }
    kinds["refused: 503"] = (
        "segue_refused_total/busy",
        lambda one: one["status"] == 503,
        lambda one: not one["status"],
    )
    kinds["store failures"] = (
        "segue_errors_total/store",
        lambda one: "the store" in one.get("message", "") or one.get("unreached", 0) > 0,
        lambda one: 10**9,
    )
    for step in ("model", "fallback", "neighbours", "popular"):
        kinds[f"step {step}"] = (
            f"segue_answers_total/{step}",
            lambda one, step=step: one.get("steps", {}).get(step, 0),
            lambda one: one["questions"] * (one["status"] != 200),
        )
    kinds["activations"] = (
        "segue_model_activations_total/",
        lambda one: one["op"] == "activate" and one["status"] == 200,
        lambda one: one["op"] == "activate" and not one["status"],
    )
    rows = []
    for number, life in enumerate(lives):
        within = [scrape for scrape in scrapes if life["begin"] <= scrape["begin"] <= life.get("end", np.inf)]
        if not within:
            continue
        last = within[-1]
        own = [one for one in attempts if life["begin"] <= one["begin"] <= last["end"]]
        slack = walkers * sum(life["begin"] <= kill <= last["end"] for kill in kills)
        falls = sum(
            value > after["counts"].get(name, 0)
            for before, after in pairwise(within)
            for name, value in before["counts"].items()
        )
        for name, (counter, sure, perhaps) in kinds.items():
            least = sum(sure(one) for one in own if one["end"] <= last["begin"] - 1)
            most = sum(sure(one) or perhaps(one) for one in own)
            count = int(last["counts"].get(counter, 0))
            # of failures of the store a whole batch of questions is one
            fits = (count > 0 or not least) if name == "store failures" else least - slack <= count <= most
            rows.append({"life": number + 1, "what": name, "least": least, "most": most, "counted": count,
                         "slack": slack, "fits": bool(fits), "falls": falls})  # fmt: skip
    return rows


def memory(samples: Sequence[tuple[float, int, int]], begin: float, until: float) -> dict[str, Any]:
    """Of the worker that lived longest, MB and MB per hour after the first quarter, by least squares."""
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
    found |= {"first_mb": rows[0][1], "last_mb": rows[-1][1], "most_mb": max(size for _, size in rows)}
    return found


def speeds(attempts: Sequence[Row], seen: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Milliseconds of answers of status 200, by what was asked, while nothing was wrong and while something was."""
    groups: dict[str, list[float]] = {}
    for one in attempts:
        if one["status"] == one["wanted"] == 200:
            troubled = any(one["end"] >= d["begin"] and one["begin"] <= d["end"] + AFTER for d in seen)
            groups.setdefault(f"{one['op']}, {'disturbed' if troubled else 'calm'}", []).append(
                one["end"] - one["begin"]
            )
    found = {}
    for name, seconds in sorted(groups.items()):
        p50, p95, p99 = (1000 * np.quantile(seconds, [0.5, 0.95, 0.99])).tolist()
        found[name] = {
            "answers": len(seconds),
            "p50_ms": p50,
            "p95_ms": p95,
            "p99_ms": p99,
            "most_ms": 1000 * max(seconds),
        }
    return found


def gaps(attempts: Sequence[Row], seen: Sequence[Row], least: float = 1.0) -> list[dict[str, Any]]:
    """Stretches without any recommendation, in seconds, and what was done at the time."""
    ends = sorted(one["end"] for one in attempts if one["op"] in ("recommend", "several") and one["status"] == 200)
    found = []
    for before, after in pairwise(ends):
        if after - before >= least:
            during = [one["kind"] for one in seen if one["begin"] <= after and one["end"] + AFTER >= before]
            found.append({"at": before, "seconds": after - before, "during": ", ".join(during) or "nothing"})
    return found
