"""Speed of evaluation next to RecTools and RecBole: metrics of given lists, then from scores to metrics.

Each program computes precision, recall, hit rate, MRR, MAP and NDCG at 5 and 10 in a process of its own, from the same
file; the programs take turns, in reverse order in every second round. The clock runs while the metrics are computed: it
excludes imports, reading, and the conversion to the input of the library. A call on a few users comes before it. All
values must agree to 1e-6.

* ``lists``: from given lists of ten items and targets
* ``scores``: from vectors of users and items: ranking the catalog without the items of the history, then metrics
"""

from __future__ import annotations

import sys
from statistics import median
from typing import Any

import numpy as np

from benchmarks.environments import interpreter
from benchmarks.machine import cpu_load, describe_lines, load_line
from benchmarks.speed_ratios import estimate_ratio, format_ratio
from benchmarks.subprocess_runner import Arrays, find_python, run_in_subprocess
from benchmarks.table_rows import head_lines, row_line

__all__ = ["PROGRAMS", "check_values", "draw_lists", "draw_vectors", "measure", "page", "run", "summarize"]

KS = (5, 10)
ROUNDS = 5
AIM = 5.0
"""Ratio to the faster of the other libraries that is aimed for."""
TOLERANCE = 1e-6

SIZES = {"users": 100_000, "items": 50_000, "targets": 5, "history": 20, "width": 64}
QUICK_SIZES = {"users": 600, "items": 400, "targets": 5, "history": 10, "width": 8}

PROGRAMS: dict[str, dict[str, tuple[str, str]]] = {
    "lists": {
        "Segue": ("segue", "means"),
        "Segue, with 95 % intervals": ("segue", "intervals"),
        "Segue, from known ranks": ("segue", "ranks"),
        "RecTools": ("rectools", ""),
        "RecBole, from known hits": ("recbole", ""),
    },
    "scores": {
        "Segue": ("segue", "means"),
        "Segue, with 95 % intervals": ("segue", "intervals"),
        "RecTools, ImplicitRanker": ("rectools", "implicit"),
        "RecTools, TorchRanker": ("rectools", "torch"),
        "RecBole": ("recbole", ""),
    },
}
"""Library and what its runner computes, by part and name."""

TEXTS = {
    "lists": (
        "Lists of ten items and their targets are given. Segue gets arrays of lists and targets and finds the targets "
        "in the lists. RecTools gets a table of recommendations and one of targets, which it joins. RecBole gets what "
        "its collector makes from scores: whether each place is a hit, and the number of targets; finding the hits is "
        "not in its time. `Segue, from known ranks` begins at the same point."
    ),
    "scores": (
        "Vectors of users and items are given; the scores of a user are their products. The items of the history are "
        "removed, and memory is bounded: all programs work in batches. Segue computes the exact rank of every target "
        "in the whole catalog, and the top ten; the others the top ten only. RecTools's rankers make lists, whose "
        "table `calc_metrics` evaluates. RecBole's batches go through its collector, without its data loader. The "
        "matrix products are the same work for all."
    ),
}

MEASURED = ("fit_seconds", "cpu_seconds", "peak_mib", "before_mib")

Found = dict[str, Any]


def run(options: Any) -> Found:
    """Measure both parts."""
    for library in ("rectools", "recbole"):
        interpreter(library, install=True)
    sizes = QUICK_SIZES if options.quick else SIZES
    found: Found = {"load_before_percent": cpu_load(), "sizes": sizes, "threads": options.threads, "parts": {}}
    found["rounds"] = 1 if options.quick else ROUNDS
    for part, draw in (("lists", draw_lists), ("scores", draw_vectors)):
        arrays = draw(sizes, options.seed)
        found["parts"][part] = summarize(measure(part, arrays, found["rounds"], options.threads))
    return found


def measure(part: str, arrays: Arrays, rounds: int, threads: int) -> dict[str, list[Found]]:
    """Run every program once per round; check that the values agree."""
    runs: dict[str, list[Found]] = {name: [] for name in PROGRAMS[part]}
    for number in range(rounds):
        names = list(PROGRAMS[part])
        for name in names if number % 2 == 0 else reversed(names):
            library, what = PROGRAMS[part][name]
            python = find_python(library)
            assert python is not None
            print(f"{part}: {name} ({number + 1} of {rounds}) ...", file=sys.stderr)
            job = {"threads": threads, "ks": list(KS), "what": what}
            runs[name].append(run_in_subprocess(f"{part}_{library}", python, job, arrays)[0])
    check_values({name: some[0]["values"] for name, some in runs.items()})
    return runs


def check_values(values: dict[str, dict[str, float]]) -> None:
    """Check that all programs computed the same.

    Raises:
        ValueError: a metric is missing, or differs by more than 1e-6.
    """
    first, *others = values
    for other in others:
        for metric, value in values[first].items():
            got = values[other].get(metric)
            if got is None or not abs(got - value) <= TOLERANCE:
                raise ValueError(f"{other}: {metric}: got {got}, expected {value} as in {first}, to {TOLERANCE:g}")


def draw_lists(sizes: dict[str, int], seed: int = 0) -> Arrays:
    """Draw lists of ten different items, and one to five targets per user, of which some are in the list."""
    rng = np.random.default_rng(seed)
    n, n_items = sizes["users"], sizes["items"]
    lists = _draw_rows(rng, n, 10, n_items)
    targets = _draw_rows(rng, n, sizes["targets"], n_items)
    is_hit = rng.random(targets.shape) < 0.15
    from_list = np.take_along_axis(lists, rng.random(lists.shape).argsort(axis=1)[:, : sizes["targets"]], axis=1)
    targets = np.where(is_hit, from_list, targets)
    return {"lists": lists} | _ragged(rng, targets, "target")


