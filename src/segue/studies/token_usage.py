"""Token usage: heat maps of attention, gates and gradients over the history.

They are averages over users, and those of single users with titles.

Shapes: N queries, L events by distance from the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.types import Dataset
from segue.studies.framework.context import StudyContext
from segue.studies.framework.drawing import draw_heat_map
from segue.studies.framework.studied_models import StudiedModel
from segue.studies.framework.study import Cell, Grid, StudyChart, StudyTable
from segue.studies.framework.summary import by_name, events_for_share, first_targets, mean_of

__all__ = [
    "ACCEPTS_RUNS",
    "DEFAULT",
    "FULL",
    "METHOD",
    "QUESTION",
    "REQUIRES",
    "answer",
    "figures",
    "rank_correlation",
    "run",
    "tables",
]

QUESTION = "Which events of a history do sequence models use for a recommendation?"
METHOD = """
Three methods weight the events of a history. Gradient: the norm of the gradient of the true item's score with respect
to the vector of the event. Attention: the weights of the last position, the mean over heads and layers. Gates: the
input gate of an event times the forget gates of all later ones, as a share of the sum, the mean over the units and
layers of an LSTM or xLSTM. Attention and gates describe single layers, whose inputs in upper layers already mix events,
and need not agree with the gradient, which passes through all layers (Jain and Wallace 2019): the rank correlation
within each history, averaged over queries, says how far they do. All weights are shares of the sum over the events; a
start or mask token is left out. Averages are over test queries with histories that fill the length of the models, or
the length that a tenth of the users reach, and cut to it. The values are the users that are shown with titles: 1 is
the first user of the test part whose history is that long.
"""
REQUIRES: tuple[str, ...] = ()
DEFAULT = Grid(values=(1,), settings=("epochs=3",))
FULL = Grid(values=(1, 2, 3), seeds=(0, 1, 2), settings=("epochs=12", "patience=12", "max_length=200"))
ACCEPTS_RUNS = True

NEWEST = (1, 5, 10)
"""Numbers of newest events whose share the table shows."""
EVENTS_OF_USER = 20
"""Newest events of a user that are shown one by one."""
TITLE_WIDTH = 44


def run(context: StudyContext) -> list[Cell]:
    """Weight the events of the same queries with every model."""
    models, users = context.studied_models(), list(context.grid.values)
    length = max(studied.length for studied in models)
    return [
        context.cell({**studied.about, "users": users, "length": length}, partial(_measure, context, studied, length))
        for studied in models
    ]


def _measure(context: StudyContext, studied: StudiedModel, length: int) -> dict[str, Any]:
    from segue.studies.framework.usage import choose_window, event_weights, share_of_events  # needs torch

    test = context.parts.test
    model: Any = studied.load().model
    targets, lengths = first_targets(test), test.queries.history.lengths
    window, rows = choose_window(lengths, length)
    weights = event_weights(model, test.queries.take(rows), targets[rows], window)
    shares = {name: share_of_events(weights_NL) for name, weights_NL in weights.items()}
    inner = [name for name in shares if name != "gradient"]
    first = np.flatnonzero(lengths >= window)
    shown = first[[user - 1 for user in context.grid.values if user <= len(first)]]
    of_users = event_weights(model, test.queries.take(shown), targets[shown], window)
    return {
        "window": window,
        "queries": len(rows),
        "weights": {name: _floats(shares_NL.mean(0)) for name, shares_NL in shares.items()},
        "agreement": {name: rank_correlation(shares[name], shares["gradient"]) for name in inner},
        "shown": [
            {
                **_describe_user(context, int(row), window),
                "weights": {name: _floats(share_of_events(weights_NL)[n]) for name, weights_NL in of_users.items()},
            }
            for n, row in enumerate(shown)
        ],
    }


def _floats(shares_L: NDArray[np.float64]) -> list[float]:
    """Return the shares of the events that are read."""
    return [float(share) for share in shares_L[~np.isnan(shares_L)]]


def rank_correlation(first_NL: NDArray[np.float64], second_NL: NDArray[np.float64]) -> float | None:
    """Return Spearman's rank correlation within each row, the mean over rows.

    ``None``: there are fewer than two columns.
    """
    is_read_L = ~np.isnan(first_NL).any(0)
    if is_read_L.sum() < 2:
        return None
    ranks = [part_NL[:, is_read_L].argsort(1).argsort(1).astype(np.float64) for part_NL in (first_NL, second_NL)]
    one_NL, two_NL = (ranks_NL - ranks_NL.mean(1, keepdims=True) for ranks_NL in ranks)
    return float(((one_NL * two_NL).sum(1) / (one_NL**2).sum(1)).mean())


def _describe_user(context: StudyContext, row: int, window: int) -> dict[str, Any]:
    """Return a test user's id, the titles of events, and that of the true item."""
    test = context.parts.test
    history = test.queries.history
    items = history.items[history.offsets[row] : history.offsets[row + 1]][::-1][:window]
    titles = _titles(context.data, np.append(items, first_targets(test)[row]))
    return {
        "user": context.data.users.decode(test.queries.users[row : row + 1])[0],
        "titles": titles[:-1],
        "true_item": titles[-1],
    }


def _titles(data: Dataset, items: NDArray[np.integer[Any]]) -> list[str]:
    """Return the titles of items, or their ids where there is none."""
    ids = data.items.decode(items)
    if data.item_features is None or "title" not in data.item_features.collect_schema().names():
        return ids
    titles = data.item_features.select(pl.col("title").cast(pl.String)).collect()["title"]
    return [title or one for title, one in zip(titles.gather(items.tolist()).to_list(), ids, strict=True)]


