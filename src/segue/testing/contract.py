"""What every model keeps, checked for a model known only by its key.

Shapes: N queries, I items.
"""

from __future__ import annotations

import importlib
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core import bundle
from segue.core.config import parse
from segue.core.model import Factored, Model, Predictor, Similar, Solver, Streaming
from segue.core.registry import model_class
from segue.core.types import Codes, Dataset, Events, Queries
from segue.testing.training import train_small
from segue.testing.worlds import dataset

__all__ = ["CHECKS", "Subject", "contract", "subject"]

CPU_SECONDS = 5.0


@dataclass(frozen=True, eq=False)
class Subject:
    """A model as the contract looks at it."""

    key: str
    data: Dataset
    model: Model
    cpu_seconds: float


@cache
def subject(key: str) -> Subject:
    """The model ``key``, trained once on a log that has everything: times, values, an empty history, unseen items."""
    data = _log()
    model_class(key)  # importing is not training
    begun = time.process_time()
    model = train_small(key, data)
    return Subject(key, data, model, time.process_time() - begun)


def contract(key: str) -> None:
    """Check everything; an ``AssertionError`` tells all that failed."""
    faults = []
    for name, check in CHECKS.items():
        try:
            check(subject(key))
        except Exception as error:
            faults.append(f"{key}: {name}: {error}")
    if faults:
        raise AssertionError("\n".join(faults))


def _log() -> Dataset:
    rng = np.random.default_rng(7)
    rows = Events.of([rng.integers(28, size=n) for n in [0, 1, 60, *rng.integers(2, 20, size=37)]])
    values = rng.integers(1, 6, size=rows.size).astype(np.float32)
    return dataset(_with_columns(rows, values), n_items=30)


def _with_columns(rows: Events, values: NDArray[np.float32]) -> Events:
    times = 1_600_000_000 + np.arange(rows.size) * 3_000
    return Events(rows.offsets, rows.items, np.zeros(rows.size, np.uint8), values, times)


def _questions(data: Dataset) -> Queries:
    """Known and unknown users; histories empty, of one item, long, of items never seen, of one item again and again."""
    own = data.histories.items[data.histories.offsets[2] : data.histories.offsets[3]].tolist()
    rows = [own, own, [], [], [3], own * 4, [29, 28], [5] * 9]
    known = np.array([True, False, False, True, False, True, True, False])
    return Queries(Events.of(rows), np.array([2, 0, 0, 0, 0, 2, 5, 0], np.int32), known)


def _need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


def _equal(found: Mapping[str, Any], expected: Mapping[str, Any], otherwise: str) -> None:
    different = [name for name in {*found, *expected} if _bytes(found, name) != _bytes(expected, name)]
    _need(not different, f"{otherwise}: {', '.join(sorted(different))}")


def _bytes(arrays: Mapping[str, Any], name: str) -> tuple[Any, ...]:
    return (arrays[name].dtype, arrays[name].shape, arrays[name].tobytes()) if name in arrays else ()


def _copy(model: Model) -> dict[str, Any]:
    return {name: np.array(array) for name, array in model.arrays().items()}


def _trains_fast(it: Subject) -> None:
    seconds = it.cpu_seconds
    if seconds > CPU_SECONDS:  # the first training of a process also imports what trainings need
        begun = time.process_time()
        train_small(it.key, it.data)
        seconds = time.process_time() - begun
    _need(seconds <= CPU_SECONDS, f"training took {seconds:.1f} CPU seconds, at most {CPU_SECONDS}")


def _same_seed_same_model(it: Subject) -> None:
    _equal(train_small(it.key, it.data).arrays(), it.model.arrays(), "the same seed gave other arrays")


def _any_question(it: Subject) -> None:
    queries = _questions(it.data)
    full = _with_columns(queries.history, np.ones(queries.history.size, np.float32))
    told = Queries(full, queries.users, queries.known, np.full(len(queries), 2_000_000_000))
    for asked in (queries, told, queries.block(0, 0)):
        scores_NI = it.model.score(asked)
        _need(scores_NI.shape == (len(asked), it.data.n_items), f"scores have shape {scores_NI.shape}")
        _need(scores_NI.dtype == np.float32, f"scores are {scores_NI.dtype}, expected float32")
        faulty = np.flatnonzero(~np.isfinite(scores_NI).all(axis=1))
        _need(not len(faulty), f"scores of queries {faulty.tolist()} are not all finite")


