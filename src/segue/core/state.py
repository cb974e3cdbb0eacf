"""Represent the recurrent state of histories as a value.

A state can be stored and continued. Its size does not depend on the number of events it summarizes. Seen items are not
part of it, because they grow with the history: callers that keep states keep the seen items themselves.

Shapes: N histories.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from segue.core.events import read_only

__all__ = ["State", "fingerprint"]

FORMAT = 1


@dataclass(frozen=True, eq=False)
class State:
    """Recurrent state of N histories; row n of every array belongs to history n."""

    model: str
    """SHA-256 of the model's arrays: the hash of ``arrays.safetensors`` in ``bundle.json``."""
    events: NDArray[np.int64]
    """``(N,)`` number of events processed."""
    recurrent_state: Mapping[str, NDArray[np.float32]]
    """``(N, ...)`` per name: state of the recurrent layers before the newest event."""
    recent_events: Mapping[str, NDArray[Any]]
    """``(N, ...)`` per name: columns of the newest event. Its input may depend on the time of the next query, so it is
    fed to the layers last."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "events", read_only(self.events, np.int64))
        object.__setattr__(
            self, "recurrent_state", {name: read_only(array) for name, array in self.recurrent_state.items()}
        )
        object.__setattr__(
            self, "recent_events", {name: read_only(array) for name, array in self.recent_events.items()}
        )
        for name, array in self._arrays().items():
            if array.ndim == 0 or len(array) != len(self.events):
                raise ValueError(f"state: {name} has shape {array.shape} for {len(self.events)} histories")

    def __len__(self) -> int:
        """Return the number of histories, N."""
        return len(self.events)

    @property
    def nbytes(self) -> int:
        """Total size of all arrays in bytes."""
        return sum(array.nbytes for array in self._arrays().values())

    def take(self, rows: NDArray[np.integer[Any]]) -> Self:
        """Return histories by index, in the order of ``rows``."""
        return type(self)(
            self.model,
            self.events[rows],
            {name: array[rows] for name, array in self.recurrent_state.items()},
            {name: array[rows] for name, array in self.recent_events.items()},
        )

    @classmethod
    def concat(cls, states: Sequence[State]) -> Self:
        """Concatenate ``states`` of one model.

        Raises:
            ValueError: there are no states, or they belong to several models.
        """
        models = sorted({state.model for state in states})
        if len(models) != 1:
            raise ValueError(f"states to join: got {len(models)} models, expected one: {', '.join(models)}")
        first = states[0]
        return cls(
            first.model,
            np.concatenate([state.events for state in states]),
            {name: np.concatenate([state.recurrent_state[name] for state in states]) for name in first.recurrent_state},
            {name: np.concatenate([state.recent_events[name] for state in states]) for name in first.recent_events},
        )

    def to_bytes(self) -> bytes:
        """Serialize the state in safetensors format."""
        from safetensors.numpy import save

        arrays = {name: np.array(array, order="C") for name, array in self._arrays().items()}
        return save(arrays, {"segue.state": json.dumps({"format": FORMAT, "model": self.model})})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Deserialize the bytes that :meth:`to_bytes` returned.

        :meth:`check` tells whether the state fits a model.

        Raises:
            ValueError: the bytes are not a state, or have another format version.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            arrays = load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            metadata = json.loads(header["__metadata__"]["segue.state"])
            version, model = int(metadata["format"]), str(metadata["model"])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"state: the {len(data)} bytes are not a Segue state: {error!r}") from None
        if version != FORMAT:
            raise ValueError(f"state: got format {version}, this version of Segue reads {FORMAT}")
        if "events" not in arrays:
            raise ValueError("state: missing array 'events'")
        parts: dict[str, dict[str, NDArray[Any]]] = {"recurrent_state": {}, "recent_events": {}}
        for name, array in arrays.items():
            part, _, rest = name.partition("/")
            if part in parts:
                parts[part][rest] = array
        return cls(model, arrays["events"], parts["recurrent_state"], parts["recent_events"])

    def check(self, model: str, expected: Mapping[str, tuple[tuple[int, ...], DTypeLike]]) -> None:
        """Check that the state belongs to ``model`` and has the expected arrays.

        Args:
            model: SHA-256 of the model's arrays.
            expected: shape per row and type of each array, by name.

        Raises:
            ValueError: the state belongs to another model (with both hashes), arrays are missing, unexpected or have
                another shape or type, or the recurrent state contains NaN.
        """
        if self.model != model:
            raise ValueError(f"state: it belongs to the model with arrays sha256 {self.model}, this model has {model}")
        arrays = self._arrays()
        del arrays["events"]
        if arrays.keys() != expected.keys():
            raise ValueError(f"state: got arrays {', '.join(sorted(arrays))}; expected {', '.join(sorted(expected))}")
        for name, (shape, kind) in expected.items():
            array = arrays[name]
            if array.shape[1:] != shape or array.dtype != kind:
                raise ValueError(
                    f"state: {name}: got {array.dtype} {array.shape}, expected {np.dtype(kind)} {(len(self), *shape)}"
                )
        if invalid := [name for name, array in self.recurrent_state.items() if np.isnan(array).any()]:
            raise ValueError(f"state: recurrent_state/{', recurrent_state/'.join(sorted(invalid))}: contains NaN")

    def _arrays(self) -> dict[str, NDArray[Any]]:
        recurrent = {f"recurrent_state/{name}": array for name, array in self.recurrent_state.items()}
        recent = {f"recent_events/{name}": array for name, array in self.recent_events.items()}
        return {"events": self.events, **recurrent, **recent}


def fingerprint(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the SHA-256 of ``arrays`` as stored in a bundle.

    It is the same as in ``bundle.json``.
    """
    from safetensors.numpy import save

    return hashlib.sha256(save({name: np.asarray(array, order="C") for name, array in arrays.items()})).hexdigest()
