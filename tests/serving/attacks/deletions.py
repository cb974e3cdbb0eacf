"""Delete users while they are active, then search the files of the store for their traces; needs scope ``write``.

Every deleted user has a secret in the id, the items, the actions and the idempotency keys of their events. ``traces``
counts the users whose secret is still in a file after the deletion was acknowledged and all their requests ended.
"""

import asyncio
import secrets
from glob import glob
from pathlib import Path
from typing import Any

import httpx
from attacker import Attacker, run

N_EVENTS = 20


async def attack(attacker: Attacker) -> None:
    deleted: list[str] = []

    async with attacker.client() as http:

        async def client(number: int) -> None:
            while attacker.is_running():
                secret = f"secret{secrets.token_hex(8)}"
                if await _live_and_delete(attacker, http, f"user-{secret}", secret):
                    deleted.append(secret)

        await attacker.gather(4, client)
        await asyncio.sleep(0.5)
    files = sorted(glob(attacker.options.files)) if attacker.options.files else []
    contents = [(Path(name).name, Path(name).read_bytes()) for name in files]
    traces = {secret: [name for name, data in contents if secret.encode() in data] for secret in deleted}
    attacker.found |= {"deleted": len(deleted), "files": len(files), "traces": sum(map(bool, traces.values()))}
    attacker.found["files_with_traces"] = sorted({name for names in traces.values() for name in names})


async def _live_and_delete(attacker: Attacker, http: httpx.AsyncClient, user: str, secret: str) -> bool:
    """Append events, request recommendations, and delete the user meanwhile; return whether it was acknowledged."""
    response = await attacker.request(http, "GET", "/v1/models")
    listed = [] if response is None or response.status_code != 200 else response.json()["models"]
    actions: list[str] = next((model["actions"] for model in listed if model["active"]), [])
    events: list[dict[str, Any]] = [
        {"user": user, "item": f"item-{secret}-{index}", "key": f"key-{secret}-{index}"} for index in range(N_EVENTS)
    ]
    if actions:
        events = [{**event, "action": actions[0]} for event in events]
    appended = await attacker.request(http, "POST", "/v1/events/batch", {"events": events})
    if appended is None or appended.status_code != 200:
        return False
    body = {"user": user, "k": 5}
    readers = [asyncio.ensure_future(attacker.request(http, "POST", "/v1/recommend", body)) for _ in range(4)]
    response = await attacker.request(http, "DELETE", f"/v1/users/{user}")
    await asyncio.gather(*readers)
    return response is not None and response.status_code == 200


if __name__ == "__main__":
    run(attack, files="pattern of the files of an SQLite store, such as '/data/store.sqlite*'")
