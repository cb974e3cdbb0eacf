"""From addresses and files to a service that listens, until it is told to stop."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from platformdirs import user_data_path

from segue.serving.drift import Drift
from segue.serving.headers import LOCAL
from segue.serving.keys import Keys, guard_public, local
from segue.serving.metrics import Metrics
from segue.serving.routing import Experiments
from segue.serving.service import Service
from segue.serving.settings import Serving
from segue.serving.shelf import Ready, Shelf
from segue.serving.stores.opening import open_store

__all__ = ["assemble", "run", "store_address"]


def run(
    folders: Sequence[Path],
    *,
    host: str,
    port: int,
    address: str | None,
    keys_file: Path | None,
    open_to_all: bool,
    library: Path | None,
    experiments_file: Path | None,
    settings: Serving,
    log_format: str,
    say: Callable[[str], None],
) -> None:
    """Listen until SIGTERM or Ctrl-C, and end what was begun.

    Raises:
        ValueError: a publication, a store, keys, experiments or settings that will not do; or a public address without
            keys.
    """
    try:
        import uvicorn

        from segue.serving.app import create
        from segue.serving.logs import start_logs
    except ImportError as error:
        raise ValueError(f"serve: {error.name} is not installed: pip install 'segue[serve]'") from None
    if log_format not in ("json", "text"):
        raise ValueError(f"--log-format: got '{log_format}', expected json or text")
    keys = None if keys_file is None else Keys(keys_file)
    guard_public(host, keys is not None and not keys.open, open_to_all)
    service = assemble(folders, address, library, settings)
    experiments = Experiments(experiments_file, service.shelf.find, service.store)
    hosts = LOCAL | {host} if keys is None and local(host) else None
    app = create(service, keys=keys, experiments=experiments, hosts=hosts)
    listening = _listening(host, port)
    start_logs("json" if log_format == "json" else "text")
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(settings.drain_seconds) or None,
        h11_max_incomplete_event_size=65_536,
    )
    shown = f"[{host}]" if ":" in host else host
    say(f"http://{shown}:{listening.getsockname()[1]}/  the page;  /docs  the interface;  Ctrl-C ends it")
    uvicorn.Server(config).run(sockets=[listening])


def assemble(folders: Sequence[Path], address: str | None, library: Path | None, settings: Serving) -> Service:
    """A service that is ready to answer, without anything that listens.

    Raises:
        ValueError: see :func:`run`.
    """
    metrics = Metrics()
    kept = open_store(store_address(address))
    drifts: dict[str, Drift] = {}

    def opened(ready: Ready) -> None:
        publication, version = ready.publication, ready.version
        metrics.model(version.name, version.key, version.version, False)
        metrics.golden(version.name, publication.golden, 0)
        if publication.histories is not None:
            metrics.watch(version.name, Drift(publication.histories, ready.catalogue.n_items, most=settings.recent))

    try:
        shelf = Shelf(folders, kept, library, opened)
        if settings.fallback is not None:
            shelf.find(settings.fallback)
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


def _listening(host: str, port: int) -> socket.socket:
    try:
        found: list[Any] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, where = found[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
    except OSError as error:
        raise ValueError(f"cannot listen at {host}, port {port}: {error.strerror or error}") from None
    return listening
