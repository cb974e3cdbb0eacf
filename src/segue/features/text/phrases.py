"""Find phrases: pairs of words that stand together more often than by chance.

The measure is the normalized pointwise mutual information of two adjacent words (Bouma 2009), from -1 to 1:
``ln(p(a, b) / (p(a) p(b))) / -ln p(a, b)``. It is 0 for independent words and 1 for words that occur only together.
The second pass joins phrases of the first one, so that a phrase has up to four words.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Self

__all__ = ["Phrases"]

PASSES = 2

JOIN = "_"
"""Character between the words of a phrase."""

Pairs = frozenset[tuple[str, str]]


class Phrases:
    """Pairs of words that are joined to one token, for each pass."""

    def __init__(self, passes: Sequence[Pairs] = ()) -> None:
        self.passes = tuple(passes)

    @classmethod
    def learn(cls, documents: Iterable[Sequence[str]], min_count: int, min_npmi: float) -> Self:
        """Find the phrases in ``documents``, which are lists of tokens.

        Args:
            min_count: smallest number of occurrences of a phrase.
            min_npmi: smallest normalized pointwise mutual information, from -1 to 1.
        """
        found: list[Pairs] = []
        current = [list(tokens) for tokens in documents]
        for _ in range(PASSES):
            pairs = _find_pairs(current, min_count, min_npmi)
            if not pairs:
                break
            found.append(pairs)
            current = [_join(tokens, pairs) for tokens in current]
        return cls(found)

    def apply(self, tokens: Sequence[str]) -> list[str]:
        """Join the phrases in ``tokens``, from left to right."""
        joined = list(tokens)
        for pairs in self.passes:
            joined = _join(joined, pairs)
        return joined

    def to_json(self) -> list[list[list[str]]]:
        """Return the pairs of each pass as lists, sorted."""
        return [[list(pair) for pair in sorted(pairs)] for pairs in self.passes]

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Create the phrases that :meth:`to_json` returned."""
        return cls([frozenset((str(first), str(second)) for first, second in pairs) for pairs in value])


def _find_pairs(documents: Sequence[Sequence[str]], min_count: int, min_npmi: float) -> Pairs:
    words = Counter(token for tokens in documents for token in tokens)
    pairs = Counter(pair for tokens in documents for pair in pairwise(tokens))
    total = words.total()

    def npmi(pair: tuple[str, str], count: int) -> float:
        expected = words[pair[0]] * words[pair[1]] / total
        return math.log(count / expected) / -math.log(count / total)

    return frozenset(pair for pair, count in pairs.items() if count >= min_count and npmi(pair, count) >= min_npmi)


def _join(tokens: Sequence[str], pairs: Pairs) -> list[str]:
    joined: list[str] = []
    position = 0
    while position < len(tokens):
        pair = tuple(tokens[position : position + 2])
        if pair in pairs:
            joined.append(JOIN.join(pair))
            position += 2
        else:
            joined.append(tokens[position])
            position += 1
    return joined
