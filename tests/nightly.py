"""Tests that ``make nightly`` runs and ``make test`` does not: long ones, next to shorter ones of the same code."""

from collections.abc import Iterable
from typing import Any

import pytest

__all__ = ["only_nightly", "some_models"]

only_nightly = pytest.mark.nightly
LONG_MODELS = {
    *("ctr_factorization_machine", "dcn_v2", "dlrm", "finalmlp", "finalnet", "text_cnn", "wide_deep"),
    *("huggingface", "transfer"),
}
"""Models of families with other members: ``deepfm`` and ``din``; ``sasrec`` and ``fusion``."""


def some_models(keys: Iterable[str]) -> list[Any]:
    """Return parameters of a test of every model, of which the long ones of a family are only run nightly."""
    return [pytest.param(key, marks=only_nightly) if key in LONG_MODELS else key for key in keys]
