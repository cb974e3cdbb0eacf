"""What remains of a deleted user in the files of PostgreSQL, and how long a deletion takes in SQLite.

One of 500 users is deleted. Their id, items, keys and state contain a text that occurs nowhere else, and the files of
the server are searched for it after each step. How the rows of the user lie between those of others matters, so there
are three layouts. SQLite, which erases all bytes before the acknowledgment, is timed for files of several sizes.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.machine import cpu_load, describe_lines, load_line
from benchmarks.soaking.service import start_store

__all__ = ["page", "run"]

SECRET = "zqx-secret"
LAYOUTS = ("between those of others", "in one batch", "newest")
USERS, EVENTS = 500, 40
MAX_VACUUM_SECONDS, LOG_MB = 60.0, 16
THREADS, DELETIONS = 16, 64


def run(options: Any) -> dict[str, Any]:
    """Count the copies after each step for every layout, and time deletions.

    Raises:
        ValueError: PostgreSQL is not installed.
    """
    users, sizes = (50, (1_000,)) if options.quick else (USERS, (50_000, 1_000_000))
    found: dict[str, Any] = {"load_before_percent": cpu_load(), "users": users, "events": EVENTS}
    found["postgresql"] = {layout: _count_copies(layout, users) for layout in LAYOUTS}
    found["sqlite"] = [_time_deletions(n_events) for n_events in sizes]
    return found


def _fill(store: Any, layout: str, users: int) -> None:
    """Store events, states and exposures of all users; the one to delete is in the middle or at the end."""
    from segue.serving.stores.store import Event, Exposure, UserState

    def event(user: str, mark: str, number: int) -> Any:
        return Event(user, f"{mark}-item-{number}", number, "buy", 1.0, f"{mark}-key-{number}")

    others = [f"user-{number}" for number in range(users - 1)]
    secret = [event(f"{SECRET}-user", SECRET, number) for number in range(EVENTS)]
    for number in range(EVENTS):
        batch = [event(user, f"i{index}", number) for index, user in enumerate(others)]
        if layout == LAYOUTS[0]:
            batch.insert(len(batch) // 2, secret[number])
        if layout == LAYOUTS[1] and number == EVENTS // 2:
            batch += secret
        store.append(batch)
    if layout == LAYOUTS[2]:
        store.append(secret)
    everyone = [*others[: users // 2], f"{SECRET}-user"]
    marks = {user: SECRET.encode() if user.startswith(SECRET) else b"other-data" for user in everyone}
    store.put_states({user: UserState("m", 10**9, mark * 50) for user, mark in marks.items()})
    store.record_exposures([Exposure("e", "A", user, 1, (f"{mark.decode()}-item",)) for user, mark in marks.items()])


def _count_copies(layout: str, users: int) -> list[dict[str, Any]]:
    """Return how often the text occurs in tables and in the log, after each step."""
    from segue.serving.stores.open import open_store
    from segue.serving.stores.store import Event, UserState

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="segue-erasure-") as folder:
        server = start_store("postgresql", Path(folder))
        data = Path(server.folder) / "data"

        def count(step: str) -> None:
            server.query("CHECKPOINT")
            rows.append({"step": step, "tables": _occurrences(data / "base"), "log": _occurrences(data / "pg_wal")})

        try:
            with closing(open_store(server.address)) as store:
                _fill(store, layout, users)
                server.query("ANALYZE")
                count("storing the data and `ANALYZE`")
                store.delete_user(f"{SECRET}-user")
                count("the acknowledgment of the deletion")
                _wait(lambda: server.query("SELECT 1 FROM pg_stat_all_tables WHERE vacuum_count > 0"))
                time.sleep(1.0)
                count("the `VACUUM` of the service")
                for number in range(50):
                    more = [Event(f"user-{user}", f"new-{user}", number) for user in range(50)]
                    store.append(more)
                store.put_states({f"new-{number}": UserState("m", 10**9, b"x" * 500) for number in range(100)})
                count("2,500 events and 100 states of other users")
            server.query("VACUUM FULL")
            count("`VACUUM FULL`")
            server.query(f"CREATE TABLE filler AS SELECT repeat('x', 1000) FROM generate_series(1, {LOG_MB * 1000})")
            server.query("DROP TABLE filler")
            count(f"{LOG_MB} MB more of log and a checkpoint")
        finally:
            server.stop()
    return rows


def _occurrences(folder: Path) -> int:
    return sum(path.read_bytes().count(SECRET.encode()) for path in _files(folder))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _wait(is_true: Callable[[], Any]) -> None:
    until = time.monotonic() + MAX_VACUUM_SECONDS
    while not is_true():
        if time.monotonic() > until:
            raise RuntimeError("the service did not vacuum the tables")
        time.sleep(0.1)


def _time_deletions(n_events: int) -> dict[str, Any]:
    """Return milliseconds per deletion, one at a time and from several threads at once."""
    from segue.serving.stores.open import open_store
    from segue.serving.stores.store import Event

    with tempfile.TemporaryDirectory(prefix="segue-erasure-") as folder:
        path = Path(folder) / "store.sqlite"
        n_users = max(2 * DELETIONS, n_events // 100)
        with closing(open_store(f"sqlite:///{path}")) as store:
            for start in range(0, n_events, 1_000):
                store.append([Event(f"user-{n % n_users}", f"item-{n % 977}", n) for n in range(start, start + 1_000)])
            start_time = time.perf_counter()
            erased = [store.delete_user(f"user-{number}").is_erased for number in range(DELETIONS)]
            single = time.perf_counter() - start_time

            def delete(thread: int) -> None:
                numbers = range(DELETIONS + thread, 2 * DELETIONS, THREADS)
                erased.extend([store.delete_user(f"user-{number}").is_erased for number in numbers])

            threads = [threading.Thread(target=delete, args=(number,)) for number in range(THREADS)]
            start_time = time.perf_counter()
            for one in threads:
                one.start()
            for one in threads:
                one.join()
            together = time.perf_counter() - start_time
            return {
                "events": n_events,
                "megabytes": path.stat().st_size / 1e6,
                "single_ms": 1000 * single / DELETIONS,
                "together_ms": 1000 * together / DELETIONS,
                "erased": f"{sum(erased)} of {len(erased)}",
            }


def page(found: dict[str, Any]) -> str:
    """Format the tables."""
    lines = [
        "# Bytes of deleted users",
        "",
        f"PostgreSQL: copies of the data of one of {found['users']} users with {found['events']} events each in the "
        "files of the server, by where the events of the user are stored. No row is visible after the acknowledgment.",
        "",
        f"| after | tables and indexes: {' / '.join(LAYOUTS)} | write-ahead log |",
        "| --- | --- | --- |",
    ]
    for steps in zip(*(found["postgresql"][layout] for layout in LAYOUTS), strict=True):
        tables, log = (" / ".join(f"{one[name]:,}" for one in steps) for name in ("tables", "log"))
        lines.append(f"| {steps[0]['step']} | {tables} | {log} |")
    lines += [
        "",
        "SQLite: time per deletion with the bytes erased from all files before the acknowledgment.",
        "",
        f"| events | file, MB | one at a time, ms | {THREADS} threads, ms each | erased |",
        "| ---: | ---: | ---: | ---: | --- |",
        *(
            f"| {row['events']:,} | {row['megabytes']:.0f} | {row['single_ms']:.0f} | {row['together_ms']:.1f} "
            f"| {row['erased']} |"
            for row in found["sqlite"]
        ),
    ]
    return "\n".join([*lines, "", load_line(found), *describe_lines(found["machine"]), ""])
