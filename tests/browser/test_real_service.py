"""The UI with the real service, whose model was trained on several kinds of event without a target."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'segue[serve]'")
pytest.importorskip("playwright", reason="playwright is not installed")

import uvicorn
from playwright.sync_api import BrowserContext, expect

from segue.serving.app import create_app
from segue.serving.artifacts.artifact import build_artifact
from segue.serving.server import build_service
from segue.serving.settings import ServingSettings
from tests.serving import rich_world, text_world

if TYPE_CHECKING:
    from segue.serving.service import Service


@pytest.fixture
def real_service() -> Iterator[tuple[str, Service]]:
    yield from serve(rich_world.service("gru4rec"))


def serve(service: Service) -> Iterator[tuple[str, Service]]:
    config = uvicorn.Config(create_app(service), log_level="critical", ws="none", timeout_graceful_shutdown=1)
    server, listening = uvicorn.Server(config), socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()  # connections wait while the server starts
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/", service
    server.should_exit = True
    thread.join(10)
    listening.close()


def test_an_event_is_added_with_its_kind(browser: BrowserContext, real_service: tuple[str, Any]) -> None:
    address, service = real_service
    page = browser.new_page()
    page.goto(f"{address}#user=u1")
    page.get_by_label("Kind of added events").select_option("purchase")
    page.locator("#recommend .add-event").first.click()
    expect(page.locator("#user-details li").first).to_contain_text("purchase")
    expect(page.locator(".change-summary")).to_contain_text("After")
    (stored,) = service.store.recent_events(["u1"], 10)
    assert [event.action for event in stored.events] == ["purchase"]
    page.close()


@pytest.fixture(scope="module")
def content_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Service]]:
    folder = tmp_path_factory.mktemp("models") / "content"
    build_artifact("content", text_world.trained("content"), text_world.world().histories, folder, engine="native")
    yield from serve(build_service([folder], "memory:", None, ServingSettings(deadline_ms=60_000)))


def test_an_added_item_is_found_and_has_its_newest_title(
    browser: BrowserContext, content_service: tuple[str, Any]
) -> None:
    address, _ = content_service
    page = browser.new_page()
    page.goto(f"{address}#mode=history&history={quote(json.dumps(['new', 'i0']))}")
    expect(page.get_by_role("list", name="History, oldest first").get_by_role("listitem").first).to_contain_text("new")
    search = page.get_by_role("combobox", name="Add the next item")
    for title, added in (("Moonrise", "Title 4"), ("Sunset", "Sunset")):
        features = {"plot": text_world.new_item()["plot"]}
        sent = {"items": [{"id": "new", "title": title, "features": features}]}
        assert page.request.post(f"{address}v1/items", data=sent).ok
        search.fill(added)
        page.get_by_role("option", name=added).first.click()
        expect(page.get_by_role("list", name="History, oldest first")).to_contain_text(title)
    page.close()
