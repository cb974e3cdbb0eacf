"""Requested kernels that are unavailable raise an error; ``auto`` uses the native implementation."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest
import torch

from segue.core.types import DataSchema
from segue.models.sequential.xlstm import XLSTM
from segue.nn.xlstm import triton_kernels
from segue.nn.xlstm.triton_kernels import Kernels


@pytest.fixture(autouse=True)
def _clear_cache() -> None:
    triton_kernels._unavailable_reason.cache_clear()


def error_message(device: str, monkeypatch: pytest.MonkeyPatch, installed: str | None) -> str:
    def version(name: str) -> str:
        if installed is None:
            raise PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(triton_kernels, "version", version)
    with pytest.raises(ValueError, match=r"model\.chunkwise_kernel: 'chunkwise--triton_xl_chunk'") as error:
        Kernels("chunkwise--triton_xl_chunk")._select("chunkwise", torch.device(device))
    triton_kernels._unavailable_reason.cache_clear()
    return str(error.value)


def test_missing_requirements_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "needs a CUDA device, and the model is on cpu; expected auto or native" in error_message(
        "cpu", monkeypatch, "2.0.6"
    )
    assert "pip install 'segue[xlstm-triton]'" in error_message("cuda", monkeypatch, None)
    assert "needs mlstm_kernels 2 or newer; 1.0.3 is installed" in error_message("cuda", monkeypatch, "1.0.3")


def test_auto_selects_native_without_cuda_or_the_package() -> None:
    for device in ("cpu", "cuda"):
        if device == "cpu" or triton_kernels._unavailable_reason("step", "triton", device):
            assert Kernels()._select("step", torch.device(device)) is None


def test_unavailable_kernels_raise_when_used() -> None:
    model = XLSTM(
        XLSTM.Config(embedding_dim=8, slstm_at=(), step_kernel="triton", chunkwise_kernel="native"), DataSchema(1, 5)
    )
    block = model.blocks[0]
    x_BLD = torch.randn(1, 1, 8)
    assert torch.isfinite(block(x_BLD)).all()
    with pytest.raises(ValueError, match=r"model\.step_kernel: 'triton' needs a CUDA device"):
        block.advance(x_BLD, torch.tensor([1]), block.initial_state(1))
