"""Click-through networks equal small independent computations, in batches of any size."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray

from segue.core.events import Events
from segue.core.examples.encoder import fit_encoder
from segue.core.examples.fields import MISSING, UNKNOWN, Examples, Field
from segue.core.examples.log_fields import LogFields, log_fields, log_schema
from segue.core.examples.settings import ExampleSettings
from segue.core.registry import builtin_models, model_class
from segue.core.run import Run
from segue.core.types import DataSchema, Queries
from segue.nn.ctr.click_network import ClickNetwork
from segue.nn.ctr.field_embeddings import ExampleBatch, FieldEmbeddings
from segue.nn.ctr.layers import EPSILON, Dice
from segue.testing import dataset
from segue.testing.worlds import with_features
from segue.training.settings import Training
from segue.training.train import train

FIELDS = (
    Field("user", "category", 6),
    Field("item", "category", 8),
    Field("price", "number"),
    Field("tags", "tags", 5),
    Field("history", "sequence", 8, shares="item"),
    Field("text", "vector", 3),
)
NETWORKS = [
    key
    for key in builtin_models()
    if model_class(key).__module__.startswith("segue.models.ctr") and issubclass(model_class(key), ClickNetwork)
]
SMALL = {"hidden": (4, 6), "embedding_dim": 3, "num_heads": 2, "gate_hidden": 2, "bottom": (5,), "num_filters": 2}


def examples(count: int = 7) -> Examples:
    """Return examples with missing numbers and vectors, empty lists and all reserved codes."""
    rng = np.random.default_rng(0)
    codes = rng.integers(2, (6, 8), (count, 2))
    codes[0], codes[1] = MISSING, UNKNOWN
    numbers = rng.normal(size=(count, 1))
    text = rng.normal(size=(count, 3))
    numbers[2], text[3] = np.nan, np.nan
    lists = {
        name: Events.of([[], [0], [1], *(rng.integers(size, size=n) for n in [1, 2, 5, 3, 4] * 3)]).take(
            np.arange(count)
        )
        for name, size in (("tags", 5), ("history", 8))
    }
    return Examples(FIELDS, codes, numbers, lists, {"text": text}, labels=rng.integers(2, size=count))


def build(key: str, fields: tuple[Field, ...] = FIELDS, **values: Any) -> Any:
    """Return a network in evaluation mode with random weights and running statistics."""
    kind = model_class(key)
    known = {name: value for name, value in {**SMALL, **values}.items() if name in kind.Config.model_fields}
    torch.manual_seed(0)
    model: Any = kind(kind.Config(**known), DataSchema(0, 0, fields=fields))
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape) + 0.5 if (tensor == 1).all() else torch.randn(tensor.shape))
        if "running_var" in str(tensor):
            tensor.abs_()
    for module in model.modules():
        if getattr(module, "running_var", None) is not None:
            module.running_var.copy_(torch.rand(module.running_var.shape) + 0.5)
    return model.eval()


def vectors(model: Any, data: Examples) -> NDArray[np.float64]:
    """Return the embeddings of an embedding layer field by field, ``(T, F, D)``; independent of its code."""
    weights = {name: one.detach().double().numpy() for name, one in model.state_dict().items()}
    table = weights["table.weight"]
    sizes = {"user": 6, "item": 8, "tags": 5}
    starts = {"user": 0, "item": 6, "tags": 14, "history": 6}
    assert len(table) == sum(sizes.values())
    rows = []
    for t in range(len(data)):
        number, text = float(data.numbers[t, 0]), data.vectors["text"][t].astype(np.float64)
        lists = {
            name: table[starts[name] + one.items[one.offsets[t] : one.offsets[t + 1]]]
            for name, one in data.lists.items()
        }
        rows.append(
            [
                table[data.codes[t, 0]],
                table[6 + data.codes[t, 1]],
                weights["missing_KD"][0] if np.isnan(number) else number * weights["numbers_KD"][0],
                *(one.mean(0) if len(one) else np.zeros(table.shape[1]) for one in (lists["tags"], lists["history"])),
                weights["missing_vectors"][0] if np.isnan(text[0]) else weights["projections.0.weight"] @ text,
            ]
        )
    return np.array(rows)


def tower(module: Any, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute fully connected layers with batch normalization and ReLU by hand."""
    for layer in module:
        name = type(layer).__name__
        weights = {key: one.detach().double().numpy() for key, one in layer.state_dict().items()}
        if name == "Linear":
            x = x @ weights["weight"].T + weights.get("bias", 0.0)
        elif name == "BatchNorm":
            scaled = (x - weights["running_mean"]) / np.sqrt(weights["running_var"] + EPSILON)
            x = scaled * weights["weight"] + weights["bias"]
        elif name == "ReLU":
            x = np.maximum(x, 0)
        elif name == "_FactorizedInteraction":
            u, w = np.split(x @ weights["linear.weight"].T + weights["linear.bias"], 2, axis=1)
            x = u + u * w
        else:
            assert name == "TowerDropout"
    return x


