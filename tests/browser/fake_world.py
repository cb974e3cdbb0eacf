"""Deterministic fake catalog, users and three models that rank by genres.

Some titles are malicious or malformed.
"""

from __future__ import annotations

import math
import random
import zlib
from dataclasses import dataclass, field
from typing import Any

from segue.serving import schemas

GENRES = ("Adventure", "Animation", "Comedy", "Crime", "Drama", "Romance", "Science fiction", "Western")
PARTS = (
    ("The Last", "A Quiet", "Beyond the", "Return to", "Under a", "The Second", "Letters from"),
    ("Harbour", "Orchard", "Signal", "Winter", "Cartographer", "Lighthouse", "Parallel", "Meridian"),
)
HOSTILE = {
    "script": "<script>document.title = 'owned'</script><img src=x onerror=alert(1)>",
    "rtl": "\u202eأفلام عربية قديمة (1961)",
    "long": "A Most Exceedingly " + "Long" * 120 + " Title That Does Not End Where It Should",
    "emoji": "🦉 The Owl & “Friends” 🎬 </li>",
    "slash/../?#%": "A Path of Its Own",
    "bare": None,
}


class FakeError(Exception):
    def __init__(self, status: int, message: str, fields: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.fields = status, message, fields or {}


def create_catalog() -> dict[str, schemas.Item]:
    draw = random.Random(7)
    titles = [(f"{60 + index}", f"{first} {second}") for index, (first, second) in enumerate(
        (first, second) for first in PARTS[0] for second in PARTS[1])]  # fmt: skip
    catalog = {}
    for item, title in [*titles, *HOSTILE.items()]:
        year = draw.randrange(1950, 2020)
        features: dict[str, Any] = {
            "genres": sorted(draw.sample(GENRES, draw.randrange(1, 4))),
            "year": year,
            "color": year > 1962,
        }
        full_title = f"{title} ({year})" if title is not None and item.isdigit() else title
        catalog[item] = schemas.Item(id=item, title=full_title, features=features)
    return catalog


@dataclass
class World:
    """State of the fake service, which tests may change."""

    key: str | None = None
    items: dict[str, schemas.Item] = field(default_factory=create_catalog)
    models: tuple[str, ...] = ("sasrec", "ease", "popular")
    active: str = "sasrec"
    previous: str | None = None
    actions: tuple[str, ...] = ("purchase", "rating")
    target: str | None = None
    n_requests: int = 0
    keys: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    histories: dict[str, list[schemas.UserEvent]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        draw = random.Random(3)
        ids = list(self.items)
        for user in range(1, 241):
            liked = set(draw.sample(GENRES, 2))
            candidates = [item for item in ids if liked & set(self.genres(item))]
            chosen = draw.sample(candidates, min(len(candidates), draw.randrange(4, 24)))
            self.histories[str(user)] = [
                schemas.UserEvent(
                    item=item,
                    title=self.items[item].title,
                    action="rating",
                    value=float(draw.randrange(2, 6)),
                    time=880_000_000 + 86_400 * 9 * index,
                    origin="training",
                )
                for index, item in enumerate(chosen)
            ]

    def genres(self, item: str) -> list[str]:
        return [str(genre) for genre in self.items[item].features["genres"]]  # type: ignore[union-attr]

    def history(self, request: schemas.RecommendRequest) -> list[str]:
        if request.history is None:
            return [event.item for event in self.histories.get(request.user or "", [])]
        return [one if isinstance(one, str) else one.item for one in request.history]

    def scores(self, model: str, history: list[str]) -> dict[str, float]:
        weight: dict[str, float] = {}
        for age, item in enumerate(reversed([item for item in history if item in self.items])):
            for genre in self.genres(item):
                fade = 0.75**age if model == "sasrec" else 0.2
                weight[genre] = weight.get(genre, 0.0) + (0.0 if model == "popular" else fade)
        spread = {
            item: random.Random(f"{model[0] if model == 'popular' else ''}{item}").random() for item in self.items
        }
        return {
            item: sum(weight.get(genre, 0.0) for genre in self.genres(item)) / math.sqrt(len(self.genres(item)))
            + 1.5 * spread[item]
            for item in self.items
        }

    def model_info(self, name: str) -> schemas.ModelInfo:
        if name not in self.models:
            raise FakeError(422, f"model: unknown '{name}'; known: {', '.join(self.models)}", {"model": "unknown"})
        return schemas.ModelInfo(name=name, key=name, version=f"{zlib.crc32(name.encode()):012x}", engine="native")

    def recommend(self, request: schemas.RecommendRequest) -> schemas.RecommendResponse:
        self.n_requests += 1
        if request.k > 100:
            raise FakeError(422, "k: got 101, expected at most 100", {"k": "at most 100"})
        model = request.model or self.active
        history, info = self.history(request), self.model_info(model)
        scores, filtered = dict(self.scores(model, history)), {}
        for boost in request.boosts:
            for item in scores:
                scores[item] += math.log(boost.factor) if self.matches(item, boost.filter) else 0.0
        checks = {
            "seen": lambda item: request.include_seen or item not in history,
            "deny": lambda item: item not in request.deny,
            "filter": lambda item: self.matches(item, request.filter),
        }
        for rule, check in checks.items():
            before = len(scores)
            scores = {item: score for item, score in scores.items() if check(item)}
            filtered[rule] = before - len(scores)
        total = sum(map(math.exp, scores.values())) or 1.0
        selected: list[str] = []
        counts: dict[tuple[str, str], int] = {}
        rest = sorted(scores, key=lambda item: (-scores[item], item))
        while rest and len(selected) < request.k:
            genres = {genre for item in selected for genre in self.genres(item)}
            best = max(rest, key=lambda item: (1 - request.diversify) * scores[item]
                       - 3 * request.diversify * len(genres & set(self.genres(item))))  # fmt: skip
            rest.remove(best)
            values = [(name, value) for name in request.max_per_value for value in self.values_of(best, name)]
            if any(counts.get(value, 0) >= request.max_per_value[value[0]] for value in values):
                filtered["max_per_value"] = filtered.get("max_per_value", 0) + 1
                continue
            counts.update({value: counts.get(value, 0) + 1 for value in values})
            selected.append(best)
        return schemas.RecommendResponse(
            items=[
                schemas.RecommendedItem(
                    id=item,
                    title=self.items[item].title,
                    score=scores[item],
                    probability=None if model == "ease" else math.exp(scores[item]) / total,
                )
                for item in selected
            ],
            model=info,
            source="popular" if model == "popular" else "model",
            filtered_counts=filtered,
            unknown=schemas.UnknownInputs(
                user=request.user is not None and request.user not in self.histories,
                items=[item for item in [*history, *request.deny] if item not in self.items],
            ),
            notes=[f"only {len(selected)} items are left"] if len(selected) < request.k else [],
        )

    def values_of(self, item: str, name: str) -> list[Any]:
        value = self.items[item].features.get(name)
        return value if isinstance(value, list) else [] if value is None else [value]

    def matches(self, item: str, conditions: dict[str, schemas.Condition]) -> bool:
        for name, condition in conditions.items():
            values = self.values_of(item, name)
            if condition.any is not None and not set(values) & set(condition.any):
                return False
            if condition.none is not None and set(values) & set(condition.none):
                return False
            if condition.min is not None and not all(float(value) >= condition.min for value in values):
                return False
            if condition.max is not None and not all(float(value) <= condition.max for value in values):
                return False
        return True

    def explain(self, request: schemas.ExplainRequest) -> schemas.Explanation:
        recommend = schemas.RecommendRequest(**request.model_dump(exclude={"item"}, exclude_unset=True))
        item = request.item
        if item not in self.items:
            raise FakeError(404, f"item: '{item}' is not in the catalog")
        ranked = self.recommend(recommend.model_copy(update={"k": 100})).items
        position = next((position for position, one in enumerate(ranked, 1) if one.id == item), None)
        history = self.history(request)
        genres = set(self.genres(item))
        near = [one for one in reversed(history) if one in self.items and genres & set(self.genres(one))][:3]
        shared = sorted(genres & {genre for one in near for genre in self.genres(one)})
        unranked = schemas.RecommendedItem(id=item, title=self.items[item].title, score=0.0)
        text = f"Shares {', '.join(shared)} with the history."
        return schemas.Explanation(
            item=ranked[position - 1] if position else unranked,
            recommended=position is not None and position <= request.k,
            position=position,
            attributions=[
                schemas.Attribution(id=one, title=self.items[one].title, contribution=0.9 / (1 + 2 * age) - 0.4)
                for age, one in enumerate(near)
            ],
            shared_features={"genres": shared} if shared else {},
            neighbors=[
                self.items[one].model_copy(update={"similarity": 0.8 - age / 7}) for age, one in enumerate(near)
            ],
            rules={"seen": "already seen"} if item in history else {},
            reasons=[schemas.Reason(kind="features", text=text)] if shared else [],
            model=self.model_info(request.model or self.active),
        )
