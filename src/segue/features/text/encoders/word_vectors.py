"""Encode texts as means of pretrained word vectors.

GloVe (Pennington et al. 2014), word2vec (Mikolov et al. 2013, arXiv:1310.4546) and fastText (Bojanowski et al. 2017,
arXiv:1607.04606): any text file in their formats, or a Python package; see
:mod:`segue.features.text.word_vector_files`. Words are weighted as in :mod:`segue.features.text.word_average`, by their
frequency in the catalog's texts; words that the catalog does not have can still be encoded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Literal

from annotated_types import Ge

from segue.core.messages import warn
from segue.core.run import Run
from segue.features.text.encoder import FileOrPackage
from segue.features.text.word_average import WordAverageEncoder, WordAverageSettings
from segue.features.text.word_vector_files import DEFAULT_PACKAGE, VectorSource, WordTable, find_word_vectors

__all__ = ["WordVectorEncoder"]

MIN_KNOWN_SHARE = 0.5
"""Below this share of known words, a warning is issued."""


class WordVectorEncoder(WordAverageEncoder):
    """Average pretrained word vectors."""

    class Config(WordAverageSettings):
        """Settings of ``word_vectors``."""

        vectors: FileOrPackage = DEFAULT_PACKAGE
        """Text file of word vectors (GloVe, word2vec, fastText; may end with ``.gz``), or name of an installed package
        that contains them."""
        max_words: Annotated[int, Ge(1)] | None = None
        """Number of words to read from the file, which usually begins with the most frequent; none: all."""
        word_form: Literal["surface", "lemma"] = "surface"
        """What a word is reduced to: nothing (``surface``) or its dictionary form (``lemma``); no stems."""

    config: Config

    @cached_property
    def _source(self) -> VectorSource:
        return find_word_vectors(self.config.vectors)

    @property
    def table(self) -> WordTable:
        """Words and vectors of the file."""
        return self._source.read(self.config.max_words)

    @property
    def size(self) -> int:
        """Length of a vector, D."""
        return self._source.size()

    def source_digest(self) -> str:
        """Return a hash of the file or package."""
        return self._source.digest()

    def learn_words(self, documents: Sequence[Sequence[str]], counts: Mapping[str, int], run: Run) -> None:
        """Check that the file has vectors of the catalog's words.

        Raises:
            ValueError: it has none.
        """
        total = sum(counts.values())
        unknown = {token: count for token, count in counts.items() if not self._find(token)}
        known_share = 1.0 - sum(unknown.values()) / total if total else 0.0
        frequent = ", ".join(sorted(unknown, key=lambda token: (-unknown[token], token))[:5])
        if known_share == 0.0:
            raise ValueError(
                f"text.options.vectors: none of the {total:,} words of the texts has a vector in {self.config.vectors}"
                + (f" (most frequent: {frequent})" if frequent else "")
            )
        if known_share < MIN_KNOWN_SHARE:
            warn(
                f"text.options.vectors: only {known_share:.0%} of the {total:,} words of the texts have a vector in "
                f"{self.config.vectors}; the most frequent others: {frequent}; check the language and word_form"
            )
