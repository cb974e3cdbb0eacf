"""Worlds whose best answer is known, and the contract every model keeps; plugins test themselves with both::

from segue.testing import contract, cycle, hit_rate, train_small

contract("my_model")
assert hit_rate(train_small("my_model", cycle().train, epochs=20), cycle()) > 0.95
"""

from segue.testing.contract import CHECKS, Subject, contract, subject
from segue.testing.training import SMALL, small, train_small
from segue.testing.worlds import World, clusters, cycle, dataset, hit_rate, order, popularity

__all__ = [
    "CHECKS",
    "SMALL",
    "Subject",
    "World",
    "clusters",
    "contract",
    "cycle",
    "dataset",
    "hit_rate",
    "order",
    "popularity",
    "small",
    "subject",
    "train_small",
]
