"""Arguments of a training that can never work are errors before it begins."""

from __future__ import annotations

from typing import Any

import pytest

from segue.training import loop
from segue.training.callbacks import Callback
from segue.training.train import HOOKS, check_callbacks, check_validation_metric


class Hooks:
    """An object with all hooks that does not derive from the base class."""

    on_train_start = on_step_end = on_validation_end = on_epoch_end = on_train_end = staticmethod(lambda state: None)


class NoEnd:
    on_train_start = on_step_end = on_validation_end = on_epoch_end = staticmethod(lambda state: None)


def test_callbacks_are_objects_with_all_hooks() -> None:
    assert check_callbacks([]) == ()
    given = Callback(), Hooks()
    assert check_callbacks(list(given)) == check_callbacks(iter(given)) == given
    assert {name for name in vars(Callback) if name.startswith("on_")} == set(HOOKS)


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        (Callback, r"callbacks: got the class Callback, expected a list such as \[MyCallback\(\)\]"),
        (Callback(), "callbacks: got one Callback, expected a list such as"),
        (None, "callbacks: got one NoneType, expected a list such as"),
        (check_callbacks, "callbacks: got a function, <function check_callbacks.*>, expected a list such as"),
        ([Callback], r"callbacks: got the class Callback, expected an instance such as Callback\(\)"),
        (
            [Callback(), print],
            "callbacks: got one builtin_function_or_method, expected an instance of segue.training.Callback",
        ),
        ([lambda state: None], "callbacks: got a function, .*, expected an instance of segue.training.Callback"),
        ([Callback(), NoEnd()], "callbacks: got one NoEnd, expected an instance of segue.training.Callback"),
        ([3], "callbacks: got one int, expected an instance of segue.training.Callback"),
    ],
)
def test_anything_else_is_an_error(callbacks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_callbacks(callbacks)


@pytest.mark.parametrize("metric", ["rmse", "mae"])
def test_a_model_that_predicts_no_ratings_has_no_error(metric: str) -> None:
    ranks: Any = type("Ranks", (), {})
    predicts: Any = type("Predicts", (), {"predicts_ratings": True})
    with pytest.raises(ValueError, match=f"training.metric: got '{metric}', which 'ranks' cannot compute"):
        check_validation_metric("ranks", ranks, metric)
    check_validation_metric("predicts", predicts, metric)
    for other in ("ndcg@10", None, len):
        check_validation_metric("ranks", ranks, other)


@pytest.mark.parametrize("error", [RuntimeError, TypeError, ValueError])
def test_a_network_that_cannot_be_built_on_the_meta_device_is_not_checked(error: type[Exception]) -> None:
    def build(config: Any, schema: Any) -> Any:
        raise error("not on this device")

    network: Any = build
    nothing: Any = None
    loop._check_size(network, nothing, nothing)


def test_other_errors_of_a_network_are_not_hidden() -> None:
    def build(config: Any, schema: Any) -> Any:
        raise KeyError("width")

    network: Any = build
    nothing: Any = None
    with pytest.raises(KeyError, match="width"):
        loop._check_size(network, nothing, nothing)
