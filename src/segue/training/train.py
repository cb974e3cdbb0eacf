"""Train any model by its key: settings and data in, a trained model out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any

from segue.core.config import Settings, parse
from segue.core.examples.fields import Examples
from segue.core.examples.stream import ExampleStream
from segue.core.memory_check import explain_memory_errors
from segue.core.model import LOWER_IS_BETTER, Model, Solver, Validate
from segue.core.model_arrays import check_convergence
from segue.core.registry import builtin_models, model_class
from segue.core.run import Run
from segue.core.types import DataSchema, Dataset
from segue.training.settings import Training

if TYPE_CHECKING:
    from segue.training.callbacks import Callback

__all__ = ["Training", "check_callbacks", "check_reads_examples", "check_validation_metric", "train"]

HOOKS = ("on_train_start", "on_step_end", "on_validation_end", "on_epoch_end", "on_train_end")
"""Methods of a callback."""


def train(
    key: str,
    config: Settings | Mapping[str, Any],
    training: Training,
    data: Dataset | Examples | ExampleStream,
    run: Run,
    validate: Validate | None = None,
    callbacks: Iterable[Callback] = (),
) -> Model:
    """Train the model ``key`` on ``data``, an interaction log or labeled examples.

    Networks also read a stream of examples.

    Resume from the run's checkpoint if there is one.

    Args:
        config: the model's settings, or the values that differ from its defaults.
        training: how to train a network; models that are not networks ignore it.
        validate: computes validation metrics of the current model; ``None``: no validation and no early stopping.
        callbacks: observe the training of a network and may stop it; see :class:`segue.training.callbacks.Callback`.

    Raises:
        ValueError: unknown model or setting, empty data, callbacks for a model that is not a network, or a loss that is
            not finite.
        Interrupted: the run was interrupted; the checkpoint is written.
    """
    callbacks = check_callbacks(callbacks)
    kind = model_class(key)
    settings = config if isinstance(config, Settings) else parse(kind.Config, config, "model")
    run.set_trainer(_train_part)
    _check_data(key, kind, data)
    if issubclass(kind, Solver):
        if isinstance(data, ExampleStream):
            raise ValueError(f"model: '{key}' needs all examples in memory, expected a network such as deepfm")
        if callbacks:
            raise ValueError(
                f"callbacks: got {len(callbacks)} for '{key}', which is not trained in epochs of the training loop, so "
                "callbacks would never run; expected none"
            )
        model = kind(settings, DataSchema(0, 0, fields=data.fields) if isinstance(data, Examples) else data.schema)
        if isinstance(data, Dataset):
            check_validation_metric(key, model, training.metric)
        with explain_memory_errors(key, settings):
            model.fit(data, run, validate)
        check_convergence(model, model.own_arrays, "the last iteration", settings)
        return model
    if isinstance(data, Dataset):
        check_validation_metric(key, kind, training.metric)
    from segue.training.loop import fit  # needs torch

    if training.metric is None:
        training = training.model_copy(update={"metric": kind.validation_metric})
    with explain_memory_errors(key, settings):
        return fit(kind, settings, training, data, run, validate, callbacks)


def _check_data(key: str, kind: type[Model], data: Dataset | Examples | ExampleStream) -> None:
    """Check that a model can be trained on the data.

    Raises:
        ValueError: there is nothing to train on, or the model reads no tables of examples.
    """
    if isinstance(data, Examples | ExampleStream):
        check_reads_examples(key)
        if not len(data):
            raise ValueError("nothing to train on: there are no examples")
    elif data.histories.size == 0:
        raise ValueError("nothing to train on: the training part of the data has no events")


def check_reads_examples(key: str) -> None:
    """Check that a model can be trained on labeled examples.

    Raises:
        ValueError: the key is unknown, or the model is trained on interaction logs alone.
    """
    if not model_class(key).reads_examples:
        known = [name for name in builtin_models() if model_class(name).reads_examples]
        raise ValueError(
            f"model: '{key}' is trained on an interaction log, not on labeled examples; expected one of "
            f"{', '.join(sorted(known))}"
        )


def _train_part(key: str, settings: Mapping[str, Any], data: Dataset, run: Run, validate: Validate | None) -> Model:
    """Train a part of another model; see :meth:`segue.core.run.Run.train_part`."""
    kind = model_class(key)
    is_network = not issubclass(kind, Solver)
    names = Training.model_fields if is_network else {}
    own = {name: value for name, value in settings.items() if name in kind.Config.model_fields or name not in names}
    training = parse(Training, {name: value for name, value in settings.items() if name not in own}, f"settings.{key}")
    return train(key, parse(kind.Config, own, f"settings.{key}"), training, data, run, validate)


def check_validation_metric(key: str, model: Model | type[Model], metric: object) -> None:
    """Check that a model can compute its validation metric.

    Args:
        model: the model, or its class before the model is built; settings of a model may decide what it predicts.

    Raises:
        ValueError: an error of predicted ratings, for a model that predicts none.
    """
    if metric in LOWER_IS_BETTER and not getattr(model, "predicts_ratings", False):
        raise ValueError(
            f"training.metric: got '{metric}', which '{key}' cannot compute as it predicts no ratings, so its best "
            "state cannot be chosen by an error; expected a ranking metric such as ndcg@10"
        )


def check_callbacks(callbacks: Any) -> tuple[Any, ...]:
    """Return ``callbacks`` as a tuple.

    Raises:
        ValueError: it is not a list, or one of them is not a callback.
    """
    if isinstance(callbacks, type) or not isinstance(callbacks, Iterable):
        raise ValueError(f"callbacks: got {_name(callbacks)}, expected a list such as [MyCallback()]")
    checked = tuple(callbacks)
    for one in checked:
        if isinstance(one, type):
            raise ValueError(f"callbacks: got {_name(one)}, expected an instance such as {one.__name__}()")
        if not all(callable(getattr(one, hook, None)) for hook in HOOKS):
            raise ValueError(f"callbacks: got {_name(one)}, expected an instance of segue.training.Callback")
    return checked


def _name(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"a function, {value!r}" if isinstance(value, FunctionType) else f"one {type(value).__name__}"
