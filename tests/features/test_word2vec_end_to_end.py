"""The encoder ``word2vec`` in an ordinary run: trained, evaluated, saved, served, and used for new items."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from starlette.testclient import TestClient

import segue
from segue.cli import main
from segue.core.types import Dataset, Events
from segue.experiment.evaluate_run import evaluate_run
from segue.serving.app import create_app
from segue.serving.server import build_service
from segue.serving.settings import ServingSettings

TOPICS = (
    "star rocket planet orbit moon comet galaxy launch",
    "wedding love kiss bride heart romance couple flowers",
)
GROUP = 30


def write_log(folder: Path) -> Path:
    """Write users who take items of one topic; the plot of an item is of words of its topic."""
    rng = np.random.default_rng(0)
    plots = [" ".join(rng.choice(TOPICS[code // GROUP].split(), 15)) for code in range(2 * GROUP)]
    rows = [(f"u{user}", f"i{item}") for user in range(90) for item in rng.permutation(GROUP)[:6] + GROUP * (user % 2)]
    folder.mkdir()
    users, items = zip(*rows, strict=True)
    times = np.arange(len(rows))
    pl.DataFrame({"user_id": users, "item_id": items, "timestamp": times}).write_csv(folder / "events.csv")
    ids = [f"i{code}" for code in range(2 * GROUP)]
    pl.DataFrame({"item_id": ids, "plot": plots}).write_csv(folder / "items.csv")
    tables = str(folder / "events.csv"), "--items", str(folder / "items.csv")
    run("data", "prepare", *tables, "--out", str(folder / "prepared"))
    return folder / "prepared"


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as status:
        main([*arguments])
    assert not status.value.code


@contextmanager
def client_of(artifact: Path) -> Iterator[TestClient]:
    with TestClient(
        create_app(build_service([artifact], "memory:", None, ServingSettings(deadline_ms=60_000)))
    ) as client:
        yield client


def groups(rows: Any) -> list[int]:
    return [int(row["id"].removeprefix("i")) // GROUP for row in rows]


def test_word2vec_is_trained_evaluated_and_served_like_any_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path / "home"))
    data, out = write_log(tmp_path / "shop"), tmp_path / "run"
    options = 'text.options={"size": 12, "epochs": 40, "learning_rate": 0.1, "subsample": 0, "remove_components": 0}'
    text = ["--set", "text.columns=[plot]", "--set", "text.encoder=word2vec", "--set", options]
    run("train", "content", "--data", str(data), *text, "--out", str(out))
    model = segue.open(out)
    (encoding,) = model.text_encodings
    assert encoding.settings["encoder"] == "word2vec"
    assert encoding.settings["options"]["epochs"] == 40
    assert [(one.name, one.kind, one.size) for one in model.model.schema.item_features] == [
        ("text_vector", "vector", 12)
    ]
    vectors = np.array(model.catalog.collect()["text_vector"].to_list())
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    first, second = vectors[:GROUP], vectors[GROUP:]
    assert (first @ first.T).mean() > (first @ second.T).mean() + 0.2, "plots of one topic are nearest"
    assert evaluate_run(out, "valid").record["hit_rate@10"] > 0.15, "chance is 0.1 for ten of a topic's 24 unseen"
    for history, group in ((["i0"], 0), ([f"i{GROUP}"], 1)):
        table = segue.recommend(model, histories=[history], k=5)
        assert [int(item[1:]) // GROUP for item in table["item_id"]] == [group] * 5
    artifact = segue.export(out, tmp_path / "artifact")
    with client_of(artifact) as client:
        item = {"id": "new", "features": {"plot": "a rocket to the moon and a planet in orbit"}}
        response = client.post("/v1/items", json={"items": [item]})
        assert response.status_code < 300, response.text
        found = client.post("/v1/recommend", json={"history": ["i0", "i1"], "k": GROUP}).json()["items"]
        assert "new" in [one["id"] for one in found]
        assert groups([one for one in found if one["id"] != "new"])[: GROUP - 2] == [0] * (GROUP - 2)
        other = client.post("/v1/recommend", json={"history": [f"i{GROUP}"], "k": GROUP - 1}).json()["items"]
        assert "new" not in [one["id"] for one in other]


def test_word2vec_vectors_of_users_are_encoded_for_new_users() -> None:
    rng = np.random.default_rng(0)
    rows = [(rng.permutation(GROUP)[:5] + GROUP * (user % 2)).tolist() for user in range(60)]
    about = [" ".join(rng.choice(TOPICS[user % 2].split(), 10)) for user in range(60)]
    table = pl.DataFrame({"id": [f"u{user}" for user in range(60)], "about": about})
    from segue.testing import dataset

    log: Dataset = replace(dataset(Events.of(rows), 2 * GROUP), user_features=table.lazy())
    data = segue.add_text(log, user_columns="about", encoder="word2vec", cache="none", size=8, epochs=30, subsample=0)
    model = segue.train("profile_model", data, l2=0.1)
    texts = [{"about": "bride and heart"}, {"about": "planet"}]
    found = segue.recommend(model, histories=[[], []], user_features=texts, k=3)
    assert [int(item[1:]) // GROUP for item in found["item_id"]] == [1] * 3 + [0] * 3
