"""Inputs of the ten tasks, read from the job folder (the current directory): the same for every library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

__all__ = ["allowed", "folder", "history", "item", "items", "pairs", "ratings", "some_users"]

folder = Path.cwd()
"""Where models are saved."""

_arrays = np.load(folder / "events.npz", allow_pickle=False)

ratings = pd.DataFrame({name: _arrays[name] for name in ("user_id", "item_id", "rating", "timestamp")})
"""The log, oldest event first."""

items = pd.DataFrame({"item_id": _arrays["catalog"], "title": _arrays["title"]})
"""The items and their titles."""

history: list[int] = _arrays["history"].tolist()
"""Items of a new user."""

some_users: list[int] = _arrays["some_users"].tolist()
"""Users who get recommendations from the allow-list."""

allowed: list[int] = _arrays["allowed"].tolist()
"""The allow-list."""

item = int(_arrays["item"])
"""An item to find similar ones for."""

pairs = pd.DataFrame({name: _arrays[f"pair_{name}"] for name in ("user_id", "item_id")})
"""User-item pairs to predict ratings for."""