def _candidates_are_columns(it: Subject) -> None:
    queries = _questions(it.data)
    candidates: Codes = np.random.default_rng(1).integers(30, size=(len(queries), 7), dtype=np.int32)
    candidates.flags.writeable = False
    expected = np.take_along_axis(it.model.score(queries), candidates, axis=1)
    np.testing.assert_allclose(it.model.score(queries, candidates), expected, rtol=1e-5, atol=1e-5)


def _block_is_single(it: Subject) -> None:
    queries = _questions(it.data)
    single = np.concatenate([it.model.score(queries.block(row, row + 1)) for row in range(len(queries))])
    np.testing.assert_allclose(it.model.score(queries), single, rtol=1e-5, atol=1e-5)


def _bundle_keeps_scores(it: Subject) -> None:
    queries = _questions(it.data)
    with tempfile.TemporaryDirectory() as folder:
        bundle.save(Path(folder) / "bundle", it.key, it.model, it.data)
        loaded = bundle.load(Path(folder) / "bundle").model
        _equal(loaded.arrays(), it.model.arrays(), "a bundle changed arrays")
        np.testing.assert_array_equal(loaded.score(queries), it.model.score(queries))


def _scoring_changes_nothing(it: Subject) -> None:
    queries, before = _questions(it.data), _copy(it.model)
    again = _questions(it.data)
    first = np.array(it.model.score(queries))
    first_copy = np.array(first)
    second = it.model.score(queries)
    second_copy = np.array(second)
    second[...] = 0  # what it hands out is not its own memory
    np.testing.assert_array_equal(first_copy, second_copy)
    np.testing.assert_array_equal(it.model.score(queries), first)
    _equal(it.model.arrays(), before, "scoring changed the model")
    _equal(queries.history.columns(), again.history.columns(), "scoring changed the history")


def _odd_logs(it: Subject) -> None:
    small = {n: Events.of([[0], [0, n - 1], [], [n - 1] * 3]) for n in (1, 2)}
    logs = {
        "a catalogue of one item": small[1],
        "a catalogue of two items": small[2],
        "one user": Events.of([[0, 2, 1, 3, 2]]),
        "one event": Events.of([[], [1], []]),
        "users of one item each": Events.of([[0], [1], [2], [0]]),
    }
    valued = {name: _with_columns(rows, np.full(rows.size, 3.0, np.float32)) for name, rows in logs.items()}
    rows = Events.of([[0, 1, 2], [1, 2], [3]])
    valued["values far outside a scale"] = _with_columns(rows, np.array([-7, 1e5, 3, 0, 2, 5], np.float32))
    valued["values that are missing"] = _with_columns(rows, np.array([np.nan, 4, 3, np.nan, 2, 5], np.float32))
    told = {f"{name}, valued": log for name, log in valued.items()}
    kinds = told if type(it.model).needs_values else {**logs, **told}
    for name, log in kinds.items():
        n_items = 1 + int(log.items.max())
        model = train_small(it.key, dataset(log, n_items))
        asked = _with_columns(Events.of([[0], []]), np.ones(1, np.float32))
        scores_NI = model.score(Queries.anonymous(asked))
        _need(scores_NI.shape == (2, n_items), f"{name}: scores have shape {scores_NI.shape}")
        _need(bool(np.isfinite(scores_NI).all()), f"{name}: scores are not all finite")


def _values_are_asked_for(it: Subject) -> None:
    if type(it.model).needs_values:
        try:
            train_small(it.key, dataset(Events.of([[0, 1], [1]]), 2))
        except ValueError as error:
            _need("values" in str(error), f"a log without values is refused without saying so: {error}")
        else:
            raise AssertionError("a log without values was accepted by a model that learns from them")


