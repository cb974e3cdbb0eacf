"""UI: recommendations, explanations, rules, replay, comparison, events and operations."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from segue.serving import schemas

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'segue[serve]'")
pytest.importorskip("playwright", reason="playwright is not installed")

from fake_service import Service
from playwright.sync_api import Locator, Page, Route, expect

Visit = Callable[..., Page]


def visible_items(page: Page, within: str = "#recommend") -> list[str]:
    """Return the ids of the items in the list once it is visible."""
    rows = page.locator(f"{within} .ranking > li")
    expect(rows.first).to_be_visible()
    return rows.evaluate_all("rows => rows.map((row) => row.dataset.id)")


def expected_items(service: Service, **request: Any) -> list[str]:
    return [item.id for item in service.world.recommend(schemas.RecommendRequest(**request)).items]


def row(page: Page, index: int) -> Locator:
    return page.locator("#recommend .ranking > li").nth(index)


def respond_with_error(status: int, error: str) -> Callable[[Route], None]:
    body = schemas.ErrorResponse(error=error, message="Error message.", request_id="r-4711")
    return lambda route: route.fulfill(status=status, body=body.model_dump_json(), content_type="application/json")


def test_search_user_and_recommend(visit: Visit, service: Service) -> None:
    page = visit()
    expect(page.get_by_text("Choose a user or build a history")).to_be_visible()
    page.get_by_role("combobox", name="User").fill("42")
    page.get_by_role("option", name="142").click()
    assert visible_items(page) == expected_items(service, user="142")
    expect(page).to_have_url(re.compile("user=142"))
    expect(page).to_have_title("Recommend · Segue")
    response = service.world.recommend(schemas.RecommendRequest(user="142"))
    expect(row(page, 0)).to_contain_text(f"{100 * (response.items[0].probability or 0):.1f} %")
    expect(row(page, 0)).to_contain_text(f"{response.items[0].score:.3f}")
    expect(page.locator("#recommend .model-line")).to_contain_text("sasrec")
    expect(page.locator("#user-details")).to_contain_text(f"{len(service.world.histories['142'])} events")
    expect(page.get_by_role("status").filter(has_text="10 items")).to_have_count(1)


def test_random_user_and_new_user(visit: Visit, service: Service) -> None:
    page = visit()
    page.get_by_role("button", name="Random user").click()
    visible_items(page)
    user = page.get_by_role("combobox", name="User")
    assert user.input_value() in service.world.histories
    user.fill("not stored")
    page.get_by_role("option", name="new user").click()
    expect(page.locator("#user-details")).to_contain_text("Unknown user")
    expect(page.locator(".response-notes")).to_contain_text("The user is not in the training data.")
    page.locator("#recommend .add-event").first.click()
    expect(page.locator("#user-details")).to_contain_text("1 event since training")


def test_explanations_are_loaded_on_demand(visit: Visit) -> None:
    page = visit(user="42")
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    visible_items(page)
    assert not any(url.endswith("explain") for url in urls)
    opener = row(page, 0).get_by_role("button", name="Explain")
    expect(opener).to_have_attribute("aria-expanded", "false")
    opener.click()
    expect(opener).to_have_attribute("aria-expanded", "true")
    explanation = row(page, 0).locator(".explanation")
    expect(explanation).to_contain_text("Rank 1.")
    expect(explanation).to_contain_text("with the history.")
    explanation.get_by_text("Details").click()
    for heading in ("Contribution of past events", "Features shared with the history", "often co-occur with it"):
        expect(explanation).to_contain_text(heading)
    opener.click()
    expect(explanation).to_be_hidden()


def test_explain_an_item_that_is_not_recommended(visit: Visit, service: Service) -> None:
    seen = service.world.histories["42"][0]
    page = visit(user="42")
    page.get_by_role("combobox", name="Explain another item").fill(seen.title or seen.item)
    page.locator("[role=option]").first.click()
    expect(page.locator(".explain-other")).to_contain_text("already seen")


def test_rules_are_added_and_removed(visit: Visit, service: Service) -> None:
    page = visit(user="42")
    visible_items(page)
    rule, feature = page.get_by_label("Rule", exact=True), page.get_by_label("Feature", exact=True)
    value, amount = page.locator("#rule-value"), page.locator("#rule-amount")
    for kind, name, text, number in (
        ("any", "genres", "drama", None),
        ("any", "genres", "Comedy", None),
        ("none", "color", "no", None),
        ("min", "year", None, "1950"),
        ("boost", "genres", "Comedy", "2.5"),
        ("max_per_value", "genres", None, "4"),
    ):
        feature.select_option(name)
        rule.select_option(kind)
        if text is not None:
            value.fill(text)
        if number is not None:
            amount.fill(number)
        page.get_by_role("button", name="Add rule").click()
    rules: dict[str, Any] = {
        "filter": {
            "genres": schemas.Condition(any=["Drama", "Comedy"]),
            "color": schemas.Condition(none=[False]),
            "year": schemas.Condition(min=1950.0),
        },
        "boosts": [schemas.Boost(filter={"genres": schemas.Condition(any=["Comedy"])}, factor=2.5)],
        "max_per_value": {"genres": 4},
    }
    expected = expected_items(service, user="42", **rules)
    expect(page.locator("#recommend .ranking > li")).to_have_count(len(expected))
    assert visible_items(page) == expected
    texts = page.get_by_role("list", name="Active rules").get_by_role("listitem")
    expect(texts).to_have_count(5)
    expect(texts.first).to_contain_text("genres: Drama or Comedy")
    expect(page.locator(".response-notes")).to_contain_text("not matching the filter")
    page.reload()
    assert visible_items(page) == expected
    for left in range(5, 0, -1):
        expect(texts).to_have_count(left)
        texts.first.get_by_role("button").click()
    expect(page.locator("#rules-count")).to_have_text("none active")
    expect(page.locator("#recommend .ranking > li")).to_have_count(10)


def test_excluded_items_k_seen_items_and_diversity(visit: Visit, service: Service) -> None:
    page = visit(user="42")
    first = visible_items(page)[0]
    row(page, 0).get_by_role("button", name="Exclude").click()
    expect(page.locator(f"#recommend li[data-id='{first}']")).to_have_count(0)
    expect(page.locator(".change-summary")).to_contain_text("1 removed")
    expect(row(page, 0).get_by_role("button", name="Exclude")).to_be_focused()
    expect(page.locator(".response-notes")).to_contain_text("1 in the deny list")
    page.get_by_label("Items", exact=True).fill("4")
    page.get_by_label("Items", exact=True).press("Enter")
    page.get_by_label("Include seen items").check()
    page.get_by_label("Diversity").fill("0.5")
    expected = expected_items(service, user="42", k=4, include_seen=True, diversify=0.5, deny=[first])
    expect(page.locator("#recommend .ranking > li")).to_have_count(4)
    expect(row(page, 3)).to_have_attribute("data-id", expected[3])
    assert visible_items(page) == expected
    request = page.get_by_role("region", name="Request")
    page.get_by_text("API request").click()
    expect(request).to_contain_text("curl")
    sent = json.loads(request.inner_text().split("-d '")[1].removesuffix("'"))
    assert sent == {"user": "42", "k": 4, "include_seen": True, "diversify": 0.5, "deny": [first]}


def test_source_and_unknown_inputs(visit: Visit) -> None:
    page = visit(history=json.dumps(["60", "unknown item"]), model="popular")
    notes = page.locator(".response-notes")
    expect(notes).to_contain_text("Not in the catalog: unknown item")
    expect(notes.locator("[aria-current=step]")).to_have_text("popular items")
    expect(page.locator("#recommend .model-line")).to_contain_text("source: popular items")


def test_an_event_changes_the_next_response(visit: Visit, service: Service) -> None:
    page = visit(user="7")
    before = visible_items(page)
    row(page, 2).get_by_role("button", name="Add event").click()
    changed = page.locator(".change-summary")
    expect(changed).to_contain_text("After")
    after = visible_items(page)
    assert service.world.histories["7"][-1].item == before[2]
    assert after == expected_items(service, user="7")
    assert before[2] not in after
    for rank, item in enumerate(after):
        gain = before.index(item) - rank if item in before else None
        mark = "new" if gain is None else f"▲ {gain}" if gain > 0 else f"▼ {-gain}" if gain < 0 else ""
        expect(row(page, rank).locator(".rank-change")).to_have_text([re.compile(f"^{mark}")] if mark else [])
    expect(row(page, 2).get_by_role("button", name="Add event")).to_be_focused()
    expect(page.locator("#user-details li").first).to_contain_text("since training")


def test_the_kind_of_added_events_is_chosen(visit: Visit, service: Service) -> None:
    service.world.actions, service.world.target = ("click", "purchase", "view"), "purchase"
    page = visit(user="7")
    visible_items(page)
    kind = page.get_by_label("Kind of added events")
    expect(kind).to_be_visible()
    assert kind.locator("option").all_text_contents() == ["click", "purchase", "view"]
    expect(kind).to_have_value("purchase")
    kind.select_option("view")
    for number in (1, 2):
        row(page, 0).get_by_role("button", name="Add event").click()
        expect(page.locator("#user-details li").nth(number - 1)).to_contain_text("view")
        expect(kind).to_have_value("view")
    assert [event.action for event in service.world.histories["7"][-2:]] == ["view", "view"]
    page.get_by_role("radio", name="Custom history").check()
    expect(kind).to_be_hidden()


@pytest.mark.parametrize("actions", [(), ("rating",)])
def test_without_several_kinds_there_is_no_choice(visit: Visit, service: Service, actions: tuple[str, ...]) -> None:
    service.world.actions = actions or ("interaction",)
    page = visit(user="7")
    visible_items(page)
    expect(page.locator("#event-kind")).to_be_hidden()
    row(page, 0).get_by_role("button", name="Add event").click()
    expect(page.locator("#user-details li").first).to_contain_text("since training")
    assert service.world.histories["7"][-1].action == (actions[0] if actions else None)


def test_an_event_without_a_known_kind_is_rejected_visibly(visit: Visit, service: Service) -> None:
    page = visit(user="7")
    visible_items(page)
    service.world.actions = ("click", "view")  # another model was activated meanwhile
    row(page, 0).get_by_role("button", name="Add event").click()
    expect(page.locator(".event-error").get_by_role("alert")).to_contain_text("unknown kind of event")


def test_a_retried_event_is_stored_once(visit: Visit, service: Service) -> None:
    page = visit(user="7")
    events = len(service.world.histories["7"])
    visible_items(page)

    def lose_response(route: Route) -> None:
        route.fetch()  # the request arrives, the response is lost
        route.abort()

    page.route("**/v1/events", lose_response, times=1)
    page.locator("#recommend .add-event").first.click()
    alert = page.locator(".event-error").get_by_role("alert")
    expect(alert).to_contain_text("Service unreachable")
    alert.get_by_role("button", name="Try again").click()
    expect(page.locator(".change-summary")).to_contain_text("was already stored")
    assert len(service.world.histories["7"]) == events + 1


def test_replay(visit: Visit, service: Service) -> None:
    page = visit(view="replay", user="42", at=5)
    past = service.world.histories["42"]

    def hit(at: int) -> int:
        """Return the rank of event ``at`` in the recommendations before it, starting at 1; 0 if absent."""
        items = expected_items(service, history=[event.item for event in past[: at - 1]])
        return items.index(past[at - 1].item) + 1 if past[at - 1].item in items else 0

    def verdict(at: int) -> str:
        return f"The next item was recommended at rank {hit(at)}." if hit(at) else "was not among the 10 recommended"

    expect(page.locator(".verdict")).to_contain_text(verdict(5))
    slider = page.get_by_role("slider", name="Event")
    slider.press("ArrowRight")
    expect(page.locator(".replay-position")).to_contain_text(f"Before event 6 of {len(past)}")
    expect(page.locator(".verdict")).to_contain_text(verdict(6))
    expect(slider).to_have_attribute("aria-valuetext", re.compile(f"before event 6 of {len(past)}"))
    page.get_by_role("button", name="Replay the last").click()
    hits = [at for at in range(1, len(past) + 1) if hit(at)]
    expect(page.locator(".replay-controls")).to_contain_text(f"Hit rate at 10: {len(hits)} of ")
    assert (page.locator(".timeline .hit").get_attribute("d") or "").count("M") == len(hits) > 0
    slider.fill(str(hits[-1]))
    expect(page.locator(".verdict.hit")).to_contain_text(verdict(hits[-1]))
    expect(page.locator("#replay li.highlighted")).to_contain_text("next item")
    slider.press("Home")
    expect(page.locator(".replay-columns")).to_contain_text("No events.")
    expect(page).to_have_url(re.compile("at=1"))


def test_compare_two_models(visit: Visit, service: Service) -> None:
    page = visit(view="compare", user="42")
    expect(page.locator(".columns > section")).to_have_count(2)
    page.get_by_label("Second model").select_option("popular")
    lists = [expected_items(service, user="42", model=model) for model in ("sasrec", "popular")]
    common = set(lists[0]) & set(lists[1])
    expect(page.locator(".columns > section").nth(1)).to_contain_text("popular")
    expect(page.locator(".overlap")).to_contain_text(f"{len(common)} of 10 items are in both lists")
    for side, own in enumerate(lists):
        column = f".columns > section:nth-child({side + 1})"
        assert visible_items(page, column) == own
        marked = page.locator(f"{column} li.highlighted")
        assert set(marked.evaluate_all("rows => rows.map((row) => row.dataset.id)")) == common
        for item in common:
            cell = page.locator(f"{column} li[data-id='{item}'] .other-rank")
            expect(cell).to_have_text(f"rank in the other list: {lists[1 - side].index(item) + 1}")
    page.get_by_label("Second model").select_option("sasrec")
    expect(page.locator(".overlap")).to_contain_text("Both lists are identical.")


def test_similar_items_and_back(visit: Visit) -> None:
    page = visit(user="42")
    visible_items(page)
    opener = row(page, 1).get_by_role("button", name="Similar")
    opener.click()
    dialog = page.get_by_role("dialog")
    similar = dialog.get_by_role("list", name="Similar items").get_by_role("button")
    expect(similar).to_have_count(10)
    first, second = dialog.get_by_role("heading", level=2).inner_text(), similar.first.inner_text()
    similar.first.click()
    expect(dialog.get_by_role("heading", level=2)).to_have_text(second)
    dialog.get_by_role("button", name="Back").click()
    expect(dialog.get_by_role("heading", level=2)).to_have_text(first)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(opener).to_be_focused()


def test_operations(visit: Visit, service: Service) -> None:
    page = visit(view="operations")
    panel = page.locator("#operations")
    expect(panel.get_by_role("img")).to_have_count(2)
    expect(panel.locator("path.line").first).to_have_attribute("d", re.compile(r"^M.*L"))
    expect(panel).to_contain_text("2 d 1 h")
    pause = panel.get_by_role("button", name="Pause")
    pause.click()
    expect(pause).to_have_attribute("aria-pressed", "true")
    table = panel.get_by_role("table")
    expect(table).to_contain_text("0.1712")
    confirm = page.get_by_role("dialog")
    table.get_by_role("button", name="Activate ease").click()
    confirm.get_by_role("button", name="Cancel").click()
    assert service.world.active == "sasrec"
    table.get_by_role("button", name="Activate ease").click()
    expect(confirm).to_contain_text("Activate ease?")
    confirm.get_by_role("button", name="Activate").click()
    back = panel.get_by_role("button", name="Roll back to sasrec")
    expect(back).to_be_visible()
    assert service.world.active == "ease"
    back.click()
    confirm.get_by_role("button", name="Roll back").click()
    expect(panel.get_by_role("button", name="Roll back to ease")).to_be_visible()
    assert service.world.active == "sasrec"


def test_the_api_key_is_stored_in_the_tab_only(visit: Visit, service: Service) -> None:
    service.world.key = "sesame"
    page = visit(user="42")
    dialog = page.get_by_role("dialog", name="API key required")
    dialog.get_by_label("API key", exact=True).fill("wrong")
    dialog.get_by_role("button", name="Use key").click()
    expect(dialog.get_by_role("button", name="Remove key")).to_be_visible()
    dialog.get_by_label("API key", exact=True).fill("sesame")
    dialog.get_by_label("API key", exact=True).press("Enter")
    visible_items(page)
    assert page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
    assert "sesame" not in page.url + page.content()
    page.get_by_role("button", name="API key").click()
    dialog.get_by_role("button", name="Remove key").click()
    expect(page.locator("#recommend")).to_contain_text("API key required")
    assert page.evaluate("sessionStorage.length") == 0


ERRORS = [
    (403, "forbidden", "The API key lacks the required scope"),
    (422, "invalid", "Invalid request"),
    (429, "rate_limited", "Rate limit exceeded"),
    (503, "overloaded", "Service overloaded"),
    (500, "internal_error", "Internal server error"),
]


def test_errors_show_their_request_id(visit: Visit) -> None:
    page = visit()
    alert = page.locator("#recommend").get_by_role("alert")
    for index, (status, error, title) in enumerate(ERRORS):
        page.route("**/v1/recommend", respond_with_error(status, error))
        page.evaluate(f"location.hash = '#user={index + 1}'")
        for text in (title, "Error message.", "r-4711"):
            expect(alert).to_contain_text(text)
        page.unroute("**/v1/recommend")
        alert.get_by_role("button", name="Try again").click()
        visible_items(page)


def test_missing_scope_is_explained(visit: Visit) -> None:
    page = visit()
    page.route("**/v1/models", respond_with_error(403, "forbidden"))
    page.get_by_role("tab", name="Operations").click()
    page.get_by_role("button", name="Reload").click()
    expect(page.locator("#missing-scope")).to_contain_text("needs an API key with the scope read")
    page.unroute("**/v1/models")
    page.get_by_role("button", name="Reload").click()
    expect(page.locator("#missing-scope")).to_be_hidden()


def test_loading_empty_offline_and_unexpected_responses(visit: Visit) -> None:
    page = visit(user="42", filter=json.dumps({"year": {"min": 3000}}))
    expect(page.locator("#recommend")).to_contain_text("The rules leave no items to recommend.")
    pending: list[Route] = []
    page.route("**/v1/recommend", lambda route: pending.append(route))
    page.evaluate("location.hash = '#user=43'")
    expect(page.locator("#recommend")).to_contain_text("Loading…")
    expect(page.locator("#recommend")).to_have_attribute("aria-busy", "true")
    pending[0].fulfill(status=502, body="<html>bad gateway</html>")
    expect(page.locator("#recommend").get_by_role("alert")).to_contain_text("an unexpected body")
    page.unroute("**/v1/recommend")
    page.context.set_offline(True)
    expect(page.get_by_role("alert").filter(has_text="cannot be reached")).to_be_visible()
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#recommend").get_by_role("alert")).to_contain_text("This device is offline.")
    page.context.set_offline(False)
    visible_items(page)
    expect(page.locator("#offline")).to_be_hidden()


def test_a_user_is_deleted_after_confirmation(visit: Visit, service: Service) -> None:
    page = visit(user="42")
    page.get_by_role("button", name="Delete user").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("Choose a user or build a history")).to_be_visible()
    assert "42" in service.world.deleted


def test_the_url_holds_the_state(visit: Visit, service: Service) -> None:
    page = visit(user="42")
    visible_items(page)
    page.get_by_role("button", name="Edit a copy of the history").click()
    expect(page.get_by_role("list", name="History, oldest first").get_by_role("listitem")).to_have_count(
        len(service.world.histories["42"])
    )
    page.get_by_role("tab", name="Compare").click()
    expect(page.locator(".columns > section")).to_have_count(2)
    page.go_back()
    expect(page.get_by_role("tab", name="Recommend")).to_have_attribute("aria-selected", "true")
    page.go_back()
    expect(page.get_by_role("combobox", name="User")).to_have_value("42")
    page.evaluate(
        "location.hash = '#view=nowhere&user=42&k=-3&filter=[1]&boosts={&max_per_value=7&deny=[1]&diversify=9'"
    )
    visible_items(page)
    expect(page.get_by_label("Items", exact=True)).to_have_value("10")
    expect(page.locator("#rules-count")).to_have_text("none active")
