"""What a comparison found, as a page to read and a file to compare with."""

from __future__ import annotations

from typing import Any

from benchmarks import time_to_accuracy
from benchmarks.compare_libraries import TITLES
from benchmarks.machine import told
from segue.core.files import write_json, write_text

__all__ = ["beside", "plain", "races", "save"]

ROWS = [
    ("targets trained per second", "targets_per_second", "{:,.0f}", True),
    ("sequences trained per second", "sequences_per_second", "{:,.1f}", True),
    ("targets trained per second of processor time", "targets_per_processor_second", "{:,.0f}", True),
    ("evaluation of all users, s", "evaluate_seconds", "{:,.2f}", False),
    ("peak memory, MiB", "peak_mib", "{:,.0f}", False),
    ("peak memory above the imports, MiB", "own_mib", "{:,.0f}", False),
    ("peak memory after training, MiB", "train_peak_mib", "{:,.0f}", False),
    ("import, s", "import_seconds", "{:,.1f}", False),
]
"""Label, key, format, and whether more is better."""


def beside(found: dict[str, Any]) -> str:
    """A Markdown page: how many times faster Segue trains, the time to the same quality, then each contest."""
    lines = [f"# Speed and memory on {found['data']['name']}: Segue, RecTools and RecBole, one after the other", ""]
    lines += [*_disturbed(found), *_summary(found["contests"]), ""]
    if found["races"]:
        lines += ["## Time to the same NDCG@10", "", *time_to_accuracy.page(found["races"]), ""]
    for contest in found["contests"]:
        lines += [*_contest(contest, found["rates"]), ""]
    lines += ["## Machine and data", "", _rates(found["rates"]), "", *_provenance(found), ""]
    return "\n".join(lines)


def races(found: dict[str, Any]) -> str:
    """A Markdown page of the races alone."""
    lines = [f"# Time to the same NDCG@10 on {found['data']['name']}", "", *_disturbed(found)]
    return "\n".join([*lines, *time_to_accuracy.page(found["races"]), "", *_provenance(found), ""])


def _disturbed(found: dict[str, Any]) -> list[str]:
    contests = [*found.get("contests", []), *found["races"]]
    loads = [side["busy_before_percent"] for contest in contests for side in contest["sides"].values()]
    if all(load <= found["rest_percent"] for load in loads):
        return []
    return ["**Disturbed: something else was running. Not a result.**", ""]


