"""Estimate the value of a policy from logged impressions.

Policies are compared on the same log.

Shapes: T impressions, Q queries, K positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import polars as pl
from annotated_types import Ge
from numpy.typing import NDArray

from segue.core.config import parse, suggest
from segue.core.examples.propensities import estimate_by_clicks, estimate_by_items
from segue.core.messages import arg, warn
from segue.evaluation.bootstrap import Estimate
from segue.evaluation.off_policy import estimators as formulas
from segue.evaluation.off_policy.estimators import ESTIMATORS, PolicyTerms
from segue.evaluation.off_policy.overlap import Overlap, OverlapLimits
from segue.experiment.arguments import check_seed
from segue.experiment.inference.argument_checks import Described, check_arguments, describe_value, is_sequence
from segue.experiment.off_policy.candidates import CandidateSets, read_candidates
from segue.experiment.off_policy.impressions import LoggedImpressions, read_impressions
from segue.experiment.off_policy.rewards import check_reward_model, cross_fit, read_predictions
from segue.experiment.off_policy.target_policy import ModelPolicySettings, TargetPolicy, apply_policy
from segue.experiment.off_policy.weighted_policy import WeightedPolicy

__all__ = ["PolicyEvaluation", "evaluate_policy"]

LOGGING_POLICY = "logging policy"
WITH_PREDICTIONS = ("dm", "dr")
DEFAULT_FOLDS = 3

ColumnNames = Annotated[Mapping[str, Any], Described('a mapping such as {"query": "page", "reward": "click"}')]
Limits = Annotated[Mapping[str, Any], Described('a mapping such as {"min_effective_sample_size": 50}')]


@dataclass(frozen=True, eq=False, repr=False)
class PolicyEvaluation(Mapping[str, Estimate]):
    """Estimated values of a policy by estimator.

    The value is the expected reward of a query, the sum over its positions.

    Intervals are 95 % percentile bootstrap intervals over queries, or over users if the log has them. Predictions and
    estimated position propensities are taken as given. ``dm`` has no interval, as its error is the bias of its
    predictions, which resampling does not show; the ends are NaN.
    """

    policy: str
    estimates: Mapping[str, Estimate]
    logged: Estimate
    """Mean reward of a query in the log: the value of the logging policy."""
    baseline: str
    baseline_estimates: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]
    """Value of the policy minus that of the baseline, by estimator; the intervals are paired."""
    overlap: Mapping[str, Overlap]
    """Overlap of the policy and the log, by kind of weights: ``item_position`` or ``pbm``."""
    baseline_overlap: Mapping[str, Overlap]
    """The same of the baseline; empty if it is the logging policy."""
    queries: int
    impressions: int
    positions: int
    unit: str
    """What is resampled: ``queries`` or ``users``."""
    flags: tuple[str, ...]
    """What violates the default limits of the overlap, although the given limits allow it."""
    notes: tuple[str, ...]

    def __getitem__(self, name: str) -> Estimate:
        return self.estimates[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.estimates)

    def __len__(self) -> int:
        return len(self.estimates)

    def __repr__(self) -> str:
        texts = (f"{name}={one}" for name, one in self.estimates.items())
        return f"PolicyEvaluation({self.policy}: {', '.join(texts)}; logged={self.logged})"

    @property
    def table(self) -> pl.DataFrame:
        """One row per estimator with the values of both policies and their difference."""
        columns = {"": self.estimates, "baseline_": self.baseline_estimates, "difference_": self.differences}
        rows = [
            {"estimator": name}
            | {f"{prefix}{end}": getattr(values[name], field) for prefix, values in columns.items()
               for end, field in (("value", "mean"), ("low", "low"), ("high", "high"))}
            for name in self.estimates
        ]  # fmt: skip
        return pl.DataFrame(rows)

    def record(self) -> dict[str, Any]:
        """Return the result as JSON holds it."""

        def numbers(values: Mapping[str, Estimate]) -> dict[str, list[float | None]]:
            return {
                name: [end if np.isfinite(end) else None for end in (one.mean, one.low, one.high)]
                for name, one in values.items()
            }

        return {
            "policy": self.policy,
            "baseline": self.baseline,
            "queries": self.queries,
            "impressions": self.impressions,
            "positions": self.positions,
            "unit": self.unit,
            "logged": [self.logged.mean, self.logged.low, self.logged.high],
            "estimates": numbers(self.estimates),
            "baseline_estimates": numbers(self.baseline_estimates),
            "differences": numbers(self.differences),
            "overlap": {kind: one.record() for kind, one in self.overlap.items()},
            "baseline_overlap": {kind: one.record() for kind, one in self.baseline_overlap.items()},
            "flags": list(self.flags),
            "notes": list(self.notes),
        }


@check_arguments(skip=("seed",))
def evaluate_policy(
    log: Any,
    policy: Any,
    *,
    baseline: Any = None,
    temperature: float | None = None,
    candidates: Any = None,
    estimators: Sequence[str] | None = None,
    reward_model: str | None = None,
    predictions: str | None = None,
    folds: Annotated[int, Ge(2)] = DEFAULT_FOLDS,
    position_propensities: Any = None,
    clip: float | None = None,
    columns: ColumnNames | None = None,
    query: str | None = None,
    separator: str | None = None,
    data: Any = None,
    exclude_seen: bool = True,
    limits: Limits | None = None,
    seed: int = 0,
) -> PolicyEvaluation:
    """Estimate what a policy would have earned, from the log of another policy.

    The value is the expected reward of a query, such as the number of clicks on a list. The estimators are those of
    :mod:`segue.evaluation.off_policy.estimators`.

    Args:
        log: one row per impression: a table, file, folder or database, see :func:`segue.load_examples`. Columns:
            ``item``; ``propensity``, the probability with which the logging policy showed the item at its position;
            ``reward``, such as 1 for a click; and, where there are any, ``query`` (id of the list), ``position``,
            ``user`` and ``time`` of the query.
        policy: a trained model, the name or folder of a run, or the name of a column with the probability that the
            policy shows the item at its position. A model ranks the candidates after the history of the user, which
            ends before the query if the log has times.
        baseline: another policy on the same log, likewise; ``None``: the logging policy.
        temperature: a model draws lists by softmax of its scores divided by this number, without replacement; ``None``:
            it shows the best items in order.
        candidates: table with the columns of query and item: what could be shown; ``None``: all items of the log.
        estimators: names of estimators; ``None``: ``ips``, ``clipped_ips`` and ``snips``, and those for which
            predictions or position propensities are given.
        reward_model: key of a click-through model that predicts rewards for ``dm`` and ``dr``, cross-fitted, such as
            ``logistic_regression`` or ``gradient_boosting``.
        predictions: column of the log and of ``candidates`` with predicted rewards, instead of a model.
        folds: number of parts of the cross-fitting.
        position_propensities: how likely users examine each position, for ``pbm``: numbers, ``"items"`` (estimated
            from items at several positions) or ``"clicks"`` (from click rates, right if positions are random). The log
            then has columns ``propensity_1``, ``propensity_2``, ...
        clip: largest weight of ``clipped_ips``; ``None``: the square root of the number of impressions.
        columns: names of the columns of the log, such as ``{"query": "page", "reward": "click"}``.
        query: SQL query whose result is the log, if it is in a database.
        separator: what separates the columns of delimited text.
        data: the interaction log with the histories of the users; ``None``: that on which the model was trained.
        exclude_seen: whether a model leaves out items of the user's history.
        limits: smallest overlap that is not refused, see :class:`segue.evaluation.off_policy.overlap.OverlapLimits`.
        seed: of intervals and of the cross-fitting.

    Raises:
        ThinOverlapError: the log says too little about a policy; the message has the numbers.
        ValueError: the log is not usable, or an argument is malformed.
    """
    options = _Options(
        reward_model, predictions, position_propensities, temperature, candidates, folds, clip, data, exclude_seen,
        parse(OverlapLimits, limits or {}, "limits"), check_seed(seed),
    )  # fmt: skip
    chosen = _choose_estimators(estimators, options)
    impressions = read_impressions(log, columns, query, separator)
    return _evaluate(
        impressions, {"policy": policy} | ({} if baseline is None else {"baseline": baseline}), chosen, options
    )


@dataclass(frozen=True, eq=False)
class _Options:
    """Arguments of :func:`evaluate_policy` by name."""

    reward_model: str | None
    predictions: str | None
    position_propensities: Any
    temperature: float | None
    candidates: Any
    folds: int
    clip: float | None
    data: Any
    exclude_seen: bool
    limits: OverlapLimits
    seed: int

    def __post_init__(self) -> None:
        for name in ("temperature", "clip"):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise ValueError(f"{arg(name)}: got {value:g}, expected a finite number above 0")
        if self.reward_model is not None:
            check_reward_model(self.reward_model)


def _evaluate(
    impressions: LoggedImpressions, given: Mapping[str, Any], chosen: Sequence[str], options: _Options
) -> PolicyEvaluation:
    """Evaluate the policy and the baseline in ``given``."""
    needs_shown = any(name in WITH_PREDICTIONS for name in chosen)
    has_model = not all(isinstance(one, str) and one in impressions.table.columns for one in given.values())
    _check_used(impressions, chosen, options, has_model=has_model)
    examination_K = None
    if "pbm" in chosen:
        examination_K = _read_examination(options.position_propensities, impressions)
    table = None if options.candidates is None else read_candidates(options.candidates, impressions)
    own = None if table is None else table.candidates
    settings = ModelPolicySettings(options.temperature, options.exclude_seen, options.data)
    policies = {
        name: apply_policy(one, name, impressions, own, table, settings, needs_shown=needs_shown)
        for name, one in given.items()
    }
    predicted = None
    if needs_shown:
        shown = [one.shown for one in policies.values() if one.shown is not None]
        if options.predictions is not None:
            predicted = read_predictions(options.predictions, impressions, table, shown)
        else:
            assert options.reward_model is not None
            every = CandidateSets.of_log(impressions) if own is None else own
            how: Any = {"folds": options.folds, "seed": options.seed}
            predicted = cross_fit(options.reward_model, impressions, every, shown, **how)
    weighted = {
        name: WeightedPolicy(one, impressions, examination_K, chosen, options.limits, name)
        for name, one in policies.items()
    }
    for one in weighted.values():
        one.refuse()
    clip = formulas.default_clip(len(impressions.query_T)) if options.clip is None else options.clip
    terms = {name: one.terms(chosen, clip, predicted, number) for number, (name, one) in enumerate(weighted.items())}
    notes = () if predicted is None else predicted.notes
    result = _estimate(impressions, policies, weighted, terms, options.seed, notes)
    for text in result.flags:
        warn(f"thin overlap, allowed by limits: {text}")
    return result


def _estimate(
    impressions: LoggedImpressions,
    policies: Mapping[str, TargetPolicy],
    weighted: Mapping[str, WeightedPolicy],
    terms: Mapping[str, Mapping[str, PolicyTerms]],
    seed: int,
    notes: Sequence[str],
) -> PolicyEvaluation:
    """Estimate all values with shared resamples."""
    on_policy = formulas.on_policy(impressions.to_grid(impressions.reward_T))
    names = list(terms["policy"])
    baseline = terms.get("baseline", dict.fromkeys(names, on_policy))
    every = [on_policy, *terms["policy"].values(), *baseline.values()]
    values_BT = formulas.resample_values(every, impressions.units, seed)
    logged = formulas.to_estimate(on_policy.value, values_BT[:, 0])
    first_BT, second_BT = values_BT[:, 1 : 1 + len(names)], values_BT[:, 1 + len(names) :]
    found: list[dict[str, Estimate]] = [{}, {}, {}]
    for number, name in enumerate(names):
        first_B, second_B = first_BT[:, number], second_BT[:, number]
        one, other = terms["policy"][name].value, baseline[name].value
        for results, value, values_B in zip(
            found, (one, other, one - other), (first_B, second_B, first_B - second_B), strict=True
        ):
            has_interval = name != "dm"  # resampling does not know the bias of the predictions
            results[name] = formulas.to_estimate(value, values_B) if has_interval else Estimate(value, np.nan, np.nan)
    every_note = [*(note for one in policies.values() for note in one.notes), *notes]
    return PolicyEvaluation(
        policy=policies["policy"].name,
        estimates=found[0],
        logged=logged,
        baseline=policies["baseline"].name if "baseline" in policies else LOGGING_POLICY,
        baseline_estimates=found[1],
        differences=found[2],
        overlap=weighted["policy"].overlap,
        baseline_overlap=weighted["baseline"].overlap if "baseline" in weighted else {},
        queries=impressions.n_queries,
        impressions=len(impressions.query_T),
        positions=len(impressions.positions),
        unit="queries" if impressions.user_Q is None else "users",
        flags=tuple(text for one in weighted.values() for text in one.flags),
        notes=tuple(dict.fromkeys(every_note)),
    )


def _check_used(impressions: LoggedImpressions, chosen: Sequence[str], options: _Options, *, has_model: bool) -> None:
    """Reject arguments without effect, or without the column that they need.

    Raises:
        ValueError: names the first one, and what it is for.
    """
    of_models = "of models, but the policies are columns of the log"
    needs_shown = any(name in WITH_PREDICTIONS for name in chosen)
    arguments = {
        "temperature": (options.temperature is None or has_model, of_models),
        "exclude_seen": (options.exclude_seen or has_model, of_models),
        "data": (options.data is None or has_model, of_models),
        "candidates": (options.candidates is None or has_model or needs_shown, "for models, dm and dr"),
        "clip": (options.clip is None or "clipped_ips" in chosen, "for clipped_ips"),
        "folds": (options.folds == DEFAULT_FOLDS or options.reward_model is not None, "for a model of rewards"),
    }
    for name, (is_used, purpose) in arguments.items():
        if not is_used:
            raise ValueError(f"{arg(name)}: has no effect here, as it is {purpose}; leave it out")
    if options.data is not None and impressions.user_Q is None:
        raise ValueError(f"{arg('data')}: got a log, but {impressions.table.name} has no column 'user'")
    if options.predictions is not None and options.predictions not in impressions.table.columns:
        raise ValueError(f"{arg('predictions')}: {impressions.table.name} has no column '{options.predictions}'")


def _choose_estimators(names: Sequence[str] | None, options: _Options) -> tuple[str, ...]:
    """Return the estimators.

    Raises:
        ValueError: an unknown estimator, one without what it needs, or an argument that none of them reads.
    """
    has_predictions = options.reward_model is not None or options.predictions is not None
    has_positions = options.position_propensities is not None
    if options.reward_model is not None and options.predictions is not None:
        raise ValueError(f"got {arg('reward_model')} and {arg('predictions')}, expected one of them")
    if names is None:
        names = ["ips", "clipped_ips", "snips", *(WITH_PREDICTIONS if has_predictions else ())]
        return (*names, "pbm") if has_positions else tuple(names)
    if not len(names):
        raise ValueError(f"{arg('estimators')}: got none, expected some of {', '.join(ESTIMATORS)}")
    for name in names:
        if name not in ESTIMATORS:
            raise ValueError(f"{arg('estimators')}: unknown '{name}'{suggest(name, ESTIMATORS)}")
    if any(name in WITH_PREDICTIONS for name in names) != has_predictions:
        needs = f"dm and dr need {arg('reward_model')} or {arg('predictions')}"
        raise ValueError(f"{arg('estimators')}: got {', '.join(names)}; {needs}, and only they read them")
    if ("pbm" in names) != has_positions:
        needs = f"pbm needs {arg('position_propensities')}"
        raise ValueError(f"{arg('estimators')}: got {', '.join(names)}; {needs}, and only it reads them")
    return tuple(dict.fromkeys(names))


def _read_examination(given: Any, impressions: LoggedImpressions) -> NDArray[np.float64]:
    """Return how likely users examine each position of the log, ``(K,)``.

    Raises:
        ValueError: the numbers are not usable, or cannot be estimated.
    """
    name, positions = arg("position_propensities"), impressions.positions
    if impressions.propensity_TK is None:
        column = impressions.columns["propensity"]
        raise ValueError(
            f"{name}: {impressions.table.name} has no columns {column}_1, {column}_2, ..., expected the probability "
            "that the logging policy shows the item at each position"
        )
    if isinstance(given, str) and given in ("items", "clicks"):
        impressions.check_binary(f"{name} estimates from clicks; give numbers for other rewards")
        position_T = positions[impressions.position_T]
        if given == "items":
            codes_T = impressions.item_T.rank("dense").to_numpy().astype(np.int64)
            return estimate_by_items(position_T, impressions.reward_T, codes_T)[positions - 1]
        return estimate_by_clicks(position_T, impressions.reward_T)[positions - 1]
    if isinstance(given, str) or not is_sequence(given):
        raise ValueError(
            f"{name}: got {describe_value(given)}, expected 'items', 'clicks' or one number per position, such as "
            "[1.0, 0.6]"
        )
    try:
        examination = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        examination = np.zeros((0, 0))
    if examination.ndim != 1 or len(examination) < positions[-1]:
        raise ValueError(
            f"{name}: got {describe_value(given)}, expected one number for each of {positions[-1]} positions"
        )
    if not (np.isfinite(examination) & (examination > 0) & (examination <= 1)).all():
        raise ValueError(f"{name}: got {describe_value(given)}, expected probabilities above 0, up to 1")
    found: NDArray[np.float64] = examination[positions - 1]
    return found
