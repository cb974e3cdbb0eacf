"""Additional model inputs: bins, session positions and features; and the information at each position."""

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
from segue.nn.inputs.context_bins import value_bin_edges
from segue.nn.inputs.event_embeddings import log_bins, session_positions, time_gaps
from segue.nn.losses import losses
from segue.nn.sequence_model import SequenceModel
from segue.testing import dataset, small, train_small
from segue.training.train import Training, train

CALENDAR = tuple(prefix + name for prefix in ("", "query_") for name in ("hour", "weekday", "month", "season"))
EVENTS = ("value", "action", "gap", "query_time", "session_position", *CALENDAR)
ALL = (*EVENTS, "item_features", "user_features")
N_ITEMS, N_USERS = 12, 20
LATER = 10_000_000
"""Seconds that change the gap, session, hour, weekday, month and season."""
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
    """Build a log with all columns and features; the last two items never occur."""
    rng = np.random.default_rng(seed)
    ids = [f"i{code}" for code in range(N_ITEMS)]
    items = pl.DataFrame(
        {
            "id": ids,
            "title": [f"title {code}" for code in range(N_ITEMS)],
            "color": ["red", "blue", None] * 4,
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
    keys = []
    for key in builtin_models():
        try:
            cls = model_class(key)
        except ValueError:  # the extra is not installed
            continue
        if issubclass(cls, SequenceModel):
            keys.append(key)
    return keys


def build_model(key: str = "gru4rec", inputs: tuple[str, ...] = ALL, **settings: Any) -> SequenceModel:
    """Build an untrained model prepared with the data."""
    cls: Any = model_class(key)
    config = small(cls.Config, {"inputs": inputs, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: SequenceModel = cls(config, cls.schema_for(config, world()))
    model.prepare(world())
    return model.eval()


# --- every model -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", sequence_models())
def test_every_model_supports_every_input(key: str, tmp_path: Path) -> None:
    data = world()
    model: Any = train_small(key, data, epochs=1, inputs=ALL)
    assert model.config.inputs == ALL
    bundle.save(tmp_path / "b", bundle.create(key, model, data))
    loaded: Any = bundle.load(tmp_path / "b").model
    assert loaded.schema == model.schema
    profile = pl.DataFrame({"age": [33, None], "gender": [None, "F"]})
    users, known = np.array([1, 3], np.int32), np.array([True, False])
    minimal = Queries(Events.of([[1, 2, 3], []]), users, known)
    complete = Queries(data.histories.take(users), users, known, np.array([2_000_000_000] * 2), profile)
    for queries in (minimal, complete):
        scores = loaded.score(queries)
        assert np.isfinite(scores).all()
        np.testing.assert_array_equal(scores, model.score(queries))
        single = np.concatenate([loaded.score(queries.rows_between(row, row + 1)) for row in range(2)])
        np.testing.assert_allclose(scores, single, rtol=1e-5, atol=1e-5)
    assert not np.array_equal(loaded.score(complete), loaded.score(replace(complete, profile=None)))


@pytest.mark.parametrize("loss", exported_functions(losses))
@pytest.mark.parametrize("settings", [{}, {"item_bias": True, "precision": "bfloat16", "sampler": "hard"}])
def test_every_loss_supports_every_input(loss: str, settings: dict[str, Any]) -> None:
    """Items without training events are not used as negatives, and all scores are finite."""
    data = world()
    model: Any = train_small("gru4rec", data, epochs=1, inputs=ALL, loss=loss, num_negatives=8, **settings)
    scores = model.score(Queries.of_users(np.arange(3, dtype=np.int32), data.histories.take(np.arange(3))))
    assert np.isfinite(scores).all()
    assert np.isfinite(model.bias).all()
    is_unseen = ~model.inputs.items.in_training_I.numpy()
    assert is_unseen.sum() == 2
    assert (model.bias[is_unseen] == 0).all()


# --- bins ------------------------------------------------------------------------------------------------------------


def test_few_values_get_one_bin_each_and_many_values_get_quantiles() -> None:
    few = value_bin_edges(np.array([5, 1, 3, 3, np.nan], np.float32))
    assert few[:3].tolist() == [2, 4, INF]
    many = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    edges = value_bin_edges(many)
    assert np.isfinite(edges).all()
    counts = np.bincount(np.searchsorted(edges, many, side="right"))
    assert counts.max() < 1.2 * counts.min()
    tied = value_bin_edges(np.array([0.0] * 900 + list(range(1, 101)), np.float32))
    assert (np.diff(tied[np.isfinite(tied)]) > 0).all()


def test_time_gaps_are_binned_by_powers_of_two() -> None:
    seconds = torch.tensor([0, 1, 2, 3, 4, 3600, 86400, 2**31, 2**40, -5, NAN], dtype=torch.float64)
    assert log_bins(seconds).tolist() == [0, 1, 1, 2, 2, 11, 16, 31, 32, 0, -1]


def positions_in_sessions(
    times: list[float], is_event: list[bool] | None = None, known_positions: list[int] | None = None
) -> list[int]:
    times_BL = torch.tensor([times], dtype=torch.float64)
    is_event_BL = torch.tensor([is_event or [True] * len(times)])
    known_BL = torch.tensor([known_positions]) if known_positions else torch.full(times_BL.shape, POSITION_UNSET)
    return session_positions(times_BL, is_event_BL, known_BL, 1800)[0].tolist()


def test_session_positions() -> None:
    assert positions_in_sessions([0, 10, 20, 1820, 3621, 3622]) == [0, 1, 2, 3, 0, 1]
    assert positions_in_sessions([NAN, 0, 5], is_event=[False, True, True]) == [-1, 0, 1]
    # after an unknown time, positions are unknown until a new session certainly starts
    assert positions_in_sessions([0, 10, NAN, 20, 30, 9000, 9001]) == [0, 1, -1, -1, -1, 0, 1]
    assert positions_in_sessions([NAN, NAN, 5], is_event=[True, True, True]) == [-1, -1, -1]
    assert positions_in_sessions([50, 60, 70], known_positions=[4, POSITION_UNSET, POSITION_UNSET]) == [4, 5, 6]
    assert positions_in_sessions([50, 60, 9000], known_positions=[-1, POSITION_UNSET, POSITION_UNSET]) == [-1, -1, 0]


@given(
    times=arrays(np.float64, st.integers(1, 30), elements=st.integers(0, 4000)),
    unknown=st.sets(st.integers(0, 29)),
    cut=st.integers(0, 29),
)
def test_session_positions_continue_from_any_two_events(times: Any, unknown: set[int], cut: int) -> None:
    """Counting continues at any event from the two newest positions."""
    times = np.cumsum(times)
    times[[at for at in unknown if at < len(times)]] = np.nan
    whole = positions_in_sessions(times.tolist())
    cut = min(cut, max(len(times) - 2, 0))
    known = [*whole[cut : cut + 2], *[POSITION_UNSET] * (len(times) - cut - 2)]
    assert positions_in_sessions(times[cut:].tolist(), known_positions=known) == whole[cut:]


def test_time_gaps_are_relative_to_the_previous_position() -> None:
    actual = time_gaps(torch.tensor([[NAN, 5.0, 8.0, NAN, 9.0]], dtype=torch.float64))
    np.testing.assert_array_equal(actual.numpy(), [[NAN, NAN, 3, NAN, NAN]])


# --- features --------------------------------------------------------------------------------------------------------


def test_feature_kinds_are_inferred_from_the_columns() -> None:
    table = world().item_features
    assert table is not None
    features, skipped = infer_features(table)
    assert [(f.name, f.kind, f.size) for f in features] == [
        ("color", "category", 1),
        ("genres", "tags", 2),
        ("year", "number", 1),
        ("text", "vector", 3),
    ]
    assert list(skipped) == ["title"]
    assert "almost all texts are distinct" in skipped["title"]
    rows = encode_features(features, table.collect())
    np.testing.assert_array_equal(rows[:3, 0], [1, 0, NAN])
    np.testing.assert_array_equal(rows[:3, 1:3], [[1, NAN], [1, 0], [NAN, NAN]])
    known = rows[~np.isnan(rows[:, 3]), 3]
    assert abs(known.mean()) < 1e-6
    np.testing.assert_allclose(known.std(), 1, rtol=1e-6)
    np.testing.assert_allclose(np.square(rows[:, 4:]).sum(1).mean(), 1, rtol=1e-5)
    texts = np.array(table.collect()["text"].to_list())
    np.testing.assert_allclose(rows[:, 4:], texts * (rows[0, 4] / texts[0, 0]), rtol=1e-5)


def test_uninformative_columns_are_skipped() -> None:
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
    features, skipped = infer_features(table)
    assert {f.name: f.kind for f in features} == {
        "nan": "number",
        "flag": "category",
        "day": "number",
        "array": "vector",
    }
    assert skipped.keys() == {"one", "same", "empty", "once", "parts"}
    assert np.isnan(encode_features(features, table)[1, 0])


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([[1.0, 2.0], [1.0]], "lists of 1 to 2 numbers"),
        ([[1.0], [INF]], "something else than finite numbers"),
        ([1.0, INF], "got inf, expected a finite number"),
        ([1.0, -1e300], r"text: got 1e\+300 in row 2, expected numbers of at most 1e\+15 in magnitude"),
        ([[1.0, 2.0], [-3e38, 1.0]], r"text: got 3e\+38 in row 2, expected numbers of at most 1e\+15 in magnitude"),
    ],
)
def test_invalid_features_are_rejected(column: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        infer_features(pl.DataFrame({"id": ["a", "b"], "text": column}))


def test_features_of_new_users() -> None:
    features, _ = infer_features(world().user_features)
    new_users = pl.DataFrame({"age": [20, 41], "gender": ["F", "unknown"], "shoe": [1, 2]})
    rows = encode_features(features, new_users)
    assert rows[0].tolist() == encode_features(features, world().user_features.collect())[0].tolist()  # type: ignore[union-attr]
    assert np.isnan(rows[1]).tolist() == [False, True]
    with pytest.raises(ValueError, match="age: got 'old', expected a finite number"):
        encode_features(features, pl.DataFrame({"age": ["old"]}))


def test_missing_profile_values_are_taken_from_the_data() -> None:
    users = build_model(inputs=("user_features",)).inputs.users  # type: ignore[union-attr]
    assert users is not None
    user_codes = np.array([0, 0, 0], np.int32)
    profile = pl.DataFrame({"gender": ["M", None, "M"]})
    rows = users.rows(Queries(Events.of([[]] * 3), user_codes, np.array([True, True, False]), profile=profile)).numpy()
    stored = users.rows_UJ[0].tolist()
    assert rows[0].tolist() == [stored[0], 1.0]
    assert rows[1].tolist() == stored
    assert np.isnan(rows[2]).tolist() == [True, False]


def test_embeddings_of_selected_items_equal_the_item_vectors() -> None:
    model = build_model(inputs=("item_features",))
    assert model.inputs is not None
    assert model.inputs.items is not None
    codes = torch.tensor([[0, 5, N_ITEMS - 1, N_ITEMS]])
    selected = model.inputs.items.embed(codes, model.items.weight)
    table = torch.cat([model.item_vectors(), model.items.weight[N_ITEMS:]])
    assert codes.numel() < N_ITEMS
    torch.testing.assert_close(selected, table[codes])
    torch.testing.assert_close(table[N_ITEMS], model.items.weight[N_ITEMS])


def test_vectors_of_unseen_items_use_features_only() -> None:
    model = build_model(inputs=("item_features",))
    before = model.vectors
    with torch.no_grad():
        model.items.weight.add_(1.0)
    differences = np.abs(model.vectors - before).max(1)
    in_training = np.bincount(world().histories.items, minlength=N_ITEMS) > 0
    assert not in_training.all()
    assert ((differences > 0) == in_training).all()


# --- information at each position ------------------------------------------------------------------------------------


def make_batch(model: SequenceModel, events: Events) -> Any:
    windows = Windows(events, np.arange(len(events)), events.offsets[:-1], events.offsets[1:], N_ITEMS, model.columns)
    return training_targets.next_item(windows, np.random.default_rng(0))


def encode_targets(model: SequenceModel, events: Events) -> torch.Tensor:
    batch = make_batch(model, events)
    with torch.no_grad():
        return model.encode_sequence(model.embed(batch), batch).reshape(-1, model.config.embedding_dim)[
            batch.positions_M
        ]


@pytest.mark.parametrize("key", ["sasrec", "gru4rec", "xlstm"])
@pytest.mark.parametrize("name", EVENTS)
def test_targets_are_not_visible_at_earlier_positions(key: str, name: str) -> None:
    """Changing an event changes the states after it, but not its own prediction or earlier states."""
    model = build_model(key, (name,))
    events = histories(3, rows=1, longest=20)
    position, before = events.size // 2, encode_targets(model, events)
    assert events.times is not None
    changed = {
        "value": replace(events, values=_with_value(events.values, position, 5 if events.values[position] < 3 else 1)),  # type: ignore[index]
        "action": replace(events, actions=_with_value(events.actions, position, 1 - events.actions[position])),  # type: ignore[index]
    }.get(name, replace(events, times=np.where(np.arange(events.size) < position, events.times, events.times + LATER)))
    after = encode_targets(model, changed)
    # position m predicts event m; of the target itself, only the query time may be an input
    n_equal = position if name.startswith("query_") else position + 1
    torch.testing.assert_close(after[:n_equal], before[:n_equal], rtol=0, atol=0)
    assert not torch.equal(after[n_equal], before[n_equal])


def _with_value(column: Any, position: int, value: Any) -> Any:
    changed = np.array(column)
    changed[position] = value
    return changed


@pytest.mark.parametrize("name", EVENTS)
def test_masked_events_are_not_visible(name: str) -> None:
    model = build_model("bert4rec", (name,), objective="cloze")
    events = histories(4, rows=1, longest=20)

    def embed(events: Events) -> tuple[torch.Tensor, torch.Tensor]:
        windows = Windows(events, np.zeros(1, np.int64), np.array([0]), np.array([events.size]), N_ITEMS, model.columns)
        batch = training_targets.cloze(windows, np.random.default_rng(1), 0.4, 0.0)
        with torch.no_grad():
            return model.embed(batch)[0], batch.positions_M

    before, positions = embed(events)
    is_masked = np.zeros(events.size, bool)
    is_masked[positions.numpy()] = True
    assert events.times is not None
    new_times = np.where(is_masked, events.times + LATER * (1 + np.arange(events.size)), events.times)
    new_actions = np.where(is_masked, 1 - events.actions, events.actions)  # type: ignore[operator]
    new_values = np.where(is_masked, 6 - events.values, events.values)  # type: ignore[operator]
    after, _ = embed(replace(events, times=new_times, actions=new_actions, values=new_values))
    if name.startswith("query_"):  # the query time of a masked event is an input
        before, after = before[~is_masked], after[~is_masked]
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_query_time_is_relative_to_the_newest_event() -> None:
    """Training and prediction use the same time gap at the same position, for masked and other items."""
    for key, objective in (("gru4rec", "next_item"), ("bert4rec", "cloze")):
        model = build_model(key, ("query_time",), objective=objective)
        assert model.inputs is not None
        assert model.inputs.events is not None
        events = replace(Events.of([[1, 2]]), times=np.array([100, 200]))
        queries = replace(Queries.anonymous(events), times=np.array([200 + 2**20]))
        ((_, sequences),) = query_batches(
            queries, N_ITEMS, None, 100, append_mask=model.is_cloze, columns=model.columns
        )
        bins = model.inputs.events._bins("query_time", sequences, N_ITEMS)[0]
        assert int(bins[int(sequences.lengths_B[0]) - 1]) == 20
        without_time = model.score(replace(queries, times=None))
        assert not np.array_equal(without_time, model.score(queries))
        assert np.array_equal(model.score(replace(queries, times=np.array([200 + 2**20 + 1]))), model.score(queries))


def test_vectors_of_unknown_inputs_are_trained() -> None:
    """Inputs are unknown before a history and in some sequences; the vectors of unknown values are trained."""
    data = world()
    model: Any = train_small("gru4rec", data, epochs=1, inputs=ALL)
    untrained = build_model()
    events, untrained_events = model.inputs.events, untrained.inputs.events  # type: ignore[union-attr]
    assert untrained_events is not None
    for name in EVENTS:
        assert not torch.equal(events.tables[name][-1], untrained_events.tables[name][-1]), name
    for learned, initial in zip(model.inputs.users.vectors.tables, untrained.inputs.users.vectors.tables, strict=True):  # type: ignore[union-attr]
        assert not torch.equal(learned[-1], initial[-1])
    with_inputs = Queries.anonymous(data.histories.take(np.array([1])))
    items_only = Queries.anonymous(Events.of([data.histories.take(np.array([1])).items.tolist()]))
    assert not np.array_equal(model.score(with_inputs), model.score(items_only))


@pytest.mark.parametrize("key", ["gru4rec", "xlstm"])
def test_states_include_all_inputs(key: str) -> None:
    """Stepwise states equal those of whole histories, also with unknown times."""
    model: Any = build_model(key)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.2)
    events = histories(5, rows=3, longest=16)
    time_known = np.random.default_rng(0).random(events.size) > 0.2
    events = replace(events, context={"time_known": time_known})
    users, is_known = np.array([3, 0, 7], np.int32), np.array([True, False, True])
    profile = pl.DataFrame({"gender": ["F", "M", None]})
    assert events.times is not None
    query_times = events.times[events.offsets[1:] - 1] + 4321
    queries = Queries(events, users, is_known, query_times, profile)
    state = model.state(replace(queries, history=Events.of([[], [], []]), times=None))
    for position in range(int(events.lengths.max())):
        start = np.minimum(position, events.lengths)
        state = model.step(state, events.slice_rows(start, np.minimum(position + 1, events.lengths)))
    for actual in (state, model.state(replace(queries, times=None))):
        np.testing.assert_allclose(model.encode_state(actual, query_times), model.encode(queries), rtol=1e-4, atol=1e-4)


# --- unavailable inputs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("value", {"values": None}, "no values"),
        ("action", {"actions": None}, "only one type of action"),
        ("gap", {"times": None}, "no times"),
        ("hour", {"times": None}, "no times"),
        ("query_month", {"context": {"time_known": False}}, "no real times, only times that preserve the order"),
        ("session_position", {"times": None}, "no times"),
        ("query_time", {"context": {"time_known": False}}, "no real times, only times that preserve the order"),
    ],
)
def test_unavailable_inputs_are_rejected(name: str, change: dict[str, Any], message: str) -> None:
    data = world()
    context = {key: np.full(data.histories.size, value) for key, value in change.pop("context", {}).items()}
    incomplete = replace(data, histories=replace(data.histories, context=context, **change))
    with pytest.raises(ValueError, match=f"'{name}' is not available: world has {message}"):
        train_small("gru4rec", incomplete, inputs=(name,))


