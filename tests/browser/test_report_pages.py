"""Reports in a real browser: they load nothing, fit laptops and phones, and are usable without a mouse."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

import segue
from tests.folders import new_folder
from tests.report_world import HOSTILE_USER, make_runs

pytest.importorskip("playwright", reason="playwright is not installed")
pytest.importorskip("altair", reason="altair is not installed: pip install 'segue[report]'")
axe_module = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
)

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

CHARTS = {"runs": 6, "data": 6, "study": 2}
"""Least number of charts of each page."""

SIZES = {"laptop": (1280, 900), "phone": (375, 800)}

OVERFLOW = """() => [...document.querySelectorAll("body *")].filter((element) => {
  if (!element.checkVisibility() || element.closest(".skip, .hidden, pre, table, svg")) return false;
  const box = element.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 1 || box.left < -1);
}).map((element) => element.outerHTML.slice(0, 120))"""


@cache
def pages() -> dict[str, Path]:
    """Write the reports: runs of two protocols, data, and a study of two runs."""
    home, out = make_runs(), new_folder()
    with mock.patch.dict("os.environ", {"SEGUE_HOME": str(home)}):
        return {
            "runs": segue.report(["gru", "gru-1", "knn", "popular", "random"], out / "runs.html", users=8).path,
            "data": segue.report(str(home / "world"), out / "data.html").path,
            "study": segue.report(
                segue.run_study("token_usage", runs=["gru", "gru-1"]).folder, out / "study.html"
            ).path,
        }


class Visit:
    """One opened report, with everything that went wrong in it."""

    def __init__(self, context: BrowserContext, name: str, size: str, scheme: Any) -> None:
        self.page: Page = context.new_page()
        self.problems: list[str] = []
        width, height = SIZES[size]
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.emulate_media(color_scheme=scheme)
        self.page.on("console", lambda entry: self.problems.append(f"{entry.type}: {entry.text}"))
        self.page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self.page.on("request", lambda request: self._check(request.url))
        self.page.goto(pages()[name].as_uri())
        self.page.wait_for_selector("html[data-ready]")

    def _check(self, url: str) -> None:
        if not url.startswith(("file:", "data:")):
            self.problems.append(f"request: {url}")


@pytest.fixture
def visit(browser: BrowserContext) -> Iterator[Any]:
    opened: list[Visit] = []

    def open_page(name: str, size: str = "laptop", scheme: str = "light") -> Page:
        opened.append(Visit(browser, name, size, scheme))
        return opened[-1].page

    yield open_page
    for one in opened:
        attacked = one.page.evaluate("window.attacked")
        one.page.close()
        assert not one.problems
        assert attacked is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CHARTS)
def test_pages_are_drawn_and_fit(visit: Any, name: str, size: str, scheme: str) -> None:
    page = visit(name, size, scheme)
    charts = page.locator(".chart")
    assert page.locator(".chart > svg, .chart svg.marks").count() >= charts.count() >= CHARTS[name]
    widths = charts.evaluate_all("all => all.map((one) => [one.scrollWidth, one.clientWidth])")
    assert all(inner <= outer + 1 for inner, outer in widths), widths
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    assert not page.evaluate(OVERFLOW)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(253, 253, 251)" if scheme == "light" else "rgb(20, 23, 26)")
    marks = "all => all.map((one) => getComputedStyle(one).fill)"
    ink = "rgb(86, 94, 102)" if scheme == "light" else "rgb(170, 177, 184)"
    assert ink in page.locator(".chart svg .role-axis-label text").evaluate_all(marks), "axes follow the color scheme"


CASES = [
    ("runs", "laptop", "light"),
    ("runs", "phone", "dark"),
    ("data", "phone", "light"),
    ("data", "laptop", "dark"),
    ("study", "phone", "light"),
    ("study", "laptop", "dark"),
]


@pytest.mark.parametrize(("name", "size", "scheme"), CASES)
def test_axe_finds_nothing(visit: Any, name: str, size: str, scheme: str) -> None:
    page = visit(name, size, scheme)
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    found = axe_module.Axe().run(page)
    assert not found.response["violations"], found.generate_report()


def test_tables_are_sorted_by_mouse_and_keyboard(visit: Any) -> None:
    page = visit("runs")
    table = page.locator("table").first
    head = table.locator("thead th")
    button = table.get_by_role("button", name="NDCG@10")
    values = "all => all.map((row) => Number(row.cells[1].dataset.value))"
    button.click()
    assert head.nth(1).get_attribute("aria-sort") == "descending"
    numbers = table.locator("tbody tr").evaluate_all(values)
    assert numbers == sorted(numbers, reverse=True)
    page.keyboard.press("Enter")
    assert head.nth(1).get_attribute("aria-sort") == "ascending"
    numbers = table.locator("tbody tr").evaluate_all(values)
    assert numbers == sorted(numbers)
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")
    names = table.locator("tbody tr").evaluate_all(
        "all => all.map((row) => row.cells[0].firstChild.textContent.trim())"
    )
    assert names == sorted(names)
    assert [one.get_attribute("aria-sort") for one in head.all()[:2]] == ["ascending", None]


def test_users_are_found_by_their_id(visit: Any) -> None:
    page = visit("runs")
    users = page.locator(".users").first
    box, status = users.get_by_role("combobox", name="Find a user by id"), users.get_by_role("status")
    assert status.inner_text() == "8 users"
    box.fill(HOSTILE_USER)
    assert users.locator(".panel:visible").count() == 1
    assert HOSTILE_USER in users.locator(".panel:visible").inner_text()
    box.fill("nobody")
    assert (status.inner_text(), users.locator(".panel:visible").count()) == ("0 of 8 users", 0)
    box.fill("")
    assert users.locator(".panel:visible").count() == 8


@pytest.mark.parametrize(("scheme", "card"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(26, 30, 34)")])
def test_charts_show_values_of_points(visit: Any, scheme: str, card: str) -> None:
    page = visit("runs", scheme=scheme)
    page.locator("#figure-1-metric-ndcg-10 svg .mark-symbol path").first.hover()
    tooltip = page.locator("#vg-tooltip-element")
    tooltip.wait_for(state="visible")
    assert "95 % interval" in tooltip.inner_text()
    assert tooltip.evaluate("one => getComputedStyle(one).backgroundColor") == card


def test_contents_lead_to_sections_and_pages_print(visit: Any) -> None:
    page = visit("data", "phone")
    page.get_by_role("navigation").get_by_role("link", name="Long tail").click()
    assert page.evaluate("location.hash") == "#long-tail"
    page.emulate_media(media="print")
    assert not page.get_by_role("navigation").is_visible()
    assert page.locator("figure").first.is_visible()
