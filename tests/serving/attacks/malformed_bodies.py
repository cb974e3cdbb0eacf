"""Send malformed, contradictory, huge and deeply nested bodies to every route that reads attacker."""

import json
from typing import Any

from attacker import Attacker, run

PATHS = ("/v1/recommend", "/v1/recommend/batch", "/v1/explain", "/v1/events", "/v1/events/batch", "/v1/nowhere")
NUMBERS: list[Any] = [0, -1, 1.5, 1e308, 10**400, True, None, "1", [], {}]
TEXTS: list[Any] = ["", "\x00", "a" * 5_000, "\ud800", "\u202e", 7.5, [], {"a": "b"}]
FIELDS: dict[str, list[Any]] = {
    "k": NUMBERS,
    "deadline_ms": NUMBERS,
    "diversify": NUMBERS,
    "time": NUMBERS,
    "user": TEXTS,
    "model": TEXTS,
    "item": TEXTS,
    "history": [[None], "i1", [["i1"]], [{"item": "i1", "value": "x"}], ["i1"] * 5_000, {"item": "i1"}],
    "filter": [{"year": {"min": "x"}}, {"": 1}, {"x" * 300: 1}, {f"f{n}": 1 for n in range(200)}, [], 3],
    "pins": [[{"item": "i1", "position": 0}], [{"item": "i1", "position": 1}] * 200, ["i1"]],
    "boosts": [[{"filter": {}, "factor": -1}], [{"factor": 2}], {"factor": 2}],
    "requests": [[], [None], [{}] * 5_000, {}, [{"k": 0}]],
    "events": [[], [None], [{"user": "u", "item": "i"}] * 5_000, {}, [{"user": "u"}]],
    "unknown": [1],
}
RAW = [
    b"", b"{", b"}", b"null", b"[]", b'"text"', b"NaN", b"{\"k\": NaN}", b"{\"k\": 1, \"k\": 2}", b"\xff\xfe{}",
    b"\x00", b"[" * 50_000, b'{"a":' * 20_000, b"{}" * 1_000, b'{"k": 1e999999}', b'{"k": ' + b"9" * 100_000 + b"}",
    b'{"user": "' + b"a" * 300_000 + b'"}', b" " * 100_000, b'{"history": [' + b'"i1",' * 100_000 + b'"i1"]}',
]  # fmt: skip


def bodies() -> list[bytes]:
    values = [{name: value} for name, rows in FIELDS.items() for value in rows]
    return [*RAW, *(json.dumps(value).encode() for value in values)]


BODIES = bodies()


async def attack(attacker: Attacker) -> None:
    async with attacker.client() as http:

        async def client(number: int) -> None:
            while attacker.is_running():
                for index, body in enumerate(BODIES):
                    if not attacker.is_running():
                        return
                    await attacker.request(http, "POST", PATHS[(number + index) % len(PATHS)], body)

        await attacker.gather(6, client)


if __name__ == "__main__":
    run(attack)
