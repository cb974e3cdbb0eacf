"""Statements about results: README and the results page say what the figures in ``docs/results`` allow."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import published, readings
from benchmarks.equal_budget_tuning import trials
from benchmarks.pages import format_page
from benchmarks.published import ATTRIBUTES, DATES, FIGURES, IDS, RATED_IDS, VALIDATION_STEPS
from benchmarks.ratings import mean_with_margin
from benchmarks.simple_baselines import describe_settings
from benchmarks.verdicts import Verdict, compare_figures, emphasize

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
README = (ROOT / "README.md").read_text(encoding="utf-8")
INDEX = (RESULTS / "index.md").read_text(encoding="utf-8")

BOARDS = {"3,416": "ml-1m-sasrec", "3,706": "ml-1m", "Beauty": "amazon-beauty"}
RATINGS = {"u1": "ratings-ml-100k-u1", "five folds": "ratings-ml-100k-folds", "90/10": "ratings-ml-1m-90"}
SPEED = ("ranking_speed", "ratings_speed")
SIMPLE_BASELINES = tuple(
    f"simple_baselines-{source}" for source in ("ml-1m-sasrec", "ml-1m", "amazon-beauty", "ml-100k")
)
WITHOUT_ORDER = ("ml-1m-among-100", "amazon-book", "ml-1m-collaborative")
STEPS = (*BOARDS.values(), "ablation-ml-100k", "ablation-amazon-beauty")
SOURCES = {
    ("index", "Comparison with published figures"): (*BOARDS.values(), "hybrid-ml-1m-sasrec", "hybrid-amazon-beauty"),
    ("index", "Simple baselines"): SIMPLE_BASELINES,
    ("index", "Ratings"): tuple(RATINGS.values()),
    ("index", "Ranking without order"): WITHOUT_ORDER,
    ("index", "New users"): ("new_users",),
    ("index", "Speed"): SPEED,
    ("index", "What improved accuracy"): STEPS,
    ("README", "Results"): (
        *(*BOARDS.values(), "hybrid-ml-1m-sasrec", "hybrid-amazon-beauty", *SIMPLE_BASELINES),
        *RATINGS.values(),
    ),
    ("README", "How it compares"): SPEED,
}
"""Pages that a section may quote."""

METRICS = (
    *("hit_rate@10", "ndcg@10", "recall@20", "ndcg@20", "sampled_hit_rate@10", "sampled_ndcg@10", "rmse"),
    *("mean", "low", "high"),
)

PAGES = (
    *(*BOARDS.values(), *WITHOUT_ORDER),
    *("ratings-ml-100k-u1", "ratings-ml-100k-given", "ratings-ml-100k-folds", "ratings-ml-1m-90"),
    *("ablation-ml-100k", "ablation-amazon-beauty", "equal_budget_tuning-ml-100k"),
    *(
        "new_users",
        "ranking_speed",
        "ratings_speed",
        "bpr_tutorial",
        "api",
        "compare_libraries",
        "length_generalization",
    ),
)
"""Pages with accuracy figures, each made from its own figures."""

FIGURE = re.compile(r"(?<![\d.])0\.\d{4}(?!\d)")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
TIMES = re.compile(r"(\d+(?:\.\d+)?(?:(?:, | and | to )\d+(?:\.\d+)?)*) times")
RANKED = re.compile(
    r"`(\w+)` (\*\*)?(0\.\d{4})(?:\*\*)? \[(0\.\d{4}), (0\.\d{4})\] / (\*\*)?(0\.\d{4})(?:\*\*)? \[(0\.\d{4}), "
    r"(0\.\d{4})\](?:: ([\w@, ]+\w))?"
)
RATED = re.compile(r"`(\w+)` (\*\*)?(0\.\d{4}) ± (0\.\d{4})(?:\*\*)?(?:: (on par|worse))?")


def figures(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def section(text: str, title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, title
    return found.group(1)


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if line[:2] == "| "]


def key_of(keys: dict[str, str], cell: str) -> str | None:
    return next((name for part, name in keys.items() if part in cell), None)


def measured(value: Any, key: str = "") -> Iterator[str]:
    """Every accuracy figure in the figures of a page, and the mean and margin of repetitions, to four decimals."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from measured(inner, key if name.isdigit() else name)
    elif isinstance(value, list):
        if key in METRICS and all(isinstance(one, float) for one in value):
            yield from (f"{one:.4f}" for one in [*value, *(mean_with_margin(value) if len(value) > 2 else ())])
        else:
            for inner in value:
                yield from measured(inner, key)
    elif key in METRICS and isinstance(value, float):
        yield f"{value:.4f}"


