"""Each protocol sets documented settings, which the evaluation follows; a setting that contradicts it is an error."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest
from command_line import call, result

import segue
from segue.core.messages import QualityWarning
from segue.experiment.plan import make_plan, read_plan
from segue.experiment.protocols.presets import PROTOCOLS
from segue.experiment.settings import ProtocolName

DATA = "simulated?users=40&items=200&seed=3&repeats=0.4&mean_length=20"

EXPANSIONS: dict[str, dict[str, Any]] = {
    "full": {"strategy": "leave_one_out", "exclude_seen": True, "items": "all", "sampled": None},
    "window": {"strategy": "leave_one_out", "exclude_seen": 50, "items": "all", "sampled": None},
    "repeats": {"strategy": "leave_one_out", "exclude_seen": False, "items": "all", "sampled": None},
    "ncf": {
        "strategy": "leave_one_out",
        "exclude_seen": True,
        "items": "all",
        "sampled": 99,
        "metrics": ("hit_rate", "ndcg"),
        "ks": (10,),
    },
    "session": {
        "strategy": "sessions",
        "exclude_seen": False,
        "items": "warm",
        "sampled": None,
        "metrics": ("hit_rate", "mrr"),
        "ks": (20,),
    },
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    return tmp_path


def plan(*overrides: str, recipe: str | Path = "none") -> Any:
    return make_plan({"model": "popular", "data": DATA}, overrides, recipe)


def test_every_protocol_has_a_name_and_an_expansion() -> None:
    assert set(PROTOCOLS) == set(get_args(ProtocolName)) == set(EXPANSIONS)
    assert all(protocol.summary for protocol in PROTOCOLS.values())


@pytest.mark.parametrize("name", EXPANSIONS)
def test_a_protocol_sets_every_setting_of_its_expansion(name: str, tmp_path: Path) -> None:
    found = plan(f"protocol={name}")
    expected = {"metrics": plan().evaluation.metrics, "ks": (5, 10), **EXPANSIONS[name]}
    assert found.evaluation.protocol == name
    assert found.split.strategy == expected.pop("strategy")
    assert {key: getattr(found.evaluation, key) for key in expected} == expected
    assert type(found.evaluation.exclude_seen) is type(expected["exclude_seen"])
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'[evaluation]\nprotocol = "{name}"\n')
    by_recipe = plan(recipe=recipe)
    assert {**by_recipe.values(), "task": {}} == {**found.values(), "task": {}}
    assert plan(f"evaluation.protocol={name}", "evaluation.metrics=[map]", "evaluation.ks=[3]").evaluation.ks == (3,)


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        (
            "full",
            "evaluation.exclude_seen=false",
            "requires evaluation.exclude_seen=true, got evaluation.exclude_seen=f",
        ),
        ("full", "evaluation.exclude_seen=20", "requires evaluation.exclude_seen=true, got evaluation.exclude_seen=20"),
        ("full", "evaluation.sampled=99", "requires evaluation.sampled=none, got evaluation.sampled=99"),
        ("full", "split.strategy=random", "requires split.strategy=leave_one_out, got split.strategy=random"),
        (
            "full",
            "split.drop_seen_targets=true",
            "requires split.drop_seen_targets=false, got split.drop_seen_targets=t",
        ),
        ("full", "split.use_query_time=true", "requires split.use_query_time=false, got split.use_query_time=true"),
        ("full", "split.cold_items=0.1", "requires split.cold_items=0.0, got split.cold_items=0.1"),
        (
            "window",
            "evaluation.exclude_seen=true",
            "requires evaluation.exclude_seen=50, got evaluation.exclude_seen=t",
        ),
        (
            "window",
            "evaluation.exclude_seen=false",
            "requires evaluation.exclude_seen=50, got evaluation.exclude_seen=",
        ),
        ("repeats", "evaluation.exclude_seen=true", "requires evaluation.exclude_seen=false, got evaluation.exclude_s"),
        ("ncf", "evaluation.sampled=100", "requires evaluation.sampled=99, got evaluation.sampled=100"),
        ("ncf", "evaluation.sampled=none", "requires evaluation.sampled=99, got evaluation.sampled=none"),
        ("session", "evaluation.items=all", "requires evaluation.items=warm, got evaluation.items=all"),
        ("session", "split.strategy=leave_one_out", "requires split.strategy=sessions, got split.strategy=leave_one_"),
    ],
)
def test_a_contradicting_setting_is_an_error_that_names_both(
    name: str, setting: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"protocol '{name}' {message}"):
        plan(f"evaluation.protocol={name}", setting)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'[evaluation]\nprotocol = "{name}"\n')
    with pytest.raises(ValueError, match=f"protocol '{name}' {message}"):
        plan(setting, recipe=recipe)


def test_settings_of_a_recipe_may_contradict_too(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[split]\nstrategy = "random"\n')
    with pytest.raises(ValueError, match=r"got split\.strategy=random in .*recipe\.toml; leave one of them out"):
        plan("protocol=full", recipe=recipe)
    assert plan("protocol=full", "split.strategy=leave_one_out", recipe=recipe).split.strategy == "leave_one_out"
    with pytest.raises(ValueError, match="protocol: got 'other': Input should be 'full'"):
        plan("protocol=other")


def test_the_window_may_have_another_length_and_the_split_other_shares() -> None:
    assert plan("protocol=window", "exclude_seen=7").evaluation.exclude_seen == 7
    chosen = plan("protocol=session", "test=0.3", "valid=0.2").split
    assert (chosen.strategy, chosen.test, chosen.valid) == ("sessions", 0.3, 0.2)


def test_a_run_records_the_name_and_every_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    record = result(capsys, "train", "popular", "--data", DATA, "--protocol", "ncf", "--test", "--out", run)
    assert record["protocol"]["protocol"] == "ncf"
    assert {"hit_rate@10", "ndcg@10", "sampled_hit_rate@10", "sampled_ndcg@10"} == set(record["intervals"])
    stored = tomllib.loads((run / "settings.toml").read_text())
    assert stored["evaluation"]["protocol"] == "ncf"
    assert stored["evaluation"]["sampled"] == 99
    assert stored["split"]["strategy"] == "leave_one_out"
    assert read_plan(run / "settings.toml").evaluation.protocol == "ncf"
    assert "Protocol `ncf`" in (run / "card.md").read_text()
    _, out, _ = call(capsys, "evaluate", run)
    assert "protocol ncf" in out
    window = result(capsys, "evaluate", run, "--protocol", "window")
    assert (window["protocol"]["protocol"], window["protocol"]["exclude_seen"]) == ("window", 50)
    assert not [name for name in window["intervals"] if name.startswith("sampled_")]
    status, _, err = call(capsys, "evaluate", run, "--protocol", "session")
    assert (status, "got split.strategy=leave_one_out, the split of the run" in err) == (2, True)
    status, _, err = call(capsys, "evaluate", run, "--include-seen")
    assert (status, "protocol 'ncf' requires evaluation.exclude_seen=true" in err) == (2, True)
    free = result(capsys, "evaluate", run, "--include-seen", "--set", "protocol=none", "--set", "sampled=none")
    assert "protocol" not in free["protocol"]
    edited = (run / "settings.toml").read_text().replace("sampled = 99", "sampled = 50")
    (run / "settings.toml").write_text(edited)
    with pytest.raises(ValueError, match=r"protocol 'ncf' requires evaluation\.sampled=99, got evaluation\.sampled=50"):
        read_plan(run / "settings.toml")


def test_evaluation_follows_the_protocol() -> None:
    """The metrics under each protocol are those of its settings, and differ from those of the others."""
    data = segue.load(DATA)
    found = {}
    for name in PROTOCOLS:
        parts = segue.split(data, "sessions") if name == "session" else segue.split(data)
        model = segue.train("item_knn", parts, baseline="none")
        window = 3 if name == "window" else None  # most histories are shorter than 50 events
        protocol: Any = name
        own = segue.evaluate(model, parts, protocol=protocol, metrics=["ndcg@10", "hit_rate@10"], exclude_seen=window)
        assert own.metadata["protocol"] == name
        assert f"protocol {name}" in repr(own)
        chosen = PROTOCOLS[name]
        seen: Any = chosen.exclude_seen if window is None else window
        items: Any = chosen.items
        plain = segue.evaluate(model, parts, metrics=["ndcg@10"], exclude_seen=seen, items=items)
        assert own["ndcg@10"].mean == pytest.approx(plain["ndcg@10"].mean)
        found[name] = own["sampled_ndcg@10" if name == "ncf" else "ndcg@10"].mean
    assert len({round(value, 6) for value in found.values()}) == 5, found
    assert found["ncf"] > found["full"], "99 sampled items are fewer than 199"


def test_only_items_of_the_newest_events_are_left_out() -> None:
    log = pl.DataFrame(
        {"user_id": [1] * 6 + [2] * 6, "item_id": [*"abcdea", *"fabcdf"], "timestamp": range(12), "rating": 1.0}
    )
    parts = segue.split(segue.load(log), valid=0)
    model = segue.train("popular", parts)
    by_window = {
        seen: segue.evaluate(model, parts, metrics=["hit_rate@6"], exclude_seen=seen).values["hit_rate@6"].tolist()
        for seen in (True, False, 5, 4, 2)
    }
    assert by_window == {True: [0, 0], False: [1, 1], 5: [0, 0], 4: [1, 1], 2: [1, 1]}
    with pytest.warns(
        QualityWarning, match="all 2 held-out targets are items that the user's history already contains"
    ):
        segue.evaluate(model, parts, metrics=["hit_rate@6"], exclude_seen=5)
    for wrong in (1, -2):
        with pytest.raises(
            ValueError, match=f"exclude_seen=: got {wrong}, expected True or False or an integer of at l"
        ):
            segue.evaluate(model, parts, exclude_seen=wrong)


def test_python_and_the_command_line_agree(capsys: pytest.CaptureFixture[str]) -> None:
    for name in PROTOCOLS:
        shown = result(capsys, "baselines", DATA, "--protocol", name)
        found = segue.baselines(DATA, protocol=name)  # type: ignore[arg-type]
        assert shown["protocol"] == found.record()["protocol"]
        assert shown["protocol"]["protocol"] == name
        assert shown["strongest"] == found.strongest
        assert shown["baselines"]["popular"]["metrics"] == found.record()["baselines"]["popular"]["metrics"]
        assert f"protocol {name}: split {PROTOCOLS[name].strategy}" in repr(found)
    assert found.metrics == ("mrr@20", "hit_rate@20"), "the headline of the protocol comes first"
    with pytest.raises(
        ValueError, match=r"protocol 'ncf' requires split.strategy=leave_one_out, got split.strategy=ran"
    ):
        segue.baselines(DATA, protocol="ncf", strategy="random")
    with pytest.raises(
        ValueError, match=r"protocol 'ncf' requires evaluation\.exclude_seen=true, got evaluation\.excl"
    ):
        segue.baselines(DATA, protocol="ncf", exclude_seen=False)


def test_a_comparison_follows_the_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    found = segue.compare(["popular", "item_knn"], DATA, protocol="ncf")
    assert found.metrics[0] == "sampled_ndcg@10"
    assert "protocol ncf" in repr(found)
    assert found.protocol == "ncf"
    stored = result(capsys, "compare", DATA, "popular", "item_knn", "--protocol", "ncf")
    assert stored["metric"] == "sampled_ndcg@10"
    assert stored["models"]["item_knn"]["protocol"]["protocol"] == "ncf"
    assert stored["models"]["item_knn"]["sampled_ndcg@10"] == pytest.approx(
        found.estimates["item_knn"]["sampled_ndcg@10"].mean, abs=1e-6
    )
    assert "ncf" in Path(stored["page"]).read_text()
    parts = segue.split(segue.load(DATA))
    with pytest.raises(
        ValueError, match=r"protocol 'session' requires split.strategy=sessions, got split.strategy=leav"
    ):
        segue.compare(["popular", "item_knn"], parts, protocol="session")
    with pytest.raises(ValueError, match=r"protocol 'session' requires split.strategy=sessions"):
        segue.evaluate(found.models["popular"], parts, protocol="session")
    with pytest.raises(ValueError, match="protocol=: got 'other', expected 'full' or 'window'"):
        segue.evaluate(found.models["popular"], parts, protocol="other")  # type: ignore[arg-type]


def test_training_in_python_validates_as_the_protocol_says() -> None:
    parts = segue.split(segue.load(DATA))
    settings: dict[str, Any] = {"epochs": 2, "embedding_dim": 8, "baseline": "none"}
    metrics = {
        seen: [line["valid/ndcg@10"] for line in segue.train("gru4rec", parts, **settings, **seen_as).training_history]
        for seen, seen_as in (
            ("repeats", {"protocol": "repeats"}),
            ("include", {"exclude_seen": False}),
            ("full", {"protocol": "full"}),
        )
    }
    assert metrics["repeats"] == metrics["include"] != metrics["full"]
    with pytest.raises(
        ValueError, match=r"protocol 'session' requires split\.strategy=sessions, got split\.strategy=leav"
    ):
        segue.train("gru4rec", parts, **settings, protocol="session")


def test_sessions_are_predicted_event_by_event() -> None:
    rows = [(1, "a", 1), (1, "b", 2), (1, "a", 3), (2, "b", 4), (2, "a", 5), (3, "c", 6), (3, "c", 7), (4, "a", 8)]
    rows += [(4, "b", 9), (4, "a", 10), (5, "b", 11)]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    parts = segue.split(segue.load(log), "sessions", test=0.4, valid=0.2)
    assert parts.train.histories.size == 5, "sessions 1 and 2"
    assert parts.metadata["held_out_sessions"] == {"valid": 1, "test": 2}
    items = parts.train.items
    assert items.decode(parts.valid.targets.items) == ["c"]
    queries = parts.test.queries
    assert [items.decode(queries.history.take(np.array([row])).items) for row in range(2)] == [["a"], ["a", "b"]]
    assert items.decode(parts.test.targets.items) == ["b", "a"], "an item may be the target again"
    assert parts.metadata["test"]["targets_in_history"] == 0.5
    assert not queries.known.any()
    assert segue.audit(parts).is_clean
    new = segue.split(segue.load(log), "sessions", test=0.4, valid=0.2, drop_seen_targets=True)
    assert new.train.items.decode(new.test.targets.items) == ["b"]
    assert new.metadata["test"]["seen_targets_dropped"] == 1
    with pytest.raises(ValueError, match=r"sessions: table has no times; use held_out_users"):
        segue.split(segue.load(log.drop("timestamp")), "sessions")
