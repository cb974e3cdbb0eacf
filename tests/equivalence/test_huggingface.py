"""Hugging Face architectures attend in the direction that the objective needs, or are rejected."""

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


def build_model(name: str, **settings: Any) -> HuggingFace:
    torch.manual_seed(0)
    values = {"architecture": name, "embedding_dim": 16, "num_layers": 2, "num_heads": 4, "max_length": 11, **settings}
    return HuggingFace(HuggingFace.Config.model_validate(values), DataSchema(1, N_ITEMS)).eval()


def enlarge_weights(model: HuggingFace) -> HuggingFace:
    """Enlarge all weight matrices so that every visible item changes the states measurably."""
    for weight in model.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=0.3)
    return model


def encode(model: HuggingFace, items: list[list[int]], lengths: list[int]) -> torch.Tensor:
    sequences = Sequences(torch.tensor(items), torch.tensor(lengths), torch.full((len(items),), -1))
    with torch.no_grad():
        return model.encode_sequence(model.embed(sequences), sequences)


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("length", [2, 11])
def test_causal_models_do_not_see_later_items(name: str, length: int) -> None:
    model = enlarge_weights(build_model(name))
    items = torch.arange(length) % N_ITEMS
    for position in range(1, length):
        changed_items = items.clone()
        changed_items[position] = (changed_items[position] + 3) % N_ITEMS
        first, second = encode(model, [items.tolist(), changed_items.tolist()], [length, length])
        torch.testing.assert_close(first[:position], second[:position], rtol=0, atol=1e-5)
        assert (first[position] - second[position]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["bert", "roberta", "xlnet", "deberta-v2", "modernbert", "llama"])
def test_cloze_is_bidirectional_and_ignores_padding(name: str) -> None:
    options = {"is_causal": False} if name == "llama" else {}
    model = enlarge_weights(build_model(name, objective="cloze", options=options))
    short, long = [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 0, 1]
    alone = encode(model, [short], [4])[0]
    for filler in (0, N_ITEMS):
        padded = encode(model, [long, [*short, *[filler] * 4]], [8, 4])[1, :4]
        torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-5)
    assert (encode(model, [[1, 2, 3, 6]], [4])[0, 0] - alone[0]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["gpt2", "llama", "mamba"])
def test_causal_architectures_are_rejected_for_cloze(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is causal, and objective=cloze needs"):
        build_model(name, objective="cloze")


@pytest.mark.parametrize("name", ["deberta-v2", "modernbert", "fnet"])
def test_bidirectional_architectures_are_rejected_for_next_item(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is bidirectional, so it would see the next item"):
        build_model(name)


def test_architectures_that_ignore_the_mask_are_rejected_for_cloze() -> None:
    with pytest.raises(ValueError, match="'fnet' ignores attention_mask"):
        build_model("fnet", objective="cloze")


@pytest.mark.parametrize("name", ["vit", "t5", "bart"])
def test_architectures_without_input_embeddings_are_rejected(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' cannot encode a sequence of vectors"):
        build_model(name)


def test_unknown_names_are_rejected_with_suggestions() -> None:
    with pytest.raises(ValueError, match=r"model\.architecture: unknown 'gtp2', did you mean '.*gpt2'"):
        build_model("gtp2")
    with pytest.raises(ValueError, match="unknown 'q/q/q', expected one of the"):
        build_model("q/q/q")
    with pytest.raises(ValueError, match=r"model\.options\.attn_pdop: unknown .* did you mean 'attn_pdrop'\?"):
        build_model("gpt2", options={"attn_pdop": 0.1})
    with pytest.raises(
        ValueError, match=r"options\.n_embd: set model\.embedding_dim instead\n.*num_hidden_layers: set model\.num_l"
    ):
        build_model("gpt2", options={"n_embd": 8, "num_hidden_layers": 3})


def test_settings_reach_the_configuration() -> None:
    options = {"activation_function": "relu", "embd_pdrop": 0.0}
    gpt2 = build_model("gpt2", dropout=0.25, num_layers=3, options=options).encoder.encoder.config
    assert (gpt2.hidden_size, gpt2.num_hidden_layers, gpt2.num_attention_heads) == (16, 3, 4)
    assert (gpt2.attn_pdrop, gpt2.resid_pdrop, gpt2.embd_pdrop) == (0.25, 0.25, 0.0)
    assert gpt2.activation_function == "relu"
    bert = build_model("bert", dropout=0.25).encoder.encoder.config
    assert (bert.intermediate_size, bert.hidden_dropout_prob, bert.is_decoder) == (64, 0.25, True)
    assert not build_model("bert", objective="cloze").encoder.encoder.config.is_decoder


def test_construction_is_reproducible_and_preserves_the_random_state() -> None:
    first = build_model("gpt2")
    expected = torch.rand(3)
    second = build_model("gpt2")
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    for name, weight in first.state_dict().items():
        torch.testing.assert_close(weight, second.state_dict()[name], rtol=0, atol=0)
    assert second.train().encoder.encoder.training


@pytest.mark.parametrize("name", ["xlnet", "mamba", "bert"])
def test_other_architectures_learn_without_output(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    world = cycle()
    training = {"objective": "cloze", "mask_last_prob": 0.5, "epochs": 25} if name == "bert" else {"epochs": 12}
    model = train_small("huggingface", world.train, architecture=name, **training)
    assert hit_rate(model, world) > 0.95
    assert capfd.readouterr() == ("", "")


def test_scores_do_not_depend_on_the_batch() -> None:
    model = enlarge_weights(build_model("bert", objective="cloze"))
    queries = Queries.anonymous(Events.of([[1, 2], [], [3] * 20, [4]]))
    single = np.concatenate([model.score(queries.rows_between(row, row + 1)) for row in range(4)])
    np.testing.assert_allclose(model.score(queries), single, rtol=1e-4, atol=1e-4)


def test_missing_package_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"transformers is not installed: pip install 'segue\[huggingface\]'"):
        huggingface_encoder.HuggingFaceEncoder("gpt2", 16, 1, 2, 5, 0.0, {}, False)


def test_settings_are_parsed_without_the_package() -> None:
    code = (
        "import sys; from segue.core.registry import model_class; "
        "model_class('huggingface').Config(architecture='bert'); print('transformers' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "False"