def _labels(groups: Mapping[str, Sequence[Cell]]) -> list[tuple[str, str]]:
    """Return models and their methods, in the order of the heat maps."""
    return [(model, method) for model, group in groups.items() for method in group[0]["weights"]]


def _mean_weights(cells: Sequence[Cell], method: str) -> NDArray[np.float64]:
    weights_L: NDArray[np.float64] = np.mean([cell["weights"][method] for cell in cells], axis=0)
    return weights_L


def tables(cells: Sequence[Cell]) -> list[StudyTable]:
    """Return the shares of the newest events, and a table of titles for each user."""
    groups = by_name(sorted(cells, key=lambda cell: int(cell["seed"])))
    rows = []
    for model, method in _labels(groups):
        weights_L = _mean_weights(groups[model], method)
        shares = [float(weights_L[:count].sum()) for count in NEWEST]
        agreement = None if method == "gradient" else mean_of(groups[model], "agreement", method)
        row = [model, method, *shares, events_for_share(weights_L, 0.9), len(weights_L), agreement]
        rows.append([None if isinstance(value, float) and np.isnan(value) else value for value in row])
    columns = (
        *("model", "method", "newest event", *(f"newest {count}" for count in NEWEST[1:])),
        *("events with 90 %", "of events", "correlation with the gradient"),
    )
    return [StudyTable("Share of the newest events", columns, rows), *_user_tables(groups)]


def _user_tables(groups: Mapping[str, Sequence[Cell]]) -> list[StudyTable]:
    labels = _labels(groups)
    found = []
    for number, user in enumerate(next(iter(groups.values()))[0]["shown"]):
        weights = [groups[model][0]["shown"][number]["weights"][method] for model, method in labels]
        rows: list[list[str | float | int | None]] = [
            [str(back + 1), title, *(100 * shares[back] if back < len(shares) else None for shares in weights)]
            for back, title in enumerate(user["titles"][:EVENTS_OF_USER])
        ]
        if rest := len(user["titles"]) - EVENTS_OF_USER:
            rest_title = f"{rest} older events" if rest > 1 else "1 older event"
            rows.append(
                [
                    f"{EVENTS_OF_USER + 1}-{len(user['titles'])}",
                    rest_title,
                    *(100 * sum(shares[EVENTS_OF_USER:]) for shares in weights),
                ]
            )
        columns = ("position", "event, the newest first", *(f"{model}: {method}" for model, method in labels))
        note = (
            "Shares in percent, with the smallest seed of each model. The item to find, which came next, is "
            f"{user['true_item']}."
        )
        found.append(StudyTable(f"User {user['user']}", columns, rows, note, digits=1))
    return found


def figures(cells: Sequence[Cell]) -> Mapping[str, StudyChart]:
    """Draw the heat map of all users, and that of each chosen user with titles."""
    groups = by_name(sorted(cells, key=lambda cell: int(cell["seed"])))
    labels = _labels(groups)
    window = max(cell["window"] for cell in cells)
    names = [f"{model}: {method}" for model, method in labels]
    average = [_from_oldest(_mean_weights(groups[model], method), window) for model, method in labels]
    back = [str(number) for number in range(window, 0, -1)]
    drawn = {
        "Weight of events by position": draw_heat_map(
            average,
            names,
            back,
            "events from the end; 1 is the newest",
            "Stronger color: more weight, relative to the row",
        )
    }
    for number, user in enumerate(cells[0]["shown"]):
        shown = min(EVENTS_OF_USER, len(user["titles"]))
        columns = [groups[model][0]["shown"][number]["weights"][method] for model, method in labels]
        values = [[shares[row] if row < len(shares) else None for shares in columns] for row in range(shown)]
        titles = [f"{_shorten(title)}  {row + 1}" for row, title in enumerate(user["titles"][:shown])]
        drawn[f"Newest events of user {user['user']}"] = draw_heat_map(
            values,
            titles,
            names,
            "",
            f"With the smallest seed of each model; next item: {_shorten(user['true_item'])}",
            by_column=True,
        )
    return drawn


def _from_oldest(weights_L: NDArray[np.float64], window: int) -> list[float | None]:
    """Return weights with the oldest event first, ``None`` where none is read."""
    return [*[None] * (window - len(weights_L)), *(float(weight) for weight in weights_L[::-1])]


def _shorten(title: str) -> str:
    return title if len(title) <= TITLE_WIDTH else f"{title[: TITLE_WIDTH - 1]}…"


def answer(cells: Sequence[Cell]) -> list[str]:
    """State the weight of the newest events, and whether the methods agree."""
    groups = by_name(cells)
    sentences = []
    for model, group in groups.items():
        weights = {method: _mean_weights(group, method) for method in group[0]["weights"]}
        window, count = group[0]["window"], NEWEST[-1]
        parts = [
            f"{weights_L[0]:.0%} of {_phrase(method)} is on the newest of {window} events and "
            f"{weights_L[:count].sum():.0%} on the newest {min(count, window)}"
            for method, weights_L in weights.items()
        ]
        text = f"`{model}`: {'; '.join(parts)}."
        for method in weights:
            agreement = mean_of(group, "agreement", method) if method != "gradient" else float("nan")
            if not np.isnan(agreement):
                text += (
                    f" Within a history, the rank correlation between {_phrase(method)} and the gradient is "
                    f"{agreement:.2f} on average."
                )
        sentences.append(text)
    return sentences


def _phrase(method: str) -> str:
    return {"gates": "the weight by gates", "attention": "the attention", "gradient": "the gradient"}[method]