def allowed(names: tuple[str, ...]) -> set[str]:
    """Figures that a section about these pages may contain."""
    known = {figure for name in names for figure in measured(figures(name))}
    known |= {figure for name in names for one in FIGURES.get(name, ()) for figure in one.figures}
    known |= {figure for name in names for figure in VALIDATION_STEPS.get(name, ())}
    if "ml-1m-among-100" in names:
        draws = figures("ml-1m-among-100")["draws"]["ials"]
        known |= {f"{np.mean([draw[name] for draw in draws]):.4f}" for name in draws[0] if name != "seed"}
    if "ratings-ml-100k-folds" in names:  # the paired difference from Surprise
        found = figures("ratings-ml-100k-folds")["rows"]
        own, other = found["factorization_machine"]["rmse"], found["Surprise SVD++"]["rmse"]
        gaps = mean_with_margin([theirs - ours for ours, theirs in zip(own, other, strict=True)])
        known |= {f"{value:.4f}" for value in gaps}
    return known


@pytest.mark.parametrize(("page", "title"), SOURCES)
def test_every_figure_is_measured_or_published(page: str, title: str) -> None:
    text = section({"README": README, "index": INDEX}[page], title)
    found = set(FIGURE.findall(text))
    assert found
    assert found <= allowed(SOURCES[page, title]), found - allowed(SOURCES[page, title])


def test_every_other_section_of_the_results_page_has_no_accuracy_figure() -> None:
    titles = re.findall(r"^## (.+)$", INDEX, re.MULTILINE)
    rest = [title for title in titles if ("index", title) not in SOURCES]
    assert not [title for title in rest if FIGURE.search(section(INDEX, title))]


@pytest.mark.parametrize("title", ["Results", "How it compares"])
def test_figures_and_ratios_of_the_readme_are_on_the_results_page(title: str) -> None:
    text, speed = section(README, title), section(INDEX, "Speed")
    assert set(FIGURE.findall(text)) <= set(FIGURE.findall(INDEX))
    ratios = {number for found in TIMES.findall(text) for number in NUMBER.findall(found)}
    assert ratios <= set(NUMBER.findall(speed)), ratios - set(NUMBER.findall(speed))
    assert bool(ratios) == (title == "How it compares")


def describe(verdicts: list[Verdict]) -> str:
    """What a row says behind its figures."""
    if set(verdicts) <= {Verdict.BETTER}:
        return ""
    if len(set(verdicts)) == 1:
        return verdicts[0].value
    return f"HR@10 {verdicts[0].value}, NDCG@10 {verdicts[1].value}"


@pytest.mark.parametrize(
    ("text", "title"), [(INDEX, "Comparison with published figures"), (README, "Results")], ids=["index", "README"]
)
def test_rows_of_boards_say_what_their_intervals_allow(text: str, title: str) -> None:
    checked = 0
    for cells in rows(section(text, title)):
        board = key_of(BOARDS, cells[0])
        if board is None:
            continue
        found = RANKED.fullmatch(cells[2])
        assert found, cells
        inputs = {"ids": IDS, "ids and item attributes": ATTRIBUTES}[cells[1]]
        model = found[1] + ("@ids" if board == "amazon-beauty" and inputs == IDS else "")
        record = figures(board)["models"][model]
        assert cells[3] == str(len(record.get("seeds", [record["seed"]])))
        verdicts, bold = [], []
        for at, metric, position in ((3, "hit_rate@10", 0), (7, "ndcg@10", 1)):
            low, high = record["intervals"][metric]
            assert [found[at], found[at + 1], found[at + 2]] == [f"{x:.4f}" for x in (record[metric], low, high)]
            others = [one.figures[position] for one in FIGURES[board] if one.inputs == inputs]
            if others:
                assert max(others) in cells[4]
                verdicts.append(compare_figures((low, high), float(max(others))))
            bold.append(bool(found[at - 1]))
        assert bold == ([one is Verdict.BETTER for one in verdicts] or [False, False])
        assert (found[10] or "") == describe(verdicts)
        checked += 1
    assert checked == 4


