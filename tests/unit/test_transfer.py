"""Models that start from the weights of another catalog's model."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray

import segue
from segue.core import bundle
from segue.core.config import parse
from segue.core.model import Extensible, Model, Streaming
from segue.core.run import Interrupted, Run
from segue.core.types import Dataset, Events, Queries, TextEncoding
from segue.models.cold_start.transfer import CATALOG_ARRAYS, ITEM_PREFIX, Transfer
from segue.testing import dataset, train_small
from segue.testing.training import small
from segue.training.callbacks import Callback
from segue.training.settings import Training
from segue.training.train import train

N_SOURCE, N_TARGET, NEW = 14, 11, (9, 10)
"""Items of both catalogs, and the last ones of the target, which have no event."""


def catalog(n_items: int, seed: int, size: int = 5, digest: str | None = "a" * 64) -> Dataset:
    """Build a log whose items have vectors, encoded by an encoder with this digest."""
    rng = np.random.default_rng(seed)
    rows = Events.of([rng.integers(n_items - len(NEW), size=n) for n in rng.integers(2, 9, 12)])
    table = {
        "id": [f"i{code}" for code in range(n_items)],
        "text_vector": rng.normal(size=(n_items, size)).tolist(),
        "color": [["red", "blue", "green"][code % 3] for code in range(n_items)],
    }
    data = replace(dataset(rows, n_items, f"catalog {seed}"), item_features=pl.DataFrame(table).lazy())
    encoding = {"columns": ["title"], "encoder": "transformer", "options": {}, "name": "text_vector"}
    return replace(data, text_encodings=() if digest is None else (TextEncoding(encoding, {}, digest),))


SOURCE, TARGET = catalog(N_SOURCE, 0), catalog(N_TARGET, 1)
LITTLE: Mapping[str, Any] = {"epochs": 1, "learning_rate": 1e-12}
"""A training that changes next to nothing."""


def save(folder: Path, data: Dataset = SOURCE, key: str = "transfer", **settings: Any) -> Path:
    bundle.save(folder, bundle.create(key, train_small(key, data, **settings), data, {"data": data.name}))
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("source") / "model")


def queries(data: Dataset = TARGET) -> Queries:
    return Queries.anonymous(data.histories)


def close(first: NDArray[Any], second: NDArray[Any]) -> bool:
    return bool(np.allclose(first, second, rtol=1e-4, atol=1e-5, equal_nan=True))


def config(source: Path, **values: Any) -> Transfer.Config:
    return parse(Transfer.Config, {"source": str(source), **values}, "model")


# --- what is carried over --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"id_embeddings": True}, {"item_bias": True}], ids=str)
def test_everything_but_the_catalog_is_carried_over(source: Path, settings: dict[str, Any]) -> None:
    theirs = bundle.load(source).model.arrays()
    model = train_small("transfer", TARGET, source=str(source), **LITTLE, **settings)
    own = model.arrays()
    for name in own.keys() - set(CATALOG_ARRAYS):
        assert close(own[name], theirs[name]), name
    assert close(own["items.weight"][N_TARGET:], theirs["items.weight"][N_SOURCE:])  # the start token
    assert own["items.weight"].shape[0] == N_TARGET + 1
    unknown = theirs[f"{ITEM_PREFIX}unknown_D"]
    expected = unknown if settings.get("id_embeddings") else np.zeros_like(unknown)
    assert close(own["items.weight"][:N_TARGET], np.tile(expected, (N_TARGET, 1)))


def test_the_same_texts_get_the_same_vectors(source: Path) -> None:
    """On the catalog of the source itself, an untrained target is the source, whatever its events are."""
    other = replace(SOURCE, histories=TARGET.histories.take(np.arange(3)), users=dataset(Events.of([[0]] * 3), 1).users)
    for settings in ({}, {"id_embeddings": True}):
        model = train_small("transfer", other, source=str(source), **LITTLE, **settings)
        theirs = bundle.load(source).model
        assert close(model.score(queries()), theirs.score(queries()))


def test_features_are_encoded_as_in_the_source(source: Path) -> None:
    """Whitening and scale do not depend on the texts of the target."""
    assert TARGET.item_features is not None
    table = TARGET.item_features.collect()
    stretched = table.with_columns(
        text_vector=pl.Series(
            [[3.0 * one for one in row] if code > 4 else row for code, row in enumerate(table["text_vector"].to_list())]
        )
    )
    models = [
        train_small("transfer", replace(TARGET, item_features=one.lazy()), source=str(source), **LITTLE)
        for one in (table, stretched)
    ]
    rows, others = (model.arrays()["inputs.items.rows_IJ"] for model in models)
    assert close(rows[:5], others[:5])
    assert not close(rows[5:], others[5:])


def test_new_items_of_the_target_are_scored_by_their_text(source: Path) -> None:
    model: Any = train_small("transfer", TARGET, source=str(source))
    assert TARGET.item_features is not None
    table = TARGET.item_features.collect()
    texts = table["text_vector"].to_list()
    texts[NEW[0]] = texts[2]
    copied = replace(TARGET, item_features=table.with_columns(text_vector=pl.Series(texts)).lazy())
    twin = train_small("transfer", copied, source=str(source))
    assert close(twin.score(queries())[:, NEW[0]], twin.score(queries())[:, 2])
    assert len(np.unique(model.vectors, axis=0)) == N_TARGET


def test_items_can_be_added_without_the_source(tmp_path: Path) -> None:
    folder = save(tmp_path / "source")
    model: Any = train_small("transfer", TARGET, source=str(folder), id_embeddings=True)
    shutil.rmtree(folder)
    assert TARGET.item_features is not None
    table = TARGET.item_features.collect()[[NEW[0]]]
    extended: Any = model.with_items(np.array([N_TARGET], np.int32), table)
    found = extended.score(queries())
    assert close(found[:, :N_TARGET], model.score(queries()))
    assert close(found[:, N_TARGET], found[:, NEW[0]])
    assert isinstance(extended, Extensible)


def test_a_fusion_can_be_the_source(tmp_path: Path) -> None:
    folder = save(tmp_path / "fusion", key="fusion")
    wanted = config(folder)
    assert wanted.features == ("text_vector", "color")
    model = train_small("transfer", TARGET, source=str(folder), **LITTLE)
    theirs = bundle.load(folder).model.arrays()
    assert close(model.arrays()["inputs.items.vectors.tables.1"], theirs["inputs.items.vectors.tables.1"])
    without = replace(TARGET, item_features=TARGET.item_features.drop("color"))  # type: ignore[union-attr]
    notes = train_small("transfer", without, source=str(folder), **LITTLE).training_notes
    assert "transfer: 'catalog 1' has no item feature 'color', which is unknown for all items" in notes


def test_a_recurrent_source_gives_a_recurrent_model(tmp_path: Path) -> None:
    folder = save(tmp_path / "gru", backbone="gru4rec")
    model = train_small("transfer", TARGET, source=str(folder))
    assert isinstance(model, Streaming)
    assert not isinstance(train_small("transfer", TARGET, epochs=1), Streaming)


def test_the_context_of_events_is_carried_over(tmp_path: Path) -> None:
    times = [
        replace(one, histories=replace(one.histories, times=10**9 + 9000 * np.arange(one.histories.size)))
        for one in (SOURCE, TARGET)
    ]
    folder = save(tmp_path / "timed", times[0], inputs=("gap",))
    model: Any = train_small("transfer", times[1], source=str(folder), **LITTLE)
    assert model.columns == ("times",)
    assert model.config.inputs == ("item_features", "gap")
    theirs = bundle.load(folder).model.arrays()
    names = [name for name in theirs if name.startswith("inputs.events")]
    assert names
    assert all(close(model.arrays()[name], theirs[name]) for name in names)


# --- text alone, or with ids -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", ["gated_sum", "cross_attention"])
def test_own_embeddings_are_read_only_if_wanted(fusion: str) -> None:
    for has_ids in (False, True):
        model: Any = train_small("transfer", TARGET, id_embeddings=has_ids, fusion=fusion, epochs=1)
        before = model.vectors.copy()
        with torch.no_grad():
            model.network.encoder.items.weight[:N_TARGET] += 1.0
        changed = np.abs(model.vectors - before).max(axis=1) > 0
        assert changed.tolist() == [has_ids and code not in NEW for code in range(N_TARGET)]


def test_features_are_the_vectors_or_those_of_the_settings() -> None:
    names = [
        [feature.name for feature in train_small("transfer", TARGET, **LITTLE, features=features).schema.item_features]
        for features in ((), ("color",), ("color", "text_vector"))
    ]
    assert names == [["text_vector"], ["color"], ["color", "text_vector"]]


# --- freezing and learning rates -------------------------------------------------------------------------------------


def changed_arrays(model: Model, source: Path) -> set[str]:
    theirs = bundle.load(source).model.arrays()
    return {name for name, one in model.arrays().items() if name not in CATALOG_ARRAYS and not close(one, theirs[name])}


def test_a_factor_of_zero_freezes_a_part(source: Path) -> None:
    every = changed_arrays(train_small("transfer", TARGET, source=str(source)), source)
    items = {name for name in every if name.startswith(ITEM_PREFIX)}
    assert items
    assert items < every
    frozen = train_small("transfer", TARGET, source=str(source), encoder_lr_factor=0.0)
    assert changed_arrays(frozen, source) == items
    assert np.array_equal(frozen.arrays()["items.weight"][-1], bundle.load(source).model.arrays()["items.weight"][-1])
    frozen = train_small("transfer", TARGET, source=str(source), item_lr_factor=0.0)
    assert changed_arrays(frozen, source) == every - items
    settings: dict[str, Any] = {"id_embeddings": True, "item_lr_factor": 0.0, "encoder_lr_factor": 0.0}
    ids = train_small("transfer", TARGET, source=str(source), **settings)
    assert not changed_arrays(ids, source)
    assert "frozen: the sequence encoder, the item representation" in ids.training_notes[1]


def test_a_factor_multiplies_the_learning_rate_of_its_part(source: Path) -> None:
    """Adam's first step has the length of the learning rate in every coordinate with a gradient."""
    theirs = bundle.load(source).model.arrays()
    settings = {"source": str(source), "encoder_lr_factor": 0.25, "item_lr_factor": 0.5, "id_embeddings": True}
    own = small(Training, {"epochs": 1, "batch_size": 99, "clip_norm": 0.0, "learning_rate": 1e-3})
    model = train("transfer", small(Transfer.Config, settings), own, TARGET, Run(0))
    steps = {name: np.abs(array - theirs[name]) for name, array in model.arrays().items() if name not in CATALOG_ARRAYS}
    items = {name: step for name, step in steps.items() if name.startswith(ITEM_PREFIX) and step.any()}
    others = {name: step for name, step in steps.items() if not name.startswith(ITEM_PREFIX) and step.any()}
    assert max(step.max() for step in items.values()) == pytest.approx(5e-4, rel=0.02)
    assert max(step.max() for step in others.values()) == pytest.approx(2.5e-4, rel=0.02)
    unknown = theirs[f"{ITEM_PREFIX}unknown_D"]
    assert np.abs(model.arrays()["items.weight"][:N_TARGET] - unknown).max() == pytest.approx(1e-3, rel=0.02)


