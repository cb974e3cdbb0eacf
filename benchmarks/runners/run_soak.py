"""Clients of a service under test: they request, append, look up and delete, and retry failed writes.

``run_soak.py FOLDER`` reads ``job.json`` and writes ``attempts.jsonl``, a line per request, ``trails.json``, what was
sent about each user in order, and ``errors.json``, wrong responses. Each client sends one request at a time and has
users of its own, so that the order of a user's events is known.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel, ValidationError

from segue.serving import schemas
from segue.serving.stores.store import OUTCOME_UNKNOWN

WEIGHTS = {
    "recommend": 40,
    "batch": 6,
    "event": 22,
    "events": 10,
    "explain": 5,
    "lookup": 12,
    "delete": 1,
    "invalid": 4,
}
"""Operations and their relative frequency."""

N_READERS, READ_OPERATIONS = 2, ("recommend", "batch", "invalid")
"""The first clients send only requests that need no store: they go on while the others wait for it."""

THINK_SECONDS = 0.12
"""Mean time between two operations of a client."""

RETRY_SECONDS = 60.0
"""Time for which events and deletions are retried."""

N_TRAINING_USERS, N_NEW_USERS = 12, 6
"""Users of each client from the training data, and without training data."""

INVALID: list[tuple[str, str, Any, int]] = [
    ("POST", "/v1/recommend", {"k": 0}, 422),
    ("POST", "/v1/recommend", {"user": "x", "depth": 3}, 422),
    ("POST", "/v1/events", {"user": "x"}, 422),
    ("POST", "/v1/explain", {"user": "x", "item": "no such item"}, 404),
    ("GET", "/v1/items/no-such-item", None, 404),
    ("GET", "/v1/nowhere", None, 404),
    ("POST", "/v1/models/none/activate", None, 403),
]
"""Invalid requests and their expected status."""


class Recorder:
    """Writes attempts and collects errors."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "attempts.jsonl").open("w", encoding="utf-8")
        self.errors: dict[str, list[str]] = {}
        self.counts: Counter[str] = Counter()

    def record_attempt(self, **attempt: Any) -> None:
        """Write a request and its outcome."""
        self._file.write(json.dumps(attempt) + "\n")

    def record_error(self, kind: str, text: str) -> None:
        """Count a wrong response, and keep the first texts of each kind."""
        self.counts[kind] += 1
        if len(texts := self.errors.setdefault(kind, [])) < 10:
            texts.append(f"{time.time():.1f} {text}"[:500])

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Outcome:
    """Outcome of a request and its retries."""

    def __init__(self) -> None:
        self.response: Any = None
        self.attempts = 0
        self.is_uncertain = False
        """Whether an attempt without a response may have been executed."""


