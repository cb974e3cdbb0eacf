"""Fuzz tests of the API against its OpenAPI description with Schemathesis: valid and invalid requests.

The examples are deterministic; for longer manual runs increase ``EXAMPLES`` and change the seeds.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import segue
from segue.serving import schemas
from segue.serving.app import create_app
from segue.serving.auth.api_keys import ApiKeys, create_key
from segue.serving.server import ServerConfig, create_application
from tests.serving import rich_world
from tests.serving.world import service

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

from schemathesis.config import SchemathesisConfig  # noqa: E402
from schemathesis.engine import events, from_schema  # noqa: E402
from schemathesis.hooks import GLOBAL_HOOK_DISPATCHER  # noqa: E402

from tests.nightly import only_nightly  # noqa: E402

EXAMPLES = 8
"""Number of valid and of invalid requests per operation, in addition to those derived from the description."""

WORDS = ["u1", "u2", "i1", "i2", "i39", "genres", "year", "title", "War", "Title 3", "age", "city", "jazz", "purchase"]
"""Values that exist in the test data."""

RESPONSE_TYPES: dict[str, type[schemas.ApiModel]] = {
    "recommend": schemas.RecommendResponse,
    "recommend_batch": schemas.BatchResponse,
    "explain": schemas.Explanation,
    "event": schemas.EventsAccepted,
    "events": schemas.EventsAccepted,
    "users": schemas.UserList,
    "user": schemas.User,
    "delete_user": schemas.UserDeleted,
    "items": schemas.ItemList,
    "item": schemas.Item,
    "similar": schemas.ItemList,
    "put_items": schemas.ItemsStored,
    "delete_item": schemas.ItemDeleted,
    "models": schemas.ModelList,
    "activate": schemas.ModelList,
    "rollback": schemas.ModelList,
    "stats": schemas.LiveStats,
}
"""Response type by operation id."""

CLICK_RESPONSE_TYPES: dict[str, type[schemas.ApiModel]] = {
    "predict": schemas.PredictResponse,
    "models": schemas.ModelList,
    "live_stats": schemas.LiveStats,
}
"""The same for a service of click-through models."""

DATA_ERRORS = (
    "unknown '",
    "unknown kind of event",
    "missing, expected one of",
    "but the feature holds",
    "but it holds",
    "conditions together with",
    "expected a number",
    "expected a finite number",
    "expected a list of 3 numbers",
    "expected one text",
    "expected a feature of the catalog",
    "expected an id that occurs once",
    "expected a text",
    "expected a whole number",
    "expected a list of texts",
    "cannot be used in rules",
    "contradict each other",
    "unknown column of the context",
    "no row has the column",
    "unknown model, expected one of",
    "expected text",
    "as in the rows before",
)
"""Parts of errors that depend on the data or on two fields, which OpenAPI cannot express."""


@pytest.fixture(autouse=True)
def use_existing_ids() -> Iterator[None]:
    """Make many valid requests refer to existing models and items; otherwise most would be rejected."""

    def before_call(context: Any, case: Any, kwargs: Any) -> None:
        if not (case.meta and case.meta.generation.mode.is_positive and isinstance(case.body, dict)):
            return
        for body in (case.body, *case.body.get("requests", ())):
            if body.get("model") is not None:
                body["model"] = ("sasrec", "ease")[len(body["model"]) % 2]
            for part in (body, *(body.get("history") or ())):
                if isinstance(part, dict) and len(part.get("context") or {}) % 3:
                    part["context"] = None
            if case.path == "/v1/explain" and len(str(body["item"])) % 3:
                body["item"] = f"i{len(str(body['item'])) % 40}"

        for event in [case.body] if case.path == "/v1/events" else case.body.get("events", ()):
            event["action"] = ("view", "purchase")[len(str(event["item"])) % 2]
            event["context"] = None

    schemathesis.hook(before_call)
    yield
    GLOBAL_HOOK_DISPATCHER.unregister(before_call)


def run_fuzzer(
    app: Any, seed: int, examples: int, headers: dict[str, str] | None = None
) -> tuple[list[str], Counter[tuple[str, int]]]:
    """Return all violations, and the number of responses by operation and status."""
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
    violations: list[str] = []
    statuses: Counter[tuple[str, int]] = Counter()
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            violations.append(f"{event}")
        if not isinstance(event, events.ScenarioFinished):
            continue
        recorded = event.recorder
        for case_id, interaction in recorded.interactions.items():
            case, response = recorded.cases[case_id].value, interaction.response
            assert response is not None, case
            statuses[case.operation.label, response.status_code] += 1
            violations += [f"{case.as_curl_command()}: {reason}" for reason in _check_response(case, response)]
        for case_id, checks in recorded.checks.items():
            response = recorded.interactions[case_id].response
            for check in checks:
                if check.failure_info is not None and not (
                    (check.name == "positive_data_acceptance" and _is_data_error(response))
                    or (check.name == "negative_data_rejection" and response.status_code == 413)
                ):
                    text = f"{check.name}: {check.failure_info.failure.message}: {check.failure_info.code_sample}"
                    violations.append(f"{text}\n{response.content[:500] if response else b''!r}")
    return violations, statuses


def _check_response(case: Any, response: Any) -> list[str]:
    """Check a response with our own schemas."""
    try:
        if response.status_code >= 400:
            error = schemas.ErrorResponse.model_validate_json(response.content)
            return [] if [error.request_id] == response.headers["x-request-id"] else ["different request_id"]
        types = RESPONSE_TYPES | CLICK_RESPONSE_TYPES
        types[case.operation.definition.raw["operationId"]].model_validate_json(response.content)
        json.loads(response.content, parse_constant=lambda name: pytest.fail(name))
    except ValueError as error:
        return [str(error)]
    return []


def _is_data_error(response: Any) -> bool:
    fields = json.loads(response.content)["fields"]
    return bool(fields) and all(any(part in reason for part in DATA_ERRORS) for reason in fields.values())


def test_open_service_conforms_to_openapi() -> None:
    violations, statuses = run_fuzzer(create_app(service("sasrec", "ease")), 1, EXAMPLES)
    assert not violations, "\n\n".join(violations[:5])
    operations = {label for label, _ in statuses if label.startswith(("GET", "POST", "DELETE"))}
    assert len(operations) == len(RESPONSE_TYPES)
    succeeded = {label for label in operations if statuses[label, 200]}
    conflicts = {"POST /v1/models/rollback", "POST /v1/items", "DELETE /v1/items/{id}"}
    assert operations - succeeded <= conflicts, "these models cannot have further items, and none to roll back to"


@only_nightly
def test_service_with_keys_conforms_to_openapi(tmp_path: Path) -> None:
    key = create_key(tmp_path / "keys.json", "all", ["read", "write", "admin"])
    app = create_app(rich_world.service("sasrec", "ease"), keys=ApiKeys(tmp_path / "keys.json"))
    violations, statuses = run_fuzzer(app, 2, EXAMPLES // 2, {"Authorization": f"Bearer {key}"})
    assert not violations, "\n\n".join(violations[:5])
    succeeded = {label for label, status in statuses if status == 200}
    assert "POST /v1/items" in succeeded
    assert len(succeeded) >= len(RESPONSE_TYPES) - 2
    assert all(statuses[label, 401] for label in succeeded), "all operations require a key"


def test_service_of_click_through_models_conforms_to_openapi(tmp_path: Path) -> None:
    table = pl.DataFrame({"label": [0, 1] * 40, "a": ["x", "y", "z", "x"] * 20, "b": [0.5, 1.5] * 40})
    segue.train_clicks("logistic_regression", table).save(tmp_path / "shown")
    app = create_application(ServerConfig(folders=(tmp_path / "shown",), host="0.0.0.0"))
    violations, statuses = run_fuzzer(app, 3, EXAMPLES)
    assert not violations, "\n\n".join(violations[:5])
    assert {label for label, _ in statuses if label.startswith(("GET", "POST"))} == {
        "POST /v1/predict", "GET /v1/models", "GET /v1/stats",
    }  # fmt: skip
