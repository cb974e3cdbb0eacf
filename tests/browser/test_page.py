"""What the page does: ask, explain, apply rules, go through time, compare, take events, operate."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from segue.serving import schemas

pytest.importorskip("fastapi", reason="the page is tried against a small service: pip install 'segue[serve]'")
pytest.importorskip("playwright", reason="the page is driven by playwright, which is not installed")

from fake_service import Service
from playwright.sync_api import Locator, Page, Route, expect

Visit = Callable[..., Page]


def shown(page: Page, within: str = "#next") -> list[str]:
    """Ids of the items in the list, once it is there."""
    rows = page.locator(f"{within} .ranking > li")
    expect(rows.first).to_be_visible()
    return rows.evaluate_all("rows => rows.map((row) => row.dataset.id)")


def best(service: Service, **question: Any) -> list[str]:
    return [item.id for item in service.world.answer(schemas.Question(**question)).items]


def row(page: Page, place: int) -> Locator:
    return page.locator("#next .ranking > li").nth(place)


def refusing(status: int, error: str) -> Callable[[Route], None]:
    fault = schemas.Fault(error=error, message="It is as it is.", request_id="r-4711")
    return lambda route: route.fulfill(status=status, body=fault.model_dump_json(), content_type="application/json")


def test_a_user_is_searched_and_answered(visit: Visit, service: Service) -> None:
    page = visit()
    expect(page.get_by_text("Choose a user, or put a history together")).to_be_visible()
    page.get_by_role("combobox", name="User").fill("42")
    page.get_by_role("option", name="142").click()
    assert shown(page) == best(service, user="142")
    expect(page).to_have_url(re.compile("user=142"))
    expect(page).to_have_title("Next · Segue")
    answer = service.world.answer(schemas.Question(user="142"))
    expect(row(page, 0)).to_contain_text(f"{100 * (answer.items[0].probability or 0):.1f} %")
    expect(row(page, 0)).to_contain_text(f"{answer.items[0].score:.3f}")
    expect(page.locator("#next .by")).to_contain_text("sasrec")
    expect(page.locator("#person")).to_contain_text(f"{len(service.world.past['142'])} events")
    expect(page.get_by_role("status").filter(has_text="10 items")).to_have_count(1)


def test_somebody_at_random_and_somebody_new(visit: Visit, service: Service) -> None:
    page = visit()
    page.get_by_role("button", name="Someone at random").click()
    shown(page)
    user = page.get_by_role("combobox", name="User")
    assert user.input_value() in service.world.past
    user.fill("nobody yet")
    page.get_by_role("option", name="somebody new").click()
    expect(page.locator("#person")).to_contain_text("Nobody of this id yet")
    expect(page.locator(".told")).to_contain_text("This user was not there in training.")
    page.locator("#next .happen").first.click()
    expect(page.locator("#person")).to_contain_text("1 event since")


def test_reasons_are_asked_for_when_somebody_wants_them(visit: Visit) -> None:
    page = visit(user="42")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    shown(page)
    assert not any(url.endswith("explain") for url in asked)
    opener = row(page, 0).get_by_role("button", name="Why")
    expect(opener).to_have_attribute("aria-expanded", "false")
    opener.click()
    expect(opener).to_have_attribute("aria-expanded", "true")
    why = row(page, 0).locator(".why")
    expect(why).to_contain_text("Place 1.")
    expect(why).to_contain_text("with what came before.")
    why.get_by_text("In figures").click()
    for heading in ("What past events do to its score", "In common with the history", "often had together with it"):
        expect(why).to_contain_text(heading)
    opener.click()
    expect(why).to_be_hidden()


def test_why_another_item_is_not_there(visit: Visit, service: Service) -> None:
    had = service.world.past["42"][0]
    page = visit(user="42")
    page.get_by_role("combobox", name="Why not").fill(had.title or had.item)
    page.locator("[role=option]").first.click()
    expect(page.locator(".why-not")).to_contain_text("it was had before, and repeats are off")


def test_rules_are_set_told_and_taken_away(visit: Visit, service: Service) -> None:
    page = visit(user="42")
    shown(page)
    rule, feature = page.get_by_label("Rule", exact=True), page.get_by_label("Feature", exact=True)
    value, amount = page.locator("#rule-value"), page.locator("#rule-amount")
    for kind, name, text, number in (
        ("any", "genres", "drama", None),
        ("any", "genres", "Comedy", None),
        ("none", "colour", "no", None),
        ("min", "year", None, "1950"),
        ("boost", "genres", "Comedy", "2.5"),
        ("most", "genres", None, "4"),
    ):
        feature.select_option(name)
        rule.select_option(kind)
        if text is not None:
            value.fill(text)
        if number is not None:
            amount.fill(number)
        page.get_by_role("button", name="Add the rule").click()
    rules: dict[str, Any] = {
        "where": {
            "genres": schemas.Condition(any=["Drama", "Comedy"]),
            "colour": schemas.Condition(none=[False]),
            "year": schemas.Condition(min=1950.0),
        },
        "boosts": [schemas.Boost(where={"genres": schemas.Condition(any=["Comedy"])}, factor=2.5)],
        "most": {"genres": 4},
    }
    expected = best(service, user="42", **rules)
    expect(page.locator("#next .ranking > li")).to_have_count(len(expected))
    assert shown(page) == expected
    texts = page.get_by_role("list", name="Rules that are set").get_by_role("listitem")
    expect(texts).to_have_count(5)
    expect(texts.first).to_contain_text("genres: Drama or Comedy")
    expect(page.locator(".told")).to_contain_text("not meeting a condition")
    page.reload()
    assert shown(page) == expected
    for left in range(5, 0, -1):
        expect(texts).to_have_count(left)
        texts.first.get_by_role("button").click()
    expect(page.locator("#rules-sum")).to_have_text("none set")
    expect(page.locator("#next .ranking > li")).to_have_count(10)


def test_what_is_never_shown_how_many_and_how_unlike(visit: Visit, service: Service) -> None:
    page = visit(user="42")
    first = shown(page)[0]
    row(page, 0).get_by_role("button", name="Never").click()
    expect(page.locator(f"#next li[data-id='{first}']")).to_have_count(0)
    expect(page.locator(".changed")).to_contain_text("1 left the list")
    expect(row(page, 0).get_by_role("button", name="Never")).to_be_focused()
    expect(page.locator(".told")).to_contain_text("1 denied")
    page.get_by_label("How many").fill("4")
    page.get_by_label("How many").press("Enter")
    page.get_by_label("Repeats allowed").check()
    page.get_by_label("Diversity").fill("0.5")
    expected = best(service, user="42", k=4, repeats=True, diversify=0.5, deny=[first])
    expect(page.locator("#next .ranking > li")).to_have_count(4)
    expect(row(page, 3)).to_have_attribute("data-id", expected[3])
    assert shown(page) == expected
    request = page.get_by_role("region", name="Request")
    page.get_by_text("The same as a request").click()
    expect(request).to_contain_text("curl")
    sent = json.loads(request.inner_text().split("-d '")[1].removesuffix("'"))
    assert sent == {"user": "42", "k": 4, "repeats": True, "diversify": 0.5, "deny": [first]}


def test_who_answered_and_what_was_not_known(visit: Visit) -> None:
    page = visit(history=json.dumps(["60", "never heard of"]), model="popular")
    told = page.locator(".told")
    expect(told).to_contain_text("Not in the catalogue: never heard of")
    expect(told.locator("[aria-current=step]")).to_have_text("what is popular")
    expect(page.locator("#next .by")).to_contain_text("answered by what is popular")


def test_it_happened_and_the_next_answer_knows(visit: Visit, service: Service) -> None:
    page = visit(user="7")
    before = shown(page)
    row(page, 2).get_by_role("button", name="It happened").click()
    changed = page.locator(".changed")
    expect(changed).to_contain_text("After")
    after = shown(page)
    assert service.world.past["7"][-1].item == before[2]
    assert after == best(service, user="7")
    assert before[2] not in after
    for place, item in enumerate(after):
        by = before.index(item) - place if item in before else None
        mark = "new" if by is None else f"▲ {by}" if by > 0 else f"▼ {-by}" if by < 0 else ""
        expect(row(page, place).locator(".moved")).to_have_text([re.compile(f"^{mark}")] if mark else [])
    expect(row(page, 2).get_by_role("button", name="It happened")).to_be_focused()
    expect(page.locator("#person li").first).to_contain_text("since training")


def test_an_event_that_is_sent_twice_counts_once(visit: Visit, service: Service) -> None:
    page = visit(user="7")
    events = len(service.world.past["7"])
    shown(page)

    def lost(route: Route) -> None:
        route.fetch()  # it arrives, and the answer is lost
        route.abort()

    page.route("**/v1/events", lost, times=1)
    page.locator("#next .happen").first.click()
    alert = page.locator(".failed").get_by_role("alert")
    expect(alert).to_contain_text("Not reached")
    alert.get_by_role("button", name="Try again").click()
    expect(page.locator(".changed")).to_contain_text("was there already")
    assert len(service.world.past["7"]) == events + 1


def test_through_time(visit: Visit, service: Service) -> None:
    page = visit(view="travel", user="42", at=5)
    past = service.world.past["42"]

    def hit(at: int) -> int:
        """The place of event ``at`` among what would have been recommended before it, from 1; 0: it was not there."""
        found = best(service, history=[event.item for event in past[: at - 1]])
        return found.index(past[at - 1].item) + 1 if past[at - 1].item in found else 0

    def verdict(at: int) -> str:
        return f"It was there, at place {hit(at)}." if hit(at) else "It was not among the 10."

    expect(page.locator(".verdict")).to_contain_text(verdict(5))
    slider = page.get_by_role("slider", name="Moment")
    slider.press("ArrowRight")
    expect(page.locator(".moment")).to_contain_text(f"Before event 6 of {len(past)}")
    expect(page.locator(".verdict")).to_contain_text(verdict(6))
    expect(slider).to_have_attribute("aria-valuetext", re.compile(f"before event 6 of {len(past)}"))
    page.get_by_role("button", name="Ask before each of the last").click()
    hits = [at for at in range(1, len(past) + 1) if hit(at)]
    expect(page.locator(".travel")).to_contain_text(f"among the 10 before {len(hits)} of them")
    assert (page.locator(".strip .hit").get_attribute("d") or "").count("M") == len(hits) > 0
    slider.fill(str(hits[-1]))
    expect(page.locator(".verdict.hit")).to_contain_text(verdict(hits[-1]))
    expect(page.locator("#travel li.marked")).to_contain_text("came next")
    slider.press("Home")
    expect(page.locator(".before")).to_contain_text("Nothing yet.")
    expect(page).to_have_url(re.compile("at=1"))


def test_two_models_side_by_side(visit: Visit, service: Service) -> None:
    page = visit(view="compare", user="42")
    expect(page.locator(".columns > section")).to_have_count(2)
    page.get_by_label("The other").select_option("popular")
    lists = [best(service, user="42", model=model) for model in ("sasrec", "popular")]
    common = set(lists[0]) & set(lists[1])
    expect(page.locator(".columns > section").nth(1)).to_contain_text("popular")
    expect(page.locator(".overlap")).to_contain_text(f"{len(common)} of 10 items in both lists")
    for side, own in enumerate(lists):
        column = f".columns > section:nth-child({side + 1})"
        assert shown(page, column) == own
        marked = page.locator(f"{column} li.marked")
        assert set(marked.evaluate_all("rows => rows.map((row) => row.dataset.id)")) == common
        for item in common:
            cell = page.locator(f"{column} li[data-id='{item}'] .there")
            expect(cell).to_have_text(f"there at place {lists[1 - side].index(item) + 1}")
    page.get_by_label("The other").select_option("sasrec")
    expect(page.locator(".overlap")).to_contain_text("Both lists are the same.")


def test_similar_items_and_the_way_back(visit: Visit) -> None:
    page = visit(user="42")
    shown(page)
    opener = row(page, 1).get_by_role("button", name="Similar")
    opener.click()
    dialog = page.get_by_role("dialog")
    alike = dialog.get_by_role("list", name="Similar items").get_by_role("button")
    expect(alike).to_have_count(10)
    first, second = dialog.get_by_role("heading", level=2).inner_text(), alike.first.inner_text()
    alike.first.click()
    expect(dialog.get_by_role("heading", level=2)).to_have_text(second)
    dialog.get_by_role("button", name="Back").click()
    expect(dialog.get_by_role("heading", level=2)).to_have_text(first)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(opener).to_be_focused()


def test_the_operator_sees_and_changes(visit: Visit, service: Service) -> None:
    page = visit(view="operate")
    panel = page.locator("#operate")
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
    expect(confirm).to_contain_text("Let ease answer?")
    confirm.get_by_role("button", name="Activate").click()
    back = panel.get_by_role("button", name="Roll back to sasrec")
    expect(back).to_be_visible()
    assert service.world.active == "ease"
    back.click()
    confirm.get_by_role("button", name="Roll back").click()
    expect(panel.get_by_role("button", name="Roll back to ease")).to_be_visible()
    assert service.world.active == "sasrec"


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(visit: Visit, service: Service) -> None:
    service.world.key = "sesame"
    page = visit(user="42")
    dialog = page.get_by_role("dialog", name="This service asks for a key")
    dialog.get_by_label("Key").fill("wrong")
    dialog.get_by_role("button", name="Use the key").click()
    expect(dialog.get_by_role("button", name="Forget the key")).to_be_visible()
    dialog.get_by_label("Key").fill("sesame")
    dialog.get_by_label("Key").press("Enter")
    shown(page)
    assert page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
    assert "sesame" not in page.url + page.content()
    page.get_by_role("button", name="Key").click()
    dialog.get_by_role("button", name="Forget the key").click()
    expect(page.locator("#next")).to_contain_text("A key is asked for")
    assert page.evaluate("sessionStorage.length") == 0


REFUSED = [
    (403, "forbidden", "The key does not have the scope that this needs"),
    (422, "invalid", "Refused as it is"),
    (429, "too_many", "Too many requests"),
    (503, "busy", "The service is busy"),
    (500, "failed", "The service failed"),
]


def test_what_is_refused_is_told_with_its_request(visit: Visit) -> None:
    page = visit()
    alert = page.locator("#next").get_by_role("alert")
    for place, (status, error, words) in enumerate(REFUSED):
        page.route("**/v1/recommend", refusing(status, error))
        page.evaluate(f"location.hash = '#user={place + 1}'")
        for text in (words, "It is as it is.", "r-4711"):
            expect(alert).to_contain_text(text)
        page.unroute("**/v1/recommend")
        alert.get_by_role("button", name="Try again").click()
        shown(page)


def test_loading_empty_offline_and_nothing_that_is_understood(visit: Visit) -> None:
    page = visit(user="42", where=json.dumps({"year": {"min": 3000}}))
    expect(page.locator("#next")).to_contain_text("The rules leave nothing to recommend.")
    held: list[Route] = []
    page.route("**/v1/recommend", lambda route: held.append(route))
    page.evaluate("location.hash = '#user=43'")
    expect(page.locator("#next")).to_contain_text("Asking…")
    expect(page.locator("#next")).to_have_attribute("aria-busy", "true")
    held[0].fulfill(status=502, body="<html>bad gateway</html>")
    expect(page.locator("#next").get_by_role("alert")).to_contain_text("nothing that this page understands")
    page.unroute("**/v1/recommend")
    page.context.set_offline(True)
    expect(page.get_by_role("alert").filter(has_text="cannot be reached")).to_be_visible()
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#next").get_by_role("alert")).to_contain_text("This device is offline.")
    page.context.set_offline(False)
    shown(page)
    expect(page.locator("#offline")).to_be_hidden()


def test_a_user_is_deleted_once_it_is_confirmed(visit: Visit, service: Service) -> None:
    page = visit(user="42")
    page.get_by_role("button", name="Delete this user").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("Choose a user, or put a history together")).to_be_visible()
    assert "42" in service.world.forgotten


def test_the_address_is_the_state(visit: Visit, service: Service) -> None:
    page = visit(user="42")
    shown(page)
    page.get_by_role("button", name="Change a copy of it").click()
    expect(page.get_by_role("list", name="History, oldest first").get_by_role("listitem")).to_have_count(
        len(service.world.past["42"])
    )
    page.get_by_role("tab", name="Two models").click()
    expect(page.locator(".columns > section")).to_have_count(2)
    page.go_back()
    expect(page.get_by_role("tab", name="Next")).to_have_attribute("aria-selected", "true")
    page.go_back()
    expect(page.get_by_role("combobox", name="User")).to_have_value("42")
    page.evaluate("location.hash = '#view=nowhere&user=42&k=-3&where=[1]&boosts={&most=7&deny=[1]&diversify=9'")
    shown(page)
    expect(page.get_by_label("How many")).to_have_value("10")
    expect(page.locator("#rules-sum")).to_have_text("none set")
