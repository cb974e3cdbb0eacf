"""Hypothesis profile of all property tests: no deadlines and deterministic examples.

Tests that need an extra that is not installed are skipped; the reason names the package to install.
"""

from collections.abc import Generator

import pytest
from hypothesis import settings

settings.register_profile("segue", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("segue")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    try:
        return (yield)
    except ValueError as error:
        if "is not installed: pip install 'segue[" not in str(error):
            raise
        pytest.skip(str(error))
