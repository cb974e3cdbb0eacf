"""From addresses and files to a service that listens, until it is told to stop."""

from __future__ import annotations

import gc
import logging
import math
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from platformdirs import user_data_path

from segue.core.config import Settings
from segue.serving.auth.api_keys import Keys, guard_public, local
from segue.serving.experiments.assignment import Experiments
from segue.serving.middleware.http_timeouts import HTTP
from segue.serving.middleware.security_headers import LOCAL
from segue.serving.model_registry import Ready, Shelf
from segue.serving.monitoring.drift import Drift
from segue.serving.monitoring.metrics import Metrics
from segue.serving.service import Service
from segue.serving.settings import Serving
from segue.serving.stores.open import open_store
from segue.serving.stores.store import StoreError

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["Start", "Unreached", "application", "assemble", "run", "store_address", "worker"]

START = "SEGUE_SERVING"
"""The environment variable by which workers are told what to serve."""


WAIT_SECONDS = 2.0
"""How soon a worker that cannot reach its store tries again."""

logger = logging.getLogger("segue.serving")


class Unreached(ValueError):
    """The store cannot be reached."""


class Start(Settings):
    """All that a process of the service has to know to begin."""

    folders: tuple[Path, ...]
    """Publications; the first answers."""
    host: str = "127.0.0.1"
    store: str | None = None
    """The address of the store; none: a file under ``SEGUE_HOME``."""
    keys: Path | None = None
    """The file of keys; none: everybody may do everything."""
    library: Path | None = None
    """A folder of further publications."""
    experiments: Path | None = None
    """The file of experiments."""
    log_format: Literal["json", "text"] = "text"
    serving: Serving = Serving()


def run(
    start: Start, *, port: int = 8000, open_to_all: bool = False, workers: int = 1, say: Callable[[str], None]
) -> None:
    """Listen until SIGTERM or Ctrl-C, and end what was begun.

    Several workers are processes that share the port and the store; one that dies is replaced.

    Raises:
        ValueError: a publication, a store, keys, experiments or settings that will not do; a public address without
            keys; or a port that is taken.
    """
    try:
        import uvicorn
        from uvicorn.supervisors import Multiprocess

        from segue.serving.monitoring.logs import start_logs
    except ImportError as error:
        raise ValueError(f"serve: {error.name} is not installed: pip install 'segue[serve]'") from None
    keys = None if start.keys is None else Keys(start.keys)
    guard_public(start.host, keys is not None and not keys.open, open_to_all)
    options: dict[str, Any] = {
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "timeout_keep_alive": 30,
        "timeout_graceful_shutdown": math.ceil(start.serving.drain_seconds),
        "http": HTTP,
        "ws": "none",
    }
    listening = _listening(start.host, port)
    shown = f"[{start.host}]" if ":" in start.host else start.host
    address = f"http://{shown}:{listening.getsockname()[1]}/"
    with listening:
        if workers == 1:
            app = application(start)
            say(f"{address}  the page;  {address}docs  the interface;  Ctrl-C ends it")
            start_logs(start.log_format)
            _settle()
            uvicorn.Server(uvicorn.Config(app, **options)).run(sockets=[listening])
            return
        told = start.model_dump_json()
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # or workers would fail one after the other for ever
            if (why := pool.submit(_why_not, told).result()) is not None:
                raise ValueError(why)
        say(f"{address}  the page;  {address}docs  the interface;  Ctrl-C ends it")
        start_logs(start.log_format)
        with tempfile.TemporaryDirectory(prefix="segue-metrics-") as folder:
            os.environ.update({START: told, "PROMETHEUS_MULTIPROC_DIR": folder})
            config = uvicorn.Config(f"{__name__}:worker", factory=True, workers=workers, **options)
            Multiprocess(config, [listening]).run()


def worker() -> FastAPI:
    """The application of one of several processes, which are told by their environment what to serve; it waits for a
    store that is away, as the others go on without it."""
    from segue.serving.monitoring.logs import start_logs

    start = Start.model_validate_json(os.environ[START])
    start_logs(start.log_format)
    before = {one: signal.signal(one, signal.SIG_DFL) for one in (signal.SIGTERM, signal.SIGINT)}
    while True:
        try:
            app = application(start)
            break
        except Unreached as error:
            logger.error("waiting for the store: %s", error)
            time.sleep(WAIT_SECONDS)
    for one, handler in before.items():
        signal.signal(one, handler)
    _settle()
    return app


def _why_not(told: str) -> str | None:
    """Why this cannot be served, if so; for a process of its own, whose end takes back what was begun."""
    try:
        application(Start.model_validate_json(told))
    except ValueError as error:
        return str(error)
    return None


def application(start: Start) -> FastAPI:
    """The application, ready to answer.

    Raises:
        ValueError: see :func:`run`.
    """
    from segue.serving.app import create

    keys = None if start.keys is None else Keys(start.keys)
    service = assemble(start.folders, start.store, start.library, start.serving)
    experiments = Experiments(start.experiments, service.shelf.find, service.store)
    hosts = LOCAL | {start.host} if keys is None and local(start.host) else None
    return create(service, keys=keys, experiments=experiments, hosts=hosts)


def assemble(folders: Sequence[Path], address: str | None, library: Path | None, settings: Serving) -> Service:
    """A service that is ready to answer, without anything that listens.

    Raises:
        ValueError: see :func:`run`.
    """
    metrics = Metrics()
    try:
        kept = open_store(store_address(address))
    except StoreError as error:
        raise Unreached(str(error)) from None
    drifts: dict[str, Drift] = {}

    def opened(ready: Ready) -> None:
        publication, version = ready.publication, ready.version
        metrics.model(version.name, version.key, version.version, False)
        metrics.golden(version.name, publication.golden, 0)
        if publication.histories is not None:
            drift = Drift(publication.histories, ready.catalogue.n_items, most=settings.recent)
            drifts[version.name] = drift
            metrics.watch(version.name, drift)

    try:
        shelf = Shelf(folders, kept, library, opened, settings.rules, settings.engine_threads)
        if settings.fallback is not None:
            shelf.find(settings.fallback)
    except StoreError as error:
        kept.close()
        raise Unreached(f"store: {error}") from None
    except BaseException:
        kept.close()
        raise
    active = shelf.active.version
    metrics.model(active.name, active.key, active.version, True)
    return Service(shelf, kept, settings, metrics, drifts)


def store_address(address: str | None) -> str:
    """The address that was given, or that of a file under ``SEGUE_HOME`` or where the platform keeps such data."""
    if address:
        return address
    home = os.environ.get("SEGUE_HOME")
    folder = Path(home).expanduser() if home else user_data_path("segue")
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder.resolve() / 'serving.sqlite'}"


def _settle() -> None:
    """What is there now stays to the end: the search for garbage need not go through it again and again, which it would
    every few hundred requests, and keep all others waiting meanwhile."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)  # a batch of questions alone makes thousands of objects, none of which stays


def _listening(host: str, port: int) -> socket.socket:
    try:
        found: list[Any] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, where = found[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(where)
            listening.listen(2048)
        except BaseException:
            listening.close()
            raise
    except OSError as error:
        raise ValueError(f"cannot listen at {host}, port {port}: {error.strerror or error}") from None
    return listening
