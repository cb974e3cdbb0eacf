"""Check the contract of models.

Every model fulfills it; a check takes a model given by its key.

Shapes: N queries, I items.
"""

from __future__ import annotations

import importlib
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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
from segue.testing.worlds import dataset, with_features, with_knowledge

__all__ = ["CHECKS", "Subject", "contract", "subject"]

CPU_SECONDS = 5.0


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained model with its data, for the checks."""

    key: str
    data: Dataset
    model: Model
    cpu_seconds: float


@cache
def subject(key: str) -> Subject:
    """Train the model ``key`` once on a log that covers edge cases.

    The log has times, values, an empty history and unseen items.
    """
    data = _with_required_features(key, _log())  # imports of the model do not count as training
    start = time.process_time()
    model = train_small(key, data)
    return Subject(key, data, model, time.process_time() - start)


def contract(key: str) -> None:
    """Run all checks.

    Raises:
        AssertionError: some checks failed; the message lists all of them.
    """
    failures = []
    for name, check in CHECKS.items():
        try:
            check(subject(key))
        except Exception as error:
            failures.append(f"{key}: {name}: {error}")
    if failures:
        raise AssertionError("\n".join(failures))


def _log() -> Dataset:
    rng = np.random.default_rng(7)
    rows = Events.of([rng.integers(28, size=n) for n in [0, 1, 60, *rng.integers(2, 20, size=37)]])
    values = rng.integers(1, 6, size=rows.size).astype(np.float32)
    return dataset(_with_columns(rows, values), n_items=30)


def _with_required_features(key: str, data: Dataset) -> Dataset:
    """Add features and triples to ``data`` if the model ``key`` requires them."""
    required = model_class(key).required_features
    data = with_features(data) if {"item_features", "user_features"} & {*required} else data
    return with_knowledge(data) if "knowledge" in required else data


def _with_columns(rows: Events, values: NDArray[np.float32]) -> Events:
    times = 1_600_000_000 + np.arange(rows.size) * 3_000
    return Events(rows.offsets, rows.items, np.zeros(rows.size, np.uint8), values, times)


def _queries(data: Dataset) -> Queries:
    """Create queries that cover edge cases.

    Users are known and unknown; histories are empty, short, long, of unseen items and of one repeated item.
    """
    own = data.histories.items[data.histories.offsets[2] : data.histories.offsets[3]].tolist()
    rows = [own, own, [], [], [3], own * 4, [29, 28], [5] * 9]
    known = np.array([True, False, False, True, False, True, True, False])
    return Queries(Events.of(rows), np.array([2, 0, 0, 0, 0, 2, 5, 0], np.int32), known)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _require_equal(found: Mapping[str, Any], expected: Mapping[str, Any], message: str) -> None:
    different = [name for name in {*found, *expected} if _bytes(found, name) != _bytes(expected, name)]
    _require(not different, f"{message}: {', '.join(sorted(different))}")


def _bytes(arrays: Mapping[str, Any], name: str) -> tuple[Any, ...]:
    return (arrays[name].dtype, arrays[name].shape, arrays[name].tobytes()) if name in arrays else ()


def _copy(model: Model) -> dict[str, Any]:
    return {name: np.array(array) for name, array in model.arrays().items()}


def _trains_fast(it: Subject) -> None:
    seconds = it.cpu_seconds
    if seconds > CPU_SECONDS:  # the first training of a process also imports modules
        start = time.process_time()
        train_small(it.key, it.data)
        seconds = time.process_time() - start
    _require(seconds <= CPU_SECONDS, f"training took {seconds:.1f} CPU seconds, at most {CPU_SECONDS}")


def _same_seed_same_model(it: Subject) -> None:
    _require_equal(train_small(it.key, it.data).arrays(), it.model.arrays(), "the same seed gave different arrays")


def _accepts_any_query(it: Subject) -> None:
    queries = _queries(it.data)
    full = _with_columns(queries.history, np.ones(queries.history.size, np.float32))
    with_times = Queries(full, queries.users, queries.known, np.full(len(queries), 2_000_000_000))
    for block in (queries, with_times, queries.rows_between(0, 0)):
        scores_NI = it.model.score(block)
        _require(scores_NI.shape == (len(block), it.data.n_items), f"scores have shape {scores_NI.shape}")
        _require(scores_NI.dtype == np.float32, f"scores are {scores_NI.dtype}, expected float32")
        invalid = np.flatnonzero(~np.isfinite(scores_NI).all(axis=1))
        _require(not len(invalid), f"scores of queries {invalid.tolist()} are not all finite")


def _candidate_scores_match(it: Subject) -> None:
    queries = _queries(it.data)
    candidates: Codes = np.random.default_rng(1).integers(30, size=(len(queries), 7), dtype=np.int32)
    candidates.flags.writeable = False
    expected = np.take_along_axis(it.model.score(queries), candidates, axis=1)
    np.testing.assert_allclose(it.model.score(queries, candidates), expected, rtol=1e-5, atol=1e-5)


def _batch_equals_single(it: Subject) -> None:
    queries = _queries(it.data)
    single = np.concatenate([it.model.score(queries.rows_between(row, row + 1)) for row in range(len(queries))])
    np.testing.assert_allclose(it.model.score(queries), single, rtol=1e-5, atol=1e-5)


def _bundle_round_trip(it: Subject) -> None:
    queries = _queries(it.data)
    with tempfile.TemporaryDirectory() as folder:
        bundle.save(Path(folder) / "bundle", bundle.create(it.key, it.model, it.data))
        loaded = bundle.load(Path(folder) / "bundle").model
        _require_equal(loaded.arrays(), it.model.arrays(), "a bundle changed arrays")
        np.testing.assert_array_equal(loaded.score(queries), it.model.score(queries))


def _scoring_has_no_side_effects(it: Subject) -> None:
    queries, before = _queries(it.data), _copy(it.model)
    again = _queries(it.data)
    first = np.array(it.model.score(queries))
    first_copy = np.array(first)
    second = it.model.score(queries)
    second_copy = np.array(second)
    second[...] = 0  # results must not be views of the model's arrays
    np.testing.assert_array_equal(first_copy, second_copy)
    np.testing.assert_array_equal(it.model.score(queries), first)
    _require_equal(it.model.arrays(), before, "scoring changed the model")
    _require_equal(queries.history.columns(), again.history.columns(), "scoring changed the history")


def _trains_on_edge_cases(it: Subject) -> None:
    small = {n: Events.of([[0], [0, n - 1], [], [n - 1] * 3]) for n in (1, 2)}
    logs = {
        "a catalog of one item": small[1],
        "a catalog of two items": small[2],
        "one user": Events.of([[0, 2, 1, 3, 2]]),
        "one event": Events.of([[], [1], []]),
        "users of one item each": Events.of([[0], [1], [2], [0]]),
    }
    with_values = {name: _with_columns(rows, np.full(rows.size, 3.0, np.float32)) for name, rows in logs.items()}
    rows = Events.of([[0, 1, 2], [1, 2], [3]])
    with_values["values far outside a scale"] = _with_columns(rows, np.array([-7, 1e5, 3, 0, 2, 5], np.float32))
    with_values["missing values"] = _with_columns(rows, np.array([np.nan, 4, 3, np.nan, 2, 5], np.float32))
    rated = {f"{name}, with values": log for name, log in with_values.items()}
    for name, log in (rated if type(it.model).requires_ratings else {**logs, **rated}).items():
        n_items = 1 + int(log.items.max())
        model = train_small(it.key, _with_required_features(it.key, dataset(log, n_items)))
        histories = _with_columns(Events.of([[0], []]), np.ones(1, np.float32))
        scores_NI = model.score(Queries.anonymous(histories))
        _require(scores_NI.shape == (2, n_items), f"{name}: scores have shape {scores_NI.shape}")
        _require(bool(np.isfinite(scores_NI).all()), f"{name}: scores are not all finite")


def _requires_values(it: Subject) -> None:
    if type(it.model).requires_ratings:
        try:
            train_small(it.key, dataset(Events.of([[0, 1], [1]]), 2))
        except ValueError as error:
            _require("values" in str(error), f"the error for a log without values does not mention values: {error}")
        else:
            raise AssertionError("a model that requires ratings accepted a log without values")


def _requires_features(it: Subject) -> None:
    for name in type(it.model).required_features:
        without: Any = {name: None}
        try:
            train_small(it.key, replace(it.data, **without))
        except ValueError as error:
            _require(name in str(error), f"the error for a log without {name} does not mention {name}: {error}")
        else:
            raise AssertionError(f"a model that requires {name} accepted a log without them")


def _predicts_values(it: Subject) -> None:
    model = it.model
    if not (isinstance(model, Predictor) and model.predicts_ratings):
        return
    # a user without events, an item without events, and both
    users, items = np.array([2, 3, 0, 2, 0], np.int32), np.array([3, 5, 3, 29, 29], np.int32)
    for times in (None, np.full(5, 2_000_000_000)):
        found = model.predict(users, items, times)
        _require(
            found.shape == (5,) and found.dtype == np.float32, f"predict returns {found.dtype} of shape {found.shape}"
        )
        _require(bool(np.isfinite(found).all()), "predicted values are not all finite")
    none = np.zeros(0, np.int32)
    _require(model.predict(none, none).shape == (0,), "predicting no pairs does not return an empty array")
    single = np.concatenate([model.predict(users[n : n + 1], items[n : n + 1]) for n in range(5)])
    np.testing.assert_allclose(model.predict(users, items), single, rtol=1e-5, atol=1e-5)
    values = model.clip_predictions(model.score(_queries(it.data)))
    _require(bool(np.isfinite(values).all()), "scores in the scale of the data are not all finite")


def _results_do_not_depend_on_threads(it: Subject) -> None:
    import torch

    queries, before = _queries(it.data), torch.get_num_threads()
    results = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            model = train_small(it.key, it.data) if isinstance(it.model, Solver) else it.model
            results.append(model.score(queries))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=1e-5)


def _protocols_are_consistent(it: Subject) -> None:
    queries, model = _queries(it.data), it.model
    if isinstance(model, Factored):
        product = model.encode(queries) @ model.vectors.T + model.bias
        np.testing.assert_allclose(product, model.score(queries), rtol=1e-4, atol=1e-4)
    if isinstance(model, Streaming):
        rows, lengths = queries.history, queries.history.lengths
        older = Queries(rows.slice_rows(0 * lengths, np.maximum(lengths - 1, 0)), queries.users, queries.known)
        state = model.step(model.state(older), rows.last(1))
        np.testing.assert_allclose(model.encode_state(state), model.encode(queries), rtol=1e-4, atol=1e-4)
    if isinstance(model, Similar):
        similarity = model.similar(np.array([0, 29], np.int32))
        _require(similarity.shape == (2, it.data.n_items), f"similar returns shape {similarity.shape}")
        _require(bool(np.isfinite(similarity).all()), "similar returns values that are not finite")


def _rejects_misspelled_settings(it: Subject) -> None:
    names = list(type(it.model).Config.model_fields)
    wrong = f"{names[0]}x" if names else "anything"
    try:
        parse(type(it.model).Config, {wrong: 1}, it.key)
    except ValueError as error:
        near = f"did you mean '{names[0]}'?" if names else "unknown key"
        _require(near in str(error), f"the error for a misspelled setting lacks {near}: {error}")
    else:
        raise AssertionError(f"the setting '{wrong}' was accepted")


def _is_documented(it: Subject) -> None:
    kind = type(it.model)
    text = importlib.import_module(kind.__module__).__doc__ or ""
    _require(bool(re.search(r"\b(19|20)\d\d\b", text)), "the module docstring names no paper with its year")
    _require(bool(kind.__doc__ and kind.Config.__doc__), "the class or its Config has no docstring")
    undocumented = [name for name, field in kind.Config.model_fields.items() if not field.description]
    _require(not undocumented, f"settings without a docstring: {', '.join(undocumented)}")


CHECKS: dict[str, Callable[[Subject], None]] = {
    "trains_fast": _trains_fast,
    "same_seed_same_model": _same_seed_same_model,
    "accepts_any_query": _accepts_any_query,
    "candidate_scores_match": _candidate_scores_match,
    "batch_equals_single": _batch_equals_single,
    "bundle_round_trip": _bundle_round_trip,
    "scoring_has_no_side_effects": _scoring_has_no_side_effects,
    "trains_on_edge_cases": _trains_on_edge_cases,
    "requires_values": _requires_values,
    "requires_features": _requires_features,
    "predicts_values": _predicts_values,
    "results_do_not_depend_on_threads": _results_do_not_depend_on_threads,
    "protocols_are_consistent": _protocols_are_consistent,
    "rejects_misspelled_settings": _rejects_misspelled_settings,
    "is_documented": _is_documented,
}
"""All checks by name."""
