"""Tables, plots and the page: content, escaping, and no external resources."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from segue.reports import page as pages
from segue.reports import paired_tests, plots, tables
from segue.reports.page import render_page, write_page


def record(model: str, ndcg: float, **more: Any) -> dict[str, Any]:
    values = {
        "hit_rate@5": ndcg,
        "ndcg@5": ndcg * 0.8,
        "hit_rate@10": ndcg * 1.8,
        "mrr@10": ndcg * 0.9,
        "ndcg@10": ndcg,
    }
    return {
        "model": model,
        "data": "ml-100k",
        "run": f"ml-100k-{model}",
        "seed": 7,
        "device": "cpu",
        "segue": "0.1.0",
        "date": "2025-01-01",
        "data_hash": "cafe",
        **values,
        "intervals": {name: [value - 0.01, value + 0.01] for name, value in values.items()},
        "protocol": {"queries": 943, "targets": 943, "items": 1682, "exclude_seen": True, "has_query_times": False},
        "split": {"strategy": "leave_one_out"},
        "counts": {"users": 943, "items": 1682},
        "cost": {"seconds": {"train": 90.0}, "peak_memory_bytes": 2**29, "parameters": 123456, "threads": 2},
        "machine": {"processor": "Some <b>CPU</b>", "cores": 2},
        "command": f"segue train {model} --data ml-100k",
        "warnings": [],
        **more,
    }


@pytest.fixture
def result() -> dict[str, Any]:
    test = {"first": "popular", "second": "xlstm", "difference": -0.11, "low": -0.13, "high": -0.09, "n": 943}
    test |= {"p": 0.0001, "p_t": 1e-9, "p_holm": 0.0003, "significant": True}
    return {
        "data": "ml-100k",
        "metric": "ndcg@10",
        "models": {"popular": record("popular", 0.05), "xlstm": record("xlstm", 0.16)},
        "tests": [test],
        "warnings": ["REBUILT <script>alert(1)</script>"],
    }


HISTORY = [{"step": 1, "loss": 5.0, "valid/ndcg@10": 0.1}, {"step": 2, "loss": 4.0, "valid/ndcg@10": 0.15}]


def render(table: object) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_best_model_comes_first(result: dict[str, Any]) -> None:
    table = tables.comparison_table(result)
    assert [row[0] for row in table.rows] == ["xlstm", "popular"]
    assert table.columns == (
        *("model", "HitRate@10", "MRR@10", "NDCG@10", "NDCG@10 95 %"),
        *("train", "memory", "parameters"),
    )
    assert table.rows[0] == (
        *("xlstm", "0.2880", "0.1440", "0.1600", "0.1500 to 0.1700"),
        *("1.5 min", "512 MiB", "123,456"),
    )


def test_pairs_are_ordered_with_the_better_model_first(result: dict[str, Any]) -> None:
    table = paired_tests.tests_table(result)
    assert table.rows == (
        ("xlstm − popular", "+0.1100", "+0.0900 to +0.1300", "0.0001", "< 0.0001", "0.0003", "significant"),
    )
    assert table.highlighted == {0}


def test_one_run_with_validation_and_baseline() -> None:
    baseline = record("popular", 0.05)
    table = tables.metrics_table(record("xlstm", 0.16, valid={"ndcg@10": 0.17}, baseline=baseline))
    assert table.columns == ("", "xlstm", "95 % interval", "validation", "popular", "95 % interval")
    assert ("NDCG@10", "0.1600", "0.1500–0.1700", "0.1700", "0.0500", "0.0400–0.0600") in table.rows
    assert tables.metrics_table(record("xlstm", 0.16)).columns == ("", "xlstm", "95 % interval")


def test_items_in_a_terminal() -> None:
    rows = [
        {"rank": 1, "title": "[REC] (2007)", "logit": 1.25, "genres": ["Horror", "Thriller"], "probability": 0.5},
        {"rank": 2, "title": None, "logit": 1.0, "genres": [], "probability": 0.25},
    ]
    table = tables.item_table("Next", rows)
    assert table.columns == ("rank", "title", "genres", "logit", "probability")
    text = render(table)
    for expected in ("Next", "[REC] (2007)", "Horror, Thriller", "1.2500", "0.2500"):
        assert expected in text
    assert tables.item_table("Nothing", []).rows == ()


class Outline(HTMLParser):
    """Collect tags in order, their link targets, and whether every tag is closed."""

    VOID = ("meta", "link", "br", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_self_contained(result: dict[str, Any], tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", result, {"xlstm": HISTORY})
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    outline = Outline(text)
    assert outline.open == []
    assert outline.tags.count("svg") == 2
    assert outline.tags.count("script") == 0
    assert [address for address in outline.addresses if not address.startswith(("data:", "#"))] == []
    assert "url(http" not in text
    assert "@import" not in text
    assert "prefers-color-scheme: dark" in text


def test_the_page_states_result_and_protocol(result: dict[str, Any]) -> None:
    text = render_page(result, {"xlstm": HISTORY})
    for expected in (
        "xlstm reaches NDCG@10 0.1600 (95 % interval 0.1500 to 0.1700), the highest of 2 models.",
        "It leads popular by 0.1100, which is significant (paired test).",
        "REBUILT &lt;script&gt;alert(1)&lt;/script&gt;",
        "Some &lt;b&gt;CPU&lt;/b&gt;",
        "segue train popular --data ml-100k",
        "cafe",
        "leave one out",
        "the whole catalog of 1,682 items",
        "excluded from the ranking",
    ):
        assert expected in text
    assert "<script" not in text
    assert render_page(result, {"xlstm": HISTORY}) == text


def test_one_model_and_no_tests(result: dict[str, Any]) -> None:
    alone = {**result, "models": {"xlstm": result["models"]["xlstm"]}, "tests": []}
    text = render_page(alone)
    assert "Which differences" not in text
    assert "Evaluation on ml-100k" in text
    with pytest.raises(ValueError, match="the result has no models"):
        render_page({**result, "models": {}})
    with pytest.raises(ValueError, match="popular, xlstm: no metric 'map@10'"):
        render_page({**result, "metric": "map@10"})


def test_without_matplotlib_the_tables_remain(result: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "find_spec", lambda name: None)
    outline = Outline(render_page(result, {"xlstm": HISTORY}))
    assert "svg" not in outline.tags
    assert outline.tags.count("table") == 4


def test_bar_lengths_equal_the_values(result: dict[str, Any]) -> None:
    figure = plots.plot_metric_bars(result, ["ndcg@10", "mrr@10"])
    bars = [patch.get_width() for patch in figure.axes[0].patches]
    assert bars == [0.16, 0.05]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["xlstm", "popular"]


def test_plots_are_svg_in_the_colors_of_the_page(result: dict[str, Any]) -> None:
    figure = plots.plot_training_curves({"xlstm": HISTORY, "ease": []}, "ndcg@10")
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines] == [[5.0, 4.0], []]
    alone, themed = plots.to_svg(figure), plots.to_svg(figure, themed=True)
    assert ET.fromstring(themed).tag.endswith("svg")
    assert "var(--c1)" in themed
    assert plots.LIGHT["c1"] not in themed
    assert plots.LIGHT["c1"] in alone
    assert ">epoch or iteration<" in themed
