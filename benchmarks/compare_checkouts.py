"""Compare two checkouts of Segue: same arrays, metrics, recommendations and service responses.

``python -m benchmarks compare_checkouts --old PATH --new PATH [--out FILE.md]`` captures each checkout with
``capture_checkout``, in a process of its own with one thread, and compares both bit by bit. The names in
``compare_checkouts.toml`` are those of the old checkout; the renames there lead to those of the new one. The page is a
Markdown table; the exit code is 1 if anything differs. Training seconds are informative and are not compared.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

try:
    from benchmarks.capture_checkout import SEED, SETTINGS, Capture, rename_fields
except ModuleNotFoundError:  # run as a script
    from capture_checkout import SEED, SETTINGS, Capture, rename_fields

__all__ = ["compare", "main", "page", "run"]

PARTS = ("metrics", "recommendations", "similar", "state")
"""What is compared of a trained model besides its arrays."""

SHARED_PARTS = ("data", "splits", "measures")
"""What is compared once: prepared data, splits, and similarities of the log by measures that need no model."""

MAX_LINES = 12
"""Differences that the page lists of one model."""


# Comparison of two captures.


def normalize(value: Any, is_new: bool) -> Any:
    """Rename the fields of JSON of an old checkout, and drop what is not compared, such as prose and request ids."""
    ignored, texts = set(SETTINGS["ignored"]["fields"]), set(SETTINGS["ignored"]["texts"])

    def drop(one: Any) -> Any:
        if isinstance(one, dict):
            left = {name: drop(inner) for name, inner in one.items() if name not in ignored}
            return {name: sorted(inner) if name in texts else inner for name, inner in left.items()}
        return [drop(inner) for inner in one] if isinstance(one, list) else one

    renames = SETTINGS["renames"]
    return drop(value if is_new else rename_fields(value, renames["responses"], renames["response_values"]))


def find_differences(old: Any, new: Any, path: str = "") -> list[str]:
    """List where two JSON values differ, one line each."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted(old.keys() | new.keys())
        return [line for name in names for line in find_differences(old.get(name), new.get(name), f"{path}/{name}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for index, (a, b) in pairs for line in find_differences(a, b, f"{path}/{index}")]
    return [] if old == new else [f"{path}: {shorten(old)} != {shorten(new)}"]


def shorten(value: Any) -> str:
    """Write a value as text for a message."""
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def compare_arrays(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[int, list[str]]:
    """Count the arrays that are equal, by name or, where the name changed, by digest; list the others."""

    def rename(name: str) -> str:
        for pattern, text in SETTINGS["renames"]["arrays"].items():
            name = re.sub(pattern, text, name)
        return name

    old = {name if name in new else rename(name): one for name, one in old.items()}
    equal = {name for name, one in old.items() if new.get(name) == one}
    left = Counter(one for name, one in old.items() if name not in equal)
    other = Counter(one for name, one in new.items() if name not in equal)
    n_equal = len(equal) + (left & other).total()
    missing, added = left - other, other - left
    lines = [f"array {name}: {one}, not in the new checkout" for name, one in old.items() if missing[one]]
    lines += [f"array {name}: {one}, not in the old checkout" for name, one in new.items() if added[one]]
    return n_equal, lines


def compare(old: Capture, new: Capture) -> dict[str, Any]:
    """Compare two captures: rows of the table, one per variant of a model, and every difference by its subject."""
    found: dict[str, list[str]] = {}
    rows = []
    for name in dict.fromkeys((*old["models"], *new["models"])):
        one, other = old["models"].get(name, {"error": "missing"}), new["models"].get(name, {"error": "missing"})
        if errors := [
            f"{side}: {value['error']}" for side, value in (("old", one), ("new", other)) if "error" in value
        ]:
            found[name] = errors
            rows.append({"name": name, "error": "; ".join(errors)})
            continue
        n_equal, lines = compare_arrays(one["arrays"], other["arrays"])
        row: dict[str, Any] = {"name": name, "equal": n_equal, "arrays": len(one["arrays"])}
        row["arrays_equal"] = not lines
        for part in PARTS:
            faults = compare_part(part, one[part], other[part])
            row[part] = not faults
            lines += [f"{part}{line}" for line in faults]
        row["seconds"] = [one["seconds"], other["seconds"]]
        found |= {name: lines} if lines else {}
        rows.append(row)
    for part in SHARED_PARTS:
        errors = [
            f"{name}: {one['error']}" for side in (old, new) for name, one in side[part].items() if "error" in one
        ]
        if lines := errors or find_differences(old[part], new[part]):
            found[part] = lines
    responses = compare_service(old, new, found)
    untested = sorted({*old["untested"], *new["untested"]})
    if untested:
        found["untested models"] = untested
    sides = {side: {name: one[name] for name in ("checkout", "versions")} for side, one in (("old", old), ("new", new))}
    return {"rows": rows, "differences": found, "responses": responses, "sides": sides, "is_equal": not found}


def compare_part(part: str, old: Any, new: Any) -> list[str]:
    """List the differences of one part of a model; arrays of streaming states may have other names."""
    if errors := [f": {one['error']}" for one in (old, new) if isinstance(one, dict) and "error" in one]:
        return errors
    if part != "state" or old is None or new is None:
        return find_differences(old, new)
    lists = [{name: one for name, one in state.items() if "recommendations" in name} for state in (old, new)]
    arrays = [{name: one for name, one in state.items() if "recommendations" not in name} for state in (old, new)]
    return [*find_differences(lists[0], lists[1]), *(f" {line}" for line in compare_arrays(arrays[0], arrays[1])[1])]


def compare_service(old: Capture, new: Capture, found: dict[str, list[str]]) -> tuple[int, int]:
    """Count equal responses and all responses of two captures; differences go to ``found``."""
    sides = [side.get("service", {"error": "not captured"}) for side in (old, new)]
    if errors := [str(side["error"]) for side in sides if isinstance(side, dict)]:
        found["service"] = errors
        return 0, 0
    pairs = [[normalize(response[1:], side["is_new"]) for response in side["service"]] for side in (old, new)]
    n_equal = 0
    for number, (one, other) in enumerate(zip(*pairs, strict=True)):
        lines = find_differences(one, other)
        n_equal += not lines
        found |= {f"response {number}: {sides[0][number][0]}": lines} if lines else {}
    return n_equal, len(pairs[0])


def page(found: Mapping[str, Any]) -> str:
    """Write the comparison as Markdown: verdict, table, service, differences."""
    rows, sides = found["rows"], found["sides"]
    verdict = "Both checkouts give the same." if found["is_equal"] else "**The checkouts differ.**"
    versions = ", ".join(f"{name} {text}" for name, text in sides["old"]["versions"].items())
    lines = ["# Old and new checkout: arrays, metrics, recommendations, service", "", verdict, ""]
    lines += [f"- {side}: {sides[side]['checkout']}" for side in ("old", "new")]
    lines += [f"- one thread, seed {SEED}, processor seconds of the faster of two trainings; {versions}", ""]
    lines += [
        "Arrays, metrics (with intervals and values per query), recommendations (items, scores, probabilities),",
        "similar items and users, and streaming states are compared bit by bit.",
        "",
        "| model, variant | arrays equal | metrics | recommendations | similar | state | old, s | new, s | ratio |",
        "| --- | ---: | :---: | :---: | :---: | :---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['name']} | error | | | | | | | |")
            continue
        marks = [("equal" if row[part] else "**differ**") for part in PARTS]
        old, new = row["seconds"]
        figures = [f"{row['equal']} of {row['arrays']}", *marks, f"{old:.2f}", f"{new:.2f}", f"{new / old:.2f}"]
        lines.append(f"| {row['name']} | {' | '.join(figures)} |")
    totals = [sum(row["seconds"][side] for row in rows if "seconds" in row) for side in (0, 1)]
    ratio = f", ratio {totals[1] / totals[0]:.2f}" if totals[0] else ""
    lines += ["", f"Training: {totals[0]:.1f} s old, {totals[1]:.1f} s new{ratio}."]
    shared = [f"{part} {'**differ**' if part in found['differences'] else 'equal'}" for part in SHARED_PARTS]
    lines += [f"Without a model: {', '.join(shared)}."]
    lines += [f"Service: {found['responses'][0]} of {found['responses'][1]} responses equal.", ""]
    for name, faults in found["differences"].items():
        lines += [f"## {name}", "", *(f"- `{fault}`" for fault in faults[:MAX_LINES])]
        lines += [f"- and {len(faults) - MAX_LINES} more", ""] if len(faults) > MAX_LINES else [""]
    return "\n".join(lines)


# Running both sides.


def capture_checkout(checkout: Path, home: Path) -> Capture:
    """Capture the package of ``checkout`` in a process of its own, with one thread and an empty working folder.

    Raises:
        ValueError: no package there, or its process failed.
    """
    if not (checkout / "src" / "segue" / "__init__.py").is_file():
        raise ValueError(f"{checkout}: no src/segue; expected a checkout of Segue")
    (home / "work").mkdir(parents=True)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    places = {
        "PYTHONPATH": str(checkout.resolve() / "src"),
        "SEGUE_HOME": str(home / "data"),
        "NUMBA_CACHE_DIR": str(home / "numba"),  # kernels that an older state of the checkout compiled do not count
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    job = [sys.executable, "-P", str(Path(__file__).resolve().with_name("capture_checkout.py"))]
    job.append(str(home / "capture.json"))
    subprocess.run(job, cwd=home / "work", env={**os.environ, **threads, **places}, check=False)
    if not (home / "capture.json").exists():
        raise ValueError(f"{checkout}: its capture failed, see above")
    found: Capture = json.loads((home / "capture.json").read_text(encoding="utf-8"))
    if not Path(found["package"]).is_relative_to(checkout.resolve()):
        raise ValueError(f"{checkout}: imported {found['package']}, which is not of this checkout")
    found["checkout"] = describe_checkout(checkout)
    return found


def describe_checkout(checkout: Path) -> str:
    """Name the commit of a checkout, and whether its working tree differs from it."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(checkout), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    commit = git("rev-parse", "--short", "HEAD") or "not a Git checkout"
    return f"commit {commit}{', with changes' if git('status', '--porcelain', '--', 'src') else ''}"


def run(options: Any) -> dict[str, Any]:
    """Capture ``options.old``, then ``options.new``, and compare; a path of a capture's JSON is read instead.

    Raises:
        ValueError: a path is missing or is no checkout, or a capture failed.
    """
    captures = []
    with tempfile.TemporaryDirectory(prefix="segue-compare-") as folder:
        for side in ("old", "new"):
            path = getattr(options, side, None)
            if path is None:
                raise ValueError(f"--{side}: missing; expected the path of a checkout")
            if path.is_file():
                captures.append(json.loads(path.read_text(encoding="utf-8")))
                continue
            captures.append(capture_checkout(path, Path(folder) / side))
            if keep := getattr(options, "keep", None):
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{side}.json").write_text(json.dumps(captures[-1], indent=1), encoding="utf-8")
    return compare(*captures)


def main(words: Sequence[str] | None = None) -> int:
    """Run the comparison from a command line; 1 if anything differs."""
    parser = argparse.ArgumentParser(prog="compare_checkouts", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--old", type=Path, help="a checkout, or a capture kept from one")
    parser.add_argument("--new", type=Path, help="likewise")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="where the page goes, besides standard output")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the captures are kept as JSON")
    options = parser.parse_args(words)
    try:
        result = run(options)
    except ValueError as error:
        parser.error(str(error))
    text = page(result)
    print(text)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    return 0 if result["is_equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
