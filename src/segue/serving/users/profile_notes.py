"""Find what of a profile has no effect on the recommendations.

Python, the command line and the service describe with it the values of a profile that a model does not know, so that
their notes are the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segue.core.bundle import TrainedModel
from segue.core.model import Recommender, nested_models
from segue.features.text.user_texts import EncodedProfile, UserTexts
from segue.serving.users.model_inputs import find_unknown_categories

__all__ = ["UnusedValues", "describe_profile", "find_unused_values", "is_given"]


@dataclass(frozen=True)
class UnusedValues:
    """What of a profile has no effect."""

    categories: Mapping[str, Sequence[str]]
    """Categories and tags that the model does not know, by feature."""
    texts: Sequence[str]
    """Features with a text of which no word is known."""
    unread: Sequence[str]
    """Features that no model reads, neither themselves nor as text."""


def is_given(value: Any) -> bool:
    """Return whether a value of a profile is known.

    Null, NaN, and empty texts and lists are unknown.
    """
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, list | tuple):
        return any(is_given(one) for one in value)
    return value is not None and value == value


def find_unused_values(
    model: Recommender, texts: UserTexts, profile: EncodedProfile, labels: Mapping[str, Sequence[str]]
) -> UnusedValues:
    """Return what of the profile of one user has no effect.

    A feature that is both a category and a text has one if either is known.

    Args:
        labels: categories and tags of the profile by feature, as texts.
    """
    given = [name for name, value in profile.values.items() if is_given(value)]
    reads = {feature.name for one in nested_models(model) for feature in one.schema.user_features}
    vectors = {name: [one for one in texts.vectors if one in reads and name in texts.vectors[one]] for name in given}
    unknown_texts = [
        name
        for name, found in vectors.items()
        if found and all(name in profile.unknown_texts.get(one, ()) for one in found)
    ]
    categories = {}
    for name, values in labels.items():
        is_known_text = bool(vectors.get(name)) and name not in unknown_texts
        if not is_known_text and (unknown := find_unknown_categories(model, name, values)):
            categories[name] = unknown
    return UnusedValues(
        categories,
        [name for name in unknown_texts if name not in reads],
        [name for name in given if name not in reads and not vectors[name] and name not in profile.unknown_texts],
    )


def describe_profile(
    trained: TrainedModel,
    texts: UserTexts,
    profile: EncodedProfile,
    values: Mapping[str, Any],
    known_features: Collection[str],
) -> list[str]:
    """Describe what of the profile of a request has no effect; no value is repeated.

    Args:
        values: the features that the model reads, see :func:`segue.serving.users.user_features.coerce_user_features`.
        known_features: names of features in the data; others are reported as unknown.
    """
    if not profile.values:
        return []
    labels: dict[str, list[str]] = {}
    for feature in trained.model.schema.user_features:
        if feature.name in values and feature.kind in ("category", "tags"):
            value = values[feature.name]
            labels[feature.name] = [value] if isinstance(value, str) else list(value)
    unused = find_unused_values(trained.model, texts, profile, labels)
    notes = []
    for name, unknown in unused.categories.items():
        count = f"{len(unknown)} of the values" if len(set(labels[name])) > 1 else "the value"
        notes.append(f"profile.{name}: the model does not know {count}")
    notes += [f"profile.{name}: the model knows no word of the text" for name in unused.texts]
    if unread := [name for name in unused.unread if name in known_features]:
        notes.append(f"'{trained.key}' makes no use of these user features: {', '.join(unread)}")
    return notes
