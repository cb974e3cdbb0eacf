"""What is written down for a graph computes what the usual forms do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segue.core.batches import Sequences
from segue.core.registry import model_class
from segue.core.types import DataSchema
from segue.nn.sequence_model import SequenceModel
from segue.nn.xlstm import mlstm_inputs, mlstm_output, mlstm_parallel, onnx_ops
from segue.testing.training import small

N_ITEMS = 12


def _drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def _near(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@given(st.integers(1, 3), st.integers(1, 150), st.integers(1, 5), st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_the_parts_of_an_mlstm_block(batch: int, length: int, kernel: int, seed: int) -> None:
    torch.manual_seed(seed)
    heads, width, block = 2, 8, 4
    channels = heads * width
    with torch.no_grad():
        arguments = (
            _drawn(channels, batch, length), _drawn(channels, kernel), _drawn(channels),
            _drawn(channels // block, block, 2 * block), _drawn(channels // block, block, block),
            _drawn(2 * heads, 3 * channels), _drawn(2 * heads), _drawn(heads, width),
        )  # fmt: skip
        (*found, skipped), (*expected, around) = (
            (*inputs, skips)
            for inputs, skips in (onnx_ops.project_inputs(*arguments), mlstm_inputs.project_inputs(*arguments))
        )
        _near(found, expected)
        _near(list(skipped), list(around))
        q, k, v = (_drawn(batch, heads, length, width) for _ in range(3))
        i, f = _drawn(batch, heads, length), 3.0 + 3.0 * _drawn(batch, heads, length)
        cells = mlstm_parallel.parallel_heads(q, k, v, i, f)
        _near(list(onnx_ops.parallel_heads(q, k, v, i, f)), list(cells))
        gate, weight = _drawn(batch, length, heads, width), _drawn(heads, width)
        _near(
            onnx_ops.gated_head_norm(gate, weight, *cells, *around),
            mlstm_output.gated_head_norm(gate, weight, *cells, *around),
        )


@pytest.mark.parametrize("segment", [3, 8])
@pytest.mark.parametrize("memory", [0, 5, 20])
def test_transformer_xl_without_segments(segment: int, memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    kind = model_class("transformer_xl")
    model = kind(
        small(kind.Config, {"segment_length": segment, "memory_length": memory, "num_blocks": 2}),
        DataSchema(1, N_ITEMS),
    )
    assert isinstance(model, SequenceModel)
    model.eval()
    items_BL, lengths_B = torch.randint(0, N_ITEMS, (3, 29)), torch.tensor([29, 1, 14])
    read = Sequences(items_BL, lengths_B, torch.full((3,), -1))
    with torch.no_grad():
        expected = model.encode_sequence(model.embed(read), read, lengths_B - 1)
        everywhere = model.encode_sequence(model.embed(read), read)
        monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
        _near(model.encode_sequence(model.embed(read), read, lengths_B - 1), expected)
        _near(model.encode_sequence(model.embed(read), read), everywhere)