def test_time_bias_needs_times() -> None:
    data = world()
    without_times = replace(data, histories=replace(data.histories, times=None))
    with pytest.raises(ValueError, match="time_bias: got true, but world has no times"):
        train_small("hstu", without_times, time_bias=True)


@pytest.mark.parametrize("name", ["item_features", "user_features"])
def test_unavailable_features_are_rejected(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is not available: the data has no usable {name}"):
        train_small("gru4rec", replace(world(), **{name: None}), inputs=(name,))


def test_inputs_are_parsed_from_overrides() -> None:
    from segue.core.config import apply_overrides, parse

    config_class = model_class("gru4rec").Config
    values = apply_overrides({"model": config_class}, ["inputs=[value,gap]"])["model"]
    assert parse(config_class, values, "model").inputs == ("value", "gap")  # type: ignore[attr-defined]
    for text, message in (("inputs=[valu]", "valu"), ("inputs=[gap,gap]", "'gap' is listed more than once")):
        with pytest.raises(ValueError, match=message):
            parse(config_class, apply_overrides({"model": config_class}, [text])["model"], "model")


def test_schema_is_saved_and_older_bundles_are_loaded(tmp_path: Path) -> None:
    data = world()
    model: Any = train_small("gru4rec", data, epochs=1)
    assert model.schema == DataSchema(N_USERS, N_ITEMS, ("view", "buy"))
    bundle.save(tmp_path / "b", bundle.create("gru4rec", model, data))
    text = (tmp_path / "b" / "bundle.json").read_text()
    import json

    metadata = json.loads(text)
    assert metadata["schema"].pop("item_features") == metadata["schema"].pop("user_features") == []
    for name in ("inputs", "session_gap", "feature_dropout"):
        del metadata["config"][name]
    del metadata["checksum"]
    metadata["format"] = 1
    (tmp_path / "b" / "bundle.json").write_text(json.dumps(metadata))
    assert bundle.load(tmp_path / "b").model.schema == model.schema
    assert Feature("x", "number") == Feature(**json.loads(json.dumps({"name": "x", "kind": "number"})))


def test_stored_data_is_not_counted_as_parameters() -> None:
    from segue.experiment.resources import count_parameters

    model = build_model()
    assert count_parameters(model) == sum(parameter.numel() for parameter in model.parameters())
    assert count_parameters(model) < sum(array.size for array in model.arrays().values())


def test_a_resumed_run_with_inputs_is_bit_identical(tmp_path: Path) -> None:
    def fit(run: Run, stop: bool) -> Any:
        def validate(model: Any) -> dict[str, float]:
            run.interrupted = stop
            return {"ndcg@10": 0.0}

        config = small(model_class("gru4rec").Config, {"inputs": ALL})
        return train("gru4rec", config, Training(epochs=3, batch_size=8, ema=0.9), world(), run, validate)

    expected = fit(Run(3, tmp_path / "whole"), False).arrays()
    with pytest.raises(Interrupted):
        fit(Run(3, tmp_path / "parts"), True)
    actual = fit(Run(3, tmp_path / "parts"), False).arrays()
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array, err_msg=name)
