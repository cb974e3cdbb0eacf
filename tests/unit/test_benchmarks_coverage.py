"""The benchmark of coverage: known cases, and a page from few repetitions."""

from __future__ import annotations

from argparse import Namespace

import numpy as np
import pytest

from benchmarks import coverage
from benchmarks.coverage_policies import measure_policies


def test_shares_of_intervals() -> None:
    found = coverage.share_inside(np.array([[0, 2], [1, 3], [2, 4], [-1, 0.5]], np.float64), 1.0)
    assert found == {"covered": 0.5, "above": 0.25, "below": 0.25, "width": pytest.approx(1.875)}


def test_models_of_the_null_are_equally_good() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(500), rng.random(500) + 1
    _, values = coverage.draw_null(first, second, 20_000, 3, rng)
    assert np.ptp(values.mean(0)) < 0.05
    assert values.mean() == pytest.approx((first.mean() + second.mean()) / 2, abs=0.02)


@pytest.mark.filterwarnings("ignore::segue.core.messages.QualityWarning")
def test_a_page_from_few_repetitions(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("USERS", (30,)), ("EXAMPLES", (200,)), ("TEST_USERS", (10,)), ("FAMILY_USERS", 30)):
        monkeypatch.setattr(coverage, name, value)
    monkeypatch.setattr("benchmarks.coverage_policies.QUERIES", (200,))
    monkeypatch.setattr("benchmarks.coverage_policies.TEMPERATURES", (2.0, None))
    monkeypatch.setattr(coverage, "measure_policies", lambda _, rng, *, quick: measure_policies(2, rng, quick=quick))
    found = coverage.run(Namespace(quick=True, seed=0))
    machine = {"processor": "", "cores": 1, "memory_gib": 1, "system": "", "python": "", "torch": "", "segue": ""}
    text = coverage.page(found | {"machine": machine | {"commit": "", "command": "", "date": ""}})
    assert "### 200 queries" in text
    assert "all refused" in text
    rows = {(row["temperature"], row["estimator"]): row for row in found["policies"]}
    assert rows[2.0, "ips"]["rmse"] < rows[None, "ips"]["rmse"]
    assert rows[None, "ips"]["refused"] == 1.0
