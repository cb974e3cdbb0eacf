"""Encode texts as weighted means of word vectors.

With SIF weights, a word whose share of all words is p weighs ``a / (a + p)``, and the projection of the mean onto the
main directions of all texts, which frequent words determine, is removed (Arora et al. 2017, "A Simple but
Tough-to-Beat Baseline for Sentence Embeddings").

Shapes: N texts, W words, D dimensions, T tokens, K removed directions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import NDArray
from pydantic import model_validator
from scipy.sparse import csr_array

from segue.core.config import reject_unused
from segue.core.model import StateArrays
from segue.core.model_arrays import load_array
from segue.core.run import Run
from segue.features.text.encoder import TextEncoder, Vectors
from segue.features.text.pipeline import TextPipeline, TextPipelineSettings, pack_json, unpack_json
from segue.features.text.word_vector_files import WordTable

__all__ = ["WordAverageEncoder", "WordAverageSettings"]

ROUNDING = 1e-6
"""Norms and singular values below this share of the largest are rounding errors."""


class WordAverageSettings(TextPipelineSettings):
    """Settings of encoders that average word vectors."""

    weighting: Literal["sif", "uniform"] = "sif"
    """``sif``: words that are frequent in the catalog's texts weigh less; ``uniform``: all words weigh the same."""
    sif_smoothing: Annotated[float, Gt(0)] = 1e-3
    """Share of all words at which the weight of a word is one half."""
    remove_components: Annotated[int, Ge(0)] = 1
    """Number of main directions of the catalog's texts that are removed from each vector."""
    normalize: bool = True
    """Whether vectors have length 1."""

    @model_validator(mode="after")
    def _check_weighting(self) -> Self:
        reject_unused(self, {"sif_smoothing": (self.weighting == "sif", "weighting='sif'")})
        return self


class WordAverageEncoder(TextEncoder):
    """Average the vectors of the words of a text."""

    config: WordAverageSettings

    def __init__(self, config: WordAverageSettings) -> None:
        super().__init__(config)
        self._pipeline = TextPipeline(config)
        self._set_counts({})
        self._components_KD: NDArray[np.float32] | None = None

    @property
    @abstractmethod
    def table(self) -> WordTable:
        """Words and their vectors."""

    @abstractmethod
    def learn_words(self, documents: Sequence[Sequence[str]], counts: Mapping[str, int], run: Run) -> None:
        """Learn from tokens before :attr:`table` is used.

        Args:
            documents: tokens of the catalog's texts.
            counts: number of occurrences of each token.
            run: provides random streams and progress.
        """

    def fit(self, texts: Sequence[str], run: Run) -> None:
        """Learn word frequencies, main directions, and what a subclass learns."""
        documents = self._pipeline.fit(texts)(texts)
        counts = Counter(token for tokens in documents for token in tokens)
        self.learn_words(documents, counts, run)
        self._set_counts({token: count for token, count in counts.items() if self._find(token)})
        self._components_KD = None
        means_ND = self._average(documents)
        self._components_KD = _main_directions(means_ND, self.config.remove_components)

    def _set_counts(self, counts: Mapping[str, int]) -> None:
        """Set the occurrences of tokens that have vectors."""
        self._counts = dict(sorted(counts.items()))
        self._total = max(sum(self._counts.values()), 1)

    @property
    def size(self) -> int:
        """Length of a vector, D."""
        return int(self.table.vectors_WD.shape[1])

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return one vector per text, ``(N, D)``.

        A text without a word that has a vector gets NaN.
        """
        if self._components_KD is None:
            raise ValueError(f"{type(self).__name__}: the text encoder has not been fitted")
        vectors_ND = self._average(self._pipeline(texts))
        vectors_ND = vectors_ND - (vectors_ND @ self._components_KD.T) @ self._components_KD
        if self.config.normalize:
            norms_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
            vectors_ND = vectors_ND / np.where(norms_N1 == 0.0, 1.0, norms_N1)
        return vectors_ND.astype(np.float32)

    def _find(self, token: str) -> list[int]:
        """Return the rows of a token.

        They are its own, in lower case if need be, or those of the words of a phrase.
        """
        codes = self.table.codes
        for form in (token, token.lower()):
            if form in codes:
                return [codes[form]]
        return [row for part in token.split("_") for row in self._find(part)] if "_" in token.strip("_") else []

    def _average(self, documents: Sequence[Sequence[str]]) -> NDArray[np.float64]:
        """Return the weighted mean vectors of tokens, ``(N, D)``.

        They are NaN without a known token.
        """
        found: dict[str, tuple[list[int], float]] = {}
        rows: list[int] = []
        weights: list[float] = []
        offsets = [0]
        for tokens in documents:
            for token in tokens:
                if token not in found:
                    found[token] = self._find(token), self._weight(token)
                codes, weight = found[token]
                rows += codes
                weights += [weight] * len(codes)
            offsets.append(len(rows))
        vectors_WD = self.table.vectors_WD
        used, columns = np.unique(np.array(rows, np.int64), return_inverse=True)
        offsets_N = np.array(offsets, np.int64)
        shape = (len(documents), len(used))
        matrix_NW = csr_array((np.array(weights, np.float64), columns.astype(np.int64), offsets_N), shape=shape)
        sums_ND = np.asarray(matrix_NW @ np.asarray(vectors_WD[used], np.float64))
        totals_N1 = np.asarray(matrix_NW.sum(axis=1), np.float64).reshape(-1, 1)
        return np.divide(sums_ND, totals_N1, out=np.full_like(sums_ND, np.nan), where=totals_N1 > 0)

    def _weight(self, token: str) -> float:
        """Return the weight of a token; tokens new to the catalog are the rarest."""
        if self.config.weighting == "uniform":
            return 1.0
        share = self._counts.get(token, 0) / self._total
        return self.config.sif_smoothing / (self.config.sif_smoothing + share)

    def arrays(self) -> StateArrays:
        """Return word counts, removed directions and phrases."""
        if self._components_KD is None:
            return {}
        counts = np.array(list(self._counts.values()), np.int64)
        return {
            "counted_words": pack_json(list(self._counts)),
            "counts": counts,
            "components": self._components_KD,
            **self._pipeline.arrays(),
        }

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.features.text.encoder.TextEncoder.restore`."""
        words: list[str] = unpack_json(arrays, "counted_words")
        counts = load_array(arrays, "counts", (len(words),), np.int64)
        self._set_counts(dict(zip(words, counts.tolist(), strict=True)))
        self._components_KD = load_array(arrays, "components", (None, self.size), np.float32)
        self._pipeline.restore(arrays)


def _main_directions(means_ND: NDArray[np.float64], count: int) -> NDArray[np.float32]:
    """Return the ``(K, D)`` main directions of rows.

    There are fewer if nothing else would be left of the rows.
    """
    known_ND = means_ND[np.isfinite(means_ND).all(axis=1)]
    squares_D, vectors_DD = np.linalg.eigh(known_ND.T @ known_ND)
    rank = int((squares_D > ROUNDING**2 * squares_D.max(initial=0.0)).sum())
    chosen = vectors_DD[:, ::-1][:, : max(min(count, rank - 1), 0)].T
    signs_K = np.sign(chosen[np.arange(len(chosen)), np.abs(chosen).argmax(axis=1)])
    return np.ascontiguousarray(chosen * signs_K[:, None], np.float32)
