"""Architectures of transformers read in the directions they have to, or are refused."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from segue.core.batches import Sequences
from segue.core.types import DataSchema, Events, Queries
from segue.models.sequential.huggingface import HuggingFace
from segue.nn import huggingface_encoder
from segue.testing import cycle, hit_rate, train_small

pytest.importorskip("transformers", reason="needs the extra huggingface")
N_ITEMS = 7
CAUSAL = ["gpt2", "llama", "xlnet", "mamba", "xlstm", "bert", "mamba2", "roberta", "opt", "qwen3", "falcon_mamba"]


def model(name: str, **settings: Any) -> HuggingFace:
    torch.manual_seed(0)
    wanted = {"architecture": name, "embedding_dim": 16, "num_layers": 2, "num_heads": 4, "max_length": 11, **settings}
    return HuggingFace(HuggingFace.Config.model_validate(wanted), DataSchema(1, N_ITEMS)).eval()


def lively(made: HuggingFace) -> HuggingFace:
    """Weights and item vectors large enough that whatever reaches a position is seen there."""
    for weight in made.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=0.3)
    return made


def hidden(made: HuggingFace, items: list[list[int]], lengths: list[int]) -> torch.Tensor:
    read = Sequences(torch.tensor(items), torch.tensor(lengths), torch.full((len(items),), -1))
    with torch.no_grad():
        return made.encode_sequence(made.embed(read), read)


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("length", [2, 11])
def test_a_later_item_changes_no_earlier_state(name: str, length: int) -> None:
    made = lively(model(name))
    items = torch.arange(length) % N_ITEMS
    for changed in range(1, length):
        other = items.clone()
        other[changed] = (other[changed] + 3) % N_ITEMS
        one, two = hidden(made, [items.tolist(), other.tolist()], [length, length])
        torch.testing.assert_close(one[:changed], two[:changed], rtol=0, atol=1e-5)
        assert (one[changed] - two[changed]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["bert", "roberta", "xlnet", "deberta-v2", "modernbert", "llama"])
def test_cloze_reads_bidirectional_and_never_the_padding(name: str) -> None:
    options = {"is_causal": False} if name == "llama" else {}
    made = lively(model(name, objective="cloze", options=options))
    short, long = [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 0, 1]
    alone = hidden(made, [short], [4])[0]
    for filler in (0, N_ITEMS):
        padded = hidden(made, [long, [*short, *[filler] * 4]], [8, 4])[1, :4]
        torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-5)
    assert (hidden(made, [[1, 2, 3, 6]], [4])[0, 0] - alone[0]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["gpt2", "llama", "mamba"])
def test_causal_architectures_are_rejected_for_cloze(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is causal, and objective=cloze needs"):
        model(name, objective="cloze")


@pytest.mark.parametrize("name", ["deberta-v2", "modernbert", "fnet"])
def test_bidirectional_architectures_are_rejected_for_next_item(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is bidirectional, so it would see the next item"):
        model(name)


def test_architectures_that_ignore_the_mask_are_rejected_for_cloze() -> None:
    with pytest.raises(ValueError, match="'fnet' ignores attention_mask"):
        model("fnet", objective="cloze")


@pytest.mark.parametrize("name", ["vit", "t5", "bart"])
def test_what_reads_no_vectors_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' cannot encode a sequence of vectors"):
        model(name)


def test_unknown_names_are_refused_with_near_ones() -> None:
    with pytest.raises(ValueError, match=r"model\.architecture: unknown 'gtp2', did you mean '.*gpt2'"):
        model("gtp2")
    with pytest.raises(ValueError, match="unknown 'q/q/q', expected one of the"):
        model("q/q/q")
    with pytest.raises(ValueError, match=r"model\.options\.attn_pdop: unknown .* did you mean 'attn_pdrop'\?"):
        model("gpt2", options={"attn_pdop": 0.1})
    with pytest.raises(
        ValueError, match=r"options\.n_embd: set model\.embedding_dim instead\n.*num_hidden_layers: set model\.num_l"
    ):
        model("gpt2", options={"n_embd": 8, "num_hidden_layers": 3})


def test_settings_reach_the_configuration() -> None:
    options = {"activation_function": "relu", "embd_pdrop": 0.0}
    found = model("gpt2", dropout=0.25, num_layers=3, options=options).encoder.encoder.config
    assert (found.hidden_size, found.num_hidden_layers, found.num_attention_heads) == (16, 3, 4)
    assert (found.attn_pdrop, found.resid_pdrop, found.embd_pdrop) == (0.25, 0.25, 0.0)
    assert found.activation_function == "relu"
    bert = model("bert", dropout=0.25).encoder.encoder.config
    assert (bert.intermediate_size, bert.hidden_dropout_prob, bert.is_decoder) == (64, 0.25, True)
    assert not model("bert", objective="cloze").encoder.encoder.config.is_decoder


def test_the_same_seed_builds_the_same_model_and_the_trial_leaves_no_trace() -> None:
    one = model("gpt2")
    drawn = torch.rand(3)
    two = model("gpt2")
    torch.testing.assert_close(torch.rand(3), drawn, rtol=0, atol=0)
    for name, weight in one.state_dict().items():
        torch.testing.assert_close(weight, two.state_dict()[name], rtol=0, atol=0)
    assert two.train().encoder.encoder.training


@pytest.mark.parametrize("name", ["xlnet", "mamba", "bert"])
def test_other_architectures_learn_without_a_word(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    world = cycle()
    asked = {"objective": "cloze", "mask_last_prob": 0.5, "epochs": 25} if name == "bert" else {"epochs": 12}
    made = train_small("huggingface", world.train, architecture=name, **asked)
    assert hit_rate(made, world) > 0.95
    assert capfd.readouterr() == ("", "")


def test_an_answer_is_the_same_alone_and_in_a_batch() -> None:
    made = lively(model("bert", objective="cloze"))
    queries = Queries.anonymous(Events.of([[1, 2], [], [3] * 20, [4]]))
    single = np.concatenate([made.score(queries.rows_between(row, row + 1)) for row in range(4)])
    np.testing.assert_allclose(made.score(queries), single, rtol=1e-4, atol=1e-4)


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"transformers is not installed: pip install 'segue\[huggingface\]'"):
        huggingface_encoder.HuggingFaceEncoder("gpt2", 16, 1, 2, 5, 0.0, {}, False)


def test_settings_are_read_without_the_package() -> None:
    code = (
        "import sys; from segue.core.registry import model_class; "
        "model_class('huggingface').Config(architecture='bert'); print('transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
