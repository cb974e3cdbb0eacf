"""Engines compute the same scores as the trained model for all kinds of queries."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segue.core.events import Events
from segue.core.model import Factored, Model, Streaming
from segue.core.recommend import recommend
from segue.core.registry import model_class
from segue.core.types import DataSchema, Dataset, Queries
from segue.nn.sequence_model import SequenceModel
from segue.serving.engines import onnx
from segue.serving.engines.engine import Engine
from segue.serving.engines.native import NativeEngine
from segue.serving.engines.onnx import OnnxEngine, export_encoder, unsupported_reason
from segue.testing import dataset
from segue.testing.training import small, train_small

N_ITEMS = 40


def untrained(key: str, **settings: Any) -> SequenceModel:
    """Build a network with random weights."""
    torch.manual_seed(5)
    kind = model_class(key)
    model = kind(small(kind.Config, settings), DataSchema(3, N_ITEMS))
    assert isinstance(model, SequenceModel)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def sample_queries(longest: int = 60) -> Queries:
    """Build queries with histories of all kinds.

    Empty, unknown, of lengths below, at and beyond the window, with repeated items.
    """
    rng = np.random.default_rng(1)
    lengths = (0, 1, 2, 23, 24, 25, longest, 0, 3)
    rows = [rng.integers(0, N_ITEMS, n).tolist() for n in lengths]
    known = np.arange(len(rows) + 1) % 2 == 0
    return Queries(Events.of([*rows, [7] * 30]), np.zeros(len(rows) + 1, np.int32), known)


@pytest.fixture(scope="module", params=["sasrec", "gru4rec", "bert4rec"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[SequenceModel, Path]:
    """Export a network once; this takes seconds."""
    trained = untrained(request.param, blocks=2, item_bias=True)
    path = tmp_path_factory.mktemp("graphs") / "model.onnx"
    export_encoder(trained, path)
    return trained, path


def test_onnx_matches_the_trained_model(exported: tuple[SequenceModel, Path]) -> None:
    trained, path = exported
    engine = OnnxEngine(trained, path)
    assert isinstance(engine, Engine)
    model = engine.model
    assert isinstance(model, Factored)
    assert isinstance(model, Streaming) == isinstance(trained, Streaming)
    assert getattr(model, "scale") == "logit"  # noqa: B009
    queries = sample_queries()
    np.testing.assert_allclose(model.encode(queries), trained.encode(queries), 1e-4, 1e-5)
    np.testing.assert_array_equal(model.vectors, trained.vectors)
    np.testing.assert_array_equal(model.bias, trained.bias)
    np.testing.assert_allclose(model.score(queries), trained.score(queries), 1e-4, 1e-4)
    candidates = np.tile(np.array([3, 1], np.int32), (len(queries), 1))
    np.testing.assert_array_equal(model.score(queries, candidates), model.score(queries)[:, [3, 1]])
    for row in range(len(queries)):
        one = queries.rows_between(row, row + 1)
        np.testing.assert_allclose(model.encode(one), trained.encode(one), 1e-4, 1e-5)
    assert model.encode(queries.rows_between(0, 0)).shape == (0, trained.config.embedding_dim)
    if trained.reads_full_history:  # histories too long for the graph use the trained model
        long = Queries.anonymous(Events.of([[1], np.arange(onnx.MAX_LENGTH + 5) % N_ITEMS]))
        np.testing.assert_allclose(model.encode(long), trained.encode(long), 1e-4, 1e-5)


def test_models_with_other_inputs_are_unsupported() -> None:
    assert unsupported_reason(untrained("gru4rec", inputs=["gap"])) == "it reads other inputs than items: gap"
    assert unsupported_reason(untrained("hstu", time_bias=True)) == "it reads other inputs than items: times"
    assert unsupported_reason(untrained("narm")) == ""


def test_failed_export_has_a_one_line_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        print("the whole graph", file=sys.stderr)
        try:
            raise KeyError("s77\nand much more")
        except KeyError as error:
            raise RuntimeError("step 1 of 3") from error

    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(ValueError, match=r"^onnx: NARM cannot be exported: KeyError: 's77[^\n]*$"):
        export_encoder(untrained("narm"), tmp_path / "odd.onnx")


def test_graph_with_other_outputs_is_rejected(exported: tuple[SequenceModel, Path]) -> None:
    trained, path = exported
    other = untrained("nextitnet", max_length=trained.config.max_length)
    with pytest.raises(ValueError, match=r"onnx: outputs differ by \S+ from the trained model at \d+ x \d+"):
        onnx._check_outputs(onnx._EncoderModule(other), onnx._open_session(path, 1, None))


def test_invalid_graph_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(ValueError, match=r"model\.onnx: ONNX Runtime cannot read the file"):
        OnnxEngine(untrained("narm"), tmp_path / "model.onnx")


def test_unknown_provider_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"provider Abacus is not available; expected one of .*CPUExecutionProvider"):
        OnnxEngine(untrained("narm"), tmp_path / "model.onnx", providers=["Abacus"])


def _data() -> Dataset:
    rng = np.random.default_rng(2)
    return dataset(Events.of([rng.permutation(20)[:n] for n in rng.integers(3, 15, 40)]), 20)


@pytest.mark.parametrize("key", ["ials", "ease", "gru4rec", "hstu"])
def test_native_engine_matches_the_model(key: str) -> None:
    data = _data()
    trained: Model = train_small(key, data)
    model = NativeEngine(trained).model
    assert isinstance(model, Factored) == isinstance(trained, Factored)
    assert isinstance(model, Streaming) == isinstance(trained, Streaming)
    queries = Queries.of_users(np.arange(data.n_users, dtype=np.int32), data.histories)
    ours, theirs = recommend(model, queries, 5), recommend(trained, queries, 5)
    np.testing.assert_array_equal(ours.items, theirs.items)
    np.testing.assert_array_equal(ours.scores, theirs.scores)
    if isinstance(model, Factored):
        assert model.vectors is model.vectors, "vectors are recomputed at each access"
    if isinstance(model, Streaming):
        state = model.step(model.state(queries), Events.of([[1]] * len(queries)))
        longer = Events.of([[*data.histories.rows_between(n, n + 1).items.tolist(), 1] for n in range(len(queries))])
        np.testing.assert_allclose(
            model.encode_state(state), model.encode(Queries.of_users(queries.users, longer)), 1e-4, 1e-5
        )
