"""The benchmark of combinations."""

from __future__ import annotations

import numpy as np

from benchmarks import hybrid
from segue.core.run import Run
from segue.core.types import Events
from segue.data.splits import SplitSettings, split
from segue.evaluation.evaluate import evaluate
from segue.testing import dataset
from segue.training.train import Training, train


def test_the_best_ones_are_chosen_on_validation() -> None:
    rng = np.random.default_rng(0)
    parts = split(dataset(Events.of([rng.permutation(20)[:8].tolist() for _ in range(40)]), 20), SplitSettings())
    members = {key: train(key, {}, Training(), parts.train, Run(0)) for key in ("ease", "popular")}
    found = hybrid.measure(parts, lambda seed: members, range(2), lambda text: None)
    rows = found["rows"]
    assert set(rows) == {"ease", "popular", *hybrid.METHODS}
    for kind, names in (("member", ["ease", "popular"]), ("combination", list(hybrid.METHODS))):
        assert found["best"][kind] == max(names, key=lambda name: rows[name]["valid"]["ndcg@10"])
    difference = (
        rows[found["best"]["combination"]]["test"]["ndcg@10"]["mean"]
        - (rows[found["best"]["member"]]["test"]["ndcg@10"]["mean"])
    )
    assert abs(found["tests"]["ndcg@10"]["difference"] - difference) < 1e-9
    assert all(len(row["by_seed"]["ndcg@10"]) == 2 for row in rows.values())
    text = hybrid.page({"source": "test", "queries": 40, "warnings": [], **found})
    assert "| weighted, equal weights |" in text
    assert "The aim" not in text
    text = hybrid.page({"source": "ml-1m-sasrec", "queries": 40, "warnings": [], **found})
    assert "The aim was 0.335 / 0.200 (HR@10 / NDCG@10): " in text
    assert "(paired randomization test)" in text


def test_shared_scores_give_the_metrics_of_the_models() -> None:
    """Ranking in blocks with scores in common is evaluation of each model alone."""
    rng = np.random.default_rng(1)
    parts = split(dataset(Events.of([rng.permutation(20)[:8].tolist() for _ in range(40)]), 20), SplitSettings())
    members = {key: train(key, {}, Training(), parts.train, Run(0)) for key in ("ease", "popular")}
    shared = {key: hybrid.SharedScores(member) for key, member in members.items()}
    combinations = hybrid.combine(shared, parts, lambda text: None)
    found = hybrid.rank_all({**shared, **combinations}, shared, parts.test)
    for name, model in combinations.items():
        model.use_members([members[key] for key in model.config.members], parts.train)
        expected = evaluate(model, parts.test, metrics=("ndcg@10",)).values["ndcg@10"]
        np.testing.assert_allclose(found[name]["ndcg@10"], expected)
    np.testing.assert_allclose(
        found["ease"]["hit_rate@10"],
        evaluate(members["ease"], parts.test, metrics=("hit_rate@10",)).values["hit_rate@10"],
    )


def test_members_without_randomness_are_trained_once() -> None:
    members = {"sasrec": hybrid.Member(("training.epochs=3",)), "ease": hybrid.Member()}
    plans = [hybrid.make_plans("ml-100k", members, seed) for seed in range(2)]
    assert plans[0]["ease"].fingerprint() == plans[1]["ease"].fingerprint()
    assert plans[0]["sasrec"].fingerprint() != plans[1]["sasrec"].fingerprint()
    assert plans[0]["sasrec"].training.epochs == 3
    assert hybrid.make_plans("ml-1m-sasrec", hybrid.MEMBERS["ml-1m-sasrec"], 0)["item_knn"].model.half_life == 1
