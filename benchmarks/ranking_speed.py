"""Ranking from events: Segue's ``ials``, ``ease`` and ``item_knn`` beside implicit, RecTools and LensKit.

All but the last item of each user of MovieLens 1M trains, and the last is to be found in the ten best of the whole
catalogue without the history. ``ials`` and implicit's AlternatingLeastSquares minimise the same objective, that of Hu
et al. with the same weights; what implicit comes to in its sweeps is the level, and the time until each is there is
compared. Fitting alone is timed, without the objective; lists are made for all users, as fast as in the best of some
repeats, LensKit's once.
"""

from __future__ import annotations

from typing import Any

from benchmarks.machine import busy, told, undisturbed
from benchmarks.subprocess_runner import in_turn

__all__ = ["SIDES", "contests", "page", "run"]

CONFIDENCE, L2 = 10.0, 10.0
"""Of an event, where a pair without one weighs 1; and the ridge in the same units: those of the same objective."""

BEST: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {
    64: (
        {"unobserved_weight": 2.0, "l2": 0.001, "frequency_scaling": 1.0},
        {"alpha": 2.0, "regularization": 1.0},
    ),
    128: (
        {"unobserved_weight": 2.0, "l2": 5.0, "frequency_scaling": 0.0},
        {"alpha": 1.0, "regularization": 1.0},
    ),
}
"""Settings of either by width that rank best of some thirty each where the last but one item of each user is to be
found, after 15 sweeps."""

WIDTHS = (64, 128)

ROUNDS = 3


def _ials(width: int, **more: Any) -> dict[str, Any]:
    own = {"width": width, "unobserved": "rest", "unobserved_weight": 1 / CONFIDENCE, "l2": L2 / CONFIDENCE}
    return {"model": "ials", "settings": own | {"frequency_scaling": 0.0, "sweeps": 15} | more}


def _implicit(width: int, **more: Any) -> dict[str, Any]:
    return {"settings": {"factors": width, "alpha": CONFIDENCE, "regularization": L2, "iterations": 15} | more}


SIDES: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    **{
        f"ials, width {width}": {
            "Segue": ("segue", _ials(width)),
            "Segue, subspace": ("segue", _ials(width, solver="subspace")),
            "implicit": ("implicit", _implicit(width)),
        }
        for width in WIDTHS
    },
    **{
        f"ials, width {width}, as each ranks best": {
            "Segue": ("segue", {"model": "ials", "settings": {"width": width, "sweeps": 15} | own}),
            "implicit": ("implicit", _implicit(width, **other)),
        }
        for width, (own, other) in BEST.items()
    },
    "ease": {
        "Segue": ("segue", {"model": "ease", "settings": {"l2": 500.0}}),
        "RecTools": ("rectools", {"model": "ease", "settings": {"regularization": 500.0}}),
        "LensKit": ("lenskit", {"model": "ease", "settings": {"regularization": 500.0}}),
    },
    "item_knn": {
        "Segue": ("segue", {"model": "item_knn", "settings": {"neighbours": 100, "shrink": 0.0}}),
        "RecTools": ("rectools", {"model": "item_knn", "settings": {"K": 100}}),
        "LensKit": ("lenskit", {"model": "item_knn", "settings": {"max_nbrs": 100, "feedback": "implicit"}}),
    },
}
"""By contest and side, the library and its settings; what is not told is as the library has it."""


def contests(wanted: str | None) -> list[str]:
    """Names of the contests that are asked for, all without a wish.

    Raises:
        ValueError: one that there is not.
    """
    names = list(SIDES) if wanted is None else wanted.split(",")
    if unknown := [name for name in names if name not in SIDES]:
        raise ValueError(f"contests: got '{', '.join(unknown)}', expected some of {'; '.join(SIDES)}")
    return names


