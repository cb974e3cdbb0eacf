"""The TF-IDF encoder: weights by hand, cosines against dense algebra, planted topics, settings and storage."""

import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.core.config import parse
from segue.core.messages import SegueWarning
from segue.core.run import Run
from segue.features.text.encoder import create_encoder, encoder_keys
from segue.features.text.encoders.tfidf import Tfidf, TfidfWeights

TOPICS = {
    "space": "rocket planet orbit astronaut galaxy star launch gravity mission alien",
    "love": "romance wedding kiss heart couple marriage flower letter passion jealousy",
    "crime": "murder detective police evidence suspect prison robbery trial witness lawyer",
}


def planted_texts(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Return texts of ten words, most of them from one topic, and the topic of each."""
    rng = random.Random(seed)
    shared = "story time people place thing".split()  # noqa: SIM905
    topics = [list(TOPICS)[row % 3] for row in range(count)]
    texts = [" ".join(rng.choices(TOPICS[topic].split(), k=7) + rng.choices(shared, k=3)) for topic in topics]
    return texts, topics


def fitted(texts: list[str], **values: Any) -> Tfidf:
    """Return an encoder that has learned from ``texts``."""
    encoder = Tfidf(parse(Tfidf.Config, values, "text.options"))
    encoder.fit(texts, Run())
    return encoder


EXACT = {"word_form": "surface", "stop_words": False, "min_texts": 1, "max_share": 1.0}


def test_it_is_registered() -> None:
    assert "tfidf" in encoder_keys()
    assert isinstance(create_encoder("tfidf", {"size": 5}), Tfidf)


def test_weights_by_hand() -> None:
    documents = [["a", "a", "b"], ["a", "c"], ["b", "b", "b", "b"]]
    rows = TfidfWeights.learn(documents, 1, 1.0, 10, sublinear=True).transform(documents).toarray()
    idf_a, idf_c = math.log(4 / 3) + 1, math.log(4 / 2) + 1
    first = np.array([(1 + math.log(2)) * idf_a, idf_a, 0.0])
    np.testing.assert_allclose(rows[0], first / np.linalg.norm(first), rtol=1e-6)
    np.testing.assert_allclose(rows[1], np.array([idf_a, 0, idf_c]) / math.hypot(idf_a, idf_c), rtol=1e-6)
    np.testing.assert_allclose(rows[2], [0, 1, 0])


@pytest.mark.parametrize("sublinear", [True, False])
@pytest.mark.parametrize("idf", [True, False])
def test_without_truncation_cosines_are_those_of_tfidf(sublinear: bool, idf: bool) -> None:
    texts, _ = planted_texts(20)
    vectors = fitted(texts, size=200, sublinear=sublinear, idf=idf, **EXACT).encode(texts)
    words = sorted({word for text in texts for word in text.split()})
    tf = np.array([[text.split().count(word) for word in words] for text in texts], float)
    df = (tf > 0).sum(0)
    weights = np.where(tf > 0, 1 + np.log(np.maximum(tf, 1)), 0) if sublinear else tf
    weights *= np.log(21 / (1 + df)) + 1 if idf else 1
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors @ vectors.T, weights @ weights.T, atol=1e-5)


def test_truncation_is_the_best_approximation() -> None:
    """The truncated decomposition by ARPACK spans the leading singular vectors of the dense one."""
    texts, _ = planted_texts(30)
    full, short = fitted(texts, size=200, **EXACT), fitted(texts, size=4, **EXACT)
    np.testing.assert_allclose(np.abs(full.arrays()["basis"][:, :4]), np.abs(short.arrays()["basis"]), atol=1e-4)


def test_planted_topics_are_separated_also_for_new_texts() -> None:
    texts, topics = planted_texts(90)
    encoder = fitted(texts, size=3, max_share=1.0)
    new, expected = planted_texts(30, seed=1)
    similarity = encoder.encode(new) @ encoder.encode(texts).T
    assert [topics[column] for column in similarity.argmax(1)] == expected
    same = np.array(expected)[:, None] == np.array(topics)
    assert similarity[same].mean() > similarity[~same].mean() + 0.5


def test_power_zero_gives_all_dimensions_the_same_weight() -> None:
    texts, _ = planted_texts(60)
    rows = {power: fitted(texts, size=5, singular_value_power=power, **EXACT).arrays()["basis"] for power in (0.0, 1.0)}
    np.testing.assert_allclose(np.linalg.norm(rows[1.0], axis=0), 1, rtol=1e-5)
    assert np.linalg.norm(rows[0.0], axis=0)[-1] > 1.5


def test_frequent_and_rare_words_are_excluded() -> None:
    texts = ["common rare one two", "common one three", "common two three", "common one two"]

    def words(**values: Any) -> set[str]:
        return set(fitted(texts, **{**EXACT, **values})._weights.words)

    assert words() == {"common", "rare", "one", "two", "three"}
    assert words(min_texts=2) == {"common", "one", "two", "three"}
    assert words(max_share=0.75) == {"rare", "one", "two", "three"}
    assert words(max_words=2, size=2) == {"common", "one"}


def test_texts_without_known_words_have_no_vector() -> None:
    texts, _ = planted_texts(30)
    vectors = fitted(texts, size=3).encode(["", "unknown zebra", "<p></p>", "😀", texts[0], "Rockets & <b>planets</b>"])
    assert np.isnan(vectors[:4]).all()
    np.testing.assert_allclose(np.linalg.norm(vectors[4:], axis=1), 1, rtol=1e-5)


def test_long_texts() -> None:
    texts, topics = planted_texts(30)
    long = " ".join(TOPICS[topics[0]].split() * 10_000)
    encoder = fitted([*texts, long], size=3, max_share=1.0)
    similarity = (encoder.encode([long]) @ encoder.encode(texts).T)[0]
    assert {topics[column] for column in np.argsort(-similarity)[:10]} == {topics[0]}


@pytest.mark.parametrize("texts", [[], ["", "<p>"], ["the", "and"], ["one word", "other thing"]])
def test_too_little_text_is_an_error_with_numbers(texts: list[str]) -> None:
    with pytest.raises(ValueError, match=rf"tfidf: none of \d+ words of {len(texts)} texts is in at least min_texts=2"):
        fitted(texts)


def test_few_words_of_many_are_reported() -> None:
    texts = [f"shared word{number} other{number} more{number}" for number in range(4)]
    with pytest.warns(SegueWarning, match=r"only 1 of 13 words of 4 texts are in at least min_texts=2 texts .* lower"):
        fitted(texts, max_share=1.0, word_form="surface")


def test_one_text_and_one_word() -> None:
    encoder = fitted(["word"], **EXACT)
    assert encoder.size == 1
    np.testing.assert_allclose(encoder.encode(["word", "word word"]), 1)


def test_fit_is_deterministic_and_restores() -> None:
    texts, _ = planted_texts(40)
    values = {"size": 6, "phrases": True, "phrase_min_count": 2, "phrase_min_npmi": 0.2}
    first, second = fitted(texts, **values), fitted(texts, **values)
    assert first.digest == second.digest
    restored = Tfidf(first.config)
    restored.restore(first.arrays())
    assert restored.size == first.size == 6
    np.testing.assert_array_equal(restored.encode(texts), first.encode(texts))
    assert restored.digest == first.digest
    with pytest.raises(ValueError, match="missing array 'idf'"):
        restored.restore({name: array for name, array in first.arrays().items() if name != "idf"})


def test_the_steps_of_the_pipeline_are_used() -> None:
    texts, _ = planted_texts(30)
    stemmed, surface = fitted(texts, size=3), fitted(texts, size=3, word_form="surface")
    assert np.isfinite(stemmed.encode(["planets"])).all()
    assert np.isnan(surface.encode(["planets"])).all()


def test_the_digest_depends_on_the_libraries_that_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, _ = planted_texts(30)
    stemmed, plain = fitted(texts, size=3), fitted(texts, size=3, word_form="surface", stop_words=False)
    digests = stemmed.digest, plain.digest
    monkeypatch.setattr("segue.features.text.pipeline.version", lambda name: "99")
    assert stemmed.digest != digests[0]
    assert plain.digest == digests[1]


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"text.options.size: got 20, expected at most max_words \(10\)"):
        fitted([], size=20, max_words=10)
    with pytest.raises(ValueError, match=r"text.options.max_shar: unknown key, did you mean 'max_share'"):
        fitted([], max_shar=1)


@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=6), min_size=1, max_size=6))
def test_rows_have_unit_length_or_are_empty(documents: list[list[str]]) -> None:
    weights = TfidfWeights.learn([["a", "b"], ["b", "c"], ["a"]], 1, 1.0, 9, sublinear=True)
    norms = np.linalg.norm(weights.transform(documents).toarray(), axis=1)
    known = [bool(set(tokens) & {"a", "b", "c"}) for tokens in documents]
    np.testing.assert_allclose(norms, np.array(known, float), rtol=1e-5)
