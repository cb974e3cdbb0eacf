"""Check the file of an HNSW graph before native code reads it.

USearch follows the links of a graph without checking them, so that a malformed file would end the process. The layout
is that of USearch 2: the matrix of vectors with its size, a head of 64 bytes with the types, the size of the graph,
the level of each node, and the nodes: key, level, and for each level the number of links and the links.

Shapes: I items, D width, B nodes of a block, C bytes or links of a node.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.files import check_regular_file

__all__ = ["check_graph_file"]

HEAD_SIZE = 64
NODE_HEAD = struct.calcsize("<Qh")
BLOCK_NODES = 65_536
"""Nodes that are checked at once, to save memory."""

KINDS = b"i\x0b\x0e\x0f"
"""Inner product, 32-bit floats, 64-bit keys and 32-bit links."""


def check_graph_file(
    path: Path, vectors_ID: NDArray[np.float32], bias_I: NDArray[np.float32], connectivity: int
) -> None:
    """Check that a file is a graph over the given items whose links all lead to items.

    Args:
        vectors_ID: vectors of the items.
        bias_I: their biases, the last component of the vectors in the graph.
        connectivity: maximum number of links per node and level; twice as many on the lowest level.

    Raises:
        ValueError: it is not.
    """
    n_items, width = vectors_ID.shape[0], vectors_ID.shape[1] + 1
    n_links, matrix_end = np.array([2 * connectivity, connectivity]), 8 + 4 * n_items * width
    nodes_start = matrix_end + HEAD_SIZE + 40 + 2 * n_items
    if check_regular_file(path) < 8:
        raise ValueError(f"{path}: no graph, expected {n_items} of width {width}")
    content: NDArray[np.uint8] = np.memmap(path, np.uint8, mode="r")
    rows, row_bytes = struct.unpack("<2I", content[:8].tobytes())
    if (rows, row_bytes) != (n_items, 4 * width) or len(content) < nodes_start:
        raise ValueError(
            f"{path}: a graph of {rows} items of width {row_bytes // 4}, expected {n_items} of width {width}"
        )
    head = content[matrix_end : matrix_end + HEAD_SIZE].tobytes()
    size, *connectivities, top_level, entry = struct.unpack("<5Q", content[matrix_end + HEAD_SIZE :][:40].tobytes())
    is_graph = head.startswith(b"usearch") and head[13:17] == KINDS
    is_graph &= struct.unpack("<3Q", head[17:41]) == (n_items, 0, width)
    is_graph &= size == n_items and connectivities == [connectivity, 2 * connectivity] and entry < n_items
    if not is_graph:
        raise ValueError(f"{path}: malformed head of the graph; export the model again")
    levels_I = content[nodes_start - 2 * n_items : nodes_start].view("<i2").astype(np.int64)
    sizes_I = NODE_HEAD + 4 * (n_links[0] + 1) + levels_I * 4 * (n_links[1] + 1)
    ends_I = nodes_start + np.cumsum(sizes_I)
    if levels_I.min() < 0 or levels_I.max() != top_level or levels_I[entry] != top_level or ends_I[-1] != len(content):
        raise ValueError(f"{path}: malformed levels of the graph")
    keys_I = np.empty(n_items, np.uint64)
    for start in range(0, n_items, BLOCK_NODES):
        rows = slice(start, min(start + BLOCK_NODES, n_items))
        offsets_B = (ends_I - sizes_I)[rows]
        keys_I[rows] = _gather(content, offsets_B, 8, "<u8")[:, 0]
        is_valid = np.array_equal(_gather(content, offsets_B + 8, 2, "<i2")[:, 0], levels_I[rows])
        for level in range(int(levels_I[rows].max()) + 1):
            begin = NODE_HEAD + (0 if level == 0 else 4 * (n_links[0] + 1) + (level - 1) * 4 * (n_links[1] + 1))
            limit = int(n_links[min(level, 1)])
            links_BC = _gather(content, offsets_B[levels_I[rows] >= level] + begin, 4 * (limit + 1), "<u4")
            is_used = np.arange(limit) < links_BC[:, :1]
            is_valid &= bool((links_BC[:, 0] <= limit).all())
            used = links_BC[:, 1:][is_used]
            is_valid &= bool((used < n_items).all()) and bool((levels_I[used[used < n_items]] >= level).all())
        if not is_valid:
            raise ValueError(f"{path}: malformed: a link of the graph leads to no item")
    if not np.array_equal(np.sort(keys_I), np.arange(n_items, dtype=np.uint64)):
        raise ValueError(f"{path}: malformed: the items of the graph are not 0 to {n_items - 1}, each once")
    matrix_ID = content[8:matrix_end].view("<f4").reshape(n_items, width)
    for start in range(0, n_items, BLOCK_NODES):
        keys_B = keys_I[start : start + BLOCK_NODES].astype(np.int64)
        block = matrix_ID[start : start + BLOCK_NODES]
        if not (np.array_equal(block[:, :-1], vectors_ID[keys_B]) and np.array_equal(block[:, -1], bias_I[keys_B])):
            raise ValueError(f"{path}: the vectors of the graph are not those of the model")


def _gather(content: NDArray[np.uint8], offsets_B: NDArray[np.int64], size: int, dtype: str) -> NDArray[Any]:
    """Read ``size`` bytes at each offset, as rows of numbers."""
    return np.ascontiguousarray(content[offsets_B[:, None] + np.arange(size)]).view(dtype)
