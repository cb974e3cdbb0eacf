"""The state of an optimizer in a checkpoint must fit the parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segue.training.checkpoint import _check_shapes, _fits, _with_prefix


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