class Client:
    """Sends one request after another."""

    def __init__(self, number: int, job: dict[str, Any], http: httpx.AsyncClient, recorder: Recorder) -> None:
        self._http, self._recorder, self._number = http, recorder, number
        self._random = random.Random(f"{job['seed']}/{number}")
        self._items: list[str] = job["items"]
        self._feature, self._values = job["feature"], job["values"]
        own = job["users"][number :: job["clients"]][:N_TRAINING_USERS]
        self._trails: dict[str, list[list[Any]]] = {user: [] for user in own}
        self._trails |= {f"soak-{number}-{one}": [] for one in range(N_NEW_USERS)}
        self._n_events = 0
        # few different rules, as in a shop: the service's caches of compiled rules fill up soon
        self._denied = [self._random.sample(self._items, 20) for _ in range(10)]
        self._pinned = self._random.sample(self._items, 10)
        self._operations = READ_OPERATIONS if number < N_READERS else tuple(WEIGHTS)

    async def run(self, until: float) -> dict[str, list[list[Any]]]:
        """Send requests until the given time.

        Returns:
            by user ``[key, item, is_acknowledged, is_uncertain]`` of each event; the key of a deletion is ``None``.
        """
        while time.time() < until:
            (operation,) = self._random.choices(self._operations, [WEIGHTS[name] for name in self._operations])
            await getattr(self, f"_{operation}")()
            await asyncio.sleep(self._random.expovariate(1 / THINK_SECONDS))
        return self._trails

    async def _recommend(self) -> None:
        query = self._query()
        outcome = await self._send("recommend", "POST", "/v1/recommend", schemas.RecommendResponse, query, n_queries=1)
        if outcome.response is not None:
            self._check_fresh(query, outcome.response)

    async def _batch(self) -> None:
        queries = [self._query() for _ in range(self._random.randint(2, 8))]
        body = {"requests": queries}
        outcome = await self._send(
            "batch", "POST", "/v1/recommend/batch", schemas.BatchResponse, body, n_queries=len(queries)
        )
        responses = outcome.response.responses if outcome.response else []
        for query, response in zip(queries, responses, strict=False):
            self._check_fresh(query, response)
        if outcome.response is not None and len(responses) != len(queries):
            self._recorder.record_error("malformed", f"{len(queries)} requests, {len(responses)} responses")

    async def _event(self) -> None:
        await self._append("event", "/v1/events", [self._new_event(self._user())])

    async def _events(self) -> None:
        users = [self._user() for _ in range(self._random.randint(1, 3))]
        events = [self._new_event(self._random.choice(users)) for _ in range(self._random.randint(2, 8))]
        await self._append("events", "/v1/events/batch", events)

    async def _explain(self) -> None:
        body = {"user": self._user(), "item": self._random.choice(self._items)}
        await self._send("explain", "POST", "/v1/explain", schemas.Explanation, body)

    async def _lookup(self) -> None:
        item = self._random.choice(self._items)
        lookups: list[tuple[str, type[BaseModel]]] = [
            (f"/v1/items/{item}", schemas.Item),
            (f"/v1/items/{item}/similar", schemas.ItemList),
            ("/v1/items?query=the", schemas.ItemList),
            ("/v1/users?query=1", schemas.UserList),
            ("/v1/models", schemas.ModelList),
        ]
        if self._random.random() < 0.4:
            path, schema = self._random.choice(lookups)
            await self._send("lookup", "GET", path, schema)
            return
        user = self._user()
        outcome = await self._send("user", "GET", f"/v1/users/{user}?limit=50", schemas.User)
        if outcome.response is None or (expected := self._expected_items(user)) is None:
            return
        found = [event.item for event in outcome.response.events if event.origin == "service"]
        if found != expected[-50:]:
            text = f"{user}: {len(found)} events shown, expected the last of {len(expected)}"
            self._recorder.record_error("stale", text)

    async def _delete(self) -> None:
        user = f"soak-{self._number}-{self._random.randrange(N_NEW_USERS)}"
        outcome = await self._send("delete", "DELETE", f"/v1/users/{user}", schemas.UserDeleted, retry=True)
        self._trails[user].append([None, None, outcome.response is not None, outcome.is_uncertain])

    async def _invalid(self) -> None:
        method, path, body, status = self._random.choice(INVALID)
        await self._send("invalid", method, path, schemas.ErrorResponse, body, expected=status)

    async def _append(self, op: str, path: str, events: list[dict[str, Any]]) -> None:
        body = events[0] if op == "event" else {"events": events}
        outcome = await self._send(op, "POST", path, schemas.EventsAccepted, body, retry=True)
        if outcome.response is not None:
            counts = outcome.response.accepted, outcome.response.duplicates
            if counts not in ((len(events), 0), (0, len(events))):
                self._recorder.record_error("partial", f"{len(events)} events with new keys, response {counts}")
            if counts[1] and not outcome.is_uncertain:
                text = f"duplicates after {outcome.attempts} attempts that reported no change"
                self._recorder.record_error("incorrect", text)
        for event in events:
            row = [event["key"], event["item"], outcome.response is not None, outcome.is_uncertain]
            self._trails[event["user"]].append(row)

    async def _send(
        self,
        op: str,
        method: str,
        path: str,
        schema: type[BaseModel],
        body: Any = None,
        retry: bool = False,
        expected: int = 200,
        n_queries: int = 0,
    ) -> Outcome:
        """Send a request; with ``retry`` repeat it while it fails for a temporary reason."""
        outcome, start = Outcome(), time.time()
        while True:
            outcome.attempts += 1
            begin, status, response, error = time.time(), 0, None, ""
            try:
                http_response = await self._http.request(method, path, json=body)
                status = http_response.status_code
                response = self._parse(
                    http_response, schema if status == expected else schemas.ErrorResponse, f"{method} {op}"
                )
            except httpx.HTTPError as failure:
                error = type(failure).__name__
            note: dict[str, Any] = {}
            if isinstance(response, schemas.ErrorResponse):
                note["message"] = response.message
            elif isinstance(response, schemas.RecommendResponse | schemas.BatchResponse):
                lists = response.responses if isinstance(response, schemas.BatchResponse) else [response]
                note["sources"] = Counter(one.source for one in lists)
                note["store_failures"] = sum(any("store unavailable" in text for text in one.notes) for one in lists)
            self._recorder.record_attempt(
                op=op, begin=begin, end=time.time(), status=status, expected=expected, error=error, queries=n_queries,
                **note,
            )  # fmt: skip
            if status == expected:
                outcome.response = response
                return outcome
            outcome.is_uncertain |= status == 0 or OUTCOME_UNKNOWN in note.get("message", "")
            if not retry or 400 <= status < 500 or time.time() > start + RETRY_SECONDS:
                return outcome
            await asyncio.sleep(min(0.05 * 2**outcome.attempts, 1.0) * self._random.uniform(0.5, 1.5))

    def _parse(self, response: httpx.Response, schema: type[BaseModel], request: str) -> BaseModel | None:
        status = response.status_code
        try:
            parsed = schema.model_validate_json(response.content)
        except ValidationError as error:
            text = f"{request} {status}: {error.errors()[:2]} {response.content[:200]!r}"
            self._recorder.record_error("malformed", text)
            return None
        if isinstance(parsed, schemas.ErrorResponse) and parsed.request_id != response.headers.get("x-request-id", "-"):
            self._recorder.record_error("malformed", f"{request} {status}: no request id")
        return parsed

    def _query(self) -> dict[str, Any]:
        draw, items = self._random, self._items
        query: dict[str, Any] = {"k": draw.choice((5, 10, 20))}
        kind = draw.random()
        if kind < 0.6:
            query["user"] = self._user()
        elif kind < 0.9:
            query["history"] = draw.sample(items, draw.randint(1, 30))
        if (rule := draw.random()) < 0.08:
            query["deny"] = draw.choice(self._denied)
        elif rule < 0.16 and self._feature:
            query["filter"] = {self._feature: {"any": [draw.choice(self._values)]}}
        elif rule < 0.2 and self._feature:
            query |= {"max_per_value": {self._feature: 2}, "diversify": 0.3}
        elif rule < 0.24:
            query["pins"] = [{"item": draw.choice(self._pinned), "position": 1}]
        return query

    def _check_fresh(self, query: dict[str, Any], response: schemas.RecommendResponse) -> None:
        """Check that no acknowledged item of the user is recommended again."""
        if "user" not in query or "pins" in query or response.notes:
            return
        if (seen := self._expected_items(query["user"])) is not None and (
            repeated := {item.id for item in response.items} & set(seen)
        ):
            text = f"{query['user']}: {len(repeated)} seen items recommended, source {response.source}"
            self._recorder.record_error("stale", text)

    def _expected_items(self, user: str) -> list[str] | None:
        """Return the stored items of a user in order; ``None`` if they are uncertain."""
        trail = self._trails[user]
        begin = max((index + 1 for index, row in enumerate(trail) if row[0] is None), default=0)
        if not all(row[2] for row in trail) or any(row[3] for row in trail[:begin]):
            return None
        return [item for _, item, _, _ in trail[begin:]]

    def _user(self) -> str:
        return self._random.choice(list(self._trails))

    def _new_event(self, user: str) -> dict[str, Any]:
        self._n_events += 1
        return {"user": user, "item": self._random.choice(self._items), "key": f"{self._number}-{self._n_events}"}


async def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    recorder, trails = Recorder(folder), {}
    limits = httpx.Limits(max_connections=job["clients"], keepalive_expiry=5)
    headers = {"Authorization": f"Bearer {job['key']}"}
    async with httpx.AsyncClient(base_url=job["address"], timeout=30, limits=limits, headers=headers) as http:
        clients = [Client(number, job, http, recorder) for number in range(job["clients"])]
        for found in await asyncio.gather(*(client.run(job["until"]) for client in clients)):
            trails.update(found)
    recorder.close()
    (folder / "trails.json").write_text(json.dumps(trails))
    (folder / "errors.json").write_text(json.dumps({"counts": recorder.counts, "texts": recorder.errors}))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
