"""Page of the benchmark of the knowledge graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.knowledge_rows import MODELS, NOTES, PUBLISHED, READ_BY, RELATED, VECTORS, WITH_GRAPH, WITHOUT
from benchmarks.machine import describe_lines
from benchmarks.stronger_baselines import baseline_lines
from benchmarks.verdicts import Verdict, compare_figures

__all__ = ["page", "target_lines"]

TITLES = {"recall@10": "Recall@10", "mrr@10": "MRR@10"}
COMBINED = "hybrid"
"""Name of the row of the combination."""


def page(found: Mapping[str, Any]) -> str:
    """Format the tables."""
    source, seeds = found["source"], len(found["seeds"])
    keys = [name for name in found["rows"] if name in MODELS]
    option = "" if set(keys) == set(MODELS) else f" --models {','.join(keys)}"
    option += "" if seeds == 3 else f" --seeds {seeds}"
    lines = [
        f"# Knowledge graph: {source}",
        "",
        f"{_protocol(source)} {found['queries']:,} test queries, whole catalog. {_target_sentence(found['targets'])} "
        f"Brackets: 95 % interval over users, of the mean over {seeds} seeds.",
        "",
        *_setting_lines(found),
        "",
        "```sh",
        f"python -m benchmarks knowledge --source {source}{option}",
        "```",
        "",
        *baseline_lines(f"knowledge-{source}"),
        *_row_lines(found),
    ]
    if source in PUBLISHED:
        lines += ["", "Published figures are those of the README of ssu-dmlab/AdaKG, its runs on the same split."]
        lines += ["", NOTES[source]] if source in NOTES else []
        lines += ["", *target_lines(found["rows"], PUBLISHED[source], has_equal_inputs=source not in NOTES)]
    if found["tests"]:
        lines += ["", *_test_lines(found)]
    lines += ["", *_path_lines(found["paths"]), ""]
    about = found["data"]
    lines.append(f"Data: {about['users']:,} users, {about['items']:,} items, hash `{about['hash']}`.")
    return "\n".join([*lines, "", *describe_lines(found["machine"])] if "machine" in found else lines) + "\n"


def _protocol(source: str) -> str:
    if source not in PUBLISHED:
        return "Split `leave_one_out`; seen items are removed from the ranking."
    return (
        "Split `lightkg`. Models train on the training part, and users are scored by their training events; the items "
        "of training and validation are removed from the ranking."
    )


def _target_sentence(targets: Mapping[str, Mapping[str, int]]) -> str:
    test, valid = (
        f"{targets[part]['without_events']:,} of the {targets[part]['all']:,} true items "
        f"({targets[part]['without_events'] / targets[part]['all']:.2%})"
        for part in ("test", "valid")
    )
    return (
        f"{test} of the test, and {valid} of validation, have no event in training: only triples give "
        "models information about them."
    )


def _setting_lines(found: Mapping[str, Any]) -> list[str]:
    """State where the settings come from, and what the rows are."""
    recipes: Mapping[str, str | None] = found["recipes"]
    chosen = sorted({recipe for recipe in recipes.values() if recipe is not None})
    default = [key for key, recipe in recipes.items() if recipe is None]
    sentences = []
    if chosen:
        sentences.append(
            f"Settings are those of {_names(chosen)} in the commit named below, those with the best Recall@10 "
            "on validation of what the files list: several settings of some models, one of others."
        )
    if default:
        sentences.append(f"{_names(default)} {'has its' if len(default) == 1 else 'have their'} defaults.")
    sentences.append(
        f"Networks keep the state of training with the best Recall@10 on validation. `{COMBINED}` combines "
        f"{_names(found['members'])}, the best models on validation; its weights are chosen on validation, too."
    )
    if any(key in found["rows"] for key in WITH_GRAPH):
        sentences.append(
            f"A row `{WITHOUT.strip()}` is the same model with the same settings, trained on the same data without the "
            "triples."
        )
    vectors = [key for key in VECTORS if key in found["rows"]]
    if vectors:
        verb = "is" if len(vectors) == 1 else "are"
        sentences.append(
            f"{_names(vectors)} {verb} `{READ_BY}` with these entity vectors as the only item feature; without triples "
            f"the vectors are random. `{COMBINED}` does not combine them."
        )
    return [" ".join(sentences)]


def _row_lines(found: Mapping[str, Any]) -> list[str]:
    lines = [
        "| model | triples | validation Recall@10 | Recall@10 | MRR@10 | Recall@10 by seed | CPU s per training |",
        "| --- | --- | ---: | ---: | ---: | --- | ---: |",
    ]
    with_triples = {*WITH_GRAPH, *([COMBINED] if set(WITH_GRAPH) & set(found["members"]) else [])}
    for name, row in sorted(found["rows"].items(), key=lambda pair: -pair[1]["valid"]["recall@10"]):
        cells = [_estimate(row["test"][metric]) for metric in TITLES]
        by_seed = ", ".join(f"{value:.4f}" for value in row["by_seed"])
        seconds = f"{found['cpu_seconds'][name]:.0f}" if name in found["cpu_seconds"] else ""
        lines.append(
            f"| `{name}` | {'yes' if name in with_triples else ''} | {row['valid']['recall@10']:.4f} | "
            f"{' | '.join(cells)} | {by_seed} | {seconds} |"
        )
    published = sorted(PUBLISHED.get(found["source"], {}).items(), key=lambda pair: -pair[1][0])
    return lines + [f"| {name}, published | | | {one:.4f} | {other:.4f} | | |" for name, (one, other) in published]


def target_lines(
    rows: Mapping[str, Any], published: Mapping[str, tuple[float, float]], *, has_equal_inputs: bool
) -> list[str]:
    """Compare the best row of validation with each published figure.

    The aim is an interval above the best of them.
    """
    best = max(rows, key=lambda name: rows[name]["valid"]["recall@10"])
    lines = []
    for at, (metric, title) in enumerate(TITLES.items()):
        one = rows[best]["test"][metric]
        interval = one["low"], one["high"]
        groups: dict[Verdict, list[str]] = {Verdict.BETTER: [], Verdict.ON_PAR: [], Verdict.WORSE: []}
        for name, figures in sorted(published.items(), key=lambda pair: -pair[1][at]):
            groups[compare_figures(interval, figures[at])].append(f"{name} ({figures[at]:.4f})")
        words = {Verdict.BETTER: "above", Verdict.ON_PAR: "holds", Verdict.WORSE: "below"}
        found = "; ".join(f"{words[verdict]} {', '.join(names)}" for verdict, names in groups.items() if names)
        highest = max(figures[at] for figures in published.values())
        is_above = compare_figures(interval, highest) is Verdict.BETTER
        met = "not met" if not is_above else "met" if has_equal_inputs else "not claimed, as the inputs may differ"
        lines.append(
            f"* {title} of `{best}`, the best on validation: {_estimate(one)}. The interval: {found}. "
            f"Aim, above {highest:.4f}: {met}."
        )
    return lines


def _test_lines(found: Mapping[str, Any]) -> list[str]:
    lines = ["Paired randomization tests over users, of the means over the seeds; p-values with Holm's correction."]
    related = [key for key in RELATED if f"{key} - {RELATED[key]}" in found["tests"]]
    if related:
        lines[0] += f" {_names(RELATED[key] for key in related)} {'has its' if len(related) == 1 else 'have their'} "
        lines[0] += "own settings."
    lines += [
        f"`{one}` and `{other}` have the same values for every query, so they are compared once."
        for one, other in found["equal"].items()
    ]
    lines += ["", "| with triples - without | difference of Recall@10 | p |", "| --- | ---: | ---: |"]
    return lines + [
        f"| {name} | {one['difference']:+.4f} [{one['low']:+.4f}, {one['high']:+.4f}] | {one['p_holm']:.4f} |"
        for name, one in found["tests"].items()
    ]


def _path_lines(paths: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    lines = [
        "Paths of the ten recommendations of the first 500 test queries, first seed. A path has one triple, from an "
        "item of the history to the recommended item, or two, through a shared vertex; history items are those of "
        "training and validation. There is one path per item of the history and vertex. The last two columns are of "
        "the most specific path of each recommendation: a direct one, or that through the vertex with the fewest "
        "triples. Distinct relations are the first relations of these paths, per list, divided by its length. The "
        "percentile is the share of all vertices with at most as many triples as the shared one: lower is more "
        "specific.",
        "",
        "| model | share of recommendations with a path | paths per recommendation | "
        "distinct relations / recommendations | degree percentile of the shared vertex |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    return lines + [
        f"| `{name}` | {one['share_with_path']:.3f} | {one['mean_paths']:.2f} | {one['relation_diversity']:.3f} | "
        f"{'' if one['entity_popularity'] is None else format(one['entity_popularity'], '.3f')} |"
        for name, one in paths.items()
    ]


def _estimate(one: Mapping[str, float]) -> str:
    return f"{one['mean']:.4f} [{one['low']:.4f}, {one['high']:.4f}]"


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
