"""Compare NeuMF, LightGCN and Mult-VAE with their formulas in float64."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segue.core.config import parse
from segue.core.examples.interaction_pairs import InteractionPairs
from segue.core.model import Model, Recommender
from segue.core.registry import model_class
from segue.core.run import Interrupted, Run
from segue.core.types import Events, HeldOut, Queries
from segue.models.neural.multi_vae import gaussian_kl, multinomial_nll
from segue.nn.graph_propagation import UserItemGraph
from segue.testing import World, clusters, dataset, hit_rate, train_small
from segue.training.train import Training, train

KEYS = ["lightgcn", "multi_vae", "neumf"]
NEUMF_VARIANTS = ["gmf", "mlp", "neumf"]


def make_histories(users: int = 12, n_items: int = 9, seed: int = 0) -> Events:
    """Random histories: the first is empty, items repeat, and the last item never occurs."""
    rng = np.random.default_rng(seed)
    return Events.of([rng.integers(n_items - 1, size=length) for length in [0, *rng.integers(1, 7, size=users - 1)]])


def to_dense(events: Events, n_items: int) -> np.ndarray:
    return events.csr(n_items).toarray().astype(np.float64)


def build_model(key: str, events: Events, n_items: int, seed: int = 0, **values: Any) -> Any:
    """Build a prepared and finalized model with random parameters."""
    torch.manual_seed(seed)
    cls: Any = model_class(key)
    model = cls(cls.Config(**values), dataset(events, n_items).schema)
    model.prepare(dataset(events, n_items))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    model.eval().finalize()
    return model


def float64_arrays(model: Any) -> dict[str, np.ndarray]:
    return {name: array.astype(np.float64) for name, array in model.arrays().items()}


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, x)


# Interaction pairs


@given(seed=st.integers(0, 99), size=st.integers(1, 20), count=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_batches_cover_all_pairs_and_negatives_are_unseen(seed: int, size: int, count: int) -> None:
    events = make_histories(seed=seed)
    seen_UI = to_dense(events, 9) > 0
    pairs, rng = InteractionPairs(events, 9), np.random.default_rng(seed)
    n_batches, batches = pairs.batches(size, rng)
    n_visits = np.zeros_like(seen_UI, dtype=int)
    batch_list = list(batches)
    assert len(batch_list) == n_batches
    assert max(map(len, batch_list)) - min(map(len, batch_list)) <= 1
    for batch in batch_list:
        users, items = pairs.users_P[batch], pairs.items_P[batch]
        assert (np.diff(users) >= 0).all()
        np.add.at(n_visits, (users, items), 1)
        sampled, is_seen = pairs.sample_unseen(users, count, rng)
        np.testing.assert_array_equal(seen_UI[users[:, None], sampled], is_seen)
        excluded = pairs.seen(torch.from_numpy(users).numpy())
        np.testing.assert_array_equal(excluded.catalog_mask(0, len(users), 9).numpy(), seen_UI[users])
        np.testing.assert_array_equal(
            excluded.mask_for_items(torch.tensor([3, 0, 3])).numpy(), seen_UI[users][:, [3, 0, 3]]
        )
    np.testing.assert_array_equal(n_visits, seen_UI)


def test_negatives_of_a_user_with_all_items_are_marked_as_seen() -> None:
    pairs = InteractionPairs(Events.of([[0, 1, 2], [1]]), 3)
    sampled, is_seen = pairs.sample_unseen(np.array([0, 0, 1]), 50, np.random.default_rng(0))
    assert is_seen[:2].all()
    assert not is_seen[2].any()
    assert set(sampled[2]) == {0, 2}


# LightGCN


def adjacency(events: Events, n_items: int) -> np.ndarray:
    """Compute the symmetric normalized adjacency matrix of eqs. 7 and 8, dense."""
    seen_UI = to_dense(events, n_items)
    users = len(seen_UI)
    matrix = np.zeros((users + n_items,) * 2)
    matrix[:users, users:], matrix[users:, :users] = seen_UI, seen_UI.T
    inverse_sqrt_degrees = 1 / np.sqrt(np.maximum(matrix.sum(axis=1), 1))
    return inverse_sqrt_degrees[:, None] * matrix * inverse_sqrt_degrees


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_propagation_is_the_mean_of_adjacency_powers(layers: int) -> None:
    events, rng = make_histories(), np.random.default_rng(1)
    operator = sum(np.linalg.matrix_power(adjacency(events, 9), k) for k in range(layers + 1)) / (layers + 1)
    x, weights = rng.standard_normal((2, 21, 5))
    embeddings = torch.tensor(x, dtype=torch.float32, requires_grad=True)
    actual = UserItemGraph(events, 9).propagate(embeddings, layers)
    np.testing.assert_allclose(actual.detach(), operator @ x, rtol=1e-5, atol=1e-6)
    (actual * torch.tensor(weights, dtype=torch.float32)).sum().backward()
    assert embeddings.grad is not None
    np.testing.assert_allclose(embeddings.grad, operator.T @ weights, rtol=1e-5, atol=1e-6)


def test_lightgcn_encodes_training_users_and_folds_in_histories() -> None:
    events, layers = make_histories(), 2
    model = build_model("lightgcn", events, 9, embedding_dim=4, num_layers=layers)
    params = float64_arrays(model)
    matrix, initial = adjacency(events, 9), np.concatenate([params["users_UD"], params["items_ID"]])
    layer_outputs = [np.linalg.matrix_power(matrix, k) @ initial for k in range(layers + 1)]
    final, degrees = sum(layer_outputs) / (layers + 1), to_dense(events, 9).sum(axis=0)
    known_users = np.arange(1, 12, dtype=np.int32)
    known_queries = Queries.of_users(known_users, events.take(known_users))
    np.testing.assert_allclose(model.encode(known_queries), final[1:12], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.score(known_queries), final[1:12] @ final[12:].T, rtol=1e-4, atol=1e-5)
    # other histories: item 8 is not in the training data and is ignored, repeated item 2 counts once
    histories = [[2, 5, 2, 8], [], [8], [2, 5]]
    queries = Queries(Events.of(histories), np.array([0, 0, 3, 3], np.int32), np.array([False, False, True, True]))
    lower_layers = sum(layer[12:] for layer in layer_outputs[:-1])
    neighbors = sum(lower_layers[item] / np.sqrt(2 * degrees[item]) for item in (2, 5))
    mean = initial[1:12].mean(axis=0)
    expected = [
        (mean + neighbors) / (layers + 1),
        final[1:12].mean(axis=0),
        final[3],
        (initial[3] + neighbors) / (layers + 1),
    ]
    np.testing.assert_allclose(model.encode(queries), expected, rtol=1e-4, atol=1e-5)


def test_lightgcn_objective_is_the_loss_over_pairs_plus_l2() -> None:
    events = make_histories()
    model = build_model("lightgcn", events, 9, embedding_dim=4, num_layers=1, l2=0.3)
    params, seen_UI = float64_arrays(model), to_dense(events, 9)
    final = (np.eye(21) + adjacency(events, 9)) / 2 @ np.concatenate([params["users_UD"], params["items_ID"]])

    def loss(hidden: Tensor, vectors: Tensor, bias: Tensor | None, targets: Tensor, excluded: Any = None) -> Tensor:
        assert bias is None
        np.testing.assert_array_equal(
            excluded.catalog_mask(0, len(targets), 9).numpy(), seen_UI[np.nonzero(seen_UI)[0]] > 0
        )
        return ((hidden @ vectors.T)[torch.arange(len(targets)), targets]).sum()

    _, batches = model.batches(dataset(events, 9), 100, np.random.default_rng(0))
    (batch,) = batches
    value, count = model.objective(batch, loss)
    users, items = np.nonzero(seen_UI)
    expected = (final[users] * final[12 + items]).sum()
    expected += 0.3 * ((params["users_UD"][users] ** 2).sum() + (params["items_ID"][items] ** 2).sum()) / len(users)
    assert count == len(users)
    np.testing.assert_allclose(value.item(), expected, rtol=1e-5)


def test_a_restored_lightgcn_cannot_be_trained() -> None:
    cls: Any = model_class("lightgcn")
    model = cls(cls.Config(embedding_dim=4), dataset(make_histories(), 9).schema)
    model.restore(build_model("lightgcn", make_histories(), 9, embedding_dim=4).arrays())
    _, batches = model.batches(dataset(make_histories(), 9), 9, np.random.default_rng(0))
    with pytest.raises(ValueError, match="cannot be trained further"):
        model.objective(next(batches), lambda *given: torch.zeros(()))


# NeuMF


def path_logits(
    params: Mapping[str, np.ndarray], users_UE: np.ndarray, items: np.ndarray, gmf_dim: int
) -> list[np.ndarray]:
    """Compute the logits of each path for all pairs of users and items."""
    paths = []
    if "gmf.weight" in params:
        paths.append((users_UE[:, None, :gmf_dim] * items[:, :gmf_dim]) @ params["gmf.weight"][0] + params["gmf.bias"])
    if "mlp.out.weight" in params:
        mlp_inputs = np.concatenate(
            [
                np.broadcast_to(users_UE[:, None, gmf_dim:], (len(users_UE), len(items), users_UE.shape[1] - gmf_dim)),
                np.broadcast_to(items[None, :, gmf_dim:], (len(users_UE), len(items), users_UE.shape[1] - gmf_dim)),
            ],
            axis=2,
        )
        weight = np.concatenate([params["mlp.user_layer.weight"], params["mlp.item_layer.weight"]], axis=1)
        x = np.maximum(mlp_inputs @ weight.T + params["mlp.user_layer.bias"], 0)
        for n in range(sum(name.startswith("mlp.layers") for name in params) // 2):
            x = np.maximum(x @ params[f"mlp.layers.{n}.weight"].T + params[f"mlp.layers.{n}.bias"], 0)
        paths.append(x @ params["mlp.out.weight"][0] + params["mlp.out.bias"])
    return paths


def combine_paths(paths: list[np.ndarray], gmf_weight: float) -> np.ndarray:
    return paths[0] if len(paths) == 1 else gmf_weight * paths[0] + (1 - gmf_weight) * paths[1]


@pytest.mark.parametrize("variant", NEUMF_VARIANTS)
@pytest.mark.parametrize("layers", [1, 3])
def test_neumf_scores_of_every_variant(variant: str, layers: int) -> None:
    weights = {"gmf_weight": 0.3} if variant == "neumf" else {}
    model = build_model("neumf", make_histories(), 9, variant=variant, num_layers=layers, embedding_dim=3, **weights)
    params = float64_arrays(model)
    users = np.array([3, 1, 3], np.int32)
    expected = combine_paths(
        path_logits(params, params["users_UE"][users], params["items_IE"], 3 if variant != "mlp" else 0), 0.3
    )
    queries = Queries.of_users(users, Events.of([[1], [], [2, 2, 2]]))
    np.testing.assert_allclose(model.score(queries), expected, rtol=1e-4, atol=1e-5)
    candidates = np.array([[1, 8], [0, 0], [5, 3]], np.int32)
    expected_candidates = np.take_along_axis(expected, candidates, axis=1)
    np.testing.assert_allclose(model.score(queries, candidates), expected_candidates, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", NEUMF_VARIANTS)
def test_neumf_objective_is_binary_cross_entropy(variant: str) -> None:
    model = build_model("neumf", make_histories(), 9, variant=variant, num_layers=2, embedding_dim=3, num_negatives=2)
    params = float64_arrays(model)
    paths = path_logits(params, params["users_UE"], params["items_IE"], 3 if variant != "mlp" else 0)
    _, batches = model.batches(dataset(make_histories(), 9), 5, np.random.default_rng(0))
    batch = next(batches)
    users, items, weights = (getattr(batch, name).numpy() for name in ("users_M", "items_MK", "weights_MK"))
    pair_logits = combine_paths(paths, 0.5)[users[:, None], items]
    expected = (softplus(-pair_logits[:, :1]).sum(1) + (softplus(pair_logits[:, 1:]) * weights[:, 1:]).sum(1)).mean()
    value, count = model.objective(batch, None)
    assert count == len(users)
    np.testing.assert_allclose(value.item(), expected, rtol=1e-5)


def test_neumf_pretrains_both_paths_before_joint_training() -> None:
    """Each path learns like a single-path model on the same batches; joint logits are the mean of both paths."""
    epochs, joint = 2, build_model("neumf", make_histories(), 9, num_layers=2, embedding_dim=3, pretrain_epochs=2)
    separate = {
        variant: build_model("neumf", make_histories(), 9, variant=variant, num_layers=2, embedding_dim=3)
        for variant in ("gmf", "mlp")
    }
    columns = {"gmf": slice(0, 3), "mlp": slice(3, None)}
    with torch.no_grad():
        for variant, model in separate.items():
            for name, parameter in model.named_parameters():
                initial = dict(joint.named_parameters())[name]
                parameter.copy_(initial[:, columns[variant]] if name.endswith("E") else initial)
    for model in (joint, *separate.values()):
        train_epochs(model, range(epochs))
    queries = Queries.of_users(np.arange(1, 12, dtype=np.int32), Events.of([[]] * 11))
    for variant, model in separate.items():
        np.testing.assert_allclose(joint.users_UE.detach()[:, columns[variant]], model.users_UE.detach(), atol=1e-6)
        np.testing.assert_allclose(joint.items_IE.detach()[:, columns[variant]], model.items_IE.detach(), atol=1e-6)
    mean = (separate["gmf"].score(queries) + separate["mlp"].score(queries)) / 2
    np.testing.assert_allclose(joint.score(queries), mean, atol=1e-5)
    # from the third epoch the joint logits are trained
    params = float64_arrays(joint)
    paths = path_logits(params, params["users_UE"], params["items_IE"], 3)
    batch = next(joint.batches(dataset(make_histories(), 9), 5, np.random.default_rng(2))[1])
    pair_logits = combine_paths(paths, 0.5)[batch.users_M[:, None], batch.items_MK]
    sign = np.where(np.arange(pair_logits.shape[1]) == 0, -1, 1)
    expected = (softplus(sign * pair_logits) * batch.weights_MK.numpy()).sum(1).mean()
    np.testing.assert_allclose(joint.objective(batch, None)[0].item(), expected, rtol=1e-5)


def train_epochs(model: Any, epochs: range) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in epochs:
        for batch in model.batches(dataset(make_histories(), 9), 5, np.random.default_rng(epoch))[1]:
            optimizer.zero_grad()
            model.objective(batch, None)[0].backward()
            optimizer.step()


def test_neumf_folds_in_by_linear_regression() -> None:
    """If user vectors are a linear function of the mean item vector, so are those of new users."""
    events, rng = make_histories(users=60), np.random.default_rng(0)
    model = build_model("neumf", events, 9, variant="gmf", embedding_dim=2)
    items, matrix = model.items_IE.detach().numpy(), rng.standard_normal((2, 2))
    seen_UI = to_dense(events, 9)
    means = seen_UI @ items / np.maximum(seen_UI.sum(axis=1), 1)[:, None]
    with torch.no_grad():
        model.users_UE.copy_(torch.from_numpy(1.0 + means @ matrix))
    model.finalize()
    queries = Queries.anonymous(Events.of([[2, 2, 5, 8], [], [8]]))
    expected = 1.0 + (items[2] + items[5]) / 2 @ matrix
    actual = model._user_vectors(queries)
    np.testing.assert_allclose(actual[0], expected, atol=0.02)
    np.testing.assert_allclose(actual[1:], [model.users_UE.detach().numpy()[1:].mean(axis=0)] * 2, atol=1e-5)


# Mult-VAE


@given(seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_the_terms_of_the_elbo(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, mean, log_variance = (rng.standard_normal(shape) for shape in ((12, 9), (7, 4), (7, 4)))
    events = make_histories(seed=seed)
    seen_UI = to_dense(events, 9)
    log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    sparse = events.csr(9)
    offsets, items = (torch.from_numpy(array.astype(np.int64)) for array in (sparse.indptr, sparse.indices))
    actual = multinomial_nll(torch.tensor(scores), offsets, items)
    np.testing.assert_allclose(actual, -(seen_UI * log_p).sum(axis=1), rtol=1e-10, atol=1e-12)
    posterior, prior = (
        torch.distributions.Normal(torch.tensor(loc), torch.tensor(scale))
        for loc, scale in ((mean, np.exp(log_variance / 2)), (0 * mean, np.ones_like(mean)))
    )
    expected = torch.distributions.kl_divergence(posterior, prior).sum(1)
    torch.testing.assert_close(gaussian_kl(torch.tensor(mean), torch.tensor(log_variance)), expected)


def test_kl_divergence_of_the_prior_is_zero() -> None:
    assert gaussian_kl(torch.zeros(2, 3), torch.zeros(2, 3)).tolist() == [0.0, 0.0]


def encode_and_decode(
    params: Mapping[str, np.ndarray], seen_UI: np.ndarray, variant: str
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the encoder output and the last decoder layer by the formulas of the module, dense."""
    normalized = seen_UI / np.sqrt(np.maximum(seen_UI.sum(axis=1, keepdims=True), 1))
    encoded = normalized @ params["encoder_IH"] + params["encoder_bias_H"]
    if "encoder_layer.weight" in params:
        encoded = np.tanh(encoded) @ params["encoder_layer.weight"].T + params["encoder_layer.bias"]
    latent = np.tanh(encoded) if variant == "dae" else encoded[:, : encoded.shape[1] // 2]
    return encoded, np.tanh(
        latent @ params["decoder_layer.weight"].T + params["decoder_layer.bias"]
    ) if "decoder_layer.weight" in params else latent


@pytest.mark.parametrize("variant", ["vae", "dae"])
@pytest.mark.parametrize("hidden_dim", [None, 6])
def test_multi_vae_scores_use_the_posterior_mean(variant: str, hidden_dim: int | None) -> None:
    model = build_model("multi_vae", make_histories(), 9, variant=variant, embedding_dim=4, hidden_dim=hidden_dim)
    params, seen_UI = float64_arrays(model), to_dense(make_histories(), 9)
    hidden = encode_and_decode(params, seen_UI, variant)[1]
    actual = model.score(Queries.anonymous(make_histories()))
    np.testing.assert_allclose(actual, hidden @ params["decoder_IH"].T + params["decoder_bias_I"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["vae", "dae"])
def test_multi_vae_minimizes_the_negative_elbo(variant: str) -> None:
    values = {"kl_weight": 0.7, "kl_annealing_epochs": 2.0} if variant == "vae" else {}
    model = build_model(
        "multi_vae", make_histories(), 9, variant=variant, embedding_dim=4, hidden_dim=6, dropout=0.0, **values
    ).train()
    count, batches = model.batches(dataset(make_histories(), 9), 100, np.random.default_rng(0))
    (batch,) = batches
    model.steps += 1  # half of the annealing: one of two epochs with one batch each
    torch.manual_seed(3)
    value, targets = model.objective(batch, None)
    assert (count, targets, model.steps.item()) == (1, 11, 2)
    params = float64_arrays(model)
    seen_UI = np.zeros((11, 9))
    rows = np.repeat(np.arange(11), np.diff(batch.offsets))
    seen_UI[rows, batch.items_T] = 1
    encoded, hidden = encode_and_decode(params, seen_UI, variant)
    expected = 0.0
    if variant == "vae":
        torch.manual_seed(3)
        mean, log_variance = encoded[:, :4], encoded[:, 4:]
        latent = mean + np.exp(log_variance / 2) * torch.randn(11, 4).numpy()
        hidden = np.tanh(latent @ params["decoder_layer.weight"].T + params["decoder_layer.bias"])
        expected = 0.35 * 0.5 * (np.exp(log_variance) + mean**2 - 1 - log_variance).sum(1).mean()
    scores = hidden @ params["decoder_IH"].T + params["decoder_bias_I"]
    expected -= (seen_UI * (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)))).sum(1).mean()
    np.testing.assert_allclose(value.item(), expected, rtol=1e-4)


