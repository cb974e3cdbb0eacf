"""Fixtures: a fake service on a port, and Chromium with its UI; any error in the page fails the test.

Playwright keeps an event loop running, so the browser has module scope.
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
EXPECTED = "Failed to load resource"  # logged by Chromium for error responses, which tests provoke
TIMEOUT_MS = 10_000


@pytest.fixture(scope="module")
def running_service() -> Iterator[Service]:
    import uvicorn
    from fake_service import Service, create_app
    from fake_world import World

    world = World()
    config = uvicorn.Config(
        create_app(world), log_level="critical", lifespan="off", ws="none", timeout_graceful_shutdown=1
    )
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
def service(running_service: Service) -> Service:
    """The fake service in its initial state."""
    from fake_world import World

    vars(running_service.world).update(vars(World()))
    return running_service


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserContext]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt install chromium")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = chromium.new_context()  # shared, so that files are fetched once
        context.set_default_timeout(TIMEOUT_MS)
        context.add_init_script(
            "addEventListener('securitypolicyviolation', (event) => console.error('policy', event.violatedDirective))"
        )
        yield context
        chromium.close()


@pytest.fixture
def visit(browser: BrowserContext, service: Service) -> Iterator[Callable[..., Page]]:
    """Open the UI in a new tab with the given URL state; options of the fixture start with ``_``."""
    problems: list[str] = []
    pages: list[Page] = []

    def open_page(_size: tuple[int, int] = (1280, 900), _media: dict[str, Any] | None = None, **url_state: Any) -> Page:
        page = browser.new_page()
        pages.append(page)
        page.set_viewport_size({"width": _size[0], "height": _size[1]})
        page.emulate_media(**(_media or {}))
        page.on(
            "console", lambda entry: None if EXPECTED in entry.text else problems.append(f"{entry.type}: {entry.text}")
        )
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.goto(f"{service.address}#{urlencode(url_state)}")
        return page

    yield open_page
    for page in pages:
        urls = page.evaluate("performance.getEntriesByType('resource').map(({ name }) => name)")
        problems += [f"requests {url}" for url in urls if not url.startswith(service.address)]
        page.close()
    browser.set_offline(False)
    assert not problems
