"""The interface against its own description, by Schemathesis: every operation, with good and with bad requests.

The examples are the same each time; a longer look is taken by hand, with more ``EXAMPLES`` and other seeds.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from segue.serving import schemas
from segue.serving.app import create
from segue.serving.auth.api_keys import Keys, make
from tests.serving import rich_world
from tests.serving.world import service

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

from schemathesis.config import SchemathesisConfig  # noqa: E402
from schemathesis.engine import events, from_schema  # noqa: E402
from schemathesis.hooks import GLOBAL_HOOK_DISPATCHER  # noqa: E402

EXAMPLES = 8
"""Requests of each kind for each operation, beside those that the description itself gives rise to."""

WORDS = ["u1", "u2", "i1", "i2", "i39", "genres", "year", "title", "War", "Title 3", "age", "city", "jazz", "purchase"]
"""Texts that mean something here, among those that mean nothing."""

KINDS: dict[str, type[schemas.Wire]] = {
    "recommend": schemas.Answer, "recommend_batch": schemas.Answers, "explain": schemas.Explanation, "event": schemas.Taken,
    "events": schemas.Taken, "users": schemas.Persons, "person": schemas.Person, "forget": schemas.Forgotten, "items": schemas.Items,
    "item": schemas.Item, "similar": schemas.Items, "models": schemas.Models, "activate": schemas.Models, "rollback": schemas.Models,
    "live": schemas.Live,
}  # fmt: skip
"""By operation, what it answers."""

DEPENDS = ("unknown '", "the catalogue holds", "conditions with those of", "expected a number", "expected 3 numbers",
           "expected one text", "nothing can be asked of it")  # fmt: skip
"""What is told of questions that are well formed and ask for what is not there: no description can say that."""


@pytest.fixture(autouse=True)
def meaning() -> Iterator[None]:
    """Of good requests, many name models and items that there are; else each would be refused for that alone."""

    def before_call(context: Any, case: Any, kwargs: Any) -> None:
        if not (case.meta and case.meta.generation.mode.is_positive and isinstance(case.body, dict)):
            return
        for question in (case.body, *case.body.get("questions", ())):
            if question.get("model") is not None:
                question["model"] = ("sasrec", "ease")[len(question["model"]) % 2]
            if case.path == "/v1/explain" and len(question["item"]) % 3:
                question["item"] = f"i{len(question['item']) % 40}"

    schemathesis.hook(before_call)
    yield
    GLOBAL_HOOK_DISPATCHER.unregister(before_call)


def looked(
    app: Any, seed: int, examples: int, headers: dict[str, str] | None = None
) -> tuple[list[str], Counter[tuple[str, int]]]:
    """All that is not as described, and how often each operation answered with each status."""
    words = {"string": {"dictionary": "words", "probability": 0.4}}
    config = {
        "seed": seed,
        "headers": headers or {},
        "continue-on-failure": True,
        "dictionaries": {"words": {"values": WORDS}},
        "generation": {"max-examples": examples, "database": "none", "no-shrink": True, "dictionaries": words},
        "phases": {"stateful": {"enabled": headers is None, "max-steps": 5}},
    }
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=SchemathesisConfig.from_dict(config))
    faults: list[str] = []
    statuses: Counter[tuple[str, int]] = Counter()
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            faults.append(f"{event}")
        if not isinstance(event, events.ScenarioFinished):
            continue
        recorded = event.recorder
        for case_id, interaction in recorded.interactions.items():
            case, answer = recorded.cases[case_id].value, interaction.response
            assert answer is not None, case
            statuses[case.operation.label, answer.status_code] += 1
            faults += [f"{case.as_curl_command()}: {why}" for why in _read(case, answer)]
        for case_id, checks in recorded.checks.items():
            answer = recorded.interactions[case_id].response
            for check in checks:
                if check.failure_info is not None and not (
                    check.name == "positive_data_acceptance" and _depends(answer)
                ):
                    told = f"{check.name}: {check.failure_info.failure.message}: {check.failure_info.code_sample}"
                    faults.append(f"{told}\n{answer.content[:500] if answer else b''!r}")
    return faults, statuses


def _read(case: Any, answer: Any) -> list[str]:
    """What is wrong with an answer by our own reading of it."""
    try:
        if answer.status_code >= 400:
            fault = schemas.Fault.model_validate_json(answer.content)
            return [] if [fault.request_id] == answer.headers["x-request-id"] else ["another request_id"]
        KINDS[case.operation.definition.raw["operationId"]].model_validate_json(answer.content)
        json.loads(answer.content, parse_constant=lambda name: pytest.fail(name))
    except ValueError as error:
        return [str(error)]
    return []


def _depends(answer: Any) -> bool:
    fields = json.loads(answer.content)["fields"]
    return bool(fields) and all(any(part in why for part in DEPENDS) for why in fields.values())


def test_an_open_service_is_as_described() -> None:
    faults, statuses = looked(create(service("sasrec", "ease")), 1, EXAMPLES)
    assert not faults, "\n\n".join(faults[:5])
    operations = {label for label, _ in statuses if label.startswith(("GET", "POST", "DELETE"))}
    assert len(operations) == len(KINDS)
    answered = {label for label in operations if statuses[label, 200]}
    assert operations - answered <= {"POST /v1/models/rollback"}, "there may be nothing to roll back"


def test_a_service_with_keys_is_as_described(tmp_path: Path) -> None:
    key = make(tmp_path / "keys.json", "all", ["read", "write", "admin"])
    app = create(rich_world.service("sasrec", "ease"), keys=Keys(tmp_path / "keys.json"))
    faults, statuses = looked(app, 2, EXAMPLES // 2, {"Authorization": f"Bearer {key}"})
    assert not faults, "\n\n".join(faults[:5])
    answered = {label for label, status in statuses if status == 200}
    assert len(answered) >= len(KINDS) - 1
    assert all(statuses[label, 401] for label in answered), "none is open"
