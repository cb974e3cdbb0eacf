"""Examples that stay in Parquet files: the same encoders, splits and metrics as in memory, with few rows in memory."""

from __future__ import annotations

import sys
import weakref
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from command_line import call, result

import segue
from segue.core.examples import column_fitter
from segue.core.examples.column_fitter import ColumnFitter, fit_column
from segue.core.examples.columns import Column
from segue.core.examples.encoder import EncoderFitter, fit_encoder
from segue.core.examples.fields import Examples
from segue.core.examples.settings import ExampleSettings
from segue.data.examples.read import read_examples
from segue.data.examples.splits import ExampleSplitSettings, split_table
from segue.data.examples.streamed import StreamedTable
from segue.experiment.clicks.encoded_rows import EncodedRows, ShuffledRows, fit_rows
from segue.experiment.inference.files import read_table, write_parts

pytest.importorskip("pyarrow", reason="pyarrow is not installed")

SIZE, GROUP = 600, 40
FAST: dict[str, Any] = {"epochs": 2, "batch_size": 64, "embedding_dim": 2, "learning_rate": 0.05}


def world() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    x, users = rng.normal(size=SIZE), rng.integers(9, size=SIZE)
    return pl.DataFrame(
        {
            "label": (2 * x + rng.normal(size=SIZE) > 0).astype(int),
            "user": users,
            "x": pl.Series(np.where(users == 3, np.nan, x)),
            "size": pl.Series(rng.integers(4, size=SIZE).astype(float)).set(pl.Series(users == 1), None),
            "mixed": rng.integers(4, size=SIZE) / 2,
            "tags": [[f"t{one}" for one in range(two)] for two in rng.integers(4, size=SIZE)],
            "vector": [[float(one), 1.0] for one in users],
            "day": pl.Series(rng.integers(30, size=SIZE) * 86_400).cast(pl.Datetime("ms")),
            "part": pl.Series(np.arange(SIZE) % 3).replace_strict({0: "train", 1: "valid", 2: "test"}),
            "constant": "a",
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files with row groups of 40 rows, and one without rows."""
    path, table = tmp_path_factory.mktemp("shown"), world()
    table[:400].write_parquet(path / "part-1.parquet", row_group_size=GROUP)
    import pyarrow.parquet

    with pyarrow.parquet.ParquetWriter(path / "part-2.parquet", table.to_arrow().schema) as writer:
        for start in range(400, SIZE, GROUP):
            writer.write_table(table[start : start + GROUP].to_arrow())
            writer.write_table(table[:0].to_arrow())  # an empty row group
    table[:0].write_parquet(path / "part-3.parquet")
    return path


def streamed(path: Path) -> StreamedTable:
    table = read_examples(path, memory="streamed")
    assert isinstance(table, StreamedTable)
    return table


def assert_same(one: Column | str, two: Column | str) -> None:
    if isinstance(one, str) or isinstance(two, str):
        assert one == two
        return
    assert (one.name, one.kind, one.size, one.scaling, one.is_hashed) == (two.name, two.kind, two.size, two.scaling,
                                                                         two.is_hashed)  # fmt: skip
    assert one.values.to_list() == two.values.to_list()
    assert (one.center, one.scale) == pytest.approx((two.center, two.scale), rel=1e-12, abs=1e-12)
    assert one.knots == two.knots


@pytest.mark.parametrize("scaling", ["standard", "log", "quantile"])
def test_what_is_learned_about_columns_does_not_depend_on_how_rows_are_divided(scaling: Any) -> None:
    buckets = {"user": 7} if scaling == "log" else {}
    settings = ExampleSettings(scaling=scaling, columns={"mixed": "category"}, buckets=buckets, min_count=2)
    table = world().with_columns(empty=pl.lit(None, pl.Float64), whole=pl.col("size").fill_null(1.0))
    table = table.with_columns(late=pl.when(pl.int_range(SIZE) < 500).then(None).otherwise(pl.col("vector")))
    for cuts in ([0, SIZE], [0, 1, 2, 300, SIZE], list(range(0, SIZE + 1, 50))):
        for name in table.columns:
            fitter = ColumnFitter(name, table.schema[name], settings)
            for start, stop in pairwise(cuts):
                fitter.update(table[name][start:stop])
            assert_same(fitter.finish(), fit_column(table[name], settings))
    half = fit_column(pl.Series("mixed", [1.0, 1.0, 1.5, 1.5]), settings)
    assert isinstance(half, Column)  # a category is the same next to others and alone
    assert half.codes(pl.Series("mixed", [1.0])).tolist() == half.codes(pl.Series("mixed", [1.0, 1.5])).tolist()[:1]


def test_quantiles_of_many_numbers_are_those_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(column_fitter, "MAX_VALUES", 20_000)
    values = np.random.default_rng(0).permutation(100_000) / 100_000
    fitter = ColumnFitter("x", pl.Float64, ExampleSettings(scaling="quantile"))
    for part in np.split(np.sort(values), 20):  # sorted rows: a sample of the first ones would be wrong
        fitter.update(pl.Series("x", part))
        assert len(fitter.numbers.values) <= 20_000
    found = fitter.finish()
    assert isinstance(found, Column)
    assert (found.knots[0], found.knots[-1]) == (0, 0.99999)
    error = np.abs(np.array(found.knots) - np.linspace(0, 1, 1_001)).max()
    assert 0 < error < 0.002 * np.sqrt(1_000_000 / 20_000)


def test_encoders_of_files_are_those_of_tables(folder: Path) -> None:
    settings = ExampleSettings(min_count=1)
    one, n_positive = fit_rows(streamed(folder).drop("part"), settings)
    two = fit_encoder(world().drop("part"), settings)
    assert n_positive == world()["label"].sum()
    assert (one.unused, one.user, one.label) == (two.unused, two.user, two.label)
    for column, same in zip(one.columns, two.columns, strict=True):
        assert_same(column, same)


@pytest.mark.parametrize(
    "settings",
    [{}, {"seed": 3}, {"strategy": "user"}, {"strategy": "time", "column": "day"},
     {"strategy": "given", "column": "part"}],
)  # fmt: skip
def test_splits_of_files_are_those_of_tables(folder: Path, settings: dict[str, Any]) -> None:
    split = ExampleSplitSettings(**settings)
    one = split_table(streamed(folder), split)
    two = split_table(read_examples(folder), split)
    assert one.settings == two.settings
    for part in ("train", "valid", "test"):
        rows, same = getattr(one, part), getattr(two, part)
        assert isinstance(rows, StreamedTable)
        assert len(rows) == len(same)
        assert rows.columns == same.columns
        assert rows.frame.equals(same.frame)
        assert rows.rows_hash == same.rows_hash
    # a part of a part
    again = split_table(one.train, ExampleSplitSettings(valid=0.2, test=0.0))
    assert again.valid.frame.equals(split_table(two.train, ExampleSplitSettings(valid=0.2, test=0.0)).valid.frame)


def test_separate_files_and_partitions(folder: Path, tmp_path: Path) -> None:
    for name, rows in {"valid": world()[:50], "test": world()[50:90]}.items():
        rows.drop("part").write_parquet(tmp_path / f"{name}.parquet")
    for number in (0, 1):
        (tmp_path / "train" / f"shop={number}").mkdir(parents=True)
        world()[100 * number : 100 * number + 100].drop("part").write_parquet(
            tmp_path / "train" / f"shop={number}" / "a.parquet", row_group_size=30
        )
        for name in ("valid", "test"):
            file = tmp_path / name / f"shop={number}" / "a.parquet"
            file.parent.mkdir(parents=True)
            file.write_bytes((tmp_path / f"{name}.parquet").read_bytes())
    paths = {name: tmp_path / name for name in ("valid", "test")}
    one = split_table(segue.load_examples(tmp_path / "train", **paths, memory="streamed"), ExampleSplitSettings())
    two = split_table(segue.load_examples(tmp_path / "train", **paths, memory="all"), ExampleSplitSettings())
    for part in ("train", "valid", "test"):
        assert getattr(one, part).frame.equals(getattr(two, part).frame)
    assert one.train.frame["shop"].to_list() == ["0"] * 100 + ["1"] * 100


class Tally:
    """Counts the rows of examples that are alive."""

    def __init__(self) -> None:
        self.now, self.most = 0, 0

    def add(self, examples: Examples) -> None:
        count = len(examples)
        self.now += count
        self.most = max(self.most, self.now)
        weakref.finalize(examples, self.drop, count)

    def drop(self, count: int) -> None:
        self.now -= count


def test_an_epoch_has_every_row_once_and_few_rows_are_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = streamed(folder).drop("part")
    encoder = fit_rows(table, ExampleSettings())[0]
    expected = encoder.encode(world()).numbers[:, 0]
    tally, check = Tally(), Examples.__post_init__

    def counted(examples: Examples) -> None:
        check(examples)
        tally.add(examples)

    monkeypatch.setattr(Examples, "__post_init__", counted)
    for size, buffer_rows in ((50, 120), (7, 120), (64, 1), (SIZE - 1, 100), (5_000, 80)):
        rows = ShuffledRows(table, encoder, buffer_rows)
        n_batches, batches = rows.batches(size, np.random.default_rng(0))
        sizes, seen = [], []
        tally.now = tally.most = 0
        for batch in batches:
            sizes.append(len(batch))
            seen += batch.numbers[:, 0].tolist()
            del batch
        assert sum(sizes) == SIZE
        assert len(sizes) == n_batches
        assert set(sizes[:-1]) <= {size}
        assert sizes[-1] > 1
        np.testing.assert_array_equal(np.sort(seen), np.sort(expected))  # NaN last
        if size < 100:  # the buffer and its parts, what remains of the last one, and a batch
            assert tally.most <= 2 * (max(buffer_rows, GROUP) + size) + 2 * size
    first = np.concatenate([one.numbers[:, 0] for one in rows_of(table, encoder, 0)])
    again = np.concatenate([one.numbers[:, 0] for one in rows_of(table, encoder, 0)])
    other = np.concatenate([one.numbers[:, 0] for one in rows_of(table, encoder, 1)])
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    # rows of several row groups are in one batch
    groups = rows_of(table, encoder, 0)[0].numbers[:, 0]
    position = {value: at // GROUP for at, value in enumerate(expected.tolist())}
    assert len({position[one] for one in groups.tolist() if one == one}) >= 3


def rows_of(table: StreamedTable, encoder: Any, seed: int) -> list[Examples]:
    return list(ShuffledRows(table, encoder, 120).batches(50, np.random.default_rng(seed))[1])


def test_validation_that_does_not_fit_is_read_again_for_each_prediction(folder: Path) -> None:
    table = streamed(folder).drop("part")
    encoder = fit_rows(table, ExampleSettings())[0]
    large, small = EncodedRows(table, encoder, SIZE - 1), EncodedRows(table, encoder, SIZE)
    assert large.parts is None
    assert small.parts is not None
    expected = encoder.encode(world())
    assert expected.labels is not None
    for rows in (large, small):
        assert len(rows) == SIZE
        np.testing.assert_array_equal(rows.labels_T, expected.labels)
        assert rows.users_T is not None
        np.testing.assert_array_equal(rows.users_T, expected.users)
        np.testing.assert_array_equal(Examples.concat(list(rows.examples())).codes, expected.codes)


def test_training_evaluation_and_prediction(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path) -> None:
    settings = [f"{name}={value}" for name, value in FAST.items()] + ["memory=streamed", "buffer_rows=200"]
    options = [part for text in settings for part in ("--set", text)]
    arguments: tuple[Any, ...] = ("clicks", "train", "ctr_factorization_machine", "--data", folder, "--split", "given",
                                  "--column", "part", "--calibration", "platt", *options)  # fmt: skip
    status, _, err = call(capsys, *arguments, "--out", tmp_path / "m")
    assert status == 0, err
    assert "rows stay on the disk; 15 row groups are read in random order, and shuffled among 200 rows" in err
    model = segue.open_clicks(tmp_path / "m")
    parts = segue.split_examples(segue.load_examples(folder, memory="streamed"), "given", column="part")
    same = segue.train_clicks("ctr_factorization_machine", parts, calibration="platt", memory="streamed",
                              buffer_rows=200, folder=tmp_path / "f", **FAST)  # fmt: skip
    test = world().filter(part="test").drop("part")
    np.testing.assert_array_equal(same.predict(test), model.predict(test))
    assert model.metadata is not None
    assert model.metadata["rows"] == 200
    assert 'memory = "streamed"' in model.settings
    assert segue.evaluate_clicks(model, test)["auc"].mean > 0.8
    # it resumes, with the same rows alone
    again = segue.train_clicks("ctr_factorization_machine", parts, calibration="platt", memory="streamed",
                               buffer_rows=200, folder=tmp_path / "f", **FAST)  # fmt: skip
    np.testing.assert_array_equal(again.predict(test), model.predict(test))
    with pytest.raises(ValueError, match=r"run.buffer_rows: 100 here, 200 there"):
        segue.train_clicks("ctr_factorization_machine", parts, calibration="platt", memory="streamed",
                           buffer_rows=100, folder=tmp_path / "f", **FAST)  # fmt: skip
    # the same metrics and predictions as in memory
    in_memory = segue.evaluate_clicks(model, segue.load_examples(folder, memory="all"))
    on_disk = segue.evaluate_clicks(model, segue.load_examples(folder, memory="streamed"))
    assert {name: one.mean for name, one in in_memory.items()} == pytest.approx(
        {name: one.mean for name, one in on_disk.items()}, rel=1e-6
    )
    found = result(capsys, "clicks", "evaluate", tmp_path / "m", folder, "--memory", "streamed")
    assert found["metrics"]["uauc"] == pytest.approx(
        [on_disk["uauc"].mean, on_disk["uauc"].low, on_disk["uauc"].high], rel=1e-6
    )
    for suffix in (".parquet", ".csv"):
        files = [tmp_path / f"{mode}{suffix}" for mode in ("all", "streamed")]
        for file in files:
            record = result(capsys, "clicks", "predict", tmp_path / "m", folder, "--out", file, "--memory", file.stem)
            assert record["rows"] == SIZE
        one, two = (read_table(file) for file in files)
        assert one.columns == two.columns
        np.testing.assert_allclose(one["probability"].cast(pl.Float64), two["probability"].cast(pl.Float64), rtol=1e-5)
        assert one["tags"].to_list() == two["tags"].to_list()


def test_tables_are_written_in_parts(tmp_path: Path) -> None:
    parts = [pl.DataFrame({"a": [1, 2], "b": [["x"], ["y", "z"]]}), pl.DataFrame({"a": [3], "b": [["x"]]})]
    for suffix in (".parquet", ".csv", ".tsv", ".jsonl"):
        write_parts(tmp_path / f"t{suffix}", iter(parts))
        found = read_table(tmp_path / f"t{suffix}")
        assert found["a"].cast(pl.Int64).to_list() == [1, 2, 3]
        assert len(list(tmp_path.iterdir())) == 1
        (tmp_path / f"t{suffix}").unlink()

    def broken() -> Any:
        yield from parts
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        write_parts(tmp_path / "t.csv", broken())
    assert not list(tmp_path.iterdir())


def test_errors_name_file_and_row(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = world().drop("part")
    bad = rows.with_columns(x=pl.when(pl.int_range(SIZE) == 333).then(float("inf")).otherwise("x"))
    for name, table in {"good": rows[:100], "zbad": bad}.items():
        (tmp_path / "t").mkdir(exist_ok=True)
        table.write_parquet(tmp_path / "t" / f"{name}.parquet", row_group_size=GROUP)
    message = r"zbad.parquet, row 334, column 'x': got 'inf', expected a number"
    with pytest.raises(ValueError, match=message):
        segue.train_clicks("deepfm", tmp_path / "t", tmp_path / "t", memory="streamed", **FAST)
    with pytest.raises(ValueError, match=message):
        segue.train_clicks("deepfm", tmp_path / "t", tmp_path / "t", memory="all", **FAST)
    labels = rows.with_columns(label=pl.when(pl.int_range(SIZE) == 95).then(2).otherwise("label"))
    labels.write_parquet(tmp_path / "labels.parquet", row_group_size=GROUP)
    rows.with_columns(label=1).write_parquet(tmp_path / "ones.parquet", row_group_size=GROUP)
    rows[:0].write_parquet(tmp_path / "none.parquet")
    rows.select("label", "x").write_csv(tmp_path / "rows.csv")
    for name, expected in {
        "labels.parquet": r"labels.parquet, row 96, column 'label': got 2, expected 0 or 1",
        "ones.parquet": r"ones.parquet: column 'label': all 600 labels are 1 in training",
        "none.parquet": r"none.parquet: got no rows, expected examples",
        "rows.csv": r"memory: got 'streamed', but .*rows.csv is not Parquet",
        "frappe-x1": r"memory: got 'streamed', but frappe-x1 is not Parquet",
        "postgresql://h/d": r"memory: got 'streamed', but the data is a database",
    }.items():
        path = name if ":" in name or "-" in name else str(tmp_path / name)
        with pytest.raises(ValueError, match=expected):
            segue.train_clicks("deepfm", path, memory="streamed", **FAST)
    for key in ("logistic_regression", "gradient_boosting"):
        with pytest.raises(ValueError, match=f"memory: got 'streamed', but '{key}' needs all rows in memory"):
            segue.train_clicks(key, folder, memory="streamed")
    with pytest.raises(ValueError, match="memory: got 'streamed', but the data is DataFrame"):
        segue.train_clicks("deepfm", rows, memory="streamed", **FAST)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no file PAR1")
    with pytest.raises(ValueError, match=r"broken.parquet: not a readable .parquet file"):
        read_examples(tmp_path / "broken.parquet", memory="streamed")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pyarrow is not installed: pip install 'segue\[parquet\]'"):
        read_examples(folder, memory="streamed")


def test_large_files_are_streamed_for_networks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not isinstance(segue.load_examples(folder), StreamedTable)
    monkeypatch.setattr("segue.data.examples.read.MAX_BYTES", 1_000)
    assert isinstance(segue.load_examples(folder), StreamedTable)
    assert not isinstance(segue.load_examples(folder, memory="all"), StreamedTable)
    split = segue.split_examples(folder, "given", column="part")
    assert isinstance(split.train, StreamedTable)
    model = segue.train_clicks("logistic_regression", folder, folder, columns={"part": "ignore"}, iterations=1)
    assert model.metadata is not None
    assert model.metadata["rows"] == SIZE


def test_an_empty_fitter_is_an_error() -> None:
    with pytest.raises(ValueError, match="there are no rows in training"):
        EncoderFitter(ExampleSettings()).finish()
