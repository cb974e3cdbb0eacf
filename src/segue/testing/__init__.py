"""Test worlds with known optimum, and the model contract.

Plugins can use both::

    from segue.testing import contract, cycle, hit_rate, train_small

    contract("my_model")
    assert hit_rate(train_small("my_model", cycle().train, epochs=20), cycle()) > 0.95
"""

from segue.testing.contract import CHECKS, Subject, contract, subject
from segue.testing.training import SMALL, small, train_small
from segue.testing.worlds import (
    Rated,
    World,
    clusters,
    cycle,
    dataset,
    directors,
    hit_rate,
    order,
    popularity,
    tastes,
    with_features,
    with_knowledge,
)

__all__ = [
    "CHECKS",
    "SMALL",
    "Rated",
    "Subject",
    "World",
    "clusters",
    "contract",
    "cycle",
    "dataset",
    "directors",
    "hit_rate",
    "order",
    "popularity",
    "small",
    "subject",
    "tastes",
    "train_small",
    "with_features",
    "with_knowledge",
]
