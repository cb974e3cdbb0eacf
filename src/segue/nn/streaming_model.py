"""Next-item models with a recurrent state of fixed size, updated event by event.

Between events, a state holds the recurrent state *before* the newest event, and the two newest events, because the
input of an event may depend on the previous event (the time between them) and on the time of the next query. The state
of an empty history has a start token and the initial recurrent state.

Shapes: B histories in a batch, L positions, D width, N histories.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segue.core.batches import QUERY, Sequences, gather_columns, unknown_as_nan
from segue.core.events import CONTEXT
from segue.core.state import State, fingerprint
from segue.core.types import Events, Queries
from segue.nn.sequence_model import QUERY_TOKENS, SequenceModel

__all__ = ["RecurrentState", "StreamingModel"]

RecurrentState = dict[str, Tensor]
"""State of the recurrent layers by name: float32, one row per history."""

N_RECENT = 2
"""Number of newest events that a state stores."""

TYPES = {
    "items": np.int64,
    "values": np.float32,
    "times": np.float64,
    "actions": np.int64,
    "session_positions": np.int64,
}


class StreamingModel(SequenceModel):
    """Recurrent model whose state can be stored and updated.

    A subclass implements :meth:`initial_state`, :meth:`advance` and ``encode_sequence``.
    """

    reads_full_history: ClassVar[bool] = True
    _cached_hash: tuple[list[tuple[int, int]], str] | None = None

    @abstractmethod
    def initial_state(self, rows: int) -> RecurrentState:
        """Return the recurrent state of ``rows`` histories before the first position."""

    @abstractmethod
    def advance(
        self, x_BLD: Tensor, lengths_B: Tensor, recurrent_state: RecurrentState
    ) -> tuple[Tensor, RecurrentState]:
        """Continue from a recurrent state.

        Returns:
            Hidden states ``(B, L, D)``, and the recurrent state after each row's own length, which is at least 1.
        """

    def state(self, queries: Queries) -> State:
        """See :class:`segue.core.model.Streaming`."""
        self._check_causal()
        rows = len(queries)
        recurrent_state = {name: tensor.cpu().numpy() for name, tensor in self.initial_state(rows).items()}
        recent_events: dict[str, NDArray[Any]] = {
            "items": np.full((rows, N_RECENT), self.schema.n_items, np.int64),
            "users": np.where(queries.known, queries.users, -1).astype(np.int64),
        }
        at_BR = np.zeros((rows, N_RECENT), np.int64)
        unknown = gather_columns(Events.of([[]]), at_BR, at_BR.astype(bool), self._stored_columns())
        recent_events |= {name: column.numpy() for name, column in unknown.items()}
        if self.inputs is not None and self.inputs.users is not None:
            recent_events["profile"] = self.inputs.users.rows(queries).cpu().numpy()
        initial = State(self._hash(), np.zeros(rows, np.int64), recurrent_state, recent_events)
        return self._extend(initial, queries.history)

    def step(self, state: State, events: Events) -> State:
        """See :class:`segue.core.model.Streaming`."""
        self._check_state(state)
        if len(events) != len(state):
            raise ValueError(f"step: got {len(events)} rows of events for a state of {len(state)} histories")
        self._check_codes(events.items, self.schema.n_items, "step: item")
        return self._extend(state, events)

    @torch.inference_mode()
    def encode_state(
        self,
        state: State,
        times: NDArray[np.int64] | None = None,
        context: Mapping[str, NDArray[Any]] | None = None,
    ) -> NDArray[np.float32]:
        """See :class:`segue.core.model.Streaming`."""
        self._check_state(state)
        training = self.training
        if training:
            self.eval()
        result = np.empty((len(state), self.config.embedding_dim), np.float32)
        for rows in _batches(np.ones(len(state), np.int64), QUERY_TOKENS // 16):
            part = state.take(rows)
            given = {f"{CONTEXT}{name}": column[rows] for name, column in (context or {}).items()}
            if times is not None:
                given["times"] = times[rows]
            batch = self._to_batch(part, Events.of([[]] * len(rows)), given)
            one_B = torch.ones(len(rows), dtype=torch.int64, device=self.device)
            hidden_BLD, _ = self.advance(self.embed(batch)[:, 1:], one_B, self._tensors(part))
            result[rows] = hidden_BLD[:, 0].float().cpu().numpy()
        if training:
            self.train()
        return result

    @torch.inference_mode()
    def _extend(self, state: State, events: Events) -> State:
        """Return the state after all ``events``; rows without events do not change."""
        training = self.training
        if training:
            self.eval()
        recurrent_state, recent_events = _copies(state.recurrent_state), _copies(state.recent_events)
        for rows in _batches(events.lengths, QUERY_TOKENS):
            part, new_events = state.take(rows), events.take(rows)
            batch = self._to_batch(part, new_events, {})
            counts = new_events.lengths
            # the recurrent state excludes the newest event: feed the stored newest event and all but the last new one
            x_BLD = self.embed(batch)[:, 1:-1]
            _, after = self.advance(x_BLD, torch.from_numpy(counts).to(self.device), self._tensors(part))
            for name, tensor in after.items():
                recurrent_state[name][rows] = tensor.float().cpu().numpy()
            newest = counts[:, None] + np.arange(N_RECENT)
            stored = {"items": batch.items_BL, **{name: batch.columns[name] for name in self._stored_columns()}}
            for name, grid in stored.items():
                recent_events[name][rows] = np.take_along_axis(grid.cpu().numpy(), newest, axis=1)
        if training:
            self.train()
        return State(state.model, state.events + events.lengths, recurrent_state, recent_events)

    def _to_batch(self, state: State, events: Events, of_query: Mapping[str, NDArray[Any]]) -> Sequences:
        """Return the stored events followed by ``events``.

        ``of_query`` has the times and the context of the queries after the last one, by column.
        """
        counts = events.lengths
        length = int(counts.max(initial=0))
        grid_L = np.arange(length)
        valid_BL = grid_L < counts[:, None]
        at_BL = events.offsets[:-1, None] + grid_L
        items_BL = np.full(valid_BL.shape, self.schema.n_items, np.int64)
        items_BL[valid_BL] = events.items
        new_columns = gather_columns(events, at_BL, valid_BL, self._stored_columns())
        columns = {
            name: torch.cat([torch.from_numpy(np.array(state.recent_events[name])), column], 1)
            for name, column in new_columns.items()
        }
        for name in (name for name in self.columns if name.startswith(QUERY)):
            of_events_BL = columns[name.removeprefix(QUERY)]
            column_BL = torch.full_like(of_events_BL, torch.nan)
            column_BL[:, :-1] = of_events_BL[:, 1:]
            last = torch.arange(len(counts)), torch.from_numpy(counts) + N_RECENT - 1
            given_B = of_query.get(name.removeprefix(QUERY))
            column_BL[last] = torch.nan if given_B is None else torch.from_numpy(unknown_as_nan(given_B)).to(column_BL)
            columns[name] = column_BL
        items = np.concatenate([state.recent_events["items"], items_BL], axis=1)
        profile = state.recent_events.get("profile")
        batch = Sequences(
            torch.from_numpy(items),
            torch.from_numpy(counts + N_RECENT),
            torch.from_numpy(np.array(state.recent_events["users"])),
            columns,
            profile_BJ=None if profile is None else torch.from_numpy(np.array(profile)),
        ).to(self.device)
        return batch if self.inputs is None else self.inputs.with_session_positions(batch)

    def _stored_columns(self) -> tuple[str, ...]:
        """Return the columns of the newest events that a state stores."""
        return tuple(dict.fromkeys(name.removeprefix(QUERY) for name in self.columns))

    def _tensors(self, state: State) -> RecurrentState:
        return {
            name: torch.from_numpy(np.array(array)).to(self.device) for name, array in state.recurrent_state.items()
        }

    def _hash(self) -> str:
        """Return the hash of the model's arrays.

        It is computed again only after one of them has changed.
        """
        versions = [(tensor.data_ptr(), tensor._version) for tensor in self.state_dict().values()]
        if self._cached_hash is None or self._cached_hash[0] != versions:
            self._cached_hash = versions, fingerprint(self.arrays())
        return self._cached_hash[1]

    def _check_causal(self) -> None:
        if self.is_cloze:
            raise ValueError(
                f"{type(self).__name__}: a model trained with objective=cloze is bidirectional and has no recurrent "
                "state; expected objective next_item or all_action"
            )

    def _check_state(self, state: State) -> None:
        """Check that a state, which may come from anywhere, belongs to this model."""
        self._check_causal()
        initial = self.initial_state(1).items()
        expected: dict[str, tuple[tuple[int, ...], Any]] = {
            f"recurrent_state/{name}": (tuple(tensor.shape[1:]), np.float32) for name, tensor in initial
        }
        expected |= {
            f"recent_events/{name}": ((N_RECENT,), TYPES.get(name, np.float32))
            for name in ("items", *self._stored_columns())
        }
        if self.inputs is not None and self.inputs.users is not None:
            expected["recent_events/profile"] = (tuple(self.inputs.users.rows_UJ.shape[1:]), np.float32)
        state.check(self._hash(), expected | {"recent_events/users": ((), np.int64)})
        self._check_codes(state.recent_events["items"], self.schema.n_items + 1, "state: item")

    def _check_codes(self, items: NDArray[Any], count: int, noun: str) -> None:
        if items.size and not (items.min() >= 0 and items.max() < count):
            invalid = items[(items < 0) | (items >= count)][0]
            raise ValueError(f"{noun} code {invalid}, expected 0..{count - 1}")


def _copies(arrays: Any) -> dict[str, NDArray[Any]]:
    return {name: np.array(array) for name, array in arrays.items()}


def _batches(lengths: NDArray[np.int64], max_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Yield the rows with nonzero length, shortest first, in batches.

    A batch has at most ``max_tokens`` positions.
    """
    order = np.argsort(lengths, kind="stable")
    first = int((lengths == 0).sum())
    while first < len(order):
        fits = np.arange(1, len(order) - first + 1) * lengths[order[first:]] <= max_tokens
        rows = order[first : first + max(1, int(fits.sum()))]  # at least one row
        yield rows
        first += len(rows)
