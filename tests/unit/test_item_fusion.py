"""Fusion of ids, text and other features, and the sequential model around it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray

from segue.core.config import parse
from segue.core.features import infer_features
from segue.core.model import Streaming, explain_features
from segue.core.registry import builtin_models, model_class
from segue.core.state import fingerprint
from segue.core.types import Dataset, Events, Queries
from segue.models.content.fusion import Fusion
from segue.nn.inputs.item_fusion import ItemFusion, PrincipalComponents
from segue.nn.losses.losses import cross_entropy
from segue.nn.sequence_model import SequenceModel
from segue.testing import dataset, small, train_small

N_ITEMS, N_USERS, WIDTH = 14, 16, 8
NEW = [12, 13]
"""Items without events."""


def world(seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    rows = Events.of([rng.integers(NEW[0], size=n) for n in rng.integers(2, 9, N_USERS)])
    rows = replace(rows, items=np.where(np.arange(rows.size) < NEW[0], np.arange(rows.size), rows.items))
    table = pl.DataFrame(
        {
            "id": [f"i{code}" for code in range(N_ITEMS)],
            "plot": [None if code == 3 else row for code, row in enumerate(rng.normal(size=(N_ITEMS, 5)).tolist())],
            "color": ["red", "blue"] * (N_ITEMS // 2),
            "year": [None, *range(1990, 1990 + N_ITEMS - 1)],
        }
    )
    return replace(dataset(rows, N_ITEMS), item_features=table.lazy())


def build(config: dict[str, Any] | None = None, data: Dataset | None = None) -> Fusion:
    """Build an untrained model, with noise on its weights, so that gates have an effect."""
    data = world() if data is None else data
    settings: Any = small(Fusion.Config, {"embedding_dim": WIDTH, "normalize": False, **(config or {})})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Fusion(settings, Fusion.schema_for(settings, data))
        model.prepare(data)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight) * 0.2)
    return model.eval()


def queries() -> Queries:
    return Queries.anonymous(Events.of([[0, 3, 12], [], [5], [13, 13, 1, 2, 4]]))


def encoders() -> list[str]:
    keys = []
    for key in builtin_models():
        try:
            kind = model_class(key)
        except ValueError:  # the extra is not installed
            continue
        if issubclass(kind, SequenceModel) and kind.builtin_loss is None:
            keys.append(key)
    return keys


# --- whitening -------------------------------------------------------------------------------------------------------


def test_components_have_equal_variance_and_the_directions_of_the_svd() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 6)) @ rng.normal(size=(6, 6)) + 5.0
    components = PrincipalComponents(6, 3)
    components.fit(torch.from_numpy(vectors))
    found = components(torch.from_numpy(vectors).float()).double().numpy()
    np.testing.assert_allclose(found.T @ found / 60, np.eye(3) / 3, atol=1e-5)
    left, _, _ = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(left[:, :3].T @ found), np.eye(3) * np.sqrt(60 / 3), atol=1e-4)


@pytest.mark.parametrize("rows", [[], [[1.0, 2.0]], [[1.0, 2.0]] * 3])
def test_vectors_without_variance_give_zeros(rows: list[list[float]]) -> None:
    components = PrincipalComponents(2, 2)
    components.fit(torch.tensor(rows).reshape(-1, 2))
    assert components(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).isfinite().all()
    assert (components(torch.tensor([[1.0, 2.0]])) == 0).all()


def test_components_without_variance_are_zero() -> None:
    line = torch.linspace(-1, 1, 9)[:, None] * torch.tensor([[1.0, 2.0, 0.0]])
    components = PrincipalComponents(3, 3)
    components.fit(line)
    found = components(line)
    torch.testing.assert_close(found[:, 0].square().mean(), torch.tensor(1.0))
    assert (found[:, 1:] == 0).all()


def test_components_are_those_of_training_items() -> None:
    data = world()
    assert data.item_features is not None
    table = data.item_features.collect()
    changed = table.with_columns(
        plot=pl.Series([[1e3] * 5 if code in NEW else row for code, row in enumerate(table["plot"].to_list())])
    )
    # the scale of the features is that of the catalog, but components do not depend on it
    rows, others = (build(data=replace(data, item_features=one.lazy())).fusion.rows_IJ for one in (table, changed))
    assert rows.shape == (N_ITEMS, 5 + 1 + 1)
    torch.testing.assert_close(rows[: NEW[0]], others[: NEW[0]], equal_nan=True, rtol=1e-3, atol=1e-3)
    assert rows[3, :5].isnan().all()


def test_rows_of_new_items_are_encoded_as_those_of_the_catalog() -> None:
    data, fusion = world(), build().fusion
    assert data.item_features is not None
    table = data.item_features.collect()
    torch.testing.assert_close(fusion.encode_rows(table[4:6]), fusion.rows_IJ[4:6])
    torch.testing.assert_close(fusion.encode_rows(table[4:6].drop("plot"))[:, 5:], fusion.rows_IJ[4:6, 5:])
    assert fusion.encode_rows(table[4:6].drop("plot"))[:, :5].isnan().all()


@pytest.mark.parametrize(("vector_dim", "expected"), [(0, 5), (2, 2), (64, 5)])
def test_vectors_are_reduced_to_the_given_dimension(vector_dim: int, expected: int) -> None:
    fusion = build({"vector_dim": vector_dim}).fusion
    assert fusion.vectors.sizes == [expected, 1, 1]
    assert bool(fusion.components) == (vector_dim > 0)


# --- fusion ----------------------------------------------------------------------------------------------------------


def numpy_fusion(fusion: ItemFusion, own_D: NDArray[np.float32], item: int) -> NDArray[np.float64]:
    """Combine the parts of one item by the formulas."""
    found = fusion.vectors.embed_groups(fusion.rows_IJ, [[0], [1], [2]])
    parts = [vectors[item].double().detach().numpy() for vectors in found]
    plot, color, year = parts
    weights: Any = {name: array.detach().double().numpy() for name, array in fusion.combine.named_parameters()}
    scale = np.sqrt(WIDTH)
    if "own_gate.weight" in weights:
        features = np.concatenate([plot, color + year])
        logits = weights["own_gate.weight"] @ own_D * scale + weights["own_gate.bias"]
        gates = 2 / (1 + np.exp(-(logits + weights["feature_gate.weight"] @ features * scale)))
        return np.asarray((gates * np.concatenate([own_D, features])).reshape(3, WIDTH).sum(0))
    mixed = []
    for head in (weights["query.weight"] @ own_D * scale + weights["query.bias"]).reshape(-1, WIDTH):
        attention = np.exp([head @ part for part in parts])
        mixed.append((attention / attention.sum()) @ np.array(parts))
    return np.asarray(own_D + weights["out.weight"] @ np.concatenate(mixed) + weights["out.bias"])


@pytest.mark.parametrize("method", ["gated_sum", "cross_attention"])
def test_items_are_combined_as_the_formulas_say(method: str) -> None:
    model = build({"fusion": method})
    fusion, own = model.fusion, model.encoder.items.weight.detach().numpy()
    for item in (0, 3, 7, *NEW):
        embedding = fusion.unknown_D.detach().numpy() if item in NEW else own[item]
        np.testing.assert_allclose(model.vectors[item], numpy_fusion(fusion, embedding, item), rtol=1e-4, atol=1e-5)


def test_the_initial_gated_sum_is_a_plain_sum() -> None:
    data = world()
    settings: Any = small(Fusion.Config, {"normalize": False})
    model = Fusion(settings, Fusion.schema_for(settings, data))
    model.prepare(data)
    own, fusion = model.encoder.items.weight[: NEW[0]], model.fusion
    expected = own + fusion.vectors(fusion.rows_IJ)[: NEW[0]]
    torch.testing.assert_close(fusion.eval()(model.encoder.items.weight[:N_ITEMS])[: NEW[0]], expected)


@pytest.mark.parametrize("normalize", [True, False])
def test_contributions_of_id_text_and_features_sum_to_the_score(normalize: bool) -> None:
    model = build({"fusion": "gated_sum", "normalize": normalize, "new_item_bonus": 0.5})
    one = queries().rows_between(0, 1)
    for item in (0, 3, NEW[0]):
        name, terms = explain_features(model, one, item)
        assert name == "score"
        assert list(terms)[:3] == ["id", "text", "features"]
        assert sum(terms.values()) == pytest.approx(float(model.score(one)[0, item]), abs=1e-4)
    assert explain_features(model, one, NEW[0])[1]["bias"] == pytest.approx(0.5, abs=1e-6)
    plain = build({"fusion": "gated_sum", "normalize": False})
    with torch.no_grad():
        for part in plain.fusion.combine.parameters():
            part.zero_()
    expected = float(plain.encoder.items.weight[0].detach().numpy() @ plain.encode(one)[0])
    assert explain_features(plain, one, 0)[1]["id"] == pytest.approx(expected, abs=1e-5)
    assert explain_features(build({"fusion": "cross_attention"}), one, 0) == ("score", {})


def test_normalized_candidates_have_the_same_length() -> None:
    model, other = build({"normalize": True}), build()
    assert model.fusion.log_length is not None
    other.restore({name: array for name, array in model.arrays().items() if not name.endswith("log_length")})
    length = float(model.fusion.log_length.detach().exp())
    np.testing.assert_allclose(np.linalg.norm(model.vectors, axis=1), length, rtol=1e-5)
    directions = other.vectors / np.linalg.norm(other.vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(model.vectors, length * directions, rtol=1e-4, atol=1e-5)
    codes = torch.arange(N_ITEMS)
    torch.testing.assert_close(*(one.fusion.embed(codes, one.encoder.items.weight) for one in (model, other)))


@pytest.mark.parametrize("method", ["gated_sum", "cross_attention"])
def test_new_items_are_scored_by_their_features_alone(method: str) -> None:
    model = build({"fusion": method})
    before = model.vectors.copy()
    with torch.no_grad():
        model.encoder.items.weight[:N_ITEMS].add_(1.0)
    changed = np.abs(model.vectors - before).max(1) > 0
    assert changed.tolist() == [code not in NEW for code in range(N_ITEMS)]
    with torch.no_grad():
        model.fusion.vectors.tables[1].add_(1.0)
    assert (np.abs(model.vectors - before).max(1) > 0).all()


@pytest.mark.parametrize("method", ["gated_sum", "cross_attention"])
def test_positions_and_candidates_have_the_same_vectors(method: str) -> None:
    model = build({"fusion": method})
    codes, weight = torch.tensor([[0, 13], [5, N_ITEMS]]), model.encoder.items.weight
    few = model.fusion.embed(codes, weight)
    many = model.fusion.embed(codes.repeat(1, 9), weight)[:, :2]
    torch.testing.assert_close(few, many)
    torch.testing.assert_close(few, torch.cat([model.fusion(weight[:N_ITEMS]), weight[N_ITEMS:]])[codes])


def test_ids_are_dropped_in_training_only_and_independently() -> None:
    model = build({"id_dropout": 0.3})
    fusion, weight = model.fusion, model.encoder.items.weight
    codes = torch.full((4000,), 5)
    codes[-1000:] = N_ITEMS  # the start token
    full, alone = model.vectors[5], numpy_fusion(fusion, fusion.unknown_D.detach().numpy(), 5)
    fusion.train()
    torch.manual_seed(0)
    found = fusion.embed(codes, weight).detach().numpy()
    is_full, is_alone = (np.isclose(found[:3000], one, atol=1e-5).all(1) for one in (full, alone))
    assert (is_full ^ is_alone).all()
    assert is_alone.mean() == pytest.approx(0.3, abs=0.04)
    np.testing.assert_allclose(found[3000:], weight[N_ITEMS].detach().numpy()[None].repeat(1000, 0))
    candidates = torch.stack([fusion(weight[:N_ITEMS]).detach()[5] for _ in range(200)]).numpy()
    assert np.isclose(candidates, alone, atol=1e-5).all(1).mean() == pytest.approx(0.3, abs=0.12)
    fusion.eval()
    torch.testing.assert_close(fusion.embed(codes, weight)[0], torch.from_numpy(full))


def test_the_features_of_all_items_are_computed_once_per_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build({"id_dropout": 0.5}).train()
    rows: list[int] = []
    embed = model.fusion.vectors.embed_groups

    def count(part: torch.Tensor, groups: Any) -> list[torch.Tensor]:
        rows.append(len(part))
        return embed(part, groups)

    monkeypatch.setattr(model.fusion.vectors, "embed_groups", count)
    batches = list(model.batches(world(), 8, np.random.default_rng(0))[1])
    for batch in batches:
        value, _ = model.objective(batch, cross_entropy)
        value.backward()
    assert rows == [N_ITEMS] * len(batches)
    assert model.fusion._shared is None


# --- encoders --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", encoders())
def test_without_features_an_encoder_is_what_it_is_alone(key: str) -> None:
    """With features whose vectors are zero, the model is the encoder with ids alone, whatever it is."""
    model, kind = build({"backbone": key, "objective": "next_item"}), model_class(key)
    assert isinstance(model.encoder, kind)
    config = {**dict(model.encoder.config), "inputs": (), "feature_dropout": 0.1}
    twin: Any = kind(kind.Config(**config), world().schema)
    twin.restore({name: array for name, array in model.arrays().items() if not name.startswith("inputs.")})
    known = queries().take(np.array([1, 2]))
    assert not np.allclose(model.encode(known)[1], twin.encode(known)[1], atol=1e-3)
    with torch.no_grad():
        model.fusion.in_training_I.fill_(True)
        for weight in model.fusion.parameters():
            weight.zero_()
    np.testing.assert_allclose(model.vectors, twin.vectors, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.score(queries()), twin.score(queries()), rtol=1e-4, atol=1e-4)
    assert isinstance(model, Streaming) == isinstance(twin, Streaming)
    assert model.columns == twin.columns


@pytest.mark.parametrize("key", ["gru4rec", "xlstm"])
def test_a_recurrent_encoder_gives_a_state(key: str) -> None:
    model = build({"backbone": key})
    state = model.state(Queries.anonymous(Events.of([[], [], [], []])))
    assert state.model == fingerprint(model.arrays())
    history = queries().history
    for position in range(int(history.lengths.max())):
        start = np.minimum(position, history.lengths)
        state = model.step(state, history.slice_rows(start, np.minimum(position + 1, history.lengths)))
    np.testing.assert_allclose(model.encode_state(state, None), model.encode(queries()), rtol=1e-4, atol=1e-5)
    assert not isinstance(build(), Streaming)


def test_all_weights_are_stored_and_counted() -> None:
    from segue.experiment.resources import count_parameters

    model = build()
    weights = {name for name, _ in model.encoder.named_parameters()}
    assert weights <= model.arrays().keys()
    assert count_parameters(model) == sum(model.arrays()[name].size for name in weights)


def test_settings_reach_the_encoder() -> None:
    model = build({"backbone_settings": {"num_blocks": 3}, "max_length": 7, "inputs": ("user_features",)}, with_users())
    config: Any = model.encoder.config
    assert (config.num_blocks, config.max_length, config.embedding_dim) == (3, 7, WIDTH)
    assert config.inputs == model.config.inputs == ("item_features", "user_features")
    data = world()
    timed = replace(data, histories=replace(data.histories, times=np.arange(data.histories.size)))
    assert build({"backbone": "hstu", "backbone_settings": {"time_bias": True}}, timed).columns == ("times",)


def with_users() -> Dataset:
    data = world()
    return replace(data, user_features=pl.DataFrame({"id": data.users.ids, "sex": ["F", "M"] * 8}).lazy())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backbone": "sasrek"}, r"model\.backbone: unknown 'sasrek', did you mean 'sasrec'"),
        ({"backbone": "ease"}, r"model\.backbone: 'ease' is not a sequential model"),
        ({"backbone": "two_tower"}, r"model\.backbone: 'two_tower' is not a sequential model"),
        ({"backbone_settings": {"num_bloks": 3}}, r"model\.backbone_settings\.num_bloks: unknown key.*'num_blocks'"),
        ({"backbone_settings": {"num_blocks": 0}}, r"model\.backbone_settings\.num_blocks: got 0: .*greater than 0"),
        ({"backbone_settings": {"dropout": 0.5}}, r"model\.backbone_settings\.dropout: set dropout of fusion instead"),
        ({"feature_dropout": 0.5}, r"model\.feature_dropout: got 0\.5, which only .* inputs other than items uses"),
        ({"id_dropout": 1.0}, r"model\.id_dropout: got 1\.0"),
    ],
)
def test_invalid_settings_are_rejected(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(Fusion.Config, values, "model")


def test_features_are_needed() -> None:
    table = pl.DataFrame({"id": [f"i{code}" for code in range(N_ITEMS)], "title": [str(n) for n in range(N_ITEMS)]})
    assert not infer_features(table)[0]
    for features in (None, table.lazy()):
        with pytest.raises(ValueError, match="'item_features' is not available: the data has no usable item_features"):
            train_small("fusion", replace(world(), item_features=features))


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "sampled_softmax", "num_negatives": 4},
        {"precision": "bfloat16"},
        {"backbone": "bert4rec", "objective": "cloze"},
    ],
)
def test_losses_and_precisions_of_training_work(settings: dict[str, Any]) -> None:
    model = train_small("fusion", world(), epochs=1, item_bias=True, **settings)
    assert np.isfinite(model.score(queries())).all()


@pytest.mark.parametrize("key", ["fusion", "two_tower"])
def test_a_bonus_is_added_to_the_scores_of_new_items_only(key: str) -> None:
    plain, raised = (train_small(key, world(), epochs=1, new_item_bonus=bonus) for bonus in (0.0, 2.5))
    difference_NI = raised.score(queries()) - plain.score(queries())
    expected_I = np.where(np.isin(np.arange(N_ITEMS), NEW), 2.5, 0.0)
    np.testing.assert_allclose(difference_NI, np.broadcast_to(expected_I, difference_NI.shape), atol=1e-5)


def test_items_added_later_have_the_bonus() -> None:
    model = build({"new_item_bonus": 2.5, "item_bias": True})
    table = world().item_features.collect().tail(1)  # type: ignore[union-attr]
    extended = model.with_items(np.array([N_ITEMS], np.int32), table)
    assert extended.bias[N_ITEMS] == 2.5
    np.testing.assert_array_equal(extended.bias[:N_ITEMS], model.bias)
