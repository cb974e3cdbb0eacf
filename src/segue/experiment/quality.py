"""Report what makes a trained model or a metric less useful than it looks.

That is a model below a simple baseline, a rating model that is used for rankings, targets that ``exclude_seen``
removes from the ranking, a part of the split without queries, and test queries that a model was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from segue.core.bundle import TrainedModel
from segue.core.messages import QualityWarning, warn
from segue.core.model import LOWER_IS_BETTER, Model, Predictor, Recommender
from segue.core.registry import exported_functions, model_class
from segue.core.run import Run
from segue.core.types import Dataset, HeldOut, Mask, Split
from segue.evaluation import rating_metrics
from segue.evaluation.evaluate import EvaluationResult
from segue.evaluation.leakage import count_trained_targets
from segue.evaluation.metrics import MetricLike
from segue.evaluation.ranking import ExcludeSeen, excludes_all_seen
from segue.evaluation.sampled import check_sampling
from segue.evaluation.simple_baselines import (
    RATING_MEANS,
    BaselineComparison,
    compare_with_baselines,
    ranking_baselines,
    repeat_share,
)
from segue.experiment.plan import Plan
from segue.training.train import Training, train

__all__ = [
    "AUTO",
    "Quality",
    "baseline_keys",
    "check_parts",
    "check_sampled_ranking",
    "cold_item_note",
    "count_parts",
    "describe_data_warnings",
    "explain_repeats",
    "explain_result",
    "is_rating_model",
    "judge_model",
    "rating_note",
    "train_baseline",
    "training_repeat_share",
    "warn_if_trained_on",
    "warn_of_repeats",
]

AUTO = "auto"
"""Value of ``evaluation.baseline`` that chooses the strongest simple baseline."""

LARGE_SHARE = 0.1
"""Share of targets in the history from which a warning is given."""

RANKING_METRIC = "ndcg@10"
"""Metric by which a rating model is compared with baselines that rank."""


@dataclass(frozen=True)
class Quality:
    """What the validation part says about a trained model."""

    comparison: BaselineComparison | None
    """The model and the strongest simple baseline; ``None`` without validation part or baseline."""
    warnings: tuple[str, ...]

    def metadata(self) -> dict[str, Any]:
        """Return the comparison as JSON holds it, to be stored with the model."""
        if self.comparison is None:
            return {}
        found = self.comparison
        return {
            "validation": {
                "metric": found.metric,
                "value": round(found.value, 6),
                "baseline": found.baseline,
                "baseline_value": round(found.baseline_value, 6),
                "queries": found.queries,
            }
        }


def judge_model(
    key: str,
    model: Model,
    train_data: Dataset,
    valid: HeldOut | None,
    metric: MetricLike,
    *,
    exclude_seen: ExcludeSeen = True,
    baseline: str | None = AUTO,
    seed: int = 0,
    is_ranked: bool = True,
) -> Quality:
    """Compare a trained model with the strongest simple baseline on validation.

    Args:
        metric: the validation metric; an error such as ``rmse`` is compared with that of the item and user means.
        baseline: the setting ``evaluation.baseline``; ``None``: no comparison, which saves its time.
        is_ranked: whether rankings are of interest; a rating model is then compared as a ranker, too.
    """
    is_ranker = is_ranked and is_rating_model(model)
    if baseline is None:
        return Quality(None, (rating_note(key),) if is_ranker else ())
    warnings = []
    keys = tuple(one for one in baseline_keys(baseline, train_data, exclude_seen) if one != key)

    def compare(by: MetricLike) -> BaselineComparison | None:
        if valid is None or not len(valid):
            return None
        return compare_with_baselines(
            model, train_data, valid, by, exclude_seen, keys, lambda one: train_baseline(one, train_data, seed)
        )

    found = compare(metric)
    if found is not None and found.is_below:
        warnings.append(f"{key} is below a simple baseline: {found}")
    if is_ranker:
        warnings.append(rating_note(key, compare(RANKING_METRIC) if metric in LOWER_IS_BETTER else None))
    return Quality(found, tuple(warnings))


def baseline_keys(baseline: str, train_data: Dataset, exclude_seen: ExcludeSeen) -> tuple[str, ...]:
    """Return the baselines that the setting ``evaluation.baseline`` stands for."""
    return ranking_baselines(train_data, exclude_seen) if baseline == AUTO else (baseline,)


def train_baseline(key: str, train_data: Dataset, seed: int) -> Model:
    """Train a baseline with its default settings."""
    return train(key, model_class(key).Config(), Training(), train_data, Run(seed))


def is_rating_model(model: Recommender) -> bool:
    """Return whether the model predicts ratings with its settings."""
    return isinstance(model, Predictor) and model.predicts_ratings


def rating_note(key: str, found: BaselineComparison | None = None) -> str:
    """Say that a rating model is not trained to rank, with figures if known."""
    figures = ""
    if found is not None and found.baseline != RATING_MEANS:
        figures = f" (validation {found.metric}: {found.value:.4f}; {found.baseline}: {found.baseline_value:.4f})"
    return (
        f"{key} predicts ratings and is not trained to rank: its lists are sorted by predicted rating{figures}; for "
        "recommendations, use a model that ranks, such as ials or ease"
    )


def explain_repeats(share: float, targets: str = "targets", setting: str = "exclude_seen=False") -> str | None:
    """Describe how many targets the ranking excludes, or ``None`` for few.

    Args:
        share: share of the targets that are in the history of their query.
        targets: which targets, and how many, such as ``20 test targets``.
        setting: what includes them in the ranking.
    """
    if share < LARGE_SHARE:
        return None
    found = f"all {targets} are" if share >= 1.0 else f"{share:.0%} of the {targets} are"
    effect = "no target can be found and every metric is 0" if share >= 1.0 else "they cannot be found"
    return (
        f"{found} items that the user's history already contains; exclude_seen removes these from the ranking, so "
        f"{effect}; if users return to items, set {setting}"
    )


def explain_result(result: EvaluationResult, part: str | None, plan: Plan | None = None) -> list[str]:
    """Describe what makes metrics of a result less useful than they look.

    Metrics that a plan names and the result lacks are described, too.
    """
    share = result.metadata.get("share_of_targets_removed", 0.0)
    if excludes_all_seen(result.metadata.get("exclude_seen", False)):
        share = result.metadata.get("share_of_targets_in_history", 0.0)
    targets = f"{result.metadata.get('targets', 0):,} {part or 'held-out'} targets"
    setting = "exclude_seen=False" if plan is None else "evaluation.exclude_seen=false"
    notes = [explain_repeats(share, targets, setting)]
    if plan is not None and (missing := _missing_errors(result, plan)):
        notes.append(
            f"{', '.join(missing)}: not computed, as {plan.task.model} predicts no ratings or the held-out events have "
            "none"
        )
    return [note for note in notes if note is not None]


def _missing_errors(result: EvaluationResult, plan: Plan) -> list[str]:
    """Return the errors of predicted ratings that a plan names and a result lacks."""
    errors = exported_functions(rating_metrics)
    return [name for name in plan.evaluation.metrics if name in errors and name not in result]


def cold_item_note(model: Recommender, items: str) -> list[str]:
    """Describe the ranking of cold items by a model that cannot order them."""
    if items != "cold" or model.schema.item_features:
        return []
    return [
        f"{type(model).__name__} reads no item features, so its order of items without training events says nothing; "
        "rank all items or warm ones, or use a model with item features or text"
    ]


def training_repeat_share(data: Split | Dataset) -> float:
    """Return the share of repeated items in validation, test or training.

    The first of these that has any queries is taken; training data counts by event.
    """
    if isinstance(data, Split):
        for part, held_out in (("valid", data.valid), ("test", data.test)):
            found = data.metadata.get(part, {})
            if len(held_out) and "targets_in_history" in found:
                return float(found["targets_in_history"])
        data = data.train
    return repeat_share(data.histories)


def warn_if_trained_on(trained: TrainedModel, held_out: HeldOut) -> None:
    """Warn if the model was trained on targets of the queries.

    Nothing is checked if the training log of the model is not available.
    """
    if trained.log_has_held_out:
        return
    try:
        log = trained.train_log
    except ValueError:
        return
    count = count_trained_targets(log, held_out)
    if count:
        warn(
            f"evaluate: {count:,} of {held_out.targets.size:,} targets are events that the model was trained on, so "
            "the metrics say nothing about new events; train it on split.train of the same split",
            category=QualityWarning,
        )


def warn_of_repeats(trained: TrainedModel) -> None:
    """Warn if many targets are items that ``exclude_seen`` leaves out."""
    share = float(trained.metadata.get("repeat_share", 0.0))
    if share >= LARGE_SHARE:
        warn(
            f"recommend: {share:.0%} of the next items in the log of this model are items that the user's "
            "history already contains; exclude_seen leaves these items out; if users return to items, set "
            "exclude_seen=False",
            category=QualityWarning,
        )


def describe_data_warnings(plan: Plan, parts: Split) -> list[str]:
    """Return the warnings that concern the data of a run, not its model."""
    count = plan.task.max_users
    limited = [] if count is None else [f"limited to the first {count} users: not a result"]
    return list(dict.fromkeys([*parts.metadata.get("warnings", []), *limited]))


def count_parts(parts: Split) -> str:
    """Count the training events and the queries of each part, in one line."""
    trained = np.flatnonzero(parts.train.histories.lengths)
    tested = parts.test.queries.users[parts.test.queries.known]
    idle = len(trained) - len(np.intersect1d(trained, tested))
    text = (
        f"split: {parts.metadata.get('strategy', 'given')}: {parts.train.histories.size:,} training events, "
        f"{len(parts.valid):,} validation and {len(parts.test):,} test queries"
    )
    return (
        f"{text}; {idle:,} of {len(trained):,} training users have no test query" if len(parts.test) and idle else text
    )


def check_parts(parts: Split, names: tuple[str, ...] = ("valid", "test")) -> None:
    """Check that every part that the settings of the split ask for has queries.

    Raises:
        ValueError: a part is empty, although its share is not 0.
    """
    settings = parts.metadata.get("settings", {})
    strategy = settings.get("strategy", "none")
    if strategy == "none":
        return
    empty = []
    for name, held_out in (("valid", parts.valid), ("test", parts.test)):
        is_share = name == "valid" or strategy not in (
            "leave_one_out",
            "leave_n_out",
            "k_fold",
            "user_k_fold",
            "predefined",
        )
        is_expected = not is_share or settings[name] > 0 or settings.get("cutoff" if name == "test" else "valid_cutoff")
        if name in names and is_expected and not len(held_out):
            empty.append(f"split: the {name} part has no query: {_explain_empty(parts, name, settings)}")
    if empty:
        raise ValueError("\n".join(empty))


def check_sampled_ranking(parts: Split, sampled: int | None, candidates: Mask | None = None) -> None:
    """Check before training that targets can be ranked among sampled items.

    Args:
        sampled: the setting ``evaluation.sampled``; ``None``: nothing is sampled.
        candidates: see :func:`segue.evaluation.sampled.check_sampling`; likewise for the errors.
    """
    for held_out in (parts.valid, parts.test):
        check_sampling(held_out, parts.train.n_items, sampled, candidates)


def _explain_empty(parts: Split, name: str, settings: dict[str, Any]) -> str:
    """Explain why a part is empty, and what to do."""
    strategy, share = settings["strategy"], settings[name]
    dropped = {key: count for key, count in parts.metadata.get(name, {}).items() if key.endswith("_dropped") and count}
    if dropped:
        counts = ", ".join(
            f"{count:,} {key.removesuffix('_dropped').replace('_', ' ')}" for key, count in dropped.items()
        )
        return f"{counts} were dropped, as split.drop_cold_targets and split.drop_seen_targets say; set them to false"
    reasons = {
        "leave_one_out": "no user has enough events: each part takes one, and training needs one",
        "leave_n_out": f"no user has enough events to hold out n={settings['n']} per part and leave one",
        "global_temporal": "no event lies within it, for example because many events have the same time",
    }
    rounded = f"{name}={share:g} of the data is rounded down to nothing"
    advice = (
        "set split.valid=0 to train without validation"
        if name == "valid"
        else "set split.strategy=none to train on all events"
    )
    return f"{reasons.get(strategy, rounded)}; choose a larger share or another strategy, or {advice}"
