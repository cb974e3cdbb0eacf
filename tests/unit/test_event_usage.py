"""Weights of events: gates and attention have known values, and truncation finds what a planted world needs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typer.testing import CliRunner

import segue
from segue.cli.app import app
from segue.cli.console import spell_option
from segue.core.messages import name_arguments
from segue.core.types import Events
from segue.experiment.records.held_out_readings import read_readings
from segue.nn.xlstm import mlstm
from segue.nn.xlstm.blocks import MLSTMBlock, SLSTMBlock
from segue.studies import effective_length, token_usage
from segue.studies.framework.runner import run_study
from segue.studies.framework.summary import events_for_share
from segue.studies.framework.usage import (
    attention_weights,
    choose_window,
    event_weights,
    gate_shares,
    gate_weights,
    last_attention,
    lstm_log_gates,
    share_of_events,
)

DATA = "simulated?users=60&items=40&seed=1"
SMALL: dict[str, Any] = {"epochs": 1, "max_length": 8, "embedding_dim": 8, "recipe": "none"}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))


def last(shape: int, *positions: int) -> Tensor:
    return torch.tensor(positions or [shape - 1])


def remembered(log_i_BLU: Tensor, log_f_BLU: Tensor) -> Tensor:
    """Return the product of input gate and later forget gates, ``(B, L, U)``, event by event."""
    events = range(log_i_BLU.shape[1])
    return torch.stack([log_i_BLU[:, one].exp() * log_f_BLU[:, one + 1 :].exp().prod(1) for one in events], 1)


def test_shares_are_products_of_gates_and_end_at_the_last_position() -> None:
    log_i, log_f = F.logsigmoid(torch.randn(2, 6, 3)), F.logsigmoid(torch.randn(2, 6, 3))
    found = gate_shares(log_i, log_f, torch.tensor([5, 3]))
    for row, length in enumerate((6, 4)):
        weights_LU = remembered(log_i[row : row + 1, :length], log_f[row : row + 1, :length])[0]
        expected = (weights_LU / weights_LU.sum(0)).mean(-1)
        assert found[row, :length].numpy() == pytest.approx(expected.numpy(), rel=1e-5)
        assert not found[row, length:].any()
    assert found.sum(1).numpy() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(("bias", "expected"), [(50.0, [0.2] * 5), (-50.0, [0.0] * 4 + [1.0])])
def test_an_lstm_with_open_or_closed_forget_gates(bias: float, expected: list[float]) -> None:
    lstm = nn.LSTM(4, 3, batch_first=True)
    with torch.no_grad():
        for parameter in lstm.parameters():
            nn.init.zeros_(parameter)
        lstm.get_parameter("bias_ih_l0")[3:6] = bias
    (gates,) = lstm_log_gates(lstm, torch.randn(1, 5, 4))
    assert gate_shares(*gates, last(5))[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_gates_of_lstm_layers_compute_the_memory_of_torch() -> None:
    lstm = nn.LSTM(4, 3, num_layers=2, batch_first=True)
    x_BLD = torch.randn(2, 6, 4)
    with torch.no_grad():
        _, (_, memory_NBU) = lstm(x_BLD)
        gates = lstm_log_gates(lstm, x_BLD)
        # the inputs of the second layer are the outputs of the first
        first = nn.LSTM(4, 3, batch_first=True)
        first.load_state_dict({name: lstm.state_dict()[name] for name in first.state_dict()})
        for layer, (inputs, (log_i, log_f)) in enumerate(zip((x_BLD, first(x_BLD)[0]), gates, strict=True)):
            names = (f"{name}_l{layer}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            input_GD, recurrent_GU, *biases = (getattr(lstm, name) for name in names)
            one = nn.LSTM(inputs.shape[-1], 3, batch_first=True)
            one.weight_ih_l0, one.weight_hh_l0, one.bias_ih_l0, one.bias_hh_l0 = map(
                nn.Parameter, (input_GD, recurrent_GU, *biases)
            )
            h_BLU, _ = one(inputs)
            before_BLU = torch.cat([torch.zeros(2, 1, 3), h_BLU[:, :-1]], 1)
            z_BLU = (inputs @ input_GD.T + before_BLU @ recurrent_GU.T + sum(biases))[..., 6:9].tanh()
            assert (remembered(log_i, log_f) * z_BLU).sum(1).numpy() == pytest.approx(
                memory_NBU[layer].numpy(), abs=1e-6
            )


def test_gates_of_an_mlstm_block_are_the_weights_of_its_normalizer() -> None:
    block = MLSTMBlock(8, 2, 1, 4, 4, 2.0, 15.0, 0.0, "parallel", 64).eval()
    with torch.no_grad():
        nn.init.normal_(block.gates.weight)
        x_BLD = torch.randn(2, 7, 8)
        log_i, log_f = block.log_gates(x_BLD)
        _, state = block.advance(x_BLD, torch.tensor([7, 7]), block.initial_state(2))
        (_, k_BHLP, _, _), _ = block._qkv(block._up_proj(block.norm(x_BLD)))
    expected = torch.einsum("blh,bhlp->bhp", remembered(log_i, log_f), k_BHLP)
    n_BHP = state["n"] * state["m"].exp()[..., None]
    assert n_BHP.numpy() == pytest.approx(expected.numpy(), rel=1e-3, abs=1e-5)


def test_gate_shares_are_the_weights_of_the_parallel_mlstm() -> None:
    length = 6
    i_BHL, f_BHL = torch.randn(1, 1, length) + 3, torch.randn(1, 1, length)
    ones = torch.full((1, 1, length, length), 5.0)  # all products of query and key are equal
    values = torch.eye(length)[None, None]
    h_L = mlstm.parallel(ones, ones, values, i_BHL, f_BHL)[0, 0, -1]
    shares = gate_shares(i_BHL.mT.flatten(2)[:, :, :1], F.logsigmoid(f_BHL)[0].mT[None], last(length))[0]
    assert shares.numpy() == pytest.approx(h_L.numpy(), rel=1e-4)


def test_gates_of_an_slstm_block_are_the_weights_of_its_normalizer() -> None:
    block = SLSTMBlock(8, 2, 1, 0, 4, 1.3, 0.0).eval()
    with torch.no_grad():
        nn.init.normal_(block.recurrent)
        x_BLD = torch.randn(2, 7, 8)
        log_i, log_f = block.log_gates(x_BLD)
        _, state = block.advance(x_BLD, torch.tensor([7, 7]), block.initial_state(2))
    n_BD = (state["n"] * state["m"].exp()).flatten(1)
    assert n_BD.numpy() == pytest.approx(remembered(log_i, log_f).sum(1).numpy(), rel=1e-4)


def test_attention_of_the_last_position_is_that_of_torch() -> None:
    q, k = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    values = torch.eye(5).expand(2, 3, 5, 5)
    visible = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])[:, None, None]
    last_B = torch.tensor([4, 2])
    for mask, causal in (
        (None, True),
        (visible, False),
        (torch.zeros(2, 1, 1, 5).masked_fill(~visible, -math.inf), False),
    ):
        expected = F.scaled_dot_product_attention(q, k, values, attn_mask=mask, is_causal=causal).mean(1)
        found = last_attention(q, k, last_B, mask, causal)
        for row, position in enumerate(last_B.tolist()):
            assert found[row].numpy() == pytest.approx(expected[row, position].numpy(), abs=1e-6)


@pytest.mark.parametrize("name", ["sasrec", "bert4rec"])
def test_attention_sums_to_one_over_events_and_token(name: str) -> None:
    parts = segue.split(DATA)
    model: Any = segue.train(name, parts, **SMALL).model
    queries = parts.test.queries
    queries = queries.take(np.flatnonzero(queries.history.lengths >= 8)[:5])
    before = model.score(queries)
    weights_NL = attention_weights(model, queries, 8)
    assert weights_NL is not None
    n_read = 8 - (name == "bert4rec")
    assert not np.isnan(weights_NL[:, :n_read]).any()
    assert np.isnan(weights_NL[:, n_read:]).all()
    sums = np.nansum(weights_NL, axis=1)
    assert sums == pytest.approx(np.ones(5), abs=1e-5) if name == "sasrec" else (sums < 1).all()
    assert gate_weights(model, queries, 8) is None
    assert (model.score(queries) == before).all()
    # the weights computed from the layers of the first block, one history at a time
    if name == "sasrec":
        one = queries.take(np.array([2]))
        items = torch.from_numpy(one.history.items[-8:].astype(np.int64))
        x_LD = model.items.weight[items] * 8**0.5 + model.positions[:8]
        layers = []
        for block in model.blocks:
            normed = block.norm_attention(x_LD)
            q, k = (
                y.unflatten(-1, (2, -1)).transpose(0, 1)
                for y in (block.query(normed)[-1:], block.key_value(normed).chunk(2, -1)[0])
            )
            layers.append((q @ k.mT / (q.shape[-1] ** 0.5)).softmax(-1)[:, 0].mean(0))
            x_LD = block(x_LD[None])[0]
        expected = torch.stack(layers).mean(0).flip(0).detach().numpy()
        assert weights_NL[2] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["lstm", "xlstm"])
def test_gate_weights_sum_to_one_and_leave_the_model_unchanged(name: str) -> None:
    parts = segue.split(DATA)
    model: Any = segue.train(name, parts, **SMALL).model
    queries = parts.test.queries
    queries = queries.take(np.flatnonzero(queries.history.lengths >= 8)[:5])
    before = model.score(queries)
    found = event_weights(model, queries, parts.test.targets.items[:5], 8)
    assert set(found) == {"gates", "gradient"}
    assert found["gates"].sum(1) == pytest.approx(np.ones(5))
    assert share_of_events(found["gradient"]).sum(1) == pytest.approx(np.ones(5))
    assert (model.score(queries) == before).all()


def test_bidirectional_cells_have_no_gate_weights() -> None:
    parts = segue.split(DATA)
    model: Any = segue.train("xlstm", parts, **SMALL, objective="cloze").model
    assert gate_weights(model, parts.test.queries, 8) is None


def test_changed_histories_keep_the_newest_events() -> None:
    history = Events.of([[1, 2, 3, 4, 5, 6, 7, 8], [9, 10], []])
    rng = np.random.default_rng(0)
    shuffled = effective_length.shuffle_older(history, 3, rng)
    assert shuffled.items[5:].tolist() == [6, 7, 8, 9, 10]
    assert sorted(shuffled.items[:5].tolist()) == [1, 2, 3, 4, 5]
    assert shuffled.items[:5].tolist() != [1, 2, 3, 4, 5]
    replaced = effective_length.replace_older(history, 3, rng, np.array([20], np.int32))
    assert replaced.items.tolist() == [20] * 5 + [6, 7, 8, 9, 10]
    assert replaced.offsets.tolist() == history.offsets.tolist()


@pytest.mark.parametrize("name", ["lstm", "sasrec"])
def test_truncation_to_the_whole_history_changes_nothing(name: str) -> None:
    parts = segue.split(DATA)
    model: Any = segue.train(name, parts, **SMALL).model
    longest = int(parts.test.queries.history.lengths.max())
    changed = effective_length.ChangedHistories(model, lambda history: history.last(longest))
    assert (changed.score(parts.test.queries) == model.score(parts.test.queries)).all()
    shorter = effective_length.ChangedHistories(model, lambda history: history.last(1))
    assert (shorter.score(parts.test.queries) != model.score(parts.test.queries)).any()


def test_window_and_share_of_events() -> None:
    window, rows = choose_window(np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), 50)
    assert (window, rows.tolist()) == (9, [8, 9])
    assert choose_window(np.full(1000, 60), 50)[0] == 50
    assert len(choose_window(np.full(1000, 60), 50)[1]) == 200
    assert [events_for_share([0.5, 0.3, 0.1, 0.1], share) for share in (0.5, 0.6, 0.9, 1.0)] == [1, 2, 3, 4]


def test_rank_correlation_is_spearmans() -> None:
    first = np.array([[1.0, 2.0, 3.0, np.nan], [4.0, 9.0, 7.0, np.nan]])
    assert token_usage.rank_correlation(first, first * 2) == pytest.approx(1.0)
    assert token_usage.rank_correlation(first, -first) == pytest.approx(-1.0)
    assert token_usage.rank_correlation(first[:, :1], first[:, :1]) is None


def write_log(path: Path, lag: int) -> str:
    """Write a log in which the item ``lag`` events before determines 8 of 10 items, and nothing else does."""
    rng = np.random.default_rng(0)
    follower = rng.permutation(60)
    items = rng.integers(0, 60, (300, 16))
    for step in range(lag, 16):
        items[:, step] = np.where(rng.random(300) < 0.8, follower[items[:, step - lag]], items[:, step])
    times = np.tile(np.arange(16), 300) * 86_400 + 1_600_000_000
    users = np.repeat(np.arange(300), 16)
    pl.DataFrame({"user_id": users, "item_id": items.ravel(), "timestamp": times}).write_csv(path)
    return str(path)


@pytest.mark.parametrize("lag", [1, 2])
def test_as_many_events_are_used_as_determine_the_next(tmp_path: Path, lag: int) -> None:
    settings = ["epochs=12", "embedding_dim=32", "learning_rate=1e-2", "dropout=0.2"]
    found = run_study("effective_length", write_log(tmp_path / "log.csv", lag), models=["lstm"], overrides=settings)
    (cell,) = found.record["cells"]
    assert cell["ndcg@10"] > 0.5
    assert effective_length.effective_length(cell) == lag
    newest = {line["count"]: line["truncated"]["ndcg@10"] for line in cell["events"]}
    assert newest[1] > 0.5 if lag == 1 else newest[1] < 0.3
    assert np.argmax(cell["weights"]["gradient"]) == lag - 1


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return the folders of finished runs of lstm, sasrec, and lstm with another split."""
    folders = []
    home = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGUE_HOME", str(home))
        for name, model, *options in (
            ("lstm", "lstm", "max_length=9"),
            ("sasrec", "sasrec", "max_length=7"),
            ("other", "lstm", "split.strategy=random"),
            ("knn", "item_knn"),
        ):
            small = [] if model == "item_knn" else ["epochs=1", "embedding_dim=8"]
            settings = [text for value in [*small, *options] for text in ("--set", value)]
            done = CliRunner().invoke(app, ["train", model, "--data", DATA, "--out", str(home / name), *settings])
            assert done.exit_code == 0, done.output
            folders.append(home / name)
    return folders


