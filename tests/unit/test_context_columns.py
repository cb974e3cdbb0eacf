"""Context columns of events: from files and tables through the prepared dataset to the inputs of models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from command_line import call
from hypothesis import given
from hypothesis import strategies as st

import segue
from segue.core import bundle
from segue.core.batches import query_batches, training_batches
from segue.core.types import Dataset, Events, Queries, Vocab
from segue.data import load, open_dataset
from segue.data.coordinates import CELL_SIZES, grid_cells
from segue.data.raw_log import Log
from segue.experiment.plan import make_plan
from segue.nn.training_targets import cloze, next_item
from segue.testing import train_small

LOG = pl.DataFrame(
    {
        "user_id": ["a", "a", "b", "b", "c"],
        "item_id": ["x", "y", "x", "z", "y"],
        "timestamp": [1, 2, 1, 2, 1],
        "device": ["phone", None, "tv", "phone", "NA"],
        "city": [3, 1, None, 3, 1],
        "heat": [1.5, None, -2.0, 0.0, 30.0],
    }
)
COLUMNS: dict[str, Any] = {"context": ["device", "city"], "context_number": ["heat"]}


def check(data: Dataset) -> None:
    assert data.header["context"] == {"device": ["phone", "tv"], "city": ["1", "3"], "heat": None}
    context = data.histories.context
    assert context["device"].tolist() == [0, -1, 1, 0, -1]
    assert context["city"].tolist() == [1, 0, -1, 1, 0]
    np.testing.assert_array_equal(context["heat"], np.array([1.5, np.nan, -2, 0, 30], np.float32))
    assert [context[name].dtype for name in ("device", "heat")] == [np.dtype(np.int32), np.dtype(np.float32)]
    assert [(one.name, one.kind) for one in data.event_context] == [
        ("device", "category"),
        ("city", "category"),
        ("heat", "number"),
    ]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet", "arrow"])
def test_every_format_gives_the_same_context(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path / "home"))
    path = tmp_path / f"log.{suffix}"
    write: dict[str, Any] = {
        "csv": LOG.write_csv,
        "tsv": lambda file: LOG.write_csv(file, separator="\t"),
        "jsonl": LOG.write_ndjson,
        "parquet": LOG.write_parquet,
        "arrow": LOG.write_ipc,
    }
    write[suffix](path)
    data = load(str(path), columns=COLUMNS)
    check(data)
    check(open_dataset(data.header["folder"]))
    assert data.header["hash"] == load(LOG, columns=COLUMNS).header["hash"]


def test_tables_and_renamed_columns() -> None:
    check(load(LOG, columns=COLUMNS))
    check(load(LOG.to_pandas(), columns=COLUMNS))
    renamed = load(
        LOG.rename({"device": "d.1"}),
        columns={"context:device": "d.1", "context": ["city"], "context_number:heat": "heat"},
    )
    check(renamed)
    assert not load(LOG).histories.context


def test_the_hash_depends_on_the_context() -> None:
    changed = LOG.with_columns(device=pl.col("device").replace("tv", "radio"))
    hashes = {load(table, columns=COLUMNS).header["hash"] for table in (LOG, changed)}
    assert len(hashes | {load(LOG).header["hash"]}) == 3


def test_filters_keep_the_context_aligned() -> None:
    filtered = load(LOG, columns=COLUMNS)
    assert filtered.histories.where(filtered.histories.items == 0).context["device"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"context": "device"}, r"columns.context: got 'device', expected a list of column names"),
        ({"context": ["devise"]}, r"no column 'devise'.*did you mean 'device'"),
        ({"context_number": ["device"]}, r"column device: got 'phone', expected a number"),
        ({"context:items": "device"}, r"got the name 'items' of a context column, expected .*none of offsets, items"),
        ({"context:a.b": "device"}, r"got the name 'a.b' of a context column, expected letters"),
        ({"context": ["device"], "context_number": ["device"]}, "two context columns have the name 'device'"),
        ({"context": ["user_id"]}, "the name 'user_id' is reserved for ids"),
        ({"context:x": "user_id"}, "columns.context:x: 'user_id' is the column of user ids"),
        ({"context:x": "user_id", "user": "user_id"}, "'user_id' is already the column of"),
        ({"context_coordinates": ["heat"]}, r"got \['heat'\], expected the columns of latitude and longitude"),
        ({"context_coordinates": ["city", "timestamp"], "context:cell_1km": "device"}, "have the name 'cell_1km'"),
        ({"context_coordinates": ["device", "heat"]}, "column device: got 'phone', expected a number"),
        ({"context_coordinates": ["big", "city"]}, r"row 2, column big: got -90.5, expected a latitude from -90 to 90"),
        ({"context_coordinates": ["city", "wide"]}, r"column wide: got 180.25, expected a longitude from -180 to 180"),
    ],
)
def test_invalid_columns_are_rejected(columns: dict[str, Any], message: str) -> None:
    table = LOG.with_columns(
        big=pl.Series([1, -90.5, 0, 0, 0], strict=False), wide=pl.Series([180, 180.25, 0, 0, 0], strict=False)
    )
    with pytest.raises(ValueError, match=message):
        load(table, columns=columns)


PLACES = LOG.with_columns(
    lat=pl.Series([48.137, 0.29, -90.0, 90.0, None]), lon=pl.Series([11.575, -0.01, 180.0, -180.0, 5.0])
)


def test_coordinates_become_grid_cells_of_several_sizes(tmp_path: Path) -> None:
    data = load(PLACES, columns={"context_coordinates": ["lat", "lon"], "context": ["city"]})
    assert list(data.header["context"]) == ["city", "cell_1000km", "cell_100km", "cell_10km", "cell_1km"]

    def cells(name: str) -> list[str | None]:
        names = data.header["context"][name]
        return [None if code < 0 else names[code] for code in data.histories.context[name].tolist()]

    assert cells("cell_1000km") == ["40,10", "0,-10", "-90,-180", "80,-180", None]
    assert cells("cell_100km") == ["48,11", "0,-1", "-90,-180", "89,-180", None]
    assert cells("cell_10km") == ["48.1,11.5", "0.2,-0.1", "-90.0,-180.0", "89.9,-180.0", None]
    assert cells("cell_1km") == ["48.13,11.57", "0.29,-0.01", "-90.00,-180.00", "89.99,-180.00", None]
    PLACES.write_csv(tmp_path / "log.csv")
    read = load(str(tmp_path / "log.csv"), columns={"context_coordinates": "lat+lon", "context": ["city"]})
    assert read.header["hash"] == data.header["hash"]
    named = load(PLACES, columns={"context_coordinates:home": ["lat", "lon"]})
    assert next(iter(named.header["context"])) == "home_1000km"


@pytest.mark.parametrize("row", range(5))
@pytest.mark.parametrize("missing", [None, float("nan")])
def test_coordinates_may_be_missing_in_any_row(row: int, missing: float | None, tmp_path: Path) -> None:
    places = [None, 2.0, 3.0, 4.0, 5.0]
    places[0], places[row] = places[row] or 1.0, missing
    table = LOG.with_columns(lat=pl.Series(places, dtype=pl.Float64), lon=pl.Series([1.0, 2, 3, 4, 5]))
    expected = [None if place is None or place != place else f"{place:.1f},{column}.0"
                for column, place in enumerate(places, 1)]  # fmt: skip
    table.with_columns(lat=pl.col("lat").fill_nan(None)).write_csv(tmp_path / "log.csv")  # an empty cell
    for source in (table, table.to_pandas(), str(tmp_path / "log.csv")):
        data = load(source, columns={"context_coordinates": "lat+lon"})
        names, codes = data.header["context"]["cell_10km"], data.histories.context["cell_10km"]
        assert [None if code < 0 else names[code] for code in codes.tolist()] == expected


@given(st.floats(-90, 90), st.floats(-180, 180))
def test_coordinates_are_inside_their_cells(latitude: float, longitude: float) -> None:
    for size, cells in grid_cells([latitude], [longitude]).items():
        south, west = map(float, cells[0].split(","))
        degrees = CELL_SIZES[size]
        assert south - 1e-9 <= latitude + 0.001 * degrees
        assert latitude <= south + degrees * 1.001
        assert longitude >= 180 - 0.001 * degrees or west - 0.001 * degrees <= longitude <= west + degrees * 1.001
        assert -90 <= south < 90
        assert -180 <= west < 180


def test_comparisons_do_not_mix_queries_with_and_without_context() -> None:
    task = {"model": "gru4rec", "data": "simulated?users=50&items=20&seed=1"}
    without, informed = make_plan(task), make_plan(task, ["split.use_query_context=true"])
    assert without.comparison_key() != informed.comparison_key()


def test_missing_values_are_reported() -> None:
    found: list[str] = []
    log: Log = found.append
    load(LOG, columns=COLUMNS, log=log)
    assert any("device: 2 of 5 events have no value" in text for text in found)


# --- batches ---------------------------------------------------------------------------------------------------------


def test_batches_hold_the_context_of_the_event_and_of_the_query() -> None:
    events = replace(Events.of([[0, 1, 2]]), context={"device": np.array([1, -1, 0], np.int32)})
    columns = ("context:device", "query_context:device")
    _, batches = training_batches(
        events, 9, 5, 5, np.random.default_rng(0), next_item, all_windows=False, pool=1, columns=columns
    )
    (batch,) = batches
    np.testing.assert_array_equal(batch.columns[columns[0]], [[np.nan, 1, np.nan]])
    np.testing.assert_array_equal(batch.columns[columns[1]], [[1, np.nan, 0]])
    queries = replace(Queries.anonymous(events), context={"device": np.array([1], np.int32)})
    ((_, sequences),) = query_batches(queries, 9, None, 100, columns=columns)
    np.testing.assert_array_equal(sequences.columns[columns[0]], [[np.nan, 1, np.nan, 0]])
    np.testing.assert_array_equal(sequences.columns[columns[1]], [[1, np.nan, 0, 1]])
    _, batches = training_batches(
        events, 9, 5, 5, np.random.default_rng(0), cloze, all_windows=False, pool=1, columns=columns
    )
    (batch,) = batches
    masked = batch.items_BL == 10
    assert batch.columns[columns[0]][masked].isnan().all()
    assert batch.columns[columns[1]][~masked].isnan().all()


# --- models ----------------------------------------------------------------------------------------------------------

N_ITEMS, USERS, LENGTH = 12, 200, 10


def planted(numeric: bool = False) -> Dataset:
    """Item i is followed by i + 2 if the context of the next event is far, else by i + 1."""
    rng = np.random.default_rng(0)
    is_far = rng.random((USERS, LENGTH)) < 0.5
    first = rng.integers(N_ITEMS, size=(USERS, 1))
    items = (first + np.cumsum(np.where(is_far, 2, 1), axis=1)) % N_ITEMS
    column: Any = is_far.astype(np.int32)
    names: Any = ["near", "far"]
    if numeric:
        column, names = (np.where(is_far, 5.0, -5.0) + rng.normal(size=is_far.shape)).astype(np.float32), None
    noise = rng.integers(0, 3, items.size, dtype=np.int32)
    histories = Events(LENGTH * np.arange(USERS + 1), items.ravel(), context={"place": column.ravel(), "noise": noise})
    users, ids = Vocab([f"u{n}" for n in range(USERS)]), Vocab([f"i{n}" for n in range(N_ITEMS)])
    return Dataset("planted", users, ids, histories, header={"context": {"place": names, "noise": ["p", "q", "r"]}})


def hit_rate(model: Any, part: Any) -> float:
    """Return the hit rate at 1 with the newest five events: learned positions know only the lengths of training."""
    history = part.queries.history
    queries = replace(part.queries, history=history.slice_rows(history.lengths - 5, history.lengths))
    return float((model.score(queries).argmax(1) == part.targets.items).mean())


@pytest.mark.parametrize(("key", "numeric"), [("gru4rec", False), ("sasrec", True)])
def test_models_learn_from_the_context_of_the_query(key: str, numeric: bool) -> None:
    parts = segue.split(planted(numeric), use_query_context=True)
    informed: Any = train_small(key, parts.train, epochs=16, inputs=("query_context:place",))
    assert hit_rate(informed, parts.test) > 0.95
    without: Any = train_small(key, parts.train, epochs=5, inputs=("query_context:noise",))
    assert hit_rate(without, parts.test) < 0.65
    # a query without context is answered with the vector of unknown context
    assert hit_rate(informed, replace(parts.test, queries=replace(parts.test.queries, context={}))) < 0.75


INPUTS = ("context", "query_context")


@pytest.fixture(scope="module")
def trained() -> segue.TrainedModel:
    parts = segue.split(planted(), use_query_context=True)
    return segue.train("gru4rec", parts, recipe="none", epochs=1, inputs=INPUTS)


def test_batches_streams_and_bundles_agree(trained: Any, tmp_path: Path) -> None:
    parts = segue.split(planted(), use_query_context=True)
    model, queries = trained.model, parts.test.queries.rows_between(0, 7)
    expected = model.encode(queries)
    single = np.concatenate([model.encode(queries.rows_between(row, row + 1)) for row in range(7)])
    np.testing.assert_allclose(single, expected, rtol=1e-5, atol=1e-5)
    assert not np.allclose(model.encode(replace(queries, context={})), expected)
    history = queries.history
    state = model.state(replace(queries, history=history.slice_rows(0 * history.lengths, 0 * history.lengths + 3)))
    for position in range(3, int(history.lengths.max())):
        start = np.minimum(position, history.lengths)
        state = model.step(state, history.slice_rows(start, np.minimum(position + 1, history.lengths)))
    np.testing.assert_allclose(model.encode_state(state, None, queries.context), expected, rtol=1e-4, atol=1e-4)
    bundle.save(tmp_path / "b", trained)
    loaded: Any = bundle.load(tmp_path / "b").model
    assert loaded.schema == model.schema
    assert [one.name for one in loaded.schema.event_context] == ["place", "noise"]
    np.testing.assert_array_equal(loaded.encode(queries), expected)


def test_categories_that_do_not_occur_in_training_count_as_unknown() -> None:
    data = planted()
    data = replace(data, header={"context": {"place": ["near", "far", "new"], "noise": ["p", "q", "r"]}})
    model: Any = train_small("gru4rec", data, epochs=1, inputs=("query_context:place",))
    history = data.histories.take(np.arange(2))
    scores = [
        model.score(replace(Queries.anonymous(history), context={"place": np.full(2, code, np.int32)}))
        for code in (2, -1, 0)
    ]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])


def test_codes_of_other_data_are_translated(trained: Any) -> None:
    """The same queries in data that numbers the categories differently get the same scores."""
    data = planted()
    place = data.histories.context["place"]
    context = {**data.histories.context, "place": np.array([2, 1], np.int32)[place]}
    other = replace(
        data,
        histories=replace(data.histories, context=context),
        header={"context": {"place": ["elsewhere", "far", "near"], "noise": ["p", "q", "r"]}},
    )
    parts = [segue.split(one, use_query_context=True) for one in (data, other)]
    values = [segue.evaluate(trained, one.test, ks=(1,)).values["hit_rate@1"] for one in parts]
    np.testing.assert_array_equal(values[0], values[1])


def test_inputs_need_the_columns_and_the_context_of_queries() -> None:
    data = planted()
    with pytest.raises(ValueError, match=r"'query_context' needs the context of each query.*use_query_context=true"):
        segue.train("gru4rec", segue.split(data), recipe="none", epochs=1, inputs=["query_context"])
    with pytest.raises(ValueError, match=r"'context:plase' is not available: unknown context column 'plase'.*'place'"):
        train_small("gru4rec", data, epochs=1, inputs=("context:plase",))
    with pytest.raises(ValueError, match="'context' is not available: the data has no context columns"):
        train_small("gru4rec", replace(data, header={}), epochs=1, inputs=("context",))
    empty = replace(
        data.histories, context={**data.histories.context, "place": np.full(data.histories.size, -1, np.int32)}
    )
    with pytest.raises(ValueError, match="no known value of this context column"):
        train_small("gru4rec", data.with_histories(empty), epochs=1, inputs=("context",))


def test_evaluation_warns_of_inputs_that_the_data_lacks(trained: Any) -> None:
    data = planted()
    bare = replace(data, histories=replace(data.histories, context={}), header={})
    with pytest.warns(segue.SegueWarning, match=r"reads query_context, but the queries have no known value of place, "):
        segue.evaluate(trained, segue.split(data))
    with pytest.warns(segue.SegueWarning, match=r"reads context, but the events of the histories have no known value"):
        segue.evaluate(trained, segue.split(bare))
    with pytest.warns(segue.SegueWarning, match=r"'GRU4Rec' reads query_context"):
        segue.evaluate(trained.model, segue.split(data).test)
    with pytest.warns(segue.SegueWarning, match=r"'gru4rec' reads query_context"):
        segue.compare({"trained": trained, "popular": {}}, segue.split(data))
    with pytest.warns(segue.SegueWarning, match=r"'gru4rec' reads query_context"):
        found = segue.recommend(trained, segue.split(data).test, k=1, exclude_seen=False)
    assert "query_context" in found["notes"][0]
    segue.evaluate(trained, segue.split(data, use_query_context=True))  # without a warning


def test_the_command_reports_inputs_that_the_data_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path / "home"))
    rows = [(f"u{user}", f"i{(user + item) % 6}", item, "tv") for user in range(12) for item in range(4)]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "device"], orient="row")
    log.write_csv(tmp_path / "log.csv")
    data = segue.load(log, columns={"context": ["device"]})
    segue.save(segue.train("gru4rec", data, recipe="none", epochs=1, inputs=["context"]), tmp_path / "model")
    status, out, err = call(capsys, "evaluate", str(tmp_path / "model"), "--data", str(tmp_path / "log.csv"))
    assert status == 0, err
    assert "'gru4rec' reads context" in " ".join((out + err).split())


def test_a_context_column_of_another_kind_is_an_error(trained: Any) -> None:
    parts = segue.split(planted(numeric=True), use_query_context=True)
    with pytest.raises(ValueError, match=r"column 'place' has the kind 'number', but 'gru4rec' .* kind 'category'"):
        segue.evaluate(trained, parts)


def test_splits_with_query_context_need_context_columns() -> None:
    bare = replace(planted(), header={})
    with pytest.raises(ValueError, match=r"use_query_context=true: planted has no context columns"):
        segue.split(bare, use_query_context=True)
    with pytest.raises(ValueError, match=r"use_query_time=true: planted has no times"):
        segue.split(bare, use_query_time=True)


# --- inference -------------------------------------------------------------------------------------------------------

HISTORY = pl.DataFrame(
    {
        "user_id": ["v", "v", "w"],
        "item_id": ["i1", "i3", "i5"],
        "place": ["far", "near", None],
        "noise": ["p", None, "r"],
    }
)


def scored(table: Any) -> dict[tuple[Any, Any], float]:
    return {(row["user_id"], row["item_id"]): row["score"] for row in table.to_dicts()}


def test_histories_of_a_frame_have_their_context(trained: Any) -> None:
    found = segue.recommend(trained, HISTORY, k=3, context={"place": "near"})
    context = {"place": np.array([1, 0], np.int32), "noise": np.array([0, -1], np.int32)}
    of_query = {"place": np.array([0], np.int32), "noise": np.array([-1], np.int32)}
    queries = replace(Queries.anonymous(replace(Events.of([[1, 3]]), context=context)), context=of_query)
    expected = trained.model.score(queries)[0]
    for (user, item), score in scored(found).items():
        if user == "v":
            assert score == pytest.approx(expected[int(item[1:])], abs=1e-4)
    with pytest.warns(segue.SegueWarning, match="reads context, which item ids alone do not provide"):
        ids_only = segue.recommend(trained, histories={"v": ["i1", "i3"]}, k=3, context={"place": "near"})
    assert not np.allclose(found["score"][:3].to_numpy(), ids_only["score"].to_numpy(), rtol=1e-5)
    assert "context" in str(ids_only["notes"][0])


def test_the_context_of_queries_is_a_mapping_rows_or_columns(trained: Any) -> None:
    users = ["u1", "u2"]
    near, far = (segue.recommend(trained, users, k=12, context={"place": name}) for name in ("near", "far"))
    assert not near.equals(far)
    rows = segue.recommend(trained, users, k=12, context=[{"place": "near"}, {"place": "far"}])
    expected = {**{key: one for key, one in scored(near).items() if key[0] == "u1"},
                **{key: one for key, one in scored(far).items() if key[0] == "u2"}}  # fmt: skip
    assert scored(rows) == pytest.approx(expected)
    table = pl.DataFrame({"user_id": users, "place": ["near", "far"]})
    assert scored(segue.recommend(trained, table, k=12)) == scored(rows)
    for frame in (table.select("place"), table.to_pandas()):
        assert scored(segue.recommend(trained, users, k=12, context=frame)) == scored(rows)
    with pytest.warns(segue.SegueWarning, match=r"'gru4rec' also reads query_context, which is unknown here"):
        unknown = segue.recommend(trained, users, k=12)
    assert scored(unknown) == scored(segue.recommend(trained, users, k=12, context={"place": None}))
    with pytest.warns(segue.SegueWarning, match="context.place: the model does not know the value"):
        assert scored(segue.recommend(trained, users, k=12, context={"place": "moon"})) == scored(unknown)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"plase": "near"}, "unknown column 'plase', expected place, noise"),
        ([{"place": "near"}], "got 1 row for 2 queries"),
        ("near", "got 'near', expected a mapping"),
    ],
)
def test_a_wrong_context_is_rejected(trained: Any, context: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segue.recommend(trained, ["u1", "u2"], context=context)


def test_a_user_has_one_query_context(trained: Any) -> None:
    table = pl.DataFrame({"user_id": ["u1", "u1"], "place": ["near", "far"]})
    with pytest.raises(ValueError, match=r"several rows of user 'u1' in a table with the context of queries \(place\)"):
        segue.recommend(trained, table)
    plain = train_small("gru4rec", planted(), epochs=1)
    wrapped = bundle.create("gru4rec", plain, planted())
    with pytest.raises(ValueError, match="unknown column 'place', but 'gru4rec' was trained without context"):
        segue.recommend(wrapped, ["u1"], context={"place": "near"})


def test_the_command_reads_context_from_options_and_files(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segue.save(trained, tmp_path / "model")
    command = ["recommend", str(tmp_path / "model"), "-k", "12"]
    table = pl.DataFrame({"user_id": ["u1", "u2"], "place": ["near", " far"]})
    table.write_csv(tmp_path / "users.csv")
    out = str(tmp_path / "blocks.parquet")
    status, _, err = call(capsys, *command, "--users-file", str(tmp_path / "users.csv"), "--out", out)
    assert status == 0, err
    expected = segue.recommend(trained, ["u1", "u2"], k=12, context=[{"place": "near"}, {"place": "far"}])
    assert scored(pl.read_parquet(tmp_path / "blocks.parquet")) == pytest.approx(scored(expected))
    out = str(tmp_path / "one.parquet")
    status, _, err = call(capsys, *command, "--user", "u1", "--context", "place=near", "--out", out)
    assert status == 0, err
    near = {key: score for key, score in scored(expected).items() if key[0] == "u1"}
    assert scored(pl.read_parquet(out)) == pytest.approx(near)
    status, _, err = call(capsys, *command, "--user", "u1", "--context", "plase=near")
    assert status != 0
    assert "unknown column 'plase'" in err


def test_options_of_context_accumulate_and_values_may_have_commas(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = replace(planted(), header={"context": {"place": ["48.1,11.5", "0.0,-7.0"], "noise": ["p", "q", "r"]}})
    parts = segue.split(data, use_query_context=True)
    model = segue.train("gru4rec", parts, recipe="none", epochs=1, inputs=("query_context",))
    segue.save(model, tmp_path / "model")
    command = ["recommend", str(tmp_path / "model"), "-k", "12", "--user", "u1", "--out", str(tmp_path / "out.parquet")]
    expected = scored(segue.recommend(model, ["u1"], k=12, context={"place": "0.0,-7.0", "noise": "q"}))
    for options in (
        ["--context", "place=0.0,-7.0", "--context", "noise=q"],
        ["--context", "place=0.0,-7.0,noise=q"],
        ["--context", "noise=q, place = 0.0,-7.0"],
    ):
        status, _, err = call(capsys, *command, *options)
        assert status == 0, err
        assert scored(pl.read_parquet(tmp_path / "out.parquet")) == pytest.approx(expected)
    for options, message in (
        (["--context", "noise=q", "--context", "noise=p"], "--context: got two values of 'noise'"),
        (["--context", "q"], "--context: got 'q' in 'q', expected name=value"),
        (["--context", "noise="], "--context: got 'noise='"),
    ):
        status, _, err = call(capsys, *command, *options)
        assert status != 0
        assert message in err
    pl.DataFrame({"user_id": ["u1"], "noise": ["q"]}).write_csv(tmp_path / "users.csv")
    options = ["--users-file", str(tmp_path / "users.csv"), "--context", "place=0.0,-7.0"]
    status, _, err = call(capsys, "recommend", str(tmp_path / "model"), *options)
    assert status != 0
    assert "users.csv has columns of the context, too; give one of them" in err
