"""Ten everyday tasks in Segue, RecTools, LensKit and implicit: executed, checked, and counted.

Each library's code is a notebook script, ``runners/api_LIBRARY.py``, with one cell per task, written as that library's
documentation does it; where a library has nothing for a task, with the shortest workaround that its public interface
allows. All read the same MovieLens log (``runners/api_inputs.py``). A count covers the cell's statements (nested ones
included), its lines after ``ruff format --line-length 100``, and its tokens; imports are counted apart.
"""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tokenize
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import cpu_load, describe_lines
from benchmarks.subprocess_runner import Arrays, find_python, run_in_subprocess

__all__ = ["LIBRARIES", "TASKS", "cells", "check", "count", "page", "run"]

RUNNERS = Path(__file__).parent / "runners"

LIBRARIES = {"segue": "Segue", "rectools": "RecTools", "lenskit": "LensKit", "implicit": "implicit"}

TASKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "split": ("hold out the last item of each user", ("split",)),
    "train": ("train EASE (implicit: ALS of width 64)", ("train",)),
    "evaluate": ("recall@10 and NDCG@10 on the held-out items", ("evaluate",)),
    "recommend": ("ten items for every user, as a data frame", ("recommend",)),
    "new_user": ("ten items for a new user, given as a list of items", ("new_user",)),
    "allow_list": ("ten items for some users, from an allow-list only", ("allow_list",)),
    "similar": ("the ten items most similar to an item", ("similar",)),
    "ratings": ("ratings of given pairs, and the RMSE over five folds", ("ratings",)),
    "compare": ("three models under the same protocol", ("compare",)),
    "save": ("save, and recommend the same in a fresh process", ("save", "load")),
}
"""By task what it is and which cells it takes."""

DESCRIPTION = """\
Each library's code is a notebook script, `benchmarks/runners/api_LIBRARY.py`, with one cell per task, written as that
library's documentation does it; where a library has nothing for a task, with the shortest workaround that its public
interface allows. All read the same log. A count covers the cell's statements (nested ones included), its lines after
`ruff format --line-length 100`, and its tokens; imports are counted apart."""

MEASURES = {"statements": "Statements", "lines": "Lines", "tokens": "Tokens"}

UNCOUNTED = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}

METRICS = ("recall@10", "ndcg@10")

RECALL_TOLERANCE, RMSE_TOLERANCE = 0.02, 0.03
"""How far the same model's figures may be apart between libraries: their definitions of EASE and of biased
factorization differ in details."""


def cells(library: str) -> dict[str, str]:
    """Read a library's script: the source of each cell by name."""
    parts = (RUNNERS / f"api_{library}.py").read_text().split("\n# %% ")[1:]
    return {name.strip(): code for name, _, code in (part.partition("\n") for part in parts)}


def formatted(code: str) -> str:
    """Format code with ``ruff format`` at 100 columns, whatever its layout in the file."""
    options = ["--line-length", "100", "--config", "format.skip-magic-trailing-comma=true", "--isolated"]
    command = [sys.executable, "-m", "ruff", "format", *options, "-"]
    return subprocess.run(command, input=code, capture_output=True, text=True, check=True).stdout


def count(code: str) -> dict[str, int]:
    """Count a cell's statements, formatted lines and tokens, without imports, comments and blank lines."""
    tree = ast.parse(code)
    tree.body = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
    statements = sum(isinstance(node, ast.stmt) for node in ast.walk(tree))
    text = formatted(ast.unparse(tree))  # comments and imports are gone
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {
        "statements": statements,
        "lines": sum(bool(line.strip()) for line in text.splitlines()),
        "tokens": sum(token.type not in UNCOUNTED for token in tokens),
    }


def counts(library: str) -> dict[str, dict[str, int] | None]:
    """Count every task over its cells; ``None`` where the library does not support it."""
    code = cells(library)
    found: dict[str, dict[str, int] | None] = {}
    for task, (_, names) in TASKS.items():
        parts = [count(code[name]) for name in names]
        total = {key: sum(part[key] for part in parts) for key in MEASURES}
        found[task] = total if total["statements"] else None
    return found


