"""Sentiment: known polarities, linear models on planted words, aspects, and tables of items."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.sparse import csr_array

from segue.cli import main
from segue.core.config import parse
from segue.core.messages import SegueWarning
from segue.core.run import Run
from segue.features.sentiment import SentimentSettings, add_sentiment, find_aspects, summarize_items
from segue.features.sentiment.aspects import AspectFinder
from segue.features.sentiment.scorers import LinearScorer, SentimentScorer, VaderScorer, _fit_logistic, split_sentences

GERMAN = SentimentSettings(language="de")


def planted_reviews(count: int = 120, seed: int = 0) -> pl.DataFrame:
    """Return German reviews whose words decide their ratings, 1 to 5."""
    rng = np.random.default_rng(seed)
    good, bad = ["großartig", "wunderbar", "spannend"], ["langweilig", "furchtbar", "schwach"]
    topics = ["Handlung", "Musik", "Kamera", "Regie"]
    rows = []
    for row in range(count):
        is_good = row % 3 != 0
        words = rng.choice(good if is_good else bad, 2)
        text = f"Die {rng.choice(topics)} war {words[0]} und die {rng.choice(topics)} ist {words[1]}."
        rows.append((f"u{row}", f"i{row % 4}", text, 5.0 if is_good else 2.0, row))
    return pl.DataFrame(rows, schema=["user_id", "item_id", "review", "rating", "timestamp"], orient="row")


def accuracy(reviews: pl.DataFrame) -> float:
    """Return the share of reviews whose sentiment has the sign of their rating."""
    return float(((reviews["sentiment"] > 0).to_numpy() == (reviews["rating"] > 3).to_numpy()).mean())


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("A great film, I loved it!", 1),
        ("A terrible film. I hated it.", -1),
        ("not good", -1),
        ("It wasn't bad at all", 1),
        ("<p>Loved&nbsp;it</p>", 1),
        ("😍😍", 1),
        (":(", -1),
        ("The film has two hours", 0),
    ],
)
def test_vader_knows_polarity(text: str, sign: int) -> None:
    score = VaderScorer().score([text])[0]
    assert np.sign(score) == sign
    assert abs(score) <= 1


def test_vader_averages_the_sentences_with_sentiment() -> None:
    scorer = VaderScorer()
    good, bad = "It was great.", "The end was bad."
    alone = scorer.score([good, bad])
    assert scorer.score([f"{good} {bad} It has two hours."])[0] == pytest.approx(alone.mean(), abs=1e-6)
    assert np.isnan(scorer.score(["", "  ", "<br>"])).all()


def test_long_texts_take_linear_time() -> None:
    text = "great film but bad " * 2_500
    assert len(split_sentences(text, "en")) == 100
    assert abs(VaderScorer().score([text])[0]) < 0.99  # not saturated by its length


def test_linear_model_learns_planted_words_and_negation() -> None:
    model = LinearScorer("en")
    texts = ["good film", "not good film", "really good story", "not good story"] * 5
    model.fit(texts, np.array([True, False] * 10), 0.1)
    scores = model.score(["good acting", "not good acting", "zebra", ""])
    assert scores[0] > 0.2
    assert scores[1] < -0.2
    assert np.isnan(scores[2:]).all()


def test_the_frequencies_of_the_polarities_do_not_matter() -> None:
    """Positive texts that occur three times have the same total weight as if they occurred once."""
    rows = csr_array(np.random.default_rng(0).random((8, 3)))
    is_positive = np.array([True] * 4 + [False] * 4)
    repeated = np.r_[0:4, 0:4, 0:4, 4:8]
    coefficients, intercept = _fit_logistic(rows, is_positive, 0.1)
    again, again_intercept = _fit_logistic(csr_array(rows.toarray()[repeated]), is_positive[repeated], 0.1 * 16 / 8)
    np.testing.assert_allclose(again, coefficients, atol=1e-3)
    assert again_intercept == pytest.approx(intercept, abs=1e-3)
    model = LinearScorer("en")
    model.fit(["film good"] * 90 + ["film bad"] * 10, np.array([True] * 90 + [False] * 10), 1.0)
    good, bad = model.score(["good", "bad"])
    assert good > 0.5
    assert bad < -0.5


def test_logistic_regression_is_at_its_minimum() -> None:
    """The gradient of the documented loss, computed by differences, vanishes."""
    texts = ["a b", "a c", "b c", "c c", "a a", "b b"]
    is_positive = np.array([True, True, False, False, True, False])
    model = LinearScorer("de")
    model.fit(texts, is_positive, 0.5)
    rows = model._weights.transform(model._documents(texts)).toarray()
    signs = np.where(is_positive, 1, -1)

    def loss(parameters: Any) -> Any:
        margins = signs * (rows @ parameters[:-1] + parameters[-1])
        return np.log1p(np.exp(-margins)).sum() + 0.25 * (parameters[:-1] ** 2).sum()

    best = np.append(model._coefficients_W, model._intercept)
    steps = np.eye(len(best)) * 1e-4
    slopes = [(loss(best + step) - loss(best - step)) / 2e-4 for step in steps]
    np.testing.assert_allclose(slopes, 0, atol=1e-3)


def test_events_are_scored_by_models_that_have_not_seen_them() -> None:
    """Ratings at random: a model that scores its own texts would predict them, cross-fitting must not."""
    rng = np.random.default_rng(0)
    words = np.array([f"wort{code}" for code in range(400)])
    texts = [" ".join(rng.choice(words, 12)) for _ in range(120)]
    reviews = pl.DataFrame({"review": texts, "rating": rng.permutation([1.0, 5.0] * 60)})
    found = add_sentiment(reviews, rating="rating", settings=GERMAN)
    assert abs(np.corrcoef(found["sentiment"], found["rating"])[0, 1]) < 0.3
    model = LinearScorer("de")
    model.fit(texts, reviews["rating"].to_numpy() > 3, 1.0)
    assert np.corrcoef(model.score(texts), reviews["rating"])[0, 1] > 0.8


def test_the_linear_model_orders_reviews_and_is_deterministic() -> None:
    reviews = planted_reviews()
    found = add_sentiment(reviews, rating="rating", settings=GERMAN)
    assert found.columns == [*reviews.columns, "sentiment"]
    assert accuracy(found) > 0.95
    assert found.equals(add_sentiment(reviews, rating="rating", settings=GERMAN))
    assert not found.equals(add_sentiment(reviews, rating="rating", settings=GERMAN, run=Run(seed=1)))


def test_only_given_rows_are_learned_from() -> None:
    """The ratings of later reviews are inverted: they must not matter, and earlier ones decide."""
    reviews = planted_reviews()
    late = pl.col("timestamp") >= 60
    inverted = reviews.with_columns(pl.when(late).then(7 - pl.col("rating")).otherwise("rating").alias("rating"))
    first = add_sentiment(reviews, rating="rating", settings=GERMAN, learn_from=~late)
    assert first["sentiment"].equals(
        add_sentiment(inverted, rating="rating", settings=GERMAN, learn_from=~late)["sentiment"]
    )
    later = first.filter(late)
    assert accuracy(later) > 0.95


def test_ratings_decide_the_method() -> None:
    english, german = SentimentSettings(), GERMAN
    assert (english.choose_method(False), english.choose_method(True)) == ("vader", "linear")
    assert german.choose_method(True) == "linear"
    assert SentimentSettings(method="vader").choose_method(True) == "vader"
    for settings in (german, SentimentSettings(method="linear")):
        with pytest.raises(ValueError, match="name their column with rating="):
            settings.choose_method(False)


def test_settings_of_the_linear_model_matter() -> None:
    reviews = planted_reviews()

    def scores(**values: Any) -> Any:
        settings = parse(SentimentSettings, {"language": "de", **values}, "sentiment")
        return add_sentiment(reviews, rating="rating", settings=settings)["sentiment"].to_numpy()

    assert np.abs(scores(l2=100.0)).max() < np.abs(scores()).max() / 2
    assert not np.array_equal(scores(folds=3), scores())
    with pytest.raises(ValueError, match=r"120 texts have a rating above neutral=0.5 and 0 below it"):
        scores(neutral=0.5)


def test_reviews_without_text_have_no_value_and_are_reported() -> None:
    reviews = pl.DataFrame({"review": ["good film", None, ""]})
    with pytest.warns(SegueWarning, match="2 of 3 reviews have no text with known words"):
        found = add_sentiment(reviews)
    assert found["sentiment"].is_null().to_list() == [False, True, True]


@pytest.mark.parametrize(
    ("table", "values", "message"),
    [
        ({"reviw": ["x"]}, {}, "text: the reviews have no column 'review', did you mean 'reviw'"),
        ({"review": [1]}, {}, "text: column 'review' holds Int64, expected texts"),
        ({"review": ["x"]}, {"settings": GERMAN}, "name their column with rating="),
        ({"review": ["x"], "stars": ["5"]}, {"settings": GERMAN, "rating": "stars"}, "holds String, expected numbers"),
        ({"review": ["x"], "stars": [5]}, {"settings": GERMAN, "rating": "stars"}, "expected at least 5 of each"),
    ],
)
def test_bad_tables_are_named(table: dict[str, list[Any]], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        add_sentiment(pl.DataFrame(table), **values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"language": "german"}, "language: unknown language 'german', did you mean 'de'"),
        ({"language": "de", "method": "vader"}, "knows only English"),
        ({"method": "vader", "folds": 3}, "folds: got 3, which only method=linear uses"),
        ({"method": "lexicon"}, "sentiment.method: got 'lexicon'"),
    ],
)
def test_bad_settings_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(SentimentSettings, values, "sentiment")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vaderSentiment.vaderSentiment", None)
    with pytest.raises(ValueError, match="vaderSentiment is not installed: pip install"):
        VaderScorer()


# aspects


@pytest.mark.parametrize(
    ("review", "expected"),
    [
        ("The acting was great but the plot is boring.", {"acting": 1, "plot": -1}),
        ("Great battery life, terrible screen quality!", {"battery life": 1, "screen quality": -1}),
        ("The screen is excellent and the battery is awful", {"screen": 1, "battery": -1}),
        ("I expected the plot to be dull, but it is great.", {"plot": 1}),
        ("The soundtrack, which I loved, is by a friend.", {"soundtrack": 1}),
        ("I love the soundtrack and the cameras.", {"soundtrack": 1, "camera": 1}),
        ("The graphics aren't good. It is about a detective.", {"graphic": -1, "detective": 0}),
        ("Keanu Reeves gives a stunning performance", {"keanu reeves": 1, "performance": 1}),
        ("Loved it! 😀", {}),
        ("", {}),
    ],
)
def test_aspects_have_the_sentiment_of_their_clause(review: str, expected: dict[str, int]) -> None:
    found = AspectFinder("en", VaderScorer())(review)
    assert {aspect: int(np.sign(score)) for aspect, score in found} == expected


class WordScorer(SentimentScorer):
    """Scores two German words."""

    def score(self, texts: Any) -> Any:
        """Return 1 for ``gut`` and -1 for ``schlecht``."""
        return np.array([("gut" in text) - float("schlecht" in text) for text in texts], np.float32)


def test_aspects_without_a_tagger_are_words_between_stop_words() -> None:
    finder = AspectFinder("fr", WordScorer())
    assert [mention.aspect for mention in finder("la bande sonore et le scénario")] == ["bande sonore", "scénario"]
    assert [(aspect, score) for aspect, score in finder("le film est gut, mais la fin est schlecht")] == (
        [("film", 1.0), ("fin", -1.0)]
    )


ENGLISH = pl.DataFrame(
    [
        ("a", "The acting was great. The plot is boring."),
        ("a", "Wonderful acting, but a stupid plot."),
        ("a", "I love the acting!"),
        ("b", "The plot was brilliant, the acting is bad."),
        ("b", "Terrible acting. A dog appears."),
        ("c", None),
    ],
    schema=["movie", "review"],
    orient="row",
)


def test_aspects_per_item() -> None:
    found = find_aspects(ENGLISH, item="movie")
    assert found.columns == ["item_id", "aspect", "reviews", "sentiment"]
    signs = {(item, aspect): (count, np.sign(score)) for item, aspect, count, score in found.iter_rows()}
    assert signs == {("a", "acting"): (3, 1), ("a", "plot"): (2, -1), ("b", "acting"): (2, -1), ("b", "plot"): (1, 1)}
    assert find_aspects(ENGLISH, item="movie", min_reviews=4)["aspect"].unique().to_list() == ["acting"]
    assert "dog" in find_aspects(ENGLISH, item="movie", min_reviews=1)["aspect"]


def test_summary_of_items_by_hand() -> None:
    scored = pl.DataFrame({"movie": ["a", "a", "b", "c"], "sentiment": [1.0, 0.5, -0.6, None]})
    found = summarize_items(scored, item="movie", prior_reviews=2.0)
    mean = (1.0 + 0.5 - 0.6) / 3
    assert found["item_id"].to_list() == ["a", "b", "c"]
    assert found["review_count"].to_list() == [2, 1, 0]
    assert found["sentiment"].to_list() == pytest.approx([(1.5 + 2 * mean) / 4, (-0.6 + 2 * mean) / 3, None])
    assert summarize_items(scored, item="movie", prior_reviews=0)["sentiment"][0] == 0.75
    with pytest.raises(ValueError, match="prior_reviews: got -1"):
        summarize_items(scored, item="movie", prior_reviews=-1)
    with pytest.raises(ValueError, match="no column 'sentiment'"):
        summarize_items(scored.drop("sentiment"), item="movie")


def test_summaries_are_item_features_and_sentiment_is_a_value() -> None:
    """The tables are read as any log and table of items, and the features are usable by models."""
    import segue
    from segue.core.features import infer_features

    log = planted_reviews(40)
    scored = add_sentiment(log, rating="rating", settings=GERMAN)
    aspects = find_aspects(log, rating="rating", settings=GERMAN)
    items = summarize_items(scored, aspects=aspects)
    data = segue.load(scored.drop("rating", "review"), columns={"value": "sentiment"}, items=items)
    assert data.histories.values is not None
    assert np.sign([data.histories.values.min(), data.histories.values.max()]).tolist() == [-1, 1]
    kinds = {feature.name: feature.kind for feature in infer_features(data.item_features)[0]}
    assert kinds["sentiment"] == "number"
    assert kinds["liked_aspects"] == "tags"


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run a command and return its exit status and standard error."""
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    return int(left.value.code or 0), capsys.readouterr().err


def test_command_writes_scored_reviews_and_items(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, scored, items = (str(tmp_path / name) for name in ("reviews.csv", "scored.csv", "items.parquet"))
    planted_reviews().write_csv(source)
    common = ["data", "reviews", source, "--rating", "rating"]
    german = ["--set", "language=de"]
    assert call(capsys, *common, "--out", scored, "--items-out", items, "--min-reviews", "2", *german)[0] == 0
    assert accuracy(pl.read_csv(scored)) > 0.95
    assert pl.read_parquet(items).columns == (
        ["item_id", "sentiment", "review_count", "liked_aspects", "disliked_aspects"]
    )
    status, error = call(capsys, *common, "--items-out", str(tmp_path / "items.csv"), *german)
    assert status != 0
    assert f"--items-out {tmp_path}/items.csv: aspects are lists; expected a file with suffix .parquet or" in error
    assert "nothing to write; give --out, --items-out" in call(capsys, *common)[1]
    assert (
        "sentiment.language: unknown language 'xx'" in call(capsys, *common, "--out", scored, "--set", "language=xx")[1]
    )
