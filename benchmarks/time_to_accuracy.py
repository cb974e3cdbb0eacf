"""Measure the training time until Segue reaches the NDCG@10 of another library on validation data.

The other library trains for some minutes and its best value is the target; then Segue trains until it reaches it. The
same function scores the lists of both for the same held-out items, without the history; the time to make and score
lists is excluded. Width, depth, heads, dropout and length are equal. Segue trains twice: with the batch size, learning
rate, windows and masking of the other library, as far as it has them, and with those of its own recipe. What no common
setting covers differs in both cases, see :data:`DIFFERENCES`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

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
        peer={"mask_last_prob": 0.5, "windows": "every prefix"},
    ),
)
"""``mask_last_prob`` of RecBole is its default, and RecBole always trains on every prefix of a history: with equal
settings, Segue trains on all windows too."""


SHARES = (0.95, 0.9)
"""Shares of the target at which the ratio is given as well: the best of many noisy validations comes late."""

DIFFERENCES = (
    "Not equal in any row, because the libraries have no common setting or this benchmark leaves it at the default: "
    "Segue clips the norm of gradients at 1, the others do not clip; Adam's second beta is 0.98 in Segue and RecTools "
    "and 0.999 in RecBole; initial weights, scaling and normalization differ. Blocks of SASRec normalize all of "
    "their input in Segue and only the queries in RecTools; blocks of BERT4Rec normalize their input in Segue and "
    "their output in RecBole, which has one more layer before the scores. So a ratio includes different numbers of "
    "epochs as well as different speeds."
)


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
        f"| Segue reaches it after, s | ratio | {' | '.join(f'ratio at {share:.0%} of it' for share in SHARES)} |",
        "| --- | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: |" + " ---: |" * len(SHARES),
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
            *(_ratio_at(one, share) for share in SHARES),
        ]
        text.append("| " + " | ".join(cells) + " |")
    text += [
        "",
        "Validation, whole catalog, history removed. The time to make and score the lists is excluded. One run each, "
        "so the ratios have no interval. The target is the best of all validations of the other library, and Segue "
        "stops at the first of its own that reaches it. Both are single noisy values, and the best one comes late, "
        "when accuracy hardly rises any more; the ratios at lower accuracies show how much this matters. Validations "
        "follow each epoch, in RecBole 20 seconds of training.",
        "",
        "Width, depth, heads, inner width, dropout, length, the full cross-entropy and Adam are equal in every row. In "
        "the rows named equal, batch size, learning rate, windows and masking are those of the other library, as far "
        "as Segue has them. In the others Segue has those of its recipe, and the ratio includes the effect of these "
        f"settings. {DIFFERENCES}",
        "",
    ]
    for one in found:
        counts = ", ".join(_describe_run(name, run) for name, run in one["runs"].items())
        own, peer = one["segue_settings"], one["peer_settings"]
        differing = {name: one["settings"][name] for name in one["settings"] if name in own or name in peer}
        common = {name: value for name, value in one["settings"].items() if name not in differing}
        text.append(
            f"* {TITLES[one['model']]}, {one['training_settings']}: validations: {counts}; "
            f"both: {_format_settings(common)}; "
            f"Segue: {_format_settings(differing | own) or 'no others'}; "
            f"{one['library']}: {_format_settings(differing | peer) or 'no others'}"
        )
    return text


def _ratio_at(one: dict[str, Any], share: float) -> str:
    """Compare the times at which the libraries first reach a share of the target."""
    own, peer = (
        next((seconds for seconds, value in one["runs"][name]["points"] if value >= share * one["target"]), None)
        for name in ("segue", one["library"])
    )
    return "" if own is None or peer is None else f"{peer / own:.1f} x less"


def _describe_run(name: str, run: dict[str, Any]) -> str:
    """Count the validations, give the time between two of them, and say if they cover only a part of an epoch."""
    between = np.diff([0.0, *(seconds for seconds, _ in run["points"])])
    batches, whole = run.get("batches", 0), run.get("epoch_batches", 0)
    part = f", in {batches:,} of the {whole:,} batches of the first epoch" if batches < whole else ""
    return f"{name} {len(between)} (median {np.median(between):.1f} s, longest {between.max():.1f} s apart{part})"


def _format_settings(settings: dict[str, Any]) -> str:
    omitted = ("threads", "seed", "source", "items", "minutes", "target", "k", "rows", "warm_up", "model", "length")
    return ", ".join(f"{name} {value}" for name, value in settings.items() if name not in omitted)
