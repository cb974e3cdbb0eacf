"""The service under trial as a process, the store behind it, and what both are given."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

__all__ = ["STORES", "Service", "behind", "publications"]

STORES = ("postgresql", "redis", "sqlite")
MODELS: dict[str, dict[str, Any]] = {"ease": {}, "gru4rec": {"width": 64, "max_length": 200, "batch_size": 64}}
"""A model that is computed anew for each answer, and one that goes on from a state."""


def publications(folder: Path) -> dict[str, Any]:
    """Publish both models, and say what traffic is to know of their world."""
    from segue.core import bundle
    from segue.data import load
    from segue.serving.artifacts.artifact import publish
    from segue.serving.catalog.catalog import Catalogue
    from segue.testing.training import train_small

    there = (Path(os.environ.get("SEGUE_ARCHIVES", "nowhere")) / "ml-100k.zip").exists()
    source = "ml-100k" if there else "simulated?users=400&items=300&seed=1"
    data = load(source)
    for key, wanted in MODELS.items():
        trained = bundle.of(key, train_small(key, data, **wanted), data)
        made = publish(key, trained, data.histories, folder / key)
    feature = next((name for name in ("genres", "genre", "category") if name in data.item_features.collect_schema())
                   if data.item_features is not None else iter(()), None)  # fmt: skip
    catalogue = Catalogue(made.bundle, made.popularity)
    groups = None if feature is None else catalogue.item(0).features.get(feature)
    values = groups if isinstance(groups, list) else [groups]
    return {
        "source": source,
        "users": data.users.ids.to_list(),
        "items": data.items.ids.to_list(),
        "feature": feature if groups else None,
        "values": values,
    }


class File:
    """A file of SQLite: there is no server; what can be done to it is to hold its lock."""

    def __init__(self, folder: Path) -> None:
        self.address, self.path = f"sqlite:///{folder / 'soak.sqlite'}", folder / "soak.sqlite"

    def hold(self, seconds: float) -> None:
        """Let another process keep the lock of those who write."""
        code = (
            "import sqlite3, sys, time\n"
            "held = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)\n"
            "held.execute('BEGIN IMMEDIATE'); time.sleep(float(sys.argv[2])); held.execute('ROLLBACK')"
        )
        subprocess.run([sys.executable, "-c", code, str(self.path), str(seconds)], check=True)

    def stop(self) -> None:
        """Nothing: there is no server."""


def behind(store: str, folder: Path) -> Any:
    """A store of this kind, begun; servers wait for the disk before they say that something is kept.

    Raises:
        ValueError: its server is not installed.
    """
    if store == "sqlite":
        return File(folder)
    import pytest

    from tests.serving.servers import PostgreSQLServer, RedisServer

    class Durable(PostgreSQLServer):
        def command(self) -> list[str]:
            return [part if part != "fsync=off" else "fsync=on" for part in super().command()]

    try:
        server = Durable() if store == "postgresql" else RedisServer()
    except pytest.skip.Exception as absent:
        raise ValueError(f"store {store}: {absent}") from None
    if store == "redis":
        server.address = f"redis://127.0.0.1:{server.port}/0"
    server.start()
    return server


class Service:
    """``segue serve`` with two workers, which may be ended and begun again at the same address."""

    def __init__(self, folder: Path, models: Path, store: str, port: int) -> None:
        from segue.serving.auth.api_keys import make

        keys, experiments = folder / "keys.json", folder / "experiments.json"
        self.key = make(keys, "traffic", ("read", "write"))
        self.admin = make(keys, "operator", ("read", "admin"))
        variants = '{"a": {"model": "ease", "share": 0.2}, "b": {"model": "gru4rec", "share": 0.2}}'
        experiments.write_text(f'{{"experiments": [{{"name": "soak", "variants": {variants}}}]}}')
        self.address, self.log = f"http://127.0.0.1:{port}", folder / "service.log"
        self.lives: list[dict[str, float]] = []
        """When each process of the service began and ended, and its exit status."""
        self.process: psutil.Popen | None = None
        self._command = [
            sys.executable, "-m", "segue", "serve", *(str(models / name) for name in MODELS),
            "--port", str(port), "--workers", "2", "--store", store, "--keys", str(keys),
            "--experiments", str(experiments), "--log-format", "json",
        ]  # fmt: skip

    def start(self, seconds: float = 90.0) -> None:
        """Begin it, and wait until it answers.

        Raises:
            RuntimeError: it does not.
        """
        life = {"begin": time.time(), "begun": self.told()}
        with self.log.open("ab") as log:
            env = {**os.environ, "OMP_NUM_THREADS": "1"}
            self.process = psutil.Popen(self._command, stdout=log, stderr=log, env=env)
        while time.time() < life["begin"] + seconds:
            if self.process.poll() is not None:
                break
            if self.told() >= life["begun"] + 2 and self.answers():
                self.lives.append(life)
                return
            time.sleep(0.1)
        raise RuntimeError(self.log.read_text(errors="replace")[-2000:])

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        if self.process is None:
            return
        self.process.terminate()
        self.lives[-1] |= {"status": self.process.wait(60), "end": time.time()}
        self.process = None

    def answers(self) -> bool:
        """Whether it says that it is ready."""
        try:
            return httpx.get(f"{self.address}/readyz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def told(self) -> int:
        """How many workers have ever said that they began."""
        return self.log.read_bytes().count(b"Application startup complete") if self.log.exists() else 0

    def workers(self) -> list[psutil.Process]:
        """The workers, the eldest first."""
        found = []
        for child in self.process.children() if self.process is not None else []:
            try:
                if "spawn_main" in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child)
            except psutil.NoSuchProcess:
                continue
        return sorted(found, key=lambda child: child.create_time())
