"""SQLite files that are deleted or replaced while a store is open, and stores of older formats."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from segue.serving.app import create_app
from segue.serving.stores import sqlite_sql
from segue.serving.stores.sqlite import SQLite
from segue.serving.stores.store import OUTCOME_UNKNOWN, Event, Exposure, Store, StoreError, UserState
from tests.serving.world import service

CALLS: dict[str, Callable[[Store], object]] = {
    "append": lambda store: store.append([Event("u", "lost", 1)]),
    "recent_events": lambda store: store.recent_events(["u"], 9),
    "delete_user": lambda store: store.delete_user("u"),
    "put_states": lambda store: store.put_states({"u": UserState("m", 1, b"x")}),
    "record_exposures": lambda store: store.record_exposures([Exposure("e", "A", "u", 1, ())]),
    "get_setting": lambda store: store.get_setting("active"),
    "size_bytes": lambda store: store.size_bytes(),
    "ping": lambda store: store.ping(),
}
APPEND_UNTIL_REFUSED = """
    import sys
    from pathlib import Path
    from segue.serving.stores.sqlite import SQLite
    from segue.serving.stores.store import Event, StoreError
    store = SQLite(Path(sys.argv[1]))
    for number in range(1_000_000):
        try:
            store.append([Event("u", f"{sys.argv[2]}-{number}", 1)])
        except StoreError as error:
            print("refused", error, flush=True)
            break
        print(f"{sys.argv[2]}-{number}", flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store" / "segue.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLite]:
    store = SQLite(path)
    store.append([Event("u", "first", 1)])
    yield store
    store.close()


def another_store(path: Path) -> Path:
    other = SQLite(path)
    other.append([Event("v", "foreign", 1)] * 100)
    other.close()
    return path


def replace_by_empty(path: Path) -> None:
    path.rename(f"{path}.old")  # otherwise the new file may get the same inode
    path.touch()


def move_away(path: Path) -> list[Path]:
    """Rename the main file and those next to it; return the new paths."""
    moved = []
    for suffix in ("", "-wal", "-shm"):
        moved.append(path.parent.parent / f"moved.db{suffix}")
        Path(f"{path}{suffix}").rename(moved[-1])
    return moved


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "deleted": (lambda path: path.unlink(), r"segue\.db was deleted or moved"),
    "folder deleted": (lambda path: shutil.rmtree(path.parent), r"segue\.db was deleted or moved"),
    "moved": (move_away, r"segue\.db was deleted or moved"),
    "replaced by an empty file": (replace_by_empty, r"segue\.db was replaced"),
    "replaced by another store": (
        lambda path: another_store(path.parent / "x.db").rename(path), r"segue\.db was replaced"),
    "emptied": (lambda path: os.truncate(path, 0), r"segue\.db was emptied"),
    "wal deleted": (lambda path: Path(f"{path}-wal").unlink(), r"segue\.db-wal was deleted or moved"),
    "shm replaced": (lambda path: replace_by_empty(Path(f"{path}-shm")), r"segue\.db-shm was replaced"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_call_is_refused_when_the_files_are_gone(store: SQLite, path: Path, damage: str) -> None:
    damage_files, message = DAMAGES[damage]
    damage_files(path)
    for name, call in CALLS.items():
        with pytest.raises(StoreError, match=message + " while the store was open; put back") as raised:
            call(store)
        assert OUTCOME_UNKNOWN not in str(raised.value), name
    store.close()
    store.close()


def test_the_same_files_can_be_put_back(store: SQLite, path: Path) -> None:
    moved = move_away(path)
    another_store(path)
    with pytest.raises(StoreError, match="was replaced"):
        store.append([Event("u", "lost", 1)])
    for suffix, source in zip(("", "-wal", "-shm"), moved, strict=True):
        source.replace(f"{path}{suffix}")
    assert store.append([Event("u", "second", 1)]) == [True]
    store.close()
    again = SQLite(path)
    assert [event.item for _, event in again.events()] == ["first", "second"]
    again.close()


@pytest.mark.parametrize("damage", ["wal deleted", "shm replaced"])
def test_closing_the_store_saves_events_of_a_deleted_wal(store: SQLite, path: Path, damage: str) -> None:
    store.append([Event("u", f"{number}", 1) for number in range(100)])
    DAMAGES[damage][0](path)
    with pytest.raises(StoreError, match="while the store was open"):
        store.append([Event("u", "refused", 1)])
    store.close()
    again = SQLite(path)
    assert [event.item for _, event in again.events()] == ["first", *map(str, range(100))]
    again.close()


def test_closing_the_store_leaves_a_replacement_alone(store: SQLite, path: Path) -> None:
    move_away(path)
    replacement = SQLite(path)
    replacement.append([Event("v", "a", 1)])
    store.close()  # SQLite deletes the file "-wal" by its name when the last connection is closed
    assert replacement.append([Event("v", "b", 1)]) == [True]
    replacement.close()
    again = SQLite(path)
    assert [event.item for _, event in again.events()] == ["a", "b"]
    again.close()


def test_replacement_during_a_write_is_not_acknowledged(store: SQLite, path: Path) -> None:
    with pytest.raises(StoreError, match=f"was deleted or moved .*; {OUTCOME_UNKNOWN}"), store._write("test"):
        path.unlink()


def test_two_objects_for_one_file_keep_their_locks(store: SQLite, path: Path) -> None:
    other = SQLite(path)
    other.close()  # closing a descriptor of a file releases the locks of the process on it
    locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    inode = str(path.stat().st_ino)
    assert any(line[4] == str(os.getpid()) and line[5].split(":")[2] == inode for line in locks if len(line) > 5)
    assert store.append([Event("u", "second", 1)]) == [True]


def test_no_process_acknowledges_events_after_a_replacement(path: Path) -> None:
    SQLite(path).close()
    command = [sys.executable, "-c", textwrap.dedent(APPEND_UNTIL_REFUSED), str(path)]
    processes = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in "ab"]
    streams = [process.stdout for process in processes if process.stdout is not None]
    acknowledged = [stream.readline().strip() for stream in streams]
    moved = move_away(path)
    another_store(path)
    for process in processes:
        lines = process.communicate(timeout=60)[0].split("\n")
        *items, refusal = filter(None, lines)
        acknowledged += items
        assert refusal.startswith(f"refused sqlite: {path}")
    original = SQLite(moved[0])
    assert {*acknowledged} <= {event.item for _, event in original.events()}
    original.close()
    replacement = SQLite(path)
    assert {event.user for _, event in replacement.events()} == {"v"}
    replacement.close()


