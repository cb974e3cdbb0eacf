"""ONNX export implementations compute the same values as the training implementations."""

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


def _randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def _assert_close(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@given(st.integers(1, 3), st.integers(1, 150), st.integers(1, 5), st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_onnx_ops_of_an_mlstm_block_match_the_training_ops(batch: int, length: int, kernel: int, seed: int) -> None:
    torch.manual_seed(seed)
    heads, width, block = 2, 8, 4
    channels = heads * width
    with torch.no_grad():
        arguments = (
            _randn(channels, batch, length), _randn(channels, kernel), _randn(channels),
            _randn(channels // block, block, 2 * block), _randn(channels // block, block, block),
            _randn(2 * heads, 3 * channels), _randn(2 * heads), _randn(heads, width),
        )  # fmt: skip
        (*actual, skips), (*expected, expected_skips) = (
            (*inputs, inputs_skips)
            for inputs, inputs_skips in (onnx_ops.project_inputs(*arguments), mlstm_inputs.project_inputs(*arguments))
        )
        _assert_close(actual, expected)
        _assert_close(list(skips), list(expected_skips))
        q, k, v = (_randn(batch, heads, length, width) for _ in range(3))
        i, f = _randn(batch, heads, length), 3.0 + 3.0 * _randn(batch, heads, length)
        expected_cells = mlstm_parallel.parallel_heads(q, k, v, i, f)
        _assert_close(list(onnx_ops.parallel_heads(q, k, v, i, f)), list(expected_cells))
        gate, weight = _randn(batch, length, heads, width), _randn(heads, width)
        _assert_close(
            onnx_ops.gated_head_norm(gate, weight, *expected_cells, *expected_skips),
            mlstm_output.gated_head_norm(gate, weight, *expected_cells, *expected_skips),
        )


@pytest.mark.parametrize("segment", [3, 8])
@pytest.mark.parametrize("memory", [0, 5, 20])
def test_transformer_xl_export_without_segments_matches(
    segment: int, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    cls = model_class("transformer_xl")
    model = cls(
        small(cls.Config, {"segment_length": segment, "memory_length": memory, "num_blocks": 2}),
        DataSchema(1, N_ITEMS),
    )
    assert isinstance(model, SequenceModel)
    model.eval()
    items_BL, lengths_B = torch.randint(0, N_ITEMS, (3, 29)), torch.tensor([29, 1, 14])
    sequences = Sequences(items_BL, lengths_B, torch.full((3,), -1))
    with torch.no_grad():
        expected = model.encode_sequence(model.embed(sequences), sequences, lengths_B - 1)
        expected_all = model.encode_sequence(model.embed(sequences), sequences)
        monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
        _assert_close(model.encode_sequence(model.embed(sequences), sequences, lengths_B - 1), expected)
        _assert_close(model.encode_sequence(model.embed(sequences), sequences), expected_all)
