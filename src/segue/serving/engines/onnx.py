"""Run next-item networks with ONNX Runtime.

The exported graph computes :meth:`segue.nn.sequence_model.SequenceModel.encode`: from item codes to one vector per
history, for any batch size and length. Item vectors stay outside the graph; callers multiply with them.

Shapes: B sequences, L positions, D width, N queries.
"""

from __future__ import annotations

import contextlib
import io
import logging
import mmap
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
from segue.core.files import check_regular_file
from segue.core.model import Recommender
from segue.core.numba_kernels import thread_count
from segue.core.types import Queries
from segue.nn.sequence_model import SequenceModel
from segue.serving.engines.cached_model import cache_item_vectors

__all__ = ["OnnxEngine", "export_encoder", "is_installed", "unsupported_reason"]

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
"""Execution providers in order of preference. TensorRT is used on request only: it spends minutes on each new shape."""

EXTRA = "pip install 'segue[onnx]'"

MAX_FILE_BYTES = 2**31 - 2**24
"""An ONNX file holds at most 2 GB."""

MAX_BATCH_TOKENS = 2_048
"""Positions per batch, padding included; rows of similar length are batched to save memory."""

MAX_LENGTH = 2_048
"""Longest history for the graph; longer ones use the trained model, whose memory grows more slowly."""

RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 1e-4, 1e-5
"""Largest difference between the graph and the trained model."""


def is_installed() -> bool:
    """Return whether ONNX Runtime is installed."""
    return find_spec("onnxruntime") is not None


def unsupported_reason(trained: Recommender) -> str:
    """Return why ``trained`` cannot be exported; empty if it can be.

    Export needs more packages than inference: the exporter is part of torch, its dependencies are not.
    """
    if not isinstance(trained, SequenceModel):
        return f"{type(trained).__name__} is not a network that encodes histories"
    if trained.inputs is not None or trained.columns:
        names = ", ".join(getattr(trained.config, "inputs", ()) or trained.columns)
        return f"it reads other inputs than items: {names}"
    if (
        size := sum(tensor.numel() * tensor.element_size() for tensor in trained.state_dict().values())
    ) > MAX_FILE_BYTES:
        return f"its {size / 1e9:.1f} GB exceed the size limit of an ONNX file"
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    return f"{', '.join(missing)} not installed: {EXTRA}" if missing else ""


class _EncoderModule(nn.Module):
    """The module that is exported."""

    def __init__(self, trained: SequenceModel) -> None:
        super().__init__()
        self.trained = trained

    def forward(self, items_BL: Tensor, lengths_B: Tensor) -> Tensor:
        sequences = Sequences(items_BL, lengths_B, torch.full_like(lengths_B, -1))
        return self.trained.encode_sequence(self.trained.embed(sequences), sequences, lengths_B - 1)


def export_encoder(trained: Recommender, path: Path) -> None:
    """Export the encoder of ``trained`` to ``path`` and verify its outputs.

    Raises:
        ValueError: the model cannot be exported, or the graph computes something else; the message has one line.
    """
    if reason := unsupported_reason(trained):
        raise ValueError(f"onnx: {reason}")
    assert isinstance(trained, SequenceModel)
    encoder = _EncoderModule(trained).eval()
    example = torch.zeros(2, 5, dtype=torch.int64), torch.tensor([5, 3])
    shapes = {"items_BL": {0: "batch", 1: "length"}, "lengths_B": {0: "batch"}}
    try:
        with torch.no_grad(), _suppress_exporter_output():
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
    except Exception as error:  # the exporter raises all kinds of exceptions for unsupported networks
        raise ValueError(f"onnx: {type(trained).__name__} cannot be exported: {_root_cause(error)}") from None
    for node in program.model.graph.all_nodes():  # metadata holds source paths of this machine
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    program.save(str(path))
    _check_outputs(encoder, _open_session(path, 1, None))


