"""Skip-gram with negative sampling: a reference in plain Python, known optima, planted structure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segue.solvers.skip_gram import (
    FINAL_LEARNING_RATE,
    SkipGram,
    SkipGramOptions,
    alias_table,
    keep_probabilities,
    train_sequences,
)

OPTIONS = SkipGramOptions(
    size=6, epochs=2, window=3, num_negatives=4, sampler_alpha=0.75, subsample=0.0, learning_rate=0.1
)
MASK = 2**64 - 1


class SplitMix:
    """The random numbers of the kernel, in integers of Python."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def draw(self) -> int:
        """Return the next 64 bits."""
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)


def corpus(rows: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the offsets and codes of sequences."""
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return offsets, np.array([code for row in rows for code in row], np.int32)


def build(rows: Sequence[Sequence[int]], n_codes: int, options: SkipGramOptions = OPTIONS, seed: int = 0) -> SkipGram:
    return SkipGram(*corpus(rows), n_codes, options, np.random.default_rng(seed))


def train(rows: Sequence[Sequence[int]], n_codes: int, options: SkipGramOptions, seed: int = 0) -> SkipGram:
    model = build(rows, n_codes, options, seed)
    for epoch in range(options.epochs):
        model.run_epoch(epoch, np.random.default_rng([seed, epoch]))
    return model


def cosines(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found: NDArray[np.float32] = unit @ unit.T
    return found


def reference(
    rows: Sequence[Sequence[int]],
    keep: Sequence[float],
    table: tuple[NDArray[np.uint32], NDArray[np.int32]],
    rates: tuple[float, float],
    seed: int,
    inputs: NDArray[np.float64],
    outputs: NDArray[np.float64],
    is_forward: bool,
) -> None:
    """Train in float64, one step at a time."""
    random, n_codes, done, size = SplitMix(seed), len(inputs), 0, sum(map(len, rows))
    thresholds, aliases = (part.tolist() for part in table)
    for row in rows:
        kept = [(code, done + at) for at, code in enumerate(row) if random.draw() >> 32 < keep[code] * 2**32]
        done += len(row)
        for i, (center, position) in enumerate(kept):
            rate = rates[0] + (rates[1] - rates[0]) * position / size
            reach = 1 + ((random.draw() >> 32) * OPTIONS.window >> 32)
            for j in range(i if is_forward else max(0, i - reach), min(len(kept), i + reach + 1)):
                if j == i:
                    continue
                pairs, gradient = [(kept[j][0], 1.0)], np.zeros(inputs.shape[1])
                for _ in range(OPTIONS.num_negatives):
                    bits = random.draw()
                    column = (bits >> 32) * n_codes >> 32
                    negative = column if bits & 0xFFFFFFFF < thresholds[column] else aliases[column]
                    if negative != kept[j][0]:
                        pairs.append((negative, 0.0))
                for code, label in pairs:
                    step = rate * (label - 1 / (1 + math.exp(-inputs[center] @ outputs[code])))
                    gradient += step * outputs[code]
                    outputs[code] += step * inputs[center]
                inputs[center] += gradient


@pytest.mark.parametrize("is_forward", [False, True])
@pytest.mark.parametrize("subsample", [0.0, 0.05])
def test_the_kernel_takes_the_steps_of_the_reference(subsample: float, is_forward: bool) -> None:
    rng = np.random.default_rng(1)
    rows = [rng.integers(9, size=n).tolist() for n in (12, 0, 1, 30, 5)]
    model = build(rows, 11, replace(OPTIONS, subsample=subsample))
    inputs, outputs = model.inputs_VD.copy(), (0.1 * rng.standard_normal(model.outputs_VD.shape)).astype(np.float32)
    expected_inputs, expected_outputs = inputs.astype(np.float64), outputs.astype(np.float64)
    keep, table, seed = keep_probabilities(model.counts_V, subsample), alias_table(model.noise_V), 2**63 + 12345
    reference(rows, keep.tolist(), table, (0.3, 0.1), seed, expected_inputs, expected_outputs, is_forward)
    offsets, codes = corpus(rows)
    scaled, loss = np.floor(keep * 2.0**32).astype(np.uint64), np.zeros(2)
    rates = 0.3, 0.1
    train_sequences(
        0, len(rows), offsets, codes, scaled, *table, 3, is_forward, 4, *rates, np.uint64(seed), inputs, outputs, loss
    )
    assert (subsample == 0.0) == (keep == 1.0).all()
    np.testing.assert_allclose(inputs, expected_inputs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs, expected_outputs, rtol=1e-4, atol=1e-5)


@given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=60).filter(lambda weights: sum(weights) > 1e-3))
@settings(max_examples=60, deadline=None)
def test_alias_tables_hold_the_distribution(weights: list[float]) -> None:
    probabilities = np.array(weights) / np.sum(weights)
    thresholds, aliases = alias_table(probabilities)
    own = thresholds / 2.0**32
    found = (own + np.bincount(aliases, 1.0 - own, minlength=len(own))) / len(own)
    np.testing.assert_allclose(found, probabilities, atol=1e-8)
    is_zero = probabilities * len(probabilities) < 2.0**-33
    assert (thresholds[is_zero] == 0).all()
    assert not is_zero[aliases].any(), "a code without probability can be drawn"


def test_keep_probabilities_are_those_of_word2vec() -> None:
    found = keep_probabilities(np.array([0, 1, 99, 900]), 0.01)
    np.testing.assert_allclose(found, [1, 1, math.sqrt(0.01 / 0.099) + 0.01 / 0.099, math.sqrt(1 / 90) + 1 / 90])
    assert (keep_probabilities(np.array([5, 5]), 0.0) == 1.0).all()


def test_the_optimum_is_the_shifted_pointwise_mutual_information() -> None:
    """With as many dimensions as codes, x . y approaches ln P(c | v) - ln(k P_noise(c)) (Levy and Goldberg 2014)."""
    rng = np.random.default_rng(0)
    joint = rng.dirichlet(np.full(36, 3.0)).reshape(6, 6)
    joint = (joint + joint.T) / 2
    pairs = np.stack(np.divmod(rng.choice(36, size=30_000, p=joint.ravel()), 6), axis=1)
    options = replace(OPTIONS, size=12, epochs=4, window=1, num_negatives=3, learning_rate=0.1)
    model = train(pairs.tolist(), 6, options)
    expected = np.log(joint / joint.sum(axis=1, keepdims=True)) - np.log(3 * model.noise_V)
    # a negative that is the context itself is skipped, which adds its probability to the real pairs
    found = model.inputs_VD @ model.outputs_VD.T
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.97
    assert abs(float((found - expected).mean())) < 0.25


def test_codes_of_a_planted_cluster_are_near_each_other() -> None:
    rng = np.random.default_rng(0)
    rows = [(rng.integers(8, size=12) + 8 * (n % 4)).tolist() for n in range(400)]
    similarity = cosines(train(rows, 32, replace(OPTIONS, size=16, epochs=3)).inputs_VD)
    np.fill_diagonal(similarity, -2.0)
    nearest = np.argsort(-similarity, axis=1)[:, :7]
    assert (nearest // 8 == np.arange(32)[:, None] // 8).all()


def test_planted_analogies_are_solved() -> None:
    """Code (a, b) occurs with contexts of a and of b: (a, b) - (a, d) + (c, d) is near (c, b)."""
    rng = np.random.default_rng(0)
    n_a, n_b = 4, 3
    words = np.arange(n_a * n_b).reshape(n_a, n_b)
    rows = []
    for _ in range(3000):
        a, b = int(rng.integers(n_a)), int(rng.integers(n_b))
        contexts = [n_a * n_b + 5 * a + int(rng.integers(5)), n_a * n_b + 5 * (n_a + b) + int(rng.integers(5))]
        rows.append([contexts[0], int(words[a, b]), contexts[1]])
    options = replace(OPTIONS, size=16, epochs=6, window=1, num_negatives=5)
    vectors = train(rows, n_a * n_b + 5 * (n_a + n_b), options).inputs_VD[: n_a * n_b]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    solved = total = 0
    for a in range(n_a):
        for c in range(n_a):
            for b in range(n_b):
                for d in range(n_b):
                    if a != c and b != d:
                        scores = unit @ (unit[words[a, b]] - unit[words[a, d]] + unit[words[c, d]])
                        scores[[words[a, b], words[a, d], words[c, d]]] = -np.inf
                        solved += int(scores.argmax() == words[c, b])
                        total += 1
    assert solved / total > 0.9


def test_training_is_reproducible_and_depends_on_the_seed() -> None:
    rows = [[0, 1, 2, 3, 4] * 5] * 6
    first, again, other = (train(rows, 5, OPTIONS, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.inputs_VD, again.inputs_VD)
    np.testing.assert_array_equal(first.outputs_VD, again.outputs_VD)
    assert not np.array_equal(first.inputs_VD, other.inputs_VD)


def test_a_restored_trainer_continues_bit_identically() -> None:
    rows = [[0, 1, 2, 3, 4] * 5] * 6
    whole, first, second = (build(rows, 5) for _ in range(3))
    losses = [whole.run_epoch(epoch, np.random.default_rng(epoch)) for epoch in range(2)]
    assert first.run_epoch(0, np.random.default_rng(0)) == losses[0]
    second.restore({name: array.copy() for name, array in first.arrays().items()})
    assert second.run_epoch(1, np.random.default_rng(1)) == losses[1]
    np.testing.assert_array_equal(second.inputs_VD, whole.inputs_VD)


@pytest.mark.parametrize("num_threads", [2, 3, 16])
def test_several_threads_learn_the_same_structure(num_threads: int) -> None:
    rng = np.random.default_rng(0)
    rows = [(rng.integers(5, size=10) + 5 * (n % 2)).tolist() for n in range(200)]
    options = replace(OPTIONS, size=8, epochs=3, num_threads=num_threads)
    similarity = cosines(train(rows, 10, options).inputs_VD)
    is_same = np.arange(10)[:, None] // 5 == np.arange(10) // 5
    assert similarity[is_same].min() > similarity[~is_same].max()


def test_each_sequence_is_trained_by_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[tuple[int, int]] = []
    monkeypatch.setattr("segue.solvers.skip_gram.train_sequences", lambda *a: shares.append((int(a[0]), int(a[1]))))
    build([[0, 1]] * 7 + [[1] * 30], 2, replace(OPTIONS, num_threads=3)).run_epoch(0, np.random.default_rng(0))
    shares.sort()
    assert [stop for _, stop in shares[:-1]] == [first for first, _ in shares[1:]]
    assert (shares[0][0], shares[-1][1]) == (0, 8)


def test_the_learning_rate_falls_linearly_over_all_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    monkeypatch.setattr("segue.solvers.skip_gram.train_sequences", lambda *a: rates.extend(map(float, a[10:12])))
    model = build([[0, 1]], 2, replace(OPTIONS, epochs=4, learning_rate=0.5))
    for epoch in range(4):
        model.run_epoch(epoch, np.random.default_rng(0))
    assert rates[1:-1:2] == rates[2::2]
    np.testing.assert_allclose(rates[::2], 0.5 * (1 - (1 - FINAL_LEARNING_RATE) * np.arange(4) / 4))
    assert rates[-1] == pytest.approx(0.5 * FINAL_LEARNING_RATE)


def test_the_loss_falls_from_that_of_a_guess() -> None:
    rng = np.random.default_rng(0)
    rows = [(rng.integers(5, size=12) + 5 * (n % 2)).tolist() for n in range(300)]
    untrained = build(rows, 10, replace(OPTIONS, learning_rate=1e-9)).run_epoch(0, np.random.default_rng(0))
    # each negative is skipped where it is the context itself, with probability 1/10
    assert untrained == pytest.approx((1 + 0.9 * OPTIONS.num_negatives) * math.log(2), rel=0.03)
    model = build(rows, 10)
    first, second = (model.run_epoch(epoch, np.random.default_rng(epoch)) for epoch in range(2))
    assert second < first < untrained


@pytest.mark.parametrize("rows", [[], [[]], [[], [3], []], [[2, 2, 2, 2]]])
def test_sequences_without_pairs_or_negatives_are_harmless(rows: list[list[int]]) -> None:
    model = train(rows, 5, OPTIONS)
    assert np.isfinite(model.inputs_VD).all()
    assert np.isfinite(model.outputs_VD).all()
    unused = np.setdiff1d(np.arange(5), corpus(rows)[1])
    assert not model.inputs_VD[unused].any()
    assert not model.outputs_VD[unused].any(), "a code that does not occur was drawn as negative"


@pytest.mark.parametrize(
    "change",
    [
        {"window": 1},
        {"num_negatives": 1},
        {"sampler_alpha": 0.0},
        {"subsample": 0.01},
        {"learning_rate": 0.05},
        {"is_forward": True},
    ],
)
def test_every_option_changes_the_vectors(change: dict[str, float]) -> None:
    rng = np.random.default_rng(0)
    rows = rng.choice(6, size=(20, 8), p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05]).tolist()
    first, second = (train(rows, 6, options) for options in (OPTIONS, replace(OPTIONS, **change)))  # type: ignore[arg-type]
    assert not np.array_equal(first.inputs_VD, second.inputs_VD)
