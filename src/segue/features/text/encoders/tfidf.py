"""TF-IDF: weighted word counts, reduced by a singular value decomposition.

This is latent semantic analysis (Deerwester et al. 1990). A word occurring ``tf`` times in a text has the weight
``(1 + ln tf) (ln((1 + N) / (1 + df)) + 1)``, where ``df`` of the N texts contain it; rows have unit length. The
singular vectors of the largest singular values map rows to vectors, which have unit length again: the cosine of two
texts is the product of their vectors.

Shapes: N texts, W words, D numbers per vector.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray
from pydantic import model_validator
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds

from segue.core.messages import warn
from segue.core.model import StateArrays
from segue.core.model_arrays import load_array
from segue.core.run import Run
from segue.features.text.encoder import TextEncoder, Vectors
from segue.features.text.pipeline import TextPipeline, TextPipelineSettings, pack_json, unpack_json

__all__ = ["Tfidf", "TfidfWeights"]

FEW_WORDS, FEW_SHARE = 10, 0.2
"""Below this number and share of the words of the texts, a warning is issued."""

Count = Annotated[int, Ge(1)]
Share = Annotated[float, Gt(0), Le(1)]


class TfidfSettings(TextPipelineSettings):
    """Settings of the TF-IDF encoder."""

    word_form: Literal["surface", "stem", "lemma"] = "stem"
    """What a word is reduced to: nothing (``surface``), its Snowball stem, or its dictionary form (``lemma``)."""
    size: Annotated[int, Ge(1)] = 128
    """Length of a vector; shorter if there are fewer words or texts."""
    min_texts: Annotated[int, Ge(1)] = 2
    """Words in fewer texts are ignored."""
    max_share: Share = 0.5
    """Words in a greater share of the texts are ignored."""
    max_words: Annotated[int, Ge(1)] = 50_000
    """Number of words; those in the most texts are used."""
    sublinear: bool = True
    """Whether the weight of a word grows with the logarithm of its count, rather than with its count."""
    idf: bool = True
    """Whether rare words have greater weights."""
    singular_value_power: Annotated[float, Ge(0), Le(1)] = 1.0
    """Power of the singular values in the vectors: 1 keeps the cosines of TF-IDF as far as possible, 0 gives all
    dimensions the same variance."""

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        if self.size > self.max_words:
            raise ValueError(f"size: got {self.size}, expected at most max_words ({self.max_words})")
        return self


class TfidfWeights:
    """Vocabulary and inverse document frequencies.

    They map tokens to sparse rows of unit length.
    """

    def __init__(self, words: Sequence[str], idf_W: NDArray[np.float32], sublinear: bool) -> None:
        self.words = tuple(words)
        self.idf_W = idf_W
        self.sublinear = sublinear
        self._code = {word: code for code, word in enumerate(self.words)}

    @classmethod
    def learn(
        cls, documents: Sequence[Sequence[str]], min_texts: int, max_share: float, max_words: int, sublinear: bool
    ) -> Self:
        """Count the texts of each token.

        The most frequent tokens come first, those of equal frequency in alphabetical order.
        """
        counts = Counter(token for tokens in documents for token in set(tokens))
        limit = max_share * len(documents)
        frequent = [(-count, word) for word, count in counts.items() if min_texts <= count <= max(limit, 1)]
        words = [word for _, word in sorted(frequent)[:max_words]]
        df_W = np.array([counts[word] for word in words], np.float64)
        return cls(words, (np.log((1 + len(documents)) / (1 + df_W)) + 1).astype(np.float32), sublinear)

    def transform(self, documents: Iterable[Sequence[str]]) -> csr_array:
        """Return one row of unit length per text, ``(N, W)``.

        A row without known words is empty.
        """
        indices: list[int] = []
        counts: list[int] = []
        offsets = [0]
        for tokens in documents:
            row = Counter(self._code[token] for token in tokens if token in self._code)
            indices += row.keys()
            counts += row.values()
            offsets.append(len(indices))
        tf_T = np.array(counts, np.float32)
        weights_T = (1 + np.log(tf_T) if self.sublinear else tf_T) * self.idf_W[np.array(indices, np.int64)]
        rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        norms_N = np.sqrt(np.bincount(rows, np.square(weights_T, dtype=np.float64), len(offsets) - 1))
        weights_T = weights_T / norms_N[rows]
        shape = (len(offsets) - 1, len(self.words))
        return csr_array((weights_T.astype(np.float32), np.array(indices, np.int64), np.array(offsets)), shape=shape)


class Tfidf(TextEncoder):
    """TF-IDF with a truncated singular value decomposition."""

    Config = TfidfSettings
    config: TfidfSettings

    def __init__(self, config: TfidfSettings) -> None:
        super().__init__(config)
        self._pipeline = TextPipeline(config)
        self._weights = TfidfWeights((), np.zeros(0, np.float32), config.sublinear)
        self._basis_WD: NDArray[np.float32] = np.zeros((0, 0), np.float32)

    def fit(self, texts: Sequence[str], run: Run) -> None:
        """Learn vocabulary, document frequencies and singular vectors.

        Raises:
            ValueError: no word remains, with the numbers of texts and words and the settings that exclude them.
        """
        config = self.config
        documents = self._pipeline.fit(texts)(texts)
        weights = TfidfWeights.learn(
            documents, config.min_texts, config.max_share, config.max_words, sublinear=config.sublinear
        )
        distinct = len({token for tokens in documents for token in tokens})
        if 0 < len(weights.words) < min(FEW_WORDS, FEW_SHARE * distinct):
            warn(
                f"tfidf: only {len(weights.words)} of {distinct:,} words of {len(texts):,} texts are in at least "
                f"min_texts={config.min_texts} texts and at most max_share={config.max_share} of them, so vectors have "
                "few dimensions; lower min_texts or raise max_share"
            )
        if not weights.words:
            raise ValueError(
                f"tfidf: none of {distinct:,} words of {len(texts):,} texts is in at least min_texts="
                f"{config.min_texts} texts and at most max_share={config.max_share} of them; lower min_texts or raise "
                "max_share"
            )
        if not config.idf:
            weights.idf_W = np.ones_like(weights.idf_W)
        self._weights = weights
        self._basis_WD = self._decompose(weights.transform(documents), run)

    def _decompose(self, rows_NW: csr_array, run: Run) -> NDArray[np.float32]:
        """Return the scaled singular vectors of the words.

        Rows times these vectors have the variances that ``singular_value_power`` determines.
        """
        size = min(self.config.size, *rows_NW.shape)
        matrix = rows_NW.astype(np.float64)
        if size < min(rows_NW.shape):
            start = run.rng("tfidf").normal(size=min(rows_NW.shape))
            _, values_D, basis_DW = svds(matrix, k=size, v0=start, solver="arpack")
            values_D, basis_DW = values_D[::-1], basis_DW[::-1]
        else:
            _, values_D, basis_DW = np.linalg.svd(matrix.toarray(), full_matrices=False)
        is_used = values_D > values_D[0] * 1e-6
        values_D, basis_DW = values_D[is_used], basis_DW[is_used]
        signs_D = np.sign(basis_DW[np.arange(len(basis_DW)), np.abs(basis_DW).argmax(1)])
        scale_D = signs_D * (values_D / values_D[0]) ** (self.config.singular_value_power - 1)
        return np.ascontiguousarray((basis_DW * scale_D[:, None]).T, np.float32)

    @property
    def size(self) -> int:
        """Length of a vector, D."""
        return int(self._basis_WD.shape[1])

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return one vector of unit length per text, ``(N, D)``.

        It is NaN for a text without known words.
        """
        vectors_ND = np.asarray(self._weights.transform(self._pipeline(texts)) @ self._basis_WD, np.float32)
        norms_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
        vectors_ND[norms_N1[:, 0] <= 1e-6] = np.nan
        vectors_ND /= np.maximum(norms_N1, 1e-6)
        return vectors_ND

    def source_digest(self) -> str:
        """Return the versions of the libraries that split and reduce words."""
        return self._pipeline.library_versions()

    def arrays(self) -> StateArrays:
        """Return vocabulary, document frequencies, singular vectors and phrases."""
        return {
            "words": pack_json(self._weights.words),
            "idf": self._weights.idf_W,
            "basis": self._basis_WD,
            **self._pipeline.arrays(),
        }

    def restore(self, arrays: StateArrays) -> None:
        """Load what :meth:`arrays` returned."""
        words: Any = unpack_json(arrays, "words")
        idf_W = load_array(arrays, "idf", (len(words),), np.float32)
        self._basis_WD = load_array(arrays, "basis", (len(words), None), np.float32)
        self._weights = TfidfWeights(words, idf_W, self.config.sublinear)
        self._pipeline.restore(arrays)
