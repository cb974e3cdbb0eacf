"""xLSTM blocks alone: Segue's beside those of the package ``xlstm``, and beside a Transformer with as many parameters.

Positions per second, forward and backward on random input: width 128, 2 blocks, 2 heads, batch 64. ``mlstm`` has two
mLSTM blocks, ``mixed`` an mLSTM and an sLSTM block; ``transformer`` is Segue's SASRec or torch's own encoder, its
feed-forward as wide as makes its parameters those of ``mlstm``. Each side runs in fresh processes, in turn with the
others, and its fastest counts.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.machine import busy, told, undisturbed

__all__ = ["page", "run"]

SETTINGS: dict[str, Any] = {"width": 128, "blocks": 2, "heads": 2, "batch": 64}

LENGTHS = (50, 200)

SIDES: list[tuple[str, str, float]] = [
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

AGAINST: list[tuple[tuple[str, str, float], tuple[str, str, float]]] = [
    (SIDES[0], SIDES[1]),
    (SIDES[2], SIDES[3]),
    (SIDES[0], SIDES[4]),
    (SIDES[0], SIDES[5]),
    (SIDES[6], SIDES[7]),
    (SIDES[6], SIDES[8]),
]
"""Which are compared."""


def run(ask: Any) -> dict[str, Any]:
    """Figures of every side by length, and the ratios."""
    import numpy as np

    from benchmarks.compare_libraries import side
    from benchmarks.environments import interpreter

    package = interpreter("xlstm")
    if package is None:
        print("no environment for xlstm; make it with: python -m benchmarks.environments xlstm", file=sys.stderr)
    nothing = np.zeros(1, np.int64), np.zeros(0, np.int32)
    settings = SETTINGS | {"threads": ask.threads, "seconds": 0.5 if ask.quick else 6.0}
    found: dict[str, Any] = {"settings": settings, "busy_before_percent": busy(), "sides": []}
    best: dict[tuple[int, tuple[str, str, float]], dict[str, Any]] = {}
    for _ in range(1 if ask.quick else 3):
        for length in LENGTHS:
            for which in SIDES:
                kind, library, dropout = which
                if library == "xlstm" and package is None:
                    continue
                python = package if library == "xlstm" and package else sys.executable
                job = settings | {"kind": kind, "length": length, "library": library, "dropout": dropout}
                figures = side("xlstm", python, job, nothing)
                kept = best.get((length, which))
                if kept is None or figures["milliseconds"] < kept["milliseconds"]:
                    best[length, which] = figures
    for (length, (kind, library, dropout)), figures in best.items():
        found["sides"].append({"length": length, "kind": kind, "library": library, "dropout": dropout, **figures})
    found["ratios"] = [
        {
            "length": length,
            "of": list(one),
            "to": list(other),
            "faster": best[length, other]["milliseconds"] / best[length, one]["milliseconds"],
            "faster_by_processor": best[length, other]["processor_milliseconds"]
            / best[length, one]["processor_milliseconds"],
        }
        for length in LENGTHS
        for one, other in AGAINST
        if (length, other) in best
    ]
    return found


def page(found: dict[str, Any]) -> str:
    """The tables, as Markdown."""
    settings = found["settings"]
    lines = [
        "# xLSTM blocks alone",
        "",
        f"Width {settings['width']}, {settings['blocks']} blocks, {settings['heads']} heads, batch "
        f"{settings['batch']}, {settings['threads']} threads: forward and backward, the fastest of fresh processes.",
        "",
        "| length | stack | library | dropout | positions/s | ms | ms of processor | peak MiB | parameters |",
        "| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    order = ("length", "dropout", "kind", "library")
    lines += [
        f"| {side['length']} | {side['kind']} | {side['library']} | {side['dropout']} "
        f"| {side['positions_per_second']:,.0f} | {side['milliseconds']:.1f} "
        f"| {side['processor_milliseconds']:.1f} | {side['peak_mib']:,.0f} | {side['parameters']:,} |"
        for side in sorted(found["sides"], key=lambda one: [one[key] for key in order])
    ]
    lines += [
        "",
        "| length | Segue's | beside | times as fast | by processor time |",
        "| ---: | --- | --- | ---: | ---: |",
    ]
    for ratio in found["ratios"]:
        one, other = (
            f"{kind} of {library}, dropout {dropout}" for kind, library, dropout in (ratio["of"], ratio["to"])
        )
        lines.append(
            f"| {ratio['length']} | {one} | {other} | {ratio['faster']:.2f} | {ratio['faster_by_processor']:.2f} |"
        )
    lines += [
        "",
        undisturbed(found),
        *told(found["machine"]),
        "",
    ]
    return "\n".join(lines)


def _called(side: list[Any]) -> str:
    kind, library, dropout = side
    return f"{kind} of {library}, dropout {dropout}"