def draw_vectors(sizes: dict[str, int], seed: int = 0) -> Arrays:
    """Draw vectors of users and items, histories, and one to five targets per user that score higher than others."""
    rng = np.random.default_rng(seed)
    n, n_items, width = sizes["users"], sizes["items"], sizes["width"]
    items = rng.standard_normal((n_items, width)).astype(np.float32)
    drawn = _draw_rows(rng, n, sizes["history"] + sizes["targets"], n_items)
    targets = drawn[:, : sizes["targets"]]
    noise = rng.standard_normal((n, width))
    users = (0.6 * items[targets[:, 0]] + 0.4 * items[targets[:, 1]] + noise).astype(np.float32)
    history = np.sort(drawn[:, sizes["targets"] :], axis=1)
    offsets = np.arange(0, history.size + 1, history.shape[1])
    found = {"users": users, "items": items, "history_offsets": offsets, "history_items": history.ravel()}
    return found | _ragged(rng, targets, "target")


def _draw_rows(rng: np.random.Generator, n: int, width: int, n_items: int) -> Any:
    """Draw ``(n, width)`` different items per row, popular ones more often (Zipf)."""

    def draw(size: tuple[int, int]) -> Any:
        return np.minimum(np.floor(n_items ** rng.random(size)), n_items - 1).astype(np.int32)

    rows = draw((n, width))
    while True:
        ordered = np.sort(rows, axis=1)
        wrong = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
        if not len(wrong):
            return rows
        rows[wrong] = draw((len(wrong), width))


def _ragged(rng: np.random.Generator, rows: Any, name: str) -> Arrays:
    """Return the first one or more items of each row without repetitions, as offsets and items."""
    n, width = rows.shape
    keep = np.arange(width) < rng.integers(1, width + 1, n)[:, None]
    order = np.sort(np.where(keep, rows, -1 - np.arange(width)), axis=1)
    is_new = np.concatenate([np.ones((n, 1), bool), order[:, 1:] != order[:, :-1]], axis=1) & (order >= 0)
    offsets = np.concatenate([[0], np.cumsum(is_new.sum(axis=1))])
    return {f"{name}_offsets": offsets, f"{name}_items": order[is_new].astype(np.int32)}


def summarize(runs: dict[str, list[Found]]) -> Found:
    """Compute medians, and the ratio of each library to Segue's programs."""
    rows = {}
    for name, some in runs.items():
        row: Found = {key: [one[key] for one in some] for key in MEASURED}
        if not name.startswith("Segue"):
            own = [other for other in runs if other.startswith("Segue")]
            row["ratios"] = {
                other: {
                    key: estimate_ratio(row[key], [one[key] for one in runs[other]])
                    for key in ("fit_seconds", "cpu_seconds")
                }
                for other in own
            }
        rows[name] = row
    return {"rows": rows, "values": next(iter(runs.values()))[0]["values"]}


def page(found: Found) -> str:
    """Format the tables."""
    sizes = found["sizes"]
    lines = [
        "# Speed of evaluation: Segue, RecTools and RecBole",
        "",
        f"{sizes['users']:,} users, {sizes['items']:,} items, one to {sizes['targets']} targets per user, simulated. "
        "Precision, recall, hit rate, MRR, MAP and NDCG at 5 and 10, with definitions that all libraries share; the "
        f"values of all programs agree to {TOLERANCE:g}. {found['threads']} thread(s). Each program runs in a process "
        f"of its own, {found['rounds']} times, in turns and in reverse order in every second round; seconds and memory "
        "are medians. Ratios are the geometric mean over the rounds with a 95 % interval (t, of the logarithms).",
        "",
        "The time is that of computing the metrics: it excludes imports, reading the file, and the conversion to the "
        "input of each library. A call on a few users comes first. Memory is the peak of the process, and its size "
        "before the metrics, with the inputs. RecTools and RecBole compute means without intervals.",
        "",
        *_verdict_lines(found),
    ]
    for part, one in found["parts"].items():
        own = [name for name in one["rows"] if name.startswith("Segue")]
        labels = ["s", "CPU s", "peak MiB", "MiB before", *(f"times the time of {name}" for name in own)]
        lines += ["", f"## From {part}", "", TEXTS[part], "", *head_lines(["program", *labels], len(labels))]
        for name, row in one["rows"].items():
            cells = [f"{median(row[key]):.3f}" for key in ("fit_seconds", "cpu_seconds")]
            cells += [f"{median(row[key]):,.0f}" for key in ("peak_mib", "before_mib")]
            ratios = [format_ratio(row["ratios"][other]["fit_seconds"]) if "ratios" in row else "" for other in own]
            lines.append(row_line([name, *cells, *ratios]))
        values = ", ".join(f"{name} {value:.4f}" for name, value in one["values"].items())
        lines += ["", f"Values of all programs: {values}."]
    return "\n".join([*lines, "", load_line(found), *describe_lines(found["machine"]), ""])


def _verdict_lines(found: Found) -> list[str]:
    """State whether the aim is reached, next to the faster of the other libraries in each part."""
    lines = []
    for part, one in found["parts"].items():
        others = {name: row for name, row in one["rows"].items() if "ratios" in row}
        fastest = min(others, key=lambda name: median(others[name]["fit_seconds"]))
        for own, ratio in others[fastest]["ratios"].items():
            speed = ratio["fit_seconds"]
            lowest = speed["ratio"] if speed["low"] is None else speed["low"]
            outcome = "reached" if lowest >= AIM else "not reached"
            lines.append(
                f"* {part}: `{own}` is {format_ratio(speed)} times as fast as `{fastest}`, the fastest of the others; "
                f"aim {AIM:g} times, by the lower end of the interval: {outcome}."
            )
    return lines