@pytest.mark.parametrize(("text", "title"), [(INDEX, "Ratings"), (README, "Results")], ids=["index", "README"])
def test_rows_of_ratings_say_what_their_intervals_allow(text: str, title: str) -> None:
    checked = 0
    for cells in rows(section(text, title)):
        task = key_of(RATINGS, cells[0])
        if task is None:
            continue
        found = RATED.match(cells[1])
        assert found, cells
        inputs = DATES if "features" in cells[0] else RATED_IDS
        content = figures(task)
        mean, margin = mean_with_margin(content["rows"][found[1] + ("@features" if inputs == DATES else "")]["rmse"])
        assert [found[3], found[4]] == [f"{mean:.4f}", f"{margin:.4f}"]
        assert cells[2].startswith(f"{len(content['settings'])} ")
        best = min((one for one in FIGURES[task] if one.inputs == inputs), key=lambda one: one.figures)
        verdict = compare_figures(
            (mean - margin, mean + margin), float(best.figures[0]), has_equal_test=best.has_same_test, is_error=True
        )
        assert bool(found[2]) == (verdict is Verdict.BETTER)
        assert (found[5] or "") == (verdict.value if verdict in (Verdict.ON_PAR, Verdict.WORSE) else "")
        assert best.figures[0] in cells[3]
        checked += 1
    assert checked == 4


def test_rows_of_simple_baselines_are_the_measured_ones() -> None:
    table = rows(section(INDEX, "Simple baselines"))[2:]
    assert len(table) == len(SIMPLE_BASELINES)
    for name, cells in zip(SIMPLE_BASELINES, table, strict=True):
        assert f"]({name}.md)" in cells[0]
        found = figures(name)
        for role, (model, *parts) in zip(("strongest", "second"), (cells[1:4], cells[4:7]), strict=True):
            row = found["rows"][found[role]]
            settings = describe_settings(row["settings"])
            assert model == f"`{row['model']}`" + ("" if settings == "defaults" else f" with {settings}")
            for part, cell in zip(("valid", "test"), parts, strict=True):
                mean, low, high = row[part]["ndcg@10"]
                assert cell == f"{mean:.4f} [{low:.4f}, {high:.4f}] / {row[part]['hit_rate@10'][0]:.4f}"


def test_training_rates_are_the_measured_ones() -> None:
    names = {"SASRec": "sasrec", "BERT4Rec": "bert4rec", "GRU4Rec": "gru4rec"}
    runs = {
        (one["settings"]["model"], one["settings"]["length"]): one["runs"]
        for one in figures("compare_libraries")["comparisons"]
    }
    checked = 0
    for cells in rows(section(INDEX, "Speed")):
        title, _, length = cells[0].partition(", ")
        if title not in names:
            continue
        found = runs[names[title], int(length)]
        for cell, rate in zip(cells[2:4], ("targets_per_second", "sequences_per_second"), strict=True):
            number = NUMBER.match(cell)
            assert number, cells
            decimals = len(number[0].partition(".")[2])
            ratio = found["segue"][rate] / found[cells[1].lower()][rate]
            assert number[0] == f"{ratio:.{decimals}f}", cells
        checked += 1
    assert checked == sum(len(found) - 1 for found in runs.values())


def test_ratios_of_classic_models_are_on_their_pages() -> None:
    pages = "\n".join((RESULTS / f"{name}.md").read_text(encoding="utf-8") for name in (*SPEED, "bpr_tutorial"))
    known = {float(number) for number in re.findall(r"\d+\.\d+", pages)}
    head = r"\| model \| compared with \| times as fast \|\n"
    (table,) = re.findall(head + r"(.*?)\n\n", section(INDEX, "Speed"), re.DOTALL)
    ratios = [number for cells in rows(table) for number in NUMBER.findall(cells[2])]
    assert len(ratios) > 15
    for number in ratios:
        decimals = len(number.partition(".")[2])
        assert any(f"{value:.{decimals}f}" == number for value in known), number


