"""Optional mLSTM kernels from the package ``mlstm_kernels``.

The package has no open license: it is an optional extra, imported only here, and Segue's own code computes the same
functions everywhere. Its Triton kernels need a CUDA device; kernel names are those of the package.

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

__all__ = ["CLOSED_GATE", "NATIVE", "OPEN_GATE", "Kernels"]

CellState = tuple[Tensor, Tensor, Tensor]

MIN_CHUNK = 16
"""Minimum number of events continuing a state for the chunkwise kernel; the sequence kernel processes fewer."""

DEFAULT_KERNELS = {"chunkwise": "chunkwise--triton_xl_chunk", "sequence": "native_sequence__triton", "step": "triton"}
"""Kernels that ``auto`` selects on a CUDA device."""

CLOSED_GATE, OPEN_GATE = -1e4, 1e4
"""Gate pre-activations of padding: nothing is added and nothing is forgotten, in any precision."""


@dataclass(frozen=True)
class Kernels:
    """Implementations of the mLSTM cell.

    There is one for a sequence, one for a few events that continue a state, and one for a single event.

    Each is ``auto``, ``native`` or the name of a kernel. ``native`` is Segue's own code. ``auto`` is the package's
    Triton kernel if the package is installed and the model is on a CUDA device, else ``native``.
    """

    chunkwise: str = "auto"
    sequence: str = "auto"
    step: str = "auto"
    chunk: int = 64

    def run_chunkwise(self, q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, ...] | None:
        """Return the outputs of each head, ``(B, L, P)``.

        Return ``None`` to use Segue's own code.
        """
        name = self._select("chunkwise", q.device)
        return None if name is None else self._run_padded_chunks(name, q, k, v, i, f, None)[0].unbind(1)

    def run_sequence(
        self, q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: CellState
    ) -> tuple[tuple[Tensor, ...], CellState] | None:
        """Return the outputs of each head from a state on, and the last state.

        Return ``None`` to use Segue's own code.
        """
        kind = "sequence" if q.shape[2] < MIN_CHUNK else "chunkwise"
        name = self._select(kind, q.device)
        if name is None or name.startswith("parallel"):  # which has no states
            return None
        if kind == "chunkwise":
            h_BHLP, after = self._run_padded_chunks(name, q, k, v, i, f, state)
        else:
            C, n, m = _to_vendor_state(state)
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
        return h_BHLP.unbind(1), _from_vendor_state(after)

    def run_step(
        self, q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: CellState
    ) -> tuple[tuple[Tensor, ...], CellState] | None:
        """Return the outputs ``(B, P)`` of each head after one event, and the new state.

        Return ``None`` to use Segue's own code.

        Args:
            q: ``(B, H, P)``, as are k and v.
            i: ``(B, H)``, as is f.
        """
        name = self._select("step", q.device)
        if name is None:
            return None
        C, n, m = _to_vendor_state(state)
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
        return h_BHP.unbind(1), _from_vendor_state(after)

    def _run_padded_chunks(
        self, name: str, q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: CellState | None
    ) -> tuple[Tensor, Any]:
        """Return outputs ``(B, H, L, P)`` and the last state.

        Sequences are padded to whole chunks.
        """
        if self.chunk < MIN_CHUNK or self.chunk & (self.chunk - 1):
            raise ValueError(
                f"model.chunk_size: got {self.chunk}, expected a power of 2 of at least {MIN_CHUNK} for {name}"
            )
        length = q.shape[2]
        missing = -length % self.chunk
        q, k, v = (F.pad(x, (0, 0, 0, missing)) for x in (q, k, v))
        i, f = F.pad(i, (0, missing), value=CLOSED_GATE), F.pad(f, (0, missing), value=OPEN_GATE)
        half = torch.is_autocast_enabled(q.device.type)
        options: dict[str, Any] = {
            "chunk_size": self.chunk,
            "return_last_states": state is not None,
            "autocast_kernel_dtype": torch.get_autocast_dtype(q.device.type) if half else torch.float32,
        }
        if state is not None:
            options |= dict(zip(("c_initial", "n_initial", "m_initial"), _to_vendor_state(state), strict=True))
        result = _package().get_mlstm_kernel(name)(q=q, k=k, v=v, i=i, f=f, **options)
        h_BHLP, after = result if state is not None else (result, None)
        return h_BHLP[:, :, :length], after

    def _select(self, kind: str, device: torch.device) -> str | None:
        """Return the name of the kernel to use, or ``None`` to use Segue's own code.

        Raises:
            ValueError: a named kernel is not available; the message says why.
        """
        requested: str = getattr(self, kind)
        if requested == "native":
            return None
        reason = _unavailable_reason(kind, DEFAULT_KERNELS[kind] if requested == "auto" else requested, device.type)
        if requested == "auto":
            return DEFAULT_KERNELS[kind] if reason is None else None
        if reason is not None:
            raise ValueError(f"model.{kind}_kernel: '{requested}' {reason}; expected auto or native here")
        return requested


NATIVE = Kernels("native", "native", "native")


@cache
def _unavailable_reason(kind: str, name: str, device: str) -> str | None:
    """Return why a kernel cannot be used on a device; ``None`` if it can."""
    if "triton" in name and device != "cuda":
        return f"needs a CUDA device, and the model is on {device}"
    try:
        found = version("mlstm_kernels")
    except PackageNotFoundError:
        return "needs the package mlstm_kernels: pip install 'segue[xlstm-triton]' (note that its license is not open)"
    if int(found.partition(".")[0]) < 2:
        return f"needs mlstm_kernels 2 or newer; {found} is installed"
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


def _to_vendor_state(state: CellState) -> CellState:
    """Convert a state to the package's layout.

    Initial stabilizers are 0, not -inf, and have one more dimension.
    """
    C, n, m = state
    return C.contiguous(), n.contiguous(), m.masked_fill(m == -math.inf, 0.0)[..., None].contiguous()


def _from_vendor_state(state: Any) -> CellState:
    C, n, m = state
    return C, n, m[..., 0]