def imports(library: str) -> int:
    """Count the names that a library's script imports."""
    tree = ast.parse(cells(library)["imports"])
    return sum(len(node.names) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom))


def inputs(source: str) -> Arrays:
    """Prepare the log and the tasks' inputs, with the source's own ids as integers.

    A user's times are made distinct (the later of two equal ones moves by a second), so that every library takes the
    same item as the last.
    """
    from segue.data import load

    data = load(source)
    events = data.histories
    users = np.repeat(np.array([int(key) for key in data.users.ids]), np.diff(events.offsets))
    catalog = np.array([int(key) for key in data.items.ids])
    if events.times is None or events.values is None:
        raise ValueError(f"source: '{source}' has no times or no ratings, which the tasks need")
    times = np.array(events.times)
    for start, end in zip(events.offsets[:-1], events.offsets[1:], strict=True):
        steps = np.arange(end - start)
        times[start:end] = np.maximum.accumulate(times[start:end] - steps) + steps
    order = np.argsort(times, kind="stable")
    titles = data.item_features.collect()["title"].to_list() if data.item_features is not None else [""] * len(catalog)
    popular = catalog[np.argsort(-np.bincount(events.items, minlength=len(catalog)), kind="stable")]
    sizes = np.diff(events.offsets)
    some = np.array([int(key) for key in data.users.ids])[np.argsort(sizes, kind="stable")[:: len(sizes) // 5]][:5]
    return {
        "user_id": users[order],
        "item_id": catalog[events.items[order]],
        "rating": np.array(events.values, np.float64)[order],
        "timestamp": times[order],
        "catalog": catalog,
        "title": np.array([title or "" for title in titles]),
        "history": popular[[3, 10, 30, 50, 80]],
        "some_users": some,
        "allowed": popular[::3][:200],
        "item": popular[5],
        "pair_user_id": np.repeat(some, 4),
        "pair_item_id": np.tile(popular[[1, 20, 100, 200]], len(some)),
    }


def run(settings: Any) -> dict[str, Any]:
    """Count, execute and check every library's tasks; what failed or is wrong is listed under ``problems``."""
    source = settings.source or "ml-100k"
    arrays = inputs(source)
    found: dict[str, Any] = {"source": source, "load_before_percent": cpu_load(), "libraries": {}}
    for library in LIBRARIES:
        python = find_python(library)
        if python is None:
            continue
        print(f"{library} ...", file=sys.stderr)
        job = {"library": library, "threads": settings.threads}
        figures, results = run_in_subprocess("api", python, job, arrays)
        steps = figures.pop("steps")
        failed = {step: fact["error"] for step, fact in steps.items() if fact["error"]}
        supported = counts(library)
        found["libraries"][library] = {
            **figures,
            "seconds": {step: round(fact["seconds"], 3) for step, fact in steps.items()},
            "errors": failed,
            "wrong": [] if failed else check(arrays, results, figures, supported),
            "counts": supported,
            "imported_names": imports(library),
        }
    found["disagreements"] = disagreements(found["libraries"])
    found["problems"] = [
        f"{name}: {text}"
        for name, library in found["libraries"].items()
        for text in [*library["errors"].values(), *library["wrong"]]
    ] + found["disagreements"]
    return found


def _pairs(results: Arrays, name: str) -> list[tuple[int, int]]:
    users, items = results[f"{name}.user_id"], results[f"{name}.item_id"]
    return [(int(user), int(item)) for user, item in zip(users, items, strict=True)]


def _lists(results: Arrays, name: str) -> dict[int, list[int]]:
    lists: dict[int, list[int]] = {}
    for user, item in _pairs(results, name):
        lists.setdefault(user, []).append(item)
    return lists


def check(arrays: Arrays, results: Arrays, figures: Mapping[str, Any], supported: Mapping[str, Any]) -> list[str]:
    """Describe each wrong result of a library; an empty list if all are right."""
    log = list(zip(arrays["user_id"].tolist(), arrays["item_id"].tolist(), strict=True))
    last = dict(log)
    seen: dict[int, set[int]] = {}
    for user, item in log:
        seen.setdefault(user, set()).add(item)
    seen = {user: known - {last[user]} for user, known in seen.items()}
    lists = _lists(results, "recommendations")
    allowed = _lists(results, "allowed_recommendations")
    fresh = results["new_recommendations.item_id"].tolist()
    similar = results["similar_items.item_id"].tolist()
    some = arrays["some_users"].tolist()
    own = accuracy(lists, last)
    facts = {
        "split: the held-out items are not the last of each user": dict(_pairs(results, "test_pairs")) == last,
        "recommend: not ten distinct unseen items for every user": set(lists) == set(last)
        and all(len(set(items)) == 10 and not seen[user] & set(items) for user, items in lists.items()),
        "new_user: not ten distinct items outside the history": len(set(fresh)) == 10
        and not set(fresh) & set(arrays["history"].tolist()),
        "allow_list: not ten allowed unseen items for each user": set(allowed) == set(some)
        and all(
            len(set(items)) == 10 and set(items) <= set(arrays["allowed"].tolist()) - seen[user]
            for user, items in allowed.items()
        ),
        "similar: not ten distinct other items": len(set(similar)) == 10 and int(arrays["item"]) not in similar,
        "compare: not three models with metrics between 0 and 1": len(figures["compared"]) == 3
        and all(0 < row[name] < 1 for row in figures["compared"].values() for name in METRICS),
        "save: other lists in the fresh process": _lists(results, "reloaded") == {user: lists[user] for user in some},
    }
    wrong = [text for text, right in facts.items() if not right]
    wrong += [
        f"evaluate: {name} is {figures['metrics'][name]:.4f}, but {own[name]:.4f} of its own lists"
        for name in METRICS
        if abs(figures["metrics"][name] - own[name]) > 1e-4
    ]
    if supported["ratings"]:
        ratings = results["predictions.prediction" if "predictions.prediction" in results else "predictions.score"]
        if len(ratings) != len(arrays["pair_user_id"]) or not ((ratings > 0) & (ratings < 6)).all():
            wrong.append("ratings: not one rating for each pair")
    return wrong


def accuracy(lists: Mapping[int, list[int]], last: Mapping[int, int]) -> dict[str, float]:
    """Compute recall and NDCG of lists of ten items where one item of each user is held out."""
    ranks = [lists[user].index(item) if item in lists.get(user, ()) else None for user, item in last.items()]
    gains = [0.0 if rank is None else 1 / np.log2(rank + 2) for rank in ranks]
    return {"recall@10": float(np.mean([rank is not None for rank in ranks])), "ndcg@10": float(np.mean(gains))}


def disagreements(libraries: Mapping[str, Any]) -> list[str]:
    """Describe where libraries with the same model differ by more than their definitions explain."""
    wrong = []
    ease = {name: library["metrics"].get("recall@10") for name, library in libraries.items() if name != "implicit"}
    known = {name: value for name, value in ease.items() if value is not None}
    if known and max(known.values()) - min(known.values()) > RECALL_TOLERANCE:
        wrong.append(f"recall@10 of EASE differs: {known}")
    errors = {name: library["rmse"] for name, library in libraries.items() if library["rmse"] is not None}
    if errors and max(errors.values()) - min(errors.values()) > RMSE_TOLERANCE:
        wrong.append(f"RMSE of biased factorization differs: {errors}")
    return wrong


def page(found: dict[str, Any]) -> str:
    """Write the tables as Markdown."""
    libraries = found["libraries"]
    lines = [
        "# Ten everyday tasks: how much code each library takes",
        "",
        DESCRIPTION,
        "",
    ]
    for measure, title in MEASURES.items():
        lines += [f"## {title}", "", *_table(libraries, measure), ""]
    if "segue" in libraries:
        lines += ["## Segue against the shortest other library", "", *_verdicts(libraries), ""]
    lines += ["## Results", "", *_results(libraries), ""]
    lines += [f"* **problem:** {text}" for text in found["problems"]]
    lines += [
        "* every task was executed and its result checked: ten distinct items, seen items excluded, the allow-list "
        "respected, metrics equal to those of the library's own lists, the same lists after loading in a fresh process",
        "* the results show that the tasks were done and are no comparison of accuracy: no library was tuned, each has "
        "its defaults except where a cell sets something; 1 seed; each script evaluated once on the test part",
        f"* data: {found['source']}, already a pandas frame with columns user_id, item_id, rating, timestamp",
        *describe_lines(found["machine"]),
        "",
    ]
    return "\n".join(lines)


def _cell(counted: Mapping[str, int] | None, measure: str) -> str:
    return "not supported" if counted is None else str(counted[measure])


def _table(libraries: Mapping[str, Any], measure: str) -> list[str]:
    """Build one table: a row per task, and totals over the tasks that every library supports and over all ten."""
    lines = ["| task | " + " | ".join(LIBRARIES[name] for name in libraries) + " |"]
    lines.append("| --- |" + " ---: |" * len(libraries))
    for number, (task, (text, _)) in enumerate(TASKS.items(), 1):
        row = [_cell(library["counts"][task], measure) for library in libraries.values()]
        lines.append(f"| {number}. {text} | " + " | ".join(row) + " |")
    shared = [task for task in TASKS if all(library["counts"][task] for library in libraries.values())]
    for text, tasks in ((f"the {len(shared)} tasks that all support", shared), ("all", list(TASKS))):
        totals = [
            sum((library["counts"][task] or {}).get(measure, 0) for task in tasks) for library in libraries.values()
        ]
        complete = [all(library["counts"][task] for task in tasks) for library in libraries.values()]
        row = [f"**{total}**" if whole else "" for total, whole in zip(totals, complete, strict=True)]
        lines.append(f"| **{text}** | " + " | ".join(row) + " |")
    if measure == "statements":
        row = [str(library["imported_names"]) for library in libraries.values()]
        lines.append("| imported names, apart | " + " | ".join(row) + " |")
    return lines


def _results(libraries: Mapping[str, Any]) -> list[str]:
    lines = ["| library | recall@10 | NDCG@10 | RMSE over five folds |", "| --- | ---: | ---: | ---: |"]
    for name, library in libraries.items():
        values = [library["metrics"].get(key) for key in METRICS] + [library["rmse"]]
        row = ["" if value is None else f"{value:.4f}" for value in values]
        lines.append(f"| {LIBRARIES[name]} | " + " | ".join(row) + " |")
    return lines


def _verdicts(libraries: Mapping[str, Any]) -> list[str]:
    lines = ["| task | " + " | ".join(MEASURES.values()).lower() + " |", "| --- |" + " --- |" * len(MEASURES)]
    for number, (task, verdicts) in enumerate(shortest(libraries).items(), 1):
        lines.append(f"| {number}. {TASKS[task][0]} | " + " | ".join(verdicts.values()) + " |")
    return lines


def shortest(libraries: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Say by task and measure whether Segue's code is ``shortest``, ``tied`` with another or ``longer``."""
    verdicts: dict[str, dict[str, str]] = {}
    for task in TASKS:
        own = libraries["segue"]["counts"][task]
        verdicts[task] = {}
        for measure in MEASURES:
            others = [
                library["counts"][task][measure]
                for name, library in libraries.items()
                if name != "segue" and library["counts"][task]
            ]
            best = min(others, default=None)
            mine = own[measure] if own else None
            if mine is None:
                verdicts[task][measure] = "not supported"
            elif best is None or mine < best:
                verdicts[task][measure] = "shortest"
            else:
                verdicts[task][measure] = "tied" if mine == best else "longer"
    return verdicts
