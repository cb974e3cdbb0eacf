"""Speed of ranking models: Segue's ``ials``, ``ease`` and ``item_knn``, implicit, RecTools and LensKit.

All but the last item of each user of MovieLens 1M trains; the last is the target among the top ten of the whole
catalog, without the history. ``ials`` and implicit's AlternatingLeastSquares minimize the same objective (Hu et al.
2008) with the same weights; the value that implicit reaches is the target, and the time until each reaches it is
compared, beside the accuracy at that time. Only fitting is timed, without the objective. Lists are made for all users,
at the best rate of several repeats, for LensKit once.
"""

from __future__ import annotations

from typing import Any

from benchmarks.machine import cpu_load, describe_lines, load_line
from benchmarks.subprocess_runner import Arrays, run_alternating

__all__ = ["RUNS", "page", "parse_comparisons", "run"]

CONFIDENCE, L2 = 10.0, 10.0
"""Weight of an event, where a pair without one weighs 1, and the ridge in the same units."""

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
"""Settings of both libraries by width, the best of about thirty each on validation (the second to last item of each
user) after 15 iterations."""

WIDTHS = (64, 128)

SAME_OBJECTIVE = tuple(f"ials, width {width}" for width in WIDTHS)
"""Comparisons in which Segue and implicit minimize the same objective."""

ROUNDS = 3

NOTES = [
    "Settings: with the same objective (`ials, width 64` and `128`) both libraries have the same weights, ridge and "
    "number of iterations, and neither was tuned; `best settings of each` are the best of about thirty per library by "
    "validation; `ease` has the same ridge in all libraries; `item_knn` has 100 neighbors, and otherwise the defaults "
    "of RecTools and LensKit, which were not tuned.",
    "1 seed (0). Each run was evaluated once on the last item of each user; settings were chosen on the item before.",
]
"""How settings were chosen, and how often the test part was read."""


def _ials(width: int, **more: Any) -> dict[str, Any]:
    own = {"embedding_dim": width, "unobserved": "rest", "unobserved_weight": 1 / CONFIDENCE, "l2": L2 / CONFIDENCE}
    return {"model": "ials", "settings": own | {"frequency_scaling": 0.0, "iterations": 15} | more}


def _implicit(width: int, **more: Any) -> dict[str, Any]:
    return {"settings": {"factors": width, "alpha": CONFIDENCE, "regularization": L2, "iterations": 15} | more}


RUNS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    **{
        f"ials, width {width}": {
            "Segue": ("segue", _ials(width)),
            "Segue, subspace": ("segue", _ials(width, solver="subspace")),
            "implicit": ("implicit", _implicit(width)),
        }
        for width in WIDTHS
    },
    **{
        f"ials, width {width}, best settings of each": {
            "Segue": ("segue", {"model": "ials", "settings": {"embedding_dim": width, "iterations": 15} | own}),
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
        "Segue": ("segue", {"model": "item_knn", "settings": {"k": 100, "shrink": 0.0}}),
        "RecTools": ("rectools", {"model": "item_knn", "settings": {"K": 100}}),
        "LensKit": ("lenskit", {"model": "item_knn", "settings": {"max_nbrs": 100, "feedback": "implicit"}}),
    },
}
"""Library and settings of each run by comparison; other settings are the library's defaults."""


def parse_comparisons(wanted: str | None) -> list[str]:
    """Parse ``--comparisons``; all of them by default.

    Raises:
        ValueError: an unknown comparison.
    """
    names = list(RUNS) if wanted is None else [wanted] if wanted in RUNS else wanted.split(",")
    if unknown := [name for name in names if name not in RUNS]:
        raise ValueError(f"--comparisons: got '{', '.join(unknown)}', expected some of {'; '.join(RUNS)}")
    return names


def run(options: Any) -> dict[str, Any]:
    """Measure every run of the chosen comparisons."""
    from benchmarks.__main__ import load
    from benchmarks.compare_libraries import histories
    from benchmarks.runners.measure import score
    from segue.data.splits import SplitSettings, split

    source, data = load(options.source or ("ml-100k" if options.quick else None))
    events = histories(split(data, SplitSettings()))
    arrays: Any = dict(zip(("offsets", "items"), events, strict=True))
    repeats = 1 if options.quick else 3
    base = {"part": "ranking", "threads": options.threads, "seed": options.seed, "items": data.n_items, "k": 10}
    base |= {"repeats": repeats}
    found: dict[str, Any] = {"source": source, "load_before_percent": cpu_load(), "settings": base, "comparisons": {}}
    found["data"] = {"users": len(events[0]) - 1, "events": len(events[1]), "hash": data.header.get("hash")}
    for comparison in parse_comparisons(options.comparisons):
        jobs = [(f"{comparison}: {name}", library, base | own) for name, (library, own) in RUNS[comparison].items()]
        runs = run_alternating(1 if options.quick else ROUNDS, jobs, arrays)
        found["comparisons"][comparison] = {
            name.rpartition(": ")[2]: figures | score(results["recommended"], *events)
            for name, (figures, results) in runs.items()
        }
    for comparison, runs in found["comparisons"].items():
        add_accuracy_at_target(comparison, runs, base, arrays)
    return found


