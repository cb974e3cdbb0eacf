"""Segue from Python: load, split, train, evaluate, recommend."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segue.core import bundle
from segue.core.bundle import Bundle
from segue.core.config import parse
from segue.core.registry import model_keys
from segue.core.run import Run
from segue.core.types import Dataset, HeldOut, Split
from segue.data import load as load_data
from segue.data.filters import Filters
from segue.data.splits import SplitSettings
from segue.data.splits import split as split_data
from segue.evaluation.evaluate import Evaluation, validator
from segue.evaluation.evaluate import evaluate as evaluate_model
from segue.experiment import recommend as recommending
from segue.experiment.data import check_inputs, user_features
from segue.experiment.paths import find_run
from segue.experiment.plan import plan
from segue.experiment.session import Stream
from segue.experiment.similar import alike_items, alike_users
from segue.training.train import train as train_model

if TYPE_CHECKING:
    import polars as pl

__all__ = ["evaluate", "load", "model_keys", "recommend", "restore", "save", "similar", "split", "stream", "train"]


def load(
    source: Any,
    *,
    columns: Mapping[str, str] | None = None,
    target: str | None = None,
    items: Any = None,
    users: Any = None,
    say: Callable[[str], None] | None = None,
    **filters: Any,
) -> Dataset:
    """A log, prepared: a name such as ``ml-100k``, a file or folder, or a table in memory.

    Args:
        columns: the log's own column names, such as ``{"user": "customer", "item": "sku"}``.
        target: the kind of action that is predicted; the others stay input.
        items: what more is known of items: a file or a table with their ids in ``id`` or ``item_id``.
        users: likewise of users, by ``id`` or ``user_id``.
        say: gets decisions, counts and warnings, such as ``print``.
        filters: see :class:`segue.data.filters.Filters`, such as ``min_user_events=5``.
    """
    wanted = parse(Filters, filters, "filters")
    return load_data(source, columns=columns, target=target, filters=wanted, items=items, users=users, say=say)


def split(data: Dataset, **settings: Any) -> Split:
    """What trains and what is held out; by default each user's last item is the test, the one before validation.

    Args:
        settings: see :class:`segue.data.splits.SplitSettings`, such as ``kind="temporal"``.
    """
    return split_data(data, parse(SplitSettings, settings, "split"))


def train(
    model: str,
    split: Split,
    *,
    seed: int = 0,
    device: str = "cpu",
    recipe: str | Path | None = None,
    folder: Path | None = None,
    show: bool = False,
    **settings: Any,
) -> Bundle:
    """A model trained on ``split.train``, its best epoch chosen on ``split.valid``, with its catalogue.

    Args:
        recipe: a TOML file; ``None``: the recipe that came with Segue for this data, if any; ``"none"``: no recipe.
        folder: where checkpoints and history go; the same call goes on from there after an interruption.
        show: whether progress is drawn.
        settings: of the model and of its training by their names, such as ``epochs=5`` or ``width=64``.
    """
    assignments = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
    chosen = plan({"model": model, "data": split.train.name}, assignments, recipe)
    held = [part.queries for part in (split.valid, split.test) if len(part)]
    check_inputs(chosen, not held or any(queries.times is not None for queries in held))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    run = Run(seed, folder, device, show=show)
    validate = validator(split.valid, metric=chosen.metric) if len(split.valid) else None
    trained = train_model(model, chosen.model, chosen.training, split.train, run, validate)
    return bundle.of(model, trained, split.train, {"user_features": user_features(split.train)})


def evaluate(
    trained: Bundle, held_out: HeldOut, *, ks: Sequence[int] = (5, 10), repeats: bool = False, seed: int = 0
) -> Evaluation:
    """Metrics over the whole catalogue: ``.summary["ndcg@10"].mean``, ``.low`` and ``.high``, ``.values`` per question;
    ``rmse`` and ``mae`` too, where the model predicts the values of the log.

    Args:
        repeats: whether the items of a user's own history stay in his ranking.
        seed: of the bootstrap behind the intervals.
    """
    return evaluate_model(trained.model, held_out, ks=tuple(ks), repeats=repeats, seed=seed)


def recommend(
    trained: Bundle,
    items: Sequence[str] = (),
    *,
    titles: Sequence[str] = (),
    user: str | None = None,
    data: Dataset | None = None,
    k: int = 10,
    repeats: bool = False,
    profile: Mapping[str, Any] | None = None,
) -> pl.DataFrame:
    """The best ``k`` items for a history of ids or titles, oldest first, or for a ``user`` of ``data``.

    Returns:
        ``place``, ``item``, ``title`` and ``genres`` where known, ``logit`` and ``probability``, or ``score``.
    """
    if user is None:
        history = [*items, *recommending.titled(trained, titles)] if titles else items
        return recommending.by_history(trained, history, k, repeats=repeats, profile=profile).items
    if data is None or items or titles or profile:
        raise ValueError("recommend: a user needs data=, where his history is, and no items of his own")
    return recommending.by_user(trained, data, user, k, repeats=repeats).items


def similar(
    trained: Bundle,
    item: str | None = None,
    *,
    user: str | None = None,
    k: int = 10,
    measure: str | None = None,
    over: str | None = None,
    shrink: float | None = None,
    data: Dataset | None = None,
) -> pl.DataFrame:
    """The ``k`` items most like ``item``, or the users most like ``user``, with their ``likeness``.

    Args:
        measure: the name of a measure, such as ``jaccard``, ``pearson``, ``smith_waterman`` (between histories) or
            ``vector_cosine`` (between learned vectors); none: the model's own notion.
        over: what the measure is taken over: ``events``, ``values``, ``levels`` (how often each value was given) or
            ``genres``; none: what it is made for.
        shrink: draws likeness that rests on few events towards 0; 0: the bare measure; none: 10, and 0 over genres.
        data: the log, such as ``split.train``; with it the answer says what both have in common. Users and measures of
            the log need it.
    """
    if (item is None) == (user is None):
        raise ValueError("similar: to what? one of an item and user=")
    if item is not None:
        return alike_items(trained, item, k, measure=measure, over=over, shrink=shrink, log=data)
    if data is None:
        raise ValueError("similar: a user needs data=, where his history is, such as split.train")
    return alike_users(trained, str(user), k, measure=measure, over=over, shrink=shrink, log=data)


def save(trained: Bundle, folder: str | Path) -> None:
    """Write a trained model and its catalogue to ``folder``."""
    bundle.write(Path(folder), trained)


def restore(path: str | Path) -> Bundle:
    """A trained model from a run, such as ``"latest"``, or from a folder that :func:`save` wrote."""
    if (Path(path) / "bundle.json").exists():
        return bundle.load(Path(path))
    return bundle.load(find_run(path) / "bundle")


def stream(trained: Bundle | str | Path) -> Stream:
    """A model that goes on from a state of fixed size, event by event; also by its run or folder: see :func:`restore`.

    Raises:
        ValueError: the model has no state: it reads the whole history for every answer.
    """
    return Stream(trained if isinstance(trained, Bundle) else restore(trained))
