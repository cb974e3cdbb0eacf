"""Which engine runs a model: prepared once when it is published, opened when it is served."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from segue.core.config import suggest
from segue.core.model import Recommender
from segue.serving.engines.engine import Engine
from segue.serving.engines.golden_queries import Golden, check
from segue.serving.engines.native import Native

__all__ = ["ENGINES", "open_engine", "prepare"]

ENGINES = ("auto", "native", "onnx")


def prepare(engine: str, trained: Recommender, graph: Path, expected: Golden) -> tuple[Literal["native", "onnx"], str]:
    """The engine to publish ``trained`` for, and why it is no other.

    Args:
        engine: of :data:`ENGINES`; ``auto``: onnx where it can be had and ranks as the trained model does.
        graph: where what onnx needs is written; its folder is made.
        expected: what it must rank as the trained model does.

    Raises:
        ValueError: the engine was asked for by name, and cannot be had or ranks otherwise.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine: unknown '{engine}'{suggest(engine, ENGINES)}")
    if engine == "native":
        return "native", "asked for"
    try:
        if "torch" not in sys.modules:  # what no model asked for need not be loaded to say so
            raise ValueError(f"onnx: {type(trained).__name__} is no network that reads histories")
        from segue.serving.engines import onnx

        if why := onnx.refusal(trained):
            raise ValueError(f"onnx: {why}")
        graph.parent.mkdir()
        onnx.export(trained, graph)
        if wrong := check(expected, onnx.Onnx(trained, graph).model):
            raise ValueError("\n".join(f"onnx: {line}" for line in wrong))
    except ValueError as error:
        if engine == "onnx":
            raise
        shutil.rmtree(graph.parent, ignore_errors=True)
        return "native", str(error).splitlines()[0]
    return "onnx", ""


def open_engine(
    engine: str, trained: Recommender, graph: Path, threads: int = 0, providers: Sequence[str] | None = None
) -> Engine:
    """The engine called ``engine`` for ``trained``.

    Args:
        graph: what :func:`prepare` wrote, where it wrote something.
        threads: of an engine with threads of its own; 0: as many as other computations have.
        providers: of ONNX Runtime, by name, those to try first to last.

    Raises:
        ValueError: there is no such engine, it was not prepared, or it is not installed.
    """
    if engine == "native":
        return Native(trained)
    if engine != "onnx":
        raise ValueError(f"engine: unknown '{engine}'{suggest(engine, ['native', 'onnx'])}")
    if not graph.exists():
        raise ValueError(f"engine: onnx is asked for, and there is no {graph}: it was published without")
    from segue.serving.engines.onnx import Onnx

    return Onnx(trained, graph, threads, providers)
