"""From scores to lists for many questions at once, each with rules of its own.

Questions without rules, or with the same items allowed, are ranked together by the one ``recommend``; the others one by
one.

Shapes: N questions, I items.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from segue.core.model import Recommender, is_factored
from segue.core.recommend import recommend, score_blocks
from segue.core.types import Events, Mask, Queries, Recommendations
from segue.serving import schemas
from segue.serving.catalog.catalog import Catalogue
from segue.serving.rules.rerank import Applied, Picked, pick, shortfall

__all__ = ["Search", "listed"]

Search: TypeAlias = Callable[[Queries, int, Events | None, Mask | None], Recommendations]
"""The best items of queries, so many, without those of the histories, among those that are allowed."""


def listed(
    model: Recommender,
    queries: Queries,
    questions: Sequence[schemas.Question],
    rules: Sequence[Applied],
    catalogue: Catalogue,
    search: Search | None = None,
) -> list[Picked]:
    """The list of each question, best first.

    Args:
        search: what is used instead of a look at the whole catalogue, where it is so large that this takes long, for
            questions without rules that need all scores; it gives no probabilities.
    """
    found: dict[int, Picked] = {}
    alike: dict[tuple[bool, int, int], list[int]] = {}
    others = []
    for row, (question, own) in enumerate(zip(questions, rules, strict=True)):
        if own.plain:
            # what a graph finds depends on how much is wanted of it, and is not to depend on what others ask
            k = question.k if search is not None else 0
            alike.setdefault((question.repeats, id(own.allowed), k), []).append(row)
        else:
            others.append(row)
    for (repeats, _, _), rows in alike.items():
        asked = queries if len(rows) == len(queries) else queries.take(np.array(rows, np.int64))
        most = max(questions[row].k for row in rows)
        allowed = rules[rows[0]].allowed
        if search is None:
            lists = recommend(model, asked, most, repeats=repeats, allowed=allowed)
        else:
            lists = search(asked, most, None if repeats else asked.history, allowed)
        for index, row in enumerate(rows):
            count = min(int(lists.lengths[index]), questions[row].k)
            seen = 0 if repeats else len(np.unique(asked.history.block(index, index + 1).items))
            found[row] = Picked(
                lists.items[index, :count],
                lists.scores[index, :count],
                None if lists.probabilities is None else lists.probabilities[index, :count],
                np.zeros(count, np.bool_),
                {**rules[row].removed, **({"history": seen} if seen else {})},
                (*rules[row].notes, *shortfall(count, questions[row].k)),
            )
    if others:
        logits = getattr(model, "scale", "score") == "logit"
        vectors_ID = model.vectors if is_factored(model) else None
        row = 0
        for block, scores_RI in score_blocks(model, queries.take(np.array(others, np.int64))):
            for index, scores_I in enumerate(scores_RI):
                question = questions[others[row]]
                seen_T = block.history.block(index, index + 1).items
                found[others[row]] = pick(
                    scores_I,
                    seen_T,
                    rules[others[row]],
                    question.k,
                    repeats=question.repeats,
                    logits=logits,
                    catalogue=catalogue,
                    vectors_ID=vectors_ID,
                )
                row += 1
    return [found[row] for row in range(len(questions))]
