"""Run the consecutive Python blocks of documentation pages and compare the shown output."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.filterwarnings("ignore::segue.core.messages.SegueWarning")
"""In a catalog of 50 items some users have seen everything, which recommend() reports."""

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "guide"
PAGES = (
    "off-policy.md",
    "splitting.md",
    "step-by-step.md",
    "coming-from/implicit.md",
    "coming-from/lenskit.md",
    "coming-from/recbole.md",
    "coming-from/rectools.md",
    "how-to/cross-validate.md",
    "how-to/filter-items.md",
    "how-to/recommend-for-everybody.md",
    "how-to/repeat-consumption.md",
    "how-to/train-on-everything.md",
)
"""Pages with blocks marked ``chained``, which share one namespace."""

SIMULATED = {'"ml-100k"': '"simulated?users=200&items=50"', "[196, 186]": '["u001", "u002"]'}
SIMULATED |= {"[50, 172, 181]": '["i01", "i02", "i03"]', '["50", "172", "181"]': '["i01", "i02", "i03"]'}
"""Replacements of MovieLens 100K and its ids if ``SEGUE_ARCHIVES`` is not set."""

FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[str, str, str]]:
    """Return the language, the rest of the fence line and the content of every fenced block."""
    return FENCE.findall((GUIDE / page).read_text(encoding="utf-8"))


def chained(page: str) -> Iterator[tuple[str, str | None]]:
    """Yield the code of consecutive blocks and the output shown in a ``text`` block directly below."""
    actual = blocks(page)
    for (kind, rest, code), (after, _, shown) in zip(actual, [*actual[1:], ("", "", "")], strict=True):
        if kind == "python" and ".chained" in rest:
            yield code, shown if after == "text" else None


def titled(page: str, title: str) -> str:
    """Return the block with this title."""
    (code,) = [code for _, rest, code in blocks(page) if f'title="{title}"' in rest]
    return code


def localized(code: str) -> str:
    """Replace MovieLens 100K by the simulated source if there are no archives."""
    if os.environ.get("SEGUE_ARCHIVES"):
        return code
    for text, other in SIMULATED.items():
        code = code.replace(text, other)
    return code


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("page", PAGES)
def test_page_runs_from_top_to_bottom(page: str) -> None:
    namespace: dict[str, Any] = {"__name__": "example"}
    parts = list(chained(page))
    assert parts
    for code, shown in parts:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(localized(code), page, "exec", dont_inherit=True), namespace)
        if shown is not None and os.environ.get("SEGUE_ARCHIVES"):
            assert output.getvalue().split() == shown.split()


def test_every_page_with_chained_blocks_is_listed() -> None:
    pages = {path.relative_to(GUIDE).as_posix() for path in GUIDE.rglob("*.md")}
    assert {page for page in pages if any(".chained" in rest for _, rest, _ in blocks(page))} == set(PAGES)


def test_nightly_retraining_exports_and_keeps_a_worse_model_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import segue

    code = titled("how-to/nightly-retraining.md", "retrain.py")
    code = code.replace('NAME = "gru4rec"', 'NAME = "item_knn"')
    code = re.sub(r"^SETTINGS = .*$", 'SETTINGS = {"k": 10}', code, flags=re.MULTILINE)
    namespace: dict[str, Any] = {"__name__": "retrain"}
    exec(compile(code, "retrain.py", "exec", dont_inherit=True), namespace)
    data = segue.load("simulated?users=200&items=50")
    events = data.histories
    import polars as pl

    assert events.times is not None
    log = pl.DataFrame(
        {
            "user_id": data.users.decode(events.rows),
            "item_id": data.items.decode(events.items),
            "timestamp": events.times,
        }
    )
    log.sort("timestamp").write_csv(tmp_path / "events.csv")
    state, artifacts = tmp_path / "state", tmp_path / "artifacts"
    state.mkdir()
    assert namespace["main"](str(tmp_path / "events.csv"), artifacts, state) == 0
    (first,) = artifacts.iterdir()
    assert capsys.readouterr().out.splitlines()[-1] == first.name
    namespace["TOLERANCE"] = 1e9
    assert namespace["main"](str(tmp_path / "events.csv"), artifacts, state) == 3
    assert list(artifacts.iterdir()) == [first]
    assert "in production" in capsys.readouterr().out


def test_manifest_of_nightly_retraining_is_a_cron_job() -> None:
    yaml = pytest.importorskip("yaml")
    manifest = yaml.safe_load(titled("how-to/nightly-retraining.md", "retrain.yaml"))
    assert (manifest["apiVersion"], manifest["kind"]) == ("batch/v1", "CronJob")
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_scripts_of_pages_compile() -> None:
    for page in ("extending.md", "how-to/nightly-retraining.md"):
        for kind, _, code in blocks(page):
            if kind == "python":
                compile(code, page, "exec", dont_inherit=True)
    assert sys.version_info >= (3, 11)
