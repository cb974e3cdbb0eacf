"""Ask a trained model what comes next; answers are tables with ids, titles and genres."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from segue.core.bundle import Bundle
from segue.core.config import suggest
from segue.core.recommend import recommend
from segue.core.types import Codes, Dataset, Events, Queries, Recommendations

__all__ = ["Answer", "by_history", "by_user", "coded", "described", "listed", "profiled", "titled"]

SHOWN = ("title", "genres")

BESIDE = ("value", "action", "gap", "session_position")
"""Inputs of a model that a bare list of items does not tell."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What is recommended, and to whom."""

    items: pl.DataFrame
    """One row per recommended item, best first: ``place``, ``item``, ``title`` and ``genres`` where known, ``logit``
    and ``probability`` where the model has them, else ``score``."""
    history: pl.DataFrame
    """The events asked with, oldest first: ``item``, and ``title`` and ``genres`` where known."""
    notes: tuple[str, ...] = ()
    """What the answer could not take into account."""


def coded(trained: Bundle, items: Sequence[str]) -> tuple[Codes, list[str]]:
    """Codes of the known ids in ``items``, in their order, and the ids that are not in the catalogue."""
    codes, known = trained.items.encode(items)
    return codes[known], [item for item, is_known in zip(items, known, strict=True) if not is_known]


def titled(trained: Bundle, titles: Sequence[str]) -> list[str]:
    """The ids of items by title: the whole title in any case, else the only title that contains the text.

    Raises:
        ValueError: every title that is not in the catalogue, or stands for several items, which are listed.
    """
    if not titles:
        return []
    if "title" not in trained.catalogue.collect_schema().names():
        raise ValueError("title: the catalogue of this model has no titles; name items by their ids")
    catalogue = trained.catalogue.select("id", "title").filter(pl.col("title").is_not_null()).collect()
    lower = pl.col("title").str.to_lowercase()
    found, faults = [], []
    for title in titles:
        matches = catalogue.filter(lower == title.lower())
        if matches.is_empty():
            matches = catalogue.filter(lower.str.contains(title.lower(), literal=True))
        if len(matches) == 1:
            found.append(str(matches["id"][0]))
        elif matches.is_empty():
            near = suggest(title, catalogue["title"]).partition("; known")[0]
            faults.append(f"title: no item is called '{title}'{near}")
        else:
            listed = "\n".join(f"  {row['id']}  {row['title']}" for row in matches.head(20).to_dicts())
            faults.append(f"title: '{title}' is the title of {len(matches)} items; name one by its id:\n{listed}")
    if faults:
        raise ValueError("\n".join(faults))
    return found


def by_user(trained: Bundle, data: Dataset, user: str, k: int, *, repeats: bool = False) -> Answer:
    """What comes next for ``user`` after all that ``data`` knows of him.

    Raises:
        ValueError: the user is not in the data.
    """
    (code,), (known,) = data.users.encode([user])
    if not known:
        examples = ", ".join(data.users.ids.head(5))
        raise ValueError(f"user: '{user}' is not in {data.name}; its users are such as {examples}")
    codes, _ = trained.users.encode([user])
    history = data.histories.take(np.array([code]))
    return _answer(trained, Queries.of_users(codes, history), k, repeats, ())


def by_history(
    trained: Bundle,
    items: Sequence[str],
    k: int,
    *,
    repeats: bool = False,
    profile: Mapping[str, Any] | None = None,
) -> Answer:
    """What comes next for someone new with this history, oldest first, which may be empty.

    Args:
        items: ids; those that are not in the catalogue are told in the notes and left out.
        profile: features of this person, by the names the data has for its users.
    """
    codes, unknown = coded(trained, items)
    notes = [f"item '{item}' is not in the catalogue and was left out" for item in unknown]
    queries = Queries.anonymous(Events.of([codes.tolist()]))
    if bare := [name for name in getattr(trained.model.config, "inputs", ()) if name in BESIDE]:
        notes.append(f"'{trained.key}' also reads {', '.join(bare)}, which items alone do not tell")
    if profile:
        with_profile = replace(queries, profile=profiled(trained, profile))
        if np.array_equal(trained.model.score(with_profile), trained.model.score(queries)):
            notes.append(f"'{trained.key}' makes no use of these user features")
        notes += _unheard_of(trained, profile)
        queries = with_profile
    return _answer(trained, queries, k, repeats, tuple(notes))


def profiled(trained: Bundle, profile: Mapping[str, Any]) -> pl.DataFrame:
    """Features of one person as a question carries them.

    Raises:
        ValueError: a name that the data does not have for its users.
    """
    names = [str(name) for name in trained.facts.get("user_features", [])]
    if strange := [name for name in profile if name not in names]:
        told = suggest(strange[0], names) if names else "; the data has no user features"
        raise ValueError(f"user features: unknown '{strange[0]}'{told}")
    return pl.DataFrame({name: [value] for name, value in profile.items()})


def _unheard_of(trained: Bundle, profile: Mapping[str, Any]) -> list[str]:
    """What is told and was not there in training."""
    kinds = {feature.name: feature for feature in trained.model.domain.user_features if feature.kind == "category"}
    return [
        f"{name} '{value}' was not there in training and is taken as not known{suggest(str(value), known.categories)}"
        for name, value in profile.items()
        if (known := kinds.get(name)) is not None and str(value) not in known.categories
    ]


def _answer(trained: Bundle, queries: Queries, k: int, repeats: bool, notes: tuple[str, ...]) -> Answer:
    found = recommend(trained.model, queries, k, repeats=repeats)
    short = int(found.lengths[0])
    if short < k:
        notes = (*notes, f"only {short} items were left to recommend")
    return Answer(listed(trained, found), described(trained, queries.history.items), notes)


def listed(trained: Bundle, found: Recommendations) -> pl.DataFrame:
    """The first list of ``found`` as a table: see :class:`Answer`."""
    count = int(found.lengths[0])
    table = described(trained, found.items[0, :count])
    name = "logit" if trained.model.scale == "logit" else "score"
    table = table.with_columns(pl.Series(name, found.scores[0, :count]))
    if found.probabilities is not None:
        table = table.with_columns(pl.Series("probability", found.probabilities[0, :count]))
    return _placed(table)


def described(trained: Bundle, codes: Codes) -> pl.DataFrame:
    """One row per item code: ``item``, and ``title`` and ``genres`` where known."""
    known = trained.catalogue.collect_schema().names()
    catalogue = trained.catalogue.select("id", *(name for name in SHOWN if name in known)).collect()
    return catalogue[codes.astype(np.int64)].rename({"id": "item"})


def _placed(table: pl.DataFrame) -> pl.DataFrame:
    return table.with_row_index("place", offset=1)
