"""Choose, prepare and open the engine of a model.

An engine is prepared once, when the artifact is built, and opened when it is loaded.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from segue.core.config import suggest
from segue.core.model import Recommender
from segue.serving.engines.engine import Engine
from segue.serving.engines.golden_queries import GoldenQueries, check_rankings
from segue.serving.engines.native import NativeEngine

__all__ = ["ENGINES", "open_engine", "prepare_engine"]

ENGINES = ("auto", "native", "onnx")


def prepare_engine(
    engine: str, trained: Recommender, graph: Path, expected: GoldenQueries
) -> tuple[Literal["native", "onnx"], str]:
    """Choose and prepare the engine for ``trained``.

    Args:
        engine: one of :data:`ENGINES`; ``auto``: onnx if it is available and ranks as the trained model does.
        graph: path of the ONNX file to write; its folder is created.
        expected: rankings that the engine must reproduce.

    Returns:
        The name of the engine, and why no other was chosen.

    Raises:
        ValueError: the requested engine is not available, or it ranks differently.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine: unknown '{engine}'{suggest(engine, ENGINES)}")
    if engine == "native":
        return "native", "requested"
    try:
        if "torch" not in sys.modules:  # a network would have imported torch already
            raise ValueError(f"onnx: {type(trained).__name__} is not a network that encodes histories")
        from segue.serving.engines import onnx

        if reason := onnx.unsupported_reason(trained):
            raise ValueError(f"onnx: {reason}")
        graph.parent.mkdir()
        onnx.export_encoder(trained, graph)
        if errors := check_rankings(expected, onnx.OnnxEngine(trained, graph).model):
            raise ValueError("\n".join(f"onnx: {line}" for line in errors))
    except ValueError as error:
        if engine == "onnx":
            raise
        shutil.rmtree(graph.parent, ignore_errors=True)
        return "native", str(error).splitlines()[0]
    return "onnx", ""


def open_engine(
    engine: str, trained: Recommender, graph: Path, threads: int = 0, providers: Sequence[str] | None = None
) -> Engine:
    """Open the engine named ``engine`` for ``trained``.

    Args:
        graph: file written by :func:`prepare_engine`, if any.
        threads: threads of an engine that has its own; 0: as many as other computations use.
        providers: ONNX Runtime providers in order of preference.

    Raises:
        ValueError: there is no such engine, it was not prepared, or it is not installed.
    """
    if engine == "native":
        return NativeEngine(trained)
    if engine != "onnx":
        raise ValueError(f"engine: unknown '{engine}'{suggest(engine, ['native', 'onnx'])}")
    if not graph.exists():
        raise ValueError(f"engine: onnx is not available: {graph} does not exist; export the model with engine 'onnx'")
    from segue.serving.engines.onnx import OnnxEngine

    return OnnxEngine(trained, graph, threads, providers)