def _predicts(it: Subject) -> None:
    model = it.model
    if not (isinstance(model, Predictor) and model.predicts):
        return
    # a user without an event, an item without one, and both
    users, items = np.array([2, 3, 0, 2, 0], np.int32), np.array([3, 5, 3, 29, 29], np.int32)
    for times in (None, np.full(5, 2_000_000_000)):
        found = model.predict(users, items, times)
        _need(found.shape == (5,) and found.dtype == np.float32, f"predict gives {found.dtype} of shape {found.shape}")
        _need(bool(np.isfinite(found).all()), "predicted values are not all finite")
    nobody = np.zeros(0, np.int32)
    _need(model.predict(nobody, nobody).shape == (0,), "predicting nothing does not give nothing")
    single = np.concatenate([model.predict(users[n : n + 1], items[n : n + 1]) for n in range(5)])
    np.testing.assert_allclose(model.predict(users, items), single, rtol=1e-5, atol=1e-5)
    values = model.in_scale(model.score(_questions(it.data)))
    _need(bool(np.isfinite(values).all()), "scores in the scale of the data are not all finite")


def _threads_do_not_matter(it: Subject) -> None:
    import torch

    queries, before = _questions(it.data), torch.get_num_threads()
    answers = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            model = train_small(it.key, it.data) if isinstance(it.model, Solver) else it.model
            answers.append(model.score(queries))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-5, atol=1e-5)


def _abilities_agree(it: Subject) -> None:
    queries, model = _questions(it.data), it.model
    if isinstance(model, Factored):
        product = model.encode(queries) @ model.vectors.T + model.bias
        np.testing.assert_allclose(product, model.score(queries), rtol=1e-4, atol=1e-4)
    if isinstance(model, Streaming):
        rows, lengths = queries.history, queries.history.lengths
        older = Queries(rows.cut(0 * lengths, np.maximum(lengths - 1, 0)), queries.users, queries.known)
        state = model.step(model.state(older), rows.last(1))
        np.testing.assert_allclose(model.answer(state), model.encode(queries), rtol=1e-4, atol=1e-4)
    if isinstance(model, Similar):
        likeness = model.similar(np.array([0, 29], np.int32))
        _need(likeness.shape == (2, it.data.n_items), f"similar gives shape {likeness.shape}")
        _need(bool(np.isfinite(likeness).all()), "similar gives scores that are not finite")


def _refuses_misspelt_settings(it: Subject) -> None:
    names = list(type(it.model).Config.model_fields)
    wrong = f"{names[0]}x" if names else "anything"
    try:
        parse(type(it.model).Config, {wrong: 1}, it.key)
    except ValueError as error:
        near = f"did you mean '{names[0]}'?" if names else "unknown key"
        _need(near in str(error), f"a misspelt setting is refused without {near}: {error}")
    else:
        raise AssertionError(f"the setting '{wrong}' was accepted")


def _is_documented(it: Subject) -> None:
    kind = type(it.model)
    text = importlib.import_module(kind.__module__).__doc__ or ""
    _need(bool(re.search(r"\b(19|20)\d\d\b", text)), "the module's docstring names no paper with its year")
    _need(bool(kind.__doc__ and kind.Config.__doc__), "the class or its Config has no docstring")
    mute = [name for name, field in kind.Config.model_fields.items() if not field.description]
    _need(not mute, f"settings without a docstring: {', '.join(mute)}")


CHECKS: dict[str, Callable[[Subject], None]] = {
    "trains_fast": _trains_fast,
    "same_seed_same_model": _same_seed_same_model,
    "any_question": _any_question,
    "candidates_are_columns": _candidates_are_columns,
    "block_is_single": _block_is_single,
    "bundle_keeps_scores": _bundle_keeps_scores,
    "scoring_changes_nothing": _scoring_changes_nothing,
    "odd_logs": _odd_logs,
    "values_are_asked_for": _values_are_asked_for,
    "predicts": _predicts,
    "threads_do_not_matter": _threads_do_not_matter,
    "abilities_agree": _abilities_agree,
    "refuses_misspelt_settings": _refuses_misspelt_settings,
    "is_documented": _is_documented,
}
"""The contract by the name of each check."""