def _summary(contests: list[dict[str, Any]]) -> list[str]:
    """One row per contest and peer: targets per second."""
    lines = [
        "| model | length | peer | Segue, targets/s | peer, targets/s | ratio |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for contest in contests:
        sides, ask = contest["sides"], contest["settings"]
        for name in (name for name in sides if name != "segue" and "segue" in sides):
            key = "targets_per_second"
            pair = [f"{sides[side][key]:,.0f}" for side in ("segue", name)]
            ratio = _ratio(sides["segue"], sides[name], key, True)
            lines.append(_row([TITLES[ask["model"]], f"{ask['length']}", name, *pair, ratio]))
    return lines


def _contest(contest: dict[str, Any], rates: dict[str, Any]) -> list[str]:
    """One column per side, and how many times better Segue is than each."""
    sides, ask, operations = contest["sides"], contest["settings"], contest["operations"]
    others = [name for name in sides if name != "segue"] if "segue" in sides else []
    hidden = f", {ask['hidden_share']:.0%} of the items hidden" if ask["model"] == "bert4rec" else ""
    heads = f"{ask['heads']} head(s), " if "heads" in ask else ""
    lines = [
        f"## {TITLES[ask['model']]}, length {ask['length']}",
        "",
        f"Width {ask['width']}, {ask['blocks']} block(s), {heads}inner width {ask['inner']}, dropout {ask['dropout']}, "
        f"batch {ask['batch']}, full cross-entropy over {ask['items']:,} items{hidden}, {ask['threads']} threads, seed "
        f"{ask['seed']}.",
        "",
        _row(["", *sides, *(f"Segue against {name}" for name in others)]),
        _row(["---", *["---:"] * (len(sides) + len(others))]),
    ]
    for label, key, form, more in ROWS:
        cells = [form.format(side[key]) if key in side else "" for side in sides.values()]
        ratios = [_ratio(sides["segue"], sides[name], key, more) for name in others]
        lines.append(_row([label, *cells, *ratios]))
    lines += [
        "",
        *_notes(contest, rates),
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
        f"The machine's own rate of matrix products: {square:,.0f} GFLOP/s for 2048 x 2048 (the two measurements, "
        f"before and after, differ by {drift:.0%}); in the shapes of SASRec at length 200: "
        + ", ".join(f"{name} {before[name]:,.0f}" for name in SHAPES)
        + "."
    )


def _limit(operations: dict[str, float], rates: dict[str, float]) -> float:
    """Targets per second if every product ran at its own shape's rate and nothing else took time."""
    head = sum(operations["head"] / 3 / rates[name] for name in SHAPES[:3])
    rest = (operations["dense"] + operations["attention"]) / rates["dense"]
    return 1e9 / (head + rest)


def _notes(contest: dict[str, Any], rates: dict[str, Any]) -> list[str]:
    """What each side did, and how much of the machine it used."""
    square = max(rates["before"]["square"], rates["after"]["square"])
    limit = _limit(contest["operations"], rates["before"])
    notes = []
    for name, side in contest["sides"].items():
        scaled = ", scaled: part of an epoch" if name != "segue" else ""
        reached = side["targets_per_second"] * contest["operations"]["target"] / 1e9
        notes.append(
            f"* {name}: {side['train_targets']:,.0f} targets in {side['train_seconds']:.1f} s{scaled}; "
            f"{reached:,.1f} GFLOP/s of needed work, {reached / square:.0%} of the machine's rate, "
            f"{side['targets_per_second'] / limit:.0%} of {limit:,.0f} targets/s, which these shapes allow; "
            f"{side['evaluated']:,} users evaluated; metrics after so little training, only to show that the lists "
            f"are real: "
            + ", ".join(f"{key} {value:.4f}" for key, value in (side.get("metrics") or side["own_metrics"]).items())
        )
    return notes


def _provenance(found: dict[str, Any]) -> list[str]:
    data = found["data"]
    return [
        f"* data: {data['name']}, {data['users']:,} users, {data['items']:,} items, {data['events']:,} events, "
        f"hash {data['hash']}",
        *(f"* warning: {text}" for text in data["warnings"]),
        *told(found["machine"]),
    ]


def plain(title: str, found: dict[str, Any]) -> str:
    """A Markdown page of what one part found: its figures, and under a title of its own each case it looked at."""
    figures = {name: value for name, value in found.items() if name not in ("machine", "rest_percent")}
    return "\n".join([f"# {title[0].upper()}{title[1:]}", "", *_figures(figures), *told(found["machine"]), ""])


def _figures(found: dict[str, Any]) -> list[str]:
    """Single figures below each other; cases as rows of a table, or where they hold cases, one after the other."""
    cases = {name: value for name, value in found.items() if isinstance(value, dict)}
    lines = [f"* {_spoken(name)}: {_figure(value)}" for name, value in found.items() if name not in cases]
    lines += [""] if lines else []
    if any(isinstance(value, dict) for case in cases.values() for value in case.values()):
        for name, case in cases.items():
            lines += [f"## {name}", "", *_figures(case)]
    elif cases:
        names = list(dict.fromkeys(name for case in cases.values() for name in case))
        lines += [f"|  | {' | '.join(map(_spoken, names))} |", "| --- |" + " ---: |" * len(names)]
        for name, case in cases.items():
            lines.append(f"| {name} | {' | '.join(_figure(case.get(key, '')) for key in names)} |")
        lines.append("")
    return lines


def _spoken(name: str) -> str:
    return name.replace("_", " ").replace(" mib", ", MiB").replace("gib", "GiB")


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def save(path: Any, text: str, found: dict[str, Any]) -> None:
    """``path.md`` and ``path.json``."""
    write_text(path.with_suffix(".md"), text)
    write_json(path.with_suffix(".json"), found)
