"""Why an item is recommended to somebody, or why not.

Shapes: I items, L items of a history that are left out in turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from segue.core.events import Codes, Mask, Scores
from segue.core.model import Recommender, is_factored
from segue.core.recommend import log_partition, score_blocks
from segue.core.types import Queries
from segue.serving import schemas
from segue.serving.catalog.catalog import Catalogue
from segue.serving.explain.leave_one_out import NEWEST, influences
from segue.serving.explain.rule_trace import Standing, traced
from segue.serving.rules.compile import Applied
from segue.serving.rules.rerank import boosted, pick

__all__ = ["Near", "explain"]

NEAR = 100
"""Neighbours of an item that are looked for in the history."""

SHOWN = 10
"""Neighbours that are told."""

TOLD = 3
"""Influences, values and neighbours that are put into words."""


class Near(Protocol):
    """Who knows which items people have together."""

    def of(self, code: int, k: int) -> tuple[Codes, Scores]:
        """At most ``k`` nearest items of an item, the nearest first, and how like they are."""
        ...


def explain(
    model: Recommender,
    queries: Queries,
    item: int | str,
    rules: Applied,
    k: int,
    repeats: bool,
    catalogue: Catalogue,
    neighbours: Near | None,
    version: schemas.Version,
) -> schemas.Explanation:
    """Why ``item`` is among the ``k`` that are recommended, or why not.

    Args:
        queries: one.
        item: its code, or the id of an item that is not in the catalogue.
        repeats: whether items of the history may be recommended again.

    Raises:
        ValueError: another number of queries than one.
    """
    if len(queries) != 1:
        raise ValueError(f"explain: got {len(queries)} queries, expected 1")
    if isinstance(item, str):
        reason = schemas.Reason(kind="unknown", text=f"'{item}' is not in the catalogue of this model")
        return schemas.Explanation(
            item=schemas.Ranked(id=item, score=0.0), recommended=False, reasons=[reason], model=version
        )
    seen = queries.history.items
    standing = _standing(model, queries, item, rules, k, repeats, catalogue)
    trace = traced(standing, rules, catalogue)
    own_L, changes_L = influences(model, queries, item)
    order = np.argsort(-np.abs(changes_L), kind="stable")
    names = catalogue.titles(own_L), catalogue.ids(own_L)
    told = [
        schemas.Influence(id=names[1][row], title=names[0][row], change=float(changes_L[row])) for row in order.tolist()
    ]
    near = [] if neighbours is None else _near(neighbours, item, seen, catalogue)
    shared = _shared(item, seen, catalogue)
    reasons = [
        schemas.Reason(kind="rank", text=standing.words()),
        *(schemas.Reason(kind="rule", text=f"{rule}: {text}") for rule, text in trace.items()),
        *(schemas.Reason(kind="influence", text=text) for text in _influence(told, len(seen))),
        *(schemas.Reason(kind="features", text=text) for text in _features(shared)),
    ]
    if near:
        text = f"people often have it together with {_listed([one.title or one.id for one in near])} of the history"
        reasons.append(schemas.Reason(kind="neighbours", text=text))
    if not len(seen):
        text = "nothing is known of who asks: there is no event that the model can go by"
        reasons.append(schemas.Reason(kind="unknown", text=text))
    return schemas.Explanation(
        item=_ranked(standing, catalogue),
        recommended=standing.recommended,
        place=standing.place,
        influences=told,
        shared={name: list(values) for name, values in shared.items()},
        neighbours=near,
        rules=trace,
        reasons=reasons,
        model=version,
    )


def _standing(
    model: Recommender, queries: Queries, item: int, rules: Applied, k: int, repeats: bool, catalogue: Catalogue
) -> Standing:
    """Where the item stands among all others."""
    scores_I = next(iter(score_blocks(model, queries)))[1][0].copy()
    logits = getattr(model, "scale", "score") == "logit"
    seen = queries.history.items
    vectors_ID = model.vectors if is_factored(model) else None
    picked = pick(scores_I, seen, rules, k, repeats=repeats, logits=logits, catalogue=catalogue, vectors_ID=vectors_ID)
    ranked_I = boosted(scores_I, rules, logits)
    own = float(ranked_I[item])
    had = bool((seen == item).any()) and not repeats
    eligible_I = np.ones(len(ranked_I), np.bool_)
    if not repeats:
        eligible_I[seen] = False
    probability = None
    if logits:
        total = log_partition(np.where(eligible_I, ranked_I, -np.inf).astype(np.float32)[None])[0]
        probability = 0.0 if had else float(np.exp(ranked_I[item] - total))
    if rules.allowed is not None:
        eligible_I &= rules.allowed
    before_I = scores_I if rules.shift is not None else ranked_I
    return Standing(
        item=item,
        score=own,
        probability=probability,
        picked=picked,
        k=k,
        had=had,
        forbidden=rules.allowed is not None and not rules.allowed[item],
        by_score=_place(ranked_I, eligible_I, item),
        unboosted=_place(before_I, eligible_I, item),
        moved=own - float(scores_I[item]),
        eligible=int(np.count_nonzero(eligible_I)),
    )


def _place(scores_I: Scores, eligible_I: Mask, item: int) -> int:
    """The place of an item among those that are eligible, from 1; equal scores stand in the order of the catalogue."""
    better_I = scores_I > scores_I[item]
    better_I[:item] |= scores_I[:item] == scores_I[item]
    return 1 + int(np.count_nonzero(better_I & eligible_I))


def _ranked(standing: Standing, catalogue: Catalogue) -> schemas.Ranked:
    codes = np.array([standing.item])
    return schemas.Ranked(
        id=catalogue.ids(codes)[0],
        title=catalogue.titles(codes)[0],
        score=standing.score,
        probability=standing.probability,
        pinned=standing.pinned,
    )


def _near(neighbours: Near, item: int, seen: Codes, catalogue: Catalogue) -> list[schemas.Item]:
    """Items of the history among the item's neighbours, the nearest first."""
    codes, likeness = neighbours.of(item, NEAR)
    found = np.flatnonzero(np.isin(codes, seen) & (codes != item))[:SHOWN]
    return [catalogue.item(int(codes[place]), float(likeness[place])) for place in found]


