"""The attacked service: ``segue serve`` of one checkout with keys, SQLite on disk and a model library."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

from benchmarks.machine import free_port
from segue.core.files import write_checked_json

__all__ = ["AttackedService", "build_artifacts", "fill_library"]

MODELS = ("xlstm", "sasrec")
"""A streaming model, which is active, and one that is not."""

N_LIBRARY, FILE_LIMIT = 6, 1_024
"""Number of intact models in the library, none of them loaded, and the usual soft limit of open files."""

RUNNER = Path(__file__).parents[1] / "runners" / "run_serving_artifact.py"


def build_artifacts(checkout: Path, folder: Path, items: int, users: int) -> None:
    """Build the artifacts and the model library of a checkout with its own code."""
    for model in MODELS:
        work = folder / f"job-{model}"
        work.mkdir(parents=True)
        job = {"model": model, "items": items, "users": users, "history": 50, "seed": 0, "threads": 1}
        (work / "job.json").write_text(json.dumps(job | {"out": str(folder / model)}))
        subprocess.run([sys.executable, str(RUNNER), str(work)], env=_environment(checkout), check=True, cwd=work)
    fill_library(folder / "sasrec", folder / "library")


def fill_library(artifact: Path, library: Path) -> None:
    """Copy an artifact under several names, one of them damaged, two with names of files outside its folder."""
    for name in (*(f"spare{number}" for number in range(N_LIBRARY)), "damaged", "outside", "absolute"):
        shutil.copytree(artifact, library / name)
        manifest = json.loads((library / name / "artifact.json").read_text())
        manifest.pop("checksum", None)
        manifest["name"] = name
        if name == "damaged":
            arrays = library / name / "bundle" / "arrays.safetensors"
            arrays.write_bytes(arrays.read_bytes()[:-1] + b"\xff")
        elif name in ("outside", "absolute"):
            secret = library.parent / "secret.txt"
            secret.write_text("not part of any artifact")
            manifest["sha256"]["../../secret.txt" if name == "outside" else str(secret)] = "0" * 64
        write_checked_json(library / name / "artifact.json", manifest)


def _environment(checkout: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}


class AttackedService:
    """A service process with its store, keys and log in ``folder``; its memory is sampled from start to stop."""

    def __init__(self, checkout: Path, models: Path, folder: Path, has_experiment: bool) -> None:
        from segue.serving.auth.api_keys import create_key

        folder.mkdir(parents=True)
        self.keys = {
            scope: create_key(folder / "keys.json", scope, scopes)
            for scope, scopes in (("plain", ["read"]), ("read", ["read"]), ("write", ["read", "write"]))
        }
        self.store, self.log = folder / "store.sqlite", folder / "service.log"
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "segue", "serve", *(str(models / name) for name in MODELS)]
        command += ["--port", str(port), "--store", f"sqlite:///{self.store}", "--keys", str(folder / "keys.json")]
        command += ["--models", str(models / "library"), "--log-format", "json"]
        if has_experiment:
            variants = {name: {"model": name, "share": 0.5} for name in MODELS}
            experiments = {"experiments": [{"name": "attack", "variants": variants}]}
            (folder / "experiments.json").write_text(json.dumps(experiments))
            command += ["--experiments", str(folder / "experiments.json")]
        with self.log.open("wb") as log:
            self.process = psutil.Popen(
                command, stdout=log, stderr=log, env=_environment(checkout), preexec_fn=_limit_files
            )
        self.memory: list[tuple[float, float]] = []
        """Time, and resident memory of all processes in MB."""
        self._stopped = threading.Event()
        self._sampler = threading.Thread(target=self._sample_memory, daemon=True)

    def start(self, seconds: float = 90.0) -> None:
        """Wait until the service is ready.

        Raises:
            RuntimeError: it is not ready within ``seconds``.
        """
        until = time.time() + seconds
        while time.time() < until and self.process.poll() is None:
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.address}/readyz", timeout=2).status_code == 200:
                    self._sampler.start()
                    return
            time.sleep(0.1)
        raise RuntimeError(self.log.read_text(errors="replace")[-2000:])

    def stop(self) -> None:
        """Kill the service."""
        self._stopped.set()
        for process in [*self.process.children(recursive=True), self.process] if self.is_alive() else []:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(30)
        if self._sampler.is_alive():
            self._sampler.join()

    def is_alive(self) -> bool:
        """Return whether the process runs."""
        return self.process.poll() is None

    def store_mb(self) -> float:
        """Return the size of the store's files in MB."""
        return sum(path.stat().st_size for path in self.store.parent.glob(f"{self.store.name}*")) / 1e6

    def logged_tracebacks(self) -> int:
        """Return how many log lines contain a traceback."""
        return sum("Traceback" in line for line in self.log.read_text(errors="replace").splitlines())

    def _sample_memory(self) -> None:
        while not self._stopped.wait(0.05):
            size = 0
            with suppress(psutil.NoSuchProcess):
                for process in [self.process, *self.process.children(recursive=True)]:
                    size += process.memory_info().rss
                self.memory.append((time.time(), size / 1e6))


def _limit_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILE_LIMIT, hard), hard))
