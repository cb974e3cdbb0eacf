"""Move the file of an SQLite store away and put an empty one in its place while events are written.

``lost`` counts events that were acknowledged more than 1.5 s after that: they are in neither file that the operator
sees. ``readyz`` lists the statuses of the readiness probe in that time. The file is moved back at the end.
"""

import asyncio
import os
import secrets
import time
from pathlib import Path

from attacker import Attacker, run

DETECTION_SECONDS = 1.5


async def attack(attacker: Attacker) -> None:
    if attacker.options.store is None:
        raise SystemExit("replaced_store: --store is missing, expected the file of the service's SQLite store")
    store = Path(attacker.options.store)
    names = [Path(f"{store}{suffix}") for suffix in ("", "-wal", "-shm")]
    away = {name: Path(f"{name}.away") for name in names if name.exists()}
    attacker.found |= {"lost": 0, "readyz": []}
    for name, other in away.items():
        os.replace(name, other)
    store.touch()
    replaced = time.monotonic()
    try:
        async with attacker.client(timeout=10) as http:

            async def client(number: int) -> None:
                while attacker.is_running():
                    event = {"user": f"attack-{number}", "item": "i1", "key": secrets.token_hex(8)}
                    response = await attacker.request(http, "POST", "/v1/events", event)
                    is_late = time.monotonic() > replaced + DETECTION_SECONDS
                    attacker.found["lost"] += is_late and response is not None and response.status_code == 200
                    await asyncio.sleep(0.05)

            async def probe() -> None:
                while attacker.is_running():
                    await asyncio.sleep(0.2)
                    response = await http.get("/readyz")
                    if time.monotonic() > replaced + DETECTION_SECONDS:
                        attacker.found["readyz"] = sorted({*attacker.found["readyz"], response.status_code})

            await asyncio.gather(probe(), *(client(number) for number in range(attacker.scale(2))))
    finally:
        for name in names:
            name.unlink(missing_ok=True)
        for name, other in away.items():
            os.replace(other, name)


if __name__ == "__main__":
    run(attack, store="file of the service's SQLite store")
