"""The service under test as a process, its store, and its models."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

__all__ = ["STORES", "Service", "build_artifacts", "start_store"]

STORES = ("postgresql", "redis", "sqlite")
MODELS: dict[str, dict[str, Any]] = {"ease": {}, "gru4rec": {"embedding_dim": 64, "max_length": 200, "batch_size": 64}}
"""A model that computes every response from the whole history, and one that continues from a stored state."""


def build_artifacts(folder: Path) -> dict[str, Any]:
    """Train both models and build their artifacts; return what the clients need: source, users, items, a feature."""
    from segue.core import bundle
    from segue.data import load
    from segue.serving.artifacts.artifact import build_artifact
    from segue.serving.catalog.catalog import Catalog
    from segue.testing.training import train_small

    has_archive = (Path(os.environ.get("SEGUE_ARCHIVES", "nowhere")) / "ml-100k.zip").exists()
    source = "ml-100k" if has_archive else "simulated?users=400&items=300&seed=1"
    data = load(source)
    for key, settings in MODELS.items():
        trained = bundle.create(key, train_small(key, data, **settings), data)
        artifact = build_artifact(key, trained, data.histories, folder / key)
    columns = data.item_features.collect_schema() if data.item_features is not None else {}
    feature = next((name for name in ("genres", "genre", "category") if name in columns), None)
    catalog = Catalog(artifact.bundle, artifact.popularity)
    value = None if feature is None else catalog.item(0).features.get(feature)
    return {
        "source": source,
        "users": data.users.ids.to_list(),
        "items": data.items.ids.to_list(),
        "feature": feature if value else None,
        "values": value if isinstance(value, list) else [value],
    }


class SQLiteFile:
    """An SQLite file: there is no server, but its write lock can be held."""

    def __init__(self, folder: Path) -> None:
        self.address, self.path = f"sqlite:///{folder / 'soak.sqlite'}", folder / "soak.sqlite"

    def lock(self, seconds: float) -> None:
        """Hold the write lock in another process."""
        code = (
            "import sqlite3, sys, time\n"
            "connection = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)\n"
            "connection.execute('BEGIN IMMEDIATE'); time.sleep(float(sys.argv[2])); connection.execute('ROLLBACK')"
        )
        subprocess.run([sys.executable, "-c", code, str(self.path), str(seconds)], check=True)

    def stop(self) -> None:
        """Do nothing: there is no server."""


def start_store(store: str, folder: Path) -> Any:
    """Start a store of this kind that acknowledges events only after writing them to disk.

    Raises:
        ValueError: its server is not installed.
    """
    if store == "sqlite":
        return SQLiteFile(folder)
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
    """``segue serve`` with two workers, which can be stopped and started at the same address."""

    def __init__(self, folder: Path, models: Path, store: str, port: int) -> None:
        from segue.serving.auth.api_keys import create_key

        keys, experiments = folder / "keys.json", folder / "experiments.json"
        self.key = create_key(keys, "traffic", ("read", "write"))
        self.admin_key = create_key(keys, "operator", ("read", "admin"))
        self.attacker_key = create_key(keys, "attacker", ("read",))
        variants = '{"a": {"model": "ease", "share": 0.2}, "b": {"model": "gru4rec", "share": 0.2}}'
        experiments.write_text(f'{{"experiments": [{{"name": "soak", "variants": {variants}}}]}}')
        self.address, self.log = f"http://127.0.0.1:{port}", folder / "service.log"
        self.lifetimes: list[dict[str, float]] = []
        """When each process of the service began and ended, and its exit status."""
        self.process: psutil.Popen | None = None
        self._command = [
            sys.executable, "-m", "segue", "serve", *(str(models / name) for name in MODELS),
            "--port", str(port), "--workers", "2", "--store", store, "--keys", str(keys),
            "--experiments", str(experiments), "--log-format", "json",
        ]  # fmt: skip

    def start(self, seconds: float = 180.0) -> None:
        """Start the service and wait until it is ready.

        Raises:
            RuntimeError: it is not ready within ``seconds``.
        """
        lifetime = {"begin": time.time(), "workers_before": self.n_started_workers()}
        with self.log.open("ab") as log:
            env = {**os.environ, "OMP_NUM_THREADS": "1"}
            # a session of its own: a hangup of the terminal would restart the workers
            self.process = psutil.Popen(self._command, stdout=log, stderr=log, env=env, start_new_session=True)
        while time.time() < lifetime["begin"] + seconds:
            if self.process.poll() is not None:
                break
            if self.n_started_workers() >= lifetime["workers_before"] + 2 and self.is_ready():
                self.lifetimes.append(lifetime)
                return
            time.sleep(0.1)
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
        self.process = None
        raise RuntimeError(self.log.read_text(errors="replace")[-2000:])

    def stop(self) -> None:
        """Send SIGTERM and wait for the end."""
        if self.process is None:
            return
        self.process.terminate()
        self.lifetimes[-1] |= {"status": self.process.wait(60), "end": time.time()}
        self.process = None

    def is_ready(self) -> bool:
        """Return whether the service reports that it is ready."""
        try:
            return httpx.get(f"{self.address}/readyz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def n_started_workers(self) -> int:
        """Return how many workers have reported their start, over all lifetimes."""
        return self.log.read_bytes().count(b"Application startup complete") if self.log.exists() else 0

    def workers(self) -> list[psutil.Process]:
        """Return the workers, the oldest first."""
        found = []
        for child in self.process.children() if self.process is not None else []:
            try:
                if "spawn_main" in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child)
            except psutil.NoSuchProcess:
                continue
        return sorted(found, key=lambda child: child.create_time())
