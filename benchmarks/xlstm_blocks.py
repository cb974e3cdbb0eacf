"""Training speed of xLSTM blocks: Segue, the package ``xlstm``, and Transformers with as many parameters.

Positions per second, forward and backward on random input: width 128, 2 blocks, 2 heads, batch 64. ``mlstm`` has two
mLSTM blocks, ``mixed`` an mLSTM and an sLSTM block; ``transformer`` is Segue's SASRec or PyTorch's encoder, with a
feed-forward width that gives it as many parameters as ``mlstm``. Each runs in fresh processes, alternately with the
others, and its fastest run counts.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.machine import cpu_load, describe_lines, load_line

__all__ = ["page", "run"]

SETTINGS: dict[str, Any] = {"embedding_dim": 128, "num_blocks": 2, "num_heads": 2, "batch": 64}

LENGTHS = (50, 200)

RUNS: list[tuple[str, str, float]] = [
    ("mlstm", "segue", 0.0),
    ("mlstm", "xlstm", 0.0),
    ("mixed", "segue", 0.0),
    ("mixed", "xlstm", 0.0),
    ("transformer", "segue", 0.0),
    ("transformer", "torch", 0.0),
    ("mlstm", "segue", 0.2),
    ("transformer", "segue", 0.2),
    ("transformer", "torch", 0.2),
]
"""Kind of stack, library, dropout."""

PAIRS: list[tuple[tuple[str, str, float], tuple[str, str, float]]] = [
    (RUNS[0], RUNS[1]),
    (RUNS[2], RUNS[3]),
    (RUNS[0], RUNS[4]),
    (RUNS[0], RUNS[5]),
    (RUNS[6], RUNS[7]),
    (RUNS[6], RUNS[8]),
]
"""Pairs that are compared."""


def run(options: Any) -> dict[str, Any]:
    """Measure every stack by length, and the ratios."""
    import numpy as np

    from benchmarks.compare_libraries import run_runner
    from benchmarks.environments import interpreter

    package = interpreter("xlstm")
    if package is None:
        print(
            "warning: no environment for xlstm; create it with: python -m benchmarks.environments xlstm",
            file=sys.stderr,
        )
    no_events = np.zeros(1, np.int64), np.zeros(0, np.int32)
    settings = SETTINGS | {"threads": options.threads, "seconds": 0.5 if options.quick else 6.0}
    found: dict[str, Any] = {"settings": settings, "load_before_percent": cpu_load(), "runs": []}
    best: dict[tuple[int, tuple[str, str, float]], dict[str, Any]] = {}
    for _ in range(1 if options.quick else 3):
        for length in LENGTHS:
            for which in RUNS:
                kind, library, dropout = which
                if library == "xlstm" and package is None:
                    continue
                python = package if library == "xlstm" and package else sys.executable
                job = settings | {"kind": kind, "length": length, "library": library, "dropout": dropout}
                figures = run_runner("xlstm", python, job, no_events)
                previous = best.get((length, which))
                if previous is None or figures["milliseconds"] < previous["milliseconds"]:
                    best[length, which] = figures
    for (length, (kind, library, dropout)), figures in best.items():
        found["runs"].append({"length": length, "kind": kind, "library": library, "dropout": dropout, **figures})
    found["ratios"] = [
        {
            "length": length,
            "of": list(one),
            "to": list(other),
            "faster": best[length, other]["milliseconds"] / best[length, one]["milliseconds"],
            "faster_by_cpu": best[length, other]["cpu_milliseconds"] / best[length, one]["cpu_milliseconds"],
        }
        for length in LENGTHS
        for one, other in PAIRS
        if (length, other) in best
    ]
    return found


def page(found: dict[str, Any]) -> str:
    """Format the tables."""
    settings = found["settings"]
    lines = [
        "# Training speed of xLSTM blocks",
        "",
        f"Width {settings['embedding_dim']}, {settings['num_blocks']} blocks, {settings['num_heads']} heads, batch "
        f"{settings['batch']}, {settings['threads']} threads: forward and backward pass, fastest of several processes.",
        "",
        "| length | stack | library | dropout | positions/s | ms | CPU ms | peak MiB | parameters |",
        "| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    order = ("length", "dropout", "kind", "library")
    lines += [
        f"| {run['length']} | {run['kind']} | {run['library']} | {run['dropout']} "
        f"| {run['positions_per_second']:,.0f} | {run['milliseconds']:.1f} "
        f"| {run['cpu_milliseconds']:.1f} | {run['peak_mib']:,.0f} | {run['parameters']:,} |"
        for run in sorted(found["runs"], key=lambda one: [one[key] for key in order])
    ]
    lines += [
        "",
        "| length | Segue | compared with | times as fast | by CPU time |",
        "| ---: | --- | --- | ---: | ---: |",
    ]
    for ratio in found["ratios"]:
        one, other = (
            f"{kind} of {library}, dropout {dropout}" for kind, library, dropout in (ratio["of"], ratio["to"])
        )
        lines.append(f"| {ratio['length']} | {one} | {other} | {ratio['faster']:.2f} | {ratio['faster_by_cpu']:.2f} |")
    lines += [
        "",
        load_line(found),
        *describe_lines(found["machine"]),
        "",
    ]
    return "\n".join(lines)
