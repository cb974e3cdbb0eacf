"""Every public function explains every argument of a wrong type."""

from __future__ import annotations

import inspect
import re
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import segue
from segue.core.bundle import TrainedModel
from segue.core.messages import SegueWarning
from segue.core.types import Dataset, Split

LOG = pl.DataFrame(
    {
        "user_id": np.repeat(np.arange(12), 5),
        "item_id": np.concatenate([np.random.default_rng(n).permutation(9)[:5] for n in range(12)]),
        "rating": np.random.default_rng(0).integers(1, 6, 60).astype(np.float32),
        "timestamp": np.tile(np.arange(5), 12) * 86_400 + 1_600_000_000,
    }
)
STUDIED = "simulated?users=30&items=20&seed=1"
IMPRESSIONS = pl.DataFrame(
    {"query": range(40), "item": [1, 2] * 20, "propensity": 0.5, "reward": [0, 1, 1, 0] * 10, "target": [0.6, 0.4] * 20}
)


class Setting:
    """Trained models and data of one session of tests."""

    def __init__(self) -> None:
        self.data: Dataset = segue.load(LOG)
        plots = pl.DataFrame({"item_id": np.arange(9), "plot": [f"a ship sails to island {n % 3}" for n in range(9)]})
        self.with_text: Dataset = segue.load(LOG, items=plots)
        self.split: Split = segue.split(self.data)
        self.model: TrainedModel = segue.train("item_knn", self.split)
        self.rating: TrainedModel = segue.train("als", self.split)
        self.content: TrainedModel = segue.train("content", self.with_text)
        self.recurrent: TrainedModel = segue.train(
            "gru4rec", self.split, embedding_dim=4, hidden_dim=4, epochs=1, recipe="none"
        )
        self.examples = pl.DataFrame(
            {"label": np.arange(60) % 2, "user": np.arange(60) % 7, "x": np.random.default_rng(1).normal(size=60)}
        )
        self.clicks: segue.ClickModel = segue.train_clicks(
            "deepfm", self.examples, self.examples, epochs=1, embedding_dim=2, hidden=(2,)
        )
        self.session = segue.stream(self.recurrent)
        self.state = self.session.state([1, 2])


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting()


def wrong_values(setting: Setting) -> dict[str, Any]:
    return {
        "None": None,
        "int": 3,
        "negative": -1,
        "zero": 0,
        "float": 2.5,
        "nan": float("nan"),
        "bool": True,
        "text": "zzz",
        "empty text": "",
        "bytes": b"zzz",
        "list": ["zzz", 1],
        "empty list": [],
        "nested list": [[["zzz"]]],
        "list of None": [None],
        "tuple": (1, None),
        "dict": {"zzz": 1},
        "dict of object": {1: object()},
        "empty dict": {},
        "object": object(),
        "class": int,
        "function": lambda *_: None,
        "generator": (one for one in [object()]),
        "Dataset": setting.data,
        "Split": setting.split,
        "model": setting.model,
        "numpy float": np.float32(2.5),
        "numpy array": np.zeros((2, 2, 2)),
        "numpy empty": np.zeros(0),
        "table": pl.DataFrame({"zzz": [1.5]}),
        "empty table": pl.DataFrame(),
        "path": Path("zzz"),
        "complex": 1j,
    }