def add_accuracy_at_target(comparison: str, runs: dict[str, Any], base: dict[str, Any], arrays: Arrays) -> None:
    """Add the accuracy of Segue's models after the iterations that reach implicit's objective, as ``at_target``."""
    from benchmarks.runners.measure import score

    if comparison not in SAME_OBJECTIVE or "implicit" not in runs:
        return
    for name, (library, own) in RUNS[comparison].items():
        reached = first_below(runs[name]["points"], runs["implicit"]["points"][-1][1])
        if library != "segue" or reached is None:
            continue
        job = base | own | {"settings": own["settings"] | {"iterations": reached[0]}}
        _, results = run_alternating(1, [(name, library, job)], arrays)[name]
        runs[name]["at_target"] = score(results["recommended"], arrays["offsets"], arrays["items"])


def page(found: dict[str, Any]) -> str:
    """Format the tables."""
    settings = found["settings"]
    lines = [
        f"# Speed of ranking models on {found['source']}",
        "",
        f"{found['data']['users']:,} users, the last item of each is the target; {settings['threads']} threads, "
        "fastest of several processes.",
        "",
        "| comparison | library | fit, s | HR@10 | NDCG@10 | lists of ten, users/s | peak MiB |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for comparison, runs in found["comparisons"].items():
        lines += [
            f"| {comparison} | {name} | {run['fit_seconds']:.2f} | {run['hit_rate@10']:.4f} | {run['ndcg@10']:.4f} "
            f"| {run['users_per_second']:,.0f} | {run['peak_mib']:,.0f} |"
            for name, run in runs.items()
        ]
    lines += ["", "| comparison | Segue | compared with | fit, times as fast | lists, times as fast |"]
    lines += ["| --- | --- | --- | ---: | ---: |"]
    for comparison, runs in found["comparisons"].items():
        for own, other in _pairs(runs):
            fit_ratio = runs[other]["fit_seconds"] / runs[own]["fit_seconds"]
            list_ratio = runs[own]["users_per_second"] / runs[other]["users_per_second"]
            lines.append(f"| {comparison} | {own} | {other} | {fit_ratio:.2f} | {list_ratio:.2f} |")
    lines += ["", *_time_to_objective(found["comparisons"]), "", *(f"* {note}" for note in NOTES)]
    lines += [f"* data hash {found['data']['hash']}", load_line(found), *describe_lines(found["machine"]), ""]
    return "\n".join(lines)


def _pairs(runs: dict[str, Any]) -> list[tuple[str, str]]:
    owns = [name for name in runs if name.startswith("Segue")]
    return [(own, other) for own in owns for other in runs if other not in owns]


def _time_to_objective(found: dict[str, Any]) -> list[str]:
    """Compare the time of each until the final objective of implicit, where both minimize the same one."""
    lines = [
        "## Time to implicit's objective",
        "",
        "HR@10 and NDCG@10 are those after the iterations that reach the target.",
        "",
        "| comparison | library | target | iterations | s | times as fast | HR@10 | NDCG@10 | s per iteration "
        "| final objective |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for comparison, runs in found.items():
        if comparison not in SAME_OBJECTIVE or "implicit" not in runs:
            continue
        target = runs["implicit"]["points"][-1][1]
        needed = first_below(runs["implicit"]["points"], target)
        for name, run in runs.items():
            reached = first_below(run["points"], target)
            cells = ["not reached", "", "", "", ""]
            if reached is not None and needed is not None:
                at_target = run if name == "implicit" else run.get("at_target", {})  # implicit reaches it at its end
                cells = [f"{reached[0]}", f"{reached[1]:.2f}", f"{needed[1] / reached[1]:.2f}"]
                cells += [f"{at_target[key]:.4f}" if at_target else "" for key in ("hit_rate@10", "ndcg@10")]
            took, end = run["points"][-1]
            cells += [f"{took / len(run['points']):.3f}", f"{end:,.0f}"]
            lines.append(f"| {comparison} | {name} | {target:,.0f} | " + " | ".join(cells) + " |")
    return lines


def first_below(points: list[tuple[float, float]], target: float) -> tuple[int, float] | None:
    """Return iterations and seconds until the objective is at most ``target``; ``None`` if it never is."""
    for number, (seconds, value) in enumerate(points):
        if value <= target:
            return number + 1, seconds
    return None
