"""Explain why an item is or is not recommended to a user.

Shapes: I items, L items of a history that are left out in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

import numpy as np

from segue.core.events import Codes, Mask, Scores
from segue.core.model import Recommender, Streaming, describe_fallbacks, explain_features, is_factored
from segue.core.recommend import PrecomputedQueries, log_partition, score_blocks
from segue.core.types import Queries
from segue.serving import schemas
from segue.serving.catalog.catalog import Catalog
from segue.serving.explain.leave_one_out import MAX_LEFT_OUT, compute_attributions_in_steps, left_out_items
from segue.serving.explain.rule_trace import ItemOutcome, trace_rules
from segue.serving.ranking import long_history
from segue.serving.rules.compile import CompiledRules
from segue.serving.rules.rerank import LATE, apply_boosts, rerank_in_steps
from segue.serving.scheduling.steps import Steps, run_steps

__all__ = ["NeighborLookup", "explain", "explain_in_steps"]

NUM_NEIGHBORS = 100
"""Nearest neighbors of the item that are looked up in the history."""

MAX_NEIGHBORS = 10
"""Neighbors that are returned."""

MAX_MENTIONED = 3
"""Attributions, values and neighbors that are mentioned in a text."""


MAX_TERMS = 10
"""Contributions of features that are mentioned in a text."""


class NeighborLookup(Protocol):
    """Looks up the nearest neighbors of an item."""

    def nearest(self, code: int, k: int) -> tuple[Codes, Scores]:
        """Return at most ``k`` nearest items, nearest first, and their similarities."""
        ...


def explain(
    model: Recommender,
    queries: Queries,
    item: int | str,
    rules: CompiledRules,
    k: int,
    include_seen: bool,
    catalog: Catalog,
    neighbors: NeighborLookup | None,
    model_info: schemas.ModelInfo,
) -> schemas.Explanation:
    """Explain why ``item`` is or is not among the ``k`` recommended items.

    See :func:`explain_in_steps`.
    """
    return run_steps(
        explain_in_steps(model, queries, item, rules, k, include_seen, catalog, neighbors, model_info, None)
    )


def explain_in_steps(
    model: Recommender,
    queries: Queries,
    item: int | str,
    rules: CompiledRules,
    k: int,
    include_seen: bool,
    catalog: Catalog,
    neighbors: NeighborLookup | None,
    model_info: schemas.ModelInfo,
    streaming: Streaming | None,
    is_late: Callable[[], bool] = lambda: False,
) -> Steps[schemas.Explanation]:
    """Explain why ``item`` is or is not among the ``k`` recommended items.

    Args:
        queries: exactly one.
        item: its code, or the id of an item that is not in the catalog.
        include_seen: whether items of the history may be recommended again.
        streaming: the same model, if it can continue from states.
        is_late: whether the deadline has passed; then the explanation is incomplete, and its notes say so.

    Raises:
        ValueError: there is not exactly one query.
    """
    if len(queries) != 1:
        raise ValueError(f"explain: got {len(queries)} queries, expected 1")
    if isinstance(item, str):
        reason = schemas.Reason(kind="unknown", text=f"'{item}' is not in the catalog of this model")
        return schemas.Explanation(
            item=schemas.RecommendedItem(id=item, score=0.0), recommended=False, reasons=[reason], model=model_info
        )
    seen = queries.history.items
    outcome = yield from _item_outcome(model, queries, item, rules, k, include_seen, catalog, streaming, is_late)
    notes = [note for note in outcome.ranked_list.notes if note.endswith(LATE)]
    yield
    trace = trace_rules(outcome, rules, catalog)
    yield
    is_unscored = item >= model.schema.n_items - model.schema.n_unscored
    items_L, contributions_L = np.zeros(0, np.int32), np.zeros(0, np.float32)
    if not is_unscored:
        items_L, contributions_L = yield from compute_attributions_in_steps(model, queries, item, streaming, is_late)
        if len(items_L) < (n_items := len(left_out_items(queries))):
            notes.append(f"attributions: only {len(items_L)} of {n_items} were computed before the deadline")
    order = np.argsort(-np.abs(contributions_L), kind="stable")
    names = catalog.titles(items_L), catalog.ids(items_L)
    attributions = [
        schemas.Attribution(id=names[1][row], title=names[0][row], contribution=float(contributions_L[row]))
        for row in order.tolist()
    ]
    history_neighbors = [] if neighbors is None else _neighbors_in_history(neighbors, item, seen, catalog)
    shared_values = _shared_values(item, seen, catalog)
    reasons = [
        schemas.Reason(kind="rank", text=outcome.describe()),
        *(schemas.Reason(kind="rule", text=f"{rule}: {text}") for rule, text in trace.items()),
        *(schemas.Reason(kind="attribution", text=text) for text in _describe_attributions(attributions, len(seen))),
        *(schemas.Reason(kind="features", text=text) for text in _describe_features(shared_values)),
    ]
    if not is_unscored:
        reasons += _contribution_reasons(model, queries, item)
    if history_neighbors:
        text = f"often co-occurs with {_quote_names([one.title or one.id for one in history_neighbors])} of the history"
        reasons.append(schemas.Reason(kind="neighbors", text=text))
    paths = _paths(item, seen, catalog)
    reasons += [schemas.Reason(kind="path", text=path.text) for path in paths]
    reasons += _missing_input_reasons(model, queries, is_unscored)
    return schemas.Explanation(
        item=_recommended_item(outcome, catalog),
        recommended=outcome.is_recommended,
        position=outcome.rank,
        attributions=attributions,
        shared_features={name: list(values) for name, values in shared_values.items()},
        neighbors=history_neighbors,
        paths=paths,
        rules=trace,
        reasons=reasons,
        model=model_info,
        notes=notes,
    )


def _contribution_reasons(model: Recommender, queries: Queries, item: int) -> list[schemas.Reason]:
    """Return what features add to the score of the item."""
    texts = _describe_contributions(*explain_features(model, queries, item))
    return [schemas.Reason(kind="features", text=text) for text in texts]


def _missing_input_reasons(model: Recommender, queries: Queries, is_unscored: bool) -> list[schemas.Reason]:
    """Return what the model does not know about the item and the history."""
    texts = [*describe_fallbacks(model, queries).values()]
    if is_unscored:
        texts.append("the item has no events in training, and the model reads no item features: it is ranked last")
    if not queries.history.size:
        texts.append("the history is empty: the model has nothing to go by")
    return [schemas.Reason(kind="unknown", text=text) for text in texts]


def _item_outcome(
    model: Recommender,
    queries: Queries,
    item: int,
    rules: CompiledRules,
    k: int,
    include_seen: bool,
    catalog: Catalog,
    streaming: Streaming | None,
    is_late: Callable[[], bool],
) -> Steps[ItemOutcome]:
    """Rank the item among all others."""
    scores_I = yield from _catalog_scores(model, queries, streaming)
    yield
    is_logit = getattr(model, "scale", "score") == "logit"
    seen = queries.history.items
    vectors_ID = model.vectors if is_factored(model) else None
    ranked_list = yield from rerank_in_steps(
        scores_I,
        seen,
        rules,
        k,
        include_seen=include_seen,
        is_logit=is_logit,
        catalog=catalog,
        vectors_ID=vectors_ID,
        is_late=is_late,
    )
    ranked_I = apply_boosts(scores_I, rules, is_logit)
    score = float(ranked_I[item])
    is_in_history = bool((seen == item).any()) and not include_seen
    eligible_I = np.ones(len(ranked_I), np.bool_)
    if not include_seen:
        eligible_I[seen] = False
    probability = None
    if is_logit:
        log_total = log_partition(np.where(eligible_I, ranked_I, -np.inf).astype(np.float32)[None])[0]
        probability = 0.0 if is_in_history else float(np.exp(ranked_I[item] - log_total))
    if rules.allowed is not None:
        eligible_I &= rules.allowed
    unboosted_I = scores_I if rules.score_offsets is not None else ranked_I
    return ItemOutcome(
        item=item,
        score=score,
        probability=probability,
        ranked_list=ranked_list,
        k=k,
        is_in_history=is_in_history,
        is_forbidden=rules.allowed is not None and not rules.allowed[item],
        score_rank=_rank_of(ranked_I, eligible_I, item),
        unboosted_rank=_rank_of(unboosted_I, eligible_I, item),
        boost_delta=score - float(scores_I[item]),
        n_eligible=int(np.count_nonzero(eligible_I)),
    )


def _catalog_scores(model: Recommender, queries: Queries, streaming: Streaming | None) -> Steps[Scores]:
    """Return the scores ``(I,)`` of all items for one query."""
    if streaming is not None and len(queries.history.items) > long_history.LONG_HISTORY:
        vector_D = yield from long_history.encode_long_history(streaming, queries)
        scale: Literal["logit", "score"] = getattr(model, "scale", "score")
        model = PrecomputedQueries(model.schema, scale, streaming.vectors, streaming.bias, vector_D[None])
        queries = Queries.of_users(np.zeros(1, np.int32), queries.history)
    scores_I: Scores = next(iter(score_blocks(model, queries)))[1][0].copy()
    return scores_I


def _rank_of(scores_I: Scores, eligible_I: Mask, item: int) -> int:
    """Return the rank of an item among the eligible ones, starting at 1.

    Ties are in catalog order.
    """
    better_I = scores_I > scores_I[item]
    better_I[:item] |= scores_I[:item] == scores_I[item]
    return 1 + int(np.count_nonzero(better_I & eligible_I))


def _recommended_item(outcome: ItemOutcome, catalog: Catalog) -> schemas.RecommendedItem:
    codes = np.array([outcome.item])
    return schemas.RecommendedItem(
        id=catalog.ids(codes)[0],
        title=catalog.titles(codes)[0],
        score=outcome.score,
        probability=outcome.probability,
        pinned=outcome.is_pinned,
    )


def _neighbors_in_history(neighbors: NeighborLookup, item: int, seen: Codes, catalog: Catalog) -> list[schemas.Item]:
    """Return items of the history among the item's neighbors, nearest first."""
    codes, similarity = neighbors.nearest(item, NUM_NEIGHBORS)
    indices = np.flatnonzero(np.isin(codes, seen) & (codes != item))[:MAX_NEIGHBORS]
    return [catalog.item(int(codes[index]), float(similarity[index])) for index in indices]


