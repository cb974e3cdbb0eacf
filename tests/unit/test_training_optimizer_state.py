"""The state of an optimizer in a checkpoint must fit the parameters."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from segue.training.callbacks import EarlyStopping, PlateauSchedule
from segue.training.checkpoint import Checkpointer, Position, _check_shapes, _fits, _with_prefix


@pytest.mark.parametrize(
    ("shape", "parameter", "expected"),
    [
        ((), (3, 4), True),  # a number of steps
        ((3, 4), (3, 4), True),
        ((3, 1), (3, 4), True),  # a factor of Adafactor
        ((1, 4), (3, 4), True),
        ((1, 1), (3, 4), True),
        ((2, 4), (3, 4), False),
        ((4, 3), (3, 4), False),
        ((3,), (3, 4), False),
        ((3, 4, 1), (3, 4), False),
        ((5,), (5,), True),
        ((4,), (5,), False),
        ((), (), True),
    ],
)
def test_state_has_the_shape_of_its_parameter_or_of_a_factor(
    shape: tuple[int, ...], parameter: tuple[int, ...], expected: bool
) -> None:
    assert _fits(torch.Size(shape), torch.Size(parameter)) is expected


def test_averages_have_the_shapes_of_the_parameters() -> None:
    expected = {"a": np.zeros((2, 3)), "b": np.zeros(4)}
    _check_shapes({"a": np.ones((2, 3)), "b": np.ones(4), "more": np.ones(1)}, expected)
    with pytest.raises(ValueError, match=r"array 'b': got shape \(5,\), expected \(4,\)"):
        _check_shapes({"a": np.ones((2, 3)), "b": np.ones(5)}, expected)
    with pytest.raises(KeyError, match="b"):
        _check_shapes({"a": np.ones((2, 3))}, expected)


def test_arrays_are_selected_by_their_prefix() -> None:
    arrays = {"best/a": np.ones(1), "best/b/c": np.ones(2), "model/a": np.ones(3), "a/best/d": np.ones(4)}
    assert {name: array.size for name, array in _with_prefix(arrays, "best/").items()} == {"a": 1, "b/c": 2}


def test_optimizer_state_of_another_shape_is_an_error() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2, 3))], momentum=0.9, lr=0.1)
    model: Any = SimpleNamespace(restore=lambda arrays: None)
    run: Any = None
    stopping = EarlyStopping("ndcg@10", 3)
    at = Checkpointer(run, model, optimizer, None, stopping, PlateauSchedule(stopping, 2), Position(), 10.0)
    best = {"best": 0.5, "best_epoch": 2, "n_without_improvement": 1, "n_reductions": 4}
    metadata = {"position": {"epoch": 3}, "early_stopping": best}
    with pytest.raises(ValueError, match=r"array 'optimizer/0/momentum_buffer': got shape \(3, 2\), expected \(2, 3\)"):
        at._restore(metadata, {"optimizer/0/momentum_buffer": np.zeros((3, 2), np.float32)})
    at._restore(metadata, {"optimizer/0/momentum_buffer": np.ones((2, 3), np.float32)})
    assert torch.equal(optimizer.state_dict()["state"][0]["momentum_buffer"], torch.ones(2, 3))
    assert (stopping.best, stopping.best_epoch, stopping.n_without_improvement) == (0.5, 2, 1)
    assert (at.position.epoch, at.plateau.n_reductions) == (3, 4)
