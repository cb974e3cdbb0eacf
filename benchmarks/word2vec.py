"""Speed of word2vec compared with gensim: skip-gram with negative sampling, equal settings.

Two corpora: the histories of MovieLens 1M (item2vec), and the plots and abstracts of its films (word2vec). Both
libraries get the same sequences of codes, without rare ones. Only training is timed; gensim's counting of words and
Segue's tables of negatives are part of `prepare`. Learned vectors are random within limits: the table also shows how
many of the ten nearest neighbors of frequent codes two libraries share, and how many two seeds of one library share.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.environments import interpreter
from benchmarks.machine import cpu_load, describe_lines, load_line
from benchmarks.speed_ratios import estimate_ratio, format_ratio
from benchmarks.subprocess_runner import Arrays, run_alternating
from benchmarks.table_rows import head_lines

__all__ = ["page", "run", "shared_neighbors"]

ROUNDS = 5
MIN_COUNT = 5
NEIGHBORS = 10
FREQUENT = 1000
"""Number of codes whose neighbors are compared."""

SETTINGS: dict[str, Any] = {
    "size": 100,
    "epochs": 5,
    "window": 5,
    "num_negatives": 5,
    "sampler_alpha": 0.75,
    "subsample": 1e-3,
    "learning_rate": 0.025,
}
"""The defaults of gensim with skip-gram, and the usual rate of frequent words."""


COLUMNS = (
    "words/s",
    "times gensim",
    "the same, processor time",
    "train, s",
    "prepare, s",
    "peak MiB",
    "neighbors shared with gensim",
)


def run(options: Any) -> dict[str, Any]:
    """Measure both libraries on both corpora."""
    interpreter("gensim", install=True)
    threads = sorted({1, options.threads})
    settings = SETTINGS | ({"epochs": 1} if options.quick else {})
    found: dict[str, Any] = {"load_before_percent": cpu_load(), "settings": settings, "corpora": {}}
    for name, rows in corpora(options.quick).items():
        arrays = encode(rows)
        jobs = []
        for count in threads:
            base = {"part": "word2vec", "threads": count, "settings": settings, "seed": options.seed}
            jobs += [(f"{library}, {count}", library.lower(), base) for library in ("Segue", "gensim")]
        for library in ("Segue", "gensim"):  # for the neighbors alone
            other = {"part": "word2vec", "threads": 1, "settings": settings, "seed": options.seed + 1}
            jobs.append((f"{library}, 1, other seed", library.lower(), other))
        runs = run_alternating(1 if options.quick else ROUNDS, jobs, arrays)
        found["corpora"][name] = summarize(runs, arrays, settings["epochs"])
    return found


def corpora(is_quick: bool) -> dict[str, list[list[str]]]:
    """Return the sequences of each corpus."""
    import polars as pl

    from segue.data import load
    from segue.features.text.pipeline import TextPipeline

    if is_quick:
        rng = np.random.default_rng(0)
        return {"simulated": rng.integers(50, size=(200, 20)).astype(str).tolist()}
    data = load("ml-1m")
    histories = [row.tolist() for row in np.split(data.histories.items.astype(str), data.histories.offsets[1:-1])]
    films = load("ml-1m-text").item_features
    assert films is not None
    texts = films.select(pl.concat_str("plot", "abstract", separator=" ", ignore_nulls=True)).collect().to_series()
    return {"histories of ml-1m": histories, "plots and abstracts of ml-1m": TextPipeline()(texts.to_list())}


def encode(rows: list[list[str]]) -> Arrays:
    """Replace words by codes, the most frequent first, and drop rare words."""
    counts = Counter(word for row in rows for word in row)
    words = [word for word, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])) if count >= MIN_COUNT]
    codes = {word: code for code, word in enumerate(words)}
    kept = [[codes[word] for word in row if word in codes] for row in rows]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in kept])]).astype(np.int64)
    return {"offsets": offsets, "items": np.array([code for row in kept for code in row], np.int32)}


def shared_neighbors(first_VD: NDArray[Any], second_VD: NDArray[Any]) -> float:
    """Return the mean share of the nearest neighbors of frequent codes that two tables have in common."""
    lists = []
    for vectors in (first_VD, second_VD):
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        scores = unit[:FREQUENT] @ unit.T
        np.fill_diagonal(scores, -np.inf)
        lists.append(np.argpartition(-scores, NEIGHBORS, axis=1)[:, :NEIGHBORS])
    return float(np.mean([len(np.intersect1d(*pair)) for pair in zip(*lists, strict=True)])) / NEIGHBORS


def summarize(runs: dict[str, tuple[Any, Arrays]], arrays: Arrays, epochs: int) -> dict[str, Any]:
    """Compute words per second and shared neighbors."""
    n_words = len(arrays["items"])
    vectors = {name: results["vectors"] for name, (_, results) in runs.items()}
    rows = {}
    for name, (figures, _) in runs.items():
        speed = {"words_per_second": n_words * epochs / figures["fit_seconds"]}
        shared = {"shared_with_gensim": shared_neighbors(vectors[name], vectors["gensim, 1"])}
        rows[name] = figures | speed | shared
        base = runs[f"gensim, {name.split(', ')[1]}"][0]
        for key, seconds in (("speed", "all_fit_seconds"), ("cpu_speed", "all_cpu_seconds")):
            rows[name][key] = estimate_ratio(base[seconds], figures[seconds])
    own = shared_neighbors(vectors["Segue, 1"], vectors["Segue, 1, other seed"])
    size = {"words": n_words, "codes": int(arrays["items"].max()) + 1, "sequences": len(arrays["offsets"]) - 1}
    return size | {"runs": rows, "shared_by_seeds_of_segue": own}


def page(found: dict[str, Any]) -> str:
    """Format the tables."""
    settings = found["settings"]
    lines = [
        "# Speed of word2vec, compared with gensim",
        "",
        f"Skip-gram with negative sampling, {settings['size']} dimensions, window {settings['window']}, "
        f"{settings['num_negatives']} negatives, {settings['epochs']} epochs, subsampling {settings['subsample']:g}, "
        f"learning rate {settings['learning_rate']:g}; words are counted before subsampling. The libraries take "
        "turns, each in new processes; figures are those of the fastest, the speed relative to gensim is the geometric "
        "mean over the rounds, with a 95 % interval (t, of the logarithms).",
        "",
        *head_lines(["corpus", "library and threads", *COLUMNS], len(COLUMNS)),
    ]
    for corpus, part in found["corpora"].items():
        for name, run in part["runs"].items():
            threads = name.split(", ")[1]
            is_base = name == f"gensim, {threads}"
            speed, cpu = ("1" if is_base else format_ratio(run[key]) for key in ("speed", "cpu_speed"))
            shared = "" if name == "gensim, 1" else f"{run['shared_with_gensim']:.0%}"
            lines.append(
                f"| {corpus} | {name} | {run['words_per_second']:,.0f} | {speed} | {cpu} "
                f"| {run['fit_seconds']:.2f} | {run['prepare_seconds']:.2f} | {run['peak_mib']:,.0f} | {shared} |"
            )
    lines.append("")
    for corpus, part in found["corpora"].items():
        lines.append(
            f"* {corpus}: {part['words']:,} words in {part['sequences']:,} sequences, {part['codes']:,} different; two "
            f"seeds of Segue share {part['shared_by_seeds_of_segue']:.0%} of the {NEIGHBORS} nearest neighbors"
        )
    lines.append("* both libraries have the same settings, and neither was tuned; no test part is read")
    return "\n".join([*lines, load_line(found), *describe_lines(found["machine"]), ""])
