"""Rerank the best items of a base model with a pretrained language model.

The language model reads the titles of the history and of the candidates in a prompt, as RecGPT (Ngo and Nguyen 2024,
arXiv:2405.12715), P5 (Geng et al. 2022, arXiv:2203.13366) and LLMRank (Hou et al. 2024, arXiv:2305.08845) do. No text
is generated: candidates are scored by probabilities, which are deterministic and need no parsing.

* ``likelihood``: the log-probability of the candidate's title after the prompt. With calibration, the log-probability
  without the history is subtracted, so that common titles have no advantage (Holtzman et al. 2021, arXiv:2104.08315).
* ``pointwise``: log-odds of "Yes" against "No" for each candidate (TALLRec, Bao et al. 2023, arXiv:2305.00447).
* ``listwise``: all candidates are in the prompt, each with a letter; the score is the log-probability of the letter
  (FIRST, Reddy et al. 2024, arXiv:2406.15657), the mean over several orders of the candidates, because language models
  prefer some positions (Hou et al. 2024).

The scores of the base model and of the language model are standardized over the candidates and added with weights. Only
the candidates change places: they get each other's scores of the base model, so that the scores of all other items,
and filters on items, keep their meaning. Where the language model fails, or has no time, the base model's order stands.

Shapes: N queries, I items, C candidates of a query, M texts.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray
from pydantic import Field, model_validator

from segue.core.config import Settings, reject_unused
from segue.core.model import (
    FALLBACK_NOTES,
    Model,
    Recommender,
    Solver,
    StateArrays,
    Validate,
    select_candidates,
)
from segue.core.model_arrays import load_array
from segue.core.recommend import top_k
from segue.core.run import Run
from segue.core.types import Codes, DataSchema, Dataset, Queries, Scores
from segue.nn.language_models.clock import Clock, NotScored
from segue.nn.language_models.folder import find_language_model
from segue.nn.language_models.prompts import MAX_LETTERS, PROMPTS, check_prompt, clean_title
from segue.solvers.profiles.base_models import base_arrays, restore_member

if TYPE_CHECKING:
    from segue.nn.language_models.title_scorer import TitleScorer

__all__ = ["Llm"]

LOG = logging.getLogger(__name__)

Numbers = NDArray[np.float64]

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Weights among which validation chooses."""
FAILURES = (RuntimeError, MemoryError, OSError, ValueError)
"""What a language model may raise: torch for lack of memory or on a device, a folder that is gone, numbers that are not
finite. Others are programming errors."""
MAX_NOTES = 10_000
"""Number of queries whose fallback is remembered for :meth:`Llm.fallbacks`."""


