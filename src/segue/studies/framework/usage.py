"""Weight the events of a history by attention, gates and gradients of a network.

Shapes: N queries, B sequences, L positions or events, D width, H heads, P width of a head, K queries of an attention,
U units of a cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from segue.core.batches import Sequences
from segue.core.types import Codes, Queries
from segue.nn.layers.attention import gather_positions
from segue.nn.sequence_model import SequenceModel
from segue.nn.xlstm.blocks import MLSTMBlock, SLSTMBlock
from segue.studies.framework.attribution import encoder_inputs, gradient_norms, positions_read, set_by_distance

__all__ = [
    "attention_weights",
    "choose_window",
    "event_weights",
    "gate_shares",
    "gate_weights",
    "last_attention",
    "lstm_log_gates",
    "share_of_events",
]

N_QUERIES = 200
"""Maximum number of queries whose events are weighted."""

Gates = tuple[Tensor, Tensor]
"""Logarithms of input and forget gates, each ``(B, L, U)``."""


def choose_window(lengths_N: NDArray[np.int64], limit: int) -> tuple[int, NDArray[np.int64]]:
    """Return a number of events, and queries whose histories have as many.

    They are at most ``N_QUERIES``.

    Args:
        lengths_N: numbers of events of the histories.
        limit: the number of events, unless fewer than a tenth of the histories have as many; then fewer.
    """
    window = max(1, min(limit, int(np.quantile(lengths_N, 0.9, method="lower"))))
    rows = np.flatnonzero(lengths_N >= window)
    return window, rows[np.linspace(0, len(rows) - 1, min(N_QUERIES, len(rows))).astype(np.int64)]


def event_weights(
    model: SequenceModel, queries: Queries, items_N: Codes, length: int
) -> dict[str, NDArray[np.float64]]:
    """Return the weight of each event by the methods that the model allows.

    They are the gradient, and attention or gates.

    Args:
        items_N: the item of each query whose score the gradient explains, such as the true one.
        length: number of events that are read.

    Returns:
        ``(N, length)`` by method: column j is the event with j others after it; NaN where there is no event, or none
        is read. Attention and gates sum to 1 over the events and a start or mask token; gradients are norms.
    """
    found = {
        "attention": attention_weights(model, queries, length),
        "gates": gate_weights(model, queries, length),
        "gradient": gradient_norms(model, queries, items_N, length),
    }
    return {name: weights_NL for name, weights_NL in found.items() if weights_NL is not None}


def share_of_events(weights_NL: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of each event in the weight of its history, ``(N, L)``.

    NaN stays.
    """
    shares_NL: NDArray[np.float64] = weights_NL / np.nansum(weights_NL, axis=1, keepdims=True).clip(1e-300)
    return shares_NL


def attention_weights(model: SequenceModel, queries: Queries, length: int) -> NDArray[np.float64] | None:
    """Return the attention of the last position to each event.

    It is the mean over heads and layers. See :func:`event_weights`.

    Returns:
        ``(N, length)``; ``None``: the model has no softmax attention.
    """

    def measure(encode: Callable[[], Tensor], last_B: Tensor) -> list[Tensor]:
        recorder = _AttentionRecorder(last_B)
        with recorder:
            encode()
        return recorder.weights

    return _measure_layers(model, queries, length, measure)


def gate_weights(model: SequenceModel, queries: Queries, length: int) -> NDArray[np.float64] | None:
    """Return the share of each event in the final memory by the gates.

    It is the mean over units and layers. See :func:`event_weights` and :func:`gate_shares`.

    Returns:
        ``(N, length)``; ``None``: the model has no LSTM, mLSTM or sLSTM cells, or some of them read backwards.
    """
    cells = [module for module in model.modules() if isinstance(module, nn.LSTM | MLSTMBlock | SLSTMBlock)]
    if not cells or model.is_cloze:
        return None

    def measure(encode: Callable[[], Tensor], last_B: Tensor) -> list[Tensor]:
        gates: list[Gates] = []

        def record(cell: Any, inputs: tuple[Any, ...]) -> None:
            gates.extend(lstm_log_gates(cell, inputs[0]) if isinstance(cell, nn.LSTM) else [cell.log_gates(inputs[0])])

        handles = [cell.register_forward_pre_hook(record) for cell in cells]
        try:
            encode()
        finally:
            for handle in handles:
                handle.remove()
        return [gate_shares(log_i_BLU, log_f_BLU, last_B) for log_i_BLU, log_f_BLU in gates]

    return _measure_layers(model, queries, length, measure)


