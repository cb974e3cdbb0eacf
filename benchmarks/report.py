"""Write the figures of a benchmark as a Markdown page and as JSON."""

from __future__ import annotations

from typing import Any

from benchmarks import time_to_accuracy
from benchmarks.compare_libraries import TITLES
from benchmarks.machine import describe_lines
from segue.core.files import write_json, write_text

__all__ = ["comparison_page", "plain_page", "save", "time_page"]

ROWS = [
    ("targets trained per second", "targets_per_second", "{:,.0f}", True),
    ("sequences trained per second", "sequences_per_second", "{:,.1f}", True),
    ("targets trained per CPU second", "targets_per_cpu_second", "{:,.0f}", True),
    ("evaluation of all users, s", "evaluate_seconds", "{:,.2f}", False),
    ("peak memory, MiB", "peak_mib", "{:,.0f}", False),
    ("peak memory above the imports, MiB", "own_mib", "{:,.0f}", False),
    ("peak memory after training, MiB", "train_peak_mib", "{:,.0f}", False),
    ("import, s", "import_seconds", "{:,.1f}", False),
]
"""Label, key, format, and whether higher is better."""

SETTINGS_LINE = (
    "* all libraries have the settings above, and none was tuned; 1 seed; each was evaluated once on the last item of "
    "each user"
)


def comparison_page(found: dict[str, Any]) -> str:
    """Format part ``compare_libraries``: speed ratios, time to the same accuracy, then each comparison."""
    lines = [f"# Speed and memory on {found['data']['name']}: Segue, RecTools and RecBole", ""]
    lines += [*_disturbed(found), *_summary(found["comparisons"]), ""]
    if found["time_comparisons"]:
        lines += ["## Time to the same NDCG@10", "", *time_to_accuracy.lines(found["time_comparisons"]), ""]
    for comparison in found["comparisons"]:
        lines += [*_comparison(comparison, found["rates"]), ""]
    lines += ["## Machine and data", "", _rates(found["rates"]), "", SETTINGS_LINE, *_provenance(found), ""]
    return "\n".join(lines)


def time_page(found: dict[str, Any]) -> str:
    """Format part ``time_to_accuracy``."""
    lines = [f"# Time to the same NDCG@10 on {found['data']['name']}", "", *_disturbed(found)]
    return "\n".join([*lines, *time_to_accuracy.lines(found["time_comparisons"]), "", *_provenance(found), ""])


def _disturbed(found: dict[str, Any]) -> list[str]:
    comparisons = [*found.get("comparisons", []), *found["time_comparisons"]]
    loads = [run["load_before_percent"] for comparison in comparisons for run in comparison["runs"].values()]
    if all(load <= found["max_load_percent"] for load in loads):
        return []
    return ["**Disturbed: other processes were running. Not a result.**", ""]


