"""Events one at a time give what the whole history gives, from a state that never grows."""

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


def disturbed(model: Any, seed: int = 0) -> Any:
    """The model with every parameter moved, so that gates that begin at zero matter too."""
    make = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=make) * 0.2)
    return model.eval()


def build(name: str, seed: int = 0) -> Any:
    key, settings = MODELS[name]
    kind = model_class(key)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return disturbed(kind(kind.Config(**settings), DataSchema(5, ITEMS)), seed)


def histories(lengths: list[int], seed: int = 1) -> Events:
    rng = np.random.default_rng(seed)
    rows = Events.of([rng.integers(ITEMS, size=length) for length in lengths])
    times = np.cumsum(rng.integers(1, 90_000, rows.size))
    return replace(rows, values=rng.random(rows.size, np.float32), times=times)


def scores(model: Any, state: State) -> Any:
    return model.encode_state(state) @ model.vectors.T + model.bias


@pytest.mark.parametrize("name", MODELS)
def test_event_by_event_is_the_whole_history(name: str) -> None:
    model = build(name)
    assert isinstance(model, Streaming)
    length = 1_000 if name in ("lstm", "mlstm", "slstm") else 100
    whole = histories([length, length])
    state = model.state(Queries.anonymous(Events.of([[], []])))
    for at in range(length):
        if at in (0, 1, 7, length // 2):
            expected = model.score(Queries.anonymous(whole.slice_rows(np.array([0, 0]), np.array([at, at]))))
            np.testing.assert_allclose(scores(model, state), expected, rtol=1e-4, atol=1e-4)
        state = model.step(state, whole.slice_rows(np.array([at, at]), np.array([at + 1, at + 1])))
    np.testing.assert_allclose(scores(model, state), model.score(Queries.anonymous(whole)), rtol=1e-4, atol=1e-4)
    assert state.events.tolist() == [length, length]


@pytest.mark.parametrize("name", MODELS)
def test_histories_of_any_lengths_and_what_follows_them(name: str) -> None:
    """A state from whole histories, then several events for some rows and none for others."""
    model = build(name)
    before, after = histories([0, 1, 30, 4, 17, 0]), histories([3, 0, 1, 12, 0, 0], seed=2)
    rows = [[*before.items[a:b], *after.items[c:d]] for a, b, c, d in zip(*bounds(before), *bounds(after), strict=True)]
    state = model.state(Queries.anonymous(before))
    np.testing.assert_allclose(scores(model, state), model.score(Queries.anonymous(before)), rtol=1e-4, atol=1e-4)
    state = model.step(state, after)
    expected = model.score(Queries.anonymous(Events.of(rows)))
    np.testing.assert_allclose(scores(model, state), expected, rtol=1e-4, atol=1e-4)
    alone = State.concat([state.take(np.array([row])) for row in (3, 0)])
    np.testing.assert_allclose(scores(model, alone), expected[[3, 0]], rtol=1e-4, atol=1e-4)


def bounds(events: Events) -> tuple[list[int], list[int]]:
    return events.offsets[:-1].tolist(), events.offsets[1:].tolist()


class Told(XLSTM):
    """An encoder whose events depend on their value, on the time since the last one, and on when the next is asked."""

    @property
    def columns(self) -> tuple[str, ...]:
        return "values", "times", "query_times"

    def embed(self, read: Sequences) -> Tensor:
        values, times, asked = (read.columns[name].double() for name in self.columns)
        gaps = torch.diff(times, prepend=torch.full_like(times[:, :1], torch.nan))
        told = torch.stack([values, torch.log1p(gaps), torch.log1p(asked - times)], -1).nan_to_num(-1.0)
        return super().embed(read) + (told.float() @ self.items.weight[:3]) * 0.2


def test_what_is_read_beside_the_items_is_carried() -> None:
    model = disturbed(Told(Told.Config(**MODELS["mixed"][1]), DataSchema(5, ITEMS)))
    whole = histories([20, 20])
    assert whole.times is not None
    asked = whole.times[whole.offsets[1:] - 1] + 500
    state = model.state(Queries.anonymous(Events.of([[], []])))
    for at in range(20):
        state = model.step(state, whole.slice_rows(np.array([at, at]), np.array([at + 1, at + 1])))
    state = State.from_bytes(state.to_bytes())
    at_once = model.state(Queries.anonymous(whole))
    expected = model.encode(replace(Queries.anonymous(whole), times=asked))
    for found in (state, at_once):
        np.testing.assert_allclose(model.encode_state(found, asked), expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(
            model.encode_state(found), model.encode(Queries.anonymous(whole)), rtol=1e-4, atol=1e-4
        )
    assert np.abs(model.encode_state(state) - expected).max() > 1e-2


class Counter(TorchDispatchMode):
    """Counts operations of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, kinds: Any, arguments: Any = (), named: Any = None) -> Any:
        self.count += 1
        return function(*arguments, **(named or {}))


@pytest.mark.parametrize("name", ["lstm", "gru4rec", "mlstm", "slstm"])
def test_a_state_does_not_grow_and_a_step_does_not_cost_more(name: str) -> None:
    model = build(name)
    one = Events.of([[3]])
    found = []
    for length in (10, 10_000):
        state = model.state(Queries.anonymous(histories([length])))
        with Counter() as counter:
            after = model.step(state, one)
            model.encode_state(after)
        assert after.events.tolist() == [length + 1]
        found.append((state.nbytes, after.nbytes, len(after.to_bytes()), counter.count))
    assert found[0] == found[1]
    assert found[0][3] > 10


@pytest.mark.parametrize("name", ["gru4rec", "mixed"])
def test_a_state_travels_as_bytes(name: str) -> None:
    model = build(name)
    state = model.state(Queries.of_users(np.array([4, 0, 2], np.int32), histories([5, 0, 9])))
    again = State.from_bytes(state.to_bytes())
    assert (again.model, again.events.tolist(), again.nbytes) == (state.model, [5, 0, 9], state.nbytes)
    assert again.recent_events["users"].tolist() == [4, 0, 2]
    np.testing.assert_array_equal(model.encode_state(again), model.encode_state(state))
    after, expected = (model.step(one, Events.of([[1], [2], []])) for one in (again, state))
    np.testing.assert_array_equal(model.encode_state(after), model.encode_state(expected))
    with pytest.raises(ValueError, match="read-only"):
        state.recurrent_state[next(iter(state.recurrent_state))][:] = 0.0


def test_a_state_knows_its_model_by_the_hash_in_the_bundle(tmp_path: Path) -> None:
    model, other = build("mixed"), build("mixed", seed=1)
    bundle.save(tmp_path / "bundle", bundle.create("xlstm", model, dataset(Events.of([[0]] * 5), ITEMS)))
    written = read_json(tmp_path / "bundle" / "bundle.json")["sha256"]["arrays.safetensors"]
    state, stranger = (one.state(Queries.anonymous(histories([3]))) for one in (model, other))
    assert state.model == written
    bundle.load(tmp_path / "bundle").model.encode_state(state)  # type: ignore[attr-defined]
    for use in (lambda: other.encode_state(state), lambda: other.step(state, Events.of([[1]]))):
        with pytest.raises(ValueError, match=f"sha256 {state.model}, this model has {stranger.model}"):
            use()
    with pytest.raises(ValueError, match="2 models"):
        State.concat([state, stranger])
    before = model.score(Queries.anonymous(histories([3])))
    with torch.no_grad():
        model.items.weight.mul_(2.0)
    with pytest.raises(ValueError, match=written):
        model.encode_state(state)
    assert not np.array_equal(model.score(Queries.anonymous(histories([3]))), before)


Change = Callable[[State], State]
FAULTS: dict[str, tuple[Change, str]] = {
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


@pytest.mark.parametrize("fault", FAULTS)
def test_a_state_that_does_not_fit_is_refused(fault: str) -> None:
    change, told = FAULTS[fault]
    model = build("mixed")
    state = State.from_bytes(change(model.state(Queries.anonymous(histories([3])))).to_bytes())
    with pytest.raises(ValueError, match=told):
        model.step(state, Events.of([[1]]))
    with pytest.raises(ValueError, match=told):
        model.encode_state(state)


def test_bytes_and_events_that_are_not_right_are_refused() -> None:
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


def test_a_list_from_a_state_is_that_from_the_history() -> None:
    model = build("mixed")
    queries = Queries.anonymous(histories([12, 0, 30]))
    state = model.state(queries)
    allowed = np.arange(ITEMS) % 3 > 0
    for exclude_seen in (True, False):
        expected = recommend(model, queries, 5, exclude_seen=exclude_seen, allowed=allowed)
        found = recommend_from_state(model, state, 5, seen=queries.history, exclude_seen=exclude_seen, allowed=allowed)
        np.testing.assert_array_equal(found.items, expected.items)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4)
        assert found.probabilities is not None
        np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-3)
    forgetful = recommend_from_state(model, state, 5)
    np.testing.assert_array_equal(forgetful.items, recommend(model, queries, 5, exclude_seen=False).items)


def test_other_models_have_no_stream() -> None:
    kind = model_class("sasrec")
    assert not isinstance(kind(kind.Config(), DataSchema(1, 5)), Streaming)
    assert issubclass(model_class("lstm"), StreamingModel)


def test_with_ids_it_is_what_is_recommended_for_the_history() -> None:
    data = dataset(Events.of([[0]] * 5), ITEMS)
    trained = bundle.create("xlstm", build("mixed"), data)
    door = segue.stream(trained)
    state = door.state(["i3", "i7"], user="nobody")
    state = door.step(state, "i11", value=3.0, time=5)
    found = door.recommend(state, 4, seen=["i3", "i7", "i11"], time=9)
    expected = segue.recommend(trained, histories=[["i3", "i7", "i11"]], k=4)
    assert found["item_id"].to_list() == expected["item_id"].to_list()
    np.testing.assert_allclose(found["probability"], expected["probability"], rtol=1e-3)
    assert set(door.recommend(door.state(), 2, allow=["i5", "i6"])["item_id"]) == {"i5", "i6"}
    for fault, told in (
        (lambda: door.step(state, "strange"), "not in the catalog: 'strange'"),
        (lambda: door.state(["i1"], actions=["interactoin"]), "did you mean 'interaction'"),
        (lambda: door.state(["i1"], values=[1.0, 2.0]), "2 values for 1 events"),
        (lambda: door.recommend(State.concat([state, state])), "a state of 2 histories"),
    ):
        with pytest.raises(ValueError, match=told):
            fault()
    with pytest.raises(ValueError, match="'ease' has no state"):
        segue.stream(replace(trained, key="ease", model=build_ease()))


def build_ease() -> Any:
    kind = model_class("ease")
    return kind(kind.Config(), DataSchema(5, ITEMS))