@pytest.mark.parametrize("damage", ["deleted", "replaced by an empty file", "replaced by another store"])
def test_service_refuses_events_when_the_file_is_gone(path: Path, damage: str) -> None:
    with TestClient(create_app(service("ease", store=f"sqlite:///{path}"))) as client:
        event = {"user": "u1", "item": "i1"}
        assert client.post("/v1/events", json=event).status_code == 200
        DAMAGES[damage][0](path)
        response = client.post("/v1/events", json=event)
        assert (response.status_code, response.json()["error"]) == (503, "overloaded")
        assert str(path) not in response.text
        assert client.delete("/v1/users/u1").status_code == 503
        recommended = client.post("/v1/recommend", json={"user": "u1"})
        assert recommended.status_code == 200
        assert any("event store unavailable" in note for note in recommended.json()["notes"])
        for _ in range(500):  # the store is checked every second
            if (ready := client.get("/readyz")).status_code == 503:
                break
            time.sleep(0.02)
        assert ready.status_code == 503


def test_free_pages_do_not_count_for_the_size(store: SQLite) -> None:
    before = store.size_bytes()
    store.append([Event("heavy", f"item-{number}", 1) for number in range(20_000)])
    full = store.size_bytes()
    assert full > before + 500_000
    assert store.delete_user("heavy").is_erased
    assert store.size_bytes() < before + 100_000


