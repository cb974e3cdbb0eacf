"""The result of a custom loss is checked at the first batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from segue.core.run import Run
from segue.core.types import Dataset, Events, Vocab
from segue.training.configured_loss import build_loss
from segue.training.settings import Training
from segue.training.train import train

DATA = Dataset("log", Vocab(["a"]), Vocab(["x", "y"]), Events.of([[0, 1]]))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(2), r"returned a tensor of shape \(2,\)"),
        (torch.zeros(0), r"returned a tensor of shape \(0,\)"),
        (1.0, "returned float"),
        (None, "returned NoneType"),
    ],
)
def test_a_loss_that_is_no_single_number_is_an_error(value: Any, message: str) -> None:
    def loss(hidden: Any, vectors: Any, bias: Any, targets: Any, seen: Any) -> Any:
        return value

    built = build_loss(Training(loss=loss), DATA, "cpu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message + ", expected a tensor with one value"):
        built(torch.zeros(1, 2), torch.zeros(2, 2), None, torch.zeros(1, dtype=torch.int64), None)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_tensor_with_one_value_is_a_loss(shape: tuple[int, ...]) -> None:
    def loss(hidden: Any, vectors: Any, bias: Any, targets: Any, seen: Any) -> Any:
        return torch.full(shape, 2.0)

    built = build_loss(Training(loss=loss), DATA, "cpu")  # type: ignore[arg-type]
    assert built(torch.zeros(1, 2), torch.zeros(2, 2), None, torch.zeros(1, dtype=torch.int64), None).item() == 2.0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_only_bfloat16_computes_matrix_products_in_bfloat16(precision: str) -> None:
    found: list[torch.dtype] = []

    def loss(hidden: Any, vectors: Any, bias: Any, targets: Any, seen: Any) -> Any:
        found.append((hidden @ vectors.T).dtype)
        return hidden.float().square().mean()

    training = Training(loss=loss, epochs=1, precision=precision)  # type: ignore[arg-type]
    train("gru4rec", {"embedding_dim": 4, "max_length": 4}, training, DATA, Run(0))
    assert found == [getattr(torch, precision)]
