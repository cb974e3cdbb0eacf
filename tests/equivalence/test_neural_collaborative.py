"""Neural collaborative filtering, LightGCN and Mult-VAE against their formulas, written out again in float64."""

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
from segue.core.model import Model, Recommender
from segue.core.registry import model_class
from segue.core.run import Interrupted, Run
from segue.core.types import Events, HeldOut, Queries
from segue.models.neural.multi_vae import gaussian_kl, multinomial_nll
from segue.nn.graph_propagation import UserItemGraph
from segue.solvers.interaction_pairs import InteractionPairs
from segue.testing import World, clusters, dataset, hit_rate, train_small
from segue.training.train import Training, train

KEYS = ["lightgcn", "multi_vae", "neumf"]
FORMS = ["gmf", "mlp", "neumf"]


def log(users: int = 12, n_items: int = 9, seed: int = 0) -> Events:
    """Histories in which one user has nothing, items come again, and the last item is never had."""
    rng = np.random.default_rng(seed)
    return Events.of([rng.integers(n_items - 1, size=length) for length in [0, *rng.integers(1, 7, size=users - 1)]])


def seen(events: Events, n_items: int) -> np.ndarray:
    return events.csr(n_items).toarray().astype(np.float64)


def untrained(key: str, events: Events, n_items: int, seed: int = 0, **values: Any) -> Any:
    """A network with random parameters that has looked at the data, settled."""
    torch.manual_seed(seed)
    kind: Any = model_class(key)
    model = kind(kind.Config(**values), dataset(events, n_items).schema)
    model.prepare(dataset(events, n_items))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    model.eval().finalize()
    return model


def numbers(model: Any) -> dict[str, np.ndarray]:
    return {name: array.astype(np.float64) for name, array in model.arrays().items()}


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, x)


# Holdings


