"""A made-up catalogue, its users, and three models that recommend by shares of genres: always the same answers.

Enough to see lists, rules and changes; some titles are such as nobody would wish for.
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


class Refusal(Exception):
    def __init__(self, status: int, message: str, fields: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.fields = status, message, fields or {}


def catalogue() -> dict[str, schemas.Item]:
    draw = random.Random(7)
    titles = [(f"{60 + place}", f"{first} {second}") for place, (first, second) in enumerate(
        (first, second) for first in PARTS[0] for second in PARTS[1])]  # fmt: skip
    found = {}
    for item, title in [*titles, *HOSTILE.items()]:
        year = draw.randrange(1950, 2020)
        features: dict[str, Any] = {
            "genres": sorted(draw.sample(GENRES, draw.randrange(1, 4))),
            "year": year,
            "colour": year > 1962,
        }
        shown = f"{title} ({year})" if title is not None and item.isdigit() else title
        found[item] = schemas.Item(id=item, title=shown, features=features)
    return found


@dataclass
class World:
    """What the stand-in remembers, and what tests may set."""

    key: str | None = None
    items: dict[str, schemas.Item] = field(default_factory=catalogue)
    models: tuple[str, ...] = ("sasrec", "ease", "popular")
    active: str = "sasrec"
    previous: str | None = None
    asked: int = 0
    keys: set[str] = field(default_factory=set)
    forgotten: set[str] = field(default_factory=set)
    past: dict[str, list[schemas.Past]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        draw = random.Random(3)
        ids = list(self.items)
        for user in range(1, 241):
            liked = set(draw.sample(GENRES, 2))
            fond = [item for item in ids if liked & set(self.genres(item))]
            chosen = draw.sample(fond, min(len(fond), draw.randrange(4, 24)))
            self.past[str(user)] = [
                schemas.Past(item=item, title=self.items[item].title, action="rating", value=float(draw.randrange(2, 6)),
                          time=880_000_000 + 86_400 * 9 * place, source="training")
                for place, item in enumerate(chosen)
            ]  # fmt: skip

    def genres(self, item: str) -> list[str]:
        return [str(one) for one in self.items[item].features["genres"]]  # type: ignore[union-attr]

    def history(self, question: schemas.Question) -> list[str]:
        if question.history is None:
            return [event.item for event in self.past.get(question.user or "", [])]
        return [one if isinstance(one, str) else one.item for one in question.history]

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

    def version(self, name: str) -> schemas.Version:
        if name not in self.models:
            raise Refusal(422, f"model: unknown '{name}'; known: {', '.join(self.models)}", {"model": "unknown"})
        return schemas.Version(name=name, key=name, version=f"{zlib.crc32(name.encode()):012x}", engine="native")

    def answer(self, question: schemas.Question) -> schemas.Answer:
        self.asked += 1
        if question.k > 100:
            raise Refusal(422, "k: got 101, expected at most 100", {"k": "at most 100"})
        model = question.model or self.active
        history, version = self.history(question), self.version(question.model or self.active)
        left, removed = dict(self.scores(model, history)), {}
        for boost in question.boosts:
            for item in left:
                left[item] += math.log(boost.factor) if self.fits(item, boost.where) else 0.0
        checks = {
            "history": lambda item: question.repeats or item not in history,
            "deny": lambda item: item not in question.deny,
            "where": lambda item: self.fits(item, question.where),
        }
        for rule, check in checks.items():
            before = len(left)
            left = {item: score for item, score in left.items() if check(item)}
            removed[rule] = before - len(left)
        total = sum(map(math.exp, left.values())) or 1.0
        chosen: list[str] = []
        counts: dict[tuple[str, str], int] = {}
        rest = sorted(left, key=lambda item: (-left[item], item))
        while rest and len(chosen) < question.k:
            shown = {genre for item in chosen for genre in self.genres(item)}
            best = max(rest, key=lambda item: (1 - question.diversify) * left[item]
                       - 3 * question.diversify * len(shown & set(self.genres(item))))  # fmt: skip
            rest.remove(best)
            held = [(name, one) for name in question.most for one in self.held(best, name)]
            if any(counts.get(one, 0) >= question.most[one[0]] for one in held):
                removed["most"] = removed.get("most", 0) + 1
                continue
            counts.update({one: counts.get(one, 0) + 1 for one in held})
            chosen.append(best)
        return schemas.Answer(
            items=[schemas.Ranked(id=item, title=self.items[item].title, score=left[item],
                               probability=None if model == "ease" else math.exp(left[item]) / total)
                   for item in chosen],
            model=version,
            step="popular" if model == "popular" else "model",
            removed=removed,
            unknown=schemas.Unknown(user=question.user is not None and question.user not in self.past,
                                 items=[item for item in [*history, *question.deny] if item not in self.items]),
            notes=[f"only {len(chosen)} items were left to recommend"] if len(chosen) < question.k else [],
        )  # fmt: skip

    def held(self, item: str, name: str) -> list[Any]:
        value = self.items[item].features.get(name)
        return value if isinstance(value, list) else [] if value is None else [value]

    def fits(self, item: str, where: dict[str, schemas.Condition]) -> bool:
        for name, condition in where.items():
            held = self.held(item, name)
            if condition.any is not None and not set(held) & set(condition.any):
                return False
            if condition.none is not None and set(held) & set(condition.none):
                return False
            if condition.min is not None and not all(float(one) >= condition.min for one in held):
                return False
            if condition.max is not None and not all(float(one) <= condition.max for one in held):
                return False
        return True

    def explain(self, asked: schemas.WhyQuestion) -> schemas.Explanation:
        question = schemas.Question(**asked.model_dump(exclude={"item"}, exclude_unset=True))
        if asked.item not in self.items:
            raise Refusal(404, f"item: '{asked.item}' is not in the catalogue")
        wide = self.answer(question.model_copy(update={"k": 100})).items
        place = next((place for place, one in enumerate(wide, 1) if one.id == asked.item), None)
        history = self.history(question)
        mine = set(self.genres(asked.item))
        near = [item for item in reversed(history) if item in self.items and mine & set(self.genres(item))][:3]
        shared = sorted(mine & {genre for item in near for genre in self.genres(item)})
        ranked = (
            wide[place - 1] if place else schemas.Ranked(id=asked.item, title=self.items[asked.item].title, score=0.0)
        )
        reasons = (
            [schemas.Reason(kind="features", text=f"It shares {', '.join(shared)} with what came before.")]
            if shared
            else []
        )
        return schemas.Explanation(
            item=ranked,
            recommended=place is not None and place <= question.k,
            place=place,
            influences=[schemas.Influence(id=item, title=self.items[item].title, change=0.9 / (1 + 2 * at) - 0.4)
                        for at, item in enumerate(near)],
            shared={"genres": shared} if shared else {},
            neighbours=[self.items[item].model_copy(update={"likeness": 0.8 - at / 7}) for at, item in enumerate(near)],
            rules={"history": "it was had before, and repeats are off"} if asked.item in history else {},
            reasons=reasons,
            model=self.version(question.model or self.active),
        )  # fmt: skip
