"""The page of the benchmark of two stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.machine import describe_lines, load_line
from benchmarks.stronger_baselines import baseline_lines
from benchmarks.table_rows import difference_cells, head_lines, row_line
from segue.reports.quantities import metric_label

__all__ = ["page"]

METRICS = ("hit_rate@10", "ndcg@10")


def page(found: dict[str, Any]) -> str:
    """Format the tables of rows and tests, and what was chosen on validation."""
    lines = [
        *_protocol_lines(found),
        "",
        "```sh",
        " ".join(["python -m benchmarks two_stage --source", found["source"], *found["options"], "--out docs/results"]),
        "```",
        "",
        *_input_lines(found),
        *baseline_lines(f"two_stage-{found['source']}", found["rows"]),
        *_row_lines(found),
        "",
        *_test_lines(found),
        "",
        *_choice_lines(found),
        "* the best epoch, and the ranker of each retriever that is compared with it, are those of validation",
        "* training: processor time of a ranker and its two retrievers, which are trained once for all rankers",
        f"* data hash {found['data']['hash']}; one reading of the test part per row and seed, after all choices",
        load_line(found).replace("**disturbed, not a result**", "**latencies are disturbed**"),
    ]
    return "\n".join([*lines, *describe_lines(found["machine"]), ""])


def _protocol_lines(found: Mapping[str, Any]) -> list[str]:
    seeds = len(found["seeds"])
    repeats = "items of the history included" if found["repeats"] else "seen items removed"
    text = (
        f"Leave-one-out, {found['queries']:,} test queries, whole catalog of {found['data']['items']:,} items, "
        f"{repeats}; {seeds} seed{'s' if seeds > 1 else ''}. A ranker orders 200 candidates of its retriever, which "
        "has the same settings alone. Recall: share of the validation targets among these candidates, or among the "
        f"first 200 items of one stage. Latency: single queries in the process, {found['threads']} thread(s). "
        "Brackets: 95 % interval over users, of the mean over the seeds."
    )
    lines = [f"# Two stages: {found['source']}", "", text]
    if found["repeats"]:
        lines += [
            "",
            "Users return to items here, and the items of the history are candidates before all others. Own frequency: "
            "items by how often the user has chosen them, then by popularity. Weighted: each of these events counts "
            "as 1, its value, or the logarithm of one plus its value. In context: an event also counts more for each "
            "column of the context in which it equals the query, by a factor.",
        ]
    return lines


def _input_lines(found: Mapping[str, Any]) -> list[str]:
    """Say what rankers read beyond retrievers, and what the columns of the context reveal."""
    text = (
        "**Inputs are not equal.** Rankers also read the features of users and items that the log has, unless their "
        "`inputs` below leave them out; these retrievers do not."
    )
    if found["repeats"]:
        text += " They read how often the user has chosen each candidate, too."
    if found["context"]:
        text += (
            " All but those without context read the context of the query, which is that of the target; of the other "
            "rows only own frequency in context does."
        )
    for name, share in found["left_out"].items():
        text += (
            f" The column `{name}` is a property of the item more than of the moment: of the items with this column in "
            f"training, {100 * share:.1f} % have the same value in all their events, so that it excludes most of the "
            "catalog where the value is rare. A service does not know it before the user has chosen; rows without it "
            "are closer to use."
        )
    return [text, ""]


def _row_lines(found: Mapping[str, Any]) -> list[str]:
    numbers = ["validation NDCG@10", "HR@10", "NDCG@10", "recall", "p50, ms", "p99, ms", "CPU, ms", "training, CPU s"]
    lines = head_lines(["model", *numbers], len(numbers))
    for name, row in found["rows"].items():
        tested = [row["test"][metric] for metric in METRICS]
        cells = [f"{one['mean']:.4f} [{one['low']:.4f}, {one['high']:.4f}]" for one in tested]
        times = [f"{row[key]:.2f}" for key in ("p50_ms", "p99_ms", "cpu_ms")]
        seconds = f"{row['cpu_seconds']:,.0f}"
        recall = "" if row["recall"] is None else f"{row['recall']:.3f}"
        lines.append(row_line([name, f"{row['valid']:.4f}", *cells, recall, *times, seconds]))
    return lines


def _test_lines(found: Mapping[str, Any]) -> list[str]:
    text = "The ranker of each retriever that is best on validation, minus that retriever"
    if found["baselines"] and not found["repeats"]:
        text += f"; and each ranker minus the simple baseline {', '.join(f'`{name}`' for name in found['baselines'])}"
    elif found["baselines"]:
        text += (
            "; and each ranker minus the strongest simple baseline, in each metric the one with the highest value of "
            "this table that reads no column of the context which the ranker does not read"
        )
    head = ["metric", "pair", "difference", "95 %", "p (Holm)", ""]
    lines = [
        f"{text}. Paired randomization tests over users of the means over the seeds; Holm's correction over all of "
        "these tests.",
        "",
        *head_lines(head),
    ]
    for test in found["tests"]:
        verdict = "" if test["p_holm"] >= 0.05 else "better" if test["difference"] > 0 else "worse"
        lines.append(row_line([metric_label(test["metric"]), *difference_cells(test), verdict]))
    return lines


def _choice_lines(found: Mapping[str, Any]) -> list[str]:
    """List what was tried on validation."""
    lines = [
        "Settings chosen on validation with the first seed, as changes to the recipe of the source or to the defaults "
        "of the model or of `ranker`, with their NDCG@10, the highest in bold. Rankers have the same settings with all "
        "retrievers:",
        "",
    ]
    for name, grid in found["grids"].items():
        if len(grid) > 1 or grid[0][0]:
            lines.append(f"* {name}: {_grid_text(grid)}")
    return lines


def _grid_text(grid: Sequence[tuple[Mapping[str, Any], float]]) -> str:
    """Format settings with their value on validation, the first of the best in bold."""
    best = max(range(len(grid)), key=lambda index: grid[index][1])
    texts = []
    for index, (settings, value) in enumerate(grid):
        text = f"**{value:.4f}**" if index == best else f"{value:.4f}"
        texts.append(f"{', '.join(f'`{name}={one}`' for name, one in settings.items()) or 'defaults'}: {text}")
    return "; ".join(texts)