def test_kl_weight_is_annealed() -> None:
    model = build_model("multi_vae", make_histories(), 9, kl_weight=0.2, kl_annealing_epochs=3.0)
    actual = []
    for _ in range(15):
        actual.append(model.beta(batches=4))
        model.steps += 1
    np.testing.assert_allclose(actual, 0.2 * np.minimum(1, np.arange(15) / 12))
    assert build_model("multi_vae", make_histories(), 9, kl_weight=0.2, kl_annealing_epochs=0.0).beta(4) == 0.2


def test_multi_vae_drops_inputs_in_training_only() -> None:
    model = build_model("multi_vae", make_histories(), 9, variant="dae", dropout=0.9).train()
    batch = next(model.batches(dataset(make_histories(), 9), 100, np.random.default_rng(0))[1])
    torch.manual_seed(0)
    losses = {model.objective(batch, None)[0].item() for _ in range(3)}
    assert len(losses) == 3
    queries = Queries.anonymous(make_histories())
    np.testing.assert_array_equal(model.score(queries), model.score(queries))


# All models


@pytest.mark.parametrize("key", KEYS)
def test_new_users_are_folded_in(key: str) -> None:
    world = clusters()
    model = train_small(key, world.train, epochs=10)
    new_users = HeldOut(Queries.anonymous(world.test.queries.history), world.test.targets)
    assert hit_rate(model, World(world.train, new_users, world.k, world.best, world.naive)) > 0.95