def _shared(item: int, seen: Codes, catalogue: Catalogue) -> dict[str, dict[str, int]]:
    """By feature the values that the item shares with others of the history, and with how many; most shared first."""
    others = np.setdiff1d(seen, [item])
    found = {}
    for name, groups in catalogue.telling.items():
        own = groups.of(np.array([item]))[1]
        counts_V = np.bincount(groups.of(others)[1], minlength=len(groups.values))
        order = own[np.argsort(-counts_V[own], kind="stable")]
        values = {_text(groups.values[int(code)]): int(counts_V[code]) for code in order if counts_V[code]}
        if values:
            found[name] = values
    return found


def _text(value: object) -> str:
    """A value as JSON writes it, without quotes."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _influence(told: Sequence[schemas.Influence], events: int) -> list[str]:
    """The greatest influences either way."""
    texts = []
    for way, chosen in {
        "raised": [one for one in told if one.change > 0],
        "lowered": [one for one in told if one.change < 0],
    }.items():
        if chosen:
            parts = [f"'{one.title or one.id}' ({one.change:+.3g})" for one in chosen[:TOLD]]
            texts.append(f"its score is {way} by {', '.join(parts)}")
    if told and not texts:
        texts.append("no single item of the history changes its score")
    if events > NEWEST:
        texts.append(f"of {events} events of the history the newest {NEWEST} were left out in turn")
    return texts


def _features(shared: Mapping[str, Mapping[str, int]]) -> list[str]:
    return [
        f"{name} {', '.join(f'{value} (as {count} of the history)' for value, count in [*values.items()][:TOLD])}"
        for name, values in shared.items()
    ]


def _listed(names: Sequence[str]) -> str:
    more = len(names) - TOLD
    return ", ".join(f"'{name}'" for name in names[:TOLD]) + (f" and {more} more" if more > 0 else "")
