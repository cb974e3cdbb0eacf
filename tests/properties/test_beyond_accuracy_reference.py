"""Every metric beyond accuracy equals an independent slow implementation on random lists."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.core.types import Events, HeldOut, Queries, Recommendations
from segue.evaluation.beyond_accuracy import exposure
from segue.evaluation.beyond_accuracy.list_metrics import known_list_metrics, resolve_list_metrics
from segue.evaluation.beyond_accuracy.lists import Lists
from segue.evaluation.beyond_accuracy.stability import jaccard_overlap, rank_biased_overlaps
from segue.evaluation.beyond_accuracy.training_data import TrainingData
from segue.evaluation.popularity_groups import popularity_groups
from segue.serving.experiments.rank_biased_overlap import rank_biased_overlap

N_ITEMS = 9
WIDTH = 5
TAGS = [None, [], ["a"], ["b"], ["a", "b"], ["a", "b", "c"], ["c"]]


@dataclass
class World:
    """Random lists, histories and training data as plain lists, and the same for Segue."""

    lists: list[list[int]]
    histories: list[list[int]]
    targets: list[list[int]]
    train: list[list[int]]
    tags: list[list[str] | None]
    vectors: list[list[float] | None]

    def made(self, k: int) -> Lists:
        items = np.full((len(self.lists), WIDTH), 3, np.int32)
        for row, one in zip(items, self.lists, strict=True):
            row[: len(one)] = one
        lengths = np.array([len(one) for one in self.lists])
        top = Recommendations(items, np.zeros(items.shape, np.float32), lengths)
        users = np.arange(len(self.lists), dtype=np.int32)
        held_out = HeldOut(Queries.of_users(users, Events.of(self.histories)), Events.of(self.targets))
        features = pl.LazyFrame(
            {"id": [str(item) for item in range(N_ITEMS)], "tags": self.tags, "vector": self.vectors},
            schema={"id": pl.String, "tags": pl.List(pl.String), "vector": pl.List(pl.Float32)},
        )
        return Lists.of(top, held_out, TrainingData(Events.of(self.train), N_ITEMS, features)).cut(k)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    n = draw(st.integers(1, 5))
    item = st.integers(0, N_ITEMS - 1)
    lists = st.lists(item, max_size=WIDTH, unique=True)
    events = st.lists(item, max_size=6)
    vector = st.none() | st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=2, max_size=2)
    return World(
        [draw(lists) for _ in range(n)],
        [draw(events) for _ in range(n)],
        [draw(events) for _ in range(n)],
        draw(st.lists(events, min_size=1, max_size=6)),
        [draw(st.sampled_from(TAGS)) for _ in range(N_ITEMS)],
        [draw(vector) for _ in range(N_ITEMS)],
    )


def mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def users_of(world: World, item: int) -> set[int]:
    return {user for user, events in enumerate(world.train) if item in events}


def cosine(first: list[float], second: list[float]) -> float:
    norms = math.hypot(*first) * math.hypot(*second)
    return sum(a * b for a, b in zip(first, second, strict=True)) / norms


def distance(world: World, kind: str, first: int, second: int) -> float:
    """Return the distance of two items; NaN if the feature of one of them is not known."""
    if kind == "users":
        one, other = users_of(world, first), users_of(world, second)
        if not one or not other:
            return 1.0
        return 1.0 - len(one & other) / math.sqrt(len(one) * len(other))
    if kind == "tags":
        tags = [set(world.tags[item] or ()) for item in (first, second)]
        if not all(tags):
            return math.nan
        return 1.0 - len(tags[0] & tags[1]) / math.sqrt(len(tags[0]) * len(tags[1]))
    vectors = [world.vectors[item] for item in (first, second)]
    if vectors[0] is None or vectors[1] is None or not any(vectors[0]) or not any(vectors[1]):
        return math.nan
    return 1.0 - cosine(vectors[0], vectors[1])


def diversity(world: World, kind: str, items: list[int], row: int) -> float:
    return mean([distance(world, kind, a, b) for a, b in combinations(items, 2)])


def unexpectedness(world: World, kind: str, items: list[int], row: int) -> float:
    history = sorted(set(world.histories[row]))
    return mean([mean([distance(world, kind, item, seen) for seen in history]) for item in items])


def serendipity(world: World, kind: str, items: list[int], row: int) -> float:
    history = sorted(set(world.histories[row]))
    if not history or not world.targets[row]:
        return math.nan
    relevant = world.targets[row]
    to_history = [mean([distance(world, kind, item, seen) for seen in history]) for item in items]
    return mean([
        far if item in relevant or math.isnan(far) else 0.0 for item, far in zip(items, to_history, strict=True)
    ])  # fmt: skip


def novelty(world: World, items: list[int]) -> float:
    n_users = max(1, sum(bool(events) for events in world.train))
    return mean([-math.log2(max(1, len(users_of(world, item))) / n_users) for item in items])


def events_of(world: World, item: int) -> int:
    return sum(events.count(item) for events in world.train)


def popularity(world: World, items: list[int]) -> float:
    return mean([float(events_of(world, item)) for item in items])


def popularity_lift(world: World, items: list[int], row: int) -> float:
    own = popularity(world, world.histories[row])
    return popularity(world, items) / own - 1.0 if own > 0 else math.nan


def group(world: World, item: int) -> str:
    counts = [events_of(world, one) for one in range(N_ITEMS)]
    total, own = sum(counts), counts[item]
    if own and sum(count for count in counts if count > own) < 0.2 * total:
        return "head"
    return "tail" if sum(count for count in counts if count <= own) <= 0.2 * total else "middle"


def shares(world: World, items: list[int]) -> dict[str, float]:
    """Return the share of each tag in items with known tags."""
    known = [world.tags[item] for item in items if world.tags[item]]
    found: Counter[str] = Counter()
    for tags in known:
        for tag in tags or ():
            found[tag] += 1.0 / (len(tags or ()) * len(known))  # type: ignore[assignment]
    return dict(found)


def miscalibration(world: World, items: list[int], row: int) -> float:
    p, q = shares(world, world.histories[row]), shares(world, items)
    if not p or not q:
        return math.nan
    return sum(p[tag] * math.log(p[tag] / (0.99 * q.get(tag, 0.0) + 0.01 * p[tag])) for tag in p)


def counts_of(lists: list[list[int]]) -> list[int]:
    return [sum(item in one for one in lists) for item in range(N_ITEMS)]


def coverage(lists: list[list[int]]) -> float:
    return sum(count > 0 for count in counts_of(lists)) / N_ITEMS


def gini(lists: list[list[int]]) -> float:
    counts = counts_of(lists)
    if not sum(counts):
        return 0.0
    return sum(abs(a - b) for a in counts for b in counts) / (2 * N_ITEMS * sum(counts))


def entropy(lists: list[list[int]]) -> float:
    counts = counts_of(lists)
    return -sum(count / sum(counts) * math.log2(count / sum(counts)) for count in counts if count)


@settings(max_examples=60)
@given(world=worlds(), k=st.integers(2, WIDTH))
def test_metrics_of_single_lists(world: World, k: int) -> None:
    lists, metrics = world.made(k), known_list_metrics()
    cut = [one[:k] for one in world.lists]
    rows = list(enumerate(cut))
    kinds = {None: "users", "tags": "tags", "vector": "vector"}
    expected = {
        ("novelty", None): [novelty(world, items) for items in cut],
        ("popularity", None): [popularity(world, items) for items in cut],
        ("popularity_lift", None): [popularity_lift(world, items, row) for row, items in rows],
        ("miscalibration", "tags"): [miscalibration(world, items, row) for row, items in rows],
        **{
            (f"{name}_share", None): [mean([float(group(world, item) == name) for item in items]) for items in cut]
            for name in ("head", "middle", "tail")
        },
        **{
            (function.__name__, feature): [function(world, kind, items, row) for row, items in rows]
            for function in (diversity, unexpectedness, serendipity)
            for feature, kind in kinds.items()
        },
    }
    if any("a" in (tags or ()) for tags in world.tags):
        expected["exposure", "tags=a"] = [shares(world, items).get("a", 0.0) if shares(world, items) else math.nan
                                          for items in cut]  # fmt: skip
    for (key, argument), values in expected.items():
        if key == "miscalibration" and not any(world.tags):
            continue
        found = metrics[key](lists) if argument is None else metrics[key](lists, argument)
        np.testing.assert_allclose(found, values, atol=1e-6, err_msg=f"{key} {argument}")


@settings(max_examples=60)
@given(world=worlds(), k=st.integers(1, WIDTH))
def test_metrics_of_all_lists_and_the_contributions_of_queries(world: World, k: int) -> None:
    """The mean is the metric; the values differ by N - 1 times the change without the query (the jackknife)."""
    cut = [one[:k] for one in world.lists]
    n = len(cut)
    if n > 1 and any(sum(map(len, cut)) == len(one) > 0 for one in cut):
        return  # without this list there is none
    for slow, fast in ((coverage, exposure.coverage), (gini, exposure.gini), (entropy, exposure.entropy)):
        found = fast(world.made(k))
        assert found.mean() == pytest.approx(slow(cut) if any(cut) else 0.0), slow.__name__
        if n > 1 and any(cut):
            without = np.array([slow(cut[:row] + cut[row + 1 :]) for row in range(n)])
            np.testing.assert_allclose(
                found - found.mean(), (n - 1) * (without.mean() - without), atol=1e-9, err_msg=slow.__name__
            )


@settings(max_examples=30)
@given(world=worlds(), data=st.data())
def test_only_ranked_items_count_for_coverage(world: World, data: st.DataObject) -> None:
    ranked = data.draw(st.sets(st.integers(0, N_ITEMS - 1), min_size=1))
    world = replace(world, lists=[[item for item in one if item in ranked] for one in world.lists])
    lists = replace(world.made(WIDTH), candidates=np.isin(np.arange(N_ITEMS), list(ranked)))
    assert exposure.coverage(lists).mean() == pytest.approx(coverage(world.lists) * N_ITEMS / len(ranked))
    counts = [counts_of(world.lists)[item] for item in ranked]
    pairs = sum(abs(a - b) for a in counts for b in counts)
    assert exposure.gini(lists).mean() == pytest.approx(pairs / max(1, 2 * len(ranked) * sum(counts)))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=20))
def test_every_item_is_in_one_popularity_group(counts: list[int]) -> None:
    groups = list(popularity_groups(np.array(counts)))
    assert [name for name, _, _ in groups] == ["head", "middle", "tail"]
    np.testing.assert_array_equal(sum(mask.astype(int) for _, _, mask in groups), np.ones(len(counts)))
    head, _, tail = (np.array(counts)[mask] for _, _, mask in groups)
    assert sum(tail) <= 0.2 * sum(counts)
    assert not len(head) or not len(tail) or head.min() > tail.max()


@given(
    first=st.lists(st.lists(st.integers(0, 8), max_size=WIDTH, unique=True), min_size=1, max_size=4),
    data=st.data(),
    k=st.integers(1, WIDTH),
    persistence=st.sampled_from([0.5, 0.9]),
)
def test_overlaps(first: list[list[int]], data: st.DataObject, k: int, persistence: float) -> None:
    n = len(first)
    row = st.lists(st.integers(0, 8), max_size=WIDTH, unique=True)
    second = data.draw(st.lists(row, min_size=n, max_size=n))

    def make(lists: list[list[int]]) -> Recommendations:
        items = np.zeros((n, WIDTH), np.int32)
        for line, one in zip(items, lists, strict=True):
            line[: len(one)] = one
        return Recommendations(items, np.zeros(items.shape, np.float32), np.array([len(one) for one in lists]))

    sets = [(set(a[:k]), set(b[:k])) for a, b in zip(first, second, strict=True)]
    jaccard = [len(a & b) / len(a | b) if a | b else 1.0 for a, b in sets]
    np.testing.assert_allclose(jaccard_overlap(make(first), make(second), k), jaccard)
    names = [[str(item) for item in one[:k]] for one in first], [[str(item) for item in one[:k]] for one in second]
    expected = [rank_biased_overlap(a, b, persistence) for a, b in zip(*names, strict=True)]
    np.testing.assert_allclose(rank_biased_overlaps(make(first), make(second), k, persistence), expected, atol=1e-12)


@settings(max_examples=30)
@given(values=st.lists(st.floats(0, 1) | st.just(math.nan), min_size=2, max_size=12), data=st.data())
def test_gap_between_groups(values: list[float], data: st.DataObject) -> None:
    n = len(values)
    labels = data.draw(st.lists(st.sampled_from(["x", "y", "z", "unknown"]), min_size=n, max_size=n))
    known = [(label, value) for label, value in zip(labels, values, strict=True)
             if label != "unknown" and not math.isnan(value)]  # fmt: skip
    means = [mean([value for other, value in known if other == label]) for label in {label for label, _ in known}]
    lists = replace(
        World([[0]] * n, [[]] * n, [[]] * n, [[0]], [None] * N_ITEMS, [None] * N_ITEMS).made(1),
        labels=lambda _: labels,
        accuracy=lambda _: np.array(values),
    )
    (metric,) = resolve_list_metrics(["gap:city:ndcg@1"])
    if len(means) < 2:
        with pytest.raises(ValueError, match="needs two groups of users with a true item"):
            metric(lists)
        return
    found = metric(lists)
    assert np.nanmean(found) == pytest.approx(max(means) - min(means))
    assert np.isnan(found).sum() == n - len(known)