class Validation:
    """A metric that interrupts the run after ``stop_after`` validations."""

    def __init__(self, run: Run | None = None, stop_after: int = 0) -> None:
        self.run, self.left = run, stop_after

    def __call__(self, model: Recommender) -> Mapping[str, float]:
        self.left -= 1
        if self.run is not None and self.left == 0:
            self.run.interrupted = True
        return {"ndcg@10": float(model.score(Queries.anonymous(Events.of([[1, 2]]))).std())}


RESUME_CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("lightgcn", {"embedding_dim": 4}, {}),
    ("lightgcn", {"embedding_dim": 4, "num_layers": 1}, {"loss": "bpr", "num_negatives": 5, "ema": 0.9}),
    ("multi_vae", {"embedding_dim": 4, "hidden_dim": 6, "kl_annealing_epochs": 2.5}, {"gradient_accumulation": 2}),
    ("neumf", {"embedding_dim": 2, "pretrain_epochs": 1.5}, {"ema": 0.5}),
]


@pytest.mark.parametrize(("key", "config", "training"), RESUME_CASES, ids=str)
def test_a_resumed_run_is_bit_identical(
    key: str, config: dict[str, Any], training: dict[str, Any], tmp_path: Path
) -> None:
    training_settings = Training(epochs=4, batch_size=3, learning_rate=0.01, **training)
    data = dataset(make_histories(), 9)

    def fit(run: Run, stop_after: int = 0) -> Model:
        return train(key, config, training_settings, data, run, Validation(run, stop_after))

    expected = fit(Run(5, tmp_path / "whole")).arrays()
    with pytest.raises(Interrupted, match="of 4 batches"):
        fit(Run(5, tmp_path / "parts"), stop_after=2)
    actual = fit(Run(5, tmp_path / "parts")).arrays()
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


