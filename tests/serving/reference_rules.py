"""Small catalogs, and a slow reference implementation of the rules."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import polars as pl

from segue.core.bundle import TrainedModel
from segue.core.types import Vocab
from segue.serving import schemas
from segue.serving.catalog.catalog import Catalog

Row = Mapping[str, Any]


def make_catalog(table: pl.DataFrame | Mapping[str, Any], popularity: Sequence[float] | None = None) -> Catalog:
    """Build a catalog from a table.

    Default ids are i0, i1, ...; by default the first item is the most popular.
    """
    frame = pl.DataFrame(table, strict=False)
    if "id" not in frame.columns:
        frame = frame.with_columns(id=pl.Series([f"i{code}" for code in range(len(frame))], dtype=pl.String))
    popularities = -np.arange(len(frame)) if popularity is None else np.array(popularity)
    bundle = TrainedModel("popular", cast("Any", None), Vocab(frame["id"]), Vocab([]), frame.lazy(), {})
    return Catalog(bundle, popularities.astype(np.float32))


def values(cell: Any) -> list[Any] | None:
    """Return the known values of a cell; ``None`` if it is unknown."""
    if cell is None or (isinstance(cell, float) and np.isnan(cell)):
        return None
    return list(cell) if isinstance(cell, list) else [cell]


def matches(cell: Any, condition: schemas.Condition) -> bool:
    """Return whether one cell matches a condition."""
    known = values(cell)
    if condition.any is not None and (known is None or not set(known) & set(condition.any)):
        return False
    if condition.none is not None and known is not None and set(known) & set(condition.none):
        return False
    if condition.min is not None or condition.max is not None:
        low = -np.inf if condition.min is None else condition.min
        high = np.inf if condition.max is None else condition.max
        return known is not None and any(low <= one <= high for one in known)
    return True


def matches_all(row: Row, conditions: Mapping[str, schemas.Condition]) -> bool:
    """Return whether an item matches all conditions."""
    return all(matches(row.get(name), condition) for name, condition in conditions.items())


def excluding_rules(row: Row, rules: schemas.Rules) -> set[str]:
    """Return the rules that exclude an item."""
    found = set()
    if rules.allow is not None and row["id"] not in rules.allow:
        found.add("allow")
    if row["id"] in rules.deny:
        found.add("deny")
    if not matches_all(row, rules.filter):
        found.add("filter")
    return found


class ReferenceRules:
    """Rules as documented in :mod:`segue.serving.schemas`, item by item."""

    def __init__(
        self,
        rows: Sequence[Row],
        scores: Sequence[float],
        seen: Sequence[int],
        rules: Sequence[schemas.Rules],
        k: int,
        include_seen: bool,
        is_logit: bool,
        vectors: Any = None,
        pool: int = 256,
    ) -> None:
        self.rows, self.rules, self.k, self.vectors, self.pool = rows, rules, k, vectors, max(pool, 4 * k)
        n = range(len(rows))
        self.excluded = {i: set().union(*(excluding_rules(rows[i], rule_set) for rule_set in rules)) for i in n}
        unit = 1.0 if is_logit else float(np.std(np.array(scores, np.float32), dtype=np.float64)) or 1.0
        self.score = {}
        for i in n:
            offset = np.float32(0)
            for rule_set in rules:
                for boost in rule_set.boosts:
                    if matches_all(rows[i], boost.filter):
                        offset += np.float32(np.log(boost.factor))
            self.score[i] = np.float32(scores[i]) + offset * np.float32(unit)
        self.eligible = [i for i in n if include_seen or i not in seen]
        total = np.exp(np.array([self.score[i] for i in self.eligible], np.float64)).sum()
        self.probability = {
            i: float(np.exp(np.float64(self.score[i])) / total) if i in self.eligible else 0.0 for i in n
        }
        self.pins = self.resolve_pins()
        pinned_items = set(self.pins.values())
        eligible = [i for i in self.eligible if not self.excluded[i] and i not in pinned_items]
        self.order = sorted(eligible, key=lambda i: (-self.score[i], i))
        self.diversify = max(rule_set.diversify for rule_set in rules)
        self.max_per_value: dict[str, int] = {}
        for rule_set in rules:
            for name, limit in rule_set.max_per_value.items():
                if name in rows[0]:
                    self.max_per_value[name] = min(limit, self.max_per_value.get(name, limit))

    def resolve_pins(self) -> dict[int, int]:
        ids = [row["id"] for row in self.rows]
        positions: dict[int, int] = {}
        for rule_set in self.rules:
            for pin in rule_set.pins:
                code = ids.index(pin.item) if pin.item in ids else None
                if code is not None and not self.excluded[code] and code not in positions.values():
                    position = pin.position
                    while position in positions:
                        position += 1
                    positions[position] = code
        return positions

    def similarity(self, one: int, other: int) -> float:
        if self.vectors is not None:
            a, b = np.float64(self.vectors[one]), np.float64(self.vectors[other])
            norm = float(np.linalg.norm(a) * np.linalg.norm(b))
            return float(a @ b) / norm if norm else 0.0
        a, b = self.shared_values(one), self.shared_values(other)
        return len(a & b) / len(a | b) if a | b else 0.0

    def shared_values(self, item: int) -> set[tuple[str, Any]]:
        """Return the texts, tags and booleans that several items share."""
        found: set[tuple[str, Any]] = set()
        for name in self.rows[0]:
            column = [values(row[name]) for row in self.rows]
            flat = [value for cell in column for value in set(cell or [])]
            if name not in ("id", "title") and flat and isinstance(flat[0], str | bool):
                distinct = len(set(flat))
                if 2 <= distinct <= max(2, len(flat) // 2):
                    found |= {(name, value) for value in column[item] or []}
        return found

    def is_full(self, item: int, shown: Sequence[int]) -> bool:
        return any(
            sum(value in (values(self.rows[other][name]) or []) for other in shown) >= limit
            for name, limit in self.max_per_value.items()
            for value in values(self.rows[item][name]) or []
        )

    def free_items(self, follow: Sequence[int]) -> list[int]:
        """Return the items for free positions.

        Up to rounding, ties are resolved as in ``follow``.
        """
        pool = self.order[: self.pool]
        best, last = (self.score[pool[0]], self.score[pool[-1]]) if pool else (0.0, 0.0)
        scale = float(best) - float(last) or 1.0
        counted = [item for position, item in self.pins.items() if position <= self.k]
        above: list[int] = []
        free: list[int] = []
        for position in range(1, self.k + 1):
            if position in self.pins:
                above.append(self.pins[position])
                continue
            remaining = [i for i in pool if i not in free and not self.is_full(i, counted + free)]
            if not remaining:
                pool = [i for i in self.order if i not in free and not self.is_full(i, counted + free)][: self.pool]
                remaining = pool
            if not remaining:
                break
            marginal = {
                i: (1 - self.diversify) * (float(self.score[i]) - float(last)) / scale
                - self.diversify * max((self.similarity(i, other) for other in above), default=0.0)
                for i in remaining
            }
            top = max(marginal.values())
            near = [i for i in remaining if marginal[i] >= top - 1e-9]
            exact = min(remaining, key=lambda i: (-marginal[i], -self.score[i], i))
            followed = follow[len(free)] if len(free) < len(follow) else None
            selected = followed if self.diversify and followed in near else exact
            free.append(selected)
            above.append(selected)
        return free

    def ranked_list(self, follow: Sequence[int] = ()) -> list[tuple[int, bool]]:
        """Return the list: items, and whether each is pinned."""
        free, pins = self.free_items(follow), sorted(self.pins.items())
        found: list[tuple[int, bool]] = []
        while len(found) < self.k and (free or pins):
            if pins and (pins[0][0] == len(found) + 1 or not free):
                found.append((pins.pop(0)[1], True))
            else:
                found.append((free.pop(0), False))
        return found

    def count_skipped(self, free: Sequence[int]) -> int:
        """Count the items that quotas skipped."""
        counted = [item for position, item in self.pins.items() if position <= self.k]
        n_free = sum(position not in self.pins for position in range(1, self.k + 1))
        blocked = [i for i in self.order if i not in free and self.is_full(i, [*counted, *free])]
        if not n_free or not self.max_per_value:
            return 0
        if len(free) < n_free:
            return len(blocked)
        last = max((-self.score[i], i) for i in free)
        return sum((-self.score[i], i) < last for i in blocked)
