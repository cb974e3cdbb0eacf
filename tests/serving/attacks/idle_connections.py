"""Open 1,100 connections and send nothing: more than the usual limit of 1,024 open files."""

from attacker import Attacker, run


async def attack(attacker: Attacker) -> None:
    async def client(number: int) -> None:
        await attacker.occupy(b"", pause=1.0)

    await attacker.gather(1_100, client)


if __name__ == "__main__":
    run(attack)