@pytest.mark.parametrize("name", sorted(path.stem for path in RESULTS.glob("*.json")))
def test_pages_are_made_from_their_figures(name: str) -> None:
    assert (RESULTS / f"{name}.md").read_text(encoding="utf-8") == format_page(name, figures(name))


@pytest.mark.parametrize("name", PAGES)
def test_pages_state_how_often_the_test_part_was_read(name: str) -> None:
    text = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
    if "on validation with 95 % intervals" in text:
        return
    assert "readings of the test part: " in text or "valuated once on" in text or "once on the test part" in text


def test_readings_are_counted_over_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    for run, split in (("a", "s"), ("a", "s"), ("b", "s"), ("c", "t")):
        folder = tmp_path / "runs" / run
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "settings.toml").touch()
        with (folder / "test_readings.jsonl").open("a") as file:
            file.write(json.dumps({"run": run, "split": split}) + "\n")
    counts = readings.count_readings([tmp_path / "runs" / "a"])
    assert counts == {"runs": 1, "readings": 2, "same_split": 3}
    (line,) = readings.reading_lines({"test_readings": counts}, "ml-1m", 1)
    assert "2 by the 1 runs of this page, and 3 recorded in all" in line
    assert "tuned again after its first publication" in line
    (line,) = readings.reading_lines({}, "none", 5)
    assert "not counted. Each of the 5 runs" in line


def test_the_tuning_table_shows_validation_only() -> None:
    text = (RESULTS / "equal_budget_tuning-ml-100k.md").read_text(encoding="utf-8")
    found = figures("equal_budget_tuning-ml-100k")
    tuning = section(text, "Validation NDCG@10 of the trials")
    expected = {f"{value:.4f}" for row in found["rows"].values() for value in row["trials"]}
    assert set(FIGURE.findall(tuning)) == expected
    chosen = section(text, "Test of the best trial of each model")
    assert len(rows(chosen)) == 2 + len(found["rows"])
    for row in found["rows"].values():
        assert row["settings"] == trials(found["trials"])[row["trials"].index(row["valid"])]


def test_a_figure_is_better_only_if_its_interval_excludes_the_other() -> None:
    assert compare_figures((0.32, 0.34), 0.31) is Verdict.BETTER
    assert compare_figures((0.32, 0.34), 0.35) is Verdict.WORSE
    for other in (0.32, 0.33, 0.34):
        assert compare_figures((0.32, 0.34), other) is Verdict.ON_PAR
        assert compare_figures((0.32, 0.34), other, is_error=True) is Verdict.ON_PAR
    assert compare_figures((0.32, 0.34), 0.35, is_error=True) is Verdict.BETTER
    assert compare_figures((0.32, 0.34), 0.31, is_error=True) is Verdict.WORSE
    with pytest.raises(ValueError, match="expected the lower bound first"):
        compare_figures((0.34, 0.32), 0.3)


def test_other_inputs_or_test_parts_are_never_beaten() -> None:
    assert compare_figures((0.32, 0.34), 0.31, has_equal_inputs=False) is Verdict.OTHER_INPUTS
    assert compare_figures((0.32, 0.34), 0.33, has_equal_inputs=False) is Verdict.OTHER_INPUTS
    assert compare_figures((0.32, 0.34), 0.31, has_equal_test=False) is Verdict.OTHER_TEST
    assert compare_figures((0.32, 0.34), 0.33, has_equal_test=False) is Verdict.ON_PAR


def test_only_a_better_figure_is_bold() -> None:
    assert [emphasize("1", verdict) for verdict in Verdict] == ["**1**", "1", "1", "1", "1"]


def test_published_figures_name_their_source_once_per_board() -> None:
    for board, found in published.FIGURES.items():
        assert len({one.source for one in found}) == len(found), board
        assert len({len(one.figures) for one in found}) == 1, board
