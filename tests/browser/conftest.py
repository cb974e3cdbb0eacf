"""The stand-in behind a port, and Chromium in front of it; whatever goes wrong in the page fails the test.

Playwright keeps an event loop running, so the browser lives no longer than the module that uses it.
"""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

if TYPE_CHECKING:
    from fake_service import Service
    from playwright.sync_api import BrowserContext, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
EXPECTED = "Failed to load resource"  # how Chromium tells of an answer that is an error, which tests provoke
PATIENCE_MS = 10_000


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    import uvicorn
    from fake_service import Service, make
    from fake_world import World

    world = World()
    config = uvicorn.Config(make(world), log_level="critical", lifespan="off", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield Service(f"http://127.0.0.1:{listening.getsockname()[1]}/", world)
    server.should_exit = True
    thread.join(10)
    listening.close()


@pytest.fixture
def service(running: Service) -> Service:
    """The stand-in as it is at first."""
    from fake_world import World

    vars(running.world).update(vars(World()))
    return running


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserContext]:
    if CHROMIUM is None:
        pytest.skip("the page is driven in Chromium, which is not installed: apt install chromium")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = found.new_context()  # one for all, so that the files of the page are fetched once
        context.set_default_timeout(PATIENCE_MS)
        context.add_init_script(
            "addEventListener('securitypolicyviolation', (event) => console.error('policy', event.violatedDirective))"
        )
        yield context
        found.close()


@pytest.fixture
def visit(browser: BrowserContext, service: Service) -> Iterator[Callable[..., Page]]:
    """Opens the page, in a tab of its own, with what is asked in its address; ``_`` before the name of a setting."""
    troubles: list[str] = []
    pages: list[Page] = []

    def opened(_size: tuple[int, int] = (1280, 900), _media: dict[str, Any] | None = None, **asked: Any) -> Page:
        page = browser.new_page()
        pages.append(page)
        page.set_viewport_size({"width": _size[0], "height": _size[1]})
        page.emulate_media(**(_media or {}))
        page.on("console", lambda told: None if EXPECTED in told.text else troubles.append(f"{told.type}: {told.text}"))
        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        page.goto(f"{service.address}#{urlencode(asked)}")
        return page

    yield opened
    for page in pages:
        asked = page.evaluate("performance.getEntriesByType('resource').map(({ name }) => name)")
        troubles += [f"asks {address}" for address in asked if not address.startswith(service.address)]
        page.close()
    browser.set_offline(False)
    assert not troubles
