"""A process that appends events and says so: ``python event_feed.py ADDRESS NAME COUNT BATCH``.

Events are of three users in turn, their items ``NAME-0``, ``NAME-1``, ...; every batch begins with an event whose key
other processes use too. A line that it has begun, then one after each batch that was acknowledged, with how many events
are kept and how many of the keys were new.
"""

from __future__ import annotations

import sys

from segue.serving.stores.open import open_store
from segue.serving.stores.store import Event


def main(address: str, name: str, count: int, batch: int) -> None:
    store = open_store(address)
    print("begun", flush=True)
    sys.stdin.readline()
    won = 0
    for begin in range(0, count, batch):
        shared = Event("shared", f"{name}-{begin}", begin, key=f"{begin}")
        new = store.append([shared, *[Event(f"u{n % 3}", f"{name}-{n}", n) for n in range(begin, begin + batch)]])
        won += new[0]
        print(begin + batch, won, flush=True)
    store.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
