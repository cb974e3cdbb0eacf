"""Add items to a trained network that represents items by their features.

Shapes: N items that are added or replaced, I items of the catalog.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
import polars as pl
import torch

from segue.core.network import Network
from segue.core.types import Codes
from segue.nn.inputs.feature_embeddings import ItemFeatureEmbeddings
from segue.nn.inputs.item_fusion import ItemFusion

__all__ = ["add_items", "extend_catalog"]

N = TypeVar("N", bound=Network)


def extend_catalog(network: N, n_added: int) -> N:
    """Return a copy of ``network`` for a catalog with ``n_added`` more items.

    They have no events.

    Every array whose first dimension depends on the number of items gets rows of zeros between those of the items and
    those of other tokens.
    """
    n_items = network.schema.n_items
    schema = replace(
        network.schema, n_items=n_items + n_added, n_without_events=network.schema.n_without_events + n_added
    )
    with torch.random.fork_rng(devices=[]):
        extended = type(network)(network.config, schema)
    arrays, shapes = dict(network.arrays()), {name: array.shape for name, array in extended.arrays().items()}
    for name, array in arrays.items():
        if array.shape != shapes[name]:
            assert (len(array) + n_added, *array.shape[1:]) == shapes[name], f"{name} depends on the number of items"
            zeros = np.zeros((n_added, *array.shape[1:]), array.dtype)
            arrays[name] = np.concatenate([array[:n_items], zeros, array[n_items:]])
    extended.restore(arrays)
    return extended.to(network.device)


def add_items(
    network: N, features: ItemFeatureEmbeddings | ItemFusion | None, codes: Codes, table: pl.DataFrame
) -> tuple[N, torch.Tensor]:
    """Extend ``network`` and encode the features of items.

    See :class:`segue.core.model.Extensible`.

    Args:
        features: the part of ``network`` that reads item features.

    Returns:
        The extended network, and the encoded features ``(N, J)``, which are still to be set.

    Raises:
        ValueError: the network reads no item features.
    """
    if features is None:
        raise ValueError(f"{type(network).__name__}: reads no item features, so that items cannot be added")
    return extend_catalog(network, int((codes >= network.schema.n_items).sum())), features.encode_rows(table)