def test_averaged_weights_are_propagated_through_the_graph() -> None:
    """With ``ema``, item vectors are propagated from averaged weights, in validation and after training."""
    matrix, differences = adjacency(make_histories(), 9), []

    def propagated_items(model: Any) -> np.ndarray:
        params = float64_arrays(model)
        initial = np.concatenate([params["users_UD"], params["items_ID"]])
        return ((initial + matrix @ initial) / 2)[12:]

    def validate(model: Any) -> Mapping[str, float]:
        differences.append(np.abs(model.vectors - propagated_items(model)).max())
        return {"ndcg@10": float(len(differences))}

    training_settings = Training(epochs=3, batch_size=3, learning_rate=0.1, ema=0.9)
    model: Any = train(
        "lightgcn",
        {"embedding_dim": 4, "num_layers": 1},
        training_settings,
        dataset(make_histories(), 9),
        Run(0),
        validate,
    )
    np.testing.assert_allclose(model.vectors, propagated_items(model), atol=1e-5)
    assert max(differences) < 1e-5


@pytest.mark.parametrize("key", ["multi_vae", "neumf"])
def test_unused_loss_settings_are_rejected(key: str) -> None:
    message = r"training\.loss: got 'bce', but this model minimizes .*\ntraining\.num_negatives: got 3, "
    with pytest.raises(ValueError, match=message):
        train(key, {}, Training(loss="bce", num_negatives=3), dataset(make_histories(), 9), Run(0))


def test_settings_of_another_variant_are_rejected() -> None:
    for key, values, message in (
        (
            "neumf",
            {"variant": "gmf", "pretrain_epochs": 2},
            "neumf.pretrain_epochs: got 2.0, but the variant 'gmf' has a single path",
        ),
        (
            "multi_vae",
            {"variant": "dae", "kl_annealing_epochs": 2},
            "multi_vae.kl_annealing_epochs: got 2.0, but the variant 'dae' does not use",
        ),
    ):
        with pytest.raises(ValueError, match="but the variant") as error:
            parse(model_class(key).Config, values, key)
        assert message in str(error.value)
