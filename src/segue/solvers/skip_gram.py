"""Skip-gram with negative sampling over sequences of codes: word2vec and item2vec.

Mikolov et al. 2013, arXiv:1310.4546. Each code v has an input vector x_v and an output vector y_v. For a code v and a
code c at most ``window`` positions away, and for codes n drawn from the noise distribution, a gradient step decreases

    -ln sigma(x_v . y_c)  -  sum_n ln sigma(-x_v . y_n)

As in the reference implementation, the window of each position is drawn uniformly from 1 to ``window``, so that near
codes count more; frequent codes are dropped at random before windows are formed; a negative equal to c is skipped; and
the learning rate falls linearly over all positions of all epochs. At the optimum, ``x_v . y_c`` is
``ln P(c | v) - ln(num_negatives P_noise(c))`` (Levy and Goldberg 2014). With forward windows, c only comes after v.

With one thread, training is reproducible. With several, each thread trains on its own share of the sequences, and all
update the same vectors without locks (Recht et al. 2011, arXiv:1106.5730); results then depend on timing.

Shapes: V codes, S sequences, T positions of all sequences, D dimensions.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import exp, log1p
from typing import Any

import numpy as np
from numba import boolean, float32, float64, int32, int64, uint32, uint64
from numpy.typing import NDArray

from segue.core.model import StateArrays
from segue.core.model_arrays import load_array
from segue.core.numba_kernels import fastmath_kernel, input_array, kernel, output_array
from segue.core.types import Codes, Scores

__all__ = ["FINAL_LEARNING_RATE", "SkipGram", "SkipGramOptions", "alias_table", "keep_probabilities", "train_sequences"]

FINAL_LEARNING_RATE = 0.004
"""Learning rate at the end of training, as a share of that at its start; 0.0001 for 0.025, as in word2vec."""
LOSS_EVERY = 32
"""The loss is averaged over one of this many pairs."""

GOLDEN, MIX_1, MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
LOW_BITS = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True)
class SkipGramOptions:
    """Hyperparameters of skip-gram."""

    size: int
    """Dimensions of a vector."""
    epochs: int
    """Passes over all sequences."""
    window: int
    """Maximum distance of two codes of a pair."""
    num_negatives: int
    """Negatives per pair."""
    sampler_alpha: float
    """Exponent of counts in the noise distribution."""
    subsample: float
    """Codes with a larger share of all positions are dropped at random; 0: none."""
    learning_rate: float
    """Initial step size."""
    is_forward: bool = False
    """Whether pairs are formed with later codes only, instead of codes on both sides."""
    num_threads: int = 1
    """Threads; with more than one, training is not reproducible."""


class SkipGram:
    """Vectors of codes, learned from sequences.

    Args:
        offsets: ``(S + 1,)``; sequence s is ``codes[offsets[s]:offsets[s + 1]]``.
        codes: ``(T,)`` codes.
        n_codes: V. Codes that do not occur keep zero vectors.
        options: hyperparameters.
        rng: draws the initial vectors.
    """

    def __init__(
        self,
        offsets: NDArray[np.int64],
        codes: Codes,
        n_codes: int,
        options: SkipGramOptions,
        rng: np.random.Generator,
    ) -> None:
        self.options = options
        self._offsets, self._codes = np.ascontiguousarray(offsets, np.int64), np.ascontiguousarray(codes, np.int32)
        self.counts_V: NDArray[np.int64] = np.bincount(codes, minlength=n_codes)
        keep_V = keep_probabilities(self.counts_V, options.subsample)
        self._keep_V = np.floor(keep_V * 2.0**32).astype(np.uint64)
        self.noise_V = _noise_distribution(self.counts_V, options.sampler_alpha)
        self._alias_table = alias_table(self.noise_V)
        self.inputs_VD = (rng.random((n_codes, options.size), np.float32) - np.float32(0.5)) / np.float32(options.size)
        self.inputs_VD[self.counts_V == 0] = 0.0
        self.outputs_VD = np.zeros((n_codes, options.size), np.float32)

    def run_epoch(self, epoch: int, rng: np.random.Generator) -> float:
        """Pass once over all sequences and return an estimate of the mean loss of a pair.

        Args:
            epoch: 0, 1, ... ``options.epochs - 1``; determines the learning rate.
            rng: draws windows, dropped codes and negatives.
        """
        options, n_shards = self.options, self.options.num_threads
        rates = np.linspace(1.0, FINAL_LEARNING_RATE, options.epochs + 1)[epoch : epoch + 2] * options.learning_rate
        seeds = rng.integers(2**64, size=n_shards, dtype=np.uint64)
        cuts = np.searchsorted(self._offsets, np.linspace(0, self._offsets[-1], n_shards + 1))
        cuts[0], cuts[-1] = 0, len(self._offsets) - 1
        losses = np.zeros((n_shards, 2))

        def train_shard(shard: int) -> None:
            train_sequences(
                cuts[shard],
                cuts[shard + 1],
                self._offsets,
                self._codes,
                self._keep_V,
                *self._alias_table,
                options.window,
                options.is_forward,
                options.num_negatives,
                rates[0],
                rates[1],
                seeds[shard],
                self.inputs_VD,
                self.outputs_VD,
                losses[shard],
            )

        if n_shards == 1:
            train_shard(0)
        else:
            with ThreadPoolExecutor(n_shards) as pool:
                list(pool.map(train_shard, range(n_shards)))
        loss, n_pairs = losses.sum(axis=0)
        return float(loss / max(n_pairs, 1.0))

    def arrays(self) -> StateArrays:
        """Return the vectors, so that training can be resumed."""
        return {"inputs": self.inputs_VD, "outputs": self.outputs_VD}

    def restore(self, arrays: StateArrays) -> None:
        """Load what :meth:`arrays` returned."""
        self.inputs_VD[:] = load_array(arrays, "inputs", self.inputs_VD.shape, np.float32)
        self.outputs_VD[:] = load_array(arrays, "outputs", self.outputs_VD.shape, np.float32)


def keep_probabilities(counts_V: NDArray[np.int64], subsample: float) -> NDArray[np.float64]:
    """Return the ``(V,)`` probabilities of keeping a position, by its code.

    With f the share of a code among all positions and t = ``subsample``, it is ``sqrt(t / f) + t / f``, at most 1.
    """
    if subsample == 0.0:
        return np.ones(len(counts_V))
    ratio_V: NDArray[np.float64] = subsample * counts_V.sum() / np.maximum(counts_V, 1)
    return np.minimum(np.sqrt(ratio_V) + ratio_V, 1.0)


def _noise_distribution(counts_V: NDArray[np.int64], alpha: float) -> NDArray[np.float64]:
    """Return the ``(V,)`` probabilities of negatives; 0 for codes that do not occur."""
    weights_V = np.zeros(len(counts_V))
    is_used = counts_V > 0
    weights_V[is_used] = counts_V[is_used].astype(np.float64) ** alpha
    return weights_V / weights_V.sum() if is_used.any() else np.full(len(counts_V), 1.0 / max(len(counts_V), 1))


def alias_table(probabilities_V: NDArray[np.float64]) -> tuple[NDArray[np.uint32], Codes]:
    """Return thresholds and aliases ``(V,)`` to draw a code in constant time.

    A column v is drawn uniformly; it gives v if a random 32-bit integer is below its threshold, else its alias (Walker
    1977, doi:10.1145/355744.355749; Vose 1991, doi:10.1109/32.92917).
    """
    scaled_V = probabilities_V * len(probabilities_V)
    aliases_V = np.arange(len(scaled_V), dtype=np.int32)
    _fill_aliases(scaled_V, aliases_V)
    return np.minimum(np.floor(scaled_V * 2.0**32), 2.0**32 - 1).astype(np.uint32), aliases_V


@fastmath_kernel(output_array(float64), output_array(int32))
def _fill_aliases(scaled_V: NDArray[np.float64], aliases_V: Codes) -> None:
    """Turn probabilities with mean 1 into thresholds, and set the aliases."""
    small, large = np.empty(len(scaled_V), np.int64), np.empty(len(scaled_V), np.int64)
    n_small, n_large = 0, 0
    for v in range(len(scaled_V)):
        if scaled_V[v] < 1.0:
            small[n_small] = v
            n_small += 1
        else:
            large[n_large] = v
            n_large += 1
    while n_small > 0 and n_large > 0:
        n_small -= 1
        low, high = small[n_small], large[n_large - 1]
        aliases_V[low] = high
        scaled_V[high] -= 1.0 - scaled_V[low]
        if scaled_V[high] < 1.0:
            n_large -= 1
            small[n_small] = high
            n_small += 1
    for index in range(n_large):
        scaled_V[large[index]] = 1.0
    for index in range(n_small):  # a rounding error away from 1
        scaled_V[small[index]] = 1.0


@kernel
def _mix(state: Any) -> Any:
    """Return the random 64 bits of a state of SplitMix64.

    Steele et al. 2014, doi:10.1145/2714064.2660195.
    """
    z = (state ^ (state >> np.uint64(30))) * MIX_1
    z = (z ^ (z >> np.uint64(27))) * MIX_2
    return z ^ (z >> np.uint64(31))


@fastmath_kernel(
    int64,
    int64,
    input_array(int64),
    input_array(int32),
    input_array(uint64),
    input_array(uint32),
    input_array(int32),
    int64,
    boolean,
    int64,
    float32,
    float32,
    uint64,
    output_array(float32, 2),
    output_array(float32, 2),
    output_array(float64),
)
def train_sequences(
    first: int,
    stop: int,
    offsets: NDArray[np.int64],
    codes: Codes,
    keep_V: NDArray[np.uint64],
    thresholds_V: NDArray[np.uint32],
    aliases_V: Codes,
    window: int,
    is_forward: bool,
    num_negatives: int,
    first_rate: float,
    last_rate: float,
    seed: int,
    inputs_VD: Scores,
    outputs_VD: Scores,
    loss: NDArray[np.float64],
) -> None:
    """Take a step for each pair of the sequences ``first`` to ``stop``, in order.

    Add the loss of some pairs to ``loss[0]`` and their number to ``loss[1]``.

    Args:
        keep_V: probabilities of keeping a position, times 2³².
        thresholds_V: with ``aliases_V``, the distribution of negatives; see :func:`alias_table`.
        first_rate: learning rate at the first position.
        last_rate: learning rate after the last position.
        seed: initial state of the random numbers.
    """
    width, n_codes = inputs_VD.shape[1], np.uint64(len(inputs_VD))
    longest: Any = np.diff(offsets[first : stop + 1]).max() if stop > first else 0
    kept, positions, gradient_D = np.empty(longest, np.int64), np.empty(longest, np.int64), np.empty(width, np.float32)
    state, n_pairs, total = np.uint64(seed), 0, 0.0
    begin, slope = offsets[first], (last_rate - first_rate) / max(offsets[stop] - offsets[first], 1)
    for s in range(first, stop):
        length = 0
        for position in range(offsets[s], offsets[s + 1]):
            state += GOLDEN
            if (_mix(state) >> np.uint64(32)) < keep_V[codes[position]]:
                kept[length], positions[length] = codes[position], position
                length += 1
        for i in range(length):
            rate = np.float32(first_rate + slope * (positions[i] - begin))
            state += GOLDEN
            reach: Any = 1 + np.int64(((_mix(state) >> np.uint64(32)) * np.uint64(window)) >> np.uint64(32))
            start: int = i + 1 if is_forward else max(i - reach, 0)
            input_D = inputs_VD[kept[i]]
            for j in range(start, min(i + reach + 1, length)):
                if j == i:
                    continue
                is_measured = n_pairs % LOSS_EVERY == 0
                n_pairs += 1
                gradient_D[:] = np.float32(0.0)
                for k in range(num_negatives + 1):
                    code = kept[j]
                    if k > 0:
                        state += GOLDEN
                        bits = _mix(state)
                        column = np.int64(((bits >> np.uint64(32)) * n_codes) >> np.uint64(32))
                        code = column if (bits & LOW_BITS) < thresholds_V[column] else np.int64(aliases_V[column])
                        if code == kept[j]:
                            continue
                    output_D = outputs_VD[code]
                    x: Any = np.float32(0.0)
                    for d in range(width):
                        x += input_D[d] * output_D[d]
                    # the error of the predicted probability that the pair is real
                    error = np.float32(1.0 if k == 0 else 0.0) - np.float32(1.0) / (np.float32(1.0) + exp(-x))
                    if is_measured:
                        signed = x if k == 0 else -x
                        total += log1p(exp(-abs(signed))) + max(-signed, np.float32(0.0))
                    step = rate * error
                    for d in range(width):
                        gradient_D[d] += step * output_D[d]
                        output_D[d] += step * input_D[d]
                for d in range(width):
                    input_D[d] += gradient_D[d]
    loss[0] += total
    loss[1] += (n_pairs + LOSS_EVERY - 1) // LOSS_EVERY
