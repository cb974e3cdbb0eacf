"""Trees in the text format of LightGBM.

They are of one training, or of several that continue each other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

__all__ = ["Trees"]

END = "end of trees\n"


@dataclass(frozen=True)
class Trees:
    """A header and the text of each tree, without its number."""

    header: str
    blocks: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Trees:
        """Read what :meth:`text` or LightGBM wrote.

        Raises:
            ValueError: the text is not complete.
        """
        body, end, _ = text.partition(END)
        if text and (not text.startswith("tree\n") or not end):
            raise ValueError("expected trees in the text format of LightGBM")
        header, *blocks = re.split(r"^Tree=\d+\n", body, flags=re.MULTILINE)
        header = "".join(line for line in header.splitlines(keepends=True) if not line.startswith("tree_sizes="))
        return cls(header, tuple(blocks))

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def n_columns(self) -> int:
        """Number of columns that the trees were fitted to."""
        found = re.search(r"^max_feature_idx=(\d+)$", self.header, re.MULTILINE)
        return int(found.group(1)) + 1 if found else 0

    def text(self) -> str:
        """Return the text that LightGBM reads; empty without trees."""
        if not self.blocks:
            return ""
        return self.header + "".join(f"Tree={index}\n{block}" for index, block in enumerate(self.blocks)) + END

    def extended(self, text: str) -> Trees:
        """Return these trees and those of a training that started from their predictions."""
        added = Trees.parse(text)
        return replace(added, blocks=(*self.blocks, *added.blocks))

    def first(self, count: int) -> Trees:
        """Return the first trees."""
        return replace(self, blocks=self.blocks[:count])
