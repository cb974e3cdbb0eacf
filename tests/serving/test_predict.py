"""The service of click-through models: equal to Python and the command line, and its errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'segue[serve]'")

from starlette.testclient import TestClient

import segue
from segue.cli import main
from segue.core.messages import SegueWarning
from segue.serving.auth.api_keys import create_key
from segue.serving.clicks.click_service import STEP_ROWS, PredictJob, load_click_model
from segue.serving.server import ServerConfig, create_application
from segue.serving.settings import ServingSettings

COLUMNS = {"tags": "tags", "seen": "sequence", "vector": "vector", "day": "time", "text": "text", "age": "number"}


def world(size: int = 400) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    x = rng.normal(size=size)
    return pl.DataFrame(
        {
            "click": (2 * x + rng.normal(size=size) > 0).astype(int),
            "user": rng.integers(9, size=size),
            "item": [f"item {one}" for one in rng.integers(20, size=size)],
            "mobile": rng.random(size) < 0.5,
            "x": x,
            "age": rng.integers(18, 70, size=size),
            "tags": [["a", "b"][: one % 3] for one in range(size)],
            "seen": [f"{one % 4}|{one % 7}" for one in range(size)],
            "vector": [[float(one % 5), 0.5] for one in range(size)],
            "day": [f"2024-05-{1 + one % 28:02} 18:30" for one in range(size)],
            "text": [["red shoes", "blue hats", ""][one % 3] for one in range(size)],
            "shop": "a",
        }
    ).with_columns(x=pl.when(pl.int_range(size) % 9 == 0).then(None).otherwise("x"))


TABLE = world()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "shown"
    text: dict[str, Any] = {"size": 2, "min_texts": 1, "max_share": 1.0}
    segue.train_clicks(
        "deepfm", TABLE[:250], TABLE[250:], label="click", calibration="isotonic", columns=COLUMNS, separator="|",
        text_options=text, epochs=1, embedding_dim=4, batch_size=64, folder=path,
    )  # fmt: skip
    return path


def client_of(*folders: Path, **options: Any) -> TestClient:
    config = ServerConfig(folders=folders, host="0.0.0.0", **options)
    return TestClient(create_application(config))


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    settings = ServingSettings(deadline_ms=60_000, max_batch_rows=350)
    with client_of(folder / "model", serving=settings) as found:
        yield found


def rows_of(table: pl.DataFrame) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(table.write_json())
    return rows


def predict(client: TestClient, rows: Any, status: int = 200, **options: Any) -> dict[str, Any]:
    response = client.post("/v1/predict", json={"rows": rows, **options})
    assert response.status_code == status, response.text
    found: dict[str, Any] = response.json()
    return found


def test_rest_python_and_the_command_line_predict_the_same(client: TestClient, folder: Path, tmp_path: Path) -> None:
    """Golden equality, of one row, of some, and of as many as are predicted in several steps."""
    model = segue.open_clicks(folder)
    for rows in (TABLE[:1], TABLE[7:60], TABLE[: STEP_ROWS + 40]):
        found = predict(client, rows_of(rows))
        expected = model.predict(rows)
        if len(rows) <= STEP_ROWS:
            assert found["probabilities"] == expected.tolist()
        else:
            np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5)
        assert found["predictions"] == [one >= model.threshold for one in found["probabilities"]]
        assert found["notes"] == []
        rows.write_parquet(tmp_path / "rows.parquet")
        paths = [str(tmp_path / name) for name in ("rows.parquet", "out.parquet")]
        with pytest.raises(SystemExit, match="0"):
            main(["clicks", "predict", str(folder), paths[0], "--out", paths[1]])
        assert pl.read_parquet(tmp_path / "out.parquet")["probability"].to_list() == expected.tolist()
    assert found["model"]["key"] == "deepfm"
    assert found["model"]["name"] == "shown"


def test_forms_of_json_are_those_of_tables(client: TestClient) -> None:
    row = rows_of(TABLE[1:2])[0]
    expected = predict(client, [row])["probabilities"]
    without = {name: cell for name, cell in row.items() if name not in ("click", "shop")}
    forms = [{**row, "user": str(row["user"])}, {**row, "user": float(row["user"])}, {**row, "age": str(row["age"])},
             {**row, "seen": row["seen"].split("|")}, {**row, "mobile": int(row["mobile"])}, without]  # fmt: skip
    for form in forms:
        assert predict(client, [form])["probabilities"] == expected, form
    empty = dict.fromkeys(row) | {"user": 1}
    missing = predict(client, [empty, {"user": 1}])["probabilities"]
    assert missing[0] == missing[1]
    assert predict(client, [row, {**row, "tags": [], "x": 1}])["probabilities"][0] == pytest.approx(expected[0])


def test_unknown_values_and_columns_are_noted(client: TestClient, folder: Path) -> None:
    rows = TABLE[:2].with_columns(user=pl.lit("stranger"), text=pl.lit("green"))
    notes = predict(client, rows_of(rows.with_columns(pirce=1.0)))["notes"]
    assert notes == [
        "column 'user': none of its values is known from training",
        "column 'text': none of its values is known from training",
        "column 'pirce' is not in the training data and is ignored",
    ]
    with pytest.warns(SegueWarning) as warned:
        segue.open_clicks(folder).predict(rows)
    assert [str(one.message) for one in warned] == notes[:2]


MIXED = "expected a list of texts or a list of numbers, got a list with other or different elements"


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"age": "old"}, "rows[1].age", "expected a number as in the rows before, got text of 3 characters"),
        ({"age": 1e30}, "rows[1].age", "expected a number of at most 1e+15 in magnitude, got 1e+30"),
        ({"age": True}, "rows[1].age", "expected a number, got true"),
        ({"user": ["a"]}, "rows[1].user", "expected text, a number or a truth value, got a list"),
        ({"user": "a"}, "rows[1].user", "expected a number as in the rows before, got text of 1 character"),
        (
            {"user": 2**70},
            "rows[1].user",
            "expected a whole number below 2**63 in magnitude, or text, got an integer of 22 digits",
        ),
        ({"age": 2**63}, "rows[1].age", f"expected a number of at most 1e+15 in magnitude, got {2**63}"),
        ({"day": -(2**63)}, "rows[1].day", f"expected Unix seconds, not milliseconds, got {-(2**63)}"),
        ({"tags": [1, 2**63]}, "rows[1].tags", "expected whole numbers below 2**63 in magnitude, or texts, got a list"),
        ({"vector": [1.0, 10**400]}, "rows[1].vector", "expected numbers below 2**63 in magnitude, got a list"),
        ({"tags": "a"}, "rows[1].tags", None),
        ({"vector": [1.0]}, "rows[1].vector", "expected vectors of 2 numbers, got a list"),
        ({"vector": ["a"]}, "rows[1].vector", "expected a list of numbers, got a list"),
        ({"day": "soon"}, "rows[1].day", "expected a date and time such as 2024-05-31 18:30, got text of 4 characters"),
        ({"text": 3}, "rows[1].text", "expected text, got 3"),
        (
            {"user": {"id": 1}},
            "rows[1].user",
            "expected text, a truth value, a number or a list, got an object",
        ),
        ({"tags": [["a"]]}, "rows[1].tags[0]", "expected text or a number, got a list"),
        ({"tags": ["a", 1]}, "rows[1].tags", MIXED),
        ({"tags": [1, 2, "a"]}, "rows[1].tags", MIXED),
        ({"tags": ["a", None]}, "rows[1].tags", MIXED),
    ],
)
def test_wrong_cells_name_row_and_column(
    client: TestClient, change: dict[str, Any], field: str | None, reason: str | None
) -> None:
    rows = rows_of(TABLE[1:3])
    found = predict(client, [rows[0], {**rows[1], **change}], 422)
    if field is not None and reason is not None:
        assert found["fields"] == {field: reason}
    assert found["error"] == "invalid"
    assert "rows[1]" in found["message"]


def test_text_that_is_no_number_is_an_error(client: TestClient) -> None:
    found = predict(client, rows_of(TABLE[1:3].with_columns(age=pl.Series(["41", "old"]))), 422)
    assert found["fields"] == {"rows[1].age": "expected a number, got text of 3 characters"}
    assert "old" not in json.dumps(found)


@pytest.mark.parametrize("cell", ["1e400", "-1e400", "[1e400]"])
def test_infinite_numbers_are_errors(client: TestClient, cell: str) -> None:
    """JSON has no infinite numbers, but one that exceeds the range of a double is read as one."""
    body = json.dumps({"rows": [{**rows_of(TABLE[1:2])[0], "x": "CELL"}]}).replace('"CELL"', cell)
    response = client.post("/v1/predict", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 422
    sign = "-" if cell.startswith("-") else ""
    name = "rows[0].x[0]" if cell.startswith("[") else "rows[0].x"
    assert response.json()["fields"] == {name: f"Input should be a finite number, got {sign}inf"}


def test_integers_of_lists_keep_all_digits() -> None:
    from segue.core.examples.columns import Column, read_lists
    from segue.core.examples.encoder import ExampleEncoder
    from segue.serving.clicks.read_rows import rows_to_frame

    large = 2**53 + 1
    encoder = ExampleEncoder((Column("seen", "sequence"),), "click")
    frame = rows_to_frame([{"seen": [1, large]}, {"seen": None}], encoder)
    assert read_lists(frame["seen"], None).to_list() == [["1", str(large)], None]
    mixed = rows_to_frame([{"seen": [1.5]}, {"seen": [2]}, {"seen": [0.5, 2]}], encoder)
    assert read_lists(mixed["seen"], None).to_list() == [["1.5"], ["2"], ["0.5", "2"]]


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        ("soon", "expected a date and time such as 2024-05-31 18:30, got text of 4 characters"),
        ("", "expected a date and time such as 2024-05-31 18:30, got empty text"),
        (1e15, "expected seconds since 1970, not milliseconds, got 1000000000000000.0"),
        (1_717_180_200_000, "expected seconds since 1970, not milliseconds, got 1717180200000"),
    ],
)
def test_a_request_without_any_valid_time_is_an_error(client: TestClient, day: Any, expected: str) -> None:
    row = rows_of(TABLE[1:2])[0]
    assert predict(client, [{**row, "day": day}], 422)["fields"] == {"rows[0].day": expected}


def test_wrong_requests(client: TestClient) -> None:
    rows = rows_of(TABLE[:3])
    lacking = [{name: cell for name, cell in row.items() if name != "x"} for row in rows]
    assert predict(client, lacking, 422)["fields"] == {
        "rows": "no row has the column 'x', which the model reads; give null where it is empty"
    }
    assert "expected at most 350" in predict(client, rows * 117, 422)["message"]
    assert "expected one of shown" in predict(client, rows, 422, model="other")["message"]
    assert predict(client, rows, model="shown")["model"]["name"] == "shown"
    assert predict(client, [], 422)["fields"].keys() == {"rows"}
    assert client.post("/v1/predict", content=b'{"rows": [{"x": 1, "x": 2}]}',
                       headers={"content-type": "application/json"}).status_code == 400  # fmt: skip
    assert client.post("/v1/predict", json={"rows": rows, "k": 3}).status_code == 422


def test_routes_of_recommenders_say_that_there_is_none(client: TestClient, folder: Path) -> None:
    for method, path in (("POST", "/v1/recommend"), ("POST", "/v1/explain"), ("GET", "/v1/items"),
                         ("GET", "/v1/users/a"), ("POST", "/v1/events"),
                         ("POST", "/v1/models/a/activate")):  # fmt: skip
        response = client.request(method, path, json={} if method == "POST" else None)
        assert response.status_code == 409
        assert "click-through models of tables only" in response.json()["message"]
    from segue.serving.app import create_app
    from tests.serving.world import service

    with TestClient(create_app(service("ease"))) as other:
        found = predict(other, [{"x": 1}], 409)
        assert "this service has recommenders only" in found["message"]


def test_models_probes_metrics_and_description(client: TestClient) -> None:
    (model,) = client.get("/v1/models").json()["models"]
    assert (model["name"], model["key"], model["active"], len(model["version"])) == ("shown", "deepfm", True, 12)
    predict(client, rows_of(TABLE[:5]))
    assert client.get("/readyz").json() == {"ready": True}
    assert client.get("/healthz").status_code == 200
    assert client.get("/").status_code == client.get("/docs").status_code == 200
    text = client.get("/metrics").text
    assert 'segue_engine_rows_total{engine="native",model="shown"}' in text
    assert 'route="/v1/predict"' in text
    assert client.get("/v1/stats").json()["errors"] == 0
    paths = client.get("/openapi.json").json()
    assert set(paths["paths"]) == {"/v1/predict", "/v1/models", "/v1/stats"}
    assert paths["components"]["schemas"]["PredictRequest"]["properties"]["rows"]["maxItems"] == 350


def test_rows_and_latency_are_counted_by_model(client: TestClient) -> None:
    def count(name: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(f'{name}{{model="shown"}}'))

    rows, requests = "segue_predicted_rows_total", "segue_predict_duration_seconds_count"
    before = count(rows), count(requests)
    predict(client, rows_of(TABLE[:7]))
    predict(client, rows_of(TABLE[: STEP_ROWS + 1]))
    predict(client, [{"x": "wrong"}], 422)
    assert count(rows) == before[0] + 7 + STEP_ROWS + 1
    assert count(requests) == before[1] + 2


def test_keys_need_the_scope_of_recommendations(folder: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    tokens = {scope: create_key(keys, scope, [scope]) for scope in ("recommend", "read", "write")}
    with client_of(folder / "model", keys=keys, serving=ServingSettings(deadline_ms=60_000)) as client:
        body = {"rows": rows_of(TABLE[:1])}
        assert client.post("/v1/predict", json=body).status_code == 401
        for scope, status in (("recommend", 200), ("read", 200), ("write", 403)):
            headers = {"authorization": f"Bearer {tokens[scope]}"}
            assert client.post("/v1/predict", json=body, headers=headers).status_code == status


def test_a_missed_deadline_is_an_error(client: TestClient) -> None:
    found = predict(client, rows_of(TABLE[: STEP_ROWS + 40]), 503, deadline_ms=1)
    assert found["message"] == "the deadline passed before all rows were predicted"
    assert "segue_deadline_misses_total 1.0" in client.get("/metrics").text


def test_services_have_models_of_one_kind(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "artifact").mkdir()
    with pytest.raises(ValueError, match="is a recommender, and others are click-through models"):
        client_of(folder / "model", tmp_path / "artifact")
    with pytest.raises(ValueError, match="got library, which has no effect"):
        client_of(folder / "model", library=tmp_path)
    with pytest.raises(ValueError, match="models: got shown, shown, expected different names"):
        client_of(folder / "model", folder / "model")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in (folder / "model").iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    (damaged / "arrays.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"arrays\.safetensors"):
        client_of(damaged)


def test_serve_finds_models_of_clicks(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from segue.experiment.paths import find_click_folder

    monkeypatch.setenv("SEGUE_HOME", str(folder.parent.parent))
    (folder.parent.parent / "runs").exists() or (folder.parent.parent / "runs").symlink_to(folder.parent)
    for text in (folder, folder / "model", str(folder), "shown"):
        found = find_click_folder(text)
        assert found is not None
        assert found.name == "model"
    assert find_click_folder(tmp_path) is None
    assert find_click_folder("nothing") is None


def test_a_job_is_divided_in_steps(folder: Path) -> None:
    """The engine thread answers others between two steps."""
    from segue.serving.clicks.click_service import ClickService
    from segue.serving.monitoring.metrics import Metrics

    service = ClickService([load_click_model(folder / "model")], ServingSettings(deadline_ms=60_000), Metrics())
    job = PredictJob(service.default, rows_of(TABLE), float("inf"))
    outputs = list(service.run_jobs([job], 4))
    assert outputs[:-1] == [None] * (2 * -(-len(TABLE) // STEP_ROWS))
    assert [index for index, _ in outputs[-1] or ()] == [0]