def gate_shares(log_i_BLU: Tensor, log_f_BLU: Tensor, last_B: Tensor) -> Tensor:
    """Return the share of each position in the memory after the last one, ``(B, L)``.

    It is the mean over units. What position j adds to the memory of a unit is multiplied by its input gate, and by the
    forget gates of all later positions: ``i_j f_{j+1} ... f_last``. Its share is this weight divided by the sum over
    positions. It is the coefficient of the input in the output of an sLSTM (Beck et al. 2024, arXiv:2405.04517, eq.
    8-10); an LSTM has no such normalizer, and an mLSTM also weights by the product of query and key.
    """
    index_L1 = torch.arange(log_i_BLU.shape[1], device=last_B.device)[:, None]
    # the forget gates up to a position are divided out: those up to the last one cancel in the share
    log_weights_BLU = log_i_BLU.double() - log_f_BLU.double().cumsum(1)
    return log_weights_BLU.masked_fill(index_L1 > last_B[:, None, None], -math.inf).softmax(1).mean(-1)


def lstm_log_gates(lstm: nn.LSTM, x_BLD: Tensor) -> list[Gates]:
    """Return the logarithms of the input and forget gates of every layer.

    The layers of :class:`torch.nn.LSTM` are run step by step from their weights, without dropout.
    """
    found = []
    for layer in range(lstm.num_layers):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        input_GD, recurrent_GU, *biases_G = (getattr(lstm, f"{name}_l{layer}") for name in names)
        raw_BLG = x_BLD @ input_GD.T + sum(biases_G)
        h = c = raw_BLG.new_zeros(len(x_BLD), lstm.hidden_size)
        states, gates = [], []
        for step in range(x_BLD.shape[1]):
            i, f, z, o = (raw_BLG[:, step] + h @ recurrent_GU.T).chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(z)
            h = torch.sigmoid(o) * torch.tanh(c)
            states.append(h)
            gates.append((F.logsigmoid(i), F.logsigmoid(f)))
        x_BLD = torch.stack(states, 1)
        log_i_BLU, log_f_BLU = (torch.stack(parts, 1) for parts in zip(*gates, strict=True))
        found.append((log_i_BLU, log_f_BLU))
    return found


def last_attention(
    query_BHKP: Tensor,
    key_BHLP: Tensor,
    last_B: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Return the weights ``(B, L)`` that the positions ``last_B`` attend with.

    They are means over heads. The arguments are those of :func:`torch.nn.functional.scaled_dot_product_attention`; with
    one query, it is that of the last position.
    """
    batch, heads, count, _ = query_BHKP.shape
    row_B = torch.zeros_like(last_B) if count == 1 else last_B
    query_BHP = gather_positions(query_BHKP.transpose(1, 2), row_B)
    scores_BHL = torch.einsum("bhp,bhlp->bhl", query_BHP, key_BHLP)
    scores_BHL = scores_BHL * (query_BHKP.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        is_later_BL = torch.arange(key_BHLP.shape[2], device=row_B.device) > row_B[:, None]
        scores_BHL = scores_BHL.masked_fill(is_later_BL[:, None], -math.inf)
    if attn_mask is not None:
        mask_BHKL = attn_mask.expand(batch, heads, count, -1)
        mask_BHL = gather_positions(mask_BHKL.transpose(1, 2), row_B)
        if mask_BHL.dtype == torch.bool:
            scores_BHL = scores_BHL.masked_fill(~mask_BHL, -math.inf)
        else:
            scores_BHL = scores_BHL + mask_BHL
    return scores_BHL.softmax(-1).mean(1)


class _AttentionRecorder(TorchFunctionMode):
    """Compute the weights of every softmax attention that is called in the context."""

    def __init__(self, last_B: Tensor) -> None:
        super().__init__()
        self.last_B = last_B
        self.weights: list[Tensor] = []
        """``(B, L)`` of each layer."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            query_BHKP, key_BHLP, *_ = args
            used = {name: kwargs[name] for name in ("attn_mask", "is_causal", "scale") if name in kwargs}
            self.weights.append(last_attention(query_BHKP, key_BHLP, self.last_B, **used))
        return func(*args, **kwargs)


@torch.no_grad()
def _measure_layers(
    model: SequenceModel,
    queries: Queries,
    length: int,
    measure: Callable[[Callable[[], Tensor], Tensor], list[Tensor]],
) -> NDArray[np.float64] | None:
    """Return the mean over layers of what ``measure`` returns, ``(N, length)``.

    ``None``: it returns no layers.
    """
    model.eval()
    result_NL = np.full((len(queries), length), np.nan)
    for rows, n_events_B, batch in encoder_inputs(model, queries, positions_read(model, length)):
        layers = measure(partial(_encode, model, batch), batch.lengths_B - 1)
        if not layers:
            return None
        set_by_distance(result_NL, rows, torch.stack(layers).mean(0), n_events_B, batch, model)
    return result_NL


def _encode(model: SequenceModel, batch: Sequences) -> Tensor:
    return model.encode_sequence(model.embed(batch), batch, batch.lengths_B - 1)
