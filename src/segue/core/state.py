"""What a recurrent model remembers of histories, as a small value: kept between events, stored, sent elsewhere.

The size of a state does not depend on how many events went into it. What was seen, and so is not to be recommended
again, is no part of it: that grows with the history, and whoever keeps states keeps it too.

Shapes: N histories, D width of a factored model, I items, k places.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from segue.core.events import Codes, Events, Mask, Scores, frozen
from segue.core.recommend import recommend as recommend_queries
from segue.core.types import Domain, Queries, Recommendations

if TYPE_CHECKING:
    from segue.core.model import Arrays, Streaming

__all__ = ["Answered", "State", "fingerprint", "recommend"]

FORMAT = 1


@dataclass(frozen=True, eq=False)
class State:
    """What the model with the arrays ``model`` remembers of N histories; row n of every array is history n."""

    model: str
    """The SHA-256 of the model's arrays, as ``bundle.json`` has it for ``arrays.safetensors``."""
    events: NDArray[np.int64]
    """``(N,)`` events that went in."""
    memory: Mapping[str, NDArray[np.float32]]
    """``(N, ...)`` per name: the recurrent layers before the newest event."""
    carry: Mapping[str, NDArray[Any]]
    """``(N, ...)`` per name: the newest events themselves. What an event means may depend on when the next is asked
    for, so the newest one goes in last."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "events", frozen(self.events, np.int64))
        object.__setattr__(self, "memory", {name: frozen(array) for name, array in self.memory.items()})
        object.__setattr__(self, "carry", {name: frozen(array) for name, array in self.carry.items()})
        for name, array in self._arrays().items():
            if array.ndim == 0 or len(array) != len(self.events):
                raise ValueError(f"state: {name} has shape {array.shape} for {len(self.events)} histories")

    def __len__(self) -> int:
        """The number of histories, N."""
        return len(self.events)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self._arrays().values())

    def take(self, rows: NDArray[np.integer[Any]]) -> Self:
        """Histories by index, in the order asked."""
        memory = {name: array[rows] for name, array in self.memory.items()}
        return type(self)(self.model, self.events[rows], memory, {name: a[rows] for name, a in self.carry.items()})

    @classmethod
    def joined(cls, states: Sequence[State]) -> Self:
        """The histories of all ``states`` in one, to be answered together.

        Raises:
            ValueError: none, or states of several models.
        """
        models = sorted({state.model for state in states})
        if len(models) != 1:
            raise ValueError(f"states to join: of {len(models)} models, expected one: {', '.join(models)}")
        first = states[0]
        return cls(
            first.model,
            np.concatenate([state.events for state in states]),
            {name: np.concatenate([state.memory[name] for state in states]) for name in first.memory},
            {name: np.concatenate([state.carry[name] for state in states]) for name in first.carry},
        )

    def to_bytes(self) -> bytes:
        """The state as one safetensors file in memory."""
        from safetensors.numpy import save

        arrays = {name: np.array(array, order="C") for name, array in self._arrays().items()}
        return save(arrays, {"segue.state": json.dumps({"format": FORMAT, "model": self.model})})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What :meth:`to_bytes` gave; whether it fits a model is seen when it is used with one.

        Raises:
            ValueError: not a state, or one of a newer format.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            arrays = load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            about = json.loads(header["__metadata__"]["segue.state"])
            version, model = int(about["format"]), str(about["model"])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"state: {len(data)} bytes that are not a state of Segue: {error!r}") from None
        if version != FORMAT:
            raise ValueError(f"state: format {version}, this Segue reads {FORMAT}")
        if "events" not in arrays:
            raise ValueError("state: no array 'events'")
        parts: dict[str, dict[str, NDArray[Any]]] = {"memory": {}, "carry": {}}
        for name, array in arrays.items():
            part, _, rest = name.partition("/")
            if part in parts:
                parts[part][rest] = array
        return cls(model, arrays["events"], parts["memory"], parts["carry"])

    def check(self, model: str, expected: Mapping[str, tuple[tuple[int, ...], DTypeLike]]) -> None:
        """See that the state belongs to ``model`` and has the arrays it wants: shape of a row and type by name.

        Raises:
            ValueError: another model, with both hashes; missing, other or wrong arrays; a memory that is not a number.
        """
        if self.model != model:
            raise ValueError(f"state: it belongs to the model with arrays sha256 {self.model}, this model has {model}")
        arrays = self._arrays()
        del arrays["events"]
        if arrays.keys() != expected.keys():
            raise ValueError(f"state: arrays {', '.join(sorted(arrays))}; expected {', '.join(sorted(expected))}")
        for name, (shape, kind) in expected.items():
            array = arrays[name]
            if array.shape[1:] != shape or array.dtype != kind:
                raise ValueError(
                    f"state: {name} is {array.dtype} {array.shape}, expected {np.dtype(kind)} {(len(self), *shape)}"
                )
        if faulty := [name for name, array in self.memory.items() if np.isnan(array).any()]:
            raise ValueError(f"state: memory/{', memory/'.join(sorted(faulty))}: not a number")

    def _arrays(self) -> dict[str, NDArray[Any]]:
        memory = {f"memory/{name}": array for name, array in self.memory.items()}
        return {"events": self.events, **memory, **{f"carry/{name}": array for name, array in self.carry.items()}}


def fingerprint(arrays: Arrays) -> str:
    """The SHA-256 of ``arrays`` as a bundle writes them: the same as ``bundle.json`` has."""
    from safetensors.numpy import save

    return hashlib.sha256(save({name: np.asarray(array, order="C") for name, array in arrays.items()})).hexdigest()


@dataclass(eq=False)
class Answered:
    """A factored model whose vectors are there already; the user of a query is its row."""

    domain: Domain
    scale: Literal["logit", "score"]
    vectors: NDArray[np.float32]
    bias: NDArray[np.float32]
    answers_ND: NDArray[np.float32]

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """The vectors of the rows that the queries' users name."""
        return self.answers_ND[queries.users]

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Nobody asks."""
        raise AssertionError("factored: the product is taken by whoever asks")


def recommend(
    model: Streaming,
    state: State,
    k: int,
    *,
    seen: Events | None = None,
    times: NDArray[np.int64] | None = None,
    repeats: bool = False,
    allowed: Mask | None = None,
) -> Recommendations:
    """As :func:`segue.core.recommend.recommend`, from states instead of histories.

    Args:
        seen: what each of the N has seen, and is not to get again unless ``repeats``; ``None``: nothing.
        times: ``(N,)`` when it is asked, where the model is told.
    """
    history = Events.of([[]] * len(state)) if seen is None else seen
    queries = Queries.of_users(np.arange(len(state), dtype=np.int32), history)
    answers = Answered(model.domain, model.scale, model.vectors, model.bias, model.answer(state, times))
    return recommend_queries(answers, queries, k, repeats=repeats, allowed=allowed)