FORMAT_2_SQL = f"""
CREATE TABLE sequence (last INTEGER NOT NULL);
INSERT INTO sequence VALUES (7);
CREATE TABLE users (
    id INTEGER PRIMARY KEY, external_id TEXT NOT NULL UNIQUE, total INTEGER NOT NULL DEFAULT 0,
    last_sequence INTEGER NOT NULL DEFAULT 0, deleted_sequence INTEGER NOT NULL DEFAULT 0
);
INSERT INTO users VALUES (1, 'ann', 2, 3, 0), (2, 'gone', 0, 5, 5), (3, 'back', 1, 7, 6);
CREATE TABLE events (
    user_id INTEGER NOT NULL, sequence INTEGER NOT NULL, event_number INTEGER NOT NULL, item TEXT NOT NULL,
    time INTEGER NOT NULL, action TEXT, value REAL, key TEXT, PRIMARY KEY (user_id, sequence)
) WITHOUT ROWID;
INSERT INTO events VALUES (1, 1, 1, 'x', 10, 'buy', 1.5, 'k'), (1, 3, 2, 'y', 11, NULL, NULL, NULL),
    (3, 7, 1, 'z', 12, NULL, NULL, NULL);
CREATE UNIQUE INDEX events_by_sequence ON events (sequence);
CREATE UNIQUE INDEX events_by_key ON events (user_id, key) WHERE key IS NOT NULL;
CREATE TABLE states (
    external_id TEXT NOT NULL, model TEXT NOT NULL, last_sequence INTEGER NOT NULL, data BLOB NOT NULL
);
CREATE UNIQUE INDEX states_by_user ON states (external_id, model);
INSERT INTO states VALUES ('ann', 'm', 3, x'00'), ('unknown', 'm', 0, x'00');
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO settings VALUES ('active', 'one');
CREATE TABLE exposures (
    id INTEGER PRIMARY KEY AUTOINCREMENT, experiment TEXT NOT NULL, variant TEXT NOT NULL, external_id TEXT NOT NULL,
    time INTEGER NOT NULL, items TEXT NOT NULL
);
CREATE INDEX exposures_by_experiment ON exposures (experiment);
CREATE INDEX exposures_by_user ON exposures (external_id);
INSERT INTO exposures VALUES (1, 'e', 'A', 'ann', 10, '["x"]'), (2, 'e', 'B', 'gone', 10, '["secret"]');
PRAGMA application_id = {sqlite_sql.APPLICATION_ID};
PRAGMA user_version = 2;
"""
"""Store as version 2 of the format wrote it."""


@pytest.fixture
def old_path(path: Path) -> Path:
    connection = sqlite3.connect(path)
    connection.executescript("PRAGMA journal_mode = WAL;" + FORMAT_2_SQL)
    connection.close()
    return path


def check_converted(store: Store) -> None:
    ann, gone, back = store.recent_events(["ann", "gone", "back"], 9)
    assert [event for _, event in store.events()] == [*ann.events, *back.events]
    assert ann.events == (Event("ann", "x", 10, "buy", 1.5, "k"), Event("ann", "y", 11))
    assert (ann.total, ann.last_sequence, ann.deleted) == (2, 3, False)
    assert (gone.events, gone.total, gone.last_sequence, gone.deleted) == ((), 0, 5, True)
    assert (back.events, back.last_sequence, back.deleted) == ((Event("back", "z", 12),), 7, True)
    assert store.get_states(["ann", "unknown"], "m") == [None, None]
    assert store.get_setting("active") == "one"
    assert [exposure.user for exposure in store.exposures("e")] == ["ann"]


def test_a_store_of_format_2_is_converted(old_path: Path) -> None:
    for _ in range(2):
        store = SQLite(old_path)
        check_converted(store)
        assert store.append([Event("ann", "x", 10, "buy", 1.5, "k"), Event("gone", "new", 1)]) in ([False, True],)
        assert store.delete_user("gone").is_erased
        assert store.recent_events(["gone"], 0)[0].last_sequence > 7
        connection = sqlite3.connect(old_path)
        connection.execute("UPDATE deletions SET sequence = 5 WHERE sequence > 7")  # for the second round
        connection.commit()
        connection.close()
        store.close()
    assert b"gone" not in b"".join(file.read_bytes() for file in old_path.parent.iterdir())


def test_ids_of_users_deleted_earlier_are_erased(old_path: Path) -> None:
    assert b"gone" in old_path.read_bytes()
    store = SQLite(old_path)
    store.delete_user("nobody")  # waits for the erasure that the conversion has requested
    assert b"gone" not in b"".join(file.read_bytes() for file in old_path.parent.iterdir())
    store.close()


def test_older_programs_cannot_use_a_converted_store(old_path: Path) -> None:
    old = sqlite3.connect(old_path, isolation_level=None)
    SQLite(old_path).close()
    for statement in (
        "SELECT id, total, last_sequence, deleted_sequence FROM users WHERE external_id = 'gone'",
        "SELECT last FROM sequence",
        "INSERT INTO users (external_id, last_sequence, deleted_sequence) SELECT 'x', last, last FROM sequence",
    ):
        with pytest.raises(sqlite3.OperationalError, match=r"no such|no column"):
            old.execute(statement)
    old.close()


