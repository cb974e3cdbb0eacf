"""Encode texts as means of word vectors learned from the catalog's texts.

The vectors are those of word2vec: skip-gram with negative sampling (Mikolov et al. 2013, arXiv:1310.4546), see
:mod:`segue.solvers.skip_gram`. Words are weighted as in :mod:`segue.features.text.word_average`. Words that occur fewer
than ``min_count`` times are ignored.

Shapes: W words, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le

from segue.core.model import StateArrays
from segue.core.model_arrays import load_array
from segue.core.run import Run
from segue.features.text.pipeline import pack_json, unpack_json
from segue.features.text.word_average import WordAverageEncoder, WordAverageSettings
from segue.features.text.word_vector_files import WordTable
from segue.solvers.skip_gram import SkipGram, SkipGramOptions

__all__ = ["Word2VecEncoder"]


class Word2VecEncoder(WordAverageEncoder):
    """Train word vectors on the catalog's texts, and average them."""

    class Config(WordAverageSettings):
        """Settings of ``word2vec``."""

        size: Annotated[int, Ge(1)] = 100
        """Length of a vector."""
        epochs: Annotated[int, Ge(1)] = 20
        """Number of passes over all texts."""
        window: Annotated[int, Ge(1)] = 5
        """Maximum distance of two words of a pair; the window of each word is drawn from 1 to this."""
        num_negatives: Annotated[int, Ge(1)] = 5
        """Negatives per pair."""
        sampler_alpha: Annotated[float, Ge(-2), Le(2)] = 0.75
        """Exponent of word counts in the distribution of negatives; 0: uniform, 1: by count."""
        subsample: Annotated[float, Ge(0)] = 1e-3
        """Words with a larger share of all words are dropped at random in each pass; 0: none."""
        min_count: Annotated[int, Ge(1)] = 2
        """Words that occur less often are ignored."""
        learning_rate: Annotated[float, Gt(0)] = 0.025
        """Step size at the start; it falls linearly to 0.4 % of this."""
        num_threads: Annotated[int, Ge(1)] = 1
        """Threads that update the vectors without locks; with more than one, training is not reproducible."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._table = WordTable({}, np.zeros((0, config.size), np.float32))

    @property
    def table(self) -> WordTable:
        """Learned words and vectors; the most frequent words come first."""
        return self._table

    def learn_words(self, documents: Sequence[Sequence[str]], counts: Mapping[str, int], run: Run) -> None:
        """Train the word vectors.

        Raises:
            ValueError: no word is frequent enough, or training diverged.
        """
        config = self.config
        words = sorted((word for word in counts if counts[word] >= config.min_count), key=lambda w: (-counts[w], w))
        if not words:
            raise ValueError(
                f"word2vec: none of {len(counts):,} words of {len(documents):,} texts occurs at least "
                f"min_count={config.min_count} times; use a lower min_count or more text"
            )
        codes = {word: code for code, word in enumerate(words)}
        rows = [[codes[token] for token in tokens if token in codes] for tokens in documents]
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
        sequence = np.fromiter((code for row in rows for code in row), np.int32, int(offsets[-1]))
        options = SkipGramOptions(
            size=config.size,
            epochs=config.epochs,
            window=config.window,
            num_negatives=config.num_negatives,
            sampler_alpha=config.sampler_alpha,
            subsample=config.subsample,
            learning_rate=config.learning_rate,
            num_threads=config.num_threads,
        )
        trainer = SkipGram(offsets, sequence, len(words), options, run.rng("word2vec/init"))
        with run.progress(config.epochs, "word2vec", "epochs") as progress:
            for epoch in range(config.epochs):
                loss = trainer.run_epoch(epoch, run.rng(f"word2vec/{epoch}"))
                if not (np.isfinite(loss) and np.isfinite(trainer.inputs_VD).all()):
                    raise ValueError(
                        f"text.options.learning_rate: got {config.learning_rate:g}, and training of word2vec diverged; "
                        "use a smaller one"
                    )
                progress(1, f"loss {loss:.4f}")
        self._table = WordTable(codes, trainer.inputs_VD)

    def arrays(self) -> StateArrays:
        """Return words and vectors, and what every average of word vectors learns."""
        found = super().arrays()
        return found and {"words": pack_json(list(self._table.codes)), "vectors": self._table.vectors_WD, **found}

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.features.text.encoder.TextEncoder.restore`."""
        words: list[str] = unpack_json(arrays, "words")
        vectors_WD = load_array(arrays, "vectors", (len(words), self.config.size), np.float32)
        self._table = WordTable({word: code for code, word in enumerate(words)}, vectors_WD)
        super().restore(arrays)
