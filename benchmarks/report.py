"""What a comparison found, as a table to read and a file to compare with."""

from __future__ import annotations

from typing import Any

from segue.core.files import write_json, write_text

__all__ = ["beside", "save"]

ROWS = [
    ("target positions trained per second", "targets_per_second", "{:,.0f}", True),
    ("evaluation of all users, s", "evaluate_seconds", "{:,.2f}", False),
    ("peak memory, MiB", "peak_mib", "{:,.0f}", False),
    ("peak memory above the imports, MiB", "own_mib", "{:,.0f}", False),
    ("peak memory after training, MiB", "train_peak_mib", "{:,.0f}", False),
    ("import, s", "import_seconds", "{:,.1f}", False),
]
"""Label, key, format, and whether more is better."""


def beside(found: dict[str, Any]) -> str:
    """A Markdown page: one column per side, and how many times better Segue is than each."""
    sides, ask, operations = found["sides"], found["settings"], found["operations"]
    others = [name for name in sides if name != "segue"] if "segue" in sides else []
    lines = [
        f"# SASRec on {found['data']['name']}, {len(sides)} libraries, one after the other",
        "",
        f"Width {ask['width']}, {ask['blocks']} blocks, {ask['heads']} head(s), dropout {ask['dropout']}, length "
        f"{ask['length']}, batch {ask['batch']}, full cross-entropy over {ask['items']:,} items, "
        f"{ask['threads']} threads, seed {ask['seed']}.",
        "",
        _row(["", *sides, *(f"Segue against {name}" for name in others)]),
        _row(["---", *["---:"] * (len(sides) + len(others))]),
    ]
    for label, key, form, more in ROWS:
        cells = [form.format(side[key]) if key in side else "" for side in sides.values()]
        ratios = [_ratio(sides["segue"], sides[name], key, more) for name in others]
        lines.append(_row([label, *cells, *ratios]))
    lines += ["", *_machine_lines(found), "", *_notes(found), ""]
    if any(side["busy_before_percent"] > found["rest_percent"] for side in sides.values()):
        lines += ["**Disturbed: something else was running. Not a result.**", ""]
    lines.append(
        f"Operations per target: {operations['target'] / 1e6:.2f} million (head {operations['head'] / 1e6:.2f}, dense "
        f"layers {operations['dense'] / 1e6:.2f}, attention {operations['attention'] / 1e6:.2f} at a mean of "
        f"{operations['context']:.0f} visible positions): matrix products only, forward and backward."
    )
    return "\n".join([*lines, "", *_provenance(found), ""])


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _ratio(own: dict[str, Any], other: dict[str, Any], key: str, more: bool) -> str:
    if key not in own or key not in other:
        return ""
    ratio = own[key] / other[key] if more else other[key] / own[key]
    return f"{ratio:.2f} x {'more' if more else 'less'}"


def _machine_lines(found: dict[str, Any]) -> list[str]:
    before, after = found["rates"]["before"], found["rates"]["after"]
    square = max(before["square"], after["square"])
    drift = abs(before["square"] - after["square"]) / square
    lines = [
        f"The machine's own rate of matrix products: {square:,.0f} GFLOP/s for 2048 x 2048 (the two measurements, "
        f"before and after, differ by {drift:.0%}); in the shapes of this model: "
        + ", ".join(f"{name} {before[name]:,.0f}" for name in SHAPES)
        + "."
    ]
    for name, side in found["sides"].items():
        reached = side["targets_per_second"] * found["operations"]["target"] / 1e9
        limit = _limit(found["operations"], before)
        lines.append(
            f"* {name}: {reached:,.1f} GFLOP/s of needed work, {reached / square:.0%} of the machine's rate, "
            f"{side['targets_per_second'] / limit:.0%} of {limit:,.0f} targets/s, which these shapes allow"
        )
    return lines


SHAPES = ["head_logits", "head_hidden", "head_vectors", "dense"]


def _limit(operations: dict[str, float], rates: dict[str, float]) -> float:
    """Targets per second if every product ran at its own shape's rate and nothing else took time."""
    head = sum(operations["head"] / 3 / rates[name] for name in SHAPES[:3])
    rest = (operations["dense"] + operations["attention"]) / rates["dense"]
    return 1e9 / (head + rest)


def _notes(found: dict[str, Any]) -> list[str]:
    notes = []
    for name, side in found["sides"].items():
        scaled = ", scaled: part of an epoch" if name != "segue" else ""
        notes.append(
            f"* {name}: {side['train_targets']:,.0f} targets in {side['train_seconds']:.1f} s{scaled}; "
            f"{side['evaluated']:,} users evaluated; metrics after so little training, only to show that the lists "
            f"are real: "
            + ", ".join(f"{key} {value:.4f}" for key, value in (side.get("metrics") or side["own_metrics"]).items())
        )
    return notes


def _provenance(found: dict[str, Any]) -> list[str]:
    machine, data = found["machine"], found["data"]
    return [
        f"* data: {data['name']}, {data['users']:,} users, {data['items']:,} items, {data['events']:,} events, "
        f"hash {data['hash']}",
        *(f"* warning: {text}" for text in data["warnings"]),
        f"* machine: {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['system']}; Python {machine['python']}, torch {machine['torch']}, Segue {machine['segue']} "
        f"({machine['commit']})",
        f"* made by `{machine['command']}`, {machine['date']}",
    ]


def save(path: Any, text: str, found: dict[str, Any]) -> None:
    """``path.md`` and ``path.json``."""
    write_text(path.with_suffix(".md"), text)
    write_json(path.with_suffix(".json"), found)
