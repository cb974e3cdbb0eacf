"""``segue abtest``: outcomes per user, intervals and conclusions."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from segue.cli.abtest import abtest
from segue.experiment.abtest import analyze
from segue.serving.experiments.assignment import Experiment, Experiments
from segue.serving.experiments.outcomes import collect_outcomes
from segue.serving.stores.store import Event, Exposure

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))
from memory_store import MemoryStore

DEFINED = Experiment.model_validate(
    {"name": "x", "variants": {"control": {"model": "a", "share": 0.4}, "new": {"model": "b", "share": 0.4}}}
)
DAY = 86_400


def store(exposures: Iterable[tuple[str, str, int]] = (), events: Iterable[Event] = ()) -> MemoryStore:
    event_store = MemoryStore()
    event_store.record_exposures([Exposure("x", variant, user, time, ("p", "q")) for user, variant, time in exposures])
    event_store.append(list(events))
    return event_store


def simulate(rates: dict[str, float], n: int = 3000, seed: int = 0, shares: Any = None) -> MemoryStore:
    """Simulate ``n`` users, one per minute, who purchase an hour later or never, at a random price."""
    rng = np.random.default_rng(seed)
    names = list(rates)
    groups = rng.choice(len(names), n, p=shares)
    exposures, events = [], []
    for user, group in enumerate(groups.tolist()):
        exposures.append((f"u{user}", names[group], 60 * user))
        if rng.random() < rates[names[group]]:
            price = float(rng.exponential(10))
            events.append(Event(f"u{user}", "p", 60 * user + 3600, "purchase", price))
    return store(exposures, events)


def test_the_first_exposure_determines_variant_and_start() -> None:
    event_store = store(
        [("ada", "new", 100), ("ben", "control", 110), ("ada", "control", 120), ("cy", "gone", 130)],
        [
            Event("ada", "p", 99, "purchase", 1.0),
            Event("ada", "p", 100, "purchase", 2.0),
            Event("ben", "p", 150, "view", 4.0),
            Event("ben", "p", 169, "purchase", 8.0),
            Event("ben", "p", 170, "purchase", 16.0),
            Event("ada", "z", 130, "purchase"),
            Event("dan", "p", 150, "purchase", 32.0),
            Event("cy", "p", 150),
        ],
    )
    actual = collect_outcomes(event_store, "x", ("control", "new"))
    assert actual.variants == ("control", "new", "gone")
    assert (actual.groups.tolist(), actual.starts.tolist()) == ([1, 0, 2], [100, 110, 130])
    assert actual.values.tolist() == [1, 1, 0]
    assert actual.n_switched == 1
    assert actual.action_counts == {"purchase": 4, "view": 1, "interaction": 1}
    assert collect_outcomes(event_store, "x", value=True).values.tolist() == [2, 24, 0]
    assert collect_outcomes(event_store, "x", value=True, within=60).values.tolist() == [2, 8, 0]
    assert collect_outcomes(event_store, "x", action="interaction").values.tolist() == [0, 0, 1]
    assert len(collect_outcomes(event_store, "y")) == 0


def test_only_events_with_shown_items_count() -> None:
    event_store = store(
        [("ada", "control", 100), ("ben", "control", 100)],
        [Event("ada", "z", 150, "purchase"), Event("ben", "q", 150, "purchase"), Event("ada", "r", 150, "purchase")],
    )
    event_store.record_exposures([Exposure("x", "control", "ada", 200, ("r",))])
    assert collect_outcomes(event_store, "x").values.tolist() == [1, 1]
    assert collect_outcomes(event_store, "x", shown=True).values.tolist() == [0, 1], (
        "r was shown only after it was bought"
    )
    event_store.append([Event("ada", "r", 250, "purchase")])
    assert collect_outcomes(event_store, "x", shown=True).values.tolist() == [1, 1]


def test_a_difference_is_reported_with_its_interval() -> None:
    record = analyze(simulate({"control": 0.1, "new": 0.2}), "x", DEFINED, within=DAY, now=10**9)
    control, new = record["variants"]
    assert control["users"] + new["users"] == 3000
    (actual,) = record["comparisons"]
    assert actual["difference"] == pytest.approx(new["mean"] - control["mean"])
    assert 0 < actual["low"] < 0.1 < actual["high"]
    assert actual["p"] <= 0.05
    assert actual["significant_at"] < 3000
    assert record["conclusions"][0].startswith("new: the mean is higher than that of control, by +0.")
    assert record["notes"] == []
    assert record["sample_ratio_mismatch_p"] > 0.05


def test_no_difference_is_reported_as_such() -> None:
    record = analyze(simulate({"control": 0.1, "new": 0.1}), "x", DEFINED, within=DAY, now=10**9)
    assert record["comparisons"][0]["significant_at"] is None
    assert "no significant difference from control yet" in record["conclusions"][0]


def test_sums_of_values() -> None:
    record = analyze(simulate({"control": 0.1, "new": 0.3}), "x", DEFINED, value=True, within=DAY, now=10**9)
    assert record["variants"][0]["mean"] == pytest.approx(1, abs=0.25)
    assert record["comparisons"][0]["low"] > 0
    few = analyze(simulate({"control": 0.1, "new": 0.3}, 50), "x", DEFINED, value=True, within=DAY, now=10**9)
    assert few["conclusions"] == ["new: too few users for a conclusion yet."]


def test_users_wait_until_their_window_has_passed() -> None:
    event_store = simulate({"control": 0.5, "new": 0.5}, 100)
    record = analyze(event_store, "x", DEFINED, within=DAY, now=60 * 49 + DAY)
    assert sum(one["users"] for one in record["variants"]) == 50
    assert sum(one["waiting"] for one in record["variants"]) == 50
    early = analyze(event_store, "x", DEFINED, within=DAY, now=0)
    assert early["variants"][0]["mean"] is None
    assert early["conclusions"] == ["new: too few users for a conclusion yet."]


def test_a_change_over_time_is_reported() -> None:
    """A novelty effect: better at first, worse later."""
    rng = np.random.default_rng(1)
    exposures, events = [], []
    for user in range(6000):
        treated = rng.random() < 0.5
        exposures.append((f"u{user}", "new" if treated else "control", user))
        if rng.random() < 0.3 + (0.3 if user < 2000 else -0.14) * treated:
            events.append(Event(f"u{user}", "p", user, "purchase"))
    record = analyze(store(exposures, events), "x", DEFINED, within=1, now=10**9)
    assert record["comparisons"][0]["low"] < 0 < record["comparisons"][0]["high"]
    assert "it changed over time, or was a false positive" in record["conclusions"][0]


def test_sample_ratio_mismatch_prevents_conclusions() -> None:
    event_store = simulate({"control": 0.1, "new": 0.3}, shares=[0.6, 0.4])
    record = analyze(event_store, "x", DEFINED, within=DAY, now=10**9)
    assert record["sample_ratio_mismatch_p"] < 0.001
    assert len(record["conclusions"]) == 1
    assert "Find the cause before drawing any conclusion" in record["conclusions"][0]


def test_several_treatments_share_alpha() -> None:
    variants = {name: {"model": "m", "share": 0.3} for name in ("control", "a", "b")}
    defined = Experiment.model_validate({"name": "x", "variants": variants})
    event_store = simulate({"control": 0.1, "a": 0.1, "b": 0.25})
    record = analyze(event_store, "x", defined, within=DAY, now=10**9)
    a, b = record["comparisons"]
    assert (a["variant"], b["variant"]) == ("a", "b")
    assert a["significant_at"] is None
    assert b["significant_at"] is not None
    one = Experiment.model_validate({"name": "x", "variants": {name: variants[name] for name in ("control", "b")}})
    alone = analyze(event_store, "x", one, within=DAY, now=10**9)
    assert alone["comparisons"][0]["low"] > b["low"]
    assert any("no such variants: a" in note for note in alone["notes"])


def test_missing_information_is_reported() -> None:
    event_store = simulate({"control": 0.1, "new": 0.2}, 200)
    notes = " ".join(analyze(event_store, "x", None, action="click", now=0)["notes"])
    assert "without --within" in notes
    assert "assumed equal" in notes
    assert "no event of kind 'click' in time; kinds found: purchase" in notes
    with pytest.raises(ValueError, match="no user was exposed"):
        analyze(event_store, "y", None, now=0)
    with pytest.raises(ValueError, match="no variant named control among a, b"):
        analyze(simulate({"a": 0.1, "b": 0.2}, 20), "x", None, now=0)
    with pytest.raises(ValueError, match=r"alpha: got 5\.0"):
        analyze(event_store, "x", None, alpha=5.0, now=0)
    alone = store([("ada", "new", 1)])
    record = analyze(alone, "x", DEFINED, now=0)
    assert record["comparisons"][0]["difference"] is None
    assert record["conclusions"] == ["new: too few users for a conclusion yet."]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Any:
    event_store = simulate({"control": 0.1, "new": 0.25})
    opening = types.ModuleType("segue.serving.stores.open")
    opening.open_store = lambda address: event_store  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "segue.serving.stores.open", opening)
    app = typer.Typer()
    app.command()(abtest)

    def call(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["--store", "memory:", "--experiment", "x", *arguments])

    call.store = event_store  # type: ignore[attr-defined]
    return call


def test_the_command_prints_a_table_and_json(runner: Any, tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text(json.dumps({"experiments": [DEFINED.model_dump()]}))
    Experiments(tmp_path / "e.json", store=runner.store)
    shown = runner("--within", "86400")
    assert shown.exit_code == 0, shown.output
    for text in ("x: users with purchase", "control", "40 %", "95 % interval", "< 0.0001", "You may stop here."):
        assert text in shown.output
    assert runner.store.is_closed
    record = json.loads(runner("--within", "86400", "--value", "--json").stdout)
    assert record["outcome"] == "sum of values of purchase"
    assert record["comparisons"][0]["low"] > 0
    few = json.loads(runner("--within", "100000000000", "--json").stdout)
    assert few["variants"][0]["mean"] is None


def test_the_command_reads_the_experiments_file(runner: Any, tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text(json.dumps({"experiments": [DEFINED.model_dump()]}))
    record = json.loads(runner("--experiments", str(tmp_path / "e.json"), "--json").stdout)
    assert record["variants"][0]["share"] == 0.4
    assert "without --within" in runner().stderr
    (tmp_path / "e.json").write_text('{"experiments": []}')
    assert isinstance(runner("--experiments", str(tmp_path / "e.json")).exception, ValueError)
    runner.store.is_broken = True
    assert isinstance(runner().exception, OSError)