def functions(setting: Setting) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Every public function with valid arguments."""
    model, split, history = setting.model, setting.split, [1, 2]
    return {
        "load": (segue.load, {"source": LOG}),
        "add_items": (segue.add_items, {"model": setting.content, "items": pl.DataFrame({"id": [99], "plot": ["x"]})}),
        "add_knowledge": (segue.add_knowledge, {"data": setting.with_text, "columns": ["plot"]}),
        "add_text": (segue.add_text, {"data": setting.with_text, "columns": ["plot"], "encoder": "tfidf"}),
        "split": (segue.split, {"data": setting.data}),
        "train": (segue.train, {"name": "item_knn", "data": split}),
        "save": (segue.save, {"model": model, "folder": "saved"}),
        "open": (segue.open, {"path": "saved"}),
        "evaluate": (segue.evaluate, {"model": model, "data": split}),
        "audit": (segue.audit, {"data": split}),
        "baselines": (segue.baselines, {"data": split}),
        "tune": (segue.tune, {"models": ["ease"], "data": split, "trials": 1}),
        "auto": (segue.auto, {"data": split, "time": 0.01}),
        "report": (segue.report, {"source": split, "out": "page.html"}),
        "run_study": (
            segue.run_study,
            {"study": "seed_variance", "data": STUDIED, "models": ["lstm"], "seeds": [0], "overrides": ["epochs=1"]},
        ),
        "compare": (segue.compare, {"models": ["item_knn", "popular"], "data": split}),
        "cross_validate": (segue.cross_validate, {"models": ["popular"], "data": setting.data, "folds": 2}),
        "recommend": (segue.recommend, {"model": model, "users": 1}),
        "rank": (segue.rank, {"model": model, "user": 1, "items": history}),
        "predict": (segue.predict, {"model": setting.rating, "pairs": [(1, 2)]}),
        "similar": (segue.similar, {"model": model, "item": 1}),
        "explain": (segue.explain, {"model": model, "user": 1, "item": 2}),
        "stream": (segue.stream, {"model": setting.recurrent}),
        "export": (segue.export, {"model": model, "folder": "artifact", "engine": "native"}),
        "derive_examples": (segue.derive_examples, {"data": setting.data, "negatives": 1}),
        "load_examples": (segue.load_examples, {"source": setting.examples}),
        "split_examples": (segue.split_examples, {"table": setting.examples}),
        "train_clicks": (
            segue.train_clicks,
            {"name": "deepfm", "train": setting.examples, "valid": setting.examples, "epochs": 1, "hidden": (2,)},
        ),
        "tune_clicks": (
            segue.tune_clicks,
            {
                **{"models": ["logistic_regression"], "train": segue.split_examples(setting.examples, "random")},
                **{"trials": 1, "folder": "tuning"},
            },
        ),
        "open_clicks": (segue.open_clicks, {"path": "clicks"}),
        "evaluate_clicks": (segue.evaluate_clicks, {"model": setting.clicks, "table": setting.examples}),
        "evaluate_policy": (
            segue.evaluate_policy,
            {"log": IMPRESSIONS, "policy": "target", "limits": {"min_effective_sample_size": 1}},
        ),
        "compare_clicks": (
            segue.compare_clicks,
            {"models": {"a": setting.clicks, "b": setting.clicks}, "table": setting.examples},
        ),
        "session.state": (setting.session.state, {"history": history}),
        "session.step": (setting.session.step, {"state": setting.state, "item": 2}),
        "session.recommend": (setting.session.recommend, {"state": setting.state}),
        "models.keys": (segue.models.keys, {}),
    }


def test_every_public_function_is_listed(setting: Setting) -> None:
    assert {*segue.__all__} - {"serve", "models"} <= set(functions(setting))


INDEPENDENT = {"histories", "titles", "history", "user_features"}
"""Arguments that take the place of the user."""

NAMES = [
    *(name for name in segue.__all__ if name not in ("serve", "models")),
    *("session.state", "session.step", "session.recommend"),
]


@pytest.mark.parametrize("name", NAMES)
def test_wrong_arguments_are_explained(
    setting: Setting, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path / "home"))
    segue.save(setting.model, "saved")
    setting.clicks.save("clicks")
    function, valid = functions(setting)[name]
    faults = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        for kind, value in wrong_values(setting).items():
            arguments = {**valid, parameter.name: value}
            if parameter.name in INDEPENDENT and value is not None:
                arguments = {n: v for n, v in arguments.items() if n not in ("users", "user")}
            if fault := fault_of(function, arguments, parameter.name):
                faults.append(f"{parameter.name}={kind}: {fault}")
    assert not faults, "\n".join(faults)


def fault_of(function: Callable[..., Any], arguments: dict[str, Any], name: str) -> str | None:
    """Describe what is wrong with the error of a call; a call may also succeed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", SegueWarning)
            function(**arguments)
    except (ValueError, TypeError) as error:
        where = traceback.extract_tb(error.__traceback__)[-1].filename
        text = str(error)
        own = f"{Path(segue.__file__).parent}/" in where
        if not own:
            return f"{type(error).__name__} of {where}: {text[:150]}"
        if not re.search(rf"\b{name.rstrip('s')}|{function.__name__}|{SYNONYMS.get(name, name)}", text):
            return f"does not name the argument: {text[:150]}"
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} in {frame.filename}:{frame.lineno}: {str(error)[:150]}"
    return None


SYNONYMS = {
    "name": "model",
    "path": "run|model",
    "model": "run|table",
    "source": "data|table",
    "data": "table",
    "train": "table",
    "valid": "table",
}
"""What messages about an argument may name instead."""


def test_serve_explains_wrong_arguments(setting: Setting) -> None:
    for name, value in (
        ("port", "8000"), ("port", True), ("host", 5), ("store", 5), ("keys", 5), ("workers", 0), ("log", "x"),
        ("model", 5),
    ):  # fmt: skip
        arguments: dict[str, Any] = {"model": setting.model, name: value}
        with pytest.raises(ValueError, match=f"{name}=?: got "):
            segue.serve(**arguments)


@pytest.mark.parametrize("k", [5, np.int64(5), np.uint8(5), 10**6])
def test_k_may_be_any_integer(setting: Setting, k: Any) -> None:
    assert len(segue.recommend(setting.model, 1, k=k, exclude_seen=False)) == min(int(k), 9)
    assert len(segue.similar(setting.model, 1, k=k)) <= int(k)
    assert len(setting.session.recommend(setting.state, k)) <= int(k)


@pytest.mark.parametrize("k", [True, 5.0, 0, -1, "5", None, [5]])
def test_k_is_an_integer_of_at_least_one(setting: Setting, k: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: segue.recommend(setting.model, 1, k=k),
        lambda: segue.similar(setting.model, 1, k=k),
        lambda: segue.explain(setting.model, 1, item=2, k=k),
        lambda: setting.session.recommend(setting.state, k),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=re.escape(f"k=: got {k!r}, expected an integer of at least 1")):
            call()


