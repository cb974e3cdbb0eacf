"""Request explanations of items for histories of 2,000 events from four clients, with scope ``read``.

An explanation scores the history again without each of its events.
"""

import random

from attacker import Attacker, run

N_EVENTS = 2_000


async def attack(attacker: Attacker) -> None:
    async with attacker.client(timeout=60) as http:
        items = await attacker.item_ids(http)
        draw = random.Random(0)

        async def client(number: int) -> None:
            while attacker.is_running():
                body = {"history": draw.choices(items, k=N_EVENTS), "item": draw.choice(items), "include_seen": True}
                await attacker.request(http, "POST", "/v1/explain", body)

        await attacker.gather(4, client)


if __name__ == "__main__":
    run(attack)