def _summary(comparisons: list[dict[str, Any]]) -> list[str]:
    """Build one row per comparison and library: targets per second."""
    lines = [
        "| model | length | library | Segue, targets/s | library, targets/s | ratio |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for comparison in comparisons:
        runs, settings = comparison["runs"], comparison["settings"]
        for name in (name for name in runs if name != "segue" and "segue" in runs):
            key = "targets_per_second"
            pair = [f"{runs[library][key]:,.0f}" for library in ("segue", name)]
            ratio = _ratio(runs["segue"], runs[name], key, True)
            lines.append(_row([TITLES[settings["model"]], f"{settings['length']}", name, *pair, ratio]))
    return lines


def _comparison(comparison: dict[str, Any], rates: dict[str, Any]) -> list[str]:
    """Build one column per library, and the ratios of Segue to the others."""
    runs, settings, operations = comparison["runs"], comparison["settings"], comparison["operations"]
    others = [name for name in runs if name != "segue"] if "segue" in runs else []
    masked = f", {settings['mask_prob']:.0%} of the items masked" if settings["model"] == "bert4rec" else ""
    heads = f"{settings['num_heads']} head(s), " if "num_heads" in settings else ""
    lines = [
        f"## {TITLES[settings['model']]}, length {settings['length']}",
        "",
        f"Width {settings['embedding_dim']}, {settings['num_blocks']} block(s), {heads}inner width "
        f"{settings['inner']}, dropout {settings['dropout']}, batch {settings['batch']}, full cross-entropy over "
        f"{settings['items']:,} items{masked}, {settings['threads']} threads, seed {settings['seed']}.",
        "",
        _row(["", *runs, *(f"Segue against {name}" for name in others)]),
        _row(["---", *["---:"] * (len(runs) + len(others))]),
    ]
    for label, key, form, more in ROWS:
        cells = [form.format(run[key]) if key in run else "" for run in runs.values()]
        ratios = [_ratio(runs["segue"], runs[name], key, more) for name in others]
        lines.append(_row([label, *cells, *ratios]))
    lines += [
        "",
        *_notes(comparison, rates),
        "",
        f"Operations per target: {operations['target'] / 1e6:.2f} million (head {operations['head'] / 1e6:.2f}, dense "
        f"layers {operations['dense'] / 1e6:.2f}, attention {operations['attention'] / 1e6:.2f} at a mean of "
        f"{operations['context']:.0f} visible positions): matrix products only, forward and backward.",
    ]
    return lines


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _ratio(own: dict[str, Any], other: dict[str, Any], key: str, more: bool) -> str:
    if key not in own or key not in other:
        return ""
    ratio = own[key] / other[key] if more else other[key] / own[key]
    return f"{ratio:.2f} x {'more' if more else 'less'}"


SHAPES = ["head_logits", "head_hidden", "head_vectors", "dense"]


def _rates(rates: dict[str, Any]) -> str:
    before, after = rates["before"], rates["after"]
    square = max(before["square"], after["square"])
    drift = abs(before["square"] - after["square"]) / square
    return (
        f"The machine's rate of matrix products: {square:,.0f} GFLOP/s for 2048 x 2048 (the two measurements, "
        f"before and after, differ by {drift:.0%}); in the shapes of SASRec at length 200: "
        + ", ".join(f"{name} {before[name]:,.0f}" for name in SHAPES)
        + "."
    )


def _limit(operations: dict[str, float], rates: dict[str, float]) -> float:
    """Compute targets per second if every product ran at its shape's rate and nothing else took time."""
    head = sum(operations["head"] / 3 / rates[name] for name in SHAPES[:3])
    rest = (operations["dense"] + operations["attention"]) / rates["dense"]
    return 1e9 / (head + rest)


def _notes(comparison: dict[str, Any], rates: dict[str, Any]) -> list[str]:
    """Describe what each library did, and its share of the machine's rate."""
    square = max(rates["before"]["square"], rates["after"]["square"])
    limit = _limit(comparison["operations"], rates["before"])
    notes = []
    for name, run in comparison["runs"].items():
        scaled = ", scaled from part of an epoch" if name != "segue" else ""
        reached = run["targets_per_second"] * comparison["operations"]["target"] / 1e9
        notes.append(
            f"* {name}: {run['train_targets']:,.0f} targets in {run['train_seconds']:.1f} s{scaled}; "
            f"{reached:,.1f} GFLOP/s of necessary work, {reached / square:.0%} of the machine's rate, "
            f"{run['targets_per_second'] / limit:.0%} of {limit:,.0f} targets/s, the maximum for these shapes; "
            f"{run['evaluated']:,} users evaluated; metrics after this short training, as evidence that the "
            f"lists are real: "
            + ", ".join(f"{key} {value:.4f}" for key, value in (run.get("metrics") or run["own_metrics"]).items())
        )
    return notes


def _provenance(found: dict[str, Any]) -> list[str]:
    data = found["data"]
    return [
        f"* data: {data['name']}, {data['users']:,} users, {data['items']:,} items, {data['events']:,} events, "
        f"hash {data['hash']}",
        *(f"* warning: {text}" for text in data["warnings"]),
        *describe_lines(found["machine"]),
    ]


def plain_page(title: str, found: dict[str, Any]) -> str:
    """Format the figures of one part, with a section per case."""
    figures = {name: value for name, value in found.items() if name not in ("machine", "max_load_percent")}
    return "\n".join(
        [f"# {title[0].upper()}{title[1:]}", "", *_figures(figures), *describe_lines(found["machine"]), ""]
    )


def _figures(found: dict[str, Any]) -> list[str]:
    """Format single figures as a list and cases as rows of a table; nested cases get a section each."""
    cases = {name: value for name, value in found.items() if isinstance(value, dict)}
    lines = [f"* {_label(name)}: {_figure(value)}" for name, value in found.items() if name not in cases]
    lines += [""] if lines else []
    if any(isinstance(value, dict) for case in cases.values() for value in case.values()):
        for name, case in cases.items():
            lines += [f"## {name}", "", *_figures(case)]
    elif cases:
        names = list(dict.fromkeys(name for case in cases.values() for name in case))
        lines += [f"|  | {' | '.join(map(_label, names))} |", "| --- |" + " ---: |" * len(names)]
        for name, case in cases.items():
            lines.append(f"| {name} | {' | '.join(_figure(case.get(key, '')) for key in names)} |")
        lines.append("")
    return lines


def _label(name: str) -> str:
    return name.replace("_", " ").replace(" mib", ", MiB").replace("gib", "GiB")


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def save(path: Any, text: str, found: dict[str, Any]) -> None:
    """Write ``path.md`` and ``path.json``."""
    write_text(path.with_suffix(".md"), text)
    write_json(path.with_suffix(".json"), found)
