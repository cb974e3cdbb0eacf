"""The two stages give the same lists in Python, on the command line and over HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

import segue
from segue.cli import main
from segue.core import bundle
from segue.core.run import Run
from segue.serving.app import create_app
from segue.serving.artifacts.artifact import build_artifact
from segue.serving.server import build_service
from segue.serving.settings import ServingSettings
from segue.training.settings import Training
from segue.training.train import train
from tests.serving.world import shop

BOOSTING = {"iterations": 6, "min_examples": 2, "num_leaves": 4, "validate_every": 3}
NETWORK = {"epochs": 2, "embedding_dim": 4, "hidden": (4,)}
CASES: dict[str, dict[str, Any]] = {
    "gradient_boosting": {"settings": {"gradient_boosting": BOOSTING}},
    "din": {"ranker": "din", "retriever": "sasrec", "settings": {"din": NETWORK, "sasrec": {"epochs": 1}}},
}


def from_command_line(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> list[tuple[str, float]]:
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*(str(one) for one in arguments), "-k", "12", "--json"])
    rows = json.loads(capsys.readouterr().out)["recommendations"]
    return [(row["item_id"], row["score"]) for row in rows]


@pytest.mark.parametrize("key", CASES)
def test_golden_queries_give_the_same_lists_everywhere(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shop()
    model = train("ranker", {"num_candidates": 8, **CASES[key]}, Training(), data, Run(0))
    trained = bundle.create("ranker", model, data)
    segue.save(trained, tmp_path / "saved")
    build_artifact("two-stages", trained, data.histories, tmp_path / "artifact", n_golden=8)
    service = build_service([tmp_path / "artifact"], "memory:", None, ServingSettings(deadline_ms=60_000))
    queries: list[tuple[dict[str, Any], list[str], dict[str, Any]]] = [
        ({"users": ["u3"]}, ["--user", "u3"], {"user": "u3"}),
        ({"histories": [["i1", "i2", "i7"]]}, ["--history", "i1,i2,i7"], {"history": ["i1", "i2", "i7"]}),
        (
            {"histories": [["i30"]], "filter": {"genres": "War"}},
            ["--history", "i30", "--filter", "genres=War"],
            {"history": ["i30"], "filter": {"genres": {"any": ["War"]}}},
        ),
    ]
    with TestClient(create_app(service)) as client:
        for in_python, on_command_line, over_http in queries:
            table = segue.recommend(tmp_path / "saved", k=12, **in_python)
            expected = list(zip(table["item_id"], table["score"], strict=True))
            assert len(expected) == 12
            response = client.post("/v1/recommend", json={"k": 12, **over_http}).json()
            assert response["source"] == "model"
            served = [(one["id"], one["score"]) for one in response["items"]]
            for found in (served, from_command_line(capsys, "recommend", tmp_path / "saved", *on_command_line)):
                assert [item for item, _ in found] == [item for item, _ in expected]
                np.testing.assert_allclose([x for _, x in found], [x for _, x in expected], rtol=1e-4, atol=1e-5)
        body = {"history": ["i1", "i2", "i7"], "item": str(expected[0][0])}
        assert client.post("/v1/explain", json=body).status_code == 200
