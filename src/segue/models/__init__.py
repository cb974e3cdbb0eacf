"""Recommendation models, in folders by family.

One model is one file, and the name of the file is its key. ``segue.models.keys()`` lists the keys.
"""

from __future__ import annotations

__all__ = ["keys"]


def keys() -> list[str]:
    """List the keys of all models, including those of plugins."""
    from segue.core.registry import model_keys

    return model_keys()
