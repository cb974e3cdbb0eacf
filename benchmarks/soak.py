"""Soak test: the service under mixed traffic and injected faults for some minutes, with checks of its guarantees.

``segue serve`` runs with two workers, API keys, an experiment and two models. Clients request recommendations, append
events, look up users and items, and delete users, each one request at a time. Every few seconds a fault is injected:
another model is activated, a worker or the store's server is killed, the store is down, frozen or locked, or the
service is restarted. Half of the time the service is also attacked with the scripts of ``tests/serving/attacks``, by
clients with scope ``read`` or without a key. Afterwards acknowledged events are compared with the store and responses
with the counters. The memory of one worker is monitored throughout.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.machine import cpu_load, describe_lines, free_port, load_line
from benchmarks.soaking import checks
from benchmarks.soaking.attackers import Attackers, attack_totals
from benchmarks.soaking.fault_injection import FaultInjector
from benchmarks.soaking.monitor import Monitor
from benchmarks.soaking.service import STORES, Service, build_artifacts, start_store

__all__ = ["describe_ratio", "figure", "page", "run", "verdict"]

CLIENTS = 8
CLIENT_SCRIPT = Path(__file__).parent / "runners" / "run_soak.py"
MAX_SLOPE, MIN_MINUTES = 60.0, 5.0
"""MB per hour above which memory is said to grow, and minutes of monitoring that this needs."""
ATTACK_PERIOD, MAX_RATIO, MIN_RESPONSES = 12.0, 3.0, 200
"""Seconds of attacked and quiet periods; bound of p99 under attack by that of quiet periods, and the number of
responses in each that this needs."""

NOTES = (
    "Memory is that of the one worker that no fault killed after the first quarter. Counters are read every five "
    "seconds, and in each lifetime of the service for the last time shortly before its end: they must include every "
    "response of up to a second before, and no more than the requests sent. Counts of a killed worker are kept; "
    "responses that it had not counted yet may be missing, at most one per client. Store failures have no upper bound, "
    "as background work fails too. Attacked and quiet periods of twelve seconds alternate; under attack means that an "
    "attack was running and no fault. With attackers only the counter of activations has an upper bound."
)
"""How to read the tables of the page."""


def run(options: Any) -> dict[str, Any]:
    """Test each requested store, all at the same time; write plots of memory next to the page.

    Raises:
        ValueError: the server of a store is not installed.
    """
    stores = STORES if options.store == "all" else (options.store,)
    minutes = 0.5 if options.quick else options.minutes or 20.0
    found: dict[str, Any] = {"load_before_percent": cpu_load(), "minutes": minutes, "clients": CLIENTS, "runs": {}}
    with tempfile.TemporaryDirectory(prefix="segue-soak-") as name:
        root = Path(name)
        world = build_artifacts(root)
        found["source"] = world["source"]

        def test(store: str) -> dict[str, Any]:
            folder = root / store
            folder.mkdir()
            server = start_store(store, folder)
            try:
                return _test_store(world, server, root, folder, minutes, options)
            finally:
                server.stop()

        with ThreadPoolExecutor(len(stores)) as pool:
            found["runs"] = dict(zip(stores, pool.map(test, stores), strict=True))
        Path(options.out).mkdir(parents=True, exist_ok=True)
        for store, trial in found["runs"].items():
            plot = Path(options.out) / f"soak-{store}.svg"
            plot.write_text(figure(trial), encoding="utf-8")
            for name in ("service.log", "attempts.jsonl"):
                shutil.copy(root / store / name, plot.with_name(f"soak-{store}-{name}"))
    return found


def _test_store(
    world: dict[str, Any], server: Any, models: Path, folder: Path, minutes: float, options: Any
) -> dict[str, Any]:
    """Run traffic and faults against one store, then check."""
    from segue.serving.stores.open import open_store

    service = Service(folder, models, server.address, free_port())
    monitor, traffic = Monitor(service), None
    injector = FaultInjector(service, server, options.seed, 2.0 if options.quick else 10.0)
    attackers = Attackers(service.address, service.attacker_key, 3.0 if options.quick else ATTACK_PERIOD)
    try:
        service.start()
        begin = time.time()
        until = begin + 60 * minutes
        job = {**world, "address": service.address, "key": service.key, "until": until, "clients": CLIENTS}
        (folder / "job.json").write_text(json.dumps(job | {"seed": options.seed}))
        monitor.start()
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        traffic = subprocess.Popen([sys.executable, CLIENT_SCRIPT, folder], env=env)
        if options.attackers:
            attackers.start()
        injector.run(begin, until - (3 if options.quick else 10))
        if traffic.wait(180):
            raise RuntimeError(f"the clients failed with exit status {traffic.returncode}")
        if options.attackers:
            attackers.stop()
        trails = json.loads((folder / "trails.json").read_text())
        n_compared = injector.compare_states([user for user in trails if trails[user]][::3])
        time.sleep(1.5)
        monitor.scrape()
        monitor.stop()
    finally:
        if traffic is not None and traffic.poll() is None:
            traffic.kill()
            traffic.wait()
        service.stop()
    attempts = [json.loads(line) for line in (folder / "attempts.jsonl").read_text().splitlines()]
    with closing(open_store(server.address)) as store:
        events = checks.check_events(trails, (event for _, event in store.events()))
        n_exposures = sum(1 for _ in store.exposures("soak"))
        size = store.size_bytes()
    n_events = sum(row[0] is not None for trail in trails.values() for row in trail)
    all_attempts = sorted([*attempts, *injector.attempts], key=lambda one: float(one["begin"]))
    kills = [fault["begin"] for fault in injector.faults if fault["kind"] == "worker_killed"]
    n_loads = max(1, len(monitor.load))
    return {
        "seconds": until - begin,
        "attempts": len(attempts),
        "compared": n_compared,
        "events": events,
        "client_errors": json.loads((folder / "errors.json").read_text()),
        "injector_errors": injector.errors,
        "failures": checks.explain_failures(all_attempts, injector.faults, service.lifetimes),
        "counters": checks.check_counters(
            all_attempts, monitor.scrapes, service.lifetimes, kills, CLIENTS + 1, options.attackers
        ),
        "memory": checks.memory_trend(monitor.memory, begin, until),
        "latencies": checks.latencies(attempts, injector.faults, attackers.attacks),
        "gaps": [
            one | {"at": one["at"] - begin}
            for one in checks.find_gaps(attempts, [*injector.faults, *attackers.attacks])
        ],
        "attacks": attack_totals(attackers.attacks),
        "attacker_errors": attackers.errors,
        "server_errors": checks.server_errors(all_attempts, attackers.attacks),
        "store_size": checks.check_store_size(size, n_events, n_exposures, len(trails)),
        "faults": [one | {"begin": one["begin"] - begin, "end": one["end"] - begin} for one in injector.faults],
        "samples": _thin((round(when - begin, 1), pid, round(size / 1e6, 1)) for when, pid, size in monitor.memory),
        "load_percent": sum(total for total, _ in monitor.load) / n_loads,
        "others_percent": sum(others for _, others in monitor.load) / n_loads,
        "others": sorted(monitor.others),
    }


def _thin(samples: Iterable[tuple[float, int, float]], seconds: float = 20.0) -> list[tuple[float, int, float]]:
    """Keep one sample per process and interval: enough for the plot."""
    return list({(pid, when // seconds): (when, pid, size) for when, pid, size in samples}.values())


def verdict(trial: dict[str, Any]) -> dict[str, str]:
    """Return the result of each check."""
    events, memory = trial["events"], trial["memory"]
    violations = {name: events[name] for name in checks.VIOLATIONS if events[name]}
    slope = memory.get("slope_of_last_half_mb_per_hour")
    inconsistent = [
        f"lifetime {row['lifetime']}, {row['what']}"
        for row in trial["counters"]
        if not row["is_consistent"] or row["decreases"]
    ]
    failed, size = trial["failures"]["failed"], trial.get("store_size")
    results = {
        "acknowledged events are stored once, in order": _describe_failure(violations)
        or f"yes: {events['acknowledged']:,} acknowledged, {events['stored']:,} in the store, {events['deleted']:,} "
        f"deleted with {events['deleted_users']:,} users; {events['unacknowledged']:,} never acknowledged",
        "every response is well formed, current and correct": _describe_failure(trial["client_errors"]["counts"])
        or f"yes: {trial['attempts']:,} requests",
        "model changes are effective and complete": _describe_failure(dict.fromkeys(trial["injector_errors"][:5], 1))
        or f"yes: {len(trial['faults'])} faults; for {trial['compared']} users the state updated event by event "
        "recommends the same as all of their events at once",
        "requests fail only during faults": _describe_failure({"unexplained": trial["failures"]["unexplained_count"]})
        or f"yes: {', '.join(f'{n:,} x {kind}' for kind, n in failed.items()) or 'none'}",
        "counters agree with the responses": f"**no**: {'; '.join(inconsistent)}" if inconsistent else "yes",
        f"memory grows by less than {MAX_SLOPE:.0f} MB per hour": "too short to tell"
        if slope is None or memory["minutes"] < MIN_MINUTES
        else f"{'yes' if slope < MAX_SLOPE else '**no**'}: {memory['first_mb']:.0f} MB, then "
        f"{memory['last_mb']:.0f} MB; "
        f"{memory['slope_mb_per_hour']:+.1f} MB/h after the first quarter, {slope:+.1f} MB/h in the last half",
    }  # fmt: skip
    if size is not None:
        is_explained = "yes" if size["size"] <= size["explained"] else "**no**"
        results |= {
            "no status 5xx other than 503, for clients and attackers": _describe_failure(trial["server_errors"])
            or "yes",
            "the size of the store is explained by its events and exposures": f"{is_explained}: "
            f"{size['size'] / 1e6:.1f} MB for {size['events']:,} events, deleted ones included, "
            f"{size['exposures']:,} exposures and {size['users']:,} users",
        }
    if trial.get("attacks"):
        results[f"p99 of recommendations under attack is below {MAX_RATIO:g} times that of quiet periods"] = (
            describe_ratio(trial["latencies"])
        )
    return results


def describe_ratio(latencies: dict[str, dict[str, float]]) -> str:
    """Describe p99 of recommendations under attack and in quiet periods, and whether their ratio is in bounds."""
    quiet, attacked = (latencies.get(f"recommend, {period}") for period in ("normal", "under attack"))
    if quiet is None or attacked is None or min(quiet["responses"], attacked["responses"]) < MIN_RESPONSES:
        return "too few responses to tell"
    ratio = attacked["p99_ms"] / quiet["p99_ms"]
    return (
        f"{'yes' if ratio < MAX_RATIO else '**no**'}: {attacked['p99_ms']:.0f} ms under attack, "
        f"{quiet['p99_ms']:.0f} ms otherwise, {ratio:.1f} times"
    )


def _describe_failure(found: dict[str, Any]) -> str:
    return "**no**: " + ", ".join(f"{name} {n}" for name, n in found.items()) if any(found.values()) else ""


def figure(trial: dict[str, Any]) -> str:
    """Plot the memory of each worker over time, with the faults, as SVG."""
    from matplotlib.figure import Figure

    from segue.reports.plots import LIGHT, to_svg

    plot = Figure(figsize=(9.0, 3.4), layout="constrained")
    axes = plot.subplots()
    for pid in dict.fromkeys(pid for _, pid, _ in trial["samples"]):
        line = [(when / 60, size) for when, one, size in trial["samples"] if one == pid]
        axes.plot(*zip(*line, strict=True), linewidth=1.3)
    kinds = list(dict.fromkeys(one["kind"] for one in trial["faults"]))
    for number, kind in enumerate(kinds):
        for index, one in enumerate(one for one in trial["faults"] if one["kind"] == kind):
            label = kind.replace("_", " ") if not index else None
            color = LIGHT[f"c{number % 5 + 1}"] if kind != "service_restarted" else LIGHT["ink"]
            axes.axvline(one["begin"] / 60, color=color, linewidth=0.7, linestyle=":", label=label)
    axes.set_xlabel("minutes")
    axes.set_ylabel("resident memory per worker, MB")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower right")
    return to_svg(plot)


def page(found: dict[str, Any]) -> str:
    """Format the results, with a section per store."""
    lines = [
        "# The service under traffic and injected faults",
        "",
        f"`segue serve` with two workers, two models of {found['source']}, API keys and an experiment; "
        f"{found['clients']} concurrent clients, {found['minutes']:g} minutes with each store, all stores at the same "
        "time. Latencies are those of a machine shared by clients, services and stores; they do not describe the "
        "service alone.",
        "",
        NOTES,
    ]
    for store, trial in found["runs"].items():
        kinds = [one["kind"] for one in trial["faults"]]
        counts = ", ".join(f"{kinds.count(kind)} x {kind.replace('_', ' ')}" for kind in dict.fromkeys(kinds))
        lines += [
            "", f"## {store}", "", "| check | result |", "| --- | --- |",
            *(f"| {name} | {text} |" for name, text in verdict(trial).items()),
            "", f"Faults: {counts}.", "", f"![memory](soak-{store}.svg)", "",
            *_attack_lines(trial.get("attacks", {})),
            "| responses | count | p50, ms | p95, ms | p99, ms | max, ms |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
            *(f"| {name} | {row['responses']:,} | {row['p50_ms']:.1f} | {row['p95_ms']:.1f} | {row['p99_ms']:.1f} "
              f"| {row['max_ms']:,.0f} |" for name, row in trial["latencies"].items()),
            "", "| no recommendation for | at | during |", "| ---: | ---: | --- |",
            *(() if trial["gaps"] else ("| never longer than a second | | |",)),
            *(f"| {gap['seconds']:.1f} s | {gap['at']:.0f} s | {gap['during'].replace('_', ' ')} |"
              for gap in trial["gaps"]),
            "", "| lifetime | what | minimum | maximum | counted | tolerance |",
            "| ---: | --- | ---: | ---: | ---: | ---: |",
            *(f"| {row['lifetime']} | {row['what']}{'' if row['is_consistent'] else ' **differs**'} | "
              f"{row['minimum']:,} | {'' if row['maximum'] >= 10**9 else format(row['maximum'], ',')} | "
              f"{row['counted']:,} | {row['tolerance']} |"
              for row in trial["counters"]),
            "", f"* CPU load {trial['load_percent']:.0f} %, of which {trial['others_percent']:.0f} % by other "
            f"processes: {', '.join(trial['others']) or 'none above 5 %'}",
            *(f"* {text}" for text in [*trial["events"]["texts"], *trial["failures"]["unexplained"],
                                       *trial["injector_errors"], *trial.get("attacker_errors", [])]),
            *(f"* {kind}: {text}" for kind, texts in trial["client_errors"]["texts"].items() for text in texts[:5]),
        ]  # fmt: skip
    return "\n".join([*lines, "", load_line(found), *describe_lines(found["machine"]), ""])


def _attack_lines(attacks: dict[str, dict[str, Any]]) -> list[str]:
    """Format what each kind of attack sent and received."""
    if not attacks:
        return []
    lines = ["| attack | times | connections | requests | sent, MB | statuses | closed or reset |"]
    lines += ["| --- | ---: | ---: | ---: | ---: | --- | ---: |"]
    for name, one in attacks.items():
        statuses = ", ".join(f"{count:,} x {status}" for status, count in sorted(one["statuses"].items()))
        lines.append(
            f"| {name.replace('_', ' ')} | {one['attacks']} | {one.get('connections', 0):,} "
            f"| {one.get('requests', 0):,} "
            f"| {one.get('sent_bytes', 0) / 1e6:,.1f} | {statuses} | {one.get('closed', 0) + one.get('resets', 0):,} |"
        )
    return [*lines, ""]
