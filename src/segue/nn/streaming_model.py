"""Next-item models that go on from a memory of fixed size, one event at a time.

Between events a state holds the memory *before* the newest event, and the two newest events themselves: what an event
looks like to the encoder may depend on the one before it (the time between them) and on when the next is asked for.
An empty history is a start token and an empty memory.

Shapes: B histories in a batch, L positions, D width, N histories.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segue.core.batches import Sequences, gather
from segue.core.state import State, fingerprint
from segue.core.types import Events, Queries
from segue.nn.sequence_model import QUERY_TOKENS, SequenceModel

__all__ = ["Memory", "StreamingModel"]

Memory = dict[str, Tensor]
"""What recurrent layers remember, by name: float32, one row per history."""

KEPT = 2
"""Newest events that a state keeps as they are."""

TYPES = {"items": np.int64, "values": np.float32, "times": np.float64, "actions": np.int64, "places": np.int64}


class StreamingModel(SequenceModel):
    """A recurrent model; a subclass gives :meth:`empty` and :meth:`advance` beside ``hidden``."""

    recurrent: ClassVar[bool] = True
    _hashed: tuple[list[tuple[int, int]], str] | None = None

    @abstractmethod
    def empty(self, rows: int) -> Memory:
        """The memory of ``rows`` histories before the first position."""

    @abstractmethod
    def advance(self, x_BLD: Tensor, lengths_B: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Hidden states ``(B, L, D)`` from ``memory`` on, and the memory after each row's own length, at least 1."""

    def state(self, queries: Queries) -> State:
        """See :class:`segue.core.model.Streaming`."""
        self._one_way()
        rows = len(queries)
        memory = {name: tensor.cpu().numpy() for name, tensor in self.empty(rows).items()}
        carry: dict[str, NDArray[Any]] = {
            "items": np.full((rows, KEPT), self.domain.n_items, np.int64),
            "users": np.where(queries.known, queries.users, -1).astype(np.int64),
        }
        nothing = Events.of([[]])
        nowhere = np.zeros((rows, KEPT), np.int64)
        unknown = gather(nothing, nowhere, np.zeros((rows, KEPT), bool), self._kept_columns())
        carry |= {name: column.numpy() for name, column in unknown.items()}
        if self.inputs is not None and self.inputs.users is not None:
            carry["profile"] = self.inputs.users.rows(queries).cpu().numpy()
        blank = State(self._hash(), np.zeros(rows, np.int64), memory, carry)
        return self._extended(blank, queries.history)

    def step(self, state: State, events: Events) -> State:
        """See :class:`segue.core.model.Streaming`."""
        self._fits(state)
        if len(events) != len(state):
            raise ValueError(f"step: {len(events)} rows of events for a state of {len(state)} histories")
        self._known(events.items, self.domain.n_items, "step: item")
        return self._extended(state, events)

    @torch.inference_mode()
    def answer(self, state: State, times: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """See :class:`segue.core.model.Streaming`."""
        self._fits(state)
        training = self.training
        if training:
            self.eval()
        result = np.empty((len(state), self.config.width), np.float32)
        for rows in _batches(np.ones(len(state), np.int64), QUERY_TOKENS // 16):
            part = state.take(rows)
            asked_B = np.full(len(rows), np.nan) if times is None else times[rows].astype(np.float64)
            window = self._window(part, Events.of([[]] * len(rows)), asked_B)
            one_B = torch.ones(len(rows), dtype=torch.int64, device=self.device)
            hidden_BLD, _ = self.advance(self.embed(window)[:, 1:], one_B, self._tensors(part))
            result[rows] = hidden_BLD[:, 0].float().cpu().numpy()
        if training:
            self.train()
        return result

    @torch.inference_mode()
    def _extended(self, state: State, events: Events) -> State:
        """The state after all ``events``; what it is after none stays as it is."""
        training = self.training
        if training:
            self.eval()
        arrays = {"memory": _copies(state.memory), "carry": _copies(state.carry)}
        for rows in _batches(events.lengths, QUERY_TOKENS):
            part, more = state.take(rows), events.take(rows)
            window = self._window(part, more, np.full(len(rows), np.nan))
            counts = more.lengths
            # the newest event stays outside: what went in before it is the one that was kept, and all in between
            x_BLD = self.embed(window)[:, 1:-1]
            _, memory = self.advance(x_BLD, torch.from_numpy(counts).to(self.device), self._tensors(part))
            for name, tensor in memory.items():
                arrays["memory"][name][rows] = tensor.float().cpu().numpy()
            newest = counts[:, None] + np.arange(KEPT)
            kept = {"items": window.items_BL, **{name: window.columns[name] for name in self._kept_columns()}}
            for name, grid in kept.items():
                arrays["carry"][name][rows] = np.take_along_axis(grid.cpu().numpy(), newest, axis=1)
        if training:
            self.train()
        return State(state.model, state.events + events.lengths, arrays["memory"], arrays["carry"])

    def _window(self, state: State, events: Events, asked_B: NDArray[np.float64]) -> Sequences:
        """The events that are kept and those after them, side by side; ``asked`` is when it is asked after the last."""
        counts = events.lengths
        length = int(counts.max(initial=0))
        grid_L = np.arange(length)
        inside_BL = grid_L < counts[:, None]
        at_BL = events.offsets[:-1, None] + grid_L
        items_BL = np.full(inside_BL.shape, self.domain.n_items, np.int64)
        items_BL[inside_BL] = events.items
        fresh = gather(events, at_BL, inside_BL, self._kept_columns())
        columns = {
            name: torch.cat([torch.from_numpy(np.array(state.carry[name])), column], 1)
            for name, column in fresh.items()
        }
        if "asked" in self.columns:
            asked_BL = torch.full((len(counts), KEPT + length), torch.nan, dtype=torch.float64)
            asked_BL[:, :-1] = columns["times"][:, 1:]
            asked_BL[torch.arange(len(counts)), torch.from_numpy(counts) + KEPT - 1] = torch.from_numpy(asked_B)
            columns["asked"] = asked_BL
        items = np.concatenate([state.carry["items"], items_BL], axis=1)
        profile = state.carry.get("profile")
        read = Sequences(
            torch.from_numpy(items),
            torch.from_numpy(counts + KEPT),
            torch.from_numpy(np.array(state.carry["users"])),
            columns,
            profile_BJ=None if profile is None else torch.from_numpy(np.array(profile)),
        ).to(self.device)
        return read if self.inputs is None else self.inputs.counted(read)

    def _kept_columns(self) -> tuple[str, ...]:
        """Columns of the newest events that have to be kept."""
        wanted = dict.fromkeys("times" if name == "asked" else name for name in self.columns)
        return tuple(wanted)

    def _tensors(self, state: State) -> Memory:
        return {name: torch.from_numpy(np.array(array)).to(self.device) for name, array in state.memory.items()}

    def _hash(self) -> str:
        """The hash of the arrays as they are; counted again only after one of them has changed."""
        now = [(tensor.data_ptr(), tensor._version) for tensor in self.state_dict().values()]
        if self._hashed is None or self._hashed[0] != now:
            self._hashed = now, fingerprint(self.arrays())
        return self._hashed[1]

    def _one_way(self) -> None:
        if self.cloze:
            raise ValueError(
                f"{type(self).__name__}: trained with objective=cloze it reads in both directions, and every event "
                "changes what came before: it has no state; expected objective next_item or all_following"
            )

    def _fits(self, state: State) -> None:
        """Whether a state, which may come from anywhere, is one of this model."""
        self._one_way()
        expected: dict[str, tuple[tuple[int, ...], Any]] = {
            f"memory/{name}": (tuple(tensor.shape[1:]), np.float32) for name, tensor in self.empty(1).items()
        }
        expected |= {f"carry/{name}": ((KEPT,), TYPES[name]) for name in ("items", *self._kept_columns())}
        if self.inputs is not None and self.inputs.users is not None:
            expected["carry/profile"] = (tuple(self.inputs.users.rows_UJ.shape[1:]), np.float32)
        state.check(self._hash(), expected | {"carry/users": ((), np.int64)})
        self._known(state.carry["items"], self.domain.n_items + 1, "state: item")

    def _known(self, items: NDArray[Any], count: int, noun: str) -> None:
        if items.size and not (items.min() >= 0 and items.max() < count):
            strange = items[(items < 0) | (items >= count)][0]
            raise ValueError(f"{noun} code {strange}, expected 0..{count - 1}")


def _copies(arrays: Any) -> dict[str, NDArray[Any]]:
    return {name: np.array(array) for name, array in arrays.items()}


def _batches(lengths: NDArray[np.int64], tokens: int) -> Iterator[NDArray[np.int64]]:
    """Rows that have any length, shortest first, in batches of at most ``tokens`` positions (but at least one row)."""
    order = np.argsort(lengths, kind="stable")
    first = int((lengths == 0).sum())
    while first < len(order):
        room = np.arange(1, len(order) - first + 1) * lengths[order[first:]] <= tokens
        rows = order[first : first + max(1, int(room.sum()))]
        yield rows
        first += len(rows)