@given(seed=st.integers(0, 99), size=st.integers(1, 20), count=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_pairs_are_dealt_once_and_what_is_drawn_was_not_had(seed: int, size: int, count: int) -> None:
    events = log(seed=seed)
    had = seen(events, 9) > 0
    pairs, rng = InteractionPairs(events, 9), np.random.default_rng(seed)
    told, batches = pairs.batches(size, rng)
    found = np.zeros_like(had, dtype=int)
    parts = list(batches)
    assert len(parts) == told
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for part in parts:
        users, items = pairs.users_P[part], pairs.items_P[part]
        assert (np.diff(users) >= 0).all()
        np.add.at(found, (users, items), 1)
        drawn, wrong = pairs.sample_unseen(users, count, rng)
        np.testing.assert_array_equal(had[users[:, None], drawn], wrong)
        left_out = pairs.seen(torch.from_numpy(users).numpy())
        np.testing.assert_array_equal(left_out.catalog_mask(0, len(users), 9).numpy(), had[users])
        np.testing.assert_array_equal(
            left_out.mask_for_items(torch.tensor([3, 0, 3])).numpy(), had[users][:, [3, 0, 3]]
        )
    np.testing.assert_array_equal(found, had)


def test_who_had_everything_has_nothing_drawn_that_counts() -> None:
    pairs = InteractionPairs(Events.of([[0, 1, 2], [1]]), 3)
    drawn, wrong = pairs.sample_unseen(np.array([0, 0, 1]), 50, np.random.default_rng(0))
    assert wrong[:2].all()
    assert not wrong[2].any()
    assert set(drawn[2]) == {0, 2}


# LightGCN


def adjacency(events: Events, n_items: int) -> np.ndarray:
    """The symmetric matrix of eq. 7 and 8, dense."""
    had = seen(events, n_items)
    users = len(had)
    both = np.zeros((users + n_items,) * 2)
    both[:users, users:], both[users:, :users] = had, had.T
    scale = 1 / np.sqrt(np.maximum(both.sum(axis=1), 1))
    return scale[:, None] * both * scale


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_what_spreads_along_the_graph_is_the_mean_of_powers_of_a_matrix(layers: int) -> None:
    events, rng = log(), np.random.default_rng(1)
    dense = sum(np.linalg.matrix_power(adjacency(events, 9), k) for k in range(layers + 1)) / (layers + 1)
    x, weights = rng.standard_normal((2, 21, 5))
    given = torch.tensor(x, dtype=torch.float32, requires_grad=True)
    found = UserItemGraph(events, 9).propagate(given, layers)
    np.testing.assert_allclose(found.detach(), dense @ x, rtol=1e-5, atol=1e-6)
    (found * torch.tensor(weights, dtype=torch.float32)).sum().backward()
    assert given.grad is not None
    np.testing.assert_allclose(given.grad, dense.T @ weights, rtol=1e-5, atol=1e-6)


def test_lightgcn_answers_as_it_was_trained_and_folds_in_others() -> None:
    events, layers = log(), 2
    model = untrained("lightgcn", events, 9, embedding_dim=4, num_layers=layers)
    it = numbers(model)
    matrix, first = adjacency(events, 9), np.concatenate([it["users_UD"], it["items_ID"]])
    each = [np.linalg.matrix_power(matrix, k) @ first for k in range(layers + 1)]
    final, degrees = sum(each) / (layers + 1), seen(events, 9).sum(axis=0)
    everybody = np.arange(1, 12, dtype=np.int32)
    own = Queries.of_users(everybody, events.take(everybody))
    np.testing.assert_allclose(model.encode(own), final[1:12], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.score(own), final[1:12] @ final[12:].T, rtol=1e-4, atol=1e-5)
    # a history of any other person: item 8 was never had and says nothing, item 2 counts once
    rows = [[2, 5, 2, 8], [], [8], [2, 5]]
    asked = Queries(Events.of(rows), np.array([0, 0, 3, 3], np.int32), np.array([False, False, True, True]))
    below = sum(layer[12:] for layer in each[:-1])
    part = sum(below[item] / np.sqrt(2 * degrees[item]) for item in (2, 5))
    mean = first[1:12].mean(axis=0)
    expected = [
        (mean + part) / (layers + 1),
        final[1:12].mean(axis=0),
        final[3],
        (first[3] + part) / (layers + 1),
    ]
    np.testing.assert_allclose(model.encode(asked), expected, rtol=1e-4, atol=1e-5)


def test_lightgcn_asks_the_loss_for_all_pairs_and_adds_the_squares() -> None:
    events = log()
    model = untrained("lightgcn", events, 9, embedding_dim=4, num_layers=1, l2=0.3)
    it, had = numbers(model), seen(events, 9)
    final = (np.eye(21) + adjacency(events, 9)) / 2 @ np.concatenate([it["users_UD"], it["items_ID"]])

    def loss(hidden: Tensor, vectors: Tensor, bias: Tensor | None, targets: Tensor, without: Any = None) -> Tensor:
        assert bias is None
        np.testing.assert_array_equal(without.catalog_mask(0, len(targets), 9).numpy(), had[np.nonzero(had)[0]] > 0)
        return ((hidden @ vectors.T)[torch.arange(len(targets)), targets]).sum()

    _, batches = model.batches(dataset(events, 9), 100, np.random.default_rng(0))
    (batch,) = batches
    value, count = model.objective(batch, loss)
    users, items = np.nonzero(had)
    expected = (final[users] * final[12 + items]).sum()
    expected += 0.3 * ((it["users_UD"][users] ** 2).sum() + (it["items_ID"][items] ** 2).sum()) / len(users)
    assert count == len(users)
    np.testing.assert_allclose(value.item(), expected, rtol=1e-5)


def test_lightgcn_that_was_loaded_does_not_train() -> None:
    kind: Any = model_class("lightgcn")
    model = kind(kind.Config(embedding_dim=4), dataset(log(), 9).schema)
    model.restore(untrained("lightgcn", log(), 9, embedding_dim=4).arrays())
    _, batches = model.batches(dataset(log(), 9), 9, np.random.default_rng(0))
    with pytest.raises(ValueError, match="cannot be trained further"):
        model.objective(next(batches), lambda *given: torch.zeros(()))


# NeuMF


def logits(it: Mapping[str, np.ndarray], people: np.ndarray, items: np.ndarray, of_gmf: int) -> list[np.ndarray]:
    """Of each path that there is, for every user and every item, one pair at a time."""
    found = []
    if "gmf.weight" in it:
        found.append((people[:, None, :of_gmf] * items[:, :of_gmf]) @ it["gmf.weight"][0] + it["gmf.bias"])
    if "mlp.out.weight" in it:
        side = np.concatenate(
            [
                np.broadcast_to(people[:, None, of_gmf:], (len(people), len(items), people.shape[1] - of_gmf)),
                np.broadcast_to(items[None, :, of_gmf:], (len(people), len(items), people.shape[1] - of_gmf)),
            ],
            axis=2,
        )
        weight = np.concatenate([it["mlp.user_layer.weight"], it["mlp.item_layer.weight"]], axis=1)
        x = np.maximum(side @ weight.T + it["mlp.user_layer.bias"], 0)
        for n in range(sum(name.startswith("mlp.layers") for name in it) // 2):
            x = np.maximum(x @ it[f"mlp.layers.{n}.weight"].T + it[f"mlp.layers.{n}.bias"], 0)
        found.append(x @ it["mlp.out.weight"][0] + it["mlp.out.bias"])
    return found


def fused(paths: list[np.ndarray], share: float) -> np.ndarray:
    return paths[0] if len(paths) == 1 else share * paths[0] + (1 - share) * paths[1]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layers", [1, 3])
def test_the_forms_of_neumf(form: str, layers: int) -> None:
    share = {"gmf_weight": 0.3} if form == "neumf" else {}
    model = untrained("neumf", log(), 9, variant=form, num_layers=layers, embedding_dim=3, **share)
    it = numbers(model)
    users = np.array([3, 1, 3], np.int32)
    expected = fused(logits(it, it["users_UE"][users], it["items_IE"], 3 if form != "mlp" else 0), 0.3)
    asked = Queries.of_users(users, Events.of([[1], [], [2, 2, 2]]))
    np.testing.assert_allclose(model.score(asked), expected, rtol=1e-4, atol=1e-5)
    candidates = np.array([[1, 8], [0, 0], [5, 3]], np.int32)
    chosen = np.take_along_axis(expected, candidates, axis=1)
    np.testing.assert_allclose(model.score(asked, candidates), chosen, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_neumf_tells_what_was_had_from_what_was_drawn(form: str) -> None:
    model = untrained("neumf", log(), 9, variant=form, num_layers=2, embedding_dim=3, num_negatives=2)
    it = numbers(model)
    paths = logits(it, it["users_UE"], it["items_IE"], 3 if form != "mlp" else 0)
    _, batches = model.batches(dataset(log(), 9), 5, np.random.default_rng(0))
    batch = next(batches)
    users, items, counts = (getattr(batch, name).numpy() for name in ("users_M", "items_MK", "weights_MK"))
    at = fused(paths, 0.5)[users[:, None], items]
    expected = (softplus(-at[:, :1]).sum(1) + (softplus(at[:, 1:]) * counts[:, 1:]).sum(1)).mean()
    value, count = model.objective(batch, None)
    assert count == len(users)
    np.testing.assert_allclose(value.item(), expected, rtol=1e-5)


def test_neumf_is_pretrained_as_two_models_would_be_and_goes_on_from_both() -> None:
    """The paths learn what a model of each alone learns from the same batches; the fused logits are their mean."""
    epochs, whole = 2, untrained("neumf", log(), 9, num_layers=2, embedding_dim=3, pretrain_epochs=2)
    alone = {form: untrained("neumf", log(), 9, variant=form, num_layers=2, embedding_dim=3) for form in ("gmf", "mlp")}
    of = {"gmf": slice(0, 3), "mlp": slice(3, None)}
    with torch.no_grad():
        for form, model in alone.items():
            for name, parameter in model.named_parameters():
                given = dict(whole.named_parameters())[name]
                parameter.copy_(given[:, of[form]] if name.endswith("E") else given)
    for model in (whole, *alone.values()):
        learn(model, range(epochs))
    people = Queries.of_users(np.arange(1, 12, dtype=np.int32), Events.of([[]] * 11))
    for form, model in alone.items():
        np.testing.assert_allclose(whole.users_UE.detach()[:, of[form]], model.users_UE.detach(), atol=1e-6)
        np.testing.assert_allclose(whole.items_IE.detach()[:, of[form]], model.items_IE.detach(), atol=1e-6)
    mean = (alone["gmf"].score(people) + alone["mlp"].score(people)) / 2
    np.testing.assert_allclose(whole.score(people), mean, atol=1e-5)
    # from the third epoch on it is the fused logits that learn
    it = numbers(whole)
    paths = logits(it, it["users_UE"], it["items_IE"], 3)
    batch = next(whole.batches(dataset(log(), 9), 5, np.random.default_rng(2))[1])
    at = fused(paths, 0.5)[batch.users_M[:, None], batch.items_MK]
    sign = np.where(np.arange(at.shape[1]) == 0, -1, 1)
    expected = (softplus(sign * at) * batch.weights_MK.numpy()).sum(1).mean()
    np.testing.assert_allclose(whole.objective(batch, None)[0].item(), expected, rtol=1e-5)


def learn(model: Any, epochs: range) -> None:
    step = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in epochs:
        for batch in model.batches(dataset(log(), 9), 5, np.random.default_rng(epoch))[1]:
            step.zero_grad()
            model.objective(batch, None)[0].backward()
            step.step()


def test_neumf_learns_to_fold_in() -> None:
    """Where users are a linear function of the mean of their items, so is who comes later."""
    events, rng = log(users=60), np.random.default_rng(0)
    model = untrained("neumf", events, 9, variant="gmf", embedding_dim=2)
    items, matrix = model.items_IE.detach().numpy(), rng.standard_normal((2, 2))
    had = seen(events, 9)
    means = had @ items / np.maximum(had.sum(axis=1), 1)[:, None]
    with torch.no_grad():
        model.users_UE.copy_(torch.from_numpy(1.0 + means @ matrix))
    model.finalize()
    asked = Queries.anonymous(Events.of([[2, 2, 5, 8], [], [8]]))
    expected = 1.0 + (items[2] + items[5]) / 2 @ matrix
    found = model._user_vectors(asked)
    np.testing.assert_allclose(found[0], expected, atol=0.02)
    np.testing.assert_allclose(found[1:], [model.users_UE.detach().numpy()[1:].mean(axis=0)] * 2, atol=1e-5)


# Mult-VAE


@given(seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_the_terms_of_the_bound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, mean, log_variance = (rng.standard_normal(shape) for shape in ((12, 9), (7, 4), (7, 4)))
    events = log(seed=seed)
    had = seen(events, 9)
    log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    sparse = events.csr(9)
    offsets, items = (torch.from_numpy(part.astype(np.int64)) for part in (sparse.indptr, sparse.indices))
    found = multinomial_nll(torch.tensor(scores), offsets, items)
    np.testing.assert_allclose(found, -(had * log_p).sum(axis=1), rtol=1e-10, atol=1e-12)
    own, standard = (
        torch.distributions.Normal(torch.tensor(at), torch.tensor(spread))
        for at, spread in ((mean, np.exp(log_variance / 2)), (0 * mean, np.ones_like(mean)))
    )
    expected = torch.distributions.kl_divergence(own, standard).sum(1)
    torch.testing.assert_close(gaussian_kl(torch.tensor(mean), torch.tensor(log_variance)), expected)


def test_a_gaussian_is_no_way_from_itself() -> None:
    assert gaussian_kl(torch.zeros(2, 3), torch.zeros(2, 3)).tolist() == [0.0, 0.0]


def bag_to_hidden(it: Mapping[str, np.ndarray], had: np.ndarray, form: str) -> tuple[np.ndarray, np.ndarray]:
    """``(mean or point, its hidden layer)``: the formulas of the module, dense."""
    unit = had / np.sqrt(np.maximum(had.sum(axis=1, keepdims=True), 1))
    told = unit @ it["encoder_IH"] + it["encoder_bias_H"]
    if "encoder_layer.weight" in it:
        told = np.tanh(told) @ it["encoder_layer.weight"].T + it["encoder_layer.bias"]
    point = np.tanh(told) if form == "dae" else told[:, : told.shape[1] // 2]
    return told, np.tanh(
        point @ it["decoder_layer.weight"].T + it["decoder_layer.bias"]
    ) if "decoder_layer.weight" in it else point


@pytest.mark.parametrize("form", ["vae", "dae"])
@pytest.mark.parametrize("hidden_dim", [None, 6])
def test_multi_vae_answers_from_the_mean(form: str, hidden_dim: int | None) -> None:
    model = untrained("multi_vae", log(), 9, variant=form, embedding_dim=4, hidden_dim=hidden_dim)
    it, had = numbers(model), seen(log(), 9)
    hidden = bag_to_hidden(it, had, form)[1]
    found = model.score(Queries.anonymous(log()))
    np.testing.assert_allclose(found, hidden @ it["decoder_IH"].T + it["decoder_bias_I"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["vae", "dae"])
def test_multi_vae_minimises_the_bound(form: str) -> None:
    values = {"kl_weight": 0.7, "kl_annealing_epochs": 2.0} if form == "vae" else {}
    model = untrained("multi_vae", log(), 9, variant=form, embedding_dim=4, hidden_dim=6, dropout=0.0, **values).train()
    count, batches = model.batches(dataset(log(), 9), 100, np.random.default_rng(0))
    (batch,) = batches
    model.steps += 1  # half of the way: one of two epochs of one batch
    torch.manual_seed(3)
    value, targets = model.objective(batch, None)
    assert (count, targets, model.steps.item()) == (1, 11, 2)
    it = numbers(model)
    had = np.zeros((11, 9))
    rows = np.repeat(np.arange(11), np.diff(batch.offsets))
    had[rows, batch.items_T] = 1
    told, hidden = bag_to_hidden(it, had, form)
    expected = 0.0
    if form == "vae":
        torch.manual_seed(3)
        mean, log_variance = told[:, :4], told[:, 4:]
        point = mean + np.exp(log_variance / 2) * torch.randn(11, 4).numpy()
        hidden = np.tanh(point @ it["decoder_layer.weight"].T + it["decoder_layer.bias"])
        expected = 0.35 * 0.5 * (np.exp(log_variance) + mean**2 - 1 - log_variance).sum(1).mean()
    scores = hidden @ it["decoder_IH"].T + it["decoder_bias_I"]
    expected -= (had * (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)))).sum(1).mean()
    np.testing.assert_allclose(value.item(), expected, rtol=1e-4)


def test_the_divergence_is_annealed() -> None:
    model = untrained("multi_vae", log(), 9, kl_weight=0.2, kl_annealing_epochs=3.0)
    found = []
    for _ in range(15):
        found.append(model.beta(batches=4))
        model.steps += 1
    np.testing.assert_allclose(found, 0.2 * np.minimum(1, np.arange(15) / 12))
    assert untrained("multi_vae", log(), 9, kl_weight=0.2, kl_annealing_epochs=0.0).beta(4) == 0.2


def test_multi_vae_drops_what_it_reads_and_nothing_of_what_it_is_to_find() -> None:
    model = untrained("multi_vae", log(), 9, variant="dae", dropout=0.9).train()
    batch = next(model.batches(dataset(log(), 9), 100, np.random.default_rng(0))[1])
    torch.manual_seed(0)
    losses = {model.objective(batch, None)[0].item() for _ in range(3)}
    assert len(losses) == 3
    asked = Queries.anonymous(log())
    np.testing.assert_array_equal(model.score(asked), model.score(asked))


# All


@pytest.mark.parametrize("key", KEYS)
def test_who_comes_later_is_folded_in(key: str) -> None:
    world = clusters()
    model = train_small(key, world.train, epochs=10)
    later = HeldOut(Queries.anonymous(world.test.queries.history), world.test.targets)
    assert hit_rate(model, World(world.train, later, world.k, world.best, world.naive)) > 0.95


class Validation:
    """A metric that can stop the run after so many validations."""

    def __init__(self, run: Run | None = None, stop_after: int = 0) -> None:
        self.run, self.left = run, stop_after

    def __call__(self, model: Recommender) -> Mapping[str, float]:
        self.left -= 1
        if self.run is not None and self.left == 0:
            self.run.interrupted = True
        return {"ndcg@10": float(model.score(Queries.anonymous(Events.of([[1, 2]]))).std())}


VARIANTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("lightgcn", {"embedding_dim": 4}, {}),
    ("lightgcn", {"embedding_dim": 4, "num_layers": 1}, {"loss": "bpr", "num_negatives": 5, "ema": 0.9}),
    ("multi_vae", {"embedding_dim": 4, "hidden_dim": 6, "kl_annealing_epochs": 2.5}, {"gradient_accumulation": 2}),
    ("neumf", {"embedding_dim": 2, "pretrain_epochs": 1.5}, {"ema": 0.5}),
]


@pytest.mark.parametrize(("key", "config", "training"), VARIANTS, ids=str)
def test_resumed_is_as_if_not_interrupted(
    key: str, config: dict[str, Any], training: dict[str, Any], tmp_path: Path
) -> None:
    how = Training(epochs=4, batch_size=3, learning_rate=0.01, **training)
    data = dataset(log(), 9)

    def fit(run: Run, stop_after: int = 0) -> Model:
        return train(key, config, how, data, run, Validation(run, stop_after))

    expected = fit(Run(5, tmp_path / "whole")).arrays()
    with pytest.raises(Interrupted, match="of 4 batches"):
        fit(Run(5, tmp_path / "parts"), stop_after=2)
    found = fit(Run(5, tmp_path / "parts")).arrays()
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_a_mean_of_weights_answers_from_what_follows_from_it() -> None:
    """With ``ema`` the vectors that have spread are those of the mean, in validation as at the end."""
    matrix, told = adjacency(log(), 9), []

    def spread(model: Any) -> np.ndarray:
        it = numbers(model)
        first = np.concatenate([it["users_UD"], it["items_ID"]])
        return ((first + matrix @ first) / 2)[12:]

    def validate(model: Any) -> Mapping[str, float]:
        told.append(np.abs(model.vectors - spread(model)).max())
        return {"ndcg@10": float(len(told))}

    how = Training(epochs=3, batch_size=3, learning_rate=0.1, ema=0.9)
    model: Any = train("lightgcn", {"embedding_dim": 4, "num_layers": 1}, how, dataset(log(), 9), Run(0), validate)
    np.testing.assert_allclose(model.vectors, spread(model), atol=1e-5)
    assert max(told) < 1e-5


@pytest.mark.parametrize("key", ["multi_vae", "neumf"])
def test_a_loss_that_nothing_looks_at_is_refused(key: str) -> None:
    told = r"training\.loss: got 'bce', but this model minimizes .*\ntraining\.num_negatives: got 3, "
    with pytest.raises(ValueError, match=told):
        train(key, {}, Training(loss="bce", num_negatives=3), dataset(log(), 9), Run(0))


def test_a_setting_of_another_form_is_refused() -> None:
    for key, values, told in (
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
        with pytest.raises(ValueError, match="but the variant") as caught:
            parse(model_class(key).Config, values, key)
        assert told in str(caught.value)
