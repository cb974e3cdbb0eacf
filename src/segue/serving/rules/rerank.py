"""Rank the items of one request by scores and rules.

:func:`segue.serving.rules.compile.compile_rules` turns the rules of a request and the default rules into item codes and
numbers of one catalog.

Shapes: I items, D width of a factored model, m items of a list, V values of a feature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segue.core.events import Codes, Mask, Scores
from segue.core.recommend import log_partition, top_k
from segue.serving.catalog.catalog import Catalog
from segue.serving.rules.compile import CompiledRules, compile_rules
from segue.serving.rules.item_similarity import cosine_similarity, jaccard_similarity
from segue.serving.rules.mmr import Quota, select_mmr
from segue.serving.scheduling.steps import Steps, run_steps

__all__ = [
    "LATE",
    "CompiledRules",
    "RankedList",
    "apply_boosts",
    "compile_rules",
    "rerank",
    "rerank_in_steps",
    "shortfall_notes",
]


LATE = "not applied: the deadline has passed"
"""End of the note on rules that are not applied."""


@dataclass(frozen=True, eq=False)
class RankedList:
    """One ranked list."""

    codes: Codes
    """``(m,)`` items in display order."""
    scores: Scores
    """``(m,)`` the scores that items were ranked by: the model's scores plus boosts."""
    probabilities: Scores | None
    """``(m,)`` softmax of boosted logits over the catalog, without seen items unless they are included; 0 for a pinned
    item that has been seen. ``None`` for scores that are not logits."""
    pinned: Mask
    """``(m,)`` which items a rule pinned to their position."""
    filtered_counts: Mapping[str, int]
    """As :attr:`CompiledRules.filtered_counts`, plus ``seen`` and ``max_per_value``; without zeros."""
    notes: tuple[str, ...] = ()
    """What could not be applied."""


def rerank(
    scores_I: Scores,
    seen: Codes,
    rules: CompiledRules,
    k: int,
    *,
    include_seen: bool,
    is_logit: bool,
    catalog: Catalog,
    vectors_ID: Scores | None,
) -> RankedList:
    """Rank the best ``k`` items by scores and rules; see :func:`rerank_in_steps`."""
    return run_steps(
        rerank_in_steps(
            scores_I,
            seen,
            rules,
            k,
            include_seen=include_seen,
            is_logit=is_logit,
            catalog=catalog,
            vectors_ID=vectors_ID,
        )
    )


def rerank_in_steps(
    scores_I: Scores,
    seen: Codes,
    rules: CompiledRules,
    k: int,
    *,
    include_seen: bool,
    is_logit: bool,
    catalog: Catalog,
    vectors_ID: Scores | None,
    is_late: Callable[[], bool] = lambda: False,
) -> Steps[RankedList]:
    """Rank the best ``k`` items by scores and rules; ties in catalog order.

    Args:
        scores_I: ``(I,)`` finite scores of the whole catalog; not modified.
        seen: items of the history.
        include_seen: whether items of the history may be recommended again.
        is_logit: whether a softmax turns scores into probabilities.
        vectors_ID: item vectors of the model, for ``diversify``; without them item features give the similarity.
        is_late: whether the deadline has passed, checked at every pause; then quotas and ``diversify``, whose cost
            grows with the list, are not applied, and a note says so. All other rules hold.

    Raises:
        ValueError: ``k`` is below 1.
    """
    if k < 1:
        raise ValueError(f"k: got {k}, expected at least 1")
    ranked_I = apply_boosts(scores_I, rules, is_logit)
    pins = dict(rules.pins)
    pinned = np.array(list(pins.values()), np.int32)
    pinned_scores = dict(zip(pinned.tolist(), ranked_I[pinned].tolist(), strict=True))
    if not include_seen:
        ranked_I[seen] = -np.inf
    log_total = float(log_partition(ranked_I[None])[0]) if is_logit else 0.0
    seen_pins = set(pinned[ranked_I[pinned] == -np.inf].tolist())
    if rules.allowed is not None:
        ranked_I[np.flatnonzero(~rules.allowed)] = -np.inf  # three times as fast as the mask itself
    ranked_I[pinned] = -np.inf  # pinned items appear at their position only
    notes = list(rules.notes)
    selected = None
    if rules.max_per_value or rules.diversify:
        selected = yield from _select_until_late(ranked_I, pins, rules, k, catalog, vectors_ID, notes, is_late)
    if selected is None:
        best = top_k(ranked_I[None], k)
        selected = best.items[0, : best.lengths[0]], 0
    free_items, n_skipped = selected
    codes, is_pinned = _insert_pins(free_items.tolist(), sorted(pins.items()), k)
    scores = ranked_I[codes]
    scores[is_pinned] = [pinned_scores[code] for code in codes[is_pinned].tolist()]
    probabilities = None
    if is_logit:
        probabilities = np.exp(scores - np.float32(log_total))
        probabilities[[code in seen_pins for code in codes.tolist()]] = 0.0
    notes += [*_hidden_pin_notes(rules, codes, k, catalog), *_quota_notes(rules, codes, catalog)]
    notes += shortfall_notes(len(codes), k)
    n_seen = 0 if include_seen else len(np.setdiff1d(seen, codes[is_pinned]))
    filtered_counts = {"seen": n_seen, **rules.filtered_counts, "max_per_value": n_skipped}
    return RankedList(
        codes, scores, probabilities, is_pinned, {rule: n for rule, n in filtered_counts.items() if n > 0}, tuple(notes)
    )


