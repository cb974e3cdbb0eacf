"""Measure the training time until Segue reaches the NDCG@10 of another library on validation data.

The other library trains for some minutes and its best value is the target; then Segue trains until it reaches it. The
same function scores the lists of both for the same held-out items, without the history; the time to make and score
lists is excluded. The settings of the model are equal. Segue trains twice: with the training settings of the other
library, which compares the libraries, and with those of Segue's own recipe, which compares what users of either get.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.compare_libraries import MODELS, SETTINGS, TITLES, histories, run_library
from segue.core.types import Split

__all__ = ["TIME_COMPARISONS", "TimeComparison", "lines", "run"]


@dataclass(frozen=True)
class TimeComparison:
    """One model, compared with one library."""

    model: str
    length: int
    library: str
    share: float
    """Training time of the other library as a share of ``--minutes``."""
    equal: dict[str, Any] = field(default_factory=dict)
    """Segue's settings for training as the other library does, where they differ from the common ones."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """Training settings of Segue's recipe that differ from the common ones."""
    peer: dict[str, Any] = field(default_factory=dict)
    """Training settings of the other library that differ from the common ones."""

    @property
    def own_settings(self) -> dict[str, dict[str, Any]]:
        """Return the settings of Segue's two runs by their label."""
        return {"equal": self.equal, "Segue's recipe": self.recipe}


RECIPE = {"windows": "all", "batch": 64, "learning_rate": 2e-3}
"""Training settings of Segue's recipes for MovieLens 1M, without the learning rate schedule, which needs the number of
epochs in advance."""

TIME_COMPARISONS = (
    TimeComparison("sasrec", 50, "rectools", 1.0, recipe=RECIPE),
    TimeComparison(
        "bert4rec",
        50,
        "recbole",
        1 / 3,
        equal={"windows": "all", "mask_last_prob": 0.5},
        recipe=RECIPE | {"mask_last_prob": 0.1},
        peer={"mask_last_prob": 0.5},
    ),
)
"""``mask_last_prob`` of RecBole is its default, and RecBole trains on every prefix of a history: with equal settings,
Segue trains on all windows too."""


def run(
    source: str, split: Split, libraries: list[str], threads: int, seed: int, minutes: float
) -> list[dict[str, Any]]:
    """Measure each comparison with both settings: the target, the seconds of both libraries until it, all points."""
    events = histories(split)
    found = []
    for one in TIME_COMPARISONS:
        if one.library not in libraries or "segue" not in libraries:
            continue
        job = SETTINGS | MODELS[one.model] | {"model": one.model, "length": one.length, "warm_up": 1}
        job |= {"threads": threads, "seed": seed, "source": source, "items": split.train.n_items}
        job |= {"minutes": minutes * one.share, "target": None}
        title = f"time to accuracy, {one.model}"
        peer = run_library(one.library, job | one.peer, events, title)
        best = max(peer["points"], key=lambda point: float(point[1]))
        for label, settings in one.own_settings.items():
            own = run_library("segue", job | settings | {"target": best[1]}, events, f"{title}, {label}")
            is_reached = own["points"][-1][1] >= best[1]
            found.append(
                {
                    "model": one.model,
                    "length": one.length,
                    "library": one.library,
                    "training_settings": label,
                    "minutes": job["minutes"],
                    "target": best[1],
                    "peer_seconds": best[0],
                    "segue_seconds": own["points"][-1][0] if is_reached else None,
                    "settings": job,
                    "segue_settings": settings,
                    "peer_settings": one.peer,
                    "runs": {one.library: peer, "segue": own},
                }
            )
    return found


def lines(found: list[dict[str, Any]]) -> list[str]:
    """Format the comparisons as lines of a page: a table, then the settings."""
    text = [
        "| model | length | library | training settings | trained, min | its best NDCG@10 | reached after, s "
        "| Segue reaches it after, s | ratio |",
        "| --- | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in found:
        own = one["segue_seconds"]
        cells = [
            TITLES[one["model"]],
            f"{one['length']}",
            one["library"],
            one["training_settings"],
            f"{one['minutes']:.2g}",
            f"{one['target']:.4f}",
            f"{one['peer_seconds']:,.0f}",
            "not reached" if own is None else f"{own:,.1f}",
            "" if own is None else f"{one['peer_seconds'] / own:.1f} x less",
        ]
        text.append("| " + " | ".join(cells) + " |")
    text += [
        "",
        "Validation, whole catalog, history removed. The time to make and score the lists is excluded. Model settings "
        "are equal in every row. In the rows with equal settings the training settings are equal too, and the ratio "
        "compares the libraries; in the others Segue has the training settings of its recipe and the other library "
        "those of the benchmark, and the ratio includes the effect of the settings. One run each.",
        "",
    ]
    for one in found:
        counts = ", ".join(f"{name} {len(run['points'])}" for name, run in one["runs"].items())
        text.append(
            f"* {TITLES[one['model']]}, {one['training_settings']}: validations: {counts}; "
            f"both: {_format_settings(one['settings'])}; "
            f"Segue: {_format_settings(one['segue_settings']) or 'no others'}; "
            f"{one['library']}: {_format_settings(one['peer_settings']) or 'no others'}"
        )
    return text


def _format_settings(settings: dict[str, Any]) -> str:
    omitted = ("threads", "seed", "source", "items", "minutes", "target", "k", "rows", "warm_up", "model", "length")
    return ", ".join(f"{name} {value}" for name, value in settings.items() if name not in omitted)
