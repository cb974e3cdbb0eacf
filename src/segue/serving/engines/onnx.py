"""Next-item networks by ONNX Runtime: the encoder as a graph of its own, from item codes to one vector per history.

Exported is what :meth:`segue.nn.sequence_model.SequenceModel.encode` computes for a batch, with any number of rows
and positions. The items' vectors stay outside the graph; the product with them is taken by whoever asks.

Shapes: B sequences, L positions, D width, N queries.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segue.core.batches import Sequences, query_batches
from segue.core.model import Recommender
from segue.core.numba_kernels import threads
from segue.core.types import Queries
from segue.nn.sequence_model import SequenceModel
from segue.serving.engines.cached_model import held

__all__ = ["Onnx", "export", "installed", "refusal"]

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
"""Who may compute, the first that is there. TensorRT builds anew for every new shape, for minutes: only when named."""

EXTRA = "pip install 'segue[onnx]'"

MOST_BYTES = 2**31 - 2**24
"""A file of ONNX holds no more than 2 GB."""

TOKENS = 2_048
"""Positions, padding included, that are read at once: rows of like length together, and little memory."""

LONGEST = 2_048
"""Positions that the graph reads at most; a longer history goes to the trained model, whose memory grows slower."""

NEAR, NEARER = 1e-4, 1e-5
"""How far the graph may be from the trained model: a share of each number, and beside it."""


def installed() -> bool:
    """Whether graphs can be run here."""
    return find_spec("onnxruntime") is not None


def refusal(trained: Recommender) -> str:
    """Why ``trained`` cannot be exported, as far as that is known without trying; empty where nothing speaks against.

    To export takes more packages than to run: the exporter is part of torch, what it writes with is not.
    """
    if not isinstance(trained, SequenceModel):
        return f"{type(trained).__name__} is no network that reads histories"
    if trained.inputs is not None or trained.columns:
        told = ", ".join(getattr(trained.config, "inputs", ()) or trained.columns)
        return f"it reads more than items: {told}"
    if (size := sum(tensor.numel() * tensor.element_size() for tensor in trained.state_dict().values())) > MOST_BYTES:
        return f"its {size / 1e9:.1f} GB are more than a file of ONNX holds"
    lacking = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    return f"{', '.join(lacking)} not installed: {EXTRA}" if lacking else ""


class _Encoder(nn.Module):
    """What is exported."""

    def __init__(self, trained: SequenceModel) -> None:
        super().__init__()
        self.trained = trained

    def forward(self, items_BL: Tensor, lengths_B: Tensor) -> Tensor:
        read = Sequences(items_BL, lengths_B, torch.full_like(lengths_B, -1))
        return self.trained.hidden(self.trained.embed(read), read, lengths_B - 1)


def export(trained: Recommender, path: Path) -> None:
    """Write the encoder of ``trained`` to ``path``, and see that it computes the same.

    Raises:
        ValueError: it cannot be exported, or computes something else; why is told in one line.
    """
    if why := refusal(trained):
        raise ValueError(f"onnx: {why}")
    assert isinstance(trained, SequenceModel)
    encoder = _Encoder(trained).eval()
    example = torch.zeros(2, 5, dtype=torch.int64), torch.tensor([5, 3])
    shapes = {"items_BL": {0: "batch", 1: "length"}, "lengths_B": {0: "batch"}}
    try:
        with torch.no_grad(), _silence():
            program: Any = torch.onnx.export(
                encoder,
                example,
                input_names=["items", "lengths"],
                output_names=["hidden"],
                dynamic_shapes=shapes,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # whatever the exporter meets: a network that it cannot take is no fault here
        raise ValueError(f"onnx: {type(trained).__name__} does not export: {_cause(error)}") from None
    for node in program.model.graph.all_nodes():  # where each node came from in the source is nobody's business
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    program.save(str(path))
    _compare(encoder, _session(path, 1, None))


def _compare(encoder: _Encoder, session: Any) -> None:
    """Several shapes, the smallest and the largest among them."""
    config, n_items = encoder.trained.config, encoder.trained.domain.n_items
    most = min(LONGEST, 200 if encoder.trained.recurrent else config.max_length)
    rng = np.random.default_rng(0)
    for batch, length in {(1, 1), (1, most), (3, min(7, most)), (4, most)}:
        items_BL = rng.integers(0, n_items + 1, (batch, length))
        lengths_B = rng.integers(1, length + 1, batch)
        lengths_B[0] = length
        with torch.inference_mode():
            expected_BD = encoder(torch.from_numpy(items_BL), torch.from_numpy(lengths_B)).numpy()
        found_BD = session.run(None, {"items": items_BL, "lengths": lengths_B})[0]
        if not np.allclose(found_BD, expected_BD, NEAR, NEARER):
            apart = float(np.abs(found_BD - expected_BD).max())
            raise ValueError(f"onnx: the graph is {apart:.2g} away from the trained model at {batch} x {length}")


class Onnx:
    """The engine that runs an exported encoder.

    Args:
        trained: the model that was exported.
        path: what :func:`export` wrote.
        count: threads of a single operation; 0: as many as other computations have.
        providers: of ONNX Runtime, by name, those to try first to last; none: see :data:`PROVIDERS`.

    Raises:
        ValueError: ONNX Runtime is not installed, a provider is not there, or the file is no graph of this model.
    """

    name = "onnx"

    def __init__(
        self, trained: Recommender, path: Path, count: int = 0, providers: Sequence[str] | None = None
    ) -> None:
        if not isinstance(trained, SequenceModel):
            raise ValueError(f"onnx: {refusal(trained)}")
        self._trained = trained
        self._session = _session(path, count or threads(), providers)
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        self._model = held(trained, self._encode)

    @property
    def model(self) -> Recommender:
        """See :class:`segue.serving.engines.engine.Engine`; one that streams goes on doing so, by the trained model."""
        return self._model

    def _encode(self, queries: Queries) -> NDArray[np.float32]:
        trained, config = self._trained, self._trained.config
        result_ND = np.empty((len(queries), config.width), np.float32)
        length = None if trained.recurrent else config.max_length
        for rows, read in query_batches(queries, trained.domain.n_items, length, TOKENS, hidden=trained.cloze):
            items_BL = read.items_BL.numpy()
            if items_BL.shape[1] > LONGEST:
                with torch.inference_mode():
                    hidden_BD = trained.hidden(trained.embed(read), read, read.lengths_B - 1)
                result_ND[rows] = hidden_BD.numpy()
                continue
            (result_ND[rows],) = self._session.run(None, {"items": items_BL, "lengths": read.lengths_B.numpy()})
        return result_ND


def _session(path: Path, count: int, providers: Sequence[str] | None) -> Any:
    if not installed():
        raise ValueError(f"onnx: onnxruntime is not installed: {EXTRA}")
    import onnxruntime

    there = onnxruntime.get_available_providers()
    if lacking := [name for name in providers or () if name not in there]:
        raise ValueError(f"onnx: provider {lacking[0]} is not there; there are {', '.join(there)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = count, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the other cores have work of their own
    chosen = list(providers or (name for name in PROVIDERS if name in there))
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=chosen)
    except Exception as error:  # the package has an exception of its own for every kind of broken file
        raise ValueError(f"{path}: ONNX Runtime cannot read it: {_cause(error)}") from None
    names = [[one.name for one in ends] for ends in (session.get_inputs(), session.get_outputs())]
    if names != [["items", "lengths"], ["hidden"]]:
        raise ValueError(f"{path}: a graph from {names[0]} to {names[1]}, expected items and lengths to hidden")
    return session


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The exporter tells all it does, and prints the whole graph where it fails."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _cause(error: BaseException) -> str:
    """What went wrong first, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    first, *more = str(error).strip().splitlines() or ["no reason told"]
    return f"{type(error).__name__}: {first}{f' {more[0].strip()}' if first.endswith(':') and more else ''}"
