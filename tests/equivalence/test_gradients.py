"""Gradients of a few rows of a table make the same step as those of the whole table."""

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
        make = torch.Generator().manual_seed(0)
        self.items = nn.Embedding(ITEMS + 1, 4)
        self.items.weight.data = torch.randn(ITEMS + 1, 4, generator=make)
        self.dense = nn.Linear(4, 4, bias=False)
        self.dense.weight.data = torch.randn(4, 4, generator=make)

    def loss(self, read: Tensor, asked: Tensor, rows: bool) -> Tensor:
        vectors = self.items.weight[:ITEMS]
        found = lookup_rows(asked, vectors) if rows else vectors[asked]
        return (self.dense(self.items(read)) * found).sum().square()


@pytest.mark.parametrize("bound", [0.0, 1.0, 1e6])
@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD, torch.optim.Adagrad])
def test_rows_make_the_same_steps_as_tables(bound: float, batches: int, kind: type[torch.optim.Optimizer]) -> None:
    whole, parts = Model().double(), Model().double()  # unbounded steps of SGD magnify every rounding
    gradients = GradientBuffer(parts, sparse=True)
    steps = [kind(model.parameters(), lr=0.1) for model in (whole, parts)]  # type: ignore[call-arg]
    make = torch.Generator().manual_seed(1)
    for _ in range(5):
        whole.zero_grad()
        gradients.clear()
        for _ in range(batches):
            read, asked = torch.randint(ITEMS + 1, (3,), generator=make), torch.randint(ITEMS, (3,), generator=make)
            whole.loss(read, asked, rows=False).backward()
            parts.loss(read, asked, rows=True).backward()
        assert parts.items.weight.grad is not None
        assert parts.items.weight.grad.is_sparse
        torch._foreach_div_([p.grad for p in whole.parameters() if p.grad is not None], float(batches))
        expected = torch.nn.utils.clip_grad_norm_(whole.parameters(), bound or torch.inf)
        assert gradients.finish(1.0 / batches, bound) == pytest.approx(expected.item(), rel=1e-5)
        for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-6)
        for step in steps:
            step.step()
        for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)


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
        found = lookup_rows(codes, vectors)
        torch.testing.assert_close(found, vectors[codes])
        if sparse is not None:
            (gradient,) = torch.autograd.grad(found.sum(), table)
            assert gradient.is_sparse == sparse
