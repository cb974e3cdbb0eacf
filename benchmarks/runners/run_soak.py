"""The people in front of a service under trial: they ask, tell, look and leave, and try again what failed.

``run_soak.py FOLDER`` reads ``job.json`` and leaves ``attempts.jsonl``, a line for each request, ``trails.json``, what
was told of each user in its order, and ``faults.json``, what should not have been. Each walker does one thing at a time
and has users of its own, so that the order of a user's events is known.
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

KINDS = {"recommend": 40, "several": 6, "event": 22, "events": 10, "explain": 5, "look": 12, "forget": 1, "wrong": 4}
"""What a walker does, and how often."""

READERS, READING = 2, ("recommend", "several", "wrong")
"""The first of the walkers only do what needs no store: they go on while the others wait for it."""

THINKING = 0.12
"""Seconds between what a walker does, in the mean."""

INSISTING = 60.0
"""Seconds for which events and deletions are sent again."""

OWN, MADE_UP = 12, 6
"""Users of each walker that were there in training, and that were not."""

WRONG: list[tuple[str, str, Any, int]] = [
    ("POST", "/v1/recommend", {"k": 0}, 422),
    ("POST", "/v1/recommend", {"user": "x", "depth": 3}, 422),
    ("POST", "/v1/events", {"user": "x"}, 422),
    ("POST", "/v1/explain", {"user": "x", "item": "no such item"}, 404),
    ("GET", "/v1/items/no-such-item", None, 404),
    ("GET", "/v1/nowhere", None, 404),
    ("POST", "/v1/models/none/activate", None, 403),
]
"""What is refused, and how."""


class Book:
    """What happened."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "attempts.jsonl").open("w", encoding="utf-8")
        self.faults: dict[str, list[str]] = {}
        self.counts: Counter[str] = Counter()

    def attempt(self, **told: Any) -> None:
        """A request, and what came of it."""
        self._file.write(json.dumps(told) + "\n")

    def fault(self, kind: str, text: str) -> None:
        """Something that should not be; the first texts of each kind are kept."""
        self.counts[kind] += 1
        if len(kept := self.faults.setdefault(kind, [])) < 10:
            kept.append(f"{time.time():.1f} {text}"[:500])

    def close(self) -> None:
        """All is written."""
        self._file.close()


class Sent:
    """What came of a request and of those that repeated it."""

    def __init__(self) -> None:
        self.answer: Any = None
        self.attempts = 0
        self.unsure = False
        """Whether one of them may have done something though nobody said so."""


