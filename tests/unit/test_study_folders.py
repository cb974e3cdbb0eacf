"""Folders, models and reports of studies: nothing is overwritten, and errors come before the first training."""

from __future__ import annotations

import json
from argparse import Namespace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from command_line import call, result

import segue
from benchmarks import pages, studies
from segue.reports.html.layout import page_figures
from segue.reports.html.render import render_report
from segue.studies import cost_and_accuracy
from segue.studies.framework.context import StudyContext
from segue.studies.framework.drawing import draw_heat_map, draw_intervals, draw_lines, draw_scatter
from segue.studies.framework.report import study_page
from segue.studies.framework.study import Cell, Grid
from segue.studies.framework.study_folder import STUDY, list_studies, read_study
from segue.studies.framework.study_modules import hash_measurement
from segue.studies.framework.summary import describe_overlap, is_apart
from tests.report_tables import parse_report

alt = pytest.importorskip("altair", reason="altair is not installed: pip install 'segue[report]'")

DATA = "simulated?users=40&items=60&seed=1"
TINY = ["epochs=1"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which all studies of this file share their trainings."""
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(autouse=True)
def _home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(home))


def run(**options: Any) -> Any:
    return segue.run_study("seed_variance", DATA, **{"models": ["lstm"], "seeds": [0], "overrides": TINY, **options})


def test_other_models_seeds_or_settings_have_another_folder() -> None:
    first = run()
    page = (first.folder / "README.md").read_text()
    others = [run(seeds=[1]), run(models=["sasrec"]), run(overrides=["epochs=1", "dropout=0"])]
    assert len({first.folder, *(one.folder for one in others)}) == 4
    assert (first.folder / "README.md").read_text() == page
    assert run().folder == first.folder
    assert first.folder in list_studies()


def test_a_folder_with_another_study_or_other_files_is_kept(tmp_path: Path) -> None:
    run(out=tmp_path / "mine")
    run(out=tmp_path / "mine")  # the same study is written again
    with pytest.raises(ValueError, match=r"out=: .*mine has a study with other grid; name another folder"):
        run(out=tmp_path / "mine", seeds=[1])
    with pytest.raises(ValueError, match=r"out=: .*mine has a study with other overrides"):
        run(out=tmp_path / "mine", overrides=["epochs=2"])
    (tmp_path / "mine" / STUDY).write_text("[]")
    with pytest.raises(ValueError, match=r"study.json: expected the record of a study; name another folder"):
        run(out=tmp_path / "mine")
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ValueError, match=r"out=: .* holds other files, expected a new or empty folder, or a study"):
        run(out=tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_page_of_an_earlier_version_is_written_again() -> None:
    path = run().folder / STUDY
    record = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in record.items() if name != "settings_of_runs"}))
    with pytest.raises(ValueError, match=r"has no settings_of_runs; .*: run it again"):
        read_study(path.parent)
    run()
    assert json.loads(path.read_text())["settings_of_runs"] == record["settings_of_runs"]


@pytest.mark.parametrize(
    ("study", "model", "message"),
    [
        ("embedding_utilization", "ease", "got ease, which has no setting embedding_dim; the study embedding_utilizat"),
        ("embedding_utilization", "neumf", "got neumf, which has no item vectors; the study embedding_utilization"),
        ("diversity", "bpr", "got bpr, which has no setting max_length; the study diversity needs it, expected models"),
        ("cost_and_accuracy", "user_knn", "got user_knn, which has no setting epochs; the study cost_and_accuracy"),
        ("gradient_stability", "fusion", "got the model fusion; gradient_stability measures models of sequences"),
        ("token_usage", "popular", "got the model popular; token_usage measures models of sequences"),
    ],
)
def test_models_that_a_study_cannot_measure_are_errors_before_training(study: str, model: str, message: str) -> None:
    log: list[str] = []
    with pytest.raises(ValueError, match=f"models=: {message}"):
        segue.run_study(study, DATA, models=["lstm", model], log=log.append)
    assert not [line for line in log if "training" in line]


def test_settings_that_no_model_has_are_errors() -> None:
    with pytest.raises(ValueError, match=r"--set dropout=0\.1: not used by ease, popular; leave it out"):
        segue.run_study("long_tail", DATA, models=["ease", "popular"], overrides=["dropout=0.1"])


def test_a_model_with_its_own_learning_rate_is_planned_without_that_of_networks() -> None:
    context = StudyContext("x", DATA, Grid((1,), models=("bpr",)), print, ["learning_rate=0.5"])
    assert context.plan("bpr").model.model_dump()["learning_rate"] == 0.5
    assert StudyContext("x", DATA, Grid((1,), models=("bpr",)), print).plan("bpr").task.model == "bpr"


def test_few_users_are_an_error_that_names_the_number() -> None:
    with pytest.raises(ValueError, match=r"data=: .* has \d test queries of 9 users, expected at least 20 for a study"):
        segue.run_study("long_tail", "simulated?users=9&items=60&seed=1", models=["ease"])


def test_only_the_code_of_measurements_is_hashed(tmp_path: Path) -> None:
    def load(text: str, name: str) -> ModuleType:
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        spec = spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    base = "N = 1\ndef run():\n    return _inner()\ndef _inner():\n    return N\ndef answer():\n    return 'a'\n"
    changes = {
        "answer": (base.replace("'a'", "'b'"), True),
        "comment": (f"# why\n{base}", True),
        "constant": (base.replace("N = 1", "N = 2"), False),
        "inner": (base.replace("return N", "return -N"), False),
    }
    expected = hash_measurement(load(base, "base"))
    for name, (text, is_same) in changes.items():
        assert (hash_measurement(load(text, name)) == expected) == is_same, name


def cells(values: list[float], half: float) -> list[Cell]:
    return [{"x": value, "interval": [value - half, value + half]} for value in values]


def test_differences_are_clear_only_beyond_intervals_and_seeds() -> None:
    low, high = cells([0.1, 0.11, 0.12], 0.02), cells([0.2, 0.21, 0.22], 0.02)
    assert is_apart(low, high, "x")
    assert is_apart(high, low, "x")
    assert not is_apart(low, cells([0.2, 0.21, 0.22], 0.1), "x"), "intervals over users overlap"
    assert not is_apart(cells([0.1, 0.1, 0.25], 0.001), cells([0.2, 0.2, 0.2], 0.001), "x"), "seeds disagree"
    assert describe_overlap(low, high, "x") == ""
    assert "within the intervals or the seeds" in describe_overlap(low, low, "x")


def test_neighbors_on_the_front_that_chance_may_order_are_named() -> None:
    numbers = {"query_ms": 1.0, "parameters": 10, "epochs": 3}
    found = [
        {"model": "lstm", "length": length, "seed": seed, "epoch_seconds": length, **numbers}
        | {"ndcg@10": value + seed / 1e4, "interval": [value - 0.01, value + 0.01]}
        for length, value in ((10, 0.1), (20, 0.105), (50, 0.2))
        for seed in range(3)
    ]
    sentences = cost_and_accuracy.answer(found)
    assert "less than the intervals or the seeds: `lstm` with 10 and `lstm` with 20." in sentences[1]


def test_charts_fit_the_schema_of_vega_lite() -> None:
    charts = [
        draw_lines({"a": [(1, 0.1, 0.05, 0.2), (2, 0.2, 0.1, 0.3)], "b": [(1, 0.3), (2, float("nan"))]}, "x", "y"),
        draw_lines({"a": [(1, 0.1), (10, 0.0)]}, "x", "y", log_x=True, log_y=True),
        draw_intervals({"a": (0.1, 0.05, 0.2), "b": (-0.1, -0.2, 0.1)}, "difference"),
        draw_scatter({"a": [(1.0, 0.1, "10")], "b": [(2.0, 0.2, "20")]}, [(1.0, 0.1), (2.0, 0.2)], "cost", "gain"),
        draw_heat_map([[0.1, None], [0.0, 0.0]], ["r", "s"], ["2", "1"], "events", "Darker: more"),
        draw_heat_map([[0.1, None], [0.3, 0.2]], ["r", "s"], ["a", "b"], "", "Next item: x", by_column=True),
    ]
    for chart in charts:
        alt.Chart.from_dict(dict(chart.spec), validate=True)
        assert "nan" not in json.dumps(chart.spec).lower().replace("nominal", "")
    assert "a from 0.1 at 1 to 0.1 at 1" in charts[1].text, "0 is not on a logarithmic scale"


def test_the_report_of_a_study_has_its_answer_tables_and_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = run(seeds=[0, 1])
    found = segue.report(study.folder, tmp_path / "study.html", figures=tmp_path / "figures")
    assert found.title == study.record["question"]
    html = found.path.read_text()
    parsed = parse_report(html)
    text = " ".join(parsed.text)
    for sentence in study.answer:
        assert sentence.replace("`", "") in text
    assert "Spread over seeds" in text
    assert study.record["data_hash"] in text
    assert {path.suffix for path in found.figures} == {".png", ".svg"}
    assert html == render_report(study_page(study.record))
    assert len(page_figures(study_page(study.record))) == len(parsed.labels) == 1
    by_name = result(capsys, "report", study.folder.name, "--out", str(tmp_path / "named.html"))
    assert (tmp_path / "named.html").read_text() == html
    assert by_name["title"] == study.record["question"]


def test_reports_of_studies_explain_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = run()
    with pytest.raises(ValueError, match="users: not used for a study, which has its own; leave it out"):
        segue.report(study.folder, users=3)
    with pytest.raises(ValueError, match="min_user_events: not used for a study"):
        segue.report(study.folder, min_user_events=3)
    with pytest.raises(ValueError, match=r"source: 'seed_variance' is a study, expected one of its results: seed_var"):
        segue.report("seed_variance")
    with pytest.raises(ValueError, match=r"source: 'ablation' is a study, expected its result, which segue study abl"):
        segue.report("ablation")
    code, _, error = call(capsys, "report", study.folder, "--metric", "ndcg@10")
    assert code
    assert "--metric: not used for a study" in error
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / STUDY).write_text("{}")
    with pytest.raises(ValueError, match=r"study\.json: has no study; expected the record of a study"):
        segue.report(damaged)
    (damaged / STUDY).write_text("{")
    with pytest.raises(ValueError, match=r"study\.json"):
        segue.report(damaged)
    (damaged / STUDY).write_text(json.dumps({**study.record, "study": "astrology"}))
    with pytest.raises(ValueError, match="has the unknown study astrology"):
        segue.report(damaged)


def options(**values: Any) -> Namespace:
    return Namespace(**{"study": None, "source": None, "run": None, "models": None, "quick": True, **values})


def test_results_pages_are_made_from_their_measurements(tmp_path: Path) -> None:
    chosen = options(study="seed_variance", source=DATA, models="lstm", out=tmp_path)
    machine = {"processor": "some", "cores": 2, "memory_gib": 4, "system": "Linux", "python": "3.11", "torch": "2"}
    machine |= {"segue": "0.1.0", "commit": "abc", "command": "python -m benchmarks studies", "date": "2026-01-01"}
    found = {"machine": machine, **studies.run(chosen, lambda _: None)}
    found = json.loads(json.dumps(found))
    name = studies.page_name(found)
    assert name == "studies-seed_variance-simulated"
    text = pages.format_page(name, found)
    (figure,) = found["figures"]
    assert f"![Accuracy by seed]({figure['file']})" in text
    assert (tmp_path / figure["file"]).read_text().startswith("<svg")
    for part in ("with 3 seeds (0, 1, 2)", "Readings of the test part", "command: `python -m benchmarks studies`"):
        assert part in text
    assert text.count("| lstm |") == 1


def test_results_pages_name_missing_and_unused_options(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--study: missing, expected one of ablation, cost_and_accuracy"):
        studies.run(options(out=tmp_path), print)
    with pytest.raises(ValueError, match="--source: got ml-1m beside --run"):
        studies.run(options(study="token_usage", source="ml-1m", run="latest", out=tmp_path), print)
