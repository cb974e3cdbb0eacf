"""Starts the service as one or several processes that listen on a port."""

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
from segue.core.examples.click_model import ABOUT as CLICK_MODEL
from segue.serving.auth.api_keys import ApiKeys, check_public_access, is_loopback
from segue.serving.connection_limits import accept_backlog, raise_file_limit
from segue.serving.experiments.assignment import Experiments
from segue.serving.middleware.http_protocol import HTTP_PROTOCOL
from segue.serving.middleware.security_headers import LOCAL_HOSTS
from segue.serving.model_registry import LoadedModel, ModelRegistry
from segue.serving.monitoring.drift import Drift
from segue.serving.monitoring.metrics import Metrics
from segue.serving.service import Service
from segue.serving.settings import ServingSettings
from segue.serving.stores.open import open_store
from segue.serving.stores.store import StoreError
from segue.serving.stores.timeout import TimeoutStore

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = [
    "ServerConfig",
    "StoreUnreachable",
    "build_service",
    "check_port",
    "create_application",
    "create_worker",
    "run",
    "store_address",
]

CONFIG_ENV = "SEGUE_SERVING"
"""Environment variable that passes the configuration to worker processes."""

LOCK_SHARE = 0.9
"""Share of the write timeout for which a write waits for other writers."""

RETRY_SECONDS = 2.0
"""Delay before a worker retries an unreachable store."""

logger = logging.getLogger("segue.serving")


class StoreUnreachable(ValueError):
    """The event store is unreachable."""


class ServerConfig(Settings):
    """Configuration of a service process."""

    folders: tuple[Path, ...]
    """Model artifacts, or folders of click-through models; the first is active."""
    host: str = "127.0.0.1"
    store: str | None = None
    """Address of the event store; default: a file under ``SEGUE_HOME``."""
    keys: Path | None = None
    """API key file; default: no authentication."""
    library: Path | None = None
    """Folder of further model artifacts."""
    experiments: Path | None = None
    """Experiments file."""
    log_format: Literal["json", "text"] = "text"
    serving: ServingSettings = ServingSettings()


def run(
    config: ServerConfig, *, port: int = 8000, allow_open: bool = False, workers: int = 1, log: Callable[[str], None]
) -> None:
    """Listen until SIGTERM or Ctrl-C, then finish running requests.

    Workers are processes that share the port and the store; a worker that dies is replaced.

    Args:
        allow_open: whether a public address without API keys is allowed.
        log: called with the address once the service listens.

    Raises:
        ValueError: invalid artifacts, store, keys, experiments or settings; a public address without keys; or a port in
            use.
    """
    check_port(port)
    try:
        import uvicorn
        from uvicorn.supervisors import Multiprocess

        from segue.serving.monitoring.logs import configure_logging
    except ImportError as error:
        raise ValueError(f"serve: {error.name} is not installed: pip install 'segue[serve]'") from None
    keys = None if config.keys is None else ApiKeys(config.keys)
    check_public_access(config.host, keys is not None and not keys.is_open, allow_open)
    backlog = accept_backlog(raise_file_limit())
    options: dict[str, Any] = {
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "timeout_keep_alive": 30,
        "backlog": backlog,
        "timeout_graceful_shutdown": math.ceil(config.serving.drain_seconds),
        "http": HTTP_PROTOCOL,
        "ws": "none",
    }
    listener = _bind_socket(config.host, port, backlog)
    host = f"[{config.host}]" if ":" in config.host else config.host
    address = f"http://{host}:{listener.getsockname()[1]}/"
    banner = f"{address}  (UI); API docs at {address}docs; press Ctrl-C to stop"
    with listener:
        if workers == 1:
            app = create_application(config)
            log(banner)
            configure_logging(config.log_format)
            _freeze_gc()
            uvicorn.Server(uvicorn.Config(app, **options)).run(sockets=[listener])
            return
        encoded = config.model_dump_json()
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # otherwise workers would fail again and again
            if (error_text := pool.submit(_preflight_error, encoded).result()) is not None:
                raise ValueError(error_text)
        log(banner)
        configure_logging(config.log_format)
        with tempfile.TemporaryDirectory(prefix="segue-metrics-") as folder:
            os.environ.update({CONFIG_ENV: encoded, "PROMETHEUS_MULTIPROC_DIR": folder})
            server = uvicorn.Config(f"{__name__}:create_worker", factory=True, workers=workers, **options)
            Multiprocess(server, [listener]).run()


def check_port(port: int) -> None:
    """Check that a service can listen on a port of this number.

    Raises:
        ValueError: it is not an integer from 0 to 65535.
    """
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65_535:
        raise ValueError(f"port: got {port!r}, expected an integer from 0 to 65535")


def create_worker() -> FastAPI:
    """Create the application of a worker process, configured by :data:`CONFIG_ENV`.

    It waits for an unreachable store, as other workers may be able to answer meanwhile.
    """
    from segue.serving.monitoring.logs import configure_logging

    config = ServerConfig.model_validate_json(os.environ[CONFIG_ENV])
    configure_logging(config.log_format)
    handlers = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGINT)}
    while True:
        try:
            app = create_application(config)
            break
        except StoreUnreachable as error:
            logger.error("waiting for the store: %s", error)
            time.sleep(RETRY_SECONDS)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    _freeze_gc()
    return app


