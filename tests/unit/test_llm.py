"""The model ``llm`` reranks by the language model, and otherwise leaves the order of its base model."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from segue.core import bundle
from segue.core.model import DeadlineAware, is_deadline_aware
from segue.core.recommend import recommend
from segue.core.types import Dataset, Events, Queries
from segue.experiment.inference.queries import build_queries
from segue.experiment.inference.recommend import recommend_table
from segue.models.hybrid.llm import Llm
from segue.testing import dataset, train_small

N_ITEMS = 12
TITLES = [f"film{code}" for code in range(N_ITEMS)]
NEXT = [(code + 5) % N_ITEMS for code in range(N_ITEMS)]
"""The item that the language model expects after each item; the log knows nothing about it."""
SETTINGS: dict[str, Any] = {
    "base": "popular",
    "prompt": "{history} then",
    "separator": " then ",
    "calibration": False,
    "weight": 1.0,
    "candidates": N_ITEMS,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from segue.testing.language_models import save_tiny_language_model

    texts = [f"{TITLES[code]} then {TITLES[following]}" for code, following in enumerate(NEXT)]
    return save_tiny_language_model(tmp_path_factory.mktemp("lm") / "chain", texts, steps=120, width=32)


def world(titles: list[str | None] | None = None) -> Dataset:
    """Build a log in which item 0 is the most popular, then item 1, and so on."""
    rows = [list(range(size)) for size in range(1, N_ITEMS + 1)]
    data = dataset(Events.of(rows), N_ITEMS)
    values = TITLES if titles is None else titles
    return replace(data, item_features=pl.DataFrame({"id": data.items.ids, "title": values}).lazy())


def queries(*rows: list[int]) -> Queries:
    return Queries.anonymous(Events.of([list(row) for row in rows]))


def model_of(folder: Path | str, data: Dataset | None = None, **settings: Any) -> Llm:
    model = train_small("llm", data or world(), **{**SETTINGS, "language_model": str(folder), **settings})
    assert isinstance(model, Llm)
    return model


def test_the_language_model_decides_the_order(folder: Path) -> None:
    rows = [[code] for code in range(N_ITEMS)]
    model = model_of(folder)
    assert recommend(model, queries(*rows), 1).items[:, 0].tolist() == NEXT
    assert not model.fallbacks(queries(*rows))
    by_base = recommend(model_of(folder, weight=0.0), queries(*rows), 1).items[:, 0].tolist()
    assert by_base == [1, *[0] * (N_ITEMS - 1)]


def test_only_candidates_change_places(folder: Path) -> None:
    """They get each other's scores, without ties, and seen items are no candidates unless a setting says so."""
    rows = queries([2], [3, 4])
    base, found = model_of(folder, weight=0.0).score(rows), model_of(folder, candidates=4).score(rows)
    assert (base != found).sum(axis=1).max() <= 4
    for row, seen in ((0, [2]), (1, [3, 4])):
        best = [code for code in range(N_ITEMS) if code not in seen][:4]
        others = sorted(set(range(N_ITEMS)) - set(best))
        assert found[row, others].tolist() == base[row, others].tolist()
        assert found[row, best] == pytest.approx(base[row, best][np.argsort(np.argsort(-found[row, best]))], rel=1e-6)
        assert len(set(found[row, best].tolist())) == 4
    seen_first = model_of(folder, include_seen=True).score(queries([2, 7, 2]))
    assert seen_first[0].argmax() == NEXT[2] == 7


def test_titles_that_are_missing_keep_their_place(folder: Path) -> None:
    titles: list[str | None] = [*TITLES]
    titles[0] = titles[9] = None
    model = model_of(folder, world(titles))
    lists = recommend(model, queries([1], [9]), N_ITEMS).items
    assert lists[0, 0] == 0
    assert lists[0, 1] == NEXT[1]
    assert model.fallbacks(queries([1], [9])) == {1: "titles"}
    assert lists[1, : N_ITEMS - 1].tolist() == [*range(9), 10, 11]


def test_batches_equal_single_queries_and_bundles_keep_the_scores(folder: Path, tmp_path: Path) -> None:
    model, rows = model_of(folder, weight=0.4, calibration=True), queries([1, 2], [], [5], [7, 7, 3])
    expected = model.score(rows)
    single = np.concatenate([model.score(rows.rows_between(row, row + 1)) for row in range(4)])
    np.testing.assert_array_equal(expected, single)
    bundle.save(tmp_path / "model", bundle.create("llm", model, world()))
    loaded = bundle.load(tmp_path / "model").model
    np.testing.assert_array_equal(loaded.score(rows), expected)
    assert isinstance(loaded, DeadlineAware)
    assert is_deadline_aware(loaded)


