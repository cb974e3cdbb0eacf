"""Accessibility of the UI: keyboard, names, contrast, small screens, and titles of any kind."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'segue[serve]'")
pytest.importorskip("playwright", reason="playwright is not installed")

from fake_service import PAGE, Service
from fake_world import HOSTILE
from playwright.sync_api import Page, expect

Visit = Callable[..., Page]

VIEWS: dict[str, tuple[dict[str, Any], str]] = {
    "recommend": ({"user": "42", "deny": '["60"]', "filter": '{"year": {"min": 1951}}'}, "#recommend .ranking"),
    "replay": ({"view": "replay", "user": "42"}, "#replay .ranking"),
    "compare": ({"view": "compare", "history": json.dumps(list(HOSTILE))}, ".columns .ranking >> nth=1"),
    "operations": ({"view": "operations"}, "#operations table"),
}
"""URL state of each view, and a selector that is visible once it has loaded."""

CONTROLS = {
    "button", "checkbox", "combobox", "dialog", "heading", "image", "link", "listbox", "option", "radio", "region",
    "searchbox", "slider", "spinbutton", "tab", "tablist", "tabpanel", "textbox", "table",
}  # fmt: skip

CONTRAST = """() => {
  const channel = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const parse = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
  const luminance = ([r, g, b]) => 0.2126 * channel(r / 255) + 0.7152 * channel(g / 255) + 0.0722 * channel(b / 255);
  const over = ([r, g, b, a], under) => [r, g, b].map((c, i) => c * a + under[i] * (1 - a));
  const behind = (element) => {
    if (!element) return [255, 255, 255];
    const own = parse(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own.slice(0, 3) : over(own, behind(element.parentElement));
  };
  const ratio = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const failures = [];
  let checked = 0;
  const check = (element, color, minimum, what) => {
    const under = behind(element), actual = ratio(over(parse(color), under), under);
    checked++;
    if (actual < minimum) failures.push(`${actual.toFixed(2)}: ${what}`);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
    if (!text || !element.checkVisibility() || element.closest(":disabled, option, .visually-hidden, script, style"))
    continue; const style = getComputedStyle(element); check(element, element.closest("svg") ? style.fill : style.color,
    4.5, text.slice(0, 40));
  }
  for (const field of document.querySelectorAll("main input, main select")) {
    if (!field.checkVisibility() || !["text", "number", "select-one"].includes(field.type)) continue;
    check(field.parentElement, getComputedStyle(field).borderColor, 3, `border of ${field.id}`);
    if (field.placeholder) check(field, getComputedStyle(field, "::placeholder").color, 4.5, `in ${field.id}`);
  }
  for (const mark of document.querySelectorAll(".bar > span, .timeline path, .chart .line")) {
    const style = getComputedStyle(mark);
    const color = mark.closest("svg") ? style.stroke : style.backgroundColor;
    check(mark.closest(".bar")?.parentElement ?? mark.parentElement, color, 3, mark.getAttribute("class") ?? "bar");
  }
  return [checked, failures];
}"""

OVERFLOW = """() => [...document.querySelectorAll("body *")].filter((element) => {
  if (!element.checkVisibility() || element.closest(".visually-hidden, .skip, .scroll table, pre, .label")) return
  false; const box = element.getBoundingClientRect(); return box.width && (box.right > innerWidth + 1 || box.left < -1);
}).map((element) => element.outerHTML.slice(0, 120))"""


def expect_view(page: Page, view: str) -> None:
    expect(page.locator(VIEWS[view][1])).to_be_visible()


def each_view(visit: Visit, **options: Any) -> Iterator[tuple[str, Page]]:
    """Yield the page in each view."""
    page = visit(**VIEWS["recommend"][0], **options)
    for view, (url_state, _) in VIEWS.items():
        page.evaluate("(address) => (location.hash = address)", urlencode(url_state))
        expect_view(page, view)
        yield view, page


def focused_label(page: Page) -> str:
    return str(page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.innerText"))


def test_edit_a_history_by_keyboard(visit: Visit, service: Service) -> None:
    page = visit()
    key = page.keyboard.press
    key("Tab")
    assert focused_label(page) == "Skip to the results"
    key("Tab")
    assert focused_label(page) == "Recommend"
    for _ in range(2):
        key("Tab")
    assert page.evaluate("document.activeElement.value") == "user"
    key("ArrowRight")
    expect(page).to_have_url(re.compile("history="))
    key("Tab")
    box = page.get_by_role("combobox", name="Add the next item")
    expect(box).to_be_focused()
    items = page.get_by_role("list", name="History, oldest first").get_by_role("listitem")
    for number, text in enumerate(("the last", "quiet", "owl"), 1):
        page.keyboard.type(text)
        expect(box).to_have_attribute("aria-expanded", "true")
        key("ArrowDown")
        option = page.locator(f"#{box.get_attribute('aria-activedescendant')}")
        expect(option).to_have_attribute("aria-selected", "true")
        key("Enter")
        expect(items).to_have_count(number)
        expect(box).to_have_value("")
        expect(box).to_have_attribute("aria-expanded", "false")
    texts = items.all_inner_texts()
    assert "Owl" in texts[2]
    page.keyboard.type("signal")
    expect(box).to_have_attribute("aria-expanded", "true")
    key("ArrowUp")
    options = page.locator("#history-mode [role=option]")
    expect(options.last).to_have_attribute("aria-selected", "true")
    key("Escape")
    expect(box).to_have_attribute("aria-expanded", "false")
    expect(box).to_have_value("signal")
    key("Escape")
    expect(box).to_have_value("")
    key("Shift+Tab")
    assert focused_label(page).startswith("Remove")
    key("Shift+Tab")
    assert focused_label(page).startswith("Move up:")
    key("Enter")
    assert focused_label(page).startswith("Move up:")
    expect(items.nth(1)).to_contain_text("Owl")
    box.focus()
    key("Backspace")
    expect(items).to_have_count(2)
    history = json.loads(page.evaluate("new URLSearchParams(location.hash.slice(1)).get('history')"))
    assert history[1] == "emoji"
    expect(page.locator("#recommend .ranking > li")).to_have_count(10)


def test_results_and_dialogs_by_keyboard(visit: Visit, service: Service) -> None:
    page = visit(**VIEWS["recommend"][0])
    expect_view(page, "recommend")
    key = page.keyboard.press
    page.locator(".skip").focus()
    key("Enter")
    key("Tab")
    assert page.evaluate("document.activeElement.id") == "event-kind"
    for word in ("Explain", "Similar", "Exclude", "Add event"):
        key("Tab")
        assert focused_label(page).startswith(word)
    events = len(service.world.histories["42"])
    key("Enter")
    expect(page.locator(".change-summary")).to_contain_text("After")
    assert focused_label(page).startswith("Add event")
    assert len(service.world.histories["42"]) == events + 1
    for _ in range(2):
        key("Shift+Tab")
    key("Space")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", level=2)).to_be_focused()
    for _ in range(30):
        key("Tab")
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
    key("Escape")
    assert focused_label(page).startswith("Similar")


def test_tabs_by_keyboard(visit: Visit) -> None:
    page = visit(**VIEWS["recommend"][0])
    expect_view(page, "recommend")
    tabs = page.get_by_role("tab")
    tabs.first.focus()
    for key, index in (
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("End", 3),
        ("ArrowRight", 0),
        ("ArrowLeft", 3),
        ("Home", 0),
    ):
        page.keyboard.press(key)
        expect(tabs.nth(index)).to_be_focused()
        expect(page.get_by_role("tabpanel")).to_have_count(1)
        assert tabs.evaluate_all("tabs => tabs.map((tab) => [tab.ariaSelected, tab.tabIndex])") == [
            ["true", 0] if tab == index else ["false", -1] for tab in range(4)
        ]


def test_every_control_has_a_name_and_a_landmark(visit: Visit) -> None:
    for view, page in each_view(visit):
        nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
        controls = [
            (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]
        ]
        roles = {role for role, _ in controls}
        assert {"banner", "navigation", "main", "contentinfo", "tab", "tabpanel", "button"} <= roles
        assert not [role for role, name in controls if role in CONTROLS and not name.strip()]
        names = [name for role, name in controls if role == "button"]
        assert len(names) == len(set(names)), f"{view}: two buttons with the same name"
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map((element) => element.id)")
        assert len(ids) == len(set(ids))
        for name in ("aria-controls", "aria-labelledby", "aria-describedby"):
            referenced = page.locator(f"[{name}]:not(dialog)").evaluate_all(
                f"all => all.map((one) => one.getAttribute('{name}'))"
            )
            assert set(referenced) <= set(ids)
        small = page.locator("button, select, input:not([type=radio]):not([type=checkbox])").evaluate_all(
            "all => all.filter((one) => one.checkVisibility() && one.getBoundingClientRect().height < 23.9)"
            ".map((one) => one.outerHTML)"
        )
        assert not small, "touch target too small"


def test_contrast(visit: Visit) -> None:
    for view, page in each_view(visit):
        if view == "recommend":
            page.locator("#recommend").get_by_role("button", name="Explain").first.click()
            page.get_by_text("Details").click()
            page.locator("#recommend .add-event").nth(1).click()
            expect(page.locator(".change-summary")).to_be_visible()
            page.get_by_role("combobox", name="Exclude items").fill("the")
            page.get_by_role("combobox", name="Exclude items").press("ArrowDown")
            expect(page.locator("[role=option][aria-selected=true]")).to_be_visible()
        backgrounds = set()
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            checked, failures = page.evaluate(CONTRAST)
            assert checked > 30
            assert not failures, (view, scheme)
            backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert len(backgrounds) == 2


def test_the_color_scheme_is_stored(visit: Visit) -> None:
    page = visit(_media={"color_scheme": "light"})
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.get_by_label("Colors").select_option("dark")
    dark = page.evaluate(background)
    assert dark != light
    page.reload()
    assert page.evaluate(background) == dark
    page.get_by_label("Colors").select_option("")
    assert page.evaluate(background) == light


def test_no_horizontal_scrolling_on_a_phone(visit: Visit) -> None:
    for view, page in each_view(visit, _size=(360, 740)):
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.evaluate(OVERFLOW) == []
        if view == "recommend":
            page.locator("#rules > summary").click()
            page.locator("#recommend").get_by_role("button", name="Explain").first.click()
            page.get_by_text("Details").click()
            page.locator("#recommend").get_by_role("button", name="Similar").first.click()
            expect(page.get_by_role("dialog").get_by_role("list")).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
            assert page.evaluate(OVERFLOW) == []
        page.keyboard.press("Escape")


def test_titles_are_never_parsed_as_html(visit: Visit, service: Service) -> None:
    page = visit(history=json.dumps(list(HOSTILE)), include_seen="1", k=100)
    rows = page.locator("#recommend .ranking > li")
    expect(rows).to_have_count(len(service.world.items))
    for item, title in HOSTILE.items():
        text = (title or item).replace("\u202e", "")
        row = page.locator(f"#recommend li[data-id='{item}']")
        assert row.locator("bdi").text_content() == text
        assert row.bounding_box()["height"] < 140  # type: ignore[index]
        assert page.locator("#history-mode bdi").filter(has_text=text[:60]).count() == 1
    assert page.evaluate("document.querySelectorAll('bdi *, bdi + img, main script').length") == 0
    expect(page).to_have_title("Recommend · Segue")
    page.locator("#recommend li[data-id='script']").get_by_role("button", name="Similar").click()
    expect(page.get_by_role("dialog").get_by_role("heading", level=2)).to_have_text(HOSTILE["script"] or "")
    page.keyboard.press("Escape")
    page.locator("#recommend li[data-id='slash/../?#%']").get_by_role("button", name="Similar").click()
    expect(page.get_by_role("dialog").get_by_role("heading", level=2)).to_have_text("A Path of Its Own")


def test_reduced_motion_is_respected(visit: Visit) -> None:
    page = visit(**VIEWS["recommend"][0], _media={"reduced_motion": "reduce"})
    expect_view(page, "recommend")
    page.route("**/v1/recommend", lambda route: None)
    page.locator("#recommend .add-event").first.click()
    expect(page.locator("#recommend")).to_have_attribute("aria-busy", "true")
    assert page.evaluate("document.getAnimations().length") == 0


def test_the_ui_is_small_and_self_contained() -> None:
    files = [
        path for path in PAGE.iterdir() if path.suffix in {".html", ".css", ".js", ".svg"} and "docs" not in path.name
    ]
    texts = {path.name: path.read_text(encoding="utf-8") for path in files}
    assert sum(len(text) for text in texts.values()) < 125_000
    addresses = {url for text in texts.values() for url in re.findall(r"https?://[^\s\"'`]+", text)}
    assert addresses == {"http://www.w3.org/2000/svg"}
    unsafe = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|cssText|\son[a-z]+=|style="
    assert not [name for name, text in texts.items() if re.search(unsafe, text)]
    assert not re.search(r"<script(?![^>]* src=)|<style", texts["index.html"])
    for name, text in texts.items():
        for module in re.findall(r"from \"\./([\w.]+)\"", text):
            assert module in texts, f"{name} imports {module}"
    assert max(len(text.splitlines()) for name, text in texts.items() if name.endswith(".js")) <= 260
