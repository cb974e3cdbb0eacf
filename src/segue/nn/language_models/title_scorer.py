"""Score titles that may follow a history of titles, with a language model.

See :mod:`segue.models.hybrid.llm` for the methods.

Shapes: C candidates.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from segue.nn.language_models.clock import Clock, NotScored
from segue.nn.language_models.language_model import LanguageModel
from segue.nn.language_models.prompts import clean_title, fill_prompt

__all__ = ["ScorerSettings", "TitleScorer"]

Numbers = NDArray[np.float64]
Method: TypeAlias = Literal["likelihood", "pointwise", "listwise"]

LETTERS = string.ascii_uppercase
ANSWERS = ("Yes", "No")
MAX_PRIORS = 1_000_000
"""Number of titles whose log-probability without a history is kept."""


@dataclass(frozen=True)
class ScorerSettings:
    """How titles are scored; see the settings of :mod:`segue.models.hybrid.llm`."""

    method: Method
    prompt: str
    separator: str
    chat: bool
    max_tokens: int
    calibration: bool
    length_normalization: bool
    permutations: int


class TitleScorer:
    """Scores titles by their probability after a history."""

    def __init__(self, model: LanguageModel, settings: ScorerSettings) -> None:
        self.model, self.settings = model, settings
        self._limit = min(settings.max_tokens, model.max_tokens)
        self._priors: dict[str, float] = {}

    def score(self, history: Sequence[str], candidates: Sequence[str], clock: Clock) -> Numbers:
        """Return the scores of the candidates, ``(C,)``; higher is more probable.

        Args:
            history: at least one title, oldest first, cleaned by :func:`segue.nn.language_models.prompts.clean_title`.
            candidates: at least one title, cleaned likewise.

        Raises:
            NotScored: the time does not suffice, or the candidates do not fit in the prompt.
        """
        special = self.model.special_tokens
        history, candidates = ([clean_title(title, special) or "?" for title in one] for one in (history, candidates))
        if self.settings.method == "pointwise":
            return np.array([self._log_odds(history, candidate, clock) for candidate in candidates])
        if self.settings.method == "listwise":
            return self._score_letters(history, candidates, clock)
        prompt = self._fit_prompt(history, {}, candidates)
        found_C = self._log_likelihoods(prompt, candidates, clock)
        if self.settings.calibration:
            found_C = found_C - self._log_priors(candidates, clock)
        if self.settings.length_normalization:
            found_C = found_C / [len(tokens) for tokens in self.model.encode_continuations(prompt, candidates)]
        return found_C

    def _log_likelihoods(self, prompt: str, texts: Sequence[str], clock: Clock) -> Numbers:
        continuations = self.model.encode_continuations(prompt, texts)
        return self.model.log_likelihoods(self.model.encode_prompt(prompt), continuations, clock.before_pass)

    def _log_priors(self, candidates: Sequence[str], clock: Clock) -> Numbers:
        """Return the log-probabilities of titles without a history, ``(C,)``."""
        if missing := [title for title in dict.fromkeys(candidates) if title not in self._priors]:
            found = self._log_likelihoods(self._render([], {}), missing, clock)
            if len(self._priors) > MAX_PRIORS:
                self._priors = {}
                return self._log_priors(candidates, clock)
            self._priors |= dict(zip(missing, found.tolist(), strict=True))
        return np.array([self._priors[title] for title in candidates])

    def _log_odds(self, history: Sequence[str], candidate: str, clock: Clock) -> float:
        """Return the log-odds of "Yes" for one candidate."""
        prompt = self._fit_prompt(history, {"candidate": candidate}, ANSWERS)
        yes, no = self._log_likelihoods(prompt, ANSWERS, clock)
        return float(yes - no)

    def _score_letters(self, history: Sequence[str], candidates: Sequence[str], clock: Clock) -> Numbers:
        """Return the log-probabilities of letters, mean over orders, ``(C,)``."""
        letters, count = LETTERS[: len(candidates)], self.settings.permutations
        seed = hashlib.blake2b("\n".join(history).encode(), digest_size=8).digest()
        rng = np.random.default_rng(int.from_bytes(seed, "big"))
        found_C = np.zeros(len(candidates))
        for number in range(count):
            order = rng.permutation(len(candidates)) if number else np.arange(len(candidates))
            lines = [f"{letter}. {candidates[index]}" for letter, index in zip(letters, order.tolist(), strict=True)]
            prompt = self._fit_prompt(history, {"candidates": "\n".join(lines)}, letters)
            found_C[order] += self._log_likelihoods(prompt, letters, clock)
        return found_C / count

    def _render(self, history: Sequence[str], values: Mapping[str, str]) -> str:
        """Return the prompt."""
        titles = self.settings.separator.join(history)
        prompt = fill_prompt(self.settings.prompt, {"history": titles, **values})
        return self.model.as_chat(prompt) if self.settings.chat else prompt

    def _fit_prompt(self, history: Sequence[str], values: Mapping[str, str], continuations: Sequence[str]) -> str:
        """Return the prompt with as many of the newest titles as fit.

        The newest title is cut if it alone does not fit.

        Raises:
            NotScored: the prompt does not fit without a history.
        """

        def render(titles: Sequence[str]) -> str | None:
            prompt = self._render(titles, values)
            longest = max(map(len, self.model.encode_continuations(prompt, continuations)))
            return prompt if len(self.model.encode_prompt(prompt)) + longest <= self._limit else None

        found = render(history)
        low, high = 0, len(history)
        while found is None and high - low > 1:  # the newest `low` titles fit, the newest `high` ones do not
            middle = (low + high) // 2
            low, high = (low, middle) if render(history[-middle:]) is None else (middle, high)
        if found is None:
            found = render(history[-low:]) if low else self._cut_title(history[-1], render)
        if found is None:
            raise NotScored("tokens")
        return found

    def _cut_title(self, title: str, render: Callable[[Sequence[str]], str | None]) -> str | None:
        """Return the prompt with the beginning of one title, if any fits."""
        low, high, found = 0, len(title), None
        while high - low > 1:  # the first `low` characters fit, the first `high` do not
            middle = (low + high) // 2
            beginning = title[:middle].strip()
            prompt = render([beginning]) if beginning else None
            low, high = (low, middle) if prompt is None else (middle, high)
            found = found if prompt is None else prompt
        return found
