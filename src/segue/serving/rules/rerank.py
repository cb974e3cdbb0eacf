"""A list of the best items by scores and rules.

Rules come with a question and stand for a whole service; :func:`segue.serving.rules.compile.applied` turns them into codes
and numbers of one catalogue.

Shapes: I items, D width of a factored model, m items of an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segue.core.events import Codes, Mask, Scores
from segue.core.recommend import log_partition, top_k
from segue.serving.catalog.catalog import Catalogue
from segue.serving.rules.compile import Applied, applied
from segue.serving.rules.item_similarity import cosine, jaccard
from segue.serving.rules.mmr import Quota, choose

__all__ = ["Applied", "Picked", "applied", "boosted", "pick", "shortfall"]


@dataclass(frozen=True, eq=False)
class Picked:
    """One list."""

    codes: Codes
    """``(m,)`` items in the order they are shown."""
    scores: Scores
    """``(m,)`` what they were ranked by: the model's scores with boosts added."""
    probabilities: Scores | None
    """``(m,)`` of logits: shares of a softmax, with boosts, over all that may be recommended again or not as asked;
    0 for an item of the history that is pinned though it may not."""
    pinned: Mask
    """``(m,)`` which stand there because a rule put them there."""
    removed: Mapping[str, int]
    """As :attr:`Applied.removed`, with ``history`` and ``most``, for rules that kept anything out."""
    notes: tuple[str, ...] = ()
    """What could not be done as it was asked, in words."""


def pick(
    scores_I: Scores,
    seen: Codes,
    rules: Applied,
    k: int,
    *,
    repeats: bool,
    logits: bool,
    catalogue: Catalogue,
    vectors_ID: Scores | None,
) -> Picked:
    """The best ``k`` items by scores and rules; equal scores in the order of the catalogue.

    Args:
        scores_I: ``(I,)`` finite scores of the whole catalogue; they are not changed.
        seen: items of the history.
        repeats: whether items of the history may be recommended again.
        logits: whether a softmax turns scores into probabilities.
        vectors_ID: a model's vectors of items, for ``diversify``; without them the catalogue tells what is alike.

    Raises:
        ValueError: ``k`` is below 1.
    """
    if k < 1:
        raise ValueError(f"k: got {k}, expected at least 1")
    ranked_I = boosted(scores_I, rules, logits)
    pins = dict(rules.pins)
    pinned = np.array(list(pins.values()), np.int32)
    pinned_scores = dict(zip(pinned.tolist(), ranked_I[pinned].tolist(), strict=True))
    if not repeats:
        ranked_I[seen] = -np.inf
    total = float(log_partition(ranked_I[None])[0]) if logits else 0.0
    impossible = set(pinned[ranked_I[pinned] == -np.inf].tolist())
    if rules.allowed is not None:
        ranked_I[np.flatnonzero(~rules.allowed)] = -np.inf  # a third of the time that the mask itself takes
    ranked_I[pinned] = -np.inf  # they stand where they are pinned, or nowhere
    passed, notes = 0, list(rules.notes)
    if rules.most or rules.diversify:
        quotas = [Quota(groups, most) for name, most in rules.most if (groups := catalogue.groups(name)) is not None]
        likeness = None
        if rules.diversify and vectors_ID is not None:
            likeness = cosine(vectors_ID)
        elif rules.diversify and len(catalogue.marks.values):
            likeness = jaccard(catalogue.marks)
        elif rules.diversify:
            notes.append("diversify: neither the model nor the catalogue tells which items are alike")
        shown = [pins.get(place) for place in range(1, k + 1)]
        free, passed = choose(ranked_I, shown, quotas, rules.diversify if likeness else 0.0, likeness)
    else:
        found = top_k(ranked_I[None], k)
        free = found.items[0, : found.lengths[0]]
    codes, is_pinned = _placed(free.tolist(), sorted(pins.items()), k)
    scores = ranked_I[codes]
    scores[is_pinned] = [pinned_scores[code] for code in codes[is_pinned].tolist()]
    probabilities = None
    if logits:
        probabilities = np.exp(scores - np.float32(total))
        probabilities[[code in impossible for code in codes.tolist()]] = 0.0
    notes += shortfall(len(codes), k)
    history = 0 if repeats else len(np.setdiff1d(seen, codes[is_pinned]))
    removed = {"history": history, **rules.removed, "most": passed}
    return Picked(
        codes, scores, probabilities, is_pinned, {rule: n for rule, n in removed.items() if n > 0}, tuple(notes)
    )


def shortfall(found: int, k: int) -> tuple[str, ...]:
    """What is to be said of a list that is shorter than was asked for."""
    if found >= k:
        return ()
    left = f"only {found} item{'s were' if found > 1 else ' was'}" if found else "nothing was"
    return (f"{left} left to recommend",)


def boosted(scores_I: Scores, rules: Applied, logits: bool) -> Scores:
    """``(I,)`` a copy of the scores with boosts added."""
    ranked_I = np.array(scores_I, np.float32)
    if rules.shift is not None:
        ranked_I += rules.shift if logits else rules.shift * np.float32(spread(scores_I))
    return ranked_I


def spread(scores_I: Scores) -> float:
    """The standard deviation of the scores of a catalogue, by which boosts of scores that are no logits are measured;
    1 where all are equal."""
    return float(np.std(scores_I, dtype=np.float64)) or 1.0


def _placed(free: Sequence[int], pins: Sequence[tuple[int, int]], k: int) -> tuple[Codes, Mask]:
    """Pins in their places and the others around them; when there are no others, pins close up."""
    codes: list[int] = []
    is_pinned: list[bool] = []
    rest, waiting = iter(free), list(pins)
    while len(codes) < k:
        code = None
        if not waiting or waiting[0][0] > len(codes) + 1:
            code = next(rest, None)
        if code is None and not waiting:
            break
        is_pinned.append(code is None)
        codes.append(waiting.pop(0)[1] if code is None else code)
    return np.array(codes, np.int32), np.array(is_pinned, np.bool_)
