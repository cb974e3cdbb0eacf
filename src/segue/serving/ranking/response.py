"""A list as it goes over the wire."""

from __future__ import annotations

from segue.serving import schemas
from segue.serving.ranking.scorer import Group
from segue.serving.rules.rerank import Picked

__all__ = ["told"]


def told(group: Group, row: int, picked: Picked, step: schemas.Step, cause: str) -> schemas.Answer:
    """The answer as it goes over the wire; it is made of what is known to be right, and not checked again."""
    ready, rules = group.ready, group.rules[row]
    codes = picked.codes
    shares = [None] * len(codes) if picked.probabilities is None else picked.probabilities.tolist()
    columns = ready.catalogue.ids(codes), ready.catalogue.titles(codes), picked.scores.tolist(), shares
    items = [
        schemas.Ranked.model_construct(id=item, title=title, score=score, probability=share, pinned=pinned)
        for item, title, score, share, pinned in zip(*columns, picked.pinned.tolist(), strict=True)
    ]
    unknown = group.asked.unknown[row]
    if rules.unknown_items or rules.unknown_features:
        unknown = schemas.Unknown(
            user=unknown.user,
            items=[*unknown.items, *rules.unknown_items],
            features=[*unknown.features, *rules.unknown_features],
        )
    notes = [*group.notes, *picked.notes]
    if cause != "none":
        told = {"deadline": "would not have answered in time", "error": "failed", "store": "could not read the store"}[
            cause
        ]
        notes.append(f"the model that was asked {told}; this is the answer of step '{step}'")
    removed = {**rules.removed, **picked.removed}
    return schemas.Answer.model_construct(
        items=items, model=ready.version, step=step, removed=removed, unknown=unknown, notes=notes
    )
