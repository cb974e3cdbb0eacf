"""Real servers for tests: started once, killed and started again where a test asks, and gone at the end."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

FOLDERS = [os.environ.get("PATH", ""), *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))]
SECONDS = 30
DATABASES = 64


def program(name: str) -> str:
    """Where a program is; a test that needs one that is absent is skipped."""
    found = shutil.which(name, path=os.pathsep.join(FOLDERS))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def runs(process: psutil.Process) -> bool:
    """Whether a process does anything any more; a dead one may wait long for whoever adopted it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Server:
    """A process with a folder of its own; its addresses are the same after it was killed and started again."""

    name: ClassVar[str]

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"segue-{self.name}-"))
        self.process: subprocess.Popen[bytes] | None = None
        self.user: str | None = None

    def command(self) -> list[str]:
        raise AssertionError

    def answers(self) -> bool:
        raise AssertionError

    def start(self) -> None:
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, **self.as_user())
        log.close()
        for _ in range(SECONDS * 50):
            if self.answers():
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise RuntimeError((self.folder / "log").read_text(errors="replace")[-2000:])

    def as_user(self) -> dict[str, Any]:
        return {} if self.user is None else {"user": self.user, "group": "nogroup", "extra_groups": [], "cwd": "/"}

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it, and with SIGKILL all its children in the same moment."""
        if self.process is None:
            return
        family = psutil.Process(self.process.pid).children(recursive=True) if how == signal.SIGKILL else []
        for process in [self.process, *family]:
            process.send_signal(how)
        self.process.wait(SECONDS)
        while any(map(runs, family)):
            time.sleep(0.005)
        self.process = None

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class PostgreSQLServer(Server):
    """A cluster of its own on a Unix socket, which does not wait for the disk: tests cannot cut the power. It runs as
    ``nobody`` where the tests run as root, which PostgreSQL refuses.
    """

    name = "postgresql"

    def __init__(self) -> None:
        self.programs = Path(program("initdb")).resolve().parent
        super().__init__()
        if os.geteuid() == 0:
            self.user = "nobody"
            os.chown(self.folder, pwd.getpwnam("nobody").pw_uid, -1)
        make = [str(self.programs / "initdb"), "-D", str(self.folder / "data"), "-A", "trust", "-U", "segue",
                "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]  # fmt: skip
        subprocess.run(make, check=True, capture_output=True, **self.as_user())

    @property
    def address(self) -> str:
        return f"postgresql://segue@/postgres?host={self.folder}"

    def command(self) -> list[str]:
        options = ["listen_addresses=", "shared_buffers=32MB", "max_connections=60", "fsync=off"]
        command = [str(self.programs / "postgres"), "-D", str(self.folder / "data"), "-k", str(self.folder)]
        return [*command, *[part for option in options for part in ("-c", option)]]

    def answers(self) -> bool:
        done = subprocess.run(
            [str(self.programs / "pg_isready"), "-q", "-h", str(self.folder)], check=False, timeout=SECONDS
        )
        return done.returncode == 0

    def fresh(self, number: int) -> str:
        """The address of a schema that is made for it."""
        self.query(f"CREATE SCHEMA s{number}")
        return f"{self.address}&options=-csearch_path%3Ds{number}"

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        import psycopg

        with psycopg.connect(self.address, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


class RedisServer(Server):
    """A server on a free port that syncs every write before it answers."""

    name = "redis"

    def __init__(self) -> None:
        self.program = program("redis-server")
        super().__init__()
        self.port = free_port()

    def command(self) -> list[str]:
        return [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "",
                "--appendonly", "yes", "--appendfsync", "always", "--databases", str(DATABASES)]  # fmt: skip

    def fresh(self, number: int) -> str:
        """The address of a database that is emptied for it."""
        import redis

        with redis.Redis(port=self.port, db=number % DATABASES) as client:
            client.flushdb()
        return f"redis://127.0.0.1:{self.port}/{number % DATABASES}"

    def answers(self) -> bool:
        import redis

        try:
            with redis.Redis(port=self.port) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False
