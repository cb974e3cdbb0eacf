"""Evaluation, recommendation lists, validation and leakage checks on small data with known results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from segue.core.messages import SegueWarning
from segue.core.types import Codes, DataSchema, Dataset, Events, HeldOut, Queries, Scores, Split, Vocab
from segue.data import split_strategies, splits
from segue.evaluation import metrics
from segue.evaluation.evaluate import evaluate, evaluate_lists, make_validator
from segue.evaluation.leakage import check_leakage
from segue.evaluation.ranking import rank
from segue.evaluation.recommendation_files import read_recommendations, write_recommendations

N_ITEMS = 30
USERS = Vocab([f"u{n}" for n in range(40)])
ITEMS = Vocab([f"i{n}" for n in range(N_ITEMS)])


class Ascending:
    """Item j has score j for every user, so the last item of the catalog is the best."""

    schema = DataSchema(40, N_ITEMS)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        return np.tile(np.arange(N_ITEMS, dtype=np.float32), (len(queries), 1))


@pytest.fixture
def held_out() -> HeldOut:
    """Item 29 is in every history; target n has rank 29 - n, for users 0 to 28; user 29 has none."""
    targets = [[n] for n in range(29)] + [[]]
    queries = Queries.of_users(np.arange(30, dtype=np.int32), Events.of([[29]] * 30))
    return HeldOut(queries, Events.of(targets))


def test_values_means_and_intervals(held_out: HeldOut) -> None:
    actual = evaluate(Ascending(), held_out)
    ranks = 29 - np.arange(29)
    assert list(actual.values) == [
        f"{name}@{k}" for k in (5, 10) for name in ("recall", "precision", "hit_rate", "mrr", "ndcg")
    ]
    np.testing.assert_array_equal(actual.values["hit_rate@10"][:29], ranks <= 10)
    assert np.isnan(actual.values["hit_rate@10"][29])
    assert actual.estimates["hit_rate@10"].mean == pytest.approx(10 / 29)
    assert actual.estimates["mrr@5"].mean == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 29)
    assert actual.estimates["hit_rate@10"].low < 10 / 29 < actual.estimates["hit_rate@10"].high
    assert actual.top.items[0].tolist() == [28, 27, 26, 25, 24, 23, 22, 21, 20, 19]
    assert actual.metadata["queries"] == 30
    assert actual.metadata["queries_without_target"] == 1
    assert actual.metadata["exclude_seen"] is True


def test_the_same_seed_gives_the_same_intervals(held_out: HeldOut) -> None:
    first, second, other = (evaluate(Ascending(), held_out, seed=seed).estimates for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_excluding_seen_items_makes_targets_in_the_history_misses(held_out: HeldOut) -> None:
    """Target 29 is in the history: a miss if excluded, first if included, and counted either way."""
    seen_targets = HeldOut(held_out.queries, Events.of([[29, 29]] * 30))
    removed = evaluate(Ascending(), seen_targets)
    included = evaluate(Ascending(), seen_targets, exclude_seen=False)
    assert removed.estimates["hit_rate@10"].mean == 0.0
    assert included.estimates["mrr@5"].mean == 1.0
    for actual in (removed, included):
        assert actual.metadata["share_of_targets_in_history"] == 1.0
        assert actual.metadata["targets"] == 30
        assert actual.metadata["duplicate_targets"] == 30


def test_other_metrics_and_cutoffs(held_out: HeldOut) -> None:
    actual = evaluate(Ascending(), held_out, ks=(3,), metrics=(metrics.map, metrics.f1))
    assert list(actual.values) == ["map@3", "f1@3"]
    assert actual.estimates["f1@3"].mean == pytest.approx(3 * (2 / 4) / 29)
    with pytest.raises(ValueError, match=r"ks: got \(0,\)"):
        evaluate(Ascending(), held_out, ks=(0,))
    nothing = HeldOut(held_out.queries, Events.of([[]] * 30))
    with pytest.raises(ValueError, match="none of 30 queries has a true item"):
        evaluate(Ascending(), nothing)


def test_validator_returns_the_means_of_the_evaluation(held_out: HeldOut) -> None:
    actual = make_validator(held_out, "map@7")(Ascending())
    expected = evaluate(Ascending(), held_out, (7,), (metrics.map, metrics.ndcg, metrics.recall)).estimates
    assert next(iter(actual)) == "map@7"
    for name, estimate in expected.items():
        assert actual[name] == pytest.approx(estimate.mean)
    with pytest.raises(ValueError, match="unknown 'map50@10'"):
        make_validator(held_out, "map50@10")
    with pytest.raises(ValueError, match="no validation query has a true item, of 30"):
        make_validator(HeldOut(held_out.queries, Events.of([[]] * 30)))(Ascending())


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_written_lists_are_read_back(held_out: HeldOut, tmp_path: Path, suffix: str) -> None:
    ours = evaluate(Ascending(), held_out)
    path = tmp_path / f"lists{suffix}"
    write_recommendations(path, ours.top, held_out.queries, USERS, ITEMS)
    back = read_recommendations(path, held_out.queries, USERS, ITEMS)
    np.testing.assert_array_equal(back.items, ours.top.items)
    theirs = evaluate_lists(back, held_out)
    for name, values in ours.values.items():
        np.testing.assert_array_equal(values, theirs.values[name])
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


def test_lists_ordered_by_score_or_row_and_unknown_users(held_out: HeldOut) -> None:
    rows = {"user_id": ["u1", "u0", "u1", "u39"], "item_id": ["i5", "i7", "i1", "i3"]}
    with pytest.warns(SegueWarning, match="28 of 30 queries have no list, .*; 1 of 3 lists have no query"):
        by_score = read_recommendations(
            pl.DataFrame({**rows, "score": [0.1, 0.5, 0.2, 0.3]}), held_out.queries, USERS, ITEMS
        )
    assert by_score.items[:2].tolist() == [[7, 0], [1, 5]]
    assert by_score.lengths[:3].tolist() == [1, 2, 0]
    with pytest.warns(SegueWarning, match="28 of 30"):
        by_row = read_recommendations(pl.DataFrame(rows), held_out.queries, USERS, ITEMS)
    assert by_row.items[1].tolist() == [5, 1]
    actual = evaluate_lists(by_row, held_out, ks=(1, 2))
    assert actual.values["mrr@2"][:3].tolist() == [0.0, 0.5, 0.0]
    with pytest.raises(ValueError, match="k: got 3, expected at most 2"):
        evaluate_lists(by_row, held_out, ks=(3,))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": ["u1"]}, "no column 'item_id'; expected user_id and item_id, found user_id"),
        ({"user_id": ["u1", "u1"], "item_id": ["i1", "x"]}, "row 2: user_id 'u1', item_id 'x': the item is not in"),
        ({"user_id": ["u1", "u1"], "item_id": ["i1", "i1"]}, "appears twice in its list"),
        ({"user_id": ["u1"], "item_id": [None]}, "row 1: .* a value is missing"),
        ({"user_id": ["u1"], "item_id": ["i1"], "rank": [0]}, "expected a rank of at least 1"),
        ({"user_id": ["u1"] * 2, "item_id": ["i1", "i2"], "rank": [1, 1]}, "the rank appears twice in its list"),
        ({"user_id": ["u1"], "item_id": ["i1"], "score": [float("nan")]}, "a value is missing"),
        ({"user_id": ["u1"], "item_id": ["i1"], "rank": ["first"]}, "column 'rank'.*expected numbers"),
    ],
)
def test_invalid_lists_are_rejected(held_out: HeldOut, columns: dict[str, list[object]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_recommendations(pl.DataFrame(columns), held_out.queries, USERS, ITEMS)


def test_invalid_list_files_are_rejected(held_out: HeldOut, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        read_recommendations(tmp_path / "none.csv", held_out.queries, USERS, ITEMS)
    with pytest.raises(ValueError, match=r"unknown file type '.xls'"):
        read_recommendations(tmp_path / "none.xls", held_out.queries, USERS, ITEMS)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"broken\.parquet"):
        read_recommendations(broken, held_out.queries, USERS, ITEMS)
    twice = HeldOut(Queries.anonymous(Events.of([[], []])), Events.of([[1], [2]]))
    with pytest.raises(ValueError, match="2 queries of 1 users"):
        read_recommendations(pl.DataFrame({"user_id": ["u0"], "item_id": ["i0"]}), twice.queries, USERS, ITEMS)


def test_lists_must_match_the_queries(held_out: HeldOut) -> None:
    top = rank(Ascending(), held_out, 5).top
    with pytest.raises(ValueError, match="30 lists for 2 queries"):
        evaluate_lists(top, HeldOut(held_out.queries.rows_between(0, 2), held_out.targets.rows_between(0, 2)), ks=(5,))
    doubled = replace(top, items=np.zeros_like(top.items))
    with pytest.raises(ValueError, match="list 0: item 0 appears twice, again at rank 2"):
        evaluate_lists(doubled, held_out, ks=(5,))


def timed(rows: list[list[tuple[int, int]]]) -> Events:
    flat = [event for row in rows for event in row]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    items, times = (np.array([event[n] for event in flat], dtype) for n, dtype in ((0, np.int32), (1, np.int64)))
    return Events(offsets, items, times=times)


LOG = [[(0, 10), (1, 11), (0, 12), (2, 13)], [(3, 5), (4, 6), (5, 7)]]
"""(item, time) per user; user 0 returns to item 0."""


def leave_one_out(
    train: list[list[tuple[int, int]]] | None = None, with_times: bool = True, strategy: str = ""
) -> Split:
    def events(rows: list[list[tuple[int, int]]]) -> Events:
        return timed(rows) if with_times else Events.of([[item for item, _ in row] for row in rows])

    users = np.arange(2, dtype=np.int32)

    def make_held_out(last: int) -> HeldOut:
        history = [row[: len(row) - last] for row in LOG]
        targets = [row[len(row) - last :][:1] for row in LOG]
        return HeldOut(Queries.of_users(users, events(history)), events(targets))

    data = Dataset("log", Vocab(["a", "b"]), Vocab([str(n) for n in range(6)]), events(train or [r[:-2] for r in LOG]))
    return Split(data, make_held_out(2), make_held_out(1), {"strategy": strategy} if strategy else {})


@pytest.mark.parametrize("with_times", [True, False])
def test_a_correct_split_has_no_faults(with_times: bool) -> None:
    assert check_leakage(leave_one_out(with_times=with_times, strategy="leave_one_out")) == []
    assert check_leakage(leave_one_out(with_times=with_times)) == []


STRATEGIES = [name for name in split_strategies.__all__ if name not in ("none", "predefined")]
OPTIONS: list[dict[str, bool]] = [{}, {"drop_cold_targets": True, "drop_seen_targets": True}]


@pytest.mark.parametrize("options", OPTIONS, ids=["all targets", "new targets"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("with_times", [True, False])
def test_every_split_strategy_passes(strategy: str, with_times: bool, options: dict[str, bool]) -> None:
    """The log has repeated events, ties in time and short histories.

    global_temporal and sessions need times; each user has one session here, and those held out are cold.
    """
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 30, 60)
    items = [rng.integers(0, 12, length) for length in lengths]
    times = np.concatenate([np.sort(rng.integers(0, 1000, length)) // 3 for length in lengths])
    histories = replace(
        Events.of(items), times=times if with_times or strategy in ("global_temporal", "sessions") else None
    )
    data = Dataset("log", Vocab([str(n) for n in range(60)]), Vocab([str(n) for n in range(12)]), histories)
    actual = splits.split(data, splits.SplitSettings.model_validate({"strategy": strategy, **options}))
    if strategy in ("cold_users", "cold_items", "held_out_users", "user_k_fold", "sessions") and options:
        assert len(actual.test) == 0  # all targets are cold
    else:
        assert len(actual.test) > 0
    assert check_leakage(actual) == []


@pytest.mark.parametrize("with_times", [True, False])
def test_a_target_in_training_is_detected(with_times: bool) -> None:
    leaky = leave_one_out([LOG[0], LOG[1][:-2]], with_times)
    faults = check_leakage(leaky)
    assert "valid: 1 targets are training events of their user, first item 0 of user 0" in faults
    assert "test: 1 targets are training events of their user, first item 2 of user 0" in faults


@pytest.mark.parametrize("with_times", [True, False])
def test_a_target_in_its_own_history_is_detected(with_times: bool) -> None:
    split = leave_one_out(with_times=with_times)
    whole = replace(split.test.queries, history=timed(LOG) if with_times else Events.of([[0, 1, 0, 2], [3, 4, 5]]))
    faults = check_leakage(replace(split, test=HeldOut(whole, split.test.targets)))
    assert "test: 2 targets are in the history of their own query, first item 2 of user 0" in faults


def test_missing_history_events_are_detected() -> None:
    split = leave_one_out()
    short = replace(split.test.queries, history=split.test.queries.history.last(1))
    faults = check_leakage(replace(split, test=HeldOut(short, split.test.targets)))
    assert faults == ["test: 3 earlier events of the user are not in the history of the query, first item 0 of user 0"]


def test_future_events_are_detected() -> None:
    split = leave_one_out()
    history = split.test.queries.history
    later = HeldOut(replace(split.test.queries, history=history), replace(split.test.targets, times=np.array([9, 99])))
    assert check_leakage(replace(split, test=later)) == [
        "test: 3 history events are later than a target, first in query 0"
    ]
    assert check_leakage(replace(split, test=later, metadata={"is_ordered": False})) == []
    early = HeldOut(replace(split.test.queries, times=np.array([11, 7])), split.test.targets)
    assert check_leakage(replace(split, test=early)) == [
        "test: 1 history events are later than the query, first in query 0"
    ]
    assert check_leakage(leave_one_out(strategy="global_temporal")) == [
        "valid: 2 training events are later than the first target, at 6",
        "test: 2 training events are later than the first target, at 7",
    ]


def test_invalid_codes_and_unknown_users_are_detected() -> None:
    split = leave_one_out()
    outside = HeldOut(split.test.queries, replace(split.test.targets, items=np.array([6, 1])))
    assert check_leakage(replace(split, test=outside)) == [
        "test: 1 items of targets are outside the catalog, first code 6"
    ]
    stranger = HeldOut(replace(split.test.queries, users=np.array([0, 2])), split.test.targets)
    assert check_leakage(replace(split, test=stranger)) == ["test: 1 known users are outside the dataset, first code 2"]
    idle = replace(split, train=split.train.with_histories(timed([LOG[0][:2], []])))
    assert "test: 1 users are marked known but have no training event, first user 1" in check_leakage(idle)
    unknown = replace(split.test.queries, known=np.array([True, False]))
    assert check_leakage(replace(split, test=HeldOut(unknown, split.test.targets))) == []


def test_ids_of_lists_are_matched_in_their_type(held_out: HeldOut) -> None:
    users, items = Vocab([str(n) for n in range(40)], id_type="int64"), Vocab([str(n) for n in range(len(ITEMS))])
    everybody = pl.Series([float(n) for n in range(30)])
    lists = pl.DataFrame({"user_id": everybody, "item_id": [1.0] * 30})
    found = read_recommendations(lists, held_out.queries, users, items)
    assert found.items[:, 0].tolist() == [1] * 30
    with pytest.raises(ValueError, match=r"none of its 30 user ids, such as '0\.5', is that of a query"):
        read_recommendations(lists.with_columns(user_id=everybody + 0.5), held_out.queries, users, items)
