"""Examples of queries, such as all examples of a user.

Rankings are compared within a query.

Shapes: T examples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segue.core.examples.fields import Examples
from segue.core.messages import warn

__all__ = ["examples_with_users", "rows_with_users"]


def rows_with_users(examples: Examples, objective: str) -> NDArray[np.int64]:
    """Return the rows whose user is known.

    Objectives that compare the examples of a user read no others.

    Raises:
        ValueError: there is none.
    """
    if examples.users is None or not len(rows := np.flatnonzero(~np.isnan(examples.users))):
        got = "the table has no users; name" if examples.users is None else "no row of training has a user; fill"
        raise ValueError(
            f"model.objective: {objective} compares the examples of a user or query, and {got} the column in "
            "examples.user, or use binary"
        )
    return rows


def examples_with_users(examples: Examples, objective: str) -> Examples:
    """Return the examples whose user is known; a warning says how many have none.

    These are left out: they belong to no query, and least of all to one query together.

    Raises:
        ValueError: no example has a user.
    """
    rows = rows_with_users(examples, objective)
    if len(rows) == len(examples):
        return examples
    warn(
        f"model.objective: {objective} compares the examples of a user or query; {len(examples) - len(rows):,} of "
        f"{len(examples):,} rows of training have no user and are left out"
    )
    return examples.take(rows)
