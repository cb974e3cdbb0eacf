"""Segue from Python: load, split, train, evaluate, recommend.

Every function here is a thin wrapper around :mod:`segue.experiment`; the command line calls the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from annotated_types import Ge

from segue.core.bundle import TrainedModel
from segue.core.config import parse
from segue.core.memory_check import check_not_forked
from segue.core.types import Dataset, Split
from segue.data import load as load_data
from segue.data.filters import Filters
from segue.data.splits import SplitSettings
from segue.data.splits import split as split_data
from segue.experiment.audit.audit import audit
from segue.experiment.baselines.measure import baselines
from segue.experiment.compare import compare
from segue.experiment.cross_validate import cross_validate
from segue.experiment.evaluate import evaluate
from segue.experiment.inference.argument_checks import Described, FilePath, PositiveInt, check_arguments
from segue.experiment.inference.frames import like_input
from segue.experiment.inference.queries import build_queries, build_query
from segue.experiment.off_policy.evaluate_policy import evaluate_policy
from segue.experiment.quality import warn_of_repeats
from segue.experiment.records.saved_models import open, save  # noqa: A004 - the name in the public API
from segue.experiment.text import add_items, add_knowledge, add_text
from segue.experiment.train_model import train_model
from segue.experiment.tuning.auto import auto
from segue.experiment.tuning.tune import tune
from segue.studies.framework.report import report
from segue.studies.framework.runner import run_study

if TYPE_CHECKING:
    import polars as pl

    from segue.experiment.inference.explain import ItemExplanation
    from segue.experiment.inference.session import StreamingSession

__all__ = [
    "add_items",
    "add_knowledge",
    "add_text",
    "audit",
    "auto",
    "baselines",
    "compare",
    "cross_validate",
    "evaluate",
    "evaluate_policy",
    "explain",
    "export",
    "load",
    "open",
    "predict",
    "rank",
    "recommend",
    "report",
    "run_study",
    "save",
    "serve",
    "similar",
    "split",
    "stream",
    "train",
    "tune",
]

ModelLike: TypeAlias = Annotated[
    TrainedModel | FilePath, Described("a trained model, or the name or folder of a run or saved model")
]
ModelKey: TypeAlias = Annotated[str, Described("the key of a model, as in train('item_knn', data)")]
ItemFilter: TypeAlias = Annotated[Mapping[str, Any], Described('a mapping such as {"genres": "Comedy"}')]
Rules: TypeAlias = Annotated[Mapping[str, Any], Described('a mapping such as {"diversify": 0.3}')]


@check_arguments()
def load(
    source: Any,
    *,
    columns: Mapping[str, str | int | Sequence[str | int] | None] | None = None,
    separator: str | None = None,
    target: str | None = None,
    items: Any = None,
    users: Any = None,
    triples: Any = None,
    query: str | None = None,
    log: Callable[[str], None] | None = None,
    **filters: Any,
) -> Dataset:
    """Load and prepare an interaction log.

    Args:
        source: a name such as ``ml-100k``; a file, folder or pattern of files; a table of pandas, Polars, pyarrow, ...
        columns: the log's own names, such as ``{"user": "customer", "context": ["device"]}``; numbers without a header.
        separator: what separates the columns of delimited text, such as ``;`` or ``tab``; by default it is detected.
        target: the kind of action to predict; the others remain input.
        items: item features: a file or a table with the ids in ``id`` or ``item_id``.
        users: user features, likewise, by ``id`` or ``user_id``.
        triples: facts about items: a file or a table with ``head`` (such as an item id), ``relation`` and ``tail``.
        query: SQL query whose result is the log, if ``source`` is a database; the features may be queries, too.
        log: receives decisions, counts and warnings, such as ``print``.
        filters: see :class:`segue.data.filters.Filters`, such as ``min_user_events=5``.
    """
    layout: dict[str, Any] = {"columns": columns, "separator": separator, "target": target, "triples": triples}
    layout |= {"query": query, "filters": parse(Filters, filters, "filters"), "items": items, "users": users}
    return load_data(source, **layout, log=log)


@check_arguments()
def split(data: Any, strategy: str = "leave_one_out", **settings: Any) -> Split:
    """Split data into a training part and held-out queries with their targets.

    Args:
        data: a dataset, or anything that :func:`load` reads.
        strategy: by default each user's last item is the test and the one before is validation.
        settings: see :class:`segue.data.splits.SplitSettings`, such as ``test=0.1``, or ``valid=0`` for none.
    """
    return split_data(_dataset(data), parse(SplitSettings, {"strategy": strategy, **settings}, "split"))


# Training


@check_arguments(skip=("seed", "callbacks"))
def train(
    name: ModelKey,
    data: Any,
    *,
    seed: int = 0,
    device: str = "cpu",
    recipe: FilePath | None = None,
    folder: FilePath | None = None,
    progress: bool = False,
    callbacks: Sequence[Any] = (),
    loss: str | Callable[..., Any] | None = None,
    metric: str | Callable[..., Any] | None = None,
    **settings: Any,
) -> TrainedModel:
    """Train a model; with validation data, the best epoch is kept.

    Args:
        name: key of the model; ``segue models`` lists all.
        data: a split, whose training part is used and whose validation part selects the best epoch; or a dataset, or
            anything that :func:`load` reads, which is used as a whole.
        seed: determines every random choice.
        device: a torch device, such as ``cuda``.
        recipe: a TOML file with settings; ``None``: the recipe that comes with Segue for this model and data, if there
            is one; ``"none"``: no recipe.
        folder: where checkpoints and the training history are written. The same call resumes an interrupted training,
            and returns the model of a finished one. It is compared with the call that created ``folder``: settings,
            seed, data, and the code and state of functions; any difference, or a function that cannot be compared, is
            an error. A model that is solved in one step writes no checkpoint and is trained again.
        progress: whether to draw a progress bar.
        callbacks: called at the events of training; see :mod:`segue.training`.
        loss: name of a loss, or a function.
        metric: name of the validation metric, or a function.
        settings: of the model and of its training by name, such as ``epochs=5`` or ``embedding_dim=64``.

    Raises:
        ValueError: an unknown model or setting, unusable data, or a ``folder`` that holds another training or a run.
    """
    return train_model(
        name,
        data if isinstance(data, Split) else _dataset(data),
        settings,
        seed=seed,
        device=device,
        recipe=recipe,
        folder=folder,
        progress=progress,
        callbacks=callbacks,
        loss=loss,
        metric=metric,
    )


# Evaluation


@check_arguments()
def recommend(
    model: ModelLike,
    users: Any = None,
    *,
    histories: Any = None,
    titles: str | Sequence[str] | None = None,
    k: PositiveInt = 10,
    allow: Any = None,
    deny: Any = None,
    filter: ItemFilter | None = None,  # noqa: A002 - the name in the public API
    exclude_seen: bool = True,
    rules: Rules | None = None,
    data: Any = None,
    user_features: Any = None,
    context: Any = None,
    time: Any = None,
) -> Any:
    """Recommend ``k`` items to each user, or after each history.

    Args:
        model: a trained model, or the name or folder of one; see :func:`open`.
        users: an id or several; a frame with ``user_id``; an interaction frame with ``user_id`` and ``item_id``, which
            has their histories; or held-out queries such as ``split.test``. ``None`` alone: every user of the log.
        histories: lists of item ids, oldest first; or a mapping from user id to such a list.
        titles: one history by titles.
        k: items per user.
        allow: ids of the only items that may be recommended: a list, an array, a series, or a frame with ``item_id``;
            or a mapping from user to ids. A user who is not in the mapping is not restricted.
        deny: ids of items that must not be recommended; or a mapping from user to ids.
        filter: conditions on item features: ``{"genres": "Comedy"}``, ``{"year": {"min": 1990}}``.
        exclude_seen: whether to leave out items of the user's history.
        rules: reranking rules of the service: ``boosts``, ``max_per_value``, ``pins``, ``diversify``.
        data: the log that holds the histories of ``users``; default: the log that the model was trained on.
        user_features: features of new users, a mapping or one row per query; alone: new users without a history.
        context: context of the queries: as for ``user_features``. A frame with ``user_id`` may have columns of both.
        time: time of the queries, for models that read it: Unix seconds, or a datetime (without a zone: UTC).

    Returns:
        A table with ``user_id`` (or ``query``, numbered from 0), ``item_id``, ``rank``, ``score``, ``probability``
        (null unless scores are logits), ``title`` and ``genres`` where known, and ``notes`` on what could not be used,
        such as an unknown id. Pandas if ``users`` is a pandas object, else Polars. Ids have the type of the log.

    Raises:
        ValueError: an argument is malformed, or the log is not available.
    """
    from segue.experiment.inference.recommend import recommend_table

    trained = _trained(model)
    if exclude_seen:
        warn_of_repeats(trained)
    of_users: Any = {"data": data, "user_features": user_features, "context": context, "time": time}
    batch = build_queries(trained, users, histories=histories, titles=titles, **of_users)
    limits: Any = {"allow": allow, "deny": deny, "filter": filter, "rules": rules, "exclude_seen": exclude_seen}
    return like_input(recommend_table(trained, batch, k, **limits), users)


@check_arguments()
def rank(
    model: ModelLike,
    user: Any = None,
    *,
    items: Any,
    history: Sequence[Any] | None = None,
    titles: str | Sequence[str] | None = None,
    data: Any = None,
    user_features: Any = None,
    context: Any = None,
    time: Any = None,
) -> pl.DataFrame:
    """Rank given items for one user, or after one history, best first.

    ``user_features``, ``context`` and ``time`` are those of the query, see :func:`recommend`.

    Returns:
        ``item_id``, ``rank``, ``score``, and ``title`` and ``genres`` where known.
    """
    from segue.experiment.inference.predict import rank_items

    trained = _trained(model)
    of_user: Any = {"data": data, "user_features": user_features, "context": context, "time": time}
    return rank_items(trained, build_query(trained, user, history, titles, **of_user), items)


@check_arguments()
def predict(model: ModelLike, pairs: Any) -> Any:
    """Predict the rating of each user-item pair, in the scale of the data.

    Args:
        pairs: a frame with ``user_id`` and ``item_id``, or a list of ``(user, item)`` tuples.

    Returns:
        ``user_id``, ``item_id``, ``prediction`` and ``notes``; pandas if ``pairs`` is a pandas frame, else Polars.

    Raises:
        ValueError: the model predicts no ratings.
    """
    from segue.experiment.inference.predict import predict_pairs

    return predict_pairs(_trained(model), pairs)


@check_arguments()
def similar(
    model: ModelLike,
    item: Any = None,
    *,
    user: Any = None,
    k: PositiveInt = 10,
    measure: str | None = None,
    over: str | None = None,
    shrink: float | None = None,
    data: Any = None,
) -> pl.DataFrame:
    """List the items most similar to ``item``, or the users most similar to ``user``.

    Args:
        measure: name of a similarity measure: ``jaccard``, ``pearson``, ``smith_waterman`` (between histories),
            ``vector_cosine`` (between learned vectors), ...; ``None``: the model's own similarity.
        over: what the measure compares: ``events``, ``values``, ``levels`` (how often each value occurs) or ``genres``;
            ``None``: what the measure is defined for.
        shrink: shrinks similarity that rests on few events towards 0; 0: the plain measure; ``None``: 10, and 0 for
            genres.
        data: the log, a dataset or anything that :func:`load` reads; default: the log that the model was trained on,
            if it is available.

    Returns:
        ``rank``, ``item_id``, ``title``, ``genres``, ``similarity`` and ``users_in_common``; or ``rank``, ``user_id``,
        ``similarity``, ``items_in_common`` and ``common``.
    """
    from segue.experiment.inference.similar import similar_items, similar_users

    trained = _trained(model)
    if (item is None) == (user is None):
        got = "neither" if item is None else "both"
        raise ValueError(f"similar: got {got} of item and user=, expected one of them")
    if user is not None:
        own = trained.train_log if data is None else _dataset(data)
        return similar_users(trained, user, k, measure=measure, over=over, shrink=shrink, log=own)
    if data is None:
        try:
            data = trained.train_log
        except ValueError:  # only measures of the log need it, and they say so
            data = None
    log = None if data is None else _dataset(data)
    return similar_items(trained, item, k, measure=measure, over=over, shrink=shrink, log=log)


@check_arguments()
def explain(
    model: ModelLike,
    user: Any = None,
    *,
    item: Any,
    history: Sequence[Any] | None = None,
    titles: str | Sequence[str] | None = None,
    k: PositiveInt = 10,
    exclude_seen: bool = True,
    filter: ItemFilter | None = None,  # noqa: A002 - the name in the public API
    rules: Rules | None = None,
    data: Any = None,
    user_features: Any = None,
    context: Any = None,
    time: Any = None,
) -> ItemExplanation:
    """Explain why ``item`` is or is not among the ``k`` items recommended to a user.

    ``user_features``, ``context`` and ``time`` are those of the query, see :func:`recommend`.

    Returns:
        Rank and score of the item, the effect of each item of the history (leave-one-out) and of rules, also in words.
    """
    from segue.experiment.inference.explain import explain_item

    trained = _trained(model)
    of_user: Any = {"data": data, "user_features": user_features, "context": context, "time": time}
    batch = build_query(trained, user, history, titles, **of_user)
    return explain_item(trained, batch, item, k, exclude_seen=exclude_seen, filter=filter, rules=rules)


@check_arguments()
def stream(model: ModelLike) -> StreamingSession:
    """Open a session that recommends from states of fixed size.

    A state is updated event by event.

    Raises:
        ValueError: the model has no state: it reads the whole history for every recommendation.
    """
    from segue.experiment.inference.session import StreamingSession

    return StreamingSession(_trained(model))


# Serving


@check_arguments()
def export(
    model: ModelLike,
    folder: FilePath | None = None,
    *,
    engine: Literal["auto", "native", "onnx"] = "auto",
    name: str | None = None,
    index_above: Annotated[int, Ge(0)] | None = None,
    log: Callable[[str], None] | None = None,
) -> Path:
    """Build the artifact that a service loads, unless an intact one exists already.

    Args:
        model: a run, such as ``"latest"``; a trained model; or a folder that :func:`save` wrote.
        folder: folder of the artifact; ``None``: one in ``artifacts`` under ``SEGUE_HOME``.
        engine: what computes the scores; ``auto`` takes ONNX where it is available and ranks as the trained model does.
        name: the model's name in requests; ``None``: that of the run or of the folder.
        index_above: number of items above which a factored model gets an approximate index; ``None``: the default.
        log: receives messages about progress, such as ``print``.

    Returns:
        The folder of the artifact.
    """
    from segue.experiment.publish import publish, publish_trained

    out = None if folder is None else Path(folder).expanduser()
    log = log or (lambda text: None)
    if isinstance(model, str | Path):
        return publish(model, out, engine=engine, name=name, index_above=index_above, log=log)
    trained = _trained(model)
    return publish_trained(trained, trained.key, out, engine=engine, name=name, index_above=index_above, log=log)


@check_arguments()
def serve(
    model: ModelLike,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    store: str | None = None,
    keys: FilePath | None = None,
    workers: PositiveInt = 1,
    log: Callable[[str], None] = print,
    **settings: Any,
) -> None:
    """Serve recommendations over HTTP until the process is interrupted.

    Args:
        model: an artifact of :func:`export`, a folder of a click-through model, or a run or model, which is exported.
        host: address to listen on; other machines can connect only where API keys are required.
        port: port to listen on; 0: any free port.
        store: event store: ``sqlite:///FILE``, ``postgresql://...`` or ``redis://...``; ``None``: a file under
            ``SEGUE_HOME``.
        keys: file of API keys, which ``segue keys add`` creates.
        workers: processes that share the port and the store.
        log: receives messages.
        settings: see :class:`segue.serving.settings.ServingSettings`.
    """
    from segue.experiment.publish import find_served_folder
    from segue.serving.server import ServerConfig, check_port, run
    from segue.serving.settings import ServingSettings

    check_port(port)
    folder = find_served_folder(model) if isinstance(model, str | Path) else None
    config = ServerConfig(
        folders=(export(model, log=log) if folder is None else folder,),
        host=host,
        store=store,
        keys=None if keys is None else Path(keys).expanduser(),
        serving=parse(ServingSettings, settings, "serving"),
    )
    run(config, port=port, allow_open=False, workers=workers, log=log)


def _dataset(data: Any) -> Dataset:
    check_not_forked("use a dataset")
    return data if isinstance(data, Dataset) else load(data)


def _trained(model: ModelLike) -> TrainedModel:
    check_not_forked("use a model")
    return model if isinstance(model, TrainedModel) else open(model)
