"""Models of the knowledge graph against dense matrices and plain loops."""

from typing import Any

import numpy as np
import pytest
import torch

from segue.core.types import Dataset, Events, Queries
from segue.nn.graph_propagation import RelationGraph
from segue.testing import dataset, train_small, with_knowledge

rng = np.random.default_rng(3)
DATA = with_knowledge(dataset(Events.of([[0, 1], [1, 2, 3], [4], [0, 4, 2]]), 7), [0, 1, 0, 1, -1, 2, 2])
ALL = Queries.of_users(np.arange(4, dtype=np.int32), DATA.histories)


def edges(data: Dataset) -> list[tuple[int, int, int]]:
    """Return head, relation and tail of the edges of users, items and entities, by the definition."""
    assert data.knowledge is not None
    graph, n_users, found = data.knowledge.graph, data.n_users, list[tuple[int, int, int]]()
    for user in range(n_users):
        for item in data.histories.items[data.histories.offsets[user] : data.histories.offsets[user + 1]].tolist():
            found += [(user, 0, n_users + item), (n_users + item, 1, user)]
    for head, relation, tail in zip(graph.heads_T, graph.relations_T, graph.tails_T, strict=True):
        first, second = n_users + int(head), n_users + int(tail)
        found += [(first, 2 + int(relation), second), (second, 3 + int(relation), first)]
    return found


def test_propagation_equals_dense_products_and_their_gradients() -> None:
    heads, tails = rng.integers(6, size=(2, 12))
    relations = rng.integers(3, size=24)
    graph = RelationGraph(np.concatenate([heads, tails]), np.concatenate([tails, heads]), relations, 6)
    weights_R, x_VD = (torch.tensor(rng.standard_normal(size), dtype=torch.float32) for size in ((3,), (6, 4)))
    dense_w, dense_x = weights_R.clone().requires_grad_(), x_VD.clone().requires_grad_()
    sums, connected = torch.zeros(6, 6), np.zeros((6, 6), np.bool_)
    for head, tail, relation in zip([*heads, *tails], [*tails, *heads], relations, strict=True):
        cell = torch.zeros(6, 6)
        cell[head, tail] = 1.0
        sums = sums + dense_w[relation] * cell
        connected[head, tail] = True
    norms = torch.tensor(1.0 / np.sqrt(np.maximum(connected.sum(1), 1)), dtype=torch.float32)
    matrix = sums * norms[:, None] * norms
    expected = [dense_x, matrix @ dense_x, matrix @ (matrix @ dense_x)]
    weights_R.requires_grad_()
    x_VD.requires_grad_()
    actual = graph.propagate(x_VD, graph.edge_weights(weights_R), 2)
    factor = torch.tensor(rng.standard_normal((6, 4)), dtype=torch.float32)
    for layers in (expected, actual):
        (torch.stack(layers).sum(0) * factor).sum().backward()
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(x_VD.grad, dense_x.grad)
    torch.testing.assert_close(weights_R.grad, dense_w.grad)


@pytest.mark.parametrize("normalization", ["joint", "separate"])
def test_lightkg_is_the_mean_of_dense_products(normalization: str) -> None:
    model: Any = train_small("lightkg", DATA, num_layers=2, epochs=3, normalization=normalization)
    size = DATA.n_users + DATA.n_items + model.schema.n_entities
    parts, connected = np.zeros((2, size, size)), np.zeros((2, size, size))
    for head, relation, tail in edges(DATA):
        group = int(relation > 1) if normalization == "separate" else 0
        parts[group, head, tail] += float(model.relation_weights_R[relation].detach())
        connected[group, head, tail] = 1
    norms = 1 / np.sqrt(np.maximum(connected.sum(2), 1))
    matrix = (parts * norms[:, :, None] * norms[:, None]).sum(0)
    x = np.concatenate([model.users_UD.numpy(force=True), model.entities_VD.numpy(force=True)])
    final = (x + matrix @ x + matrix @ matrix @ x) / 3
    np.testing.assert_allclose(model.vectors, final[4:11], atol=1e-5)
    np.testing.assert_allclose(model.propagated_users_UD.numpy(), final[:4], atol=1e-5)


