"""What is read beside the items: bins, places in sessions, features; and what is known at each position."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segue.core import bundle
from segue.core.batches import POSITION_UNSET, Windows, query_batches
from segue.core.features import encode_features, infer_features
from segue.core.registry import builtin_models, exported_functions, model_class
from segue.core.run import Interrupted, Run
from segue.core.types import DataSchema, Dataset, Events, Feature, Queries
from segue.nn import training_targets
from segue.nn.inputs.event_embeddings import log_bins, session_positions, time_gaps, value_bin_edges
from segue.nn.losses import losses
from segue.nn.sequence_model import SequenceModel
from segue.testing import dataset, small, train_small
from segue.training.train import Training, train

ALL = ("value", "action", "gap", "query_time", "session_position", "item_features", "user_features")
EVENTS = ALL[:5]
N_ITEMS, N_USERS = 12, 20
INF, NAN = float("inf"), float("nan")


def histories(seed: int = 0, rows: int = N_USERS, longest: int = 12) -> Events:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, longest, rows)
    size = int(lengths.sum())
    return Events(
        np.concatenate([[0], np.cumsum(lengths)]),
        rng.integers(0, N_ITEMS - 2, size),
        rng.integers(0, 2, size),
        rng.integers(1, 6, size),
        1_000_000_000 + np.cumsum(rng.integers(0, 4000, size)),
    )


def world(seed: int = 0) -> Dataset:
    """A log with everything; the last two items never occur."""
    rng = np.random.default_rng(seed)
    ids = [f"i{code}" for code in range(N_ITEMS)]
    items = pl.DataFrame(
        {
            "id": ids,
            "title": [f"title {code}" for code in range(N_ITEMS)],
            "colour": ["red", "blue", None] * 4,
            "genres": [["Drama"], ["Drama", "Comedy"], []] * 4,
            "year": [1990, None, 2001, 1987] * 3,
            "text": rng.normal(size=(N_ITEMS, 3)).tolist(),
        }
    )
    users = pl.DataFrame(
        {
            "id": [f"u{code}" for code in range(N_USERS)],
            "age": [20, 30, 40, None] * 5,
            "gender": ["F", "M"] * 10,
        }
    )
    data = dataset(histories(seed), N_ITEMS)
    return replace(data, actions=("view", "buy"), item_features=items.lazy(), user_features=users.lazy())


def sequence_models() -> list[str]:
    found = []
    for key in builtin_models():
        try:
            kind = model_class(key)
        except ValueError:  # its extra is not installed
            continue
        if issubclass(kind, SequenceModel):
            found.append(key)
    return found


def built(key: str = "gru4rec", inputs: tuple[str, ...] = ALL, **settings: Any) -> SequenceModel:
    """An untrained model with what it takes from the data."""
    kind: Any = model_class(key)
    config = small(kind.Config, {"inputs": inputs, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: SequenceModel = kind(config, kind.schema_for(config, world()))
    model.prepare(world())
    return model.eval()


# --- every model ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", sequence_models())
def test_every_model_takes_every_input(key: str, tmp_path: Path) -> None:
    data = world()
    model: Any = train_small(key, data, epochs=1, inputs=ALL)
    assert model.config.inputs == ALL
    bundle.save(tmp_path / "b", bundle.create(key, model, data))
    found: Any = bundle.load(tmp_path / "b").model
    assert found.schema == model.schema
    profile = pl.DataFrame({"age": [33, None], "gender": [None, "F"]})
    users, known = np.array([1, 3], np.int32), np.array([True, False])
    bare = Queries(Events.of([[1, 2, 3], []]), users, known)
    full = Queries(data.histories.take(users), users, known, np.array([2_000_000_000] * 2), profile)
    for queries in (bare, full):
        scores = found.score(queries)
        assert np.isfinite(scores).all()
        np.testing.assert_array_equal(scores, model.score(queries))
        single = np.concatenate([found.score(queries.rows_between(row, row + 1)) for row in range(2)])
        np.testing.assert_allclose(scores, single, rtol=1e-5, atol=1e-5)
    assert not np.array_equal(found.score(full), found.score(replace(full, profile=None)))


@pytest.mark.parametrize("loss", exported_functions(losses))
@pytest.mark.parametrize("more", [{}, {"item_bias": True, "precision": "bfloat16", "sampler": "hard"}])
def test_inputs_go_with_every_loss(loss: str, more: dict[str, Any]) -> None:
    """Also where some items are never met: these are no wrong answers, and no finite number is lost."""
    data = world()
    model: Any = train_small("gru4rec", data, epochs=1, inputs=ALL, loss=loss, num_negatives=8, **more)
    scores = model.score(Queries.of_users(np.arange(3, dtype=np.int32), data.histories.take(np.arange(3))))
    assert np.isfinite(scores).all()
    assert np.isfinite(model.bias).all()
    unmet = ~model.inputs.items.in_training_I.numpy()
    assert unmet.sum() == 2
    assert (model.bias[unmet] == 0).all()


# --- bins ----------------------------------------------------------------------------------------------------------


def test_few_values_have_a_bin_each_and_many_have_quantiles() -> None:
    few = value_bin_edges(np.array([5, 1, 3, 3, np.nan], np.float32))
    assert few[:3].tolist() == [2, 4, INF]
    many = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    edges = value_bin_edges(many)
    assert np.isfinite(edges).all()
    counts = np.bincount(np.searchsorted(edges, many, side="right"))
    assert counts.max() < 1.2 * counts.min()
    tied = value_bin_edges(np.array([0.0] * 900 + list(range(1, 101)), np.float32))
    assert (np.diff(tied[np.isfinite(tied)]) > 0).all()


def test_seconds_are_told_apart_by_powers_of_two() -> None:
    seconds = torch.tensor([0, 1, 2, 3, 4, 3600, 86400, 2**31, 2**40, -5, NAN], dtype=torch.float64)
    assert log_bins(seconds).tolist() == [0, 1, 1, 2, 2, 11, 16, 31, 32, 0, -1]


def with_session_positions(
    times: list[float], events: list[bool] | None = None, known: list[int] | None = None
) -> list[int]:
    grid = torch.tensor([times], dtype=torch.float64)
    is_event = torch.tensor([events or [True] * len(times)])
    before = torch.tensor([known]) if known else torch.full(grid.shape, POSITION_UNSET)
    return session_positions(grid, is_event, before, 1800)[0].tolist()


def test_places_in_sessions() -> None:
    assert with_session_positions([0, 10, 20, 1820, 3621, 3622]) == [0, 1, 2, 3, 0, 1]
    assert with_session_positions([NAN, 0, 5], events=[False, True, True]) == [-1, 0, 1]
    # after a time that is not known, nothing is known until the next session surely begins
    assert with_session_positions([0, 10, NAN, 20, 30, 9000, 9001]) == [0, 1, -1, -1, -1, 0, 1]
    assert with_session_positions([NAN, NAN, 5], events=[True, True, True]) == [-1, -1, -1]
    assert with_session_positions([50, 60, 70], known=[4, POSITION_UNSET, POSITION_UNSET]) == [4, 5, 6]
    assert with_session_positions([50, 60, 9000], known=[-1, POSITION_UNSET, POSITION_UNSET]) == [-1, -1, 0]


@given(
    times=arrays(np.float64, st.integers(1, 30), elements=st.integers(0, 4000)),
    unknown=st.sets(st.integers(0, 29)),
    cut=st.integers(0, 29),
)
def test_places_go_on_from_any_two_events(times: Any, unknown: set[int], cut: int) -> None:
    """Counting may stop anywhere, keep its two newest events, and go on."""
    times = np.cumsum(times)
    times[[at for at in unknown if at < len(times)]] = np.nan
    whole = with_session_positions(times.tolist())
    cut = min(cut, max(len(times) - 2, 0))
    known = [*whole[cut : cut + 2], *[POSITION_UNSET] * (len(times) - cut - 2)]
    assert with_session_positions(times[cut:].tolist(), known=known) == whole[cut:]


def test_gaps_are_to_the_position_before() -> None:
    found = time_gaps(torch.tensor([[NAN, 5.0, 8.0, NAN, 9.0]], dtype=torch.float64))
    np.testing.assert_array_equal(found.numpy(), [[NAN, NAN, 3, NAN, NAN]])


# --- features ------------------------------------------------------------------------------------------------------


def test_columns_are_read_by_what_is_in_them() -> None:
    table = world().item_features
    assert table is not None
    features, left = infer_features(table)
    assert [(f.name, f.kind, f.size) for f in features] == [
        ("colour", "category", 1),
        ("genres", "tags", 2),
        ("year", "number", 1),
        ("text", "vector", 3),
    ]
    assert list(left) == ["title"]
    assert "almost all texts are distinct" in left["title"]
    rows = encode_features(features, table.collect())
    np.testing.assert_array_equal(rows[:3, 0], [1, 0, NAN])
    np.testing.assert_array_equal(rows[:3, 1:3], [[1, NAN], [1, 0], [NAN, NAN]])
    known = rows[~np.isnan(rows[:, 3]), 3]
    assert abs(known.mean()) < 1e-6
    np.testing.assert_allclose(known.std(), 1, rtol=1e-6)
    np.testing.assert_allclose(np.square(rows[:, 4:]).sum(1).mean(), 1, rtol=1e-5)
    texts = np.array(table.collect()["text"].to_list())
    np.testing.assert_allclose(rows[:, 4:], texts * (rows[0, 4] / texts[0, 0]), rtol=1e-5)


def test_what_tells_nothing_is_left_out() -> None:
    table = pl.DataFrame(
        {
            "id": ["a", "b", "c", "d"],
            "one": ["x"] * 4,
            "same": [3, 3, None, 3],
            "empty": pl.Series([None] * 4, dtype=pl.String),
            "once": [["p"], ["q"], [], None],
            "parts": [{"a": 1}] * 4,
            "nan": [1.0, NAN, 2.0, 2.0],
            "flag": [True, False, True, False],
            "day": pl.Series([0, 1, 2, 3]).cast(pl.Date),
            "array": pl.Series([[1.0, 2.0]] * 4, dtype=pl.Array(pl.Float32, 2)),
        }
    )
    features, left = infer_features(table)
    assert {f.name: f.kind for f in features} == {
        "nan": "number",
        "flag": "category",
        "day": "number",
        "array": "vector",
    }
    assert left.keys() == {"one", "same", "empty", "once", "parts"}
    assert np.isnan(encode_features(features, table)[1, 0])


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ([[1.0, 2.0], [1.0]], "lists of 1 to 2 numbers"),
        ([[1.0], [INF]], "something else than finite numbers"),
        ([1.0, INF], "got inf, expected a finite number"),
    ],
)
def test_faulty_features_are_refused(column: list[Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        infer_features(pl.DataFrame({"id": ["a", "b"], "text": column}))


def test_people_who_were_not_there_tell_of_themselves() -> None:
    features, _ = infer_features(world().user_features)
    told = pl.DataFrame({"age": [20, 41], "gender": ["F", "unheard of"], "shoe": [1, 2]})
    rows = encode_features(features, told)
    assert rows[0].tolist() == encode_features(features, world().user_features.collect())[0].tolist()  # type: ignore[union-attr]
    assert np.isnan(rows[1]).tolist() == [False, True]
    with pytest.raises(ValueError, match="age: got 'old', expected a finite number"):
        encode_features(features, pl.DataFrame({"age": ["old"]}))


def test_what_a_profile_does_not_tell_is_as_the_data_knew_it() -> None:
    users = built(inputs=("user_features",)).inputs.users  # type: ignore[union-attr]
    assert users is not None
    of = np.array([0, 0, 0], np.int32)
    profile = pl.DataFrame({"gender": ["M", None, "M"]})
    rows = users.rows(Queries(Events.of([[]] * 3), of, np.array([True, True, False]), profile=profile)).numpy()
    stored = users.rows_UJ[0].tolist()
    assert rows[0].tolist() == [stored[0], 1.0]
    assert rows[1].tolist() == stored
    assert np.isnan(rows[2]).tolist() == [True, False]


def test_item_vectors_are_the_same_for_all_and_for_some() -> None:
    items = built(inputs=("item_features",))
    assert items.inputs is not None
    codes = torch.tensor([[0, 5, N_ITEMS - 1, N_ITEMS]])
    some = items.inputs._embed_items(codes, items.items.weight)
    table = torch.cat([items.item_vectors(), items.items.weight[N_ITEMS:]])
    assert codes.numel() < N_ITEMS
    torch.testing.assert_close(some, table[codes])
    torch.testing.assert_close(table[N_ITEMS], items.items.weight[N_ITEMS])


def test_an_item_never_met_has_its_features_alone() -> None:
    model = built(inputs=("item_features",))
    before = model.vectors
    with torch.no_grad():
        model.items.weight.add_(1.0)
    moved = np.abs(model.vectors - before).max(1)
    met = np.bincount(world().histories.items, minlength=N_ITEMS) > 0
    assert not met.all()
    assert ((moved > 0) == met).all()


# --- what is known where -------------------------------------------------------------------------------------------


def batch_of(model: SequenceModel, events: Events) -> Any:
    windows = Windows(events, np.arange(len(events)), events.offsets[:-1], events.offsets[1:], N_ITEMS, model.columns)
    return training_targets.next_item(windows, np.random.default_rng(0))


def hidden_of(model: SequenceModel, events: Events) -> torch.Tensor:
    batch = batch_of(model, events)
    with torch.no_grad():
        return model.encode_sequence(model.embed(batch), batch).reshape(-1, model.config.embedding_dim)[
            batch.positions_M
        ]


@pytest.mark.parametrize("key", ["sasrec", "gru4rec", "xlstm"])
@pytest.mark.parametrize("name", EVENTS)
def test_nothing_of_a_target_is_seen_before_it(key: str, name: str) -> None:
    """Whatever an event is, what predicts it and all before it stay as they are; what comes after does not."""
    model = built(key, (name,))
    events = histories(3, rows=1, longest=20)
    at, before = events.size // 2, hidden_of(model, events)
    assert events.times is not None
    changed = {
        "value": replace(events, values=_but(events.values, at, 5 if events.values[at] < 3 else 1)),  # type: ignore[index]
        "action": replace(events, actions=_but(events.actions, at, 1 - events.actions[at])),  # type: ignore[index]
    }.get(name, replace(events, times=np.where(np.arange(events.size) < at, events.times, events.times + 500_000)))
    after = hidden_of(model, changed)
    # position m predicts event m; only the moment of asking may be told of the target itself
    same = at if name == "query_time" else at + 1
    torch.testing.assert_close(after[:same], before[:same], rtol=0, atol=0)
    assert not torch.equal(after[same], before[same])


def _but(column: Any, at: int, value: Any) -> Any:
    changed = np.array(column)
    changed[at] = value
    return changed


@pytest.mark.parametrize("name", EVENTS)
def test_nothing_of_a_hidden_event_is_seen(name: str) -> None:
    model = built("bert4rec", (name,), objective="cloze")
    events = histories(4, rows=1, longest=20)

    def embedded(events: Events) -> tuple[torch.Tensor, torch.Tensor]:
        windows = Windows(events, np.zeros(1, np.int64), np.array([0]), np.array([events.size]), N_ITEMS, model.columns)
        batch = training_targets.cloze(windows, np.random.default_rng(1), 0.4, 0.0)
        with torch.no_grad():
            return model.embed(batch)[0], batch.positions_M

    before, positions = embedded(events)
    hidden = np.zeros(events.size, bool)
    hidden[positions.numpy()] = True
    assert events.times is not None
    moved = np.where(hidden, events.times + 100 * (1 + np.arange(events.size)), events.times)
    flipped = np.where(hidden, 1 - events.actions, events.actions)  # type: ignore[operator]
    values = np.where(hidden, 6 - events.values, events.values)  # type: ignore[operator]
    after, _ = embedded(replace(events, times=moved, actions=flipped, values=values))
    if name == "query_time":  # when a hidden event is asked for is told, and nothing else
        before, after = before[~hidden], after[~hidden]
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_the_moment_of_asking_is_told_from_the_newest_event_on() -> None:
    """Training and answering put the same seconds into the same place, whether the item there is hidden or not."""
    for key, objective in (("gru4rec", "next_item"), ("bert4rec", "cloze")):
        model = built(key, ("query_time",), objective=objective)
        assert model.inputs is not None
        assert model.inputs.events is not None
        events = replace(Events.of([[1, 2]]), times=np.array([100, 200]))
        queries = replace(Queries.anonymous(events), times=np.array([200 + 2**20]))
        ((_, read),) = query_batches(queries, N_ITEMS, None, 100, append_mask=model.is_cloze, columns=model.columns)
        bins = model.inputs.events._bins("query_time", read, N_ITEMS)[0]
        assert int(bins[int(read.lengths_B[0]) - 1]) == 20
        bare = model.score(replace(queries, times=None))
        assert not np.array_equal(bare, model.score(queries))
        assert np.array_equal(model.score(replace(queries, times=np.array([200 + 2**20 + 1]))), model.score(queries))


def test_what_is_not_known_is_learned() -> None:
    """Before a history, and in some sequences, every input is unknown: its vector moves, and is no zero."""
    data = world()
    model: Any = train_small("gru4rec", data, epochs=1, inputs=ALL)
    fresh = built()
    events, begun = model.inputs.events, fresh.inputs.events  # type: ignore[union-attr]
    assert begun is not None
    for name in EVENTS:
        assert not torch.equal(events.tables[name][-1], begun.tables[name][-1]), name
    for trained, untrained in zip(model.inputs.users.vectors.tables, fresh.inputs.users.vectors.tables, strict=True):  # type: ignore[union-attr]
        assert not torch.equal(trained[-1], untrained[-1])
    told = Queries.anonymous(data.histories.take(np.array([1])))
    unmarked = Queries.anonymous(Events.of([data.histories.take(np.array([1])).items.tolist()]))
    assert not np.array_equal(model.score(told), model.score(unmarked))


@pytest.mark.parametrize("key", ["gru4rec", "xlstm"])
def test_a_stream_carries_all_inputs(key: str) -> None:
    """Event by event from a state is the whole history, whatever times are not known."""
    model: Any = built(key)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.2)
    events = histories(5, rows=3, longest=16)
    known = np.random.default_rng(0).random(events.size) > 0.2
    events = replace(events, context={"time_known": known})
    users, told = np.array([3, 0, 7], np.int32), np.array([True, False, True])
    profile = pl.DataFrame({"gender": ["F", "M", None]})
    assert events.times is not None
    asked = events.times[events.offsets[1:] - 1] + 4321
    whole = Queries(events, users, told, asked, profile)
    state = model.state(replace(whole, history=Events.of([[], [], []]), times=None))
    for at in range(int(events.lengths.max())):
        first = np.minimum(at, events.lengths)
        state = model.step(state, events.slice_rows(first, np.minimum(at + 1, events.lengths)))
    for found in (state, model.state(replace(whole, times=None))):
        np.testing.assert_allclose(model.encode_state(found, asked), model.encode(whole), rtol=1e-4, atol=1e-4)


# --- what is asked for and is not there ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("value", {"values": None}, "no values"),
        ("action", {"actions": None}, "only one type of action"),
        ("gap", {"times": None}, "no times"),
        ("session_position", {"times": None}, "no times"),
        ("query_time", {"context": {"time_known": False}}, "no real times, only times that preserve the order"),
    ],
)
def test_inputs_that_the_data_lacks_are_refused(name: str, change: dict[str, Any], told: str) -> None:
    data = world()
    context = {key: np.full(data.histories.size, value) for key, value in change.pop("context", {}).items()}
    lacking = replace(data, histories=replace(data.histories, context=context, **change))
    with pytest.raises(ValueError, match=f"'{name}' is not available: world has {told}"):
        train_small("gru4rec", lacking, inputs=(name,))


def test_a_bias_of_times_needs_real_ones() -> None:
    data = world()
    lacking = replace(data, histories=replace(data.histories, times=None))
    with pytest.raises(ValueError, match="time_bias: got true, but world has no times"):
        train_small("hstu", lacking, time_bias=True)


@pytest.mark.parametrize("name", ["item_features", "user_features"])
def test_features_that_the_data_lacks_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is not available: the data has no usable {name}"):
        train_small("gru4rec", replace(world(), **{name: None}), inputs=(name,))


def test_settings_are_understood_as_they_are_typed() -> None:
    from segue.core.config import apply_overrides, parse

    kind = model_class("gru4rec").Config
    typed = apply_overrides({"model": kind}, ["inputs=[value,gap]"])["model"]
    assert parse(kind, typed, "model").inputs == ("value", "gap")  # type: ignore[attr-defined]
    for text, told in (("inputs=[valu]", "valu"), ("inputs=[gap,gap]", "'gap' is listed more than once")):
        with pytest.raises(ValueError, match=told):
            parse(kind, apply_overrides({"model": kind}, [text])["model"], "model")


def test_a_domain_travels_and_an_old_one_is_read(tmp_path: Path) -> None:
    data = world()
    model: Any = train_small("gru4rec", data, epochs=1)
    assert model.schema == DataSchema(N_USERS, N_ITEMS, ("view", "buy"))
    bundle.save(tmp_path / "b", bundle.create("gru4rec", model, data))
    about = (tmp_path / "b" / "bundle.json").read_text()
    import json

    facts = json.loads(about)
    assert facts["schema"].pop("item_features") == facts["schema"].pop("user_features") == []
    for name in ("inputs", "session_gap", "feature_dropout"):
        del facts["config"][name]
    (tmp_path / "b" / "bundle.json").write_text(json.dumps(facts))
    assert bundle.load(tmp_path / "b").model.schema == model.schema
    assert Feature("x", "number") == Feature(**json.loads(json.dumps({"name": "x", "kind": "number"})))


def test_what_is_kept_of_the_data_is_not_counted_as_learned() -> None:
    from segue.experiment.resources import count_parameters

    model = built()
    assert count_parameters(model) == sum(parameter.numel() for parameter in model.parameters())
    assert count_parameters(model) < sum(array.size for array in model.arrays().values())


def test_a_training_with_inputs_goes_on_as_if_not_interrupted(tmp_path: Path) -> None:
    def fit(run: Run, stop: bool) -> Any:
        def validate(model: Any) -> dict[str, float]:
            run.interrupted = stop
            return {"ndcg@10": 0.0}

        config = small(model_class("gru4rec").Config, {"inputs": ALL})
        return train("gru4rec", config, Training(epochs=3, batch_size=8, ema=0.9), world(), run, validate)

    expected = fit(Run(3, tmp_path / "whole"), False).arrays()
    with pytest.raises(Interrupted):
        fit(Run(3, tmp_path / "parts"), True)
    found = fit(Run(3, tmp_path / "parts"), False).arrays()
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
