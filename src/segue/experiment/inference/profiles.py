"""Attach the features of new users to queries.

What of them has no effect is noted.

Shapes: N queries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from segue.core.bundle import TrainedModel
from segue.core.config import suggest
from segue.core.messages import arg
from segue.core.vocab import has_lone_surrogate
from segue.experiment.inference.argument_checks import describe_value, format_count, is_sequence
from segue.experiment.inference.frames import as_frame, is_frame
from segue.experiment.inference.query_batch import QueryBatch
from segue.features.text.user_texts import EncodedProfile, open_user_texts
from segue.serving.users.profile_notes import find_unused_values, is_given

__all__ = ["add_features", "add_features_of_users", "check_features", "validate_profile"]

Profile = Mapping[str, Any]

OF_TRAINING = "users in training have the features of the training data; those of the table are for new users"
"""Note of a user in training whose features are given in a table."""


def check_features(features: Any) -> None:
    """Check the type of the argument ``user_features``.

    Raises:
        ValueError: it is neither a mapping nor a table or list of mappings.
    """
    if features is None or isinstance(features, Mapping) or is_frame(features):
        return
    if not is_sequence(features) or not all(isinstance(row, Mapping) for row in features):
        raise ValueError(
            f"{arg('user_features')}: got {describe_value(features)}, expected a mapping such as "
            '{"age": 25}, or a table or list of mappings with one row per query'
        )


def add_features(trained: TrainedModel, batch: QueryBatch, features: Any) -> QueryBatch:
    """Attach user features to queries.

    Args:
        features: a mapping for all queries, or a table or list of mappings with one row per query.

    Raises:
        ValueError: a user was in training, a feature is unknown, or a value does not fit its feature.
    """
    if batch.queries.known.any():
        known = batch.keys.filter(pl.Series(batch.queries.known))
        raise ValueError(
            f"{arg('user_features')}: apply to new users; user '{known[0]}' was in training, and the model has their "
            "features"
        )
    if isinstance(features, Mapping):
        rows = [dict(features)] * len(batch)
    else:
        rows = as_frame(features, "user_features").to_dicts() if is_frame(features) else [dict(row) for row in features]
        rows = [{name: value for name, value in row.items() if name not in ("user_id", "query")} for row in rows]
    if len(rows) != len(batch):
        given_rows, queries_of = format_count(len(rows), "row"), format_count(len(batch), "query", "queries")
        raise ValueError(f"{arg('user_features')}: got {given_rows} for {queries_of}")
    return _with_profiles(trained, batch, rows)


def add_features_of_users(trained: TrainedModel, batch: QueryBatch, rows: Sequence[Profile]) -> QueryBatch:
    """Attach the features of a table of users to the queries of new users.

    Users in training keep the features of the training data, which is noted.

    Args:
        rows: ``N`` mappings.
    """
    is_known_N = batch.queries.known.tolist()
    ignored = [row for row, profile in enumerate(rows) if is_known_N[row] and any(map(is_given, profile.values()))]
    batch.note_rows(ignored, OF_TRAINING)
    if all(is_known_N):
        return batch
    of_new = [{} if is_known else profile for profile, is_known in zip(rows, is_known_N, strict=True)]
    return _with_profiles(trained, batch, of_new)


def validate_profile(trained: TrainedModel, profile: Profile) -> tuple[pl.DataFrame, list[str]]:
    """Convert the features of one user to a table with one row.

    Also describe what of them has no effect.

    Raises:
        ValueError: the data has no user feature of that name, or a value does not fit its feature.
    """
    profiles = _encode(trained, [profile])
    texts, unread = _describe_unused(trained, profiles[0])
    return _to_tables(profiles)[0], [*texts, *([_describe_unread(trained, unread)] if unread else [])]


def _with_profiles(trained: TrainedModel, batch: QueryBatch, rows: Sequence[Profile]) -> QueryBatch:
    """Attach one profile per query and note what of it has no effect."""
    profiles = _encode(trained, rows)
    tables = _to_tables(profiles)
    if not tables or not tables[0].columns:
        return batch
    found = replace(batch, queries=replace(batch.queries, profile=pl.concat(tables, how="vertical_relaxed")))
    unread: dict[tuple[str, ...], list[int]] = {}
    for row, profile in enumerate(profiles):
        texts, names = _describe_unused(trained, profile)
        for text in texts:
            found.note_rows([row], text)
        if names:
            unread.setdefault(tuple(names), []).append(row)
    for names_of_rows, of_rows in unread.items():
        if not _has_effect(trained, found, of_rows[0], names_of_rows):
            found.note_rows(of_rows, _describe_unread(trained, names_of_rows))
    return found


def _describe_unused(trained: TrainedModel, profile: EncodedProfile) -> tuple[list[str], Sequence[str]]:
    """Describe categories, tags and texts that the model does not know.

    Also return the features that it does not read.
    """
    features = trained.model.schema.user_features
    labels = {one.name: _labels(profile.values.get(one.name)) for one in features if one.kind in ("category", "tags")}
    unused = find_unused_values(trained.model, open_user_texts(trained.user_text_encodings), profile, labels)
    texts = [
        f"{one.name} '{value}' did not occur in training and counts as unknown{suggest(value, one.categories)}"
        for one in features
        for value in unused.categories.get(one.name, ())
    ]
    for name in unused.texts:
        shown = describe_value(profile.values[name])
        texts.append(f"{name}: no word of the text {shown} is known, so that it counts as unknown")
    return texts, unused.unread


def _describe_unread(trained: TrainedModel, names: Sequence[str]) -> str:
    return f"'{trained.key}' makes no use of these user features: {', '.join(names)}"


def _has_effect(trained: TrainedModel, batch: QueryBatch, row: int, names: Iterable[str]) -> bool:
    """Return whether features change the scores of a query.

    A model may read features that its schema does not list.
    """
    query = batch.queries.rows_between(row, row + 1)
    assert query.profile is not None
    rest = query.profile.drop(list(names))
    without = replace(query, profile=rest if rest.columns else None)
    return not np.array_equal(trained.model.score(query), trained.model.score(without))


def _labels(value: Any) -> list[str]:
    """Return the categories or tags of a value as a table formats them."""
    values = value if is_sequence(value) else [value]
    return [str(one).lower() if isinstance(one, bool | np.bool_) else str(one) for one in values if is_given(one)]


def _encode(trained: TrainedModel, profiles: Sequence[Profile]) -> list[EncodedProfile]:
    """Check profiles and add the vectors of their texts."""
    for profile in profiles:
        _check_profile(trained, profile)
    try:
        return open_user_texts(trained.user_text_encodings).encode(profiles)
    except ValueError as error:
        raise ValueError(f"{arg('user_features')}: {error}") from None


def _to_tables(profiles: Sequence[EncodedProfile]) -> list[pl.DataFrame]:
    """Return a table with one row per profile.

    All tables have the columns of all profiles; what a profile lacks is null.
    """
    names = list(dict.fromkeys(name for one in profiles for name in one.values))
    return [pl.DataFrame({name: [one.values.get(name)] for name in names}) for one in profiles]


def _check_profile(trained: TrainedModel, profile: Profile) -> None:
    """Check the names and some types of a profile; see :func:`validate_profile`."""
    names = [str(name) for name in trained.metadata.get("user_features", [])]
    if unknown := [name for name in profile if name not in names]:
        hint = suggest(unknown[0], names) if names else "; the data has no user features"
        raise ValueError(f"{arg('user_features')}: unknown '{unknown[0]}'{hint}")
    for name, value in profile.items():
        if has_lone_surrogate(value):
            raise ValueError(f"{arg('user_features')}: {name}: got {value!r}, expected text without lone surrogates")
    for feature in trained.model.schema.user_features:
        value = profile.get(feature.name)
        if feature.kind == "category" and is_sequence(value):
            raise ValueError(f"{arg('user_features')}: {feature.name}: got {value!r}, expected one text")
        if feature.kind == "number" and (is_sequence(value) or isinstance(value, bool)):
            raise ValueError(f"{arg('user_features')}: {feature.name}: got {value!r}, expected a number")