def test_processes_convert_a_store_once(old_path: Path) -> None:
    script = """
        import sys
        from pathlib import Path
        from segue.serving.stores.sqlite import SQLite
        store = SQLite(Path(sys.argv[1]))
        print(store._deletion_key.hex(), [one.deleted for one in store.recent_events(["ann", "gone", "back"], 1)])
        store.close()
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(old_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = {process.communicate(timeout=60)[0] for process in processes}
    assert len(outputs) == 1
    assert "[False, True, True]" in outputs.pop()
    store = SQLite(old_path)
    check_converted(store)
    store.close()


def test_an_interrupted_conversion_is_repeated(old_path: Path) -> None:
    script = """
        import os, signal, sys
        from pathlib import Path
        from segue.serving.stores import sqlite
        convert = sqlite.migrate
        sqlite.migrate = lambda connection: (convert(connection), os.kill(os.getpid(), signal.SIGKILL))
        sqlite.SQLite(Path(sys.argv[1]))
    """
    process = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(old_path)], timeout=60, check=False)
    assert process.returncode == -signal.SIGKILL
    store = SQLite(old_path)
    check_converted(store)
    store.close()


def test_a_file_that_cannot_be_written_is_an_error() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        connection = sqlite3.connect(folder / "old.db")
        connection.executescript(FORMAT_2_SQL)
        connection.close()
        (folder / "old.db").chmod(0o444)
        folder.chmod(0o755)
        script = f"""
            import os
            from pathlib import Path
            from segue.serving.stores.sqlite import SQLite
            if not os.getuid():
                os.setuid(65534)
            SQLite(Path({str(folder / "old.db")!r}))
        """
        command = [sys.executable, "-c", textwrap.dedent(script)]
        process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert "StoreError: store: " in process.stderr
        assert "old.db: cannot be opened for writing: Permission denied" in process.stderr


def test_a_store_behind_a_link_is_checked_like_its_target(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(path)
    store = SQLite(link)
    store.append([Event("u", "first", 1)])
    Path(f"{path}-wal").unlink()
    with pytest.raises(StoreError, match="was deleted"):
        store.append([Event("u", "lost", 1)])
    store.close()


def test_the_reusable_part_of_the_wal_does_not_count(store: SQLite, path: Path) -> None:
    for number in range(400):
        store.append([Event("u", f"item-{number}", 1)])
    assert Path(f"{path}-wal").stat().st_size > 1_000_000
    assert store.size_bytes() < 300_000
    with sqlite3.connect(path) as reader:  # keeps the changes from being copied
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM store").fetchone()
        for number in range(400):
            store.append([Event("u", f"more-{number}", 1)])
        assert store.size_bytes() > 1_000_000
        reader.execute("ROLLBACK")


@pytest.mark.parametrize("is_folder", [False, True], ids=["file", "folder"])
def test_a_link_that_leads_elsewhere_is_recognized(tmp_path: Path, is_folder: bool) -> None:
    """A restart would open the other store, without the events acknowledged after the change."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        SQLite(tmp_path / name / "segue.db").close()
    link, suffix = (tmp_path / "current", "") if is_folder else (tmp_path / "link.db", "segue.db")
    link.symlink_to(tmp_path / "a" / suffix)
    path = link / "segue.db" if is_folder else link
    store = SQLite(path)
    store.append([Event("u", "first", 1)])
    for target, problem in (("b", "was replaced"), (None, "was deleted or moved")):
        link.unlink()
        if target is not None:
            link.symlink_to(tmp_path / target / suffix)
        for call in CALLS.values():
            with pytest.raises(StoreError, match=f"^sqlite: {path} {problem} while the store was open"):
                call(store)
    link.symlink_to(tmp_path / "a" / suffix)
    assert store.append([Event("u", "second", 1)]) == [True]
    store.close()
    again = SQLite(path)
    assert [event.item for _, event in again.events()] == ["first", "second"]
    again.close()


def test_a_relative_path_does_not_depend_on_the_folder_of_the_process(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(path.parent)
    store = SQLite(Path("segue.db"))
    monkeypatch.chdir(tmp_path)
    assert store.append([Event("u", "first", 1)]) == [True]
    store.close()