def _shared_values(item: int, seen: Codes, catalog: Catalog) -> dict[str, dict[str, int]]:
    """Count the values and the words of texts shared with items of the history.

    They are grouped by feature; the most frequent value comes first, and rare words before common ones.
    """
    others = np.setdiff1d(seen, [item])
    shared = {}
    for name, item_values in catalog.grouping_features.items():
        codes = item_values.gather(np.array([item]))[1]
        counts_V = np.bincount(item_values.gather(others)[1], minlength=len(item_values.values))
        order = codes[np.argsort(-counts_V[codes], kind="stable")]
        values = {_json_text(item_values.values[int(code)]): int(counts_V[code]) for code in order if counts_V[code]}
        if values:
            shared[name] = values
    for name, words in catalog.text_features.items() if len(others) else ():
        if found := words.shared(item, others):
            shared[name] = found
    return shared


def _paths(item: int, seen: Codes, catalog: Catalog) -> list[schemas.KnowledgePath]:
    """Return the most specific paths from items of the history to the item."""
    if catalog.paths is None:
        return []
    found = []
    for path in catalog.paths.explain(seen.tolist(), item, MAX_MENTIONED):
        codes = np.array([path.history_item, item])
        titles, ids = catalog.titles(codes), catalog.ids(codes)
        names = [title or item_id for title, item_id in zip(titles, ids, strict=True)]
        found.append(
            schemas.KnowledgePath(
                id=ids[0],
                title=titles[0],
                entity=path.entity,
                relations=[path.first_relation, *([] if path.second_relation is None else [path.second_relation])],
                text=path.describe(*names),
            )
        )
    return found