def array(tensor: torch.Tensor) -> NDArray[np.float64]:
    return tensor.detach().double().numpy()


def check(model: Any, expected: NDArray[np.float64]) -> None:
    np.testing.assert_allclose(model.predict_logits(examples()), expected, rtol=2e-4, atol=2e-4)


def pair_sum(x_TFD: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = sum((x_TFD[:, f] * x_TFD[:, g]).sum(1) for f, g in combinations(range(6), 2))  # type: ignore[assignment]
    return found


def test_factorization_machine_is_a_sum_over_all_pairs() -> None:
    model, data = build("ctr_factorization_machine"), examples()
    first = vectors(model.linear, data).sum((1, 2))
    check(model, array(model.bias) + first + pair_sum(vectors(model.embed, data)))


def test_wide_deep_and_deepfm_add_their_parts() -> None:
    data = examples()
    for key in ("wide_deep", "deepfm"):
        model = build(key)
        x = vectors(model.embed, data)
        expected = vectors(model.linear, data).sum((1, 2)) + tower(model.deep, x.reshape(len(x), -1))[:, 0]
        check(model, expected + (array(model.bias) + pair_sum(x) if key == "deepfm" else 0.0))


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
@pytest.mark.parametrize("rank", [0, 2])
def test_crosses_of_dcn_by_hand(structure: str, rank: int) -> None:
    model, data = build("dcn_v2", structure=structure, rank=rank), examples()
    first = vectors(model.embed, data).reshape(len(data), -1)
    x = first
    for cross in model.crosses:
        if rank:
            product = x @ array(cross[0].weight).T @ array(cross[1].weight).T + array(cross[1].bias)
        else:
            product = x @ array(cross.weight).T + array(cross.bias)
        x = first * product + x
    deep = tower(model.deep, x if structure == "stacked" else first)
    inputs = deep if structure == "stacked" else np.concatenate([x, deep], 1)
    check(model, (inputs @ array(model.out.weight).T + array(model.out.bias))[:, 0])


def test_dot_products_of_dlrm_by_hand() -> None:
    model, data = build("dlrm"), examples()
    torch.manual_seed(1)
    dense = model.embed_dense
    numbers = np.where(
        np.isnan(data.numbers), array(dense.missing_KD), np.nan_to_num(data.numbers) * array(dense.numbers_KD)
    )
    text = data.vectors["text"]
    projected = np.nan_to_num(text) @ array(dense.projections[0].weight).T
    texts = np.where(np.isnan(text[:, :1]), array(dense.missing_vectors), projected)
    bottom = tower(model.bottom, np.concatenate([numbers, texts], 1))
    table = array(model.embed.table.weight)
    parts = [table[data.codes[:, 0]], table[6 + data.codes[:, 1]]]
    for name, start in (("tags", 14), ("history", 6)):
        rows = [table[start + data.lists[name].take(np.array([t])).items] for t in range(len(data))]
        parts.append(np.array([row.mean(0) if len(row) else np.zeros(3) for row in rows]))
    parts.append(bottom)
    products = [(parts[f] * parts[g]).sum(1) for f, g in combinations(range(5), 2)]
    check(model, tower(model.top, np.concatenate([bottom, np.stack(products, 1)], 1))[:, 0])


@pytest.mark.parametrize("gate_fields", [((), ()), (("user",), ("item", "price"))])
def test_finalmlp_by_hand(gate_fields: tuple[tuple[str, ...], ...]) -> None:
    model, data = build("finalmlp", hidden=(4, 6), hidden_2=(8,), gate_fields=gate_fields), examples()
    x = vectors(model.embed, data)
    outputs = []
    for gate, layers in zip(model.gates, (model.tower_1, model.tower_2), strict=True):
        if gate.learned_D is None:
            inputs = x[:, gate.fields].reshape(len(x), -1)
        else:
            inputs = np.tile(array(gate.learned_D), (len(x), 1))
        weights = 2 / (1 + np.exp(-tower(gate.layers, inputs)))
        outputs.append(tower(layers, weights * x.reshape(len(x), -1)))
    first, second = outputs
    logits = (
        first @ array(model.linear_1.weight)[0] + array(model.linear_1.bias) + second @ array(model.linear_2.weight)[0]
    )
    for head, matrix in enumerate(array(model.bilinear_HOO)):
        a, b = first[:, head * 3 : head * 3 + 3], second[:, head * 4 : head * 4 + 4]
        logits = logits + ((a @ matrix) * b).sum(1)
    check(model, logits)


@pytest.mark.parametrize("is_gated", [True, False])
def test_finalnet_by_hand(is_gated: bool) -> None:
    model, data = build("finalnet", is_gated=is_gated), examples()
    x = vectors(model.embed, data)
    first = x
    if is_gated:
        gates = np.einsum("bfd,gf->bgd", x, array(model.gate.weight)) + array(model.gate.bias)[:, None]
        first = x * (1 + gates)
    logits = [tower(block, one.reshape(len(x), -1))[:, 0] for block, one in zip(model.blocks, (first, x), strict=True)]
    check(model, (logits[0] + logits[1]) / 2)


@pytest.mark.parametrize("softmax", [False, True])
def test_attention_of_din_by_hand(softmax: bool) -> None:
    model, data = build("din", softmax=softmax, activation="prelu"), examples()
    batch, sequence = ExampleBatch(data), FIELDS[4]
    item = model.embed(batch)[:, model.position_of["item"]]
    found = array(model.interest(batch, sequence, model.units[0], item))
    table, queries, unit = array(model.embed.table.weight), array(item), model.units[0]
    slopes = [array(layer.weight) for layer in unit if isinstance(layer, torch.nn.PReLU)]
    for t in range(len(data)):
        keys = table[6 + data.lists["history"].take(np.array([t])).items]
        q = np.tile(queries[t], (len(keys), 1))
        hidden = np.concatenate([q, keys, q - keys, q * keys], 1)
        linear = [layer for layer in unit if isinstance(layer, torch.nn.Linear)]
        for index, layer in enumerate(linear):
            hidden = hidden @ array(layer.weight).T + array(layer.bias)
            if index < len(slopes):
                hidden = np.where(hidden > 0, hidden, slopes[index] * hidden)
        weights = hidden[:, 0]
        if softmax and len(keys):
            weights = np.exp(weights) / np.exp(weights).sum()
        np.testing.assert_allclose(found[t], weights @ keys, rtol=1e-3, atol=1e-4)


def test_convolutions_of_text_cnn_by_hand() -> None:
    model, data = build("text_cnn", filter_widths=(1, 2, 4)), examples()
    found = array(model.maxima(ExampleBatch(data), FIELDS[4], model.filters[0]))
    table = array(model.embed.table.weight)
    for t in range(len(data)):
        words = table[6 + data.lists["history"].take(np.array([t])).items]
        expected = []
        for layer in model.filters[0]:
            width = layer.kernel_size[0]
            padded = np.concatenate([words, np.zeros((max(0, width - len(words)), 3))])
            windows = np.stack([padded[i : i + width] for i in range(len(padded) - width + 1)])
            outputs = np.einsum("pwd,cdw->pc", windows, array(layer.weight)) + array(layer.bias)
            expected.append(np.maximum(outputs, 0).max(0) if len(words) else np.zeros(2))
        np.testing.assert_allclose(found[t], np.concatenate(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lazy_rows", [0, 1])
def test_embeddings_have_the_vectors_and_gradients_of_torch(lazy_rows: int) -> None:
    batch = ExampleBatch(examples())
    embed = FieldEmbeddings([one for one in FIELDS if one.kind == "category"], 3, lazy_rows=lazy_rows)
    plain = torch.nn.Embedding.from_pretrained(embed.table.weight.detach().clone(), freeze=False)
    weights = torch.randn(batch.size, len(embed.fields), 3)
    found, expected = embed(batch), plain(batch.codes_BC + embed.starts_C)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert embed.table.weight.grad is not None
    torch.testing.assert_close(embed.table.weight.grad.to_dense(), plain.weight.grad)


def test_dice_uses_earlier_batches_for_a_single_row() -> None:
    dice = Dice(3)
    x = torch.randn(64, 3) * 2 + 1
    with torch.no_grad():
        dice.slope_N.fill_(0.3)
    p = torch.sigmoid((x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt())
    torch.testing.assert_close(dice(x), x * (p + 0.3 * (1 - p)))
    before = dice.norm.running_mean.clone()  # type: ignore[union-attr, operator]
    assert torch.isfinite(dice(x[:1])).all()
    assert torch.equal(dice.norm.running_mean, before)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", NETWORKS)
def test_an_example_has_the_same_logit_in_any_batch(key: str) -> None:
    model, data = build(key), examples(12)
    together = model.predict_logits(data)
    single = np.concatenate([model.predict_logits(data.rows_between(t, t + 1)) for t in range(len(data))])
    np.testing.assert_allclose(together, single, rtol=1e-4, atol=1e-4)
    assert len(model.predict_logits(data.rows_between(0, 0))) == 0
    assert len(set(together.round(4).tolist())) == len(data)


@pytest.mark.parametrize("key", NETWORKS)
@pytest.mark.parametrize("kind", ["category", "number", "sequence", "tags", "vector"])
def test_a_table_of_one_field_trains(key: str, kind: str) -> None:
    """Also with a last batch of one row, which batch normalization cannot normalize."""
    count, rng = 9, np.random.default_rng(0)
    size = {"number": 1, "vector": 2}.get(kind, 5)
    data = Examples(
        (Field("x", kind, size),),  # type: ignore[arg-type]
        rng.integers(size, size=(count, int(kind == "category"))),
        rng.normal(size=(count, int(kind == "number"))),
        {"x": Events.of([rng.integers(5, size=n % 4) for n in range(count)])} if kind in ("sequence", "tags") else {},
        {"x": rng.normal(size=(count, 2))} if kind == "vector" else {},
        labels=np.arange(count) % 2,
    )
    fields = model_class(key).Config.model_fields
    model: Any = train(
        key,
        {name: value for name, value in SMALL.items() if name in fields},
        Training(epochs=1, batch_size=4, metric="auc"),
        data,
        Run(0),
    )
    assert np.isfinite(model.predict_logits(data)).all()


def log() -> Any:
    """Return a log whose events name themselves: item, time and position are in step."""
    rng = np.random.default_rng(0)
    rows = Events.of([rng.integers(12, size=n) for n in [0, 1, 9, *rng.integers(2, 7, size=9)]])
    return with_features(dataset(replace(rows, times=1_000 + np.arange(rows.size)), 15))


@pytest.mark.parametrize("key", [*NETWORKS, "gradient_boosting"])
def test_scores_on_a_log_are_the_logits_of_its_pairs(key: str) -> None:
    data = log()
    fields = model_class(key).Config.model_fields
    small = {name: value for name, value in {**SMALL, "iterations": 5, "min_examples": 2}.items() if name in fields}
    model: Any = train(key, small, Training(epochs=1, batch_size=8), data, Run(0))
    users = np.array([2, 0, 3, 0], np.int32)
    history = Events.of([[1, 2], [3], [], [14, 2]])
    queries = Queries(history, users, np.array([True, False, True, False]))
    tables = model.tables if key == "gradient_boosting" else model._tables
    rows, items = np.divmod(np.arange(4 * 15), 15)
    pairs = tables.of_pairs(queries, rows, items.astype(np.int32))
    scores = model.score(queries)
    np.testing.assert_allclose(scores.ravel(), model.predict_logits(pairs), rtol=1e-4, atol=1e-5)
    assert (pairs.codes[15:30, 0] == UNKNOWN).all()  # an unknown user
    assert (pairs.codes[items >= 12, 1] == UNKNOWN).all()  # items without training events
    np.testing.assert_allclose(scores[1:2], model.score(queries.rows_between(1, 2)), rtol=1e-4, atol=1e-5)


def leaks(tables: LogFields, data: Any) -> list[int]:
    """Return the events whose example has a history other than the events before it."""
    events = np.arange(data.histories.size)
    found = tables.of_events(data, events, data.histories.items).lists["history"]
    wrong = []
    for event in events:
        start = data.histories.offsets[np.searchsorted(data.histories.offsets, event, side="right") - 1]
        before = data.histories.items[max(start, event - tables.max_history) : event] + 2
        if found.take(np.array([event])).items.tolist() != before.tolist():
            wrong.append(int(event))
    return wrong


@pytest.mark.parametrize("max_history", [1, 3, 50])
def test_no_example_of_a_log_sees_its_own_event_or_later_ones(
    max_history: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = log()
    schema = log_schema(data, ("history", "item_features"))
    tables = LogFields.of(data, schema, log_fields(schema, has_history=True), max_history)
    assert leaks(tables, data) == []
    # the first event whose history can differ; then plant leaks of the event itself and of the next one
    original = LogFields.of_events
    for shift in (1, 2):

        def shifted(self: LogFields, train: Any, events: Any, items: Any, shift: int = shift) -> Examples:
            found = original(self, train, events, items)
            later = np.minimum(events + shift, train.histories.size - 1)
            return replace(found, lists=original(self, train, later, items).lists)

        monkeypatch.setattr(LogFields, "of_events", shifted)
        assert len(leaks(tables, data)) > data.histories.size // 2
        monkeypatch.setattr(LogFields, "of_events", original)


def test_histories_of_queries_end_where_those_of_training_begin() -> None:
    """The example of the last event equals that of a query with the events before it."""
    data = log()
    schema = log_schema(data, ("history", "item_features"))
    tables = LogFields.of(data, schema, log_fields(schema, has_history=True), 4)
    event = int(data.histories.offsets[3]) - 1
    trained = tables.of_events(data, np.array([event]), data.histories.items[[event]])
    before = data.histories.take(np.array([2])).slice_rows(np.array([0]), np.array([8]))
    queries = Queries.of_users(np.array([2], np.int32), Events(before.offsets, before.items))
    asked = tables.of_pairs(queries, np.array([0]), data.histories.items[[event]])
    np.testing.assert_array_equal(trained.codes, asked.codes)
    np.testing.assert_array_equal(trained.lists["history"].items, asked.lists["history"].items)


def test_negatives_have_the_moment_of_their_event() -> None:
    from segue.core.examples.interaction_pairs import InteractionPairs

    data = log()
    schema = log_schema(data, ("history",))
    tables = LogFields.of(data, schema, log_fields(schema, has_history=True), 5)
    events, pairs = np.array([3, 8, 20]), InteractionPairs(data.histories, 15)
    found = tables.with_negatives(data, events, pairs, 4, np.random.default_rng(0))
    histories = [found.lists["history"].take(np.arange(k, 15, 3)) for k in range(3)]
    assert found.labels is not None
    assert found.labels.tolist() == [1.0] * 3 + [0.0] * 12
    for rows in histories:
        first = rows.take(np.array([0])).items.tolist()
        assert all(rows.take(np.array([k])).items.tolist() == first for k in range(5))
    assert found.weights is not None
    users = np.searchsorted(data.histories.offsets, events, side="right") - 1
    is_seen = pairs.contains(np.tile(users, 5), np.where(found.codes[:, 1] >= 2, found.codes[:, 1] - 2, 14))
    assert not (is_seen & (found.labels == 0) & (found.weights > 0)).any()


def test_a_sequence_of_a_table_shares_codes_with_a_category() -> None:
    table = pl.DataFrame(
        {"label": [0, 1] * 4, "item": ["a", "b", "a", "c"] * 2, "history": [["a"], ["b", "a"], [], ["z", "c"]] * 2}
    )
    encoder = fit_encoder(table, ExampleSettings(shares={"history": "item"}))
    fields = {one.name: one for one in encoder.fields}
    assert fields["history"] == Field("history", "sequence", fields["item"].size, shares="item")
    found = encoder.encode(table)
    assert found.lists["history"].take(np.array([1])).items.tolist() == [found.codes[1, 0], found.codes[0, 0]]
    assert found.lists["history"].take(np.array([3])).items.tolist() == [UNKNOWN, found.codes[3, 0]]
    model = build("din", encoder.fields)
    assert [one.name for one in model.sequences] == ["history"]
    assert not build("din", (Field("item", "category", 4),)).sequences


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"history": "price"}, r"shares: .*'price' is a number; expected a column of kind category"),
        ({"history": "brand"}, r"column 'brand' is missing"),
        ({"history": "same"}, r"'history': 'same'.*left out \(constant in training\)"),
    ],
)
def test_a_sequence_can_share_codes_with_categories_alone(shares: dict[str, str], message: str) -> None:
    table = pl.DataFrame(
        {"label": [0, 1], "item": ["a", "b"], "price": [0.5, 1.5], "same": ["x", "x"], "history": [["a"], ["b"]]}
    )
    with pytest.raises(ValueError, match=message):
        fit_encoder(table, ExampleSettings(shares=shares, min_count=1))
