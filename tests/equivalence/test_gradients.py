"""Sparse gradients of embedding rows give the same optimizer steps as dense gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from segue.nn.losses.negatives import lookup_rows
from segue.training.gradients import GradientBuffer

ITEMS = 9


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.items = nn.Embedding(ITEMS + 1, 4)
        self.items.weight.data = torch.randn(ITEMS + 1, 4, generator=generator)
        self.dense = nn.Linear(4, 4, bias=False)
        self.dense.weight.data = torch.randn(4, 4, generator=generator)

    def loss(self, inputs: Tensor, targets: Tensor, use_lookup: bool) -> Tensor:
        vectors = self.items.weight[:ITEMS]
        selected = lookup_rows(targets, vectors) if use_lookup else vectors[targets]
        return (self.dense(self.items(inputs)) * selected).sum().square()


@pytest.mark.parametrize("clip_norm", [0.0, 1.0, 1e6])
@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("optimizer_class", [torch.optim.Adam, torch.optim.SGD, torch.optim.Adagrad])
def test_sparse_gradients_give_the_same_steps_as_dense_gradients(
    clip_norm: float, batches: int, optimizer_class: type[torch.optim.Optimizer]
) -> None:
    dense_model, sparse_model = Model().double(), Model().double()  # unclipped SGD steps amplify rounding errors
    gradients = GradientBuffer(sparse_model, sparse=True)
    optimizers = [optimizer_class(model.parameters(), lr=0.1) for model in (dense_model, sparse_model)]  # type: ignore[call-arg]
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        dense_model.zero_grad()
        gradients.clear()
        for _ in range(batches):
            inputs, targets = (
                torch.randint(ITEMS + 1, (3,), generator=generator),
                torch.randint(ITEMS, (3,), generator=generator),
            )
            dense_model.loss(inputs, targets, use_lookup=False).backward()
            sparse_model.loss(inputs, targets, use_lookup=True).backward()
        assert sparse_model.items.weight.grad is not None
        assert sparse_model.items.weight.grad.is_sparse
        torch._foreach_div_([p.grad for p in dense_model.parameters() if p.grad is not None], float(batches))
        expected = torch.nn.utils.clip_grad_norm_(dense_model.parameters(), clip_norm or torch.inf)
        assert gradients.finish(1.0 / batches, clip_norm) == pytest.approx(expected.item(), rel=1e-5)
        for expected_parameter, parameter in zip(dense_model.parameters(), sparse_model.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, expected_parameter.grad, rtol=1e-4, atol=1e-6)
        for optimizer in optimizers:
            optimizer.step()
        for expected_parameter, parameter in zip(dense_model.parameters(), sparse_model.parameters(), strict=True):
            torch.testing.assert_close(parameter, expected_parameter, rtol=1e-4, atol=1e-4)


def test_only_the_first_rows_of_a_parameter_have_sparse_gradients() -> None:
    table, codes = nn.Parameter(torch.randn(5, 2)), torch.tensor([[0, 2], [2, 1]])
    for vectors, sparse in (
        (table[:3], True),
        (table[1:], False),
        (table[:, :1], False),
        (table * 1.0, False),
        ((table * 1.0)[:3], False),
        (table.detach()[:3], None),
    ):
        selected = lookup_rows(codes, vectors)
        torch.testing.assert_close(selected, vectors[codes])
        if sparse is not None:
            (gradient,) = torch.autograd.grad(selected.sum(), table)
            assert gradient.is_sparse == sparse
