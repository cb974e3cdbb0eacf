"""The page of a report on an interaction log."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segue.reports.html.layout import (
    Block,
    Cell,
    FactsBlock,
    FigureBlock,
    FigureRow,
    ListBlock,
    Page,
    Paragraph,
    Part,
    Section,
    TableBlock,
)
from segue.reports.html.log_charts import (
    activity_chart,
    count_chart,
    duration_chart,
    duration_text,
    histogram_chart,
    length_chart,
    lorenz_chart,
    rank_chart,
)
from segue.reports.html.log_description import FeatureDescription, LogDescription, TimeDescription
from segue.reports.html.run_charts import metric_chart
from segue.reports.quantities import (
    format_amount,
    format_count,
    format_duration,
    format_mean,
    format_span,
    metric_label,
)

__all__ = ["log_page"]

DRAWN = ("category", "tags", "boolean")
"""Kinds of features whose frequent values are drawn, unless most values are distinct."""

MAX_FEATURE_FIGURES = 6
"""Features whose frequent values are drawn; the table lists all."""


def log_page(log: LogDescription) -> Page:
    """Build the page."""
    sections = [
        _overview(log),
        _long_tail(log),
        _users(log),
        *_times(log),
        *_values(log),
        *_features(log),
        *_texts(log),
        *_audit(log),
        *_baselines(log),
    ]
    facts = (
        ("users", format_count(log.users)),
        ("items", format_count(log.items)),
        ("events", format_count(log.events)),
        ("density", _percent(log.density)),
        ("median events per user", f"{log.length_quantiles['median']:,.4g}"),
    )
    return Page(
        f"Data: {log.name}", _title(log), _standfirst(log), (Part(log.name, tuple(sections)),), _warnings(log), facts
    )


def _title(log: LogDescription) -> str:
    share = log.top_shares[10]
    if share >= 0.3:
        return f"The most popular tenth of the items of {log.name} has {_percent(share, 2)} of all events"
    return f"The popularity of the items of {log.name} is spread evenly: a tenth has {_percent(share, 2)} of the events"


def _standfirst(log: LogDescription) -> str:
    """Describe the log in a few sentences."""
    sentences = [
        f"{log.name} has {format_amount(log.events, 'event')} of {format_amount(log.users, 'user')} and "
        f"{format_amount(log.items, 'item')}, {_percent(log.density)} of all pairs.",
        f"Half of the events are of {format_amount(log.half_items, 'item')}, {_percent(log.half_items / log.items)} of "
        "the catalog.",
        f"Half of the users have at most {format_amount(log.length_quantiles['median'], 'event')}; "
        + (f"{_percent(log.repeats)} of the events repeat" if log.repeats else "no event repeats")
        + " an item of the user.",
    ]
    if log.time is not None:
        sentences.append(f"The events are from {log.time.first[:10]} to {log.time.last[:10]}.")
    else:
        sentences.append("The events have no real times.")
    if log.audit is not None:
        found = log.audit["findings"]
        counts = {grade: sum(one["grade"] == grade for one in found) for grade in ("error", "warning", "note")}
        named = ", ".join(f"{count} {grade}{'s' * (count > 1)}" for grade, count in counts.items() if count)
        sentences.append(f"The audit found {named or 'nothing wrong'}.")
    return " ".join(sentences)


def _warnings(log: LogDescription) -> tuple[str, ...]:
    severe = [] if log.audit is None else [one for one in log.audit["findings"] if one["grade"] != "note"]
    return (*log.warnings, *(f"{one['text']}; {one['action']}" for one in severe))


def _overview(log: LogDescription) -> Section:
    rows = [
        ("events", format_count(log.events)),
        ("distinct pairs of user and item", format_count(log.pairs)),
        ("events that repeat an item of the user", f"{_percent(log.repeats)}"),
        ("density", _percent(log.density)),
        ("users without events", format_count(log.users_without_events)),
        ("items without events", format_count(log.items_without_events)),
    ]
    if log.time is not None:
        rows += [("first event", f"{log.time.first} UTC"), ("last event", f"{log.time.last} UTC")]
        rows += [("events with a real time", f"{_percent(log.time.known_share)}")]
    else:
        rows += [("times", "none, or placeholders that only keep the order")]
    rows += [("data hash", log.data_hash)] if log.data_hash else []
    blocks: list[Block] = [FactsBlock(tuple(rows))]
    if log.actions:
        title = "Events by kind of action"
        text = "; ".join(f"{one.value} {format_count(one.count)}" for one in log.actions)
        blocks.append(FigureBlock("actions", title, f"{title}: {text}.", count_chart(log.actions, log.events)))
    if log.notes:
        blocks.append(ListBlock(tuple(log.notes)))
    return Section("Counts", tuple(blocks))


def _long_tail(log: LogDescription) -> Section:
    shares = "; ".join(
        f"the most popular {percent} % have {_percent(share)}" for percent, share in log.top_shares.items()
    )
    rank_text = f"Events by rank: the most popular item has {format_count(log.ranks[0][1])}, {_middle(log)}."
    figures = (
        FigureBlock("popularity", "Events of an item by its rank in popularity", rank_text, rank_chart(log.ranks)),
        FigureBlock(
            "lorenz",
            f"Share of the events by share of the items (Gini index {log.gini:.2f})",
            f"Lorenz curve with a Gini index of {log.gini:.3f}; {shares}.",
            lorenz_chart(log.lorenz),
        ),
    )
    lead = (
        f"Of all events, {shares}. A model that recommends only popular items reaches many of them, so compare with "
        "the simple baselines, and look at the metrics of the tail."
    )
    note = "A Gini index of 0 means that all items are equally popular, near 1 that a few items have all events."
    return Section("Long tail", (FigureRow(figures), Paragraph(note, is_note=True)), lead)


def _middle(log: LogDescription) -> str:
    rank, count = log.ranks[len(log.ranks) // 2]
    return f"the one at rank {format_count(rank)} has {format_count(count)}"


def _users(log: LogDescription) -> Section:
    quantiles = log.length_quantiles
    text = "; ".join(f"{name} {value:,.4g}" for name, value in quantiles.items())
    figure = FigureBlock(
        "history-lengths", "Users by number of events", f"Events per user: {text}.", length_chart(log.lengths, "users")
    )
    table = TableBlock(
        "Events per user",
        ("quantity", *quantiles),
        ((Cell("events per user"), *(Cell(f"{value:,.4g}") for value in quantiles.values())),),
    )
    note = "Bins of large numbers are wider, as on a logarithmic scale. Users without events do not count."
    return Section("Lengths of the histories", (figure, Paragraph(note, is_note=True), table))


def _times(log: LogDescription) -> list[Section]:
    time = log.time
    if time is None:
        return []
    peak = max(time.activity, key=lambda one: one[1])
    text = f"Events per {time.unit} from {time.first} to {time.last}; the most, {peak[1]:,}, from {peak[0][:10]}."
    chart = activity_chart(time.activity, time.unit)
    blocks: list[Block] = [FigureBlock("activity", f"Events per {time.unit}", text, chart)]
    return [Section("Activity over time", tuple(blocks), "Only events with real times count."), _gaps(time)]


def _gaps(time: TimeDescription) -> Section:
    """Show the gaps between events, and the sessions."""
    median = "unknown" if time.median_gap is None else duration_text(time.median_gap)
    text = f"The median gap is {median}; {_percent(time.zero_gaps)} of the gaps are 0."
    minutes = time.session_gap / 60
    figures = []
    if time.gaps:
        title = "Gaps between consecutive events of a user"
        figures.append(FigureBlock("gaps", title, f"{title}. {text}", duration_chart(time.gaps)))
    session_text = (
        f"{format_amount(time.sessions, 'session')}; the median has {format_amount(time.median_session, 'event')}, and "
        f"{_percent(time.single_sessions)} have one."
    )
    title = f"Sessions by number of events, with a pause of {minutes:g} minutes between sessions"
    figures.append(FigureBlock("sessions", title, session_text, length_chart(time.session_lengths, "sessions")))
    lead = f"{text} A session ends with a pause of more than {minutes:g} minutes: {session_text}"
    note = (
        "Gaps of 0, which a logarithmic scale cannot show, are left out of the figure. Many of them mean that the "
        "order of the file decides which event comes first."
    )
    return Section("Gaps and sessions", (FigureRow(tuple(figures)), Paragraph(note, is_note=True)), lead)


def _values(log: LogDescription) -> list[Section]:
    if log.value_counts:
        total = sum(one.count for one in log.value_counts)
        text = "; ".join(f"{one.value} {_percent(one.count / total)}" for one in log.value_counts)
        figure = FigureBlock(
            "values", "Events by value", f"Values of the events: {text}.", count_chart(log.value_counts, total)
        )
    elif log.values:
        text = f"Values of the events from {log.values[0].low:.4g} to {log.values[-1].high:.4g}."
        figure = FigureBlock("values", "Events by value", text, histogram_chart(log.values, "events"))
    else:
        return []
    return [Section("Values of the events", (figure,), "Ratings, or another number that the log has for an event.")]


def _features(log: LogDescription) -> list[Section]:
    sections = []
    for title, key, features, rows in (
        ("Item features", "item", log.item_features, log.items),
        ("User profiles", "user", log.user_features, log.users),
    ):
        if not features:
            continue
        drawn = [one for one in features if one.kind in DRAWN and one.common and 2 * (one.distinct or 0) <= rows]
        figures = tuple(
            FigureBlock(
                f"{key}-feature-{number}",
                f"{one.name}: {'most frequent ' if len(one.common) < (one.distinct or 0) else ''}values",
                "; ".join(f"{value.value} {_percent(value.count / rows)}" for value in one.common) + ".",
                count_chart(one.common, rows),
            )
            for number, one in enumerate(drawn[:MAX_FEATURE_FIGURES], 1)
        )
        blocks: list[Block] = [_features_table(title, features)]
        blocks += [FigureRow(figures)] if figures else []
        sections.append(Section(title, tuple(blocks), f"Shares are of {format_count(rows)} {key}s."))
    return sections


def _features_table(title: str, features: Sequence[FeatureDescription]) -> TableBlock:
    rows = tuple(
        (
            Cell(one.name),
            Cell(one.kind),
            Cell(f"{100 * one.missing:.1f} %"),
            Cell("" if one.distinct is None else format_count(one.distinct)),
        )
        for one in features
    )
    return TableBlock(title, ("column", "kind", "missing", "distinct values"), rows, first_numeric=2)


def _texts(log: LogDescription) -> list[Section]:
    rows = [
        (
            Cell(one.name),
            Cell(kind),
            Cell(f"{100 * one.missing:.1f} %"),
            _length_cell(one.characters),
            _length_cell(one.words),
        )
        for kind, features in (("items", log.item_features), ("users", log.user_features))
        for one in features
        if one.characters is not None and one.words is not None
    ]
    if not rows:
        return []
    head = ("column", "of", "missing", "median characters", "median words")
    table = TableBlock("Lengths of texts", head, tuple(rows), first_numeric=2)
    return [Section("Texts", (table,), "Columns of texts that are mostly distinct, such as titles and descriptions.")]


def _length_cell(lengths: tuple[float, float, float]) -> Cell:
    median, high, maximum = (f"{length:,.0f}" for length in lengths)
    return Cell(median, f"95 %: {high}, maximum {maximum}")


def _audit(log: LogDescription) -> list[Section]:
    if log.audit is None:
        return []
    checks = ", ".join(name.replace("_", " ") for name in log.audit["checks"])
    found = log.audit["findings"]
    note = Paragraph(f"Checks: {checks}.", is_note=True)
    if not found:
        return [Section("Audit", (note,), f"Nothing found in {len(log.audit['checks'])} checks.")]
    rows = tuple(
        (
            Cell(one["grade"]),
            Cell(one["check"].replace("_", " ")),
            Cell(
                one["text"],
                "first: " + ", ".join(f"{k} {v}" for k, v in one["example"].items()) if one["example"] else "",
            ),
            Cell(one["action"]),
            Cell(format_count(one["count"])),
        )
        for one in found
    )
    table = TableBlock(
        "Findings, the worst first", ("grade", "check", "finding", "what to do", "count"), rows, first_numeric=4
    )
    lead = "Errors make figures wrong or incomparable, warnings may bias them, notes are worth knowing."
    return [Section("Audit", (table, note), lead)]


def _baselines(log: LogDescription) -> list[Section]:
    """Show what is reachable without learning, on validation."""
    record = log.baselines
    if record is None:
        return []
    metric, every = record["metrics"][0], record["baselines"]
    names = list(dict.fromkeys(name for one in every.values() for name in one["metrics"]))
    rows = [
        {
            "name": name,
            **dict(zip(("mean", "low", "high"), one["metrics"][metric], strict=True)),
            "is_simple": name != record["strongest"],
        }
        for name, one in every.items()
        if metric in one["metrics"]
    ]
    text = "; ".join(f"{row['name']} {format_mean(row['mean'])}" for row in rows)
    figure = FigureBlock(
        "baselines", metric_label(metric), f"{metric_label(metric)}: {text}.", metric_chart(metric, rows)
    )
    body = tuple(
        (
            Cell(name, "", "strongest" if name == record["strongest"] else ""),
            *(
                Cell(format_mean(one["metrics"][n][0]), format_span(one["metrics"][n][1:]))
                if n in one["metrics"]
                else Cell("")
                for n in names
            ),
            Cell(format_duration(one["seconds"])),
        )
        for name, one in every.items()
    )
    head = ("baseline", *map(metric_label, names), "time")
    table = TableBlock("Simple baselines, with 95 % intervals", head, body)
    lead = (
        "What is reachable without learning, on "
        f"{format_amount(record['queries'], 'validation query', 'validation queries')}. The test part was not read."
    )
    left_out = tuple(f"left out: {name}: {reason}" for name, reason in record["skipped"].items())
    blocks: list[Block] = [figure, table]
    blocks += [ListBlock(left_out)] if left_out else []
    return [Section("Simple baselines", tuple(blocks), lead)]


def _percent(share: float, digits: int = 3) -> str:
    """Format a share, such as ``6.3 %``, with a space that does not break."""
    value = 100 * share
    text = (
        f"{value:.1f}" if 99 <= value < 100 else np.format_float_positional(value, digits, fractional=False, trim="-")
    )
    return f"{text}\u00a0%"
