"""Sums of feature embeddings by a loop over rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from segue.core.types import Feature
from segue.nn.inputs.feature_embeddings import FeatureEmbeddings

NAN = float("nan")
FEATURES = (
    Feature("color", "category", categories=("red", "blue")),
    Feature("tags", "tags", categories=("a", "b", "c"), size=3),
    Feature("year", "number"),
    Feature("plot", "vector", size=2),
)
ROWS = torch.tensor(
    [
        [1, 0, 2, NAN, 0.5, 1.0, -2.0],
        [NAN, NAN, NAN, NAN, NAN, NAN, NAN],
        [0, 1, NAN, NAN, -3.0, 0.0, 4.0],
    ]
)


def expected(module: FeatureEmbeddings, rows: torch.Tensor, feature: int) -> list[Any]:
    """Return the vectors of one feature, one row after the other."""
    table, found = module.tables[feature].detach().double().numpy(), []
    columns = slice(sum(module.sizes[:feature]), sum(module.sizes[: feature + 1]))
    for row in rows.double().numpy():
        known = row[columns][~np.isnan(row[columns])]
        if not len(known):
            found.append(table[-1])
        elif module.features[feature].categories:
            found.append(table[known.astype(int)].sum(0) / np.sqrt(len(known)))
        else:
            found.append(known @ table[:-1])
    return found


def test_groups_are_sums_of_their_features() -> None:
    module = FeatureEmbeddings(FEATURES, 4, 1.0)
    each = [np.stack(expected(module, ROWS, at)) for at in range(4)]
    for groups in ([[0], [1], [2], [3]], [[3], [0, 1, 2]], [[2, 0, 3, 1]]):
        for found, group in zip(module.embed_groups(ROWS, groups), groups, strict=True):
            np.testing.assert_allclose(found.detach(), sum(each[at] for at in group), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(module(ROWS).detach(), sum(each), rtol=1e-5, atol=1e-6)


def test_rows_that_change_in_training_are_read_again() -> None:
    module = FeatureEmbeddings(FEATURES, 4, 1.0).train()
    rows = ROWS.clone()
    first = module(rows)
    assert module._look_ups
    assert torch.equal(module(rows), first)
    rows[1, 0] = 1.0
    changed = module(rows).detach()
    np.testing.assert_allclose(changed, module.eval()(rows).detach(), rtol=1e-6)
    assert not torch.equal(changed[1], first[1])
    other = ROWS.flip(0)
    np.testing.assert_allclose(module.train()(other).detach(), module.eval()(other).detach(), rtol=1e-6)


def test_gradients_are_those_of_a_dense_product() -> None:
    module = FeatureEmbeddings(FEATURES, 4, 1.0).double().train()
    module(ROWS.double()).square().sum().backward()
    for table in module.tables:
        kept = table.grad
        with torch.no_grad():
            step = 1e-6 * (direction := torch.randn_like(table))
            table += step
            up = module(ROWS.double()).square().sum()
            table -= 2 * step
            down = module(ROWS.double()).square().sum()
            table += step
        assert kept is not None
        torch.testing.assert_close((kept * direction).sum(), (up - down) / 2e-6, rtol=1e-5, atol=1e-5)
