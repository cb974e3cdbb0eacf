"""States updated event by event equal those of whole histories, at constant size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import segue
from segue.core import bundle
from segue.core.batches import Sequences
from segue.core.files import read_json
from segue.core.messages import SegueWarning
from segue.core.model import Streaming
from segue.core.recommend import recommend, recommend_from_state
from segue.core.registry import model_class
from segue.core.state import State
from segue.core.types import DataSchema, Events, Queries
from segue.models.sequential.xlstm import XLSTM
from segue.nn.streaming_model import StreamingModel
from segue.testing import dataset

ITEMS = 40
XLSTM_SMALL = {"embedding_dim": 16, "num_heads": 2, "num_blocks": 2, "dropout": 0.0, "chunk_size": 8}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "lstm": ("lstm", {"embedding_dim": 8, "hidden_dim": 12, "num_layers": 2}),
    "gru4rec": ("gru4rec", {"embedding_dim": 8, "hidden_dim": 12, "item_bias": True}),
    "mlstm": ("xlstm", XLSTM_SMALL | {"slstm_at": ()}),
    "slstm": ("xlstm", XLSTM_SMALL | {"slstm_at": (0, 1)}),
    "mixed": ("xlstm", XLSTM_SMALL | {"item_bias": True, "conv1d_kernel_size": 3}),
    "no cap, no tail": ("xlstm", XLSTM_SMALL | {"gate_soft_cap": 0.0, "conv1d_kernel_size": 1}),
}


def perturb(model: Any, seed: int = 0) -> Any:
    """Add noise to every parameter, so that gates initialized to zero have an effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def build(name: str, seed: int = 0) -> Any:
    key, settings = MODELS[name]
    cls = model_class(key)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return perturb(cls(cls.Config(**settings), DataSchema(5, ITEMS)), seed)


def histories(lengths: list[int], seed: int = 1) -> Events:
    rng = np.random.default_rng(seed)
    rows = Events.of([rng.integers(ITEMS, size=length) for length in lengths])
    times = np.cumsum(rng.integers(1, 90_000, rows.size))
    return replace(rows, values=rng.random(rows.size, np.float32), times=times)


def scores(model: Any, state: State) -> Any:
    return model.encode_state(state) @ model.vectors.T + model.bias


