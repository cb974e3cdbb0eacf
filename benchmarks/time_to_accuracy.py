"""How soon Segue is as good as a peer became: NDCG@10 on validation against the time of training.

The peer trains for some minutes, and the best value it reached is the level; then Segue trains until it is there. The
lists of both are scored by the same function for the same held-out items, without the history; making and scoring them
is not counted in the time. The model's own settings are the same; how it is trained is each side's choice, and told.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.compare_libraries import MODELS, SETTINGS, TITLES, histories, timed
from segue.core.types import Split

__all__ = ["RACES", "Race", "page", "run"]


@dataclass(frozen=True)
class Race:
    """One model beside one library."""

    model: str
    length: int
    library: str
    share: float
    """Of the minutes asked for: how long the peer trains."""
    segue: dict[str, Any] = field(default_factory=dict)
    """How Segue trains, where it differs."""
    peer: dict[str, Any] = field(default_factory=dict)
    """How the peer trains, where it differs."""


OWN = {"windows": "all", "batch": 64, "learning_rate": 2e-3}
"""How Segue's recipes train on MovieLens 1M, but for the schedule, which would have to know the end."""

RACES = (
    Race("sasrec", 50, "rectools", 1.0, OWN),
    Race("bert4rec", 50, "recbole", 1 / 3, OWN | {"last_share": 0.1}, {"last_share": 0.5}),
)
"""RecBole's BERT4Rec hides the last item alone in half of its batches unless told otherwise."""


def run(
    source: str, split: Split, libraries: list[str], threads: int, seed: int, minutes: float
) -> list[dict[str, Any]]:
    """By race: the level, the seconds each side took to it, and all points."""
    whole = histories(split)
    found = []
    for race in RACES:
        if race.library not in libraries or "segue" not in libraries:
            continue
        ask = SETTINGS | MODELS[race.model] | {"model": race.model, "length": race.length, "warm_up": 1}
        ask |= {"threads": threads, "seed": seed, "source": source, "items": split.train.n_items}
        ask |= {"minutes": minutes * race.share, "level": None}
        what = f"pace of {race.model}"
        peer = timed(race.library, ask | race.peer, whole, what)
        best = max(peer["points"], key=lambda point: float(point[1]))
        own = timed("segue", ask | race.segue | {"level": best[1]}, whole, what)
        reached = own["points"][-1][1] >= best[1]
        found.append(
            {
                "model": race.model,
                "length": race.length,
                "library": race.library,
                "minutes": ask["minutes"],
                "level": best[1],
                "peer_seconds": best[0],
                "segue_seconds": own["points"][-1][0] if reached else None,
                "settings": ask,
                "segue_settings": race.segue,
                "peer_settings": race.peer,
                "sides": {race.library: peer, "segue": own},
            }
        )
    return found


def page(races: list[dict[str, Any]]) -> list[str]:
    """Markdown lines: one row per race, and how it was run."""
    lines = [
        "| model | length | peer | trained, min | its best NDCG@10 | after, s | Segue there after, s | ratio |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for race in races:
        own = race["segue_seconds"]
        cells = [
            TITLES[race["model"]],
            f"{race['length']}",
            race["library"],
            f"{race['minutes']:.2g}",
            f"{race['level']:.4f}",
            f"{race['peer_seconds']:,.0f}",
            "not reached" if own is None else f"{own:,.1f}",
            "" if own is None else f"{race['peer_seconds'] / own:.1f} x less",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Validation, whole catalogue, history removed. Lists and their scores are not in the time.", ""]
    for race in races:
        counts = ", ".join(f"{name} {len(side['points'])}" for name, side in race["sides"].items())
        lines.append(
            f"* {TITLES[race['model']]}: times validated: {counts}; both: {_told(race['settings'])}; "
            f"Segue: {_told(race['segue_settings']) or 'nothing else'}; "
            f"{race['library']}: {_told(race['peer_settings']) or 'nothing else'}"
        )
    return lines


def _told(settings: dict[str, Any]) -> str:
    left = ("threads", "seed", "source", "items", "minutes", "level", "k", "rows", "warm_up", "model", "length")
    return ", ".join(f"{name} {value}" for name, value in settings.items() if name not in left)