def test_an_interrupted_fine_tuning_is_resumed(source: Path, tmp_path: Path) -> None:
    settings = small(Transfer.Config, {"source": str(source), "encoder_lr_factor": 0.0, "item_lr_factor": 0.3})
    training = small(Training, {"epochs": 3})
    whole = train("transfer", settings, training, TARGET, Run(0))
    run = Run(0, tmp_path / "run")

    class Stop(Callback):
        def on_epoch_end(self, state: Any) -> None:
            run.interrupted = state.epoch == 1

    with pytest.raises(Interrupted):
        train("transfer", settings, training, TARGET, run, None, [Stop()])
    resumed = train("transfer", settings, training, TARGET, Run(0, tmp_path / "run"))
    for name, array in whole.arrays().items():
        assert np.array_equal(array, resumed.arrays()[name], equal_nan=True), name


# --- settings and provenance -----------------------------------------------------------------------------------------


def test_settings_of_the_network_are_those_of_the_source(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", embedding_dim=8, max_length=7, fusion="cross_attention", dropout=0.3)
    found = config(folder)
    assert (found.embedding_dim, found.max_length, found.fusion, found.features) == (
        8, 7, "cross_attention", ("text_vector",),
    )  # fmt: skip
    assert found.dropout == 0.2  # not part of the network
    assert found.source_hash == bundle.load(folder).metadata["sha256"]["arrays.safetensors"]
    assert config(folder, embedding_dim=8, dropout=0.1, features=("text_vector",)).dropout == 0.1
    with pytest.raises(ValueError, match=r"model\.embedding_dim: got 16, the source .*model has 8; leave it out") as e:
        config(folder, embedding_dim=16, inputs=("gap",))
    assert "model.inputs: got ('gap',), the source" in str(e.value)


def test_a_run_is_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "runs" / "one"
    save(run / "bundle")
    (tmp_path / "runs" / "latest").symlink_to("one", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    assert config(run).source == str(run)
    assert config(Path("runs/latest")).source == "runs/one"
    assert config(run / "bundle").source == str(run)


def test_the_target_needs_its_source_no_more(tmp_path: Path) -> None:
    folder = save(tmp_path / "source")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    trained = segue.train("transfer", TARGET, source=str(folder), epochs=1, baseline="none")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    segue.save(trained, tmp_path / "target")
    shutil.rmtree(folder)
    loaded = segue.open(tmp_path / "target")
    assert close(loaded.model.score(queries()), trained.model.score(queries()))
    notes = loaded.metadata["training_notes"]
    assert notes[0].startswith(f"transfer: carried over from {folder} ('transfer' on catalog 0, weights ")
    assert notes[0].endswith("of the item representation (text_vector)")
    assert notes[1] == "transfer: initialized: nothing; frozen: nothing"
    with pytest.raises(ValueError, match=r"source: got '.*', which is neither the folder of a finished run nor"):
        segue.train("transfer", TARGET, source=str(folder))


def test_a_source_that_has_changed_is_rejected(tmp_path: Path) -> None:
    folder = save(tmp_path / "source")
    wanted = config(folder)
    save(folder, epochs=1)
    with pytest.raises(ValueError, match=r"model\.source: the weights of .* have the SHA-256 \w{12}, expected \w{12}"):
        train("transfer", wanted, small(Training, {}), TARGET, Run(0))


def test_a_damaged_source_is_rejected(tmp_path: Path) -> None:
    folder = save(tmp_path / "source")
    wanted = config(folder)
    (folder / "items.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match=r"items\.parquet"):
        train("transfer", wanted, small(Training, {}), TARGET, Run(0))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": "nowhere"}, r"model\.source: got 'nowhere', which is neither the folder of a finished run"),
        ({"encoder_lr_factor": 0.5}, r"model\.encoder_lr_factor: got 0\.5, which only a source uses"),
        ({"item_lr_factor": 0.5}, r"model\.item_lr_factor: got 0\.5, which only a source uses"),
        ({"source_hash": "ab"}, r"model\.source_hash: got 'ab', which only a source uses"),
        ({"id_dropout": 0.5}, r"model\.id_dropout: got 0\.5, which only id_embeddings=true uses"),
        ({"inputs": ["action"]}, r"model\.inputs: .*'action' has another meaning in every log"),
        ({"inputs": ["user_features"]}, r"'user_features' has another meaning in every log"),
        ({"inputs": ["context:city"]}, r"'context:city' has another meaning in every log"),
        ({"backbone": "sasrek"}, r"model\.backbone: unknown 'sasrek', did you mean 'sasrec'"),
        ({"backbone_settings": {"dropout": 0.5}}, r"model\.backbone_settings\.dropout: set dropout of fusion instead"),
    ],
)
def test_invalid_settings_are_rejected(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(Transfer.Config, values, "model")


def test_freezing_everything_is_rejected(source: Path) -> None:
    with pytest.raises(ValueError, match="item_lr_factor: got 0 with encoder_lr_factor 0, so that nothing"):
        config(source, encoder_lr_factor=0, item_lr_factor=0)


def test_another_model_is_no_source(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", key="popular")
    with pytest.raises(ValueError, match=r"source: .* is a model 'popular', expected transfer or fusion"):
        config(folder)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            catalog(N_TARGET, 1, digest="b" * 64),
            r"vectors 'text_vector' of the source come from transformer \(digest a{12}\), those of 'catalog 1' from "
            r"transformer \(digest b{12}\)",
        ),
        (
            catalog(N_TARGET, 1, digest=None),
            r"come from transformer \(digest a{12}\), those of 'catalog 1' from none of Segue's encoders",
        ),
        (catalog(N_TARGET, 1, size=4), r"vectors 'text_vector' have 5 numbers in the source, 4 in 'catalog 1'"),
        (
            replace(TARGET, item_features=TARGET.item_features.drop("text_vector")),  # type: ignore[union-attr]
            r"'catalog 1' has none; encode text with text\.encoder=transformer",
        ),
    ],
    ids=["digest", "no encoder", "size", "missing"],
)
def test_vectors_of_source_and_target_must_agree(source: Path, data: Dataset, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_small("transfer", data, source=str(source))


def test_vectors_of_other_encoders_are_noted(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", catalog(N_SOURCE, 0, digest=None))
    notes = train_small("transfer", catalog(N_TARGET, 1, digest=None), source=str(folder), **LITTLE).training_notes
    assert "whether both catalogs have the same encoder was not checked" in notes[-1]


def test_a_catalog_without_vectors_needs_text_or_other_features() -> None:
    data = replace(TARGET, item_features=TARGET.item_features.drop("text_vector"))  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"the item_features of 'catalog 1' have no vectors; encode text with"):
        train_small("transfer", data)
    with pytest.raises(ValueError, match=r"model\.features: 'catalog 1' has no usable item feature 'colour', did you"):
        train_small("transfer", data, features=("colour",))
    train_small("transfer", data, features=("color",), epochs=1)
