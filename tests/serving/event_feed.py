"""Process that appends events and reports them: ``python event_feed.py ADDRESS NAME COUNT BATCH``.

Events belong to three users in turn, with items ``NAME-0``, ``NAME-1``, ...; every batch starts with an event whose key
other processes use too. Prints one line at the start, then one line per acknowledged batch with the number of events
stored and the number of keys that were new.
"""

from __future__ import annotations

import sys

from segue.serving.stores.open import open_store
from segue.serving.stores.store import Event


def main(address: str, name: str, count: int, batch: int) -> None:
    store = open_store(address)
    print("started", flush=True)
    sys.stdin.readline()
    n_new_keys = 0
    for start in range(0, count, batch):
        shared = Event("shared", f"{name}-{start}", start, key=f"{start}")
        is_new = store.append([shared, *[Event(f"u{n % 3}", f"{name}-{n}", n) for n in range(start, start + batch)]])
        n_new_keys += is_new[0]
        print(start + batch, n_new_keys, flush=True)
    store.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