def run(ask: Any) -> dict[str, Any]:
    """Figures of every side by contest."""
    from benchmarks.__main__ import load
    from benchmarks.compare_libraries import histories
    from benchmarks.runners.measure import score
    from segue.data.splits import SplitSettings, split

    source, data = load(ask.source or ("ml-100k" if ask.quick else None))
    events = histories(split(data, SplitSettings()))
    arrays: Any = dict(zip(("offsets", "items"), events, strict=True))
    repeats = 1 if ask.quick else 3
    base = {"part": "ranking", "threads": ask.threads, "seed": ask.seed, "items": data.n_items, "k": 10}
    base |= {"repeats": repeats}
    found: dict[str, Any] = {"source": source, "busy_before_percent": busy(), "settings": base, "contests": {}}
    found["data"] = {"users": len(events[0]) - 1, "events": len(events[1]), "hash": data.header.get("hash")}
    for contest in contests(ask.contests):
        sides = [(f"{contest}: {name}", library, base | own) for name, (library, own) in SIDES[contest].items()]
        runs = in_turn(1 if ask.quick else ROUNDS, sides, arrays)
        found["contests"][contest] = {
            name.rpartition(": ")[2]: figures | score(left["recommended"], *events)
            for name, (figures, left) in runs.items()
        }
    return found


def page(found: dict[str, Any]) -> str:
    """The tables, as Markdown."""
    settings = found["settings"]
    lines = [
        f"# Ranking from the events of {found['source']}",
        "",
        f"{found['data']['users']:,} users, the last item of each to be found; {settings['threads']} threads, the "
        "fastest of fresh processes.",
        "",
        "| contest | side | fit, s | HR@10 | NDCG@10 | ten best, users/s | peak MiB |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for contest, sides in found["contests"].items():
        lines += [
            f"| {contest} | {name} | {side['fit_seconds']:.2f} | {side['hit_rate@10']:.4f} | {side['ndcg@10']:.4f} "
            f"| {side['users_per_second']:,.0f} | {side['peak_mib']:,.0f} |"
            for name, side in sides.items()
        ]
    lines += ["", "| contest | Segue's | beside | fits as fast, times | lists as fast, times |"]
    lines += ["| --- | --- | --- | ---: | ---: |"]
    for contest, sides in found["contests"].items():
        for own, other in _against(sides):
            faster = sides[other]["fit_seconds"] / sides[own]["fit_seconds"]
            lists = sides[own]["users_per_second"] / sides[other]["users_per_second"]
            lines.append(f"| {contest} | {own} | {other} | {faster:.2f} | {lists:.2f} |")
    lines += ["", *_levels(found["contests"]), ""]
    lines += [f"* data hash {found['data']['hash']}", undisturbed(found), *told(found["machine"]), ""]
    return "\n".join(lines)


def _against(sides: dict[str, Any]) -> list[tuple[str, str]]:
    owns = [name for name in sides if name.startswith("Segue")]
    return [(own, other) for own in owns for other in sides if other not in owns]


def _levels(found: dict[str, Any]) -> list[str]:
    """How soon each is where implicit ends, where both have the same objective."""
    lines = [
        "## Time to implicit's objective",
        "",
        "| contest | side | level | sweeps to it | s to it | times as fast | s a sweep | its own end |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for contest, sides in found.items():
        if contest not in [f"ials, width {width}" for width in WIDTHS]:
            continue
        level = sides["implicit"]["points"][-1][1]
        needed = first_below(sides["implicit"]["points"], level)
        for name, side in sides.items():
            there = first_below(side["points"], level)
            cells = ["not reached", "", ""]
            if there is not None and needed is not None:
                cells = [f"{there[0]}", f"{there[1]:.2f}", f"{needed[1] / there[1]:.2f}"]
            took, end = side["points"][-1]
            cells += [f"{took / len(side['points']):.3f}", f"{end:,.0f}"]
            lines.append(f"| {contest} | {name} | {level:,.0f} | " + " | ".join(cells) + " |")
    return lines


def first_below(points: list[tuple[float, float]], level: float) -> tuple[int, float] | None:
    """Sweeps and seconds until the objective is at ``level`` or below; ``None`` if it never is."""
    for number, (seconds, value) in enumerate(points):
        if value <= level:
            return number + 1, seconds
    return None