def _preflight_error(encoded: str) -> str | None:
    """Return why the service cannot start, or ``None`` if it can.

    Runs in a separate process that releases all resources.
    """
    try:
        create_application(ServerConfig.model_validate_json(encoded))
    except ValueError as error:
        return str(error)
    return None


def create_application(config: ServerConfig) -> FastAPI:
    """Create the application, of recommenders or of click-through models.

    Raises:
        ValueError: see :func:`run`.
    """
    if any((folder / CLICK_MODEL).is_file() for folder in config.folders):
        return _create_click_application(config)
    from segue.serving.app import create_app

    keys = None if config.keys is None else ApiKeys(config.keys)
    service = build_service(config.folders, config.store, config.library, config.serving)
    experiments = Experiments(config.experiments, service.models.keep_loaded, service.store)
    return create_app(service, keys=keys, experiments=experiments, hosts=_accepted_hosts(config, keys))


def _create_click_application(config: ServerConfig) -> FastAPI:
    """Create the application of click-through models, which need no event store.

    Raises:
        ValueError: a folder holds a recommender, or an option is for recommenders only.
    """
    from segue.serving.api.click_app import create_click_app
    from segue.serving.clicks.click_service import ClickService, load_click_model

    for folder in config.folders:
        if not (folder / CLICK_MODEL).is_file():
            raise ValueError(
                f"serve: {folder} is a recommender, and others are click-through models of a table; expected models of "
                "one kind, as their services have different routes; start two"
            )
    for name in ("library", "experiments"):
        if getattr(config, name) is not None:
            raise ValueError(
                f"serve: got {name}, which has no effect on click-through models of a table, expected none"
            )
    keys = None if config.keys is None else ApiKeys(config.keys)
    models = [load_click_model(folder) for folder in config.folders]
    service = ClickService(models, config.serving, Metrics())
    return create_click_app(service, keys=keys, hosts=_accepted_hosts(config, keys))


def _accepted_hosts(config: ServerConfig, keys: ApiKeys | None) -> frozenset[str] | None:
    """Return the host names that are accepted; ``None``: any.

    Without keys, a loopback address accepts local ones only.
    """
    return frozenset(LOCAL_HOSTS | {config.host}) if keys is None and is_loopback(config.host) else None


def build_service(
    folders: Sequence[Path], address: str | None, library: Path | None, settings: ServingSettings
) -> Service:
    """Create a service that is ready to answer but does not listen.

    Raises:
        ValueError: see :func:`run`.
    """
    metrics = Metrics()
    try:
        store = _open_store(store_address(address), settings)
    except StoreError as error:
        raise StoreUnreachable(str(error)) from None
    drifts: dict[str, Drift] = {}

    def on_load(model: LoadedModel) -> None:
        artifact, info = model.artifact, model.info
        metrics.set_model(info.name, info.key, info.version, False)
        metrics.set_golden_queries(info.name, artifact.n_golden, 0)
        if artifact.histories is not None:
            drift = Drift(artifact.histories, model.catalog.n_items, max_history=settings.max_user_events)
            drifts[info.name] = drift
            metrics.add_drift(info.name, drift)

    def on_unload(model: LoadedModel) -> None:
        drifts.pop(model.info.name, None)
        metrics.remove_model(model.info.name)

    try:
        models = ModelRegistry(
            folders,
            store,
            library,
            on_load,
            settings.default_rules,
            settings.engine_threads,
            max_bytes=settings.max_models_bytes,
            on_unload=on_unload,
        )
        if settings.fallback is not None:
            models.keep_loaded([settings.fallback], "fallback")
    except StoreError as error:
        store.close()
        raise StoreUnreachable(f"store: {error}") from None
    except BaseException:
        store.close()
        raise
    active = models.active.info
    metrics.set_model(active.name, active.key, active.version, True)
    service = Service(models, store, settings, metrics, drifts)
    service.added_items.update()
    metrics.set_added_items(len(service.added_items))
    for reason in service.added_items.check_encoders():
        logger.warning("%s", reason)
    return service


def _open_store(address: str, settings: ServingSettings) -> TimeoutStore:
    """Open the store and limit the duration of its calls.

    The first call has no limit, as it may convert a store of an older format.

    Raises:
        StoreError: it is unreachable.
    """
    write_seconds = settings.store_write_timeout_ms / 1000
    # a write that waits for a lock should fail with a known outcome before it is overdue
    store = open_store(address, LOCK_SHARE * write_seconds)
    try:
        store.ping()
    except BaseException:
        store.close()
        raise
    return TimeoutStore(store, settings.store_timeout_ms / 1000, write_seconds)


def store_address(address: str | None) -> str:
    """Return ``address``, or the default address of the store.

    The default is a file under ``SEGUE_HOME`` or in the platform's data folder.
    """
    if address:
        return address
    home = os.environ.get("SEGUE_HOME")
    folder = Path(home).expanduser() if home else user_data_path("segue")
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder.resolve() / 'serving.sqlite'}"


def _freeze_gc() -> None:
    """Exclude existing objects from garbage collection and make it rarer.

    They live until the end, and scanning them every few hundred requests would delay all requests. A batch of requests
    creates thousands of objects, none of which survives.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


def _bind_socket(host: str, port: int, backlog: int) -> socket.socket:
    try:
        addresses: list[Any] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = addresses[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(backlog)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise ValueError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from None
    return listener
