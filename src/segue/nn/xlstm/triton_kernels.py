"""Kernels for the mLSTM from the package ``mlstm_kernels``, where it is installed and asked for.

The package's licence is not an open one: it is an optional extra, imported here and nowhere else, and Segue's own code
computes the same functions everywhere. Its Triton kernels need a CUDA device; names are the package's.

Shapes: B sequences, H heads, L positions, P width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["OPEN", "OWN", "SHUT", "Kernels"]

Memory = tuple[Tensor, Tensor, Tensor]

SHORT = 16
"""Events after a memory from which the chunkwise kernel takes them, and not the sequence kernel."""

BEST = {"chunkwise": "chunkwise--triton_xl_chunk", "sequence": "native_sequence__triton", "step": "triton"}
"""What ``auto`` takes on a CUDA device."""

SHUT, OPEN = -1e4, 1e4
"""Gates of positions that only fill up: nothing is added, and nothing forgotten, to any precision."""


@dataclass(frozen=True)
class Kernels:
    """What computes a sequence, a few events after a memory, and one event: ``auto``, ``native`` or a kernel's name.

    ``native`` is Segue's own code. ``auto`` is the package's Triton kernel where the package is installed and the model
    on a CUDA device, and ``native`` elsewhere.
    """

    chunkwise: str = "auto"
    sequence: str = "auto"
    step: str = "auto"
    chunk: int = 64

    def heads(self, q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, ...] | None:
        """``(B, L, P)`` outputs of each head, or ``None`` where Segue's own code is to compute them."""
        name = self._chosen("chunkwise", q.device)
        return None if name is None else self._by_chunks(name, q, k, v, i, f, None)[0].unbind(1)

    def onwards(
        self, q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, memory: Memory
    ) -> tuple[tuple[Tensor, ...], Memory] | None:
        """The same from a memory on, and the memory after the last position."""
        kind = "sequence" if q.shape[2] < SHORT else "chunkwise"
        name = self._chosen(kind, q.device)
        if name is None or name.startswith("parallel"):  # which knows no memories
            return None
        if kind == "chunkwise":
            h_BHLP, after = self._by_chunks(name, q, k, v, i, f, memory)
        else:
            C, n, m = _theirs(memory)
            kernel = _package().get_mlstm_sequence_kernel(name)
            h_BHLP, after = kernel(
                q=q,
                k=k,
                v=v,
                i=i,
                f=f,
                c_initial=C,
                n_initial=n,
                m_initial=m,
                return_last_states=True,
                dtype_state=C.dtype,
            )
        return h_BHLP.unbind(1), _ours(after)

    def once(
        self, q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, memory: Memory
    ) -> tuple[tuple[Tensor, ...], Memory] | None:
        """``(B, P)`` outputs of each head after one more event, ``q, k, v (B, H, P)`` and ``i, f (B, H)``."""
        name = self._chosen("step", q.device)
        if name is None:
            return None
        C, n, m = _theirs(memory)
        kernel = _package().get_mlstm_step_kernel(name)
        h_BHP, after = kernel(
            q=q.contiguous(),
            k=k.contiguous(),
            v=v.contiguous(),
            i=i[..., None].contiguous(),
            f=f[..., None].contiguous(),
            c=C,
            n=n,
            m=m,
            dtype_state=C.dtype,
        )
        return h_BHP.unbind(1), _ours(after)

    def _by_chunks(
        self, name: str, q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, memory: Memory | None
    ) -> tuple[Tensor, Any]:
        """Outputs ``(B, H, L, P)`` and the memory, of sequences filled up to whole chunks."""
        if self.chunk < SHORT or self.chunk & (self.chunk - 1):
            raise ValueError(f"model.chunk_size: got {self.chunk}, {name} expects a power of 2 of at least {SHORT}")
        length = q.shape[2]
        missing = -length % self.chunk
        q, k, v = (F.pad(x, (0, 0, 0, missing)) for x in (q, k, v))
        i, f = F.pad(i, (0, missing), value=SHUT), F.pad(f, (0, missing), value=OPEN)
        half = torch.is_autocast_enabled(q.device.type)
        options: dict[str, Any] = {
            "chunk_size": self.chunk,
            "return_last_states": memory is not None,
            "autocast_kernel_dtype": torch.get_autocast_dtype(q.device.type) if half else torch.float32,
        }
        if memory is not None:
            options |= dict(zip(("c_initial", "n_initial", "m_initial"), _theirs(memory), strict=True))
        found = _package().get_mlstm_kernel(name)(q=q, k=k, v=v, i=i, f=f, **options)
        h_BHLP, after = found if memory is not None else (found, None)
        return h_BHLP[:, :, :length], after

    def _chosen(self, kind: str, device: torch.device) -> str | None:
        """The kernel's name, or ``None`` for Segue's own code; a ``ValueError`` says why a named one is missing."""
        wanted: str = getattr(self, kind)
        if wanted == "native":
            return None
        fault = _missing(kind, BEST[kind] if wanted == "auto" else wanted, device.type)
        if wanted == "auto":
            return BEST[kind] if fault is None else None
        if fault is not None:
            raise ValueError(f"model.{kind}_kernel: '{wanted}' {fault}; expected auto or native here")
        return wanted


OWN = Kernels("native", "native", "native")


@cache
def _missing(kind: str, name: str, device: str) -> str | None:
    """Why a kernel cannot be used on a device, or ``None`` where it can."""
    if "triton" in name and device != "cuda":
        return f"needs a CUDA device, and the model is on {device}"
    try:
        found = version("mlstm_kernels")
    except PackageNotFoundError:
        return "needs the package mlstm_kernels: pip install 'segue[xlstm-triton]' (mind its licence, it is not open)"
    if int(found.partition(".")[0]) < 2:
        return f"needs mlstm_kernels 2 or newer, and {found} is installed"
    if "triton" in name and find_spec("triton") is None:
        return "needs the package triton, which comes with torch for CUDA"
    listed: dict[str, Callable[[], list[str]]] = {
        "chunkwise": _package().get_available_mlstm_kernels,
        "sequence": _package().get_available_mlstm_sequence_kernels,
        "step": _package().get_available_mlstm_step_kernels,
    }
    known = listed[kind]()
    return None if name in known else f"is not among the kernels of mlstm_kernels {found}: {', '.join(known)}"


def _package() -> Any:
    import mlstm_kernels.torch

    return mlstm_kernels.torch


def _theirs(memory: Memory) -> Memory:
    """The package begins with a stabiliser of 0 where nothing is remembered, and has a dimension more."""
    C, n, m = memory
    return C.contiguous(), n.contiguous(), m.masked_fill(m == -math.inf, 0.0)[..., None].contiguous()


def _ours(memory: Any) -> Memory:
    C, n, m = memory
    return C, n, m[..., 0]
