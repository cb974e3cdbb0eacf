"""The UI with the real service, whose model was trained on several kinds of event without a target."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'segue[serve]'")
pytest.importorskip("playwright", reason="playwright is not installed")

import uvicorn
from playwright.sync_api import BrowserContext, expect

from segue.serving.app import create_app
from tests.serving import rich_world

if TYPE_CHECKING:
    from segue.serving.service import Service


@pytest.fixture
def real_service() -> Iterator[tuple[str, Service]]:
    service = rich_world.service("gru4rec")
    config = uvicorn.Config(create_app(service), log_level="critical", ws="none", timeout_graceful_shutdown=1)
    server, listening = uvicorn.Server(config), socket.socket()
    listening.bind(("127.0.0.1", 0))
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
