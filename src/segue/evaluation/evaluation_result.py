"""The result of an evaluation: values per query, means with intervals, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segue.core.types import Recommendations
from segue.evaluation.bootstrap import Estimate
from segue.evaluation.metrics import canonical_name
from segue.evaluation.ranking import excludes_all_seen
from segue.evaluation.warmth import WarmthGroup, merge_groups

if TYPE_CHECKING:
    import polars as pl

__all__ = ["EvaluationResult", "merge_results", "ranked_queries"]


@dataclass(frozen=True, eq=False, repr=False)
class EvaluationResult:
    """Metrics of one model on one set of queries, by names such as ``ndcg@10``.

    ``result["ndcg@10"]`` is the mean with its interval.
    """

    values: Mapping[str, NDArray[np.float64]]
    """``(N,)`` per metric, one value per query; NaN where a query has no true item or, for errors, no true value."""
    estimates: Mapping[str, Estimate]
    """Means over the queries, with 95 % bootstrap intervals."""
    metadata: Mapping[str, Any]
    """The protocol and counts: queries, targets, share of targets in the history, unknown users, ..."""
    top: Recommendations
    """The lists, as long as the largest k; empty where nothing was ranked."""
    group_estimates: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    """The same per group of queries, where groups were given."""
    group_sizes: Mapping[str, int] = field(default_factory=dict)
    """Queries of each group."""
    warmth: tuple[WarmthGroup, ...] = ()
    """The same for hot, warm and cold items and users, where the training events are known."""

    def __getitem__(self, metric: str) -> Estimate:
        if metric.startswith("rbp:"):
            metric = canonical_name(metric)
        if metric not in self.estimates:
            from segue.core.config import suggest

            raise KeyError(
                f"metric: no '{metric}' in this result (metrics=['{metric}'] computes it)"
                f"{suggest(metric, self.estimates)}"
            )
        return self.estimates[metric]

    def __contains__(self, metric: object) -> bool:
        return metric in self.estimates

    def select(self, names: Sequence[str]) -> EvaluationResult:
        """Keep only the metrics ``names``, in this order."""
        return replace(
            self,
            values={name: self.values[name] for name in names},
            estimates={name: self[name] for name in names},
            group_estimates={
                group: {name: found[name] for name in names if name in found}
                for group, found in self.group_estimates.items()
            },
            warmth=tuple(group.select(names) for group in self.warmth),
        )

    @property
    def warmth_table(self) -> pl.DataFrame:
        """Return a table of the metrics of hot, warm and cold items and users.

        The columns are ``group``, ``definition``, ``metric``, ``mean``, ``low``, ``high``, ``queries`` and ``targets``.
        """
        import polars as pl

        seed = int(self.metadata["seed"])
        rows: list[tuple[Any, ...]] = [
            (group.name, group.definition, name, *_numbers(found), len(group.rows), group.targets)
            for group in self.warmth
            for name, found in group.estimate(seed).items()
        ]
        columns = {"group": pl.String, "definition": pl.String, "metric": pl.String, "mean": pl.Float64,
                   "low": pl.Float64, "high": pl.Float64, "queries": pl.Int64, "targets": pl.Int64}  # fmt: skip
        return pl.DataFrame(rows, schema=columns, orient="row")

    @property
    def table(self) -> pl.DataFrame:
        """Return a table with one row per metric.

        The columns are ``metric``, ``mean``, ``low``, ``high`` and ``queries``.

        With groups there are rows per group too, named in a first column ``group``, which is null for all queries.
        """
        import polars as pl

        n = ranked_queries(self.metadata)
        rows: list[tuple[Any, ...]] = [(None, name, *_numbers(found), n) for name, found in self.estimates.items()]
        for group, estimates in self.group_estimates.items():
            size = self.group_sizes[group]
            rows += [(group, name, *_numbers(found), size) for name, found in estimates.items()]
        columns = {"group": pl.String, "metric": pl.String, "mean": pl.Float64, "low": pl.Float64, "high": pl.Float64,
                   "queries": pl.Int64}  # fmt: skip
        frame = pl.DataFrame(rows, schema=columns, orient="row")
        return frame if self.group_estimates else frame.drop("group")

    def __repr__(self) -> str:
        width = max(map(len, self.estimates), default=0)
        lines = [f"{self._summary()}", *(f"  {name:<{width}}  {found}" for name, found in self.estimates.items())]
        for group, estimates in self.group_estimates.items():
            lines.append(f"{group} ({self.group_sizes[group]:,} queries)")
            lines += [f"  {name:<{width}}  {found}" for name, found in estimates.items()]
        for one in self.warmth:
            known = {name: values for name, values in one.values.items() if not np.isnan(values).all()}
            if not known:
                continue
            means = ", ".join(f"{name} {np.nanmean(values):.4f}" for name, values in known.items())
            lines.append(f"  {one.name} ({one.definition}; {len(one.rows):,} queries): {means}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<p>{self._summary()}</p>{self.table._repr_html_()}"

    def _summary(self) -> str:
        """Describe the protocol in one line."""
        parts = [f"{ranked_queries(self.metadata):,} queries"]
        if self.metadata.get("protocol") is not None:
            parts.append(f"protocol {self.metadata['protocol']}")
        if "items" in self.metadata:
            among = _format_candidates(self.metadata)
            seen = self.metadata["exclude_seen"]
            newest = "" if not seen or excludes_all_seen(seen) else f"of the newest {seen} events "
            parts.append(f"{among}, seen items {newest}{'excluded' if seen else 'included'}")
        elif "candidates" in self.metadata:
            parts.append(str(self.metadata["candidates"]))
        return "EvaluationResult: " + ", ".join([*parts, "95 % intervals"])


def merge_results(results: Sequence[EvaluationResult]) -> EvaluationResult:
    """Merge results of several kinds of metrics; the lists are those of the first."""
    first, *others = results
    for other in others:
        names = [*first.group_estimates, *(name for name in other.group_estimates if name not in first.group_estimates)]
        first = EvaluationResult(
            {**first.values, **other.values},
            {**first.estimates, **other.estimates},
            {**other.metadata, **first.metadata},
            first.top,
            {name: {**first.group_estimates.get(name, {}), **other.group_estimates.get(name, {})} for name in names},
            first.group_sizes,
            merge_groups(first.warmth, other.warmth),
        )
    return first


def ranked_queries(metadata: Mapping[str, Any]) -> int:
    """Return the number of queries with a target that is ranked."""
    return int(metadata["queries"]) - int(metadata.get("queries_without_target", 0))


def _format_candidates(metadata: Mapping[str, Any]) -> str:
    number = f"{metadata['items']:,}"
    is_whole = metadata["candidates"] == "whole catalog"
    return f"whole catalog of {number} items" if is_whole else f"among {number} {metadata['candidates']}"


def _numbers(found: Estimate) -> tuple[float, float, float]:
    return found.mean, found.low, found.high
