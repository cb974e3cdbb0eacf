"""A service under mixed traffic and trouble for some minutes, and whether it kept its word.

``segue serve`` with two workers, keys, an experiment and two models answers people who ask, tell, look and leave, each
one thing after another. Every few seconds something is done to it: another model is activated, a worker or the store's
server is killed, the store is away or held, the service is stopped and begun again. What was acknowledged is then
compared with the store, what was answered with the counters, and memory is watched in one worker all along.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.machine import busy, told, undisturbed
from benchmarks.soaking import checks
from benchmarks.soaking.fault_injection import Trouble
from benchmarks.soaking.monitor import Watch
from benchmarks.soaking.service import STORES, Service, behind, publications

__all__ = ["figure", "page", "run", "verdict"]

WALKERS = 8
SIDE = Path(__file__).parent / "runners" / "run_soak.py"
FLAT, LONG = 60.0, 5.0
"""MB per hour of growth from which memory is said to grow, and minutes for which it must have been watched."""

READING = (
    "Memory is that of the one worker that no disturbance killed after the first quarter. Counters are read every five "
    "seconds, in each life of the service for the last time shortly before its end: what was answered a second before "
    "must be counted, and no more than what was begun. What a worker counted stays when it is killed; what it had "
    "answered and not yet counted may be missing: as many requests as were under way. Of failures of the store there "
    "is no upper bound, as work behind the answers fails too."
)
"""What the tables of a page mean."""


def run(ask: Any) -> dict[str, Any]:
    """A trial with each store that was asked for, all at the same time; plots of memory are left beside the report.

    Raises:
        ValueError: a store that there is none of, or whose server is not installed.
    """
    stores = STORES if ask.store == "all" else (ask.store,)
    minutes = 0.5 if ask.quick else ask.minutes or 20.0
    found: dict[str, Any] = {"busy_before_percent": busy(), "minutes": minutes, "walkers": WALKERS, "runs": {}}
    with tempfile.TemporaryDirectory(prefix="segue-soak-") as folder:
        world = publications(Path(folder))
        found["source"] = world["source"]

        def one(store: str) -> dict[str, Any]:
            place = Path(folder) / store
            place.mkdir()
            server = behind(store, place)
            try:
                return _trial(world, server, Path(folder), place, minutes, ask)
            finally:
                server.stop()

        with ThreadPoolExecutor(len(stores)) as pool:
            found["runs"] = dict(zip(stores, pool.map(one, stores), strict=True))
        Path(ask.out).mkdir(parents=True, exist_ok=True)
        for store, trial in found["runs"].items():
            picture = Path(ask.out) / f"soak-{store}.svg"
            picture.write_text(figure(trial), encoding="utf-8")
            for name in ("service.log", "attempts.jsonl"):
                shutil.copy(Path(folder) / store / name, picture.with_name(f"soak-{store}-{name}"))
    return found


def _trial(world: dict[str, Any], server: Any, models: Path, place: Path, minutes: float, ask: Any) -> dict[str, Any]:
    """One trial."""
    from segue.serving.stores.open import open_store

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    service = Service(place, models, server.address, port)
    watch, traffic = Watch(service), None
    trouble = Trouble(service, server, ask.seed, 2.0 if ask.quick else 10.0)
    try:
        service.start()
        begin = time.time()
        until = begin + 60 * minutes
        job = {**world, "address": service.address, "key": service.key, "until": until, "walkers": WALKERS}
        (place / "job.json").write_text(json.dumps(job | {"seed": ask.seed}))
        watch.start()
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        traffic = subprocess.Popen([sys.executable, SIDE, place], env=env)
        trouble.go_on(begin, until - (3 if ask.quick else 10))
        if traffic.wait(180):
            raise RuntimeError(f"traffic ended with status {traffic.returncode}")
        trails = json.loads((place / "trails.json").read_text())
        compared = trouble.compare([user for user in trails if trails[user]][::3])
        time.sleep(1.5)
        watch.scrape()
        watch.end()
    finally:
        if traffic is not None and traffic.poll() is None:
            traffic.kill()
            traffic.wait()
        service.stop()
    attempts = [json.loads(line) for line in (place / "attempts.jsonl").read_text().splitlines()]
    with closing(open_store(server.address)) as store:
        events = checks.kept(trails, (event for _, event in store.events()))
    everything = sorted([*attempts, *trouble.attempts], key=lambda one: float(one["begin"]))
    kills = [one["begin"] for one in trouble.seen if one["kind"] == "worker_killed"]
    busy_all = [both[0] for both in watch.busy]
    return {
        "seconds": until - begin,
        "attempts": len(attempts),
        "compared": compared,
        "events": events,
        "traffic_faults": json.loads((place / "faults.json").read_text()),
        "trouble_faults": trouble.faults,
        "refusals": checks.refusals(everything, trouble.seen, service.lives),
        "counters": checks.counters(everything, watch.scrapes, service.lives, kills, WALKERS + 1),
        "memory": checks.memory(watch.memory, begin, until),
        "speeds": checks.speeds(attempts, trouble.seen),
        "gaps": [one | {"at": one["at"] - begin} for one in checks.gaps(attempts, trouble.seen)],
        "disturbances": [one | {"begin": one["begin"] - begin, "end": one["end"] - begin} for one in trouble.seen],
        "samples": _thinned((round(when - begin, 1), pid, round(size / 1e6, 1)) for when, pid, size in watch.memory),
        "busy_percent": sum(busy_all) / max(1, len(busy_all)),
        "others_percent": sum(both[1] for both in watch.busy) / max(1, len(watch.busy)),
        "others": sorted(watch.others),
    }


def _thinned(samples: Iterable[tuple[float, int, float]], seconds: float = 20.0) -> list[tuple[float, int, float]]:
    """Of each process one sample in so many seconds: enough to draw."""
    return list({(pid, when // seconds): (when, pid, size) for when, pid, size in samples}.values())


def verdict(trial: dict[str, Any]) -> dict[str, str]:
    """What was to be shown, and how it came out."""
    events, memory = trial["events"], trial["memory"]
    broken = {name: events[name] for name in ("lost", "twice", "unasked", "changed", "disordered", "strangers")}
    faults = trial["traffic_faults"]["counts"]
    slope = memory.get("slope_of_last_half_mb_per_hour")
    misfits = [f"life {row['life']}, {row['what']}" for row in trial["counters"] if not row["fits"] or row["falls"]]
    return {
        "acknowledged events are kept once, in order": _fault({name: n for name, n in broken.items() if n})
        or f"yes: {events['acknowledged']:,} acknowledged, {events['stored']:,} in the store, {events['deleted']:,} "
        f"deleted with {events['forgotten']:,} users; {events['unanswered']:,} never acknowledged",
        "every answer is well formed, fresh and true": _fault(faults) or f"yes: {trial['attempts']:,} requests",
        "swaps hold, and nothing else moves": _fault(dict.fromkeys(trial["trouble_faults"][:5], 1))
        or f"yes: {len(trial['disturbances'])} disturbances; {trial['compared']} users remembered event by event are "
        "answered as by all of their events",
        "failures only while something was down": _fault({"unexplained": trial["refusals"]["unexplained_count"]})
        or f"yes: {', '.join(f'{n:,} x {kind}' for kind, n in trial['refusals']['failed'].items()) or 'none'}",
        "counters agree with what was answered": f"**no**: {'; '.join(misfits)}" if misfits else "yes",
        "memory is flat": "too short to tell" if slope is None or memory["minutes"] < LONG
        else f"{'yes' if slope < FLAT else '**no**'}: {memory['first_mb']:.0f} MB, then {memory['last_mb']:.0f} MB; "
        f"{memory['slope_mb_per_hour']:+.1f} MB/h after the first quarter, {slope:+.1f} MB/h in the last half",
    }  # fmt: skip


def _fault(found: dict[str, Any]) -> str:
    return "**no**: " + ", ".join(f"{name} {n}" for name, n in found.items()) if any(found.values()) else ""


def figure(trial: dict[str, Any]) -> str:
    """Memory of each worker over time, with what was done to the service, as SVG."""
    from matplotlib.figure import Figure

    from segue.reports.plots import LIGHT, svg

    drawn = Figure(figsize=(9.0, 3.4), layout="constrained")
    axes = drawn.subplots()
    for pid in dict.fromkeys(pid for _, pid, _ in trial["samples"]):
        line = [(when / 60, size) for when, one, size in trial["samples"] if one == pid]
        axes.plot(*zip(*line, strict=True), linewidth=1.3)
    kinds = list(dict.fromkeys(one["kind"] for one in trial["disturbances"]))
    for number, kind in enumerate(kinds):
        for place, one in enumerate(one for one in trial["disturbances"] if one["kind"] == kind):
            label = kind.replace("_", " ") if not place else None
            colour = LIGHT[f"c{number % 5 + 1}"] if kind != "service_restarted" else LIGHT["ink"]
            axes.axvline(one["begin"] / 60, color=colour, linewidth=0.7, linestyle=":", label=label)
    axes.set_xlabel("minutes")
    axes.set_ylabel("MB in memory, each worker")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower right")
    return svg(drawn)


def page(found: dict[str, Any]) -> str:
    """The findings, as Markdown."""
    lines = [
        "# A service under traffic and trouble",
        "",
        f"`segue serve` with two workers, two models of {found['source']}, keys and an experiment; {found['walkers']} "
        f"clients at a time, {found['minutes']:g} minutes with each store, all stores at the same time. Times are "
        "those of a machine that ran traffic, services and stores alike: they are not figures of the service.",
        "",
        READING,
    ]
    for store, trial in found["runs"].items():
        kinds = [one["kind"] for one in trial["disturbances"]]
        done = ", ".join(f"{kinds.count(kind)} x {kind.replace('_', ' ')}" for kind in dict.fromkeys(kinds))
        lines += [
            "", f"## {store}", "", "| | |", "| --- | --- |",
            *(f"| {name} | {text} |" for name, text in verdict(trial).items()),
            "", f"Disturbances: {done}.", "", f"![memory](soak-{store}.svg)", "",
            "| answers | count | p50, ms | p95, ms | p99, ms | most, ms |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
            *(f"| {name} | {row['answers']:,} | {row['p50_ms']:.1f} | {row['p95_ms']:.1f} | {row['p99_ms']:.1f} "
              f"| {row['most_ms']:,.0f} |" for name, row in trial["speeds"].items()),
            "", "| no recommendation for | at | during |", "| ---: | ---: | --- |",
            *(() if trial["gaps"] else ("| never longer than a second | | |",)),
            *(f"| {gap['seconds']:.1f} s | {gap['at']:.0f} s | {gap['during'].replace('_', ' ')} |"
              for gap in trial["gaps"]),
            "", "| life | what | answered at least | at most | counted | may be missing |",
            "| ---: | --- | ---: | ---: | ---: | ---: |",
            *(f"| {row['life']} | {row['what']}{'' if row['fits'] else ' **differs**'} | {row['least']:,} | "
              f"{'' if row['most'] >= 10**9 else format(row['most'], ',')} | {row['counted']:,} | {row['slack']} |"
              for row in trial["counters"]),
            "", f"* {trial['busy_percent']:.0f} % of the processors were busy, {trial['others_percent']:.0f} % with "
            f"something else: {', '.join(trial['others']) or 'nothing above 5 %'}",
            *(f"* {text}" for text in [*trial["events"]["texts"], *trial["refusals"]["unexplained"],
                                       *trial["trouble_faults"]]),
            *(f"* {kind}: {text}" for kind, texts in trial["traffic_faults"]["texts"].items() for text in texts[:5]),
        ]  # fmt: skip
    return "\n".join([*lines, "", undisturbed(found), *told(found["machine"]), ""])
