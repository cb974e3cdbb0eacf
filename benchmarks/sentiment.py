"""Sentiment of simulated reviews of known polarity: accuracy, and its gain as the value of events.

Accuracy is measured on single sentences of each kind and on aspects. For the gain, a log has ratings and reviews of
events; models learn from the ratings (an upper bound), from the sentiment of the reviews, or from the interactions
alone, and rank the held-out items of each user: the AUC between the items that the user rates 4 and more and those
rated 2 and less.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import rankdata

from benchmarks.machine import describe_lines
from benchmarks.sentiment_reviews import KINDS, LANGUAGES, simulate_log, simulate_reviews
from segue.core.messages import SegueWarning

__all__ = ["page", "run"]

USERS, ITEMS, EVENTS = 600, 200, 40
HELD_OUT = 10
RATED_SHARE = 0.1
"""Share of the events with a rating from which the linear model learns."""

BASELINE = "interactions, ials"
LINEAR = "sentiment (linear), als"
RATED = f"rating of {RATED_SHARE:.0%} of the events, als"


def run(options: Any) -> dict[str, Any]:
    """Measure accuracy in both languages, and the gain of values, for each seed."""
    count, users = (60, 40) if options.quick else (2_000, USERS)
    seeds = range(1 if options.quick else options.seeds)
    return {
        "accuracy": {seed: measure_accuracy(count, seed) for seed in seeds},
        "gain": summarize_gain([measure_gain(users, seed) for seed in seeds]),
        "sentences": count,
        "words_in_lexicon": lexicon_words(),
        "users": users,
    }


def lexicon_words() -> list[int]:
    """Return how many of the English words with sentiment VADER knows, and their number."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    words = f"{LANGUAGES['en'].positive} {LANGUAGES['en'].negative}".split()
    lexicon = SentimentIntensityAnalyzer().lexicon
    return [sum(word in lexicon for word in words), len(words)]