def _select_until_late(
    ranked_I: Scores,
    pins: Mapping[int, int],
    rules: CompiledRules,
    k: int,
    catalog: Catalog,
    vectors_ID: Scores | None,
    notes: list[str],
    is_late: Callable[[], bool],
) -> Steps[tuple[Codes, int] | None]:
    """Select items with quotas and diversity, or return ``None`` after the deadline.

    See :func:`segue.serving.rules.mmr.select_mmr`. Adds to ``notes`` what is not applied.
    """
    quotas = [
        Quota(item_values, max_per_value)
        for name, max_per_value in rules.max_per_value
        if (item_values := catalog.feature_values(name)) is not None
    ]
    similarity = None
    if rules.diversify and vectors_ID is not None:
        similarity = cosine_similarity(vectors_ID)
    elif rules.diversify and len(catalog.item_values.values):
        similarity = jaccard_similarity(catalog.item_values)
    elif rules.diversify:
        notes.append("diversify: not applied: the model has no item vectors and the catalog has no features to compare")
    fixed_items = [pins.get(position) for position in range(1, k + 1)]
    steps = select_mmr(ranked_I, fixed_items, quotas, rules.diversify if similarity else 0.0, similarity)
    while not is_late():
        try:
            next(steps)
        except StopIteration as stop:
            selected: tuple[Codes, int] = stop.value
            return selected
        yield
    names = [name for name in ("max_per_value", "diversify") if getattr(rules, name)]
    notes.append(f"{' and '.join(names)}: {LATE}")
    return None


def _hidden_pin_notes(rules: CompiledRules, codes: Codes, k: int, catalog: Catalog) -> list[str]:
    """Return notes on the request's pins that the list is too short for."""
    shown, requested = set(codes.tolist()), {pin.item for pin in rules.request_rules.pins}
    hidden = [(position, catalog.ids(np.array([code]))[0]) for position, code in rules.pins if code not in shown]
    return [
        f"pins: '{item}' is not shown: position {position} is beyond the {k} requested items"
        for position, item in hidden
        if item in requested
    ]


def _quota_notes(rules: CompiledRules, codes: Codes, catalog: Catalog) -> list[str]:
    """Return notes on quotas that pinned items exceed."""
    notes = []
    for name, limit in rules.max_per_value if rules.pins else ():
        item_values = catalog.feature_values(name)
        assert item_values is not None
        counts_V = np.bincount(item_values.gather(codes)[1])
        if (count := int(counts_V.max(initial=0))) > limit:
            value = item_values.values[int(counts_V.argmax())]
            notes.append(f"max_per_value: pins put {count} items with {name} {value} into the list, above {limit}")
    return notes


def shortfall_notes(count: int, k: int) -> tuple[str, ...]:
    """Return a note if a list is shorter than requested."""
    if count >= k:
        return ()
    text = f"only {count} item{'s' if count > 1 else ''}" if count else "no items"
    return (f"{text} left to recommend",)


def apply_boosts(scores_I: Scores, rules: CompiledRules, is_logit: bool) -> Scores:
    """Return a copy ``(I,)`` of the scores with boosts added."""
    ranked_I = np.array(scores_I, np.float32)
    if rules.score_offsets is not None:
        ranked_I += rules.score_offsets if is_logit else rules.score_offsets * np.float32(score_std(scores_I))
    return ranked_I


def score_std(scores_I: Scores) -> float:
    """Return the standard deviation of a catalog's scores, 1 if all are equal.

    It is the unit of boosts for scores that are not logits.
    """
    return float(np.std(scores_I, dtype=np.float64)) or 1.0


def _insert_pins(free_items: Sequence[int], pins: Sequence[tuple[int, int]], k: int) -> tuple[Codes, Mask]:
    """Place pins at their positions and the other items around them.

    When the other items run out, pins move up.
    """
    codes: list[int] = []
    is_pinned: list[bool] = []
    free_iterator, remaining_pins = iter(free_items), list(pins)
    while len(codes) < k:
        code = None
        if not remaining_pins or remaining_pins[0][0] > len(codes) + 1:
            code = next(free_iterator, None)
        if code is None and not remaining_pins:
            break
        is_pinned.append(code is None)
        codes.append(remaining_pins.pop(0)[1] if code is None else code)
    return np.array(codes, np.int32), np.array(is_pinned, np.bool_)
