"""Measure how much each event of a history matters to a network, by gradients.

Shapes: N queries, B rows of a batch, L positions, D width, I items.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from segue.core.batches import Sequences, query_batches
from segue.core.types import Codes, Queries
from segue.nn.sequence_model import SequenceModel

__all__ = ["encoder_inputs", "events_read", "gradient_norms", "positions_read", "set_by_distance"]

TOKENS = 4_096
"""Maximum number of positions of a batch."""


def encoder_inputs(
    model: SequenceModel, queries: Queries, length: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], Sequences]]:
    """Yield query rows, the number of events that each reads, and the inputs.

    Args:
        length: maximum number of positions, a start or mask token included.
    """
    lengths_N = queries.history.lengths
    batches = query_batches(
        queries, model.schema.n_items, length, TOKENS, append_mask=model.is_cloze, columns=model.columns
    )
    for rows, batch in batches:
        limit = length - 1 if model.is_cloze else length
        yield rows, np.minimum(lengths_N[rows], limit), batch.to(model.device)


def gradient_norms(model: SequenceModel, queries: Queries, items_N: Codes, length: int) -> NDArray[np.float64]:
    """Return the norm of the gradient of an item's score by the vector of each event.

    Args:
        items_N: the item of each query whose score is explained, such as the true one.
        length: number of events that are read.

    Returns:
        ``(N, length)``: column j is the event with j others after it; NaN where there is no event, or none is read.
    """
    model.eval()
    norms_NL = np.full((len(queries), length), np.nan)
    vectors_ID = model.item_vectors().detach()
    for rows, n_events_B, batch in encoder_inputs(model, queries, positions_read(model, length)):
        with torch.no_grad():
            embedded = model.embed(batch)
        x_BLD = embedded.detach().requires_grad_()
        hidden_BD = model.encode_sequence(x_BLD, batch, batch.lengths_B - 1)
        items_B = torch.from_numpy(items_N[rows].astype(np.int64)).to(vectors_ID.device)
        (gradient_BLD,) = torch.autograd.grad((hidden_BD * vectors_ID[items_B]).sum(), x_BLD)
        set_by_distance(norms_NL, rows, gradient_BLD.norm(dim=-1), n_events_B, batch, model)
    return norms_NL


def events_read(model: SequenceModel) -> int | None:
    """Return how many of the newest events the model reads; ``None``: all."""
    return None if model.reads_full_history else int(model.config.max_length) - int(model.is_cloze)


def positions_read(model: SequenceModel, length: int) -> int:
    """Return the number of positions for ``length`` events, mask token included."""
    limit = events_read(model)
    return (length if limit is None else min(length, limit)) + int(model.is_cloze)


def set_by_distance(
    result_NL: NDArray[np.float64],
    rows: NDArray[np.int64],
    values_BL: torch.Tensor,
    n_events_B: NDArray[np.int64],
    batch: Sequences,
    model: SequenceModel,
) -> None:
    """Set values of events in ``result_NL``.

    Column j is the event with j others after it.

    Args:
        rows: row in ``result_NL`` of each sequence of the batch.
        values_BL: values of the positions.
        n_events_B: number of events of each sequence.
    """
    array_BL = values_BL.double().cpu().numpy()
    ends_B = batch.lengths_B.cpu().numpy() - int(model.is_cloze)  # after the last event
    for back in range(result_NL.shape[1]):
        has_event = back < n_events_B
        result_NL[rows[has_event], back] = array_BL[has_event, ends_B[has_event] - 1 - back]
