"""Items of two topics with texts, users of one topic each, and models that read the texts."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from functools import cache
from typing import Any

import numpy as np
import polars as pl

from segue.core import bundle
from segue.core.bundle import TrainedModel
from segue.core.config import parse
from segue.core.run import Run
from segue.core.types import Dataset, Events, Vocab
from segue.features.text.encode_items import add_text_features
from segue.features.text.settings import TextSettings
from segue.testing import dataset, train_small

TOPICS = {"space": "rocket orbit planet astronaut galaxy", "kitchen": "recipe oven flour butter cake"}
N_ITEMS = 24
EXTENSIBLE = ("content", "fusion", "two_tower")
SETTINGS: dict[str, dict[str, Any]] = {
    "content": {},
    "fusion": {"epochs": 6, "id_dropout": 0.5},
    "recurrent fusion": {"backbone": "gru4rec", "epochs": 1},
    "two_tower": {"epochs": 6, "id_dropout": 0.5},
}


def plot(rng: np.random.Generator, topic: str) -> str:
    return " ".join(rng.permutation(TOPICS[topic].split())[:4])


def world() -> Dataset:
    """Users who read items of one topic, whose plots have words of that topic."""
    rng = np.random.default_rng(0)
    topics = [[*TOPICS][item % 2] for item in range(N_ITEMS)]
    rows = [(2 * rng.permutation(N_ITEMS // 2)[: rng.integers(4, 9)] + user % 2).tolist() for user in range(100)]
    table: dict[str, Any] = {
        "id": [f"i{item}" for item in range(N_ITEMS)],
        "title": [f"Title {item}" for item in range(N_ITEMS)],
        "plot": [plot(rng, topic) for topic in topics],
        "tags": [["long", "new"] if item % 3 else ["short", "new"] for item in range(N_ITEMS)],
        "year": [1990 + item % 7 for item in range(N_ITEMS)],
        "rating": [0.5 * (item % 5) for item in range(N_ITEMS)],
        "is_free": [item % 4 == 0 for item in range(N_ITEMS)],
        "released": [date(2000, 1, 1 + item % 9) for item in range(N_ITEMS)],
    }
    data = replace(dataset(Events.of(rows), N_ITEMS), items=Vocab(table["id"]), item_features=pl.LazyFrame(table))
    settings = parse(TextSettings, {"columns": ["plot"], "encoder": "tfidf", "options": {"min_texts": 1}}, "text")
    return add_text_features(data, settings, Run(0))


@cache
def trained(key: str) -> TrainedModel:
    data = world()
    return bundle.create(key.split()[-1], train_small(key.split()[-1], data, **SETTINGS[key]), data)


def new_item(topic: str = "space", **features: Any) -> dict[str, Any]:
    return {"id": "new", "title": "New", "plot": plot(np.random.default_rng(1), topic), **features}


ODD_TEXTS = {
    "empty": "",
    "spaces": " \n\t ",
    "one word": "rocket",
    "100,000 words": "rocket orbit " * 50_000,
    "scripts": "rocket 火箭 ракета صاروخ จรวด",
    "emoji": "🚀🪐👩🏽‍🚀 rocket",
    "HTML": "<p>rocket &amp; <script>alert('orbit')</script> planet</p>",
    "control characters": "rocket\x01\x07\x1b[31m orbit\x7f\u202e",
    "NUL": "rocket\x00orbit",
    "unknown words": "qwxz zzkq",
}
