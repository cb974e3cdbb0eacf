"""Send bodies of up to 2 MB from eight clients at the same time, with scope ``read``, that take long to read.

Some are batches that are valid, others have lists that are too long, or millions of values.
"""

import json

from attacker import Attacker, run

MAX_BYTES = 2_000_000


def bodies() -> list[tuple[str, bytes]]:
    event, history = {"item": "i1"}, [{"item": "i1"}] * 2_000
    batch = json.dumps({"requests": [{"history": history}] * 20}).encode()
    return [
        ("/v1/recommend/batch", batch),
        ("/v1/recommend/batch", b'{"requests":[' + b"[]," * 600_000 + b"[]]}"),
        ("/v1/recommend/batch", b'{"requests":[' + b"{}," * 600_000 + b"{}]}"),
        ("/v1/recommend", b'{"user":"NaN","filter":[' + b"[]," * 600_000 + b"[]]}"),
        ("/v1/recommend", json.dumps({"history": [event] * 100_000}).encode()),
        ("/v1/recommend", b'{"history":[' + b"1," * 90_000 + b"1]}"),
        ("/v1/recommend", b'{"user":"' + b"," * (MAX_BYTES - 20) + b'"}'),
    ]


BODIES = bodies()


async def attack(attacker: Attacker) -> None:
    async with attacker.client(timeout=60) as http:

        async def client(number: int) -> None:
            while attacker.is_running():
                for path, body in BODIES[number % len(BODIES) :] + BODIES[: number % len(BODIES)]:
                    if attacker.is_running():
                        await attacker.request(http, "POST", path, body)

        await attacker.gather(8, client)


if __name__ == "__main__":
    run(attack)
