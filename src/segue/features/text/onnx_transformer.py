"""Run pretrained transformers with ONNX Runtime, with weights of 32 or 8 bits.

The exported graph contains the pooling: from tokens to one vector per window and layer, for any number and length of
windows. Files are kept in the cache of text vectors.

Shapes: N texts, B windows of a batch, L tokens, D numbers per vector.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segue.core.run import Run
from segue.features.text.cache import cache_folder
from segue.features.text.encoder import Vectors
from segue.features.text.pretrained import PretrainedFolder
from segue.features.text.transformer_network import load_network

__all__ = ["MIN_OVERLAP", "check_neighbors", "measure_overlap", "open_session"]

EXTRA = "pip install 'segue[onnx]'"

TOLERANCE = 1e-3
"""Largest difference between the graph and PyTorch, relative to the largest number of a vector."""

SAMPLE_TEXTS, NEIGHBORS = 256, 10
"""How many texts are compared, and by how many nearest texts."""

MIN_OVERLAP = 0.8
"""Smallest mean share of equal nearest texts at which 8-bit weights are accepted."""


def open_session(folder: PretrainedFolder, *, all_layers: bool, pooling: str, is_int8: bool) -> Any:
    """Open the graph of a transformer; it is exported if the cache does not have it.

    Inputs are ``tokens`` and ``mask``, ``(B, L)``.

    Raises:
        ValueError: a package is missing, the transformer cannot be exported, or the graph computes something else.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ValueError(f"text.options.backend: {error.name} is not installed: {EXTRA}") from None
    name = f"{folder.digest()}-{pooling}-{'all' if all_layers else 'last'}"
    exact, small = (cache_folder() / "onnx" / f"{name}-{kind}.onnx" for kind in ("float32", "int8"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    if not exact.is_file():
        with _replace_on_success(exact) as path:
            _export(folder, path, all_layers, pooling)
    if is_int8 and not small.is_file():
        with _replace_on_success(small) as path, _silence():
            from onnxruntime.quantization import QuantType, quantize_dynamic

            quantize_dynamic(exact, path, weight_type=QuantType.QInt8, per_channel=True)
    return onnxruntime.InferenceSession(small if is_int8 else exact, options, providers=["CPUExecutionProvider"])


def _export(folder: PretrainedFolder, path: Path, all_layers: bool, pooling: str) -> None:
    """Export the graph with 32-bit weights to ``path``, and compare it with PyTorch."""
    import onnxruntime

    network = load_network(folder, all_layers=all_layers, pooling=pooling, attention="sdpa")
    tokens_BL, mask_BL = torch.tensor([[5, 6, 7, 8, 9], [7, 6, 5, 0, 0]]), torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    shape = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        with torch.no_grad(), _silence():
            program: Any = torch.onnx.export(
                network,
                (tokens_BL, mask_BL),
                input_names=["tokens", "mask"],
                output_names=["vectors"],
                dynamic_shapes={"tokens_BL": shape, "mask_BL": shape},
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except ModuleNotFoundError as error:
        raise ValueError(f"text.options.backend: {error.name} is not installed: {EXTRA}") from None
    except Exception as error:  # the exporter raises all kinds of exceptions for unsupported networks
        lines = str(error).strip().splitlines()
        raise ValueError(
            f"text.options.backend: {folder.path} cannot be exported: {type(error).__name__}: "
            f"{lines[0] if lines else ''}; use 'torch'"
        ) from None
    program.save(str(path))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    longer = torch.arange(5, 5 + 27).reshape(3, 9) % 10, torch.tensor([[1] * 9, [1] * 4 + [0] * 5, [1] + [0] * 8])
    with torch.inference_mode():
        expected = network(*longer).numpy()
    found = session.run(None, {name: array.numpy() for name, array in zip(("tokens", "mask"), longer, strict=True)})[0]
    difference = float(np.abs(found - expected).max() / np.abs(expected).max())
    if not difference <= TOLERANCE:
        raise ValueError(
            f"text.options.backend: the exported graph of {folder.path} differs from PyTorch by {difference:.2g}, "
            f"expected at most {TOLERANCE:g}; use 'torch'"
        )


def check_neighbors(
    encode: Callable[[Sequence[str]], Vectors],
    encode_exactly: Callable[[Sequence[str]], Vectors],
    texts: Sequence[str],
    run: Run,
) -> None:
    """Check that 8-bit weights hardly change the nearest texts of a sample.

    Raises:
        ValueError: they do; the message has the measured overlap.
    """
    distinct = list(dict.fromkeys(texts))
    rows = run.rng("int8_sample").permutation(len(distinct))[:SAMPLE_TEXTS]
    sample = [distinct[row] for row in rows]
    overlap = measure_overlap(encode(sample), encode_exactly(sample))
    if overlap < MIN_OVERLAP:
        raise ValueError(
            f"text.options.backend: 'onnx_int8' keeps {overlap:.1%} of the {NEIGHBORS} nearest texts of {len(sample)} "
            f"texts, expected at least {MIN_OVERLAP:.0%}; use 'onnx' or 'torch'"
        )


def measure_overlap(vectors_ND: Vectors, expected_ND: Vectors, k: int = NEIGHBORS) -> float:
    """Return the mean share of ``k`` nearest rows that two sets have in common.

    Rows are compared by cosine. Rows of NaN are left out; 1 if no row has another one.
    """
    is_known = np.isfinite(vectors_ND).all(1) & np.isfinite(expected_ND).all(1)
    count = int(is_known.sum())
    k = min(k, count - 1)
    if k < 1:
        return 1.0
    nearest = []
    for vectors in (vectors_ND[is_known], expected_ND[is_known]):
        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        similarity_NN = unit @ unit.T
        np.fill_diagonal(similarity_NN, -np.inf)
        nearest.append(np.argpartition(-similarity_NN, k - 1, axis=1)[:, :k])
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(*nearest, strict=True)]))


@contextlib.contextmanager
def _replace_on_success(path: Path) -> Iterator[Path]:
    """Yield a path that is renamed to ``path`` on success and removed on error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export.") as folder:
        fresh = Path(folder) / path.name
        yield fresh
        fresh.replace(path)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Suppress what exporter and quantizer print, log and warn."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