def _check_outputs(encoder: _EncoderModule, session: Any) -> None:
    """Compare the outputs for several shapes, from the smallest to the largest."""
    config, n_items = encoder.trained.config, encoder.trained.schema.n_items
    max_length = min(MAX_LENGTH, 200 if encoder.trained.reads_full_history else config.max_length)
    rng = np.random.default_rng(0)
    for batch, length in {(1, 1), (1, max_length), (3, min(7, max_length)), (4, max_length)}:
        items_BL = rng.integers(0, n_items + 1, (batch, length))
        lengths_B = rng.integers(1, length + 1, batch)
        lengths_B[0] = length
        with torch.inference_mode():
            expected_BD = encoder(torch.from_numpy(items_BL), torch.from_numpy(lengths_B)).numpy()
        actual_BD = session.run(None, {"items": items_BL, "lengths": lengths_B})[0]
        if not np.allclose(actual_BD, expected_BD, RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE):
            difference = float(np.abs(actual_BD - expected_BD).max())
            raise ValueError(f"onnx: outputs differ by {difference:.2g} from the trained model at {batch} x {length}")


class OnnxEngine:
    """The engine that runs an exported encoder.

    Args:
        trained: the exported model.
        path: file written by :func:`export_encoder`.
        num_threads: threads of a single operation; 0: as many as other computations use.
        providers: ONNX Runtime providers in order of preference; ``None``: see :data:`PROVIDERS`.

    Raises:
        ValueError: ONNX Runtime is not installed, a provider is not available, or the file is not a graph of this
            model.
    """

    name = "onnx"

    def __init__(
        self, trained: Recommender, path: Path, num_threads: int = 0, providers: Sequence[str] | None = None
    ) -> None:
        if not isinstance(trained, SequenceModel):
            raise ValueError(f"onnx: {unsupported_reason(trained)}")
        self._trained = trained
        self._session = _open_session(path, num_threads or thread_count(), providers)
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        self._model = cache_item_vectors(trained, self._encode)

    @property
    def model(self) -> Recommender:
        """The executable model; see :class:`segue.serving.engines.engine.Engine`.

        A streaming model updates its state with the trained model, not with the graph.
        """
        return self._model

    def _encode(self, queries: Queries) -> NDArray[np.float32]:
        trained, config = self._trained, self._trained.config
        result_ND = np.empty((len(queries), config.embedding_dim), np.float32)
        length = None if trained.reads_full_history else config.max_length
        for rows, sequences in query_batches(
            queries, trained.schema.n_items, length, MAX_BATCH_TOKENS, append_mask=trained.is_cloze
        ):
            items_BL = sequences.items_BL.numpy()
            if items_BL.shape[1] > MAX_LENGTH:
                with torch.inference_mode():
                    hidden_BD = trained.encode_sequence(trained.embed(sequences), sequences, sequences.lengths_B - 1)
                result_ND[rows] = hidden_BD.numpy()
                continue
            (result_ND[rows],) = self._session.run(None, {"items": items_BL, "lengths": sequences.lengths_B.numpy()})
        return result_ND


def _open_session(path: Path, num_threads: int, providers: Sequence[str] | None) -> Any:
    if not is_installed():
        raise ValueError(f"onnx: onnxruntime is not installed: {EXTRA}")
    import onnxruntime

    available = onnxruntime.get_available_providers()
    if missing := [name for name in providers or () if name not in available]:
        raise ValueError(f"onnx: provider {missing[0]} is not available; expected one of {', '.join(available)}")
    if _has_external_data(path):
        raise ValueError(f"{path}: the graph refers to other files, expected one that contains its weights")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leave the other cores to other work
    selected = list(providers or (name for name in PROVIDERS if name in available))
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=selected)
    except Exception as error:  # onnxruntime has its own exception for every kind of broken file
        raise ValueError(f"{path}: ONNX Runtime cannot read the file: {_root_cause(error)}") from None
    names = [[one.name for one in ends] for ends in (session.get_inputs(), session.get_outputs())]
    if names != [["items", "lengths"], ["hidden"]]:
        raise ValueError(
            f"{path}: graph with inputs {names[0]} and outputs {names[1]}, expected items, lengths and hidden"
        )
    return session


def _has_external_data(path: Path) -> bool:
    """Return whether a graph takes weights from other files, which may be anywhere.

    The name of such a file is stored under the key ``location``, here with the bytes that precede a key of this length.
    """
    if check_regular_file(path) == 0:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b"\x0a\x08location") >= 0


@contextlib.contextmanager
def _suppress_exporter_output() -> Iterator[None]:
    """Silence the exporter.

    It logs every step and prints the whole graph on failure.
    """
    disabled_level = logging.root.manager.disable
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
        logging.disable(disabled_level)


def _root_cause(error: BaseException) -> str:
    """Return the first cause of an exception, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    first, *more = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {first}{f' {more[0].strip()}' if first.endswith(':') and more else ''}"
