"""Request batches of 256 long, diversified lists from eight clients at the same time, with scope ``read``.

Each batch is a few kilobytes of well-formed JSON and takes seconds to answer.
"""

from attacker import Attacker, run

MAX_BODY_ITEMS = 256


async def attack(attacker: Attacker) -> None:
    async with attacker.client(timeout=60) as http:
        items = await attacker.item_ids(http)

        async def client(number: int) -> None:
            while attacker.is_running():
                requests = [
                    {"history": [items[(number + index) % len(items)]], "k": 200, "diversify": 0.7}
                    for index in range(MAX_BODY_ITEMS)
                ]
                await attacker.request(http, "POST", "/v1/recommend/batch", {"requests": requests})

        await attacker.gather(8, client)


if __name__ == "__main__":
    run(attack)
