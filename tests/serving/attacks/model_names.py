"""Name models that are damaged, not loaded, or outside the service's folders, with scope ``read``.

``leaks`` counts responses with a path, a hash or a traceback; ``answered_by`` lists the models that answered.
"""

import asyncio
import re

from attacker import Attacker, run

NAMES = ["..", "../sasrec", "/etc/passwd", "./damaged", "damaged", "outside", "absolute", "no-such-model", "a\\b", " "]
LEAKS = re.compile(
    rb"[0-9a-f]{32}|/etc/|/tmp/|/home/|Traceback|site-packages|manifest\.json|\.safetensors|\.npy|\.py\b"
)


async def attack(attacker: Attacker) -> None:
    attacker.found |= {"leaks": 0, "answered_by": []}
    async with attacker.client() as http:
        response = await attacker.request(http, "GET", "/v1/models")
        listed = [] if response is None or response.status_code != 200 else response.json()["models"]
        names = [*NAMES, *(model["name"] for model in listed)]

        async def client(number: int) -> None:
            while attacker.is_running():
                for name in names[number::2]:
                    if not attacker.is_running():
                        return
                    found = await attacker.request(
                        http, "POST", "/v1/recommend", {"history": [], "k": 1, "model": name}
                    )
                    if found is None:
                        continue
                    if found.status_code == 200:
                        answered = {*attacker.found["answered_by"], found.json()["model"]["name"]}
                        attacker.found["answered_by"] = sorted(answered)
                    elif LEAKS.search(found.content.replace(name.encode(), b"")):  # the name may be repeated
                        attacker.found["leaks"] += 1
                    await asyncio.sleep(0.01)

        await asyncio.gather(client(0), client(1))


if __name__ == "__main__":
    run(attack)
