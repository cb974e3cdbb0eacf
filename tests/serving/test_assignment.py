"""Assignment of users to variants, the experiments file, and rank-biased overlap."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory_store import MemoryStore
from scipy.stats import chi2_contingency, chisquare

from segue.serving.experiments.assignment import (
    Assignment,
    Experiment,
    Experiments,
    assign_variant,
    load_recorded_experiment,
    read_experiments,
)
from segue.serving.experiments.rank_biased_overlap import rank_biased_overlap

HALVES = {"control": {"model": "old-model", "share": 0.5}, "new": {"model": "new-model", "share": 0.5}}


def experiment(**changes: Any) -> Experiment:
    return Experiment.model_validate({"name": "colours", "variants": HALVES} | changes)


def write_file(path: Path, *experiments: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"experiments": list(experiments)}))
    os.utime(path, ns=(0, int(path.stat().st_mtime_ns) + next(CLOCK)))  # some file systems count whole seconds
    return path


CLOCK = iter(range(0, 10**15, 10**10))


def reload_and_assign(experiments: Experiments) -> Assignment | None:
    experiments.reload_if_changed()
    return experiments.assign("ada")


def test_assignments_are_stable_across_releases() -> None:
    """``printf 'colours\\0ada' | sha256sum`` starts with c13f5a5b, which is 0.7549 of the range."""
    users = ["ada", "user 1", "émile", "", "42", "\ud800"]
    tenths = experiment(variants={str(n): {"model": "m", "share": 0.1} for n in range(9)})
    assert [assign_variant(tenths, user) for user in users] == ["7", "5", "7", "3", "6", "0"]
    assert [assign_variant(experiment(), user) for user in users[:3]] == ["new", "new", "new"]
    salted = experiment(salt="spring", variants=tenths.model_dump()["variants"])
    assert [assign_variant(salted, user) for user in users] == ["1", "1", None, "0", "1", "0"]


def test_shares_of_variants() -> None:
    shares = {"control": 0.4, "a": 0.25, "b": 0.05}
    weighted = experiment(variants={name: {"model": "m", "share": share} for name, share in shares.items()})
    ids = [str(one) for one in np.random.default_rng(0).integers(0, 2**62, 50_000)]
    for users in (ids, [f"user{n}" for n in range(50_000)]):
        found = [assign_variant(weighted, user) for user in users]
        counts = [found.count(name) for name in (*shares, None)]
        assert chisquare(counts, np.array([*shares.values(), 0.3]) * len(users)).pvalue > 0.001


def test_different_salts_are_independent() -> None:
    first, second = experiment(), experiment(name="sizes")
    both = np.array(
        [(assign_variant(first, str(n)) == "new", assign_variant(second, str(n)) == "new") for n in range(50_000)]
    )
    table = [[int(((both[:, 0] == a) & (both[:, 1] == b)).sum()) for b in (0, 1)] for a in (0, 1)]
    assert chi2_contingency(table).pvalue > 0.001
    same = experiment(name="sizes", salt="colours")
    assert all(assign_variant(first, str(n)) == assign_variant(same, str(n)) for n in range(1000))


def test_increasing_a_share_keeps_existing_users() -> None:
    narrow = experiment(variants={"new": {"model": "m", "share": 0.1}}, shadow="s")
    wide = experiment(variants={"new": {"model": "m", "share": 0.3}}, shadow="s")
    inside = {n for n in range(5000) if assign_variant(narrow, str(n))}
    assert inside < {n for n in range(5000) if assign_variant(wide, str(n))}


def test_users_are_in_the_first_matching_experiment(tmp_path: Path) -> None:
    tenth = {"only": {"model": "slow", "share": 0.1}}
    path = write_file(
        tmp_path / "e.json",
        {"name": "look", "variants": tenth, "shadow": "shadow-model"},
        {"name": "colours", "variants": HALVES},
    )
    experiments = Experiments(path)
    found = {str(n): experiments.assign(str(n)) for n in range(2000)}
    assert experiments.assign(None) is None
    inside = [
        user for user, assignment in found.items() if assignment == Assignment("look", "only", "slow", "shadow-model")
    ]
    assert 140 < len(inside) < 260
    for user, assignment in found.items():
        if user not in inside:
            variant = assign_variant(experiment(), user)
            assert assignment == Assignment(
                "colours", str(variant), {"control": "old-model", "new": "new-model"}[str(variant)]
            )
    assert Experiments(None).assign("ada") is None


def test_toml_and_json_are_equivalent(tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text(
        '[[experiments]]\nname = "colours"\n'
        '[experiments.variants]\ncontrol = {model = "old-model", share = 0.5}\n'
        'new = {model = "new-model", share = 0.5}\n'
    )
    assert read_experiments(tmp_path / "e.toml") == (experiment(),)
    assert experiment().control == "control"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "expected a list 'experiments'"),
        ('{"experiments": [3]}', "experiment 1: got 3"),
        ('{"experiments": [{"name": "a"}]}', "experiment 1.variants: got"),
        ('{"experiments": [{"name": "a", "variants": {"b": 1}}]}', "variants.b: got 1"),
        ('{"experiments": [{"name": "a", "variants": {"b": {"modle": "m"}}}]}', "did you mean 'model'"),
        ('{"experiments": [{"name": "a", "variants": {"b": {"model": "m", "share": 0}}}]}', "variants.b.share: got 0"),
        (
            '{"experiments": [{"name": "a", "variants": {"b": {"model": "m", "share": 1}}}]}',
            "expected at least two models to compare",
        ),
        ('{"experiments": [{"name": "a\\n", "variants": {}}]}', "experiment 1.name"),
    ],
)
def test_invalid_files(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "e.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        Experiments(tmp_path / "e.json")


def test_conflicting_experiments(tmp_path: Path) -> None:
    one = {"name": "a", "variants": HALVES}
    with pytest.raises(ValueError, match=r"'a' occurs more than once(.|\n)*'a' receives no users"):
        read_experiments(write_file(tmp_path / "e.json", one, one))
    with pytest.raises(ValueError, match="salt 'a' is used by more than one"):
        read_experiments(write_file(tmp_path / "e.json", one | {"name": "b", "salt": "a"}, one))
    with pytest.raises(ValueError, match=r"sum to 1\.1"):
        read_experiments(
            write_file(tmp_path / "e.json", one | {"variants": HALVES | {"c": {"model": "m", "share": 0.1}}})
        )
    with pytest.raises(ValueError, match="no such file"):
        read_experiments(tmp_path / "none.toml")
    (tmp_path / "e.toml").write_text("=")
    with pytest.raises(ValueError, match="invalid TOML"):
        read_experiments(tmp_path / "e.toml")


def test_changed_files_are_reloaded_and_invalid_ones_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def load_models(models: Sequence[str]) -> None:
        if "missing" in models:
            raise ValueError("model: unknown 'missing'")

    caplog.set_level(logging.INFO)
    path = write_file(tmp_path / "e.json", {"name": "colours", "variants": HALVES})
    experiments = Experiments(path, load_models)
    assert [one.name for one in experiments.all] == ["colours"]
    path.write_text("{")
    assert reload_and_assign(experiments) == Assignment("colours", "new", "new-model")
    assert "previous experiments stay in force" in caplog.text
    assert "not JSON" in caplog.text
    write_file(path, {"name": "x", "variants": HALVES | {"control": {"model": "missing", "share": 0.5}}})
    assert reload_and_assign(experiments) == Assignment("colours", "new", "new-model")
    assert "unknown 'missing'" in caplog.text
    path.unlink()
    assert reload_and_assign(experiments) == Assignment("colours", "new", "new-model")
    write_file(path, {"name": "sizes", "variants": HALVES})
    assert reload_and_assign(experiments) == Assignment(
        "sizes", assign_variant(experiment(name="sizes"), "ada") or "", "old-model"
    )
    caplog.clear()
    write_file(path, {"name": "sizes", "variants": {"control": HALVES["control"], "third": HALVES["new"]}})
    reload_and_assign(experiments)
    assert "now assigns users differently" in caplog.text
    write_file(path)
    assert reload_and_assign(experiments) is None


def test_experiments_are_recorded_in_the_store(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    path = write_file(tmp_path / "e.json", {"name": "colours", "variants": HALVES, "shadow": "s"})
    Experiments(path, store=store)
    assert load_recorded_experiment(store, "colours") == experiment(shadow="s")
    assert list((load_recorded_experiment(store, "colours") or experiment()).variants) == ["control", "new"]
    assert load_recorded_experiment(store, "sizes") is None
    store.is_broken = True
    assert Experiments(path, store=store).assign("ada") is not None
    assert "cannot be recorded" in caplog.text


def test_rank_biased_overlap() -> None:
    assert rank_biased_overlap("abcde", "abcde") == pytest.approx(1)
    assert rank_biased_overlap("abc", "xyz") == 0
    assert (rank_biased_overlap([], []), rank_biased_overlap([], "a"), rank_biased_overlap("a", [])) == (1, 0, 0)
    assert rank_biased_overlap("abcd", "bacd") > rank_biased_overlap("abcd", "abdc") - 0.2 > 0.5
    assert rank_biased_overlap("bacd", "abcd") < rank_biased_overlap("abdc", "abcd"), "the top has more weight"
    # by hand at p = 0.5: agreements 0, 1, 2/3; (0.5/0.5) (0 + 1/4 + 2/3/8) + 2/3 * 1/8
    assert rank_biased_overlap("abc", "bax", 0.5) == pytest.approx(1 / 4 + 1 / 12 + 1 / 12)


def test_rank_biased_overlap_of_lists_of_different_lengths() -> None:
    """The sum of equation 32, term by term."""
    short, long, p = "acf", "abcdef", 0.8
    shared = [len(set(short[:d]) & set(long[:d])) for d in range(len(long) + 1)]
    s, n = len(short), len(long)
    total = sum(shared[d] / d * p**d for d in range(1, n + 1))
    total += sum(shared[s] * (d - s) / (s * d) * p**d for d in range(s + 1, n + 1))
    expected = (1 - p) / p * total + ((shared[n] - shared[s]) / n + shared[s] / s) * p**n
    assert rank_biased_overlap(short, long, p) == pytest.approx(expected)
    assert rank_biased_overlap(long, short, p) == pytest.approx(expected)