def test_a_bundle_refuses_another_language_model(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(folder, own)
    bundle.save(tmp_path / "model", bundle.create("llm", model_of(own), world()))
    (own / "model.safetensors").write_bytes((own / "model.safetensors").read_bytes() + b" ")
    with pytest.raises(ValueError, match="its files are not those of the training"):
        bundle.load(tmp_path / "model")
    shutil.rmtree(own)
    with pytest.raises(ValueError, match="is not a folder"):
        bundle.load(tmp_path / "model")


def test_damaged_titles_are_named(folder: Path) -> None:
    model = model_of(folder)
    arrays = dict(model.arrays())
    for name, value in {
        "title_lengths": np.full(N_ITEMS, -1),
        "titles": np.full_like(arrays["titles"], 0xFF),
        "weight": np.array([2.0]),
        "language_model": arrays["language_model"][:5],
    }.items():
        with pytest.raises(ValueError, match=name):
            Llm(model.config, world().schema).restore({**arrays, name: value})


def test_a_slow_language_model_leaves_the_base_order_in_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each query takes 60 ms of a simulated clock, and the request has 300 ms, of which reranking has half."""
    model, rows, now = model_of(folder), queries([1], [2], [3]), [0.0]
    model.score(rows)  # loads the language model
    language_model: Any = model._scorer.model  # type: ignore[union-attr]

    def slow_down(name: str) -> None:
        original = getattr(language_model, name)

        def slow(*args: Any) -> Any:
            now[0] += 0.06
            return original(*args)

        monkeypatch.setattr(language_model, name, slow)

    for name in ("_encode_prompt", "_continue"):
        slow_down(name)
    expected, base = model.score(rows), model_of(folder, weight=0.0).score(rows)
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: now[0])
        now[0] = 0.0
        found = model.until(0.3).score(rows)
    assert now[0] < 0.3
    reasons = model.fallbacks(rows)
    assert reasons == {2: "time"}
    np.testing.assert_array_equal(found, np.stack([expected[0], expected[1], base[2]]))
    assert model.fallback_counts == {"time": 1}
    limited = model_of(folder, time_budget_ms=1e-6)
    np.testing.assert_array_equal(limited.until(float("inf")).score(rows), base)
    assert limited.fallbacks(rows) == dict.fromkeys(range(3), "time")


def test_failures_leave_the_base_order_and_are_logged_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, rows = model_of(folder), queries([1], [2], [])
    model.score(rows)
    scorer: Any = model._scorer

    def fail(*args: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(scorer, "score", fail)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            found = model.score(rows)
    np.testing.assert_array_equal(found, model_of(folder, weight=0.0).score(rows))
    assert model.fallbacks(rows) == {0: "error", 1: "error"}
    assert model.fallback_counts == {"error": 4}
    assert len([text for text in caplog.messages if "out of memory" in text]) == 1
    assert len([text for text in caplog.messages if "2 of 3 queries keep the order of 'popular'" in text]) == 1
    monkeypatch.setattr(scorer, "score", lambda *args: np.full(N_ITEMS - 1, np.nan))
    np.testing.assert_array_equal(model.score(rows), found)


def test_programming_errors_are_not_hidden(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(folder)
    model.score(queries([1]))

    def fail(*args: Any) -> Any:
        raise TypeError("wrong argument")

    monkeypatch.setattr(model._scorer, "score", fail)
    with pytest.raises(TypeError, match="wrong argument"):
        model.score(queries([1]))


def test_without_weight_no_language_model_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = train_small("popular", world()).score(queries([1]))
    for language_model in ("", str(tmp_path / "nothing")):
        model = model_of(language_model, weight=0.0, title_column="nothing")
        np.testing.assert_array_equal(model.score(queries([1])), base)
        assert not model.fallbacks(queries([1]))
        bundle.save(tmp_path / "model", bundle.create("llm", model, world()))
        np.testing.assert_array_equal(bundle.load(tmp_path / "model").model.score(queries([1])), base)
        shutil.rmtree(tmp_path / "model")
    assert "language_model is not set" not in caplog.text


def test_too_few_tokens_leave_the_base_order(folder: Path) -> None:
    long = "{history} " + "then " * 20
    model, rows = model_of(folder, prompt=long, max_tokens=12), queries([1])
    np.testing.assert_array_equal(model.score(rows), model_of(folder, weight=0.0).score(rows))
    assert model.fallbacks(rows) == {0: "tokens"}


def test_the_weight_is_chosen_on_validation(folder: Path) -> None:
    """The language model is used if it helps, and otherwise not even computed."""
    from segue.core.run import Run
    from segue.training.settings import Training
    from segue.training.train import train

    rows = queries(*[[code] for code in range(1, N_ITEMS)])

    def fit(targets: list[int]) -> Llm:
        def validate(model: Any) -> dict[str, float]:
            best = recommend(model, rows, 1).items[:, 0]
            return {"hit_rate@1": float((best == targets).mean())}

        config = Llm.Config(**{**SETTINGS, "language_model": str(folder), "weight": None})
        model = train("llm", config, Training(), world(), Run(0), validate)
        assert isinstance(model, Llm)
        return model

    assert fit(NEXT[1:]).weight > 0
    useless = fit([0] * (N_ITEMS - 1))
    assert useless.weight == 0
    assert useless.score(rows)[0].argmax() == 0


def test_recommendations_note_the_fallback(folder: Path) -> None:
    data = world([None, *TITLES[1:]])
    trained = bundle.create("llm", model_of(folder, data), data)
    table = recommend_table(trained, build_queries(trained, histories={"a": ["i0"], "b": ["i1"]}), k=2)
    notes = dict(table.select("user_id", "notes").unique("user_id").rows())
    assert notes == {"a": "not reranked: the history or the candidates have no titles", "b": None}


def test_without_a_language_model_the_base_model_ranks(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        model = train_small("llm", world(), base="popular")
    assert "language_model is not set" in caplog.text
    assert isinstance(model, Llm)
    rows = queries([1])
    assert model.score(rows)[0].argmax() == 0
    assert model.fallbacks(rows) == {0: "language_model"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base": "llm"}, "base: got 'llm'"),
        ({"method": "listwise", "candidates": 27}, "candidates: got 27"),
        ({"permutations": 2}, "permutations"),
        ({"method": "pointwise", "calibration": False}, "calibration"),
        ({"method": "pointwise", "length_normalization": False}, "length_normalization"),
        ({"prompt": "{titles}"}, "unknown placeholder {titles}"),
    ],
)
def test_settings_without_effect_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("{", r"\{").replace("}", r"\}")):
        Llm.Config(**settings)


def test_data_without_titles_is_an_error(folder: Path) -> None:
    with pytest.raises(ValueError, match="no item feature 'name' with text; text columns: title"):
        model_of(folder, title_column="name")
    with pytest.raises(ValueError, match="no item feature 'title' with text; it has no text columns"):
        model_of(folder, replace(world(), item_features=None))
    with pytest.raises(ValueError, match="is not a folder"):
        model_of(folder / "nothing")


def test_threads_are_restored(folder: Path) -> None:
    import torch

    before = torch.get_num_threads()
    model_of(folder, threads=before + 1).score(queries([1]))
    assert torch.get_num_threads() == before


def test_base_models_with_epochs_are_trained_and_restored(folder: Path, tmp_path: Path) -> None:
    model = model_of(folder, base="gru4rec", base_settings={"embedding_dim": 4, "epochs": 1, "batch_size": 8})
    bundle.save(tmp_path / "model", bundle.create("llm", model, world()))
    rows = queries([1], [2, 3])
    np.testing.assert_array_equal(bundle.load(tmp_path / "model").model.score(rows), model.score(rows))


def test_a_relative_folder_is_stored_as_an_absolute_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    model = model_of(folder.name)
    assert model.config.language_model == str(folder.resolve())
    bundle.save(tmp_path / "model", bundle.create("llm", model, world()))
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(bundle.load(tmp_path / "model").model.score(queries([1])), model.score(queries([1])))


def test_base_models_may_read_unknown_features() -> None:
    years = [None if code % 3 == 0 else 1990 + code for code in range(N_ITEMS)]
    data = world()
    assert data.item_features is not None
    data = replace(data, item_features=data.item_features.collect().with_columns(year=pl.Series(years)).lazy())
    settings = {"embedding_dim": 4, "epochs": 1, "batch_size": 8}
    model = train_small("llm", data, base="two_tower", base_settings=settings)
    assert np.isfinite(model.score(queries([1]))).all()
