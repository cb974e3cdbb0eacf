"""What every text encoder must do, whatever it computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from segue.core.run import Run
from segue.features.text.encoder import TextEncoder, create_encoder, encoder_keys

CATALOG = [
    "A robot falls in love with a girl in space",
    "The war in space between robots and people",
    "A girl and a boy fall in love in the old city",
    "Two old detectives hunt a killer in the dark city",
    "The old robot hunts a boy in the dark",
    "People of the city love the war in the dark",
]
UNUSUAL = [
    "",
    " \t\n\r ",
    "love",
    "love " * 100_000,
    "un robot amoureux, ein Roboter, 恋するロボット, робот",
    "🤖❤️👧🏽",
    "robot 🤖 love",
    "<html><script>alert(1)</script><p>robot &amp; girl</p>",
    "\x00\x01\x7f\u200b\u202e",
    "ro\x00bot",
    "\ud800",
    "robot \ud800 love",
    "zzqxj",
]
SMALL: dict[str, dict[str, Any]] = {
    "tfidf": {"size": 4, "min_texts": 1},
    "word2vec": {"size": 8, "epochs": 1, "min_count": 1},
    "word_vectors": {"max_words": 5000},
    "transformer": {"max_length": 32},
}


@pytest.fixture(scope="module", params=encoder_keys())
def fitted(request: pytest.FixtureRequest) -> TextEncoder:
    encoder = create_encoder(request.param, SMALL.get(request.param, {}))
    try:
        encoder.fit(CATALOG, Run())
    except ValueError as error:
        if "pip install" not in str(error):
            raise
        pytest.skip(str(error))
    return encoder


def test_vectors_have_the_stated_shape_and_are_finite_or_missing(fitted: TextEncoder) -> None:
    vectors = fitted.encode(CATALOG)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(CATALOG), fitted.size)
    assert np.isfinite(vectors).all()
    assert fitted.encode([]).shape == (0, fitted.size)


def test_a_vector_does_not_depend_on_the_other_texts(fitted: TextEncoder) -> None:
    together = fitted.encode(CATALOG)
    np.testing.assert_allclose(fitted.encode(CATALOG[::-1])[::-1], together, atol=2e-6)
    np.testing.assert_allclose(np.concatenate([fitted.encode([text]) for text in CATALOG]), together, atol=2e-6)


def test_unusual_texts_have_a_finite_vector_or_none(fitted: TextEncoder) -> None:
    vectors = fitted.encode(UNUSUAL)
    is_missing = np.isnan(vectors).all(1)
    assert np.isfinite(vectors[~is_missing]).all()
    found = dict(zip(UNUSUAL, is_missing.tolist(), strict=True))
    assert [found[text] for text in ("", " \t\n\r ", "\x00\x01\x7f\u200b\u202e", "\ud800")] == [True] * 4
    assert [found[text] for text in ("love", "love " * 100_000, "robot 🤖 love", "robot \ud800 love")] == [False] * 4


def test_a_restored_encoder_computes_the_same_vectors(fitted: TextEncoder) -> None:
    restored = type(fitted)(fitted.config)
    restored.restore(fitted.arrays())
    assert (restored.size, restored.digest) == (fitted.size, fitted.digest)
    texts = [*CATALOG, *UNUSUAL]
    np.testing.assert_array_equal(restored.encode(texts), fitted.encode(texts))


def test_the_same_texts_and_seed_give_the_same_encoder(fitted: TextEncoder) -> None:
    again = type(fitted)(fitted.config)
    again.fit(CATALOG, Run())
    assert again.digest == fitted.digest
