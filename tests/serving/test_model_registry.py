"""Models of the library: who may load them, memory, concurrent and failing loads, and what clients are told."""

from __future__ import annotations

import gc
import io
import json
import logging
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'segue[serve]'")
from starlette.testclient import TestClient

from segue.core.files import save_arrays, write_checked_json
from segue.serving import model_registry
from segue.serving.app import create_app
from segue.serving.artifacts.artifact import MANIFEST
from segue.serving.auth.api_keys import ApiKeys, create_key
from segue.serving.experiments.assignment import Experiments
from segue.serving.model_library import ModelLibrary
from segue.serving.model_registry import InsufficientMemory, LoadedModel, ModelRegistry, UnknownModel
from segue.serving.server import build_service
from segue.serving.service import Service
from segue.serving.settings import ServingSettings
from segue.serving.stores.open import open_store
from tests.serving.secured_app import bearer
from tests.serving.test_artifact_mutations import update_hashes
from tests.serving.world import artifact_folder

SCOPES = ("recommend", "read", "write", "admin", "read admin")


def add(library: Path, name: str, key: str = "ease") -> Path:
    """Add a copy of a model to a library under another name."""
    folder = Path(shutil.copytree(artifact_folder(key), library / name))
    change(folder, name=name)
    return folder


def change(folder: Path, **values: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest.pop("checksum")
    write_checked_json(folder / MANIFEST, {**manifest, **values})


def damage(folder: Path) -> None:
    """Damage a file of an artifact."""
    (folder / "popularity.npy").write_bytes(b"damaged")


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "library"
    folder.mkdir()
    return folder


class Clock:
    """A clock that tests set; it moves with each reading, so that no two times are equal."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


def registry(library: Path | None, **options: Any) -> ModelRegistry:
    return ModelRegistry([artifact_folder("popular")], open_store("memory:"), library, **options)


def size_of(library: Path) -> int:
    """Return the memory of the model that :func:`add` adds."""
    folder = add(library, "measured")
    size = registry(library).find("measured").size_bytes
    shutil.rmtree(folder)
    return size


def names(models: ModelRegistry) -> list[str]:
    return [model.info.name for model in models.loaded()]


# Memory


def test_least_recently_used_models_are_unloaded(library: Path) -> None:
    limit = int(2.5 * size_of(library))
    for name in "abcd":
        add(library, name)
    unloaded: list[str] = []
    models = registry(library, max_bytes=limit, on_unload=lambda model: unloaded.append(model.info.name), clock=Clock())
    models.find("a")
    models.find("b")
    models.find("a")
    models.find("c")
    assert (names(models), unloaded) == (["popular", "a", "c"], ["b"])
    models.find("d")
    assert (names(models), unloaded) == (["popular", "c", "d"], ["b", "a"])
    assert models.find("a").info.name == "a", "an unloaded model is loaded again"
    assert sum(model.size_bytes for model in models.loaded()[1:]) <= limit


def test_memory_of_an_unloaded_model_is_released(library: Path) -> None:
    for name in "ab":
        add(library, name, "gru4rec")
    limit = int(1.5 * registry(library).find("a").size_bytes)
    models = registry(library, max_bytes=limit)
    found = models.find("a")
    parts = [found, found.artifact, found.artifact.bundle.model, found.catalog, found.artifact.histories]
    references = [weakref.ref(part) for part in parts]
    del found, parts
    models.find("b")
    gc.collect()
    assert [reference() for reference in references] == [None] * 5


def test_models_in_use_are_never_unloaded(library: Path) -> None:
    limit = int(2.5 * size_of(library))
    for name in "abcd":
        add(library, name)
    models = registry(library, max_bytes=limit, clock=Clock())
    models.activate("a")
    models.activate("b")
    with pytest.raises(InsufficientMemory, match=r"'c' needs .* MB more than serving.max_models_bytes"):
        models.find("c")
    assert names(models) == ["popular", "a", "b"], "nothing is unloaded in vain"
    models.activate("popular")
    models.activate("b")
    models.find("c")
    assert names(models) == ["popular", "b", "c"], "model a is neither active nor the previous one"
    models.keep_loaded(["c"])
    with pytest.raises(InsufficientMemory):
        models.find("d")
    models.keep_loaded([])
    models.find("d")
    assert names(models) == ["popular", "b", "d"]


def test_a_model_stays_loaded_while_it_is_activated(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = int(1.5 * size_of(library))
    for name in "ab":
        add(library, name)
    store = open_store("memory:")
    models = ModelRegistry([artifact_folder("popular")], store, library, max_bytes=limit)
    put_setting = store.put_setting

    def load_another(name: str, value: str) -> None:
        with pytest.raises(InsufficientMemory):
            models.find("b")
        put_setting(name, value)

    monkeypatch.setattr(store, "put_setting", load_another)
    models.activate("a")
    assert models.active.info.name == "a"
    assert names(models) == ["popular", "a"]
    monkeypatch.undo()
    models.activate("popular")
    models.activate("popular")
    assert models.previous == "a"
    with pytest.raises(InsufficientMemory):
        models.find("b")


def test_models_of_experiments_are_loaded_with_the_file(library: Path, tmp_path: Path) -> None:
    limit = int(2.5 * size_of(library))
    for name in "abc":
        add(library, name)
    models = registry(library, max_bytes=limit, clock=Clock())
    variants = {name: {"model": name, "share": 0.5} for name in "ab"}
    path = tmp_path / "experiments.json"
    path.write_text(json.dumps({"experiments": [{"name": "x", "variants": variants}]}))
    experiments = Experiments(path, models.keep_loaded)
    assert names(models) == ["popular", "a", "b"]
    with pytest.raises(InsufficientMemory):
        models.find("c")
    variants["a"]["model"] = "popular"
    path.write_text(json.dumps({"experiments": [{"name": "y", "variants": variants}]}))
    experiments.reload_if_changed()
    models.find("c")
    assert names(models) == ["popular", "b", "c"]
    variants["b"]["model"] = "a"
    variants["a"]["model"] = "c"
    path.write_text(
        json.dumps({"experiments": [{"name": "z", "variants": {**variants, "d": {"model": "no", "share": 0.1}}}]})
    )
    experiments.reload_if_changed()
    assert experiments.all[0].name == "y", "a file with an unknown model is rejected"


def test_model_that_never_fits_is_an_error(library: Path) -> None:
    add(library, "a")
    models = registry(library, max_bytes=1_000)
    with pytest.raises(InsufficientMemory, match="'a' needs"):
        models.find("a")
    with pytest.raises(InsufficientMemory):
        models.activate("a")
    assert models.active.info.name == "popular"


def test_drift_and_metrics_of_an_unloaded_model_are_removed(library: Path) -> None:
    limit = int(1.5 * size_of(library))
    for name in "ab":
        add(library, name)
    settings = ServingSettings(max_models_bytes=limit)
    service = build_service([artifact_folder("popular")], "memory:", library, settings)
    service.models.find("a")
    assert service._drifts.keys() == {"popular", "a"}
    service.models.find("b")
    assert service._drifts.keys() == service.metrics._drifts.keys() == {"popular", "b"}
    service.close()


# Concurrent and failing loads


def test_concurrent_loads_of_a_model_load_it_once(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(library, "a")
    loads: list[Path] = []
    load = model_registry.load_artifact

    def slow_load(folder: Path, **options: Any) -> Any:
        loads.append(folder)
        time.sleep(0.2)
        return load(folder, **options)

    models = registry(library)
    monkeypatch.setattr(model_registry, "load_artifact", slow_load)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(models.find, ["a"] * 8))
    assert len(loads) == 1
    assert len({id(model) for model in found}) == 1


def test_slow_load_does_not_delay_other_models(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        add(library, name)
    started, released = threading.Event(), threading.Event()
    load = model_registry.load_artifact

    def blocking_load(folder: Path, **options: Any) -> Any:
        if folder.name == "a":
            started.set()
            released.wait(30)
            raise ValueError("damaged")
        return load(folder, **options)

    models = registry(library)
    monkeypatch.setattr(model_registry, "load_artifact", blocking_load)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(models.activate, "a")
        assert started.wait(30)
        assert models.activate("b").info.name == "b"
        assert models.find("popular").info.name == "popular"
        released.set()
        with pytest.raises(ValueError, match="damaged"):
            future.result(30)
    assert models.active.info.name == "b"


def test_failed_load_is_remembered_for_some_seconds(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = add(library, "a")
    damage(folder)
    loads: list[Path] = []
    load = model_registry.load_artifact
    monkeypatch.setattr(model_registry, "load_artifact", lambda path, **o: (loads.append(path), load(path, **o))[1])
    clock = Clock()
    models = registry(library, clock=clock)
    loads.clear()
    for _ in range(5):
        with pytest.raises(ValueError, match=r"popularity\.npy: sha256"):
            models.find("a")
    assert len(loads) == 1
    clock.now += model_registry.RETRY_SECONDS
    with pytest.raises(ValueError, match=r"popularity\.npy"):
        models.find("a")
    assert len(loads) == 2
    shutil.rmtree(folder)
    add(library, "a")
    assert models.find("a").info.name == "a", "a replaced artifact is tried at once"


def test_model_of_another_process_is_not_loaded_again_and_again(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(add(library, "a"))
    store = open_store("memory:")
    models = ModelRegistry([artifact_folder("popular")], store, library)
    store.put_setting("models", json.dumps({"active": "a", "previous": "popular"}))
    loads: list[Path] = []
    load = model_registry.load_artifact
    monkeypatch.setattr(model_registry, "load_artifact", lambda path, **o: (loads.append(path), load(path, **o))[1])
    for _ in range(3):
        with pytest.raises(ValueError, match="popularity"):
            models.sync_active()
    assert len(loads) == 1
    assert models.active.info.name == "popular"


def test_malformed_model_is_rejected_without_an_internal_error(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(library, "a")

    def fail(*args: Any) -> None:
        raise MemoryError("no memory")

    models = registry(library)
    monkeypatch.setattr(models, "_on_load", fail)
    with pytest.raises(ValueError, match="MemoryError: no memory"):
        models.find("a")


# The folder


def test_only_artifacts_inside_the_library_are_listed(library: Path, tmp_path: Path) -> None:
    add(library, "a")
    add(tmp_path, "outside")
    (library / "outside").symlink_to(tmp_path / "outside")
    (library / "alias").symlink_to(library / "a")
    (library / "loop").symlink_to(library / "loop")
    for name in (".hidden", "new\nline", "x" * 255, "empty"):
        (library / name).mkdir()
    for name in (".hidden", "new\nline"):
        shutil.copy(library / "a" / MANIFEST, library / name)
    (library / "file").write_text("x")
    found = ModelLibrary(library)
    assert found.names() == ["a", "alias"]
    for name in (
        "..",
        ".",
        "",
        "a/../a",
        "../outside",
        "outside",
        "/etc",
        "a\x00",
        "a/",
        "x" * 5_000,
        str(library / "a"),
    ):
        assert found.path(name) is None
        with pytest.raises(UnknownModel):
            registry(library).find(name)
    with pytest.raises(ValueError, match="folder 'alias' holds a model named 'a'"):
        registry(library).find("alias")
    shutil.rmtree(library)
    assert found.names() == []


def test_a_renamed_copy_is_not_listed(library: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(add(library, "a"), library / "copy")
    models = registry(library)
    for _ in range(2):
        assert models.names() == ["popular", "a"]
        assert list(models.unloaded_manifests()) == ["a"]
    with pytest.raises(UnknownModel, match="known: a, popular") as raised:
        models.find("other")
    assert "copy" not in str(raised.value)
    with pytest.raises(ValueError, match="folder 'copy' holds a model named 'a'; rename the folder"):
        models.find("copy")
    messages = [record.getMessage() for record in caplog.records if "copy" in record.getMessage()]
    assert messages == ["the folder copy holds a model named a: rename the folder to load it"]
    shutil.rmtree(library / "a")
    (library / "copy").rename(library / "a")
    assert models.find("a").info.name == "a"


def test_manifests_are_read_again_only_after_a_change(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = add(library, "a")
    (library / "broken").mkdir()
    (library / "broken" / MANIFEST).write_text('{"format": 3, "sha256": {"../x": ""}}')
    found, reads = ModelLibrary(library), []
    read = found._read_manifest
    monkeypatch.setattr(found, "_read_manifest", lambda name: (reads.append(name), read(name))[1])
    for _ in range(3):
        assert list(found.manifests()) == ["a"]
    assert reads == ["a", "broken"]
    change(folder, metadata={"data": "new data"})
    assert found.manifests()["a"].metadata == {"data": "new data"}
    assert reads == ["a", "broken", "a"]


# HTTP


@pytest.fixture
def service(library: Path) -> Service:
    for name in ("good", "broken"):
        add(library, name)
    damage(library / "broken")
    return build_service([artifact_folder("popular")], "memory:", library, ServingSettings(deadline_ms=60_000))


@pytest.fixture
def tokens(tmp_path: Path) -> dict[str, str]:
    return {scope: create_key(tmp_path / "keys.json", scope, scope.split()) for scope in SCOPES}


@pytest.fixture
def client(service: Service, tokens: dict[str, str], tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(create_app(service, keys=ApiKeys(tmp_path / "keys.json"))) as client:
        yield client


REQUESTS: dict[str, dict[str, Any]] = {
    "recommend": {"history": ["i1"]},
    "recommend/batch": {"requests": [{"history": ["i1"]}, {"history": ["i1"]}]},
    "explain": {"history": ["i1"], "item": "i2"},
}


def body(route: str, model: str) -> dict[str, Any]:
    content = json.loads(json.dumps(REQUESTS[route]))
    for one in content.get("requests", [content]):
        one["model"] = model
    return dict(content)


@pytest.mark.parametrize("route", REQUESTS)
def test_readers_cannot_load_models(client: TestClient, service: Service, tokens: dict[str, str], route: str) -> None:
    field = "requests[0].model" if "requests" in REQUESTS[route] else "model"
    for name in ("good", "broken", "missing", "../good", "\x00", "x" * 100):
        response = client.post(f"/v1/{route}", json=body(route, name), headers=bearer(tokens["read"]))
        assert response.status_code == 422
        if name.isprintable():
            assert (
                "is not loaded; loaded: popular; only a key with the scope admin can load others"
                in (response.json()["fields"][field])
            )
    assert names(service.models) == ["popular"]
    response = client.post(f"/v1/{route}", json=body(route, "good"), headers=bearer(tokens["read admin"]))
    assert response.status_code == 200
    assert names(service.models) == ["popular", "good"]
    response = client.post(f"/v1/{route}", json=body(route, "good"), headers=bearer(tokens["read"]))
    assert response.status_code == 200, "a loaded model answers readers"


LEAKS = ("sha256", "popularity", "library", "/", "damaged", "Error", "Traceback")


def check_no_leak(response: Any, status: int, logs: io.StringIO) -> None:
    """Check that an error has no details, which are in the log under its id."""
    assert response.status_code == status
    error = response.json()
    text = error["message"] + json.dumps(error["fields"])
    assert "the model cannot be loaded" in text
    assert not [leak for leak in LEAKS if leak in text]
    records = [json.loads(line) for line in logs.getvalue().splitlines()]
    details = [one for one in records if one.get("request_id") == error["request_id"] and one["level"] == "ERROR"]
    assert any("popularity.npy: sha256" in one["message"] for one in details)


def test_damaged_artifacts_are_reported_without_details(library: Path, logs: io.StringIO, service: Service) -> None:
    with TestClient(create_app(service)) as client:  # without keys, every client may load models
        logging.getLogger("segue").setLevel(logging.INFO)
        for route in REQUESTS:
            check_no_leak(client.post(f"/v1/{route}", json=body(route, "broken")), 422, logs)
        check_no_leak(client.post("/v1/models/broken/activate"), 409, logs)
        assert client.post("/v1/models/good/activate").status_code == 200
        assert client.post("/v1/models/popular/activate").status_code == 200
        service.store.put_setting("models", json.dumps({"active": "popular", "previous": "broken"}))
        check_no_leak(client.post("/v1/models/rollback"), 409, logs)
        assert client.get("/v1/models").json()["previous"] == "broken"
        for name in ("missing", "..", "a/b"):
            response = client.post(f"/v1/models/{name.replace('/', '%2F')}/activate")
            assert response.status_code == 404


def test_listed_metadata_is_bounded(library: Path, service: Service) -> None:
    metadata = {"data": "x" * 100_000, "trained": ["/etc/passwd"], "metrics": {f"m{n}" * 200: n for n in range(1_000)},
                "path": "/secret/path"}  # fmt: skip
    change(library / "good", metadata=metadata)
    change(library / "broken", sha256={"../../etc/passwd": "0" * 64})
    with TestClient(create_app(service)) as client:
        response = client.get("/v1/models")
        assert [model["name"] for model in response.json()["models"]] == ["popular", "good"]
        assert len(response.content) < 50_000
        assert "secret" not in response.text
        assert "passwd" not in response.text


def test_activation_without_memory_is_a_conflict(library: Path) -> None:
    add(library, "good")
    service = build_service([artifact_folder("popular")], "memory:", library, ServingSettings(max_models_bytes=1_000))
    with TestClient(create_app(service)) as client:
        response = client.post("/v1/models/good/activate")
        assert response.status_code == 409
        assert "'good' needs" in response.json()["message"]
        assert str(library) not in response.text
        response = client.post("/v1/recommend", json={"history": ["i1"], "model": "good"})
        assert response.status_code == 422
        assert "serving.max_models_bytes" in response.json()["fields"]["model"]


def test_running_requests_keep_a_model_that_is_unloaded(library: Path) -> None:
    limit = int(1.5 * size_of(library))
    for name in "ab":
        add(library, name)
    service = build_service([artifact_folder("popular")], "memory:", library, ServingSettings(max_models_bytes=limit))
    with TestClient(create_app(service)) as client:
        find, unloaded = service.models.find, []

        def unload_afterwards(name: str | None) -> LoadedModel:
            model = find(name)
            if name == "a":
                unloaded.append(find("b"))
            return model

        service.models.find = unload_afterwards  # type: ignore[method-assign]
        response = client.post("/v1/recommend", json={"history": ["i1"], "model": "a", "deadline_ms": 60_000})
        assert response.json()["model"]["name"] == "a"
        assert response.json()["source"] == "model"
        assert names(service.models) == ["popular", "b"]


MALFORMED: dict[str, Callable[[Path], object]] = {
    "golden": lambda folder: (folder / "golden_queries.json").write_text('{"queries": []}'),
    "json": lambda folder: (folder / "golden_queries.json").write_text("[" * 100_000),
    "ids": lambda folder: pl.DataFrame({"id": ["same"] * 40}).write_parquet(folder / "bundle" / "items.parquet"),
    "titles": lambda folder: (
        pl.read_parquet(folder / "bundle" / "items.parquet")
        .with_columns(pl.lit([[1]]).alias("title"))
        .write_parquet(folder / "bundle" / "items.parquet")
    ),
    "popularity": lambda folder: np.save(folder / "popularity.npy", np.full(40, np.nan, np.float32)),
    "neighbors": lambda folder: np.save(folder / "neighbors" / "codes.npy", np.full((40, 3), 99, np.int32)),
    "histories": lambda folder: np.save(folder / "histories" / "offsets.npy", np.zeros(3)),
    "weights": lambda folder: save_arrays(folder / "bundle" / "arrays.safetensors", {"weights": np.zeros(3)}),
    "settings": lambda folder: change_bundle(folder, config={"l2": "x"}),
    "schema": lambda folder: change_bundle(folder, schema={"n_users": -1, "n_items": 10**12, "actions": [None]}),
    "model": lambda folder: change_bundle(folder, model="os.system"),
}


def change_bundle(folder: Path, **values: Any) -> None:
    path = folder / "bundle" / "bundle.json"
    content = json.loads(path.read_text())
    content.pop("checksum")
    write_checked_json(path, {**content, **values})


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_artifacts_are_conflicts_and_never_internal_errors(library: Path, name: str) -> None:
    MALFORMED[name](add(library, name))
    update_hashes(library / name)
    service = build_service([artifact_folder("popular")], "memory:", library, ServingSettings(deadline_ms=60_000))
    with TestClient(create_app(service)) as client:
        response = client.post(f"/v1/models/{name}/activate")
        assert (response.status_code, response.json()["error"]) == (409, "conflict")
        response = client.post("/v1/recommend", json={"history": ["i1"], "model": name})
        assert response.status_code == 422
        models = client.get("/v1/models").json()["models"]
        assert [(model["name"], model["active"]) for model in models][:1] == [("popular", True)]
