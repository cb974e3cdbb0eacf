"""Attack the service on loopback, one attack after another, and compare two checkouts.

``segue serve`` runs with API keys, SQLite on disk, a streaming model and ``sasrec`` with the size of MovieLens 1M, and
a library of further models. Each attack, a script of ``tests/serving/attacks``, meets a new service. Four plain clients
and a probe send requests before, during and after it; the memory of the service is sampled throughout. ``--old``
repeats everything with the code of another checkout.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.attacking.attacks import ATTACKS, start_attack, wait_for_report
from benchmarks.attacking.plain_clients import PROBE, PlainClients, summarize
from benchmarks.attacking.service import AttackedService, build_artifacts
from benchmarks.machine import cpu_load, describe_lines, load_line

__all__ = ["page", "run", "targets"]

ROOT = Path(__file__).parents[1]
ITEMS, USERS = 3_706, 6_040
"""Size of MovieLens 1M."""

QUIET_SECONDS, ATTACK_SECONDS, RECOVERY_SECONDS = 4.0, 8.0, 20.0
REPEATED, N_REPEATS = "expensive_reranks", 3
"""The attack that is repeated, and how often; tables show the repetition with the median ratio of p99."""

MIN_SECONDS = {"replaced_store": 4.0}
"""Attacks that wait for the service to notice."""

MAX_MEMORY_MB, MAX_BLOCKED_SECONDS, MAX_RATIO, MAX_STORE_MB = 250.0, 2.0, 3.0, 5.0
"""Targets: growth of memory, longest time without an answer, p99 during the attack by its quiet value, growth of the
store."""

FOUND = (
    ("deletions", "traces", "no trace of a deleted user in the store's files"),
    ("replaced_store", "lost", "no acknowledged event is lost when the store's file is replaced"),
    ("model_names", "leaks", "no path and no hash in an error"),
)
"""Targets of single attacks: the attack, the figure of its report that must be 0, and the text."""

NOTES = (
    "Memory is the resident memory of all processes of the service: just before the attack, and its peak. Blocked is "
    "the longest time for which one of the plain clients, or the probe, received no answer. Failed are requests of "
    'plain clients that were rejected or cut off; they count as never answered, so p99 is "none" if more than a '
    "hundredth fails. Attacker, plain clients and service share the machine, so part of a higher latency is the work "
    "of the attacker itself. Attacks connect from another loopback address than the plain clients, and with another "
    "key or none."
)
"""How to read the tables of the page."""


def run(options: Any) -> dict[str, Any]:
    """Run every attack against the present checkout, and against ``options.old`` if given.

    Raises:
        ValueError: the other checkout has no package ``segue``.
    """
    sides, old_commit = {"new": ROOT}, ""
    if options.old is not None:
        if not (options.old / "src" / "segue").is_dir():
            raise ValueError(f"--old: got '{options.old}', expected a checkout with the folder src/segue")
        sides = {"old": options.old.resolve(), **sides}
        command = ["git", "-C", str(options.old), "describe", "--always", "--dirty"]
        old_commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    quick = options.quick
    seconds = (0.5, 1.0, 5.0) if quick else (QUIET_SECONDS, ATTACK_SECONDS, RECOVERY_SECONDS)
    strength = 0.05 if quick else 1.0
    names = options.attacks.split(",") if options.attacks else list(ATTACKS)
    if unknown := set(names) - ATTACKS.keys():
        raise ValueError(f"--attacks: got '{', '.join(sorted(unknown))}', expected some of {', '.join(ATTACKS)}")
    found: dict[str, Any] = {"load_before_percent": cpu_load(), "seconds": seconds[1], "strength": strength}
    found["old_commit"] = old_commit
    items, users = (100, 60) if quick else (ITEMS, USERS)
    found |= {"items": items, "users": users, "sides": list(sides), "trials": []}
    with tempfile.TemporaryDirectory(prefix="segue-attack-") as folder:
        for side, checkout in sides.items():
            models = Path(folder) / side / "models"
            build_artifacts(checkout, models, items, users)
            for name in names:
                for number in range(N_REPEATS if name == REPEATED and not quick else 1):
                    print(f"{side}: {name}", file=sys.stderr)
                    service = AttackedService(
                        checkout, models, Path(folder) / side / f"{name}-{number}", name == "deletions"
                    )
                    trial = _attack_once(service, name, seconds, strength)
                    found["trials"].append({"side": side, "attack": name, **trial})
    return found


def _attack_once(
    service: AttackedService, name: str, seconds: tuple[float, float, float], strength: float
) -> dict[str, Any]:
    """Start a service, measure it quiet, attack it, and measure until its plain clients are answered again."""
    quiet_seconds, attack_seconds, recovery_seconds = seconds
    attack_seconds = max(attack_seconds, MIN_SECONDS.get(name, 0.0))
    scope = ATTACKS[name].scope
    more = {"deletions": {"files": f"{service.store}*"}, "replaced_store": {"store": str(service.store)}}.get(name, {})
    try:
        service.start()
        clients = PlainClients(service.address, service.keys["plain"])
        clients.start()
        clients.wait_for_answers(time.time(), 10)
        time.sleep(quiet_seconds / 2)  # warm-up: the states of all plain users are stored
        quiet = time.time()
        time.sleep(quiet_seconds)
        store_mb, begin = service.store_mb(), time.time()
        key = None if scope is None else service.keys[scope]
        process = start_attack(name, service.address, key, attack_seconds, strength, **more)
        report = wait_for_report(process, attack_seconds + 30)
        end = time.time()
        clients.wait_for_answers(end, recovery_seconds)
        clients.stop()
        before = [size for when, size in service.memory if quiet <= when < begin]
        during = [size for when, size in service.memory if begin <= when]
        plain = [one for one in clients.samples if one.client != PROBE]
        probes = [one for one in clients.samples if one.client == PROBE]
        return {
            "memory_mb": [max(before), max(during)],
            "store_mb": [store_mb, service.store_mb()],
            "quiet": summarize(plain, quiet, begin),
            "attacked": summarize(plain, begin, end),
            "probes": summarize(probes, begin, end),
            "report": report,
            "is_alive": service.is_alive(),
            "tracebacks": service.logged_tracebacks(),
        }
    finally:
        service.stop()


def ratio(trial: dict[str, Any]) -> float:
    """Return p99 of plain requests during the attack by its quiet value; infinity if too many failed."""
    quiet, attacked = trial["quiet"]["p99_ms"], trial["attacked"]["p99_ms"]
    return float("inf") if not quiet or not attacked else float(attacked / quiet)


def typical(trials: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the repetition with the median ratio of p99."""
    return sorted(trials, key=ratio)[len(trials) // 2]


def _by_attack(found: dict[str, Any], side: str) -> dict[str, list[dict[str, Any]]]:
    """Return the repetitions of each attack on one side."""
    trials: dict[str, list[dict[str, Any]]] = {}
    for trial in found["trials"]:
        if trial["side"] == side:
            trials.setdefault(trial["attack"], []).append(trial)
    return trials


def targets(found: dict[str, Any], side: str = "new") -> list[tuple[str, list[str]]]:
    """Return each target with what violates it, for the trials of one side."""
    trials = [trial for trial in found["trials"] if trial["side"] == side]
    violations: dict[str, list[str]] = {
        f"memory grows by less than {MAX_MEMORY_MB:.0f} MB": [
            f"{one['attack']}: {one['memory_mb'][1] - one['memory_mb'][0]:,.0f} MB"
            for one in trials
            if one["memory_mb"][1] - one["memory_mb"][0] >= MAX_MEMORY_MB
        ],
        f"no plain client and no probe is without an answer for {MAX_BLOCKED_SECONDS:g} s": [
            f"{one['attack']}: {_blocked(one):.1f} s" for one in trials if _blocked(one) >= MAX_BLOCKED_SECONDS
        ],
        "no plain request fails": [
            f"{one['attack']}: {_failures(one)}"
            for one in trials
            if one["attacked"]["failed"] or one["probes"]["failed"]
        ],
        f"the store grows by less than {MAX_STORE_MB:g} MB": [
            f"{one['attack']}: {one['store_mb'][1] - one['store_mb'][0]:,.1f} MB"
            for one in trials
            if one["store_mb"][1] - one["store_mb"][0] >= MAX_STORE_MB and one["attack"] != "replaced_store"
        ],
        "no status 5xx other than 503": [
            f"{one['attack']}: {', '.join(statuses)}" for one in trials if (statuses := _server_errors(one))
        ],
        "no traceback in the log": [f"{one['attack']}: {one['tracebacks']}" for one in trials if one["tracebacks"]],
    }
    for attack, name, text in FOUND:
        if own := [one for one in trials if one["attack"] == attack]:
            violations[text] = [f"{attack}: {count:,}" for one in own if (count := one["report"].get(name, 0))]
    if reranks := _by_attack(found, side).get(REPEATED, []):
        ratios = [ratio(one) for one in reranks]
        text = f"median {median(ratios):.1f} of {', '.join(f'{one:.1f}' for one in ratios)}"
        name = f"p99 of plain requests during expensive reranks is below {MAX_RATIO:g} times its quiet value"
        violations[name] = [text] if median(ratios) >= MAX_RATIO else []
    return list(violations.items())


def _blocked(trial: dict[str, Any]) -> float:
    return max(float(trial["attacked"]["blocked_seconds"]), float(trial["probes"]["blocked_seconds"]))


def _failures(trial: dict[str, Any]) -> str:
    failed = trial["attacked"]["failed"]
    texts = [f"{n:,} x {'no response' if status == '0' else status}" for status, n in failed.items()]
    texts += [f"{n:,} x probe" for n in trial["probes"]["failed"].values()]
    return ", ".join(texts) or "0"


def _server_errors(trial: dict[str, Any]) -> list[str]:
    statuses = [*trial["report"]["statuses"], *trial["attacked"]["failed"], *trial["probes"]["failed"]]
    return sorted({status for status in statuses if status.startswith("5") and status != "503"})


def page(found: dict[str, Any]) -> str:
    """Format the tables: what the attacks did to the service, what they saw, and which targets are met."""
    sides = found["sides"]
    lines = ["# The service under attack", "", f"Untrained `xlstm` and `sasrec` with {found['items']:,} items and "
             f"{found['users']:,} users, one worker; {found['seconds']:g} s per attack.", "", NOTES, "",
             "## Targets", ""]  # fmt: skip
    lines += [f"* {text}: {_met(violations)}" for text, violations in targets(found)]
    every = {side: _by_attack(found, side) for side in sides}
    titles = {"old": "before", "new": "now"} if "old" in sides else {"new": "now"}
    head = (
        "| attack | | memory, MB | blocked, s | p50, ms | p99, ms | p99 by quiet | failed | probe p99, ms | store, MB |"
    )
    lines += ["", "## What plain clients experience", "", head]
    lines += ["| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for name in every["new"]:
        for side in sides:
            lines.append(
                f"| {ATTACKS[name].title if side == sides[0] else ''} | {titles[side]} {_row(every[side][name])}"
            )
    if REPEATED in every["new"]:
        lines += ["", f"p99 by its quiet value in each repetition of the attack with {ATTACKS[REPEATED].title}:", ""]
        lines += [
            f"* {titles[side]}: {', '.join(f'{ratio(one):.1f}' for one in every[side][REPEATED])}; "
            f"median {median(ratio(one) for one in every[side][REPEATED]):.1f}"
            for side in sides
        ]
    lines += ["", "## What attackers see", "", "| attack | | connections | sent, MB | statuses | others |"]
    lines += ["| --- | --- | ---: | ---: | --- | --- |"]
    for name in every["new"]:
        for side in sides:
            title = ATTACKS[name].title if side == sides[0] else ""
            lines.append(f"| {title} | {titles[side]} {_attacker_row(typical(every[side][name])['report'])}")
    again = [
        f"* measured again, {one['reason']}: {titles[one['side']]}, {ATTACKS[one['attack']].title}; "
        f"`{one['command']}`, commit {one['commit']}, {one['date']}"
        for one in found.get("repeated", ())
    ]
    before = [f"* before: commit {found['old_commit']}"] if found.get("old_commit") else []
    return "\n".join([*lines, "", load_line(found), *before, *describe_lines(found["machine"]), *again, ""])


def _met(violations: Sequence[str]) -> str:
    return f"**no**: {'; '.join(violations)}" if violations else "yes"


def _row(trials: Sequence[dict[str, Any]]) -> str:
    one = typical(trials)
    quiet, attacked = one["quiet"], one["attacked"]
    (before, peak), (first, last) = one["memory_mb"], one["store_mb"]
    p50, p99 = (f"{_ms(quiet[name])} → {_ms(attacked[name])}" for name in ("p50_ms", "p99_ms"))
    alive = "" if one["is_alive"] else " (crashed)"
    return (
        f"| {before:,.0f} → {peak:,.0f}{alive} | {_blocked(one):.1f} | {p50} | {p99} | {ratio(one):.1f} "
        f"| {_failures(one)} of {attacked['requests']:,} | {_ms(one['probes']['p99_ms'])} | {last - first:+.1f} |"
    )


def _ms(value: float | None) -> str:
    return "none" if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _attacker_row(report: dict[str, Any]) -> str:
    statuses = ", ".join(f"{n:,} x {status}" for status, n in sorted(report["statuses"].items()))
    known = {"attack", "connections", "sent_bytes", "statuses", "requests"}
    others = ", ".join(
        f"{name.replace('_', ' ')} {_text(value)}" for name, value in report.items() if name not in known
    )
    connections = report.get("connections", report.get("requests", 0))
    return f"| {connections:,} | {report.get('sent_bytes', 0) / 1e6:,.1f} | {statuses} | {others} |"


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else ", ".join(map(str, value)) or "none"
