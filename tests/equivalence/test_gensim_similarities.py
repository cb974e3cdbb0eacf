"""Similarities of skip-gram vectors against those of gensim 4.4.0 on the same corpus with the same settings.

``gensim_similarities.csv`` has the cosines of pairs of 30 codes, in the order of ``np.triu_indices(30, 1)``: the mean
over three seeds of ``Word2Vec(rows, vector_size=16, window=4, sg=1, negative=5, sample=0, alpha=0.05, min_alpha=0.0002,
min_count=1, workers=1, epochs=10)``. Two seeds of gensim correlate by 0.990.
"""

from pathlib import Path

import numpy as np

from segue.solvers.skip_gram import SkipGram, SkipGramOptions

EXPECTED = np.loadtxt(Path(__file__).with_name("gensim_similarities.csv"))
OPTIONS = SkipGramOptions(
    size=16, epochs=10, window=4, num_negatives=5, sampler_alpha=0.75, subsample=0.0, learning_rate=0.05
)


def corpus() -> list[list[int]]:
    """Return sequences about topics: codes near the center of the topic are frequent."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((30, 4))
    logits = centers @ centers.T
    rows = []
    for _ in range(600):
        topic = rng.integers(30)
        probabilities = np.exp(logits[topic])
        rows.append(rng.choice(30, size=20, p=probabilities / probabilities.sum()).tolist())
    return rows


def test_similarities_agree_with_gensim() -> None:
    rows = corpus()
    offsets, codes = np.arange(len(rows) + 1) * 20, np.array(rows, np.int32).ravel()
    model = SkipGram(offsets, codes, 30, OPTIONS, np.random.default_rng(0))
    for epoch in range(OPTIONS.epochs):
        model.run_epoch(epoch, np.random.default_rng([0, epoch]))
    unit = model.inputs_VD / np.linalg.norm(model.inputs_VD, axis=1, keepdims=True)
    found = (unit @ unit.T)[np.triu_indices(30, 1)]
    assert np.corrcoef(found, EXPECTED)[0, 1] > 0.97
    assert np.abs(found - EXPECTED).mean() < 0.05
    assert abs(float(found.mean() - EXPECTED.mean())) < 0.03
    expected_30 = np.zeros((30, 30))
    expected_30[np.triu_indices(30, 1)] = EXPECTED
    expected_30 += expected_30.T
    nearest = [
        np.argsort(-(similarity - 9.0 * np.eye(30)), axis=1)[:, :5] for similarity in (unit @ unit.T, expected_30)
    ]
    shared = [len(np.intersect1d(*pair)) for pair in zip(*nearest, strict=True)]
    assert np.mean(shared) > 4.0
