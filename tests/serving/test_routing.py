"""Who is in which experiment: the same for ever, evenly, independently; and the file behind it."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory_store import MemoryStore
from scipy.stats import chi2_contingency, chisquare

from segue.serving.experiments.assignment import Experiment, Experiments, Route, assign, noted, read_experiments
from segue.serving.experiments.rank_biased_overlap import overlap

HALVES = {"control": {"model": "old", "share": 0.5}, "new": {"model": "fresh", "share": 0.5}}


def experiment(**changes: Any) -> Experiment:
    return Experiment.model_validate({"name": "colours", "variants": HALVES} | changes)


def file(path: Path, *experiments: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"experiments": list(experiments)}))
    os.utime(path, ns=(0, int(path.stat().st_mtime_ns) + next(CLOCK)))  # some file systems count whole seconds
    return path


CLOCK = iter(range(0, 10**15, 10**10))


def followed(routes: Experiments) -> Route | None:
    routes.follow()
    return routes.route("ada")


def test_assignments_are_these_in_every_release() -> None:
    """``printf 'colours\\0ada' | sha256sum`` begins with c13f5a5b: 0.7549 of the way."""
    users = ["ada", "user 1", "émile", "", "42", "\ud800"]
    tenths = experiment(variants={str(n): {"model": "m", "share": 0.1} for n in range(9)})
    assert [assign(tenths, user) for user in users] == ["7", "5", "7", "3", "6", "0"]
    assert [assign(experiment(), user) for user in users[:3]] == ["new", "new", "new"]
    salted = experiment(salt="spring", variants=tenths.model_dump()["variants"])
    assert [assign(salted, user) for user in users] == ["1", "1", None, "0", "1", "0"]


def test_shares_are_kept_and_the_rest_is_outside() -> None:
    shares = {"control": 0.4, "a": 0.25, "b": 0.05}
    told = experiment(variants={name: {"model": "m", "share": share} for name, share in shares.items()})
    ids = [str(one) for one in np.random.default_rng(0).integers(0, 2**62, 50_000)]
    for users in (ids, [f"user{n}" for n in range(50_000)]):
        found = [assign(told, user) for user in users]
        counts = [found.count(name) for name in (*shares, None)]
        assert chisquare(counts, np.array([*shares.values(), 0.3]) * len(users)).pvalue > 0.001


def test_experiments_with_other_salts_are_independent() -> None:
    first, second = experiment(), experiment(name="sizes")
    both = np.array([(assign(first, str(n)) == "new", assign(second, str(n)) == "new") for n in range(50_000)])
    table = [[int(((both[:, 0] == a) & (both[:, 1] == b)).sum()) for b in (0, 1)] for a in (0, 1)]
    assert chi2_contingency(table).pvalue > 0.001
    same = experiment(name="sizes", salt="colours")
    assert all(assign(first, str(n)) == assign(same, str(n)) for n in range(1000))


def test_a_wider_share_moves_nobody_out() -> None:
    narrow = experiment(variants={"new": {"model": "m", "share": 0.1}}, shadow="s")
    wide = experiment(variants={"new": {"model": "m", "share": 0.3}}, shadow="s")
    inside = {n for n in range(5000) if assign(narrow, str(n))}
    assert inside < {n for n in range(5000) if assign(wide, str(n))}


def test_users_are_routed_by_the_first_experiment_that_takes_them(tmp_path: Path) -> None:
    tenth = {"only": {"model": "slow", "share": 0.1}}
    path = file(
        tmp_path / "e.json",
        {"name": "look", "variants": tenth, "shadow": "unseen"},
        {"name": "colours", "variants": HALVES},
    )
    routes = Experiments(path)
    found = {str(n): routes.route(str(n)) for n in range(2000)}
    assert routes.route(None) is None
    inside = [user for user, route in found.items() if route == Route("look", "only", "slow", "unseen")]
    assert 140 < len(inside) < 260
    for user, route in found.items():
        if user not in inside:
            variant = assign(experiment(), user)
            assert route == Route("colours", str(variant), {"control": "old", "new": "fresh"}[str(variant)])
    assert Experiments(None).route("ada") is None


def test_toml_is_read_as_json_is(tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text(
        '[[experiments]]\nname = "colours"\n'
        '[experiments.variants]\ncontrol = {model = "old", share = 0.5}\nnew = {model = "fresh", share = 0.5}\n'
    )
    assert read_experiments(tmp_path / "e.toml") == (experiment(),)
    assert experiment().control == "control"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", "not JSON"),
        ("[]", "expected a list of 'experiments'"),
        ('{"experiments": [3]}', "experiment 1: got 3"),
        ('{"experiments": [{"name": "a"}]}', "experiment 1.variants: got"),
        ('{"experiments": [{"name": "a", "variants": {"b": 1}}]}', "variants.b: got 1"),
        ('{"experiments": [{"name": "a", "variants": {"b": {"modle": "m"}}}]}', "did you mean 'model'"),
        ('{"experiments": [{"name": "a", "variants": {"b": {"model": "m", "share": 0}}}]}', "variants.b.share: got 0"),
        ('{"experiments": [{"name": "a", "variants": {"b": {"model": "m", "share": 1}}}]}', "nothing to compare"),
        ('{"experiments": [{"name": "a\\n", "variants": {}}]}', "experiment 1.name"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, content: str, fault: str) -> None:
    (tmp_path / "e.json").write_text(content)
    with pytest.raises(ValueError, match=fault):
        Experiments(tmp_path / "e.json")


def test_experiments_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    one = {"name": "a", "variants": HALVES}
    with pytest.raises(ValueError, match=r"'a' is there more than once(.|\n)*'a' gets nobody"):
        read_experiments(file(tmp_path / "e.json", one, one))
    with pytest.raises(ValueError, match="salt 'a': more than one"):
        read_experiments(file(tmp_path / "e.json", one | {"name": "b", "salt": "a"}, one))
    with pytest.raises(ValueError, match=r"sum to 1\.1"):
        read_experiments(file(tmp_path / "e.json", one | {"variants": HALVES | {"c": {"model": "m", "share": 0.1}}}))
    with pytest.raises(ValueError, match="no such file"):
        read_experiments(tmp_path / "none.toml")
    (tmp_path / "e.toml").write_text("=")
    with pytest.raises(ValueError, match="not TOML"):
        read_experiments(tmp_path / "e.toml")


def test_a_new_file_is_followed_and_a_broken_one_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def known(model: str) -> None:
        if model == "nobody":
            raise ValueError("model: unknown 'nobody'")

    caplog.set_level(logging.INFO)
    path = file(tmp_path / "e.json", {"name": "colours", "variants": HALVES})
    routes = Experiments(path, known)
    assert [one.name for one in routes.all] == ["colours"]
    path.write_text("{")
    assert followed(routes) == Route("colours", "new", "fresh")
    assert "kept as they were" in caplog.text
    assert "not JSON" in caplog.text
    file(path, {"name": "x", "variants": HALVES | {"control": {"model": "nobody", "share": 0.5}}})
    assert followed(routes) == Route("colours", "new", "fresh")
    assert "unknown 'nobody'" in caplog.text
    path.unlink()
    assert followed(routes) == Route("colours", "new", "fresh")
    file(path, {"name": "sizes", "variants": HALVES})
    assert followed(routes) == Route("sizes", assign(experiment(name="sizes"), "ada") or "", "old")
    caplog.clear()
    file(path, {"name": "sizes", "variants": {"control": HALVES["control"], "third": HALVES["new"]}})
    followed(routes)
    assert "divides users in another way" in caplog.text
    file(path)
    assert followed(routes) is None


def test_the_store_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = MemoryStore()
    path = file(tmp_path / "e.json", {"name": "colours", "variants": HALVES, "shadow": "s"})
    Experiments(path, kept=kept)
    assert noted(kept, "colours") == experiment(shadow="s")
    assert list((noted(kept, "colours") or experiment()).variants) == ["control", "new"]
    assert noted(kept, "sizes") is None
    kept.broken = True
    assert Experiments(path, kept=kept).route("ada") is not None
    assert "not noted" in caplog.text


def test_overlap_of_lists() -> None:
    assert overlap("abcde", "abcde") == pytest.approx(1)
    assert overlap("abc", "xyz") == 0
    assert (overlap([], []), overlap([], "a"), overlap("a", [])) == (1, 0, 0)
    assert overlap("abcd", "bacd") > overlap("abcd", "abdc") - 0.2 > 0.5
    assert overlap("bacd", "abcd") < overlap("abdc", "abcd"), "the top weighs more"
    # by hand at p = 0.5: agreements 0, 1, 2/3; (0.5/0.5) (0 + 1/4 + 2/3/8) + 2/3 * 1/8
    assert overlap("abc", "bax", 0.5) == pytest.approx(1 / 4 + 1 / 12 + 1 / 12)


def test_overlap_of_lists_of_other_lengths() -> None:
    """The sum of equation 32, term by term."""
    short, long, p = "acf", "abcdef", 0.8
    shared = [len(set(short[:d]) & set(long[:d])) for d in range(len(long) + 1)]
    s, n = len(short), len(long)
    total = sum(shared[d] / d * p**d for d in range(1, n + 1))
    total += sum(shared[s] * (d - s) / (s * d) * p**d for d in range(s + 1, n + 1))
    expected = (1 - p) / p * total + ((shared[n] - shared[s]) / n + shared[s] / s) * p**n
    assert overlap(short, long, p) == pytest.approx(expected)
    assert overlap(long, short, p) == pytest.approx(expected)