class Walker:
    """One who does one thing after another."""

    def __init__(self, number: int, job: dict[str, Any], client: httpx.AsyncClient, book: Book) -> None:
        self._client, self._book, self._number = client, book, number
        self._draw = random.Random(f"{job['seed']}/{number}")
        self._items: list[str] = job["items"]
        self._feature, self._values = job["feature"], job["values"]
        own = job["users"][number :: job["walkers"]][:OWN]
        self._trails: dict[str, list[list[Any]]] = {user: [] for user in own}
        self._trails |= {f"soak-{number}-{one}": [] for one in range(MADE_UP)}
        self._next = 0
        # of rules there are as many as a shop has: what the service keeps of each is soon all that it keeps
        self._denied = [self._draw.sample(self._items, 20) for _ in range(10)]
        self._pinned = self._draw.sample(self._items, 10)
        self._kinds = READING if number < READERS else tuple(KINDS)

    async def walk(self, until: float) -> dict[str, list[list[Any]]]:
        """Until the time has come; each user's trail: ``[key, item, acknowledged, unsure]``, without key: forgotten."""
        while time.time() < until:
            (kind,) = self._draw.choices(self._kinds, [KINDS[kind] for kind in self._kinds])
            await getattr(self, f"_{kind}")()
            await asyncio.sleep(self._draw.expovariate(1 / THINKING))
        return self._trails

    async def _recommend(self) -> None:
        question = self._question()
        sent = await self._send("recommend", "POST", "/v1/recommend", schemas.Answer, question, questions=1)
        if sent.answer is not None:
            self._compare(question, sent.answer)

    async def _several(self) -> None:
        questions = [self._question() for _ in range(self._draw.randint(2, 8))]
        body = {"questions": questions}
        sent = await self._send(
            "several", "POST", "/v1/recommend/batch", schemas.Answers, body, questions=len(questions)
        )
        for question, answer in zip(questions, sent.answer.answers if sent.answer else [], strict=False):
            self._compare(question, answer)
        if sent.answer is not None and len(sent.answer.answers) != len(questions):
            self._book.fault("malformed", f"{len(questions)} questions, {len(sent.answer.answers)} answers")

    async def _event(self) -> None:
        await self._tell("event", "/v1/events", [self._happening(self._user())])

    async def _events(self) -> None:
        users = [self._user() for _ in range(self._draw.randint(1, 3))]
        events = [self._happening(self._draw.choice(users)) for _ in range(self._draw.randint(2, 8))]
        await self._tell("events", "/v1/events/batch", events)

    async def _explain(self) -> None:
        body = {"user": self._user(), "item": self._draw.choice(self._items)}
        await self._send("explain", "POST", "/v1/explain", schemas.Explanation, body)

    async def _look(self) -> None:
        item = self._draw.choice(self._items)
        looks: list[tuple[str, type[BaseModel]]] = [
            (f"/v1/items/{item}", schemas.Item),
            (f"/v1/items/{item}/similar", schemas.Items),
            ("/v1/items?query=the", schemas.Items),
            ("/v1/users?query=1", schemas.Persons),
            ("/v1/models", schemas.Models),
        ]
        if self._draw.random() < 0.4:
            path, shape = self._draw.choice(looks)
            await self._send("look", "GET", path, shape)
            return
        user = self._user()
        sent = await self._send("person", "GET", f"/v1/users/{user}?limit=50", schemas.Person)
        if sent.answer is None or (expected := self._expected(user)) is None:
            return
        found = [past.item for past in sent.answer.events if past.source == "service"]
        if found != expected[-50:]:
            self._book.fault("stale", f"{user}: shown {len(found)} events, expected the newest of {len(expected)}")

    async def _forget(self) -> None:
        user = f"soak-{self._number}-{self._draw.randrange(MADE_UP)}"
        sent = await self._send("forget", "DELETE", f"/v1/users/{user}", schemas.Forgotten, insist=True)
        self._trails[user].append([None, None, sent.answer is not None, sent.unsure])

    async def _wrong(self) -> None:
        method, path, body, status = self._draw.choice(WRONG)
        await self._send("wrong", method, path, schemas.Fault, body, wanted=status)

    async def _tell(self, op: str, path: str, events: list[dict[str, Any]]) -> None:
        sent = await self._send(
            op, "POST", path, schemas.Taken, events[0] if op == "event" else {"events": events}, True
        )
        if sent.answer is not None:
            told = sent.answer.accepted, sent.answer.duplicates
            if told not in ((len(events), 0), (0, len(events))):
                self._book.fault("torn", f"{len(events)} events with keys of their own, told {told}")
            if told[1] and not sent.unsure:
                self._book.fault("untrue", f"duplicates after {sent.attempts} attempts that were said to do nothing")
        for event in events:
            step = [event["key"], event["item"], sent.answer is not None, sent.unsure]
            self._trails[event["user"]].append(step)

    async def _send(
        self,
        op: str,
        method: str,
        path: str,
        shape: type[BaseModel],
        body: Any = None,
        insist: bool = False,
        wanted: int = 200,
        questions: int = 0,
    ) -> Sent:
        """A request; with ``insist`` again and again while it fails for a reason that passes."""
        sent, begun = Sent(), time.time()
        while True:
            sent.attempts += 1
            at, status, told, error = time.time(), 0, None, ""
            try:
                reply = await self._client.request(method, path, json=body)
                status = reply.status_code
                told = self._read(reply, shape if status == wanted else schemas.Fault, f"{method} {op}")
            except httpx.HTTPError as failure:
                error = type(failure).__name__
            note: dict[str, Any] = {}
            if isinstance(told, schemas.Fault):
                note["message"] = told.message
            elif isinstance(told, schemas.Answer | schemas.Answers):
                answers = told.answers if isinstance(told, schemas.Answers) else [told]
                note["steps"] = Counter(answer.step for answer in answers)
                note["unreached"] = sum(any("store" in text for text in answer.notes) for answer in answers)
            self._book.attempt(
                op=op, begin=at, end=time.time(), status=status, wanted=wanted, error=error, questions=questions, **note
            )
            if status == wanted:
                sent.answer = told
                return sent
            sent.unsure |= status == 0 or "not known" in note.get("message", "")
            if not insist or 400 <= status < 500 or time.time() > begun + INSISTING:
                return sent
            await asyncio.sleep(min(0.05 * 2**sent.attempts, 1.0) * self._draw.uniform(0.5, 1.5))

    def _read(self, reply: httpx.Response, shape: type[BaseModel], what: str) -> BaseModel | None:
        try:
            told = shape.model_validate_json(reply.content)
        except ValidationError as error:
            self._book.fault("malformed", f"{what} {reply.status_code}: {error.errors()[:2]} {reply.content[:200]!r}")
            return None
        if isinstance(told, schemas.Fault) and told.request_id != reply.headers.get("x-request-id", "none"):
            self._book.fault("malformed", f"{what} {reply.status_code}: no request id")
        return told

    def _question(self) -> dict[str, Any]:
        draw, items = self._draw, self._items
        question: dict[str, Any] = {"k": draw.choice((5, 10, 20))}
        kind = draw.random()
        if kind < 0.6:
            question["user"] = self._user()
        elif kind < 0.9:
            question["history"] = draw.sample(items, draw.randint(1, 30))
        if (rule := draw.random()) < 0.08:
            question["deny"] = draw.choice(self._denied)
        elif rule < 0.16 and self._feature:
            question["where"] = {self._feature: {"any": [draw.choice(self._values)]}}
        elif rule < 0.2 and self._feature:
            question |= {"most": {self._feature: 2}, "diversify": 0.3}
        elif rule < 0.24:
            question["pins"] = [{"item": draw.choice(self._pinned), "place": 1}]
        return question

    def _compare(self, question: dict[str, Any], answer: schemas.Answer) -> None:
        """What a user had is not recommended to him again, from the moment on at which it was acknowledged."""
        if "user" not in question or "pins" in question or answer.notes:
            return
        if (had := self._expected(question["user"])) is not None and (
            again := {item.id for item in answer.items} & set(had)
        ):
            self._book.fault("stale", f"{question['user']}: {len(again)} items recommended again, step {answer.step}")

    def _expected(self, user: str) -> list[str] | None:
        """Items that came in of a user, in their order; none where that is not sure."""
        trail = self._trails[user]
        begin = max((place + 1 for place, step in enumerate(trail) if step[0] is None), default=0)
        if not all(acknowledged for _, _, acknowledged, _ in trail) or any(unsure for _, _, _, unsure in trail[:begin]):
            return None
        return [item for _, item, _, _ in trail[begin:]]

    def _user(self) -> str:
        return self._draw.choice(list(self._trails))

    def _happening(self, user: str) -> dict[str, Any]:
        self._next += 1
        return {"user": user, "item": self._draw.choice(self._items), "key": f"{self._number}-{self._next}"}


async def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    book, trails = Book(folder), {}
    limits = httpx.Limits(max_connections=job["walkers"], keepalive_expiry=5)
    headers = {"Authorization": f"Bearer {job['key']}"}
    async with httpx.AsyncClient(base_url=job["address"], timeout=30, limits=limits, headers=headers) as client:
        walkers = [Walker(number, job, client, book) for number in range(job["walkers"])]
        for found in await asyncio.gather(*(walker.walk(job["until"]) for walker in walkers)):
            trails.update(found)
    book.close()
    (folder / "trails.json").write_text(json.dumps(trails))
    (folder / "faults.json").write_text(json.dumps({"counts": book.counts, "texts": book.faults}))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
