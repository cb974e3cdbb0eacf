"""Compare losses and their gradients with the formulas; compare dropout and attention with torch."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segue.core.registry import exported_functions
from segue.core.seen_items import SeenItems
from segue.nn.layers.attention_kernels import causal_attention
from segue.nn.layers.dropout import dropout
from segue.nn.losses import blocked_cross_entropy, losses
from segue.nn.losses.negatives import Negatives
from segue.training.settings_checks import is_sampled, setting_names
from segue.training.train import Training

DEFAULTS = Training()


def make_inputs(targets: int = 700, items: int = 50, width: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    return (
        randn(targets, width),
        randn(items, width),
        randn(items),
        torch.randint(items, (targets,), generator=generator),
    )


def assert_equal_with_gradients(actual: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    for gradient, expected_gradient in zip(
        torch.autograd.grad(actual, inputs), torch.autograd.grad(expected, inputs), strict=True
    ):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=1e-10)


def loss_by_definition(name: str, logits_MI: Tensor, target_M: Tensor, setting: float) -> Tensor:
    """Compute a loss over the whole catalog with all logits in memory."""
    if name == "cross_entropy":
        return F.cross_entropy(logits_MI, target_M, label_smoothing=setting)
    log_p_M = -F.cross_entropy(logits_MI, target_M, reduction="none")
    return (-((1.0 - log_p_M.exp()) ** setting) * log_p_M).mean()


@pytest.mark.parametrize("rows", [1, 64, 700, 10_000])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("scale", [1.0, 60.0])
@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [("cross_entropy", "label_smoothing", 0.0), ("cross_entropy", "label_smoothing", 0.2), ("focal", "focal_gamma", 2)],
)
def test_blocked_losses_match_their_formulas(
    name: str, setting: str, value: float, rows: int, with_bias: bool, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocked_cross_entropy, "_rows_per_block", lambda n_items, device: rows)
    hidden, vectors, offsets, target = make_inputs()
    bias = offsets if with_bias else None
    inputs = [x for x in (hidden, vectors, bias) if x is not None]
    actual = getattr(losses, name)(hidden * scale, vectors, bias, target, **{setting: value})
    logits = scale * hidden @ vectors.T + (0 if bias is None else bias)
    assert_equal_with_gradients(actual * 3, loss_by_definition(name, logits, target, value) * 3, inputs)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 5.0])
def test_focal_loss_is_finite_for_certain_and_impossible_targets(gamma: float) -> None:
    hidden, vectors = torch.tensor([[200.0], [-200.0]], requires_grad=True), torch.tensor([[1.0], [-1.0]])
    actual = losses.focal(hidden, vectors, None, torch.tensor([0, 0]), focal_gamma=gamma)
    assert actual.item() == pytest.approx(200.0)  # logit gap of 400 at the second target, loss 0 at the first
    (gradient,) = torch.autograd.grad(actual, hidden)
    torch.testing.assert_close(gradient, torch.tensor([[0.0], [-1.0]]))


def test_block_size_decreases_with_catalog_size() -> None:
    rows = blocked_cross_entropy._rows_per_block
    assert rows(3_706, "cpu") == rows(30_000, "cpu") == 256
    assert 64 < rows(100_000, "cpu") < 128
    assert rows(10_000_000, "cpu") == 64
    assert rows(3_706, "cuda") * 3_706 <= 1 << 26


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "cross_entropy_pairwise"])
def test_catalog_losses_do_not_save_logits_for_backward(name: str) -> None:
    hidden, vectors, _, target = make_inputs(targets=5000, items=400)
    saved: dict[int, int] = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (saved.update({id(x): x.numel()}), x)[1], lambda x: x):
        compute(name, hidden, vectors, None, target, torch.arange(8))
    assert max(saved.values()) <= 5000 * 16
    assert sum(saved.values()) <= 10 * (hidden.numel() + vectors.numel() + 8 * len(target))


def compute(
    name: str,
    hidden: Tensor,
    vectors: Tensor,
    bias: Tensor | None,
    target: Tensor,
    negative: Tensor,
    seen: SeenItems | None = None,
) -> Tensor:
    """Compute a loss with its default settings and uniform negatives."""
    function = exported_functions(losses)[name]
    negatives = Negatives(negative, torch.full_like(negative, -math.log(max(len(vectors) - 1, 1)), dtype=vectors.dtype))
    settings = {setting: getattr(DEFAULTS, setting) for setting in setting_names(function)}
    value: Tensor = function(
        hidden, vectors, bias, target, *([negatives] if is_sampled(name) else []), seen, **settings
    )
    return value


def sampled_loss_by_definition(
    name: str, hidden: Tensor, vectors: Tensor, bias: Tensor, target: Tensor, negative: Tensor
) -> Tensor:
    """Compute a sampled loss one position and one negative at a time."""
    items, total = len(vectors), hidden.new_zeros(())
    rate = len(negative) / (items - 1)
    power = rate * (0.75 * (1 - 1 / rate) + 1 / rate)
    weight = (items - 1) / len(negative)
    for h, t in zip(hidden, target, strict=True):
        positive = h @ vectors[t] + bias[t]
        others = [h @ vectors[j] + bias[j] for j in negative if j != t]
        softmax = -torch.log(positive.exp() / (positive.exp() + weight * sum(x.exp() for x in others)))
        pairs = -sum(F.logsigmoid(positive - x) for x in others) / len(negative)
        if name == "bce":
            total = total - F.logsigmoid(positive) - sum(F.logsigmoid(-x) for x in others) / len(negative)
        elif name == "gbce":
            offset = math.log(len(negative) / power)  # logit at which target and negative are equally likely
            total = total - power * F.logsigmoid(positive - offset) - sum(F.logsigmoid(offset - x) for x in others)
        elif name == "nll":
            total = total - torch.log(positive.exp() / (positive.exp() + sum(x.exp() for x in others)))
        elif name == "bpr":
            total = total + pairs
        elif name == "bpr_max":
            weights = torch.softmax(torch.stack(others), 0)
            ahead = sum(w * torch.sigmoid(positive - x) for w, x in zip(weights, others, strict=True))
            total = total - torch.log(ahead) + sum(w * x**2 for w, x in zip(weights, others, strict=True))
        elif name == "sampled_softmax_pairwise":
            total = total + 0.5 * softmax + 0.5 * pairs
        elif name == "cross_entropy_pairwise":
            total = total + 0.5 * F.cross_entropy(vectors @ h + bias, t) + 0.5 * pairs
        else:
            total = total + softmax
    return total / len(target)


SAMPLED = [name for name in exported_functions(losses) if is_sampled(name)]


@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_losses_match_their_formulas(name: str) -> None:
    hidden, vectors, bias, target = make_inputs(targets=12, items=20)
    negative = torch.tensor([3, 3, 7, 11, int(target[0])])
    actual = compute(name, hidden, vectors, bias, target, negative)
    assert_equal_with_gradients(
        actual, sampled_loss_by_definition(name, hidden, vectors, bias, target, negative), [hidden, vectors, bias]
    )


def make_seen_items(sequences: list[tuple[list[int], int]]) -> SeenItems:
    """Build seen items from ``(history, n_targets)`` pairs; the targets follow the last ``n_targets`` events."""
    items = torch.tensor([item for history, _ in sequences for item in history])
    positions = torch.cat([torch.arange(len(history)) for history, _ in sequences]).int()
    rows = torch.repeat_interleave(torch.tensor([len(history) for history, _ in sequences]))
    stop = torch.cat([torch.arange(len(history) - count + 1, len(history) + 1) for history, count in sequences]).int()
    return SeenItems(
        items, rows, positions, torch.repeat_interleave(torch.tensor([count for _, count in sequences])), stop
    )


@pytest.mark.parametrize("rows", [1, 2, 700])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_seen_items_are_excluded_from_the_catalog(rows: int, gamma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked_cross_entropy, "_rows_per_block", lambda n_items, device: rows)
    hidden, vectors, bias, _ = make_inputs(targets=6, items=20)
    sequences = [([3, 9, 3, 7], 3), ([5], 1), ([1, 2, 4], 2)]
    target = torch.tensor([8, 3, 0, 5, 4, 19])  # the second and the fourth target are seen items themselves
    before = [[3, 9], [3, 9, 3], [3, 9, 3, 7], [5], [1, 2], [1, 2, 4]]
    logits = hidden @ vectors.T + bias
    for row, seen_items in enumerate(before):
        index = torch.tensor([item for item in seen_items if item != target[row]], dtype=torch.int64)
        logits = logits.index_put((torch.full_like(index, row), index), torch.tensor(-math.inf, dtype=logits.dtype))
    actual = blocked_cross_entropy.blocked_cross_entropy(
        hidden, vectors, bias, target, make_seen_items(sequences), gamma
    )
    assert_equal_with_gradients(
        actual,
        loss_by_definition("focal" if gamma else "cross_entropy", logits, target, gamma),
        [hidden, vectors, bias],
    )


@pytest.mark.parametrize("name", exported_functions(losses))
def test_seen_negatives_are_ignored_like_the_target(name: str) -> None:
    hidden, vectors, bias, _ = make_inputs(targets=1, items=20)
    target, seen = torch.tensor([4]), make_seen_items([([7, 3, 7], 1)])
    inputs = [hidden, vectors, bias]
    actual = compute(name, *inputs, target, torch.tensor([3, 11, 7, 15, 3]), seen)
    assert is_sampled(name) or actual < compute(name, *inputs, target, torch.arange(1))
    if name != "cross_entropy_pairwise" and is_sampled(name):  # it also depends on the catalog
        assert_equal_with_gradients(actual, compute(name, *inputs, target, torch.tensor([4, 11, 4, 15, 4])), inputs)


@pytest.mark.parametrize("name", exported_functions(losses))
def test_losses_are_finite_if_all_negatives_equal_the_target(name: str) -> None:
    for items in (1, 20):
        hidden, vectors, bias, _ = make_inputs(targets=3, items=max(items, 2))
        target = torch.zeros(3, dtype=torch.int64)
        actual = compute(name, hidden, vectors[:items].clone(), bias[:items], target, torch.zeros(4, dtype=torch.int64))
        assert all(torch.isfinite(g).all() for g in (actual, *torch.autograd.grad(actual, (hidden, vectors, bias))))


@pytest.mark.parametrize("name", exported_functions(losses))
def test_losses_use_full_precision_under_autocast(name: str) -> None:
    hidden, vectors, bias, target = (x.detach() for x in make_inputs(targets=300, items=40))
    half = hidden.bfloat16().requires_grad_()
    vectors, bias = vectors.float(), bias.float()
    negative = torch.arange(5)
    with torch.autocast("cpu", torch.bfloat16):
        actual = compute(name, half, vectors.requires_grad_(), bias, target, negative)
    expected = compute(name, half.float(), vectors, bias, target, negative)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    assert torch.autograd.grad(actual, half)[0].dtype == torch.bfloat16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", exported_functions(losses))
def test_losses_are_equal_on_cuda(name: str) -> None:
    inputs = make_inputs(targets=300, items=40)
    actual = []
    for device in ("cpu", "cuda"):
        hidden, vectors, bias, target = (x.detach().to(device) for x in inputs)
        leaves = [x.requires_grad_() for x in (hidden, vectors, bias)]
        value = compute(name, hidden, vectors, bias, target, torch.arange(5, device=device))
        actual.append([x.cpu() for x in (value, *torch.autograd.grad(value, leaves))])
    for on_cpu, on_cuda in zip(*actual, strict=True):
        torch.testing.assert_close(on_cpu, on_cuda)


def test_sampled_softmax_over_all_items_equals_cross_entropy() -> None:
    hidden, vectors, bias, target = make_inputs(targets=1, items=20)
    negative = torch.tensor([j for j in range(20) if j != int(target[0])])
    actual = compute("sampled_softmax", hidden, vectors, bias, target, negative)
    torch.testing.assert_close(actual, F.cross_entropy(hidden @ vectors.T + bias, target))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_rate_and_scaling(rate: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(4000, 64, requires_grad=True)
    y = dropout(x, rate, training=True)
    dropped = (y == 0).float()
    assert dropped.mean(0).sub(rate).abs().max() < 5 * (rate * (1 - rate) / 4000) ** 0.5
    assert dropped.mean().sub(rate).abs() < 5 * (rate * (1 - rate) / x.numel()) ** 0.5
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 1 / (1 - rate)), rtol=1e-4, atol=0)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, y.detach())
    assert dropout(x, rate, training=False) is x


def test_attention_with_dropout_is_causal_and_differentiable() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, 6, 4, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(3))

    def seeded_attention(*x: Tensor) -> Tensor:
        torch.manual_seed(3)
        return causal_attention(*x, 0.3)

    assert torch.autograd.gradcheck(seeded_attention, (q, k, v))
    torch.testing.assert_close(
        causal_attention(q, k, v, 1e-9), F.scaled_dot_product_attention(q, k, v, is_causal=True), rtol=1e-3, atol=1e-3
    )
    later = seeded_attention(q, k, torch.cat([v[:, :, :3], v[:, :, 3:] + 1.0], 2))
    torch.testing.assert_close(later[:, :, :3], seeded_attention(q, k, v)[:, :, :3])