def test_swapped_arguments_of_train_are_explained(setting: Setting) -> None:
    with pytest.raises(ValueError, match="name: got a Dataset, expected the key of a model"):
        segue.train(setting.data, "item_knn")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="name: got 3, expected the key of a model"):
        segue.train(3, setting.data)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"ks: got 10, expected a list such as \[5, 10\]"):
        segue.evaluate(setting.model, setting.split, ks=10)  # type: ignore[arg-type]


@pytest.mark.parametrize("call", ["rank", "explain", "state", "histories", "histories of users"])
def test_text_is_not_a_history_of_its_characters(setting: Setting, call: str) -> None:
    calls: dict[str, tuple[str, Callable[[], Any]]] = {
        "rank": ("history=: got '14', expected a list", lambda: segue.rank(setting.model, items=[1], history="14")),
        "explain": ("history=: got '14', expected a list", lambda: segue.explain(setting.model, item=1, history="14")),
        "state": ("history=: got '14', expected a list", lambda: setting.session.state("14")),
        "histories": ("histories=: got '14', expected", lambda: segue.recommend(setting.model, histories=["14"])),
        "histories of users": (
            "histories=: got '14', expected",
            lambda: segue.recommend(setting.model, histories={1: "14"}),
        ),
    }
    message, function = calls[call]
    with pytest.raises(ValueError, match=message):
        function()


def unknown_ids() -> Iterator[tuple[str, Callable[[Setting], Any]]]:
    yield "users not in the log of table: '99'", lambda s: segue.recommend(s.model, [1, 99])
    yield "items not in the catalog: '77'", lambda s: segue.recommend(s.model, histories=[[1, 77]])
    yield "allow=: items not in the catalog: '77'", lambda s: segue.recommend(s.model, 1, allow=[1, 77])
    yield "deny=: items not in the catalog: '77'", lambda s: segue.recommend(s.model, 1, deny=[77])
    yield "items=: items not in the catalog: '77'", lambda s: segue.rank(s.model, 1, items=[1, 77])
    yield "users not in the log of table: '99'", lambda s: segue.rank(s.model, 99, items=[1])
    yield "items not in the catalog: '77'", lambda s: segue.rank(s.model, history=[77], items=[1])
    yield "users not in training: '99'", lambda s: segue.predict(s.rating, [(99, 1)])
    yield "items not in training: '77'", lambda s: segue.predict(s.rating, [(1, 77)])
    yield "users not in the log of table: '99'", lambda s: segue.explain(s.model, 99, item=1)
    yield "items not in the catalog: '77'", lambda s: segue.explain(s.model, history=[1, 77], item=1)
    yield "user=: not in training: '99'", lambda s: s.session.state([1], user=99)


@pytest.mark.parametrize(("message", "call"), list(unknown_ids()))
def test_unknown_ids_are_reported(setting: Setting, message: str, call: Callable[[Setting], Any]) -> None:
    with pytest.warns(SegueWarning, match=re.escape(message)) as caught:
        call(setting)
    assert caught[0].filename == __file__


def test_integer_ids_keep_their_type(setting: Setting) -> None:
    table = segue.recommend(setting.model, [1, 4, np.int64(5)], k=2)
    assert table["user_id"].to_list() == [1, 1, 4, 4, 5, 5]
    assert table.schema["user_id"] == table.schema["item_id"] == pl.Int64
    assert segue.similar(setting.model, user=3, k=2, data=setting.data, measure="cosine").schema["user_id"] == pl.Int64


def test_every_path_expands_the_home_folder(setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path / "home"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    LOG.write_csv(tmp_path / "log.csv")
    (tmp_path / "knn.toml").write_text("[model]\nk = 3\n")
    assert segue.load("~/log.csv").n_users == 12
    trained = segue.train("item_knn", setting.split, folder="~/training", recipe="~/knn.toml")
    assert trained.model.config.model_dump()["k"] == 3
    segue.save(trained, "~/saved")
    assert segue.open("~/saved").key == segue.open(Path("~/saved")).key == "item_knn"
    assert segue.recommend("~/saved", 1).equals(segue.recommend(trained, 1))
    segue.export(trained, "~/artifact", engine="native")
    segue.recommend(trained, k=3).write_csv(tmp_path / "lists.csv")
    assert segue.evaluate("~/lists.csv", setting.split, ks=(3,)) is not None
    assert not list(work.iterdir())


def test_saving_keeps_foreign_files(setting: Setting, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("text")
    with pytest.raises(ValueError, match=r"holds other files \(thesis\.tex\)"):
        segue.save(setting.model, tmp_path)
    with pytest.raises(ValueError, match="exists and is not a model artifact"):
        segue.export(setting.model, tmp_path, engine="native")
    assert (tmp_path / "thesis.tex").read_text() == "text"


def test_a_missing_user_column_is_not_confused_with_the_item_column(setting: Setting) -> None:
    with pytest.raises(ValueError, match=r"without a column 'user_id'; its columns are item_id$"):
        segue.recommend(setting.model, pl.DataFrame({"item_id": [2]}))