def _json_text(value: object) -> str:
    """Format a value as JSON does, without quotes."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _describe_attributions(attributions: Sequence[schemas.Attribution], n_events: int) -> list[str]:
    """Describe the greatest positive and negative attributions."""
    texts = []
    for direction, selected in {
        "raised": [one for one in attributions if one.contribution > 0],
        "lowered": [one for one in attributions if one.contribution < 0],
    }.items():
        if selected:
            parts = [f"'{one.title or one.id}' ({one.contribution:+.3g})" for one in selected[:MAX_MENTIONED]]
            texts.append(f"its score is {direction} by {', '.join(parts)}")
    if attributions and not texts:
        texts.append("no single item of the history changes its score")
    if n_events > MAX_LEFT_OUT:
        texts.append(f"only the newest {MAX_LEFT_OUT} of {n_events} history events were left out in turn")
    return texts


def _describe_features(shared: Mapping[str, Mapping[str, int]]) -> list[str]:
    return [
        f"{name} {', '.join(_describe_share(value, count) for value, count in [*values.items()][:MAX_MENTIONED])}"
        for name, values in shared.items()
    ]


def _describe_contributions(name: str, terms: Mapping[str, float]) -> list[str]:
    """Describe the greatest terms of a sum, in at most one text."""
    order = sorted(terms, key=lambda term: -abs(terms[term]))
    parts = [f"{term} ({terms[term]:+.3g})" for term in order[:MAX_TERMS]]
    more = f" and {len(order) - MAX_TERMS} more" if len(order) > MAX_TERMS else ""
    return [f"its {name} of {sum(terms.values()):.3g} is the sum of {', '.join(parts)}{more}"] if parts else []


def _describe_share(value: str, count: int) -> str:
    return f"{value} (shared with {count} history item{'s' if count > 1 else ''})"


def _quote_names(names: Sequence[str]) -> str:
    n_more = len(names) - MAX_MENTIONED
    return ", ".join(f"'{name}'" for name in names[:MAX_MENTIONED]) + (f" and {n_more} more" if n_more > 0 else "")
