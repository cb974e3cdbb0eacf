"""Catalogues made by hand, and the same rules written down slowly, as a reference."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import polars as pl

from segue.core.bundle import Bundle
from segue.core.types import Vocab
from segue.serving import schemas
from segue.serving.catalog.catalog import Catalogue

Row = Mapping[str, Any]


def catalogue(table: pl.DataFrame | Mapping[str, Any], popularity: Sequence[float] | None = None) -> Catalogue:
    """A catalogue of a table; without ids they are i0, i1, ..., without popularities the first is the most popular."""
    frame = pl.DataFrame(table, strict=False)
    if "id" not in frame.columns:
        frame = frame.with_columns(id=pl.Series([f"i{code}" for code in range(len(frame))], dtype=pl.String))
    told = -np.arange(len(frame)) if popularity is None else np.array(popularity)
    bundle = Bundle("popular", cast("Any", None), Vocab(frame["id"]), Vocab([]), frame.lazy(), {})
    return Catalogue(bundle, told.astype(np.float32))


def values(cell: Any) -> list[Any] | None:
    """The known values of a cell; none: nothing is known of it."""
    if cell is None or (isinstance(cell, float) and np.isnan(cell)):
        return None
    return list(cell) if isinstance(cell, list) else [cell]


def meets(cell: Any, condition: schemas.Condition) -> bool:
    """Whether one cell meets a condition."""
    own = values(cell)
    if condition.any is not None and (own is None or not set(own) & set(condition.any)):
        return False
    if condition.none is not None and own is not None and set(own) & set(condition.none):
        return False
    if condition.min is not None or condition.max is not None:
        low = -np.inf if condition.min is None else condition.min
        high = np.inf if condition.max is None else condition.max
        return own is not None and any(low <= one <= high for one in own)
    return True


def meets_all(row: Row, where: Mapping[str, schemas.Condition]) -> bool:
    """Whether an item meets all conditions."""
    return all(meets(row.get(name), condition) for name, condition in where.items())


def forbidden(row: Row, rules: schemas.Rules) -> set[str]:
    """Which rules keep an item out."""
    found = set()
    if rules.allow is not None and row["id"] not in rules.allow:
        found.add("allow")
    if row["id"] in rules.deny:
        found.add("deny")
    if not meets_all(row, rules.where):
        found.add("where")
    return found


class Slow:
    """Rules as :mod:`segue.serving.schemas` tells them, item by item."""

    def __init__(
        self,
        rows: Sequence[Row],
        scores: Sequence[float],
        seen: Sequence[int],
        rules: Sequence[schemas.Rules],
        k: int,
        repeats: bool,
        logits: bool,
        vectors: Any = None,
        pool: int = 256,
    ) -> None:
        self.rows, self.rules, self.k, self.vectors, self.pool = rows, rules, k, vectors, max(pool, 4 * k)
        n = range(len(rows))
        self.out = {i: set().union(*(forbidden(rows[i], own) for own in rules)) for i in n}
        unit = 1.0 if logits else float(np.std(np.array(scores, np.float32), dtype=np.float64)) or 1.0
        self.score = {}
        for i in n:
            shift = np.float32(0)
            for own in rules:
                for boost in own.boosts:
                    if meets_all(rows[i], boost.where):
                        shift += np.float32(np.log(boost.factor))
            self.score[i] = np.float32(scores[i]) + shift * np.float32(unit)
        self.may = [i for i in n if repeats or i not in seen]
        total = np.exp(np.array([self.score[i] for i in self.may], np.float64)).sum()
        self.share = {i: float(np.exp(np.float64(self.score[i])) / total) if i in self.may else 0.0 for i in n}
        self.pins = self.pinned()
        wanted = set(self.pins.values())
        eligible = [i for i in self.may if not self.out[i] and i not in wanted]
        self.order = sorted(eligible, key=lambda i: (-self.score[i], i))
        self.diversify = max(own.diversify for own in rules)
        self.most: dict[str, int] = {}
        for own in rules:
            for name, most in own.most.items():
                if name in rows[0]:
                    self.most[name] = min(most, self.most.get(name, most))

    def pinned(self) -> dict[int, int]:
        ids = [row["id"] for row in self.rows]
        places: dict[int, int] = {}
        for own in self.rules:
            for pin in own.pins:
                code = ids.index(pin.item) if pin.item in ids else None
                if code is not None and not self.out[code] and code not in places.values():
                    place = pin.place
                    while place in places:
                        place += 1
                    places[place] = code
        return places

    def like(self, one: int, other: int) -> float:
        if self.vectors is not None:
            a, b = np.float64(self.vectors[one]), np.float64(self.vectors[other])
            norm = float(np.linalg.norm(a) * np.linalg.norm(b))
            return float(a @ b) / norm if norm else 0.0
        a, b = self.marks(one), self.marks(other)
        return len(a & b) / len(a | b) if a | b else 0.0

    def marks(self, item: int) -> set[tuple[str, Any]]:
        """Texts, tags and truths that come back."""
        found: set[tuple[str, Any]] = set()
        for name in self.rows[0]:
            column = [values(row[name]) for row in self.rows]
            flat = [value for own in column for value in set(own or [])]
            if name not in ("id", "title") and flat and isinstance(flat[0], str | bool):
                distinct = len(set(flat))
                if 2 <= distinct <= max(2, len(flat) // 2):
                    found |= {(name, value) for value in column[item] or []}
        return found

    def full(self, item: int, shown: Sequence[int]) -> bool:
        return any(
            sum(value in (values(self.rows[other][name]) or []) for other in shown) >= most
            for name, most in self.most.items()
            for value in values(self.rows[item][name]) or []
        )

    def free(self, follow: Sequence[int]) -> list[int]:
        """Items for the free places. Where two are worth the same but for rounding, the one that ``follow`` has."""
        pool = self.order[: self.pool]
        best, last = (self.score[pool[0]], self.score[pool[-1]]) if pool else (0.0, 0.0)
        scale = float(best) - float(last) or 1.0
        counted = [item for place, item in self.pins.items() if place <= self.k]
        above: list[int] = []
        free: list[int] = []
        for place in range(1, self.k + 1):
            if place in self.pins:
                above.append(self.pins[place])
                continue
            left = [i for i in pool if i not in free and not self.full(i, counted + free)]
            if not left:
                pool = [i for i in self.order if i not in free and not self.full(i, counted + free)][: self.pool]
                left = pool
            if not left:
                break
            worth = {
                i: (1 - self.diversify) * (float(self.score[i]) - float(last)) / scale
                - self.diversify * max((self.like(i, other) for other in above), default=0.0)
                for i in left
            }
            top = max(worth.values())
            near = [i for i in left if worth[i] >= top - 1e-9]
            exact = min(left, key=lambda i: (-worth[i], -self.score[i], i))
            told = follow[len(free)] if len(free) < len(follow) else None
            chosen = told if self.diversify and told in near else exact
            free.append(chosen)
            above.append(chosen)
        return free

    def listed(self, follow: Sequence[int] = ()) -> list[tuple[int, bool]]:
        """The list: items, and whether each is pinned."""
        free, pins = self.free(follow), sorted(self.pins.items())
        found: list[tuple[int, bool]] = []
        while len(found) < self.k and (free or pins):
            if pins and (pins[0][0] == len(found) + 1 or not free):
                found.append((pins.pop(0)[1], True))
            else:
                found.append((free.pop(0), False))
        return found

    def passed(self, free: Sequence[int]) -> int:
        """Items that quotas passed over."""
        counted = [item for place, item in self.pins.items() if place <= self.k]
        wanted = sum(place not in self.pins for place in range(1, self.k + 1))
        blocked = [i for i in self.order if i not in free and self.full(i, [*counted, *free])]
        if not wanted or not self.most:
            return 0
        if len(free) < wanted:
            return len(blocked)
        last = max((-self.score[i], i) for i in free)
        return sum((-self.score[i], i) < last for i in blocked)