class Llm(Solver):
    """Rerank the best items of a base model with a language model."""

    class Config(Settings):
        """Settings of ``llm``."""

        language_model: str = ""
        """Folder of a causal or encoder-decoder language model of transformers, with weights in safetensors. Empty: the
        base model alone, with a warning."""
        base: str = "ease"
        """Key of the model whose best items are reranked."""
        base_settings: dict[str, Any] = Field(default={})
        """Settings of the base model and of its training that differ from their defaults."""
        method: Literal["likelihood", "pointwise", "listwise"] = "likelihood"
        """``likelihood``: probability of the title; ``pointwise``: of the answer "Yes" to a prompt about it;
        ``listwise``: of its letter in a list of all candidates."""
        prompt: str = ""
        """Template with ``{history}``, and ``{candidate}`` for ``pointwise`` or ``{candidates}`` for ``listwise``.
        Empty: the default of the method."""
        separator: Annotated[str, Field(min_length=1)] = "\n"
        """Text between two titles of the history."""
        chat: bool = True
        """Whether the prompt is a message in the chat template of the tokenizer, if it has one."""
        title_column: str = "title"
        """Item feature that holds the titles."""
        candidates: Annotated[int, Ge(2), Le(1000)] = 20
        """Number of the base model's best items that are reranked; for ``listwise`` at most 26."""
        include_seen: bool = False
        """Whether items of the history are among the candidates; for logs with repeated consumption."""
        history_length: Annotated[int, Ge(1)] = 10
        """Largest number of events in the prompt, the newest ones."""
        max_tokens: Annotated[int, Ge(8)] = 512
        """Largest number of tokens of a prompt with a candidate, at most that of the language model. The oldest titles
        of the history are left out until it fits."""
        calibration: bool = True
        """Whether ``likelihood`` subtracts the log-probability of the title without the history."""
        length_normalization: bool = True
        """Whether ``likelihood`` is the mean over the tokens of a title instead of the sum."""
        permutations: Annotated[int, Ge(1)] = 1
        """Number of orders of the candidates that ``listwise`` averages over, against the bias of positions; the first
        one is that of the base model, the others are random."""
        weight: Annotated[float, Ge(0), Le(1)] | None = None
        """Weight of the language model; the base model has the rest. 0: the base model alone, and no language model is
        read. ``None``: chosen on validation, or 0.5 without it."""
        time_budget_ms: Annotated[float, Gt(0)] | None = None
        """Milliseconds in which the service must rerank a request; ``None``: half of the time to its deadline. Half of
        this time is a limit in any case. Evaluation has no limit."""
        dtype: Literal["float32", "bfloat16", "float16"] = "float32"
        """Type of the weights in memory; the smaller ones need half of it."""
        device: Literal["cpu", "cuda"] = "cpu"
        """Where the language model runs."""
        threads: Annotated[int, Ge(0)] = 0
        """Threads of torch during the computation; 0: unchanged."""

        @model_validator(mode="after")
        def _check(self) -> Self:
            if self.base == "llm":
                raise ValueError("base: got 'llm', expected another model")
            if self.prompt:
                check_prompt(self.prompt, self.method)
            is_list, is_likelihood = self.method == "listwise", self.method == "likelihood"
            if is_list and self.candidates > MAX_LETTERS:
                raise ValueError(f"candidates: got {self.candidates}, method='listwise' has {MAX_LETTERS} letters")
            reject_unused(
                self,
                {
                    "permutations": (is_list, "method='listwise'"),
                    "calibration": (is_likelihood, "method='likelihood'"),
                    "length_normalization": (is_likelihood, "method='likelihood'"),
                },
            )
            return self

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.base: Model | None = None
        self.titles: tuple[str, ...] = ()
        self.weight = 0.5 if config.weight is None else float(config.weight)
        self._digest = b""
        self._scorer: TitleScorer | None = None
        self._cache: dict[bytes, Numbers] | None = None
        self._lock = threading.Lock()
        self._fallbacks: OrderedDict[bytes, str] = OrderedDict()
        self.fallback_counts: Counter[str] = Counter()
        """Queries with the order of the base model, by reason."""

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Train the base model, and choose the weight on validation.

        Raises:
            ValueError: the folder of the language model is invalid, the data has no titles, or the base model cannot
                be trained on the data.
        """
        if self.config.language_model:
            folder = str(Path(self.config.language_model).expanduser().resolve())
            self.config = self.config.model_copy(update={"language_model": folder})
        config = self.config
        if self.is_reranking:
            self.titles = _titles(train, config.title_column)
            self._digest = find_language_model(config.language_model).digest()
            self._load()
        elif config.weight != 0:
            LOG.warning("llm: language_model is not set, so the base model '%s' ranks alone", config.base)
        self.base = run.train_part(config.base, config.base_settings, train, validate, f"base/{config.base}")
        self.schema = self.base.schema
        if validate is not None and config.language_model and config.weight is None:
            self._cache = {}
            values = {}
            for self.weight in WEIGHTS:
                values[self.weight] = next(iter(validate(self).values()))
            self._cache = None
            self.weight = max(values, key=lambda weight: values[weight])
        final = {} if validate is None else {f"valid/{name}": value for name, value in validate(self).items()}
        run.log(1, {"weight": self.weight, **final})
        restore_member(config.base, self.schema, base_arrays(self.base, config.base))  # fails now, not when opened

    @property
    def is_reranking(self) -> bool:
        """Return whether the settings have a language model that counts."""
        return bool(self.config.language_model) and self.config.weight != 0

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return the scores of the base model, with the candidates reranked."""
        return select_candidates(self.rerank(queries, None), candidates)

    def until(self, deadline: float) -> Recommender:
        """Limit the time; see :class:`segue.core.model.DeadlineAware`."""
        return _Limited(self, deadline)

    @property
    def inner_models(self) -> tuple[Model, ...]:
        """See :attr:`segue.core.model.Model.inner_models`."""
        return () if self.base is None else (self.base,)

    def fallbacks(self, queries: Queries) -> dict[int, str]:
        """Explain fallbacks; see :class:`segue.core.model.DeadlineAware`."""
        history = queries.history
        with self._lock:
            reasons = {row: self._fallbacks.get(_row_key(queries, row)) for row in range(len(history))}
        return {row: reason for row, reason in reasons.items() if reason is not None}

    def rerank(self, queries: Queries, deadline: float | None) -> Scores:
        """Return the scores of the catalog, ``(N, I)``.

        Args:
            deadline: time in the clock of :func:`time.monotonic` at which the remaining queries keep the order of the
                base model.
        """
        assert self.base is not None
        scores_NI = np.array(self.base.score(queries), np.float32)
        if self.weight == 0:
            return scores_NI
        counts: Counter[str] = Counter()
        clock = Clock(deadline)
        with _torch_threads(self.config.threads):
            for row in np.flatnonzero(queries.history.lengths).tolist():
                try:
                    self._rerank_row(scores_NI[row], queries.history.rows_between(row, row + 1).items, clock)
                    reason = None
                except NotScored as stop:
                    reason = stop.reason
                except FAILURES as error:
                    if not self.fallback_counts["error"] + counts["error"]:
                        LOG.warning("llm: the language model failed: %s: %s", type(error).__name__, error)
                    reason = "error"
                self._record(queries, row, reason)
                if reason is not None:
                    counts[reason] += 1
        self._report(counts, len(queries))
        return scores_NI

    def _rerank_row(self, scores_I: Scores, history: Codes, clock: Clock) -> None:
        """Rerank the candidates of a query in place."""
        if not self.config.language_model:
            raise NotScored("language_model")
        candidates = self._candidates(scores_I, history)
        named = candidates[[bool(self.titles[code]) for code in candidates.tolist()]]
        titles = [title for code in history[-self.config.history_length :].tolist() if (title := self.titles[code])]
        if len(named) < 2 or not titles:
            raise NotScored("titles")
        key = b"" if self._cache is None else _titles_key(titles, named)
        if self._cache is not None and key in self._cache:
            found_C = self._cache[key]
        else:
            found_C = self._load().score(titles, [self.titles[code] for code in named.tolist()], clock)
            if self._cache is not None:
                self._cache[key] = found_C
        if not np.isfinite(found_C).all():
            raise ValueError("log-probabilities are not finite")
        base_C = scores_I[named].astype(np.float64)
        mixed_C = self.weight * _standardize(found_C) + (1 - self.weight) * _standardize(base_C)
        order = np.argsort(-mixed_C, kind="stable")
        scores_I[named[order]] = _strictly_descending(scores_I[named])

    def _candidates(self, scores_I: Scores, history: Codes) -> Codes:
        """Return the best items of the base model, ``(C,)``, best first."""
        allowed_1I = scores_I[None].copy()
        if not self.config.include_seen:
            allowed_1I[0, history] = -np.inf
        if self.schema.n_unscored:
            allowed_1I[0, -self.schema.n_unscored :] = -np.inf
        best = top_k(allowed_1I, min(self.config.candidates, self.schema.n_items))
        return best.items[0, : int(best.lengths[0])]

    def _load(self) -> TitleScorer:
        """Load the language model once."""
        from segue.nn.language_models.language_model import LanguageModel
        from segue.nn.language_models.title_scorer import ScorerSettings, TitleScorer

        with self._lock:
            if self._scorer is None:
                config = self.config
                values = {name: getattr(config, name) for name in ScorerSettings.__dataclass_fields__}
                values["prompt"] = config.prompt or PROMPTS[config.method]
                model = LanguageModel(find_language_model(config.language_model), config.dtype, config.device)
                self._scorer = TitleScorer(model, ScorerSettings(**values))
            return self._scorer

    def _record(self, queries: Queries, row: int, reason: str | None) -> None:
        """Remember whether a query has the order of the base model, for :meth:`fallbacks`."""
        key = _row_key(queries, row)
        with self._lock:
            self._fallbacks.pop(key, None)
            if reason is not None:
                self._fallbacks[key] = reason
                if len(self._fallbacks) > MAX_NOTES:
                    self._fallbacks.popitem(last=False)

    def _report(self, counts: Counter[str], n_queries: int) -> None:
        """Count fallbacks; log each reason the first time."""
        with self._lock:
            new = {reason: count for reason, count in counts.items() if not self.fallback_counts[reason]}
            self.fallback_counts += counts
        for reason, count in new.items():
            LOG.warning(
                "llm: %d of %d queries keep the order of '%s': %s; later ones are counted, and not logged",
                count,
                n_queries,
                self.config.base,
                FALLBACK_NOTES[reason],
            )

    def arrays(self) -> StateArrays:
        """Return the arrays of the base model, the weight, and the titles."""
        assert self.base is not None
        return {**base_arrays(self.base, self.config.base), **self.own_arrays()}

    def own_arrays(self) -> StateArrays:
        """Return the arrays that are not of the base model."""
        found: dict[str, NDArray[Any]] = {"weight": np.array([self.weight])}
        if self.is_reranking:
            texts = [title.encode() for title in self.titles]
            found["titles"] = np.frombuffer(b"".join(texts) or b"\n", np.uint8)  # an empty array cannot be stored
            found["title_lengths"] = np.array([len(text) for text in texts], np.int64)
            found["language_model"] = np.frombuffer(self._digest, np.uint8)
        return found

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.model.Model.restore`.

        Raises:
            ValueError: also if the folder of the language model is missing, invalid or not the one of the training.
        """
        config = self.config
        self.weight = float(load_array(arrays, "weight", (1,), np.float64)[0])
        if not 0 <= self.weight <= 1:
            raise ValueError(f"array 'weight': got {self.weight}, expected a number from 0 to 1")
        self.base = restore_member(config.base, self.schema, arrays)
        self.schema = self.base.schema
        if self.is_reranking:
            lengths = load_array(arrays, "title_lengths", (self.schema.n_items,), np.int64)
            self.titles = _decode_titles(arrays, lengths)
            self._digest = load_array(arrays, "language_model", (32,), np.uint8).tobytes()
            if find_language_model(config.language_model).digest() != self._digest:
                raise ValueError(
                    f"model.language_model: {config.language_model}: its files are not those of the training; restore "
                    "them, or train the model again"
                )


class _Limited:
    """A reranker with a deadline."""

    def __init__(self, model: Llm, deadline: float) -> None:
        self.schema, self.scale = model.schema, model.scale
        self._model, self._deadline = model, deadline

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """See :meth:`segue.core.model.Recommender.score`."""
        now, budget_ms = time.monotonic(), self._model.config.time_budget_ms
        seconds = max(0.0, (self._deadline - now) / 2)  # the rest is for what follows
        if budget_ms is not None:
            seconds = min(seconds, budget_ms / 1000)
        return select_candidates(self._model.rerank(queries, now + seconds), candidates)


def _titles(train: Dataset, column: str) -> tuple[str, ...]:
    """Return the title of each item, empty if it has none.

    Raises:
        ValueError: the data has no such column of text.
    """
    import polars as pl

    schema = {} if train.item_features is None else dict(train.item_features.collect_schema())
    if not isinstance(schema.get(column), pl.String | pl.Categorical | pl.Enum):
        texts = [name for name, kind in schema.items() if isinstance(kind, pl.String) and name != "id"]
        known = f"; text columns: {', '.join(texts)}" if texts else "; it has no text columns"
        raise ValueError(f"model.title_column: the data has no item feature '{column}' with text{known}")
    assert train.item_features is not None
    values = train.item_features.select(pl.col(column).cast(pl.String)).collect().to_series()
    return tuple(clean_title(value or "") for value in values)


def _decode_titles(arrays: StateArrays, lengths: NDArray[np.int64]) -> tuple[str, ...]:
    """Return the titles from their bytes.

    Raises:
        ValueError: an array is missing, or they do not fit each other.
    """
    size = int(lengths.sum()) if (lengths >= 0).all() and lengths.max(initial=0) < 2**31 else -1
    if size < 0:
        raise ValueError("array 'title_lengths': expected numbers of at least 0")
    content = load_array(arrays, "titles", (max(1, size),), np.uint8).tobytes()
    ends = np.cumsum(lengths).tolist()
    try:
        return tuple(content[end - length : end].decode() for end, length in zip(ends, lengths.tolist(), strict=True))
    except UnicodeDecodeError as error:
        raise ValueError(f"array 'titles': expected UTF-8, {error.reason}") from None


def _row_key(queries: Queries, row: int) -> bytes:
    """Identify a query by the items of its history."""
    items = queries.history.rows_between(row, row + 1).items
    return hashlib.blake2b(np.ascontiguousarray(items, np.int32).tobytes(), digest_size=16).digest()


def _titles_key(titles: Sequence[str], candidates: Codes) -> bytes:
    """Identify what the language model scores."""
    text = "\0".join(titles).encode() + b"\0" + np.ascontiguousarray(candidates, np.int32).tobytes()
    return hashlib.blake2b(text, digest_size=16).digest()


def _standardize(values_C: Numbers) -> Numbers:
    """Return values of zero mean and unit variance, zeros if all are equal."""
    centered_C: Numbers = values_C - values_C.mean()
    deviation = float(centered_C.std())
    return centered_C / deviation if deviation > 1e-12 else np.zeros_like(values_C)


def _strictly_descending(scores_C: Scores) -> Scores:
    """Sort scores in descending order, without ties.

    Equal ones are raised to the next number.
    """
    sorted_C = np.sort(scores_C)[::-1].copy()
    for index in range(len(sorted_C) - 2, -1, -1):
        sorted_C[index] = max(sorted_C[index], np.nextafter(sorted_C[index + 1], np.float32(np.inf)))
    return sorted_C


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` threads within the context; 0: as many as before."""
    if not count:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
