"""How a plan's model is measured, and the baseline beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from segue.core.config import suggest
from segue.core.model import Model
from segue.core.registry import functions, model_class
from segue.core.run import Run
from segue.core.types import HeldOut, Split
from segue.evaluation import metrics, rating_metrics
from segue.evaluation.evaluate import Evaluation as Measured
from segue.evaluation.evaluate import evaluate
from segue.experiment.plan import Plan
from segue.training.train import Training, train

__all__ = ["baseline", "chosen_metrics", "intervals", "means", "measure"]


def chosen_metrics(plan: Plan) -> list[Callable[..., Any]]:
    """The metrics of a ranking that the plan names; every unknown one is told.

    Errors of predicted values are measured wherever there are both, named or not.
    """
    known, errors = functions(metrics), functions(rating_metrics)
    if faults := [name for name in plan.evaluation.metrics if name not in known | errors]:
        raise ValueError(
            "\n".join(f"evaluation.metrics: unknown '{name}'{suggest(name, known | errors)}" for name in faults)
        )
    return [known[name] for name in plan.evaluation.metrics if name in known]


def measure(model: Model, held_out: HeldOut, plan: Plan) -> Measured:
    """Rank the held-out items as the plan's evaluation says."""
    wanted = plan.evaluation
    return evaluate(
        model,
        held_out,
        ks=wanted.ks,
        metrics=chosen_metrics(plan),
        repeats=wanted.repeats == "keep",
        seed=plan.run.seed,
        sampled=wanted.sampled,
    )


def baseline(plan: Plan, parts: Split) -> dict[str, Any] | None:
    """The plan's baseline, with its default settings, measured on the same questions; none where nothing is ranked."""
    key = plan.evaluation.baseline
    if key is None or key == plan.task.model or not chosen_metrics(plan):
        return None
    validate = None
    model = train(key, model_class(key).Config(), Training(), parts.train, Run(plan.run.seed), validate)
    measured = measure(model, parts.test, plan)
    return {"model": key, **means(measured), "intervals": intervals(measured)}


def means(measured: Measured) -> dict[str, float]:
    """The mean of each metric, by names such as ``ndcg@10``."""
    return {name: round(estimate.mean, 6) for name, estimate in measured.summary.items()}


def intervals(measured: Measured) -> dict[str, list[float]]:
    """The ends of each metric's 95 % interval."""
    return {name: [round(e.low, 6), round(e.high, 6)] for name, e in measured.summary.items()}