def test_cease_is_ridge_regression_on_the_users_and_the_vertices() -> None:
    """Item by item, on all other items (Jeunen et al. 2020, section 3.2)."""
    model: Any = train_small("cease", DATA, l2=3.0, entity_weight=4.0)
    assert DATA.knowledge is not None
    graph = DATA.knowledge.graph
    linked = np.zeros((graph.n_vertices, DATA.n_items))
    for head, tail in zip(graph.heads_T.tolist(), graph.tails_T.tolist(), strict=True):
        for one, other in ((head, tail), (tail, head)):
            if one < DATA.n_items:
                linked[other, one] = linked[one, one] = 1.0
    assert linked.any()
    rows = np.concatenate([DATA.histories.csr(DATA.n_items).toarray(), 2.0 * linked])
    for item in range(DATA.n_items):
        others = np.delete(np.arange(DATA.n_items), item)
        x = rows[:, others]
        expected = np.linalg.solve(x.T @ x + 3.0 * np.eye(len(others)), x.T @ rows[:, item])
        np.testing.assert_allclose(model.weights_II[others, item], expected, atol=1e-5)


def test_cease_without_weight_of_entities_is_ease() -> None:
    mine: Any = train_small("cease", DATA, l2=3.0, entity_weight=0.0)
    theirs: Any = train_small("ease", DATA, l2=3.0)
    np.testing.assert_array_equal(mine.weights_II, theirs.weights_II)


@pytest.mark.parametrize(
    ("key", "settings"), [("lightkg", {}), ("lightkg", {"normalization": "separate"}), ("kgat", {})]
)
def test_folding_in_the_training_history_gives_the_trained_vector(key: str, settings: dict[str, Any]) -> None:
    model: Any = train_small(key, DATA, num_layers=2, epochs=3, **settings)
    np.testing.assert_allclose(model.encode(ALL), model.propagated_users_UD.numpy(), atol=1e-5)


def test_lightkg_with_fixed_weights_of_zero_is_lightgcn() -> None:
    settings = {"num_layers": 2, "epochs": 4, "loss": "cross_entropy", "embedding_dim": 8}
    graph: Any = train_small(
        "lightkg", DATA, **settings, initial_weight=0.0, learn_weights=False, normalization="separate"
    )
    assert graph.relation_weights_R.tolist() == [1.0, 1.0] + [0.0] * (len(graph.relation_weights_R) - 2)
    plain: Any = train_small("lightgcn", DATA, **settings)
    with torch.no_grad():
        plain.users_UD.copy_(graph.users_UD)
        plain.items_ID.copy_(graph.entities_VD[: DATA.n_items])
    plain.finalize()
    np.testing.assert_allclose(graph.vectors, plain.vectors, atol=1e-6)
    np.testing.assert_allclose(graph.encode(ALL), plain.encode(ALL), atol=1e-6)


def test_kgat_attention_is_a_softmax_over_the_edges_of_a_head() -> None:
    model: Any = train_small("kgat", DATA, num_layers=1, epochs=3)
    vectors = torch.cat([model.users_UD, model.entities_VD]).detach()
    logits: dict[int, list[tuple[int, float]]] = {}
    for head, relation, tail in edges(DATA):
        matrix, moved = model.projections_RDK[relation].detach(), model.relations_RK[relation].detach()
        value = (vectors[tail] @ matrix) @ torch.tanh(vectors[head] @ matrix + moved)
        logits.setdefault(head, []).append((tail, float(value.detach())))
    sums = torch.zeros_like(vectors)
    for head, found in logits.items():
        shares = torch.softmax(torch.tensor([value for _, value in found]), 0)
        for (tail, _), share in zip(found, shares, strict=True):
            sums[head] += share * vectors[tail]
    expected = torch.cat([vectors, torch.nn.functional.normalize(model._combine(0, vectors, sums), dim=1)], dim=1)
    np.testing.assert_allclose(model.vectors, expected[4:11].numpy(force=True), atol=1e-5)


def test_kgcn_scores_equal_a_recursion_over_the_sampled_neighbors() -> None:
    model: Any = train_small("kgcn", DATA, num_layers=2, num_neighbors=3, epochs=2)
    entities, relations = model.entities_VD.detach(), model.relations_RD.detach()

    def vector(vertex: int, user: torch.Tensor, steps: int, of: int) -> torch.Tensor:
        if steps == 0:
            return entities[vertex]
        interest = torch.softmax(relations[model.edges_VS[vertex]] @ user, 0)
        neighbors = [vector(int(one), user, steps - 1, of) for one in model.neighbors_VS[vertex]]
        x = vector(vertex, user, steps - 1, of) + sum(w * n for w, n in zip(interest, neighbors, strict=True))
        mapped = x + model.layers[steps - 1](x)
        return torch.tanh(mapped) if steps == of else torch.relu(mapped)

    with torch.no_grad():
        expected = [[float(vector(item, user, 2, 2) @ user) for item in range(7)] for user in model.users_UD]
    np.testing.assert_allclose(model.score(ALL), expected, atol=1e-5)