def test_finished_runs_are_studied_as_they_are(runs: list[Path]) -> None:
    log: list[str] = []
    found = run_study("token_usage", runs=runs[:2], log=log.append)
    assert not [line for line in log if "training" in line]
    first, second = found.record["cells"]
    assert (first["model"], first["run"], second["model"]) == ("lstm", "lstm", "sasrec")
    assert (len(first["weights"]["gates"]), len(second["weights"]["attention"])) == (9, 7)
    assert found.record["runs"] == ["lstm", "sasrec"]
    page = (found.folder / "README.md").read_text()
    assert "Runs: `lstm`, `sasrec`. Their settings that are not the defaults: " in page
    for model, settings in found.record["settings_of_runs"].items():
        own = {"model.embedding_dim=8", f"model.max_length={9 if model == 'lstm' else 7}", "training.epochs=1"}
        assert set(settings) == own
        assert f"`{model}`: `{' '.join(settings)}`" in page
    model: Any = segue.open(str(runs[0])).model
    assert first["length"] == 9
    parts = segue.split(DATA)
    queries, targets = parts.test.queries, parts.test.targets.items[parts.test.targets.offsets[:-1]]
    _, rows = choose_window(queries.history.lengths, 9)
    expected = event_weights(model, queries.take(rows), targets[rows], 9)["gates"].mean(0)
    assert first["weights"]["gates"] == pytest.approx(expected)


