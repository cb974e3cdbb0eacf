"""PostgreSQL and Redis servers for tests, which may kill and restart them."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

FOLDERS = [os.environ.get("PATH", ""), *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))]
SECONDS = 30
DATABASES = 64


def program(name: str) -> str:
    """Return the path of a program, or skip the test if it is not installed."""
    found = shutil.which(name, path=os.pathsep.join(FOLDERS))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def require_package(name: str) -> None:
    """Skip the test if the client package of a server is not installed."""
    pytest.importorskip(name, reason=f"{name} is not installed")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def is_alive(process: psutil.Process) -> bool:
    """Check whether a process is alive; a zombie may remain until its parent reaps it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true."""
    for _ in range(SECONDS * 20):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("never true")


class Server:
    """Server process with its own folder; its address stays the same after a restart."""

    name: ClassVar[str]

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"segue-{self.name}-"))
        self.process: subprocess.Popen[bytes] | None = None
        self.user: str | None = None

    def command(self) -> list[str]:
        raise AssertionError

    def is_ready(self) -> bool:
        raise AssertionError

    def start(self) -> None:
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, **self.as_user())
        log.close()
        for _ in range(SECONDS * 50):
            if self.is_ready():
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise RuntimeError((self.folder / "log").read_text(errors="replace")[-2000:])

    def as_user(self) -> dict[str, Any]:
        return {} if self.user is None else {"user": self.user, "group": "nogroup", "extra_groups": [], "cwd": "/"}

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Stop the server; SIGKILL also kills all its children at the same time."""
        if self.process is None:
            return
        family = psutil.Process(self.process.pid).children(recursive=True) if number == signal.SIGKILL else []
        self.process.send_signal(number)
        for process in family:
            with suppress(psutil.NoSuchProcess):  # a backend may end by itself meanwhile
                process.send_signal(number)
        self.process.wait(SECONDS)
        while any(map(is_alive, family)):
            time.sleep(0.005)
        self.process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop the server and its children from running during a ``with`` block."""
        assert self.process is not None
        family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        for process in family:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in family:
                process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class PostgreSQLServer(Server):
    """PostgreSQL cluster on a Unix socket, without fsync, as tests cannot simulate a power failure.

    It runs as the user ``nobody`` if the tests run as root, which PostgreSQL does not allow.
    """

    name = "postgresql"

    def __init__(self) -> None:
        self.programs = Path(program("initdb")).resolve().parent
        require_package("psycopg")
        super().__init__()
        if os.geteuid() == 0:
            self.user = "nobody"
            os.chown(self.folder, pwd.getpwnam("nobody").pw_uid, -1)
        initdb = [str(self.programs / "initdb"), "-D", str(self.folder / "data"), "-A", "trust", "-U", "segue",
                "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]  # fmt: skip
        subprocess.run(initdb, check=True, capture_output=True, **self.as_user())

    @property
    def address(self) -> str:
        return f"postgresql://segue@/postgres?host={self.folder}"

    def command(self) -> list[str]:
        options = ["listen_addresses=", "shared_buffers=32MB", "max_connections=60", "fsync=off"]
        command = [str(self.programs / "postgres"), "-D", str(self.folder / "data"), "-k", str(self.folder)]
        return [*command, *[part for option in options for part in ("-c", option)]]

    def is_ready(self) -> bool:
        result = subprocess.run(
            [str(self.programs / "pg_isready"), "-q", "-h", str(self.folder)], check=False, timeout=SECONDS
        )
        return result.returncode == 0

    def new_address(self, number: int) -> str:
        """Create a schema and return its address."""
        self.query(f"CREATE SCHEMA s{number}")
        return f"{self.address}&options=-csearch_path%3Ds{number}"

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        import psycopg

        with psycopg.connect(self.address, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


class RedisServer(Server):
    """Redis server on a free port that syncs every write."""

    name = "redis"

    def __init__(self) -> None:
        self.program = program("redis-server")
        require_package("redis")
        super().__init__()
        self.port = free_port()

    def command(self) -> list[str]:
        return [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "",
                "--appendonly", "yes", "--appendfsync", "always", "--databases", str(DATABASES)]  # fmt: skip

    def new_address(self, number: int) -> str:
        """Empty a database and return its address."""
        import redis

        with redis.Redis(port=self.port, db=number % DATABASES) as client:
            client.flushdb()
        return f"redis://127.0.0.1:{self.port}/{number % DATABASES}"

    def is_ready(self) -> bool:
        import redis

        try:
            with redis.Redis(port=self.port) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False