def measure_accuracy(count: int, seed: int) -> dict[str, float]:
    """Return the share of correct polarities per method and kind, and of aspects."""
    from segue.features.sentiment import SentimentSettings, add_sentiment
    from segue.features.sentiment.aspects import AspectFinder
    from segue.features.sentiment.scorers import VaderScorer, fit_linear

    rng = np.random.default_rng(seed)
    found = {}
    for language in LANGUAGES:
        kind_N = np.array(KINDS)[rng.integers(len(KINDS), size=count)]
        is_positive_N1 = rng.random((count, 1)) < 0.5
        texts = [
            simulate_reviews(is_positive_N1[row : row + 1], language, rng, (str(kind_N[row]),))[0][0]
            for row in range(count)
        ]
        reviews = pl.DataFrame({"review": texts, "rating": np.where(is_positive_N1[:, 0], 5.0, 1.0)})
        for method in ("vader", "linear") if language == "en" else ("linear",):
            settings = SentimentSettings(language=language, method=method)
            scores_N = add_sentiment(reviews, rating="rating", settings=settings)["sentiment"].to_numpy()
            is_correct_N = (scores_N > 0) == is_positive_N1[:, 0]
            is_correct_N &= scores_N != 0
            found[f"{method}, {language}"] = float(is_correct_N.mean())
            for kind in KINDS:
                found[f"{method}, {language}, {kind}"] = float(is_correct_N[kind_N == kind].mean())
    is_positive_NS = rng.random((count // 4, 3)) < 0.5
    texts, mentions = simulate_reviews(is_positive_NS, "en", rng)
    is_liked_N = rng.random(count) < 0.5
    learned, _ = simulate_reviews(is_liked_N[:, None], "en", rng)
    linear = fit_linear(learned, np.where(is_liked_N, 5.0, 1.0), SentimentSettings(method="linear"))
    for method, scorer in (("vader", VaderScorer()), ("linear", linear)):
        finder = AspectFinder("en", scorer)
        pairs = [(dict(finder(text)), planted) for text, planted in zip(texts, mentions, strict=True)]
        hits = [aspect in aspects for aspects, planted in pairs for aspect in planted]
        signs = [
            np.sign(aspects[aspect]) == (1 if is_positive else -1)
            for aspects, planted in pairs
            for aspect, is_positive in planted.items()
            if aspect in aspects
        ]
        found[f"{method}, en, aspects found"] = float(np.mean(hits))
        found[f"{method}, en, polarity of found aspects"] = float(np.mean(signs))
    return found


def measure_gain(users: int, seed: int) -> dict[str, NDArray[np.float64]]:
    """Return the AUC per user of each kind of value; NaN for users without liked or disliked held-out items."""
    import segue
    from segue.features.sentiment import SentimentSettings, add_sentiment

    log = simulate_log(users, ITEMS, EVENTS, seed)
    rng = np.random.default_rng(seed)
    is_held_out = pl.Series(np.tile(np.arange(EVENTS) < HELD_OUT, users))
    is_rated = pl.Series(rng.random(len(log)) < RATED_SHARE)
    train, test = log.filter(~is_held_out), log.filter(is_held_out)
    rated = train.filter(is_rated.filter(~is_held_out))
    known = pl.when(pl.Series(is_rated.filter(~is_held_out))).then("rating").alias("rating")
    linear = SentimentSettings(method="linear")
    values = {
        "rating of every event, als": ("als", train),
        "sentiment (vader), als": ("als", _as_rating(add_sentiment(train))),
        LINEAR: (
            "als",
            _as_rating(add_sentiment(train.with_columns(known), rating="rating", settings=linear)),
        ),
        RATED: ("als", rated),
        BASELINE: ("ials", train.drop("rating")),
        "popularity": ("popular", train.drop("rating")),
    }
    catalog = pl.DataFrame({"item_id": [f"i{column}" for column in range(ITEMS)]})
    scores = {}
    for name, (key, events) in values.items():
        model = segue.train(key, segue.load(events.drop("review"), items=catalog), seed=seed)
        scores[name] = np.array(
            [_auc(model, str(user), part) for (user,), part in test.group_by("user_id", maintain_order=True)]
        )
    return scores


def _as_rating(reviews: pl.DataFrame) -> pl.DataFrame:
    """Replace the ratings by sentiment on the same scale, 1 to 5."""
    return reviews.with_columns((3 + 2 * pl.col("sentiment")).alias("rating")).drop("sentiment").drop_nulls("rating")


def _auc(model: Any, user: str, held_out: pl.DataFrame) -> float:
    """Return the share of pairs of a liked and a disliked item in the right order; ties count half."""
    import segue

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SegueWarning)  # users without ratings are new users
        ranked = segue.rank(model, user, items=held_out["item_id"].to_list())
    table = held_out.join(ranked.select("item_id", "score"), on="item_id")
    liked, disliked = (
        table.filter(part)["score"].to_numpy() for part in (pl.col("rating") >= 4, pl.col("rating") <= 2)
    )
    if not len(liked) or not len(disliked):
        return float("nan")
    ranks = rankdata(np.concatenate([liked, disliked]))[: len(liked)]
    return float((ranks.sum() - len(liked) * (len(liked) + 1) / 2) / (len(liked) * len(disliked)))


def summarize_gain(draws: list[dict[str, NDArray[np.float64]]]) -> dict[str, Any]:
    """Compute means with intervals over the users of all seeds, and paired tests against interactions alone."""
    from segue.evaluation.bootstrap import estimate_values
    from segue.evaluation.significance import compare_all

    pooled = {name: np.concatenate([draw[name] for draw in draws]) for name in draws[0]}
    estimates = estimate_values(pooled, 0)
    every_test = compare_all(pooled)
    tests = {
        ({test.first, test.second} - {BASELINE}).pop(): test
        for test in every_test
        if BASELINE in (test.first, test.second)
    }
    between = [
        {"first": test.first, "second": test.second, "difference": test.difference, "p": test.p_holm}
        for test in every_test
        if {test.first, test.second} == {LINEAR, RATED}
    ]
    rows: dict[str, dict[str, Any]] = {}
    for name, found in estimates.items():
        rows[name] = {
            "auc": [found.mean, found.low, found.high],
            "draws": [float(np.nanmean(draw[name])) for draw in draws],
        }
        if name in tests:
            test = tests[name]
            sign = 1 if test.first == name else -1
            rows[name] |= {"difference": sign * test.difference, "p": test.p_holm}
    return {"rows": rows, "between": between, "users": int(np.isfinite(pooled[BASELINE]).sum()), "seeds": len(draws)}


def page(found: dict[str, Any]) -> str:
    """Format the tables."""
    accuracy, gain = found["accuracy"], found["gain"]
    n_known, n_words = found["words_in_lexicon"]
    seeds = list(accuracy)
    lines = [
        "# Sentiment of simulated reviews",
        "",
        f"Accuracy of the polarity of {found['sentences']:,} reviews with one sentence with sentiment and one without, "
        "half of them positive; a neutral answer is wrong. The linear model scores reviews that it has not seen, but "
        "all are made from the same few patterns and words, which it has: its accuracy on real reviews is not known. "
        f"VADER knows {n_known} of the {n_words} English words with sentiment.",
        "",
        "| method, language, kind of sentence | mean | " + " | ".join(f"seed {seed}" for seed in seeds) + " |",
        "| --- " + "| ---: " * (len(seeds) + 1) + "|",
    ]
    for name in accuracy[seeds[0]]:
        values = [accuracy[seed][name] for seed in seeds]
        lines.append(f"| {name} | {np.mean(values):.3f} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    lines += [
        "",
        "## Sentiment as the value of events",
        "",
        f"AUC between liked and disliked held-out items of {gain['users']:,} users in {gain['seeds']} simulated logs, "
        f"95 % intervals over users of the mean over the logs, and paired tests against {BASELINE} (Holm). The logs "
        "differ by more than these intervals. What users consume is independent of their taste, so that interactions "
        "carry no more than popularity. The linear model learns from the ratings "
        f"of {RATED_SHARE:.0%} of the events.",
        "",
        "| value of an event, model | AUC | 95 % interval | difference | p | seeds |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, row in gain["rows"].items():
        mean, low, high = row["auc"]
        test = f"{row['difference']:+.3f} | {row['p']:.4f}" if "p" in row else " | "
        draws = ", ".join(f"{value:.3f}" for value in row["draws"])
        lines.append(f"| {name} | {mean:.3f} | {low:.3f} to {high:.3f} | {test} | {draws} |")
    lines.append("")
    for test in gain["between"]:
        lines.append(f"* {test['first']} minus {test['second']}: {test['difference']:+.3f}, p {test['p']:.4f} (Holm)")
    return "\n".join([*lines, "* no setting was tuned", *describe_lines(found["machine"]), ""])