@pytest.mark.parametrize("name", MODELS)
def test_stepwise_states_equal_the_whole_history(name: str) -> None:
    model = build(name)
    assert isinstance(model, Streaming)
    length = 1_000 if name in ("lstm", "mlstm", "slstm") else 100
    history = histories([length, length])
    state = model.state(Queries.anonymous(Events.of([[], []])))
    for position in range(length):
        if position in (0, 1, 7, length // 2):
            expected = model.score(
                Queries.anonymous(history.slice_rows(np.array([0, 0]), np.array([position, position])))
            )
            np.testing.assert_allclose(scores(model, state), expected, rtol=1e-4, atol=1e-4)
        state = model.step(
            state, history.slice_rows(np.array([position, position]), np.array([position + 1, position + 1]))
        )
    np.testing.assert_allclose(scores(model, state), model.score(Queries.anonymous(history)), rtol=1e-4, atol=1e-4)
    assert state.events.tolist() == [length, length]


@pytest.mark.parametrize("name", MODELS)
def test_states_of_histories_with_different_lengths(name: str) -> None:
    """Update states of whole histories with several events for some rows and none for others."""
    model = build(name)
    first_part, second_part = histories([0, 1, 30, 4, 17, 0]), histories([3, 0, 1, 12, 0, 0], seed=2)
    rows = [
        [*first_part.items[a:b], *second_part.items[c:d]]
        for a, b, c, d in zip(*bounds(first_part), *bounds(second_part), strict=True)
    ]
    state = model.state(Queries.anonymous(first_part))
    np.testing.assert_allclose(scores(model, state), model.score(Queries.anonymous(first_part)), rtol=1e-4, atol=1e-4)
    state = model.step(state, second_part)
    expected = model.score(Queries.anonymous(Events.of(rows)))
    np.testing.assert_allclose(scores(model, state), expected, rtol=1e-4, atol=1e-4)
    subset = State.concat([state.take(np.array([row])) for row in (3, 0)])
    np.testing.assert_allclose(scores(model, subset), expected[[3, 0]], rtol=1e-4, atol=1e-4)


def bounds(events: Events) -> tuple[list[int], list[int]]:
    return events.offsets[:-1].tolist(), events.offsets[1:].tolist()


class XLSTMWithInputs(XLSTM):
    """An encoder that also reads values, times since the previous event, and query times."""

    @property
    def columns(self) -> tuple[str, ...]:
        return "values", "times", "query_times"

    def embed(self, sequences: Sequences) -> Tensor:
        values, times, query_times = (sequences.columns[name].double() for name in self.columns)
        gaps = torch.diff(times, prepend=torch.full_like(times[:, :1], torch.nan))
        inputs = torch.stack([values, torch.log1p(gaps), torch.log1p(query_times - times)], -1).nan_to_num(-1.0)
        return super().embed(sequences) + (inputs.float() @ self.items.weight[:3]) * 0.2


def test_states_include_additional_inputs() -> None:
    model = perturb(XLSTMWithInputs(XLSTMWithInputs.Config(**MODELS["mixed"][1]), DataSchema(5, ITEMS)))
    history = histories([20, 20])
    assert history.times is not None
    query_times = history.times[history.offsets[1:] - 1] + 500
    state = model.state(Queries.anonymous(Events.of([[], []])))
    for position in range(20):
        state = model.step(
            state, history.slice_rows(np.array([position, position]), np.array([position + 1, position + 1]))
        )
    state = State.from_bytes(state.to_bytes())
    from_history = model.state(Queries.anonymous(history))
    expected = model.encode(replace(Queries.anonymous(history), times=query_times))
    for actual in (state, from_history):
        np.testing.assert_allclose(model.encode_state(actual, query_times), expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(
            model.encode_state(actual), model.encode(Queries.anonymous(history)), rtol=1e-4, atol=1e-4
        )
    assert np.abs(model.encode_state(state) - expected).max() > 1e-2


class OperationCounter(TorchDispatchMode):
    """Count torch operations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["lstm", "gru4rec", "mlstm", "slstm"])
def test_state_size_and_step_cost_are_constant(name: str) -> None:
    model = build(name)
    event = Events.of([[3]])
    sizes = []
    for length in (10, 10_000):
        state = model.state(Queries.anonymous(histories([length])))
        with OperationCounter() as counter:
            next_state = model.step(state, event)
            model.encode_state(next_state)
        assert next_state.events.tolist() == [length + 1]
        sizes.append((state.nbytes, next_state.nbytes, len(next_state.to_bytes()), counter.count))
    assert sizes[0] == sizes[1]
    assert sizes[0][3] > 10


@pytest.mark.parametrize("name", ["gru4rec", "mixed"])
def test_state_bytes_round_trip(name: str) -> None:
    model = build(name)
    state = model.state(Queries.of_users(np.array([4, 0, 2], np.int32), histories([5, 0, 9])))
    restored = State.from_bytes(state.to_bytes())
    assert (restored.model, restored.events.tolist(), restored.nbytes) == (state.model, [5, 0, 9], state.nbytes)
    assert restored.recent_events["users"].tolist() == [4, 0, 2]
    np.testing.assert_array_equal(model.encode_state(restored), model.encode_state(state))
    actual, expected = (model.step(each, Events.of([[1], [2], []])) for each in (restored, state))
    np.testing.assert_array_equal(model.encode_state(actual), model.encode_state(expected))
    with pytest.raises(ValueError, match="read-only"):
        state.recurrent_state[next(iter(state.recurrent_state))][:] = 0.0


def test_states_are_bound_to_the_hash_of_their_model(tmp_path: Path) -> None:
    model, other_model = build("mixed"), build("mixed", seed=1)
    bundle.save(tmp_path / "bundle", bundle.create("xlstm", model, dataset(Events.of([[0]] * 5), ITEMS)))
    sha256 = read_json(tmp_path / "bundle" / "bundle.json")["sha256"]["arrays.safetensors"]
    state, other_state = (each.state(Queries.anonymous(histories([3]))) for each in (model, other_model))
    assert state.model == sha256
    bundle.load(tmp_path / "bundle").model.encode_state(state)  # type: ignore[attr-defined]
    for call in (lambda: other_model.encode_state(state), lambda: other_model.step(state, Events.of([[1]]))):
        with pytest.raises(ValueError, match=f"sha256 {state.model}, this model has {other_state.model}"):
            call()
    with pytest.raises(ValueError, match="2 models"):
        State.concat([state, other_state])
    scores_before = model.score(Queries.anonymous(histories([3])))
    with torch.no_grad():
        model.items.weight.mul_(2.0)
    with pytest.raises(ValueError, match=sha256):
        model.encode_state(state)
    assert not np.array_equal(model.score(Queries.anonymous(histories([3]))), scores_before)


StateChange = Callable[[State], State]
INVALID_STATES: dict[str, tuple[StateChange, str]] = {
    "missing": (
        lambda s: replace(s, recurrent_state={}),
        r"expected recent_events/items, recent_events/users, recurrent_state/0\.C",
    ),
    "shape": (
        lambda s: replace(s, recurrent_state={**s.recurrent_state, "0.n": s.recurrent_state["0.n"][:, :, :3]}),
        r"recurrent_state/0\.n: got float32 \(1, 2, 3\), expected float32 \(1, 2, 16\)",
    ),
    "type": (
        lambda s: replace(s, recurrent_state={**s.recurrent_state, "0.n": s.recurrent_state["0.n"].astype(np.float64)}),  # type: ignore[dict-item]
        r"recurrent_state/0\.n: got float64",
    ),
    "not a number": (
        lambda s: replace(
            s, recurrent_state={**s.recurrent_state, "0.n": s.recurrent_state["0.n"] * np.float32(np.nan)}
        ),
        r"recurrent_state/0\.n: contains NaN",
    ),
    "item": (
        lambda s: replace(s, recent_events={**s.recent_events, "items": s.recent_events["items"] + 100}),
        f"state: item code 1.., expected 0..{ITEMS}",
    ),
}


@pytest.mark.parametrize("case", INVALID_STATES)
def test_invalid_states_are_rejected(case: str) -> None:
    change, message = INVALID_STATES[case]
    model = build("mixed")
    state = State.from_bytes(change(model.state(Queries.anonymous(histories([3])))).to_bytes())
    with pytest.raises(ValueError, match=message):
        model.step(state, Events.of([[1]]))
    with pytest.raises(ValueError, match=message):
        model.encode_state(state)


def test_invalid_bytes_and_events_are_rejected() -> None:
    model = build("lstm")
    state = model.state(Queries.anonymous(histories([3])))
    for data in (b"", b"not a state", state.to_bytes()[:-1], state.to_bytes().replace(b"segue.state", b"other.state")):
        with pytest.raises(ValueError, match="not a Segue state"):
            State.from_bytes(data)
    with pytest.raises(ValueError, match="got format 2, this version of Segue reads 1"):
        State.from_bytes(state.to_bytes().replace(rb"\"format\": 1", rb"\"format\": 2"))
    with pytest.raises(ValueError, match="2 rows of events for a state of 1"):
        model.step(state, Events.of([[1], [2]]))
    with pytest.raises(ValueError, match=f"item code {ITEMS}, expected 0..{ITEMS - 1}"):
        model.step(state, Events.of([[ITEMS]]))
    with pytest.raises(ValueError, match=r"recurrent_state/h has shape \(1, 2, 12\) for 2 histories"):
        replace(state, events=np.array([1, 1]))


def test_recommendations_from_a_state_equal_those_from_the_history() -> None:
    model = build("mixed")
    queries = Queries.anonymous(histories([12, 0, 30]))
    state = model.state(queries)
    allowed = np.arange(ITEMS) % 3 > 0
    for exclude_seen in (True, False):
        expected = recommend(model, queries, 5, exclude_seen=exclude_seen, allowed=allowed)
        actual = recommend_from_state(model, state, 5, seen=queries.history, exclude_seen=exclude_seen, allowed=allowed)
        np.testing.assert_array_equal(actual.items, expected.items)
        np.testing.assert_allclose(actual.scores, expected.scores, rtol=1e-4)
        assert actual.probabilities is not None
        np.testing.assert_allclose(actual.probabilities, expected.probabilities, rtol=1e-3)
    without_seen = recommend_from_state(model, state, 5)
    np.testing.assert_array_equal(without_seen.items, recommend(model, queries, 5, exclude_seen=False).items)


def test_other_models_are_not_streaming_models() -> None:
    cls = model_class("sasrec")
    assert not isinstance(cls(cls.Config(), DataSchema(1, 5)), Streaming)
    assert issubclass(model_class("lstm"), StreamingModel)


def test_session_with_ids_equals_recommend() -> None:
    data = dataset(Events.of([[0]] * 5), ITEMS)
    trained = bundle.create("xlstm", build("mixed"), data)
    session = segue.stream(trained)
    with pytest.warns(SegueWarning, match="the user counts as new"):
        state = session.state(["i3", "i7"], user="unknown")
    state = session.step(state, "i11", value=3.0, time=5)
    actual = session.recommend(state, 4, seen=["i3", "i7", "i11"], time=9)
    expected = segue.recommend(trained, histories=[["i3", "i7", "i11"]], k=4)
    assert actual["item_id"].to_list() == expected["item_id"].to_list()
    np.testing.assert_allclose(actual["probability"], expected["probability"], rtol=1e-3)
    assert set(session.recommend(session.state(), 2, allow=["i5", "i6"])["item_id"]) == {"i5", "i6"}
    for call, message in (
        (lambda: session.step(state, "strange"), "not in the catalog: 'strange'"),
        (lambda: session.state(["i1"], actions=["interactoin"]), "did you mean 'interaction'"),
        (lambda: session.state(["i1"], values=[1.0, 2.0]), "2 values for 1 events"),
        (lambda: session.recommend(State.concat([state, state])), "a state of 2 histories"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match="'ease' has no state"):
        segue.stream(replace(trained, key="ease", model=build_ease()))


def build_ease() -> Any:
    cls = model_class("ease")
    return cls(cls.Config(), DataSchema(5, ITEMS))
