"""The benchmark of word2vec: equal corpora, shared neighbors, the page."""

import numpy as np
import pytest

from benchmarks import word2vec
from segue.solvers.skip_gram import SkipGramOptions


def test_rare_words_are_dropped_and_frequent_words_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word2vec, "MIN_COUNT", 2)
    arrays = word2vec.encode([["b", "a", "b"], ["rare"], ["a", "c", "c", "b"]])
    assert arrays["items"].tolist() == [0, 1, 0, 1, 2, 2, 0]
    assert arrays["offsets"].tolist() == [0, 3, 3, 7]


def test_shared_neighbors_are_all_or_what_chance_gives() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 400, 8))
    assert word2vec.shared_neighbors(first, 3.0 * first) == 1.0
    assert word2vec.shared_neighbors(first, second) == pytest.approx(10 / 399, abs=0.01)


def test_the_page_compares_equal_numbers_of_threads() -> None:
    SkipGramOptions(**word2vec.SETTINGS)
    runs, vectors = {}, np.random.default_rng(0).standard_normal((30, 4))
    for name, seconds in {"Segue, 1": 1.0, "gensim, 1": 3.0, "Segue, 2": 0.5, "gensim, 2": 1.0}.items():
        times = {"fit_seconds": seconds, "all_fit_seconds": [seconds, 2 * seconds], "all_cpu_seconds": [1.0, 1.0]}
        runs[name] = times | {"prepare_seconds": 0.1, "peak_mib": 100.0}, {"vectors": vectors}
    for library in ("Segue", "gensim"):
        runs[f"{library}, 1, other seed"] = runs[f"{library}, 1"]
    arrays = {"items": np.arange(30, dtype=np.int32), "offsets": np.array([0, 30])}
    machine = dict.fromkeys(
        ("processor", "cores", "system", "python", "torch", "segue", "commit", "command", "date"), "x"
    )
    found = {
        "settings": word2vec.SETTINGS,
        "corpora": {"small": word2vec.summarize(runs, arrays, 5)},
        "machine": machine | {"memory_gib": 1},
        "load_before_percent": 0.0,
        "max_load_percent": 15.0,
    }
    text = word2vec.page(found)
    assert "| small | Segue, 1 | 150 | 3.00 [3.00, 3.00] | 1.00 [1.00, 1.00] | 1.00 |" in text
    assert "| small | Segue, 2 | 300 | 2.00 [2.00, 2.00] | 1.00 [1.00, 1.00] | 0.50 |" in text
    assert "share 100% of the 10 nearest neighbors" in text