def test_the_command_line_studies_runs_and_records_the_reading(runs: list[Path]) -> None:
    command = ["study", "effective_length", "--run", str(runs[0])]
    before = len(read_readings(runs[0]))
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "`lstm`: NDCG@10 is" in done.output
    assert len(read_readings(runs[0])) == before + 1


def test_runs_that_a_study_cannot_use_are_errors(runs: list[Path]) -> None:
    lstm, sasrec, other, knn = map(str, runs)
    with pytest.raises(
        ValueError, match="runs=: the study gradient_stability trains its own models; runs can be given"
    ):
        run_study("gradient_stability", runs=[lstm])
    with pytest.raises(ValueError, match="data=, overrides=: data, models, seeds and settings are those of the runs"):
        run_study("token_usage", DATA, overrides=["epochs=1"], runs=[lstm])
    with pytest.raises(ValueError, match="runs=: knn: got the model item_knn; token_usage measures models of seq"):
        run_study("token_usage", runs=[lstm, knn])
    with pytest.raises(ValueError, match="runs=: other and lstm differ in data, split or ranked items"):
        run_study("token_usage", runs=[lstm, other])
    with pytest.raises(ValueError, match="runs=: lstm is given twice"):
        run_study("token_usage", runs=[lstm, sasrec, lstm])
    with pytest.raises(ValueError, match="models=: got the model ease; effective_length measures models of sequences"):
        run_study("effective_length", DATA, models=["ease"])
    with pytest.raises(ValueError, match="runs=: got no run"):
        run_study("token_usage", runs=[])
    with pytest.raises(ValueError, match="data=: missing, expected a source"):
        run_study("token_usage")
    with name_arguments(spell_option), pytest.raises(ValueError, match="--data: data, models, seeds and settings are"):
        run_study("token_usage", DATA, runs=[lstm])
