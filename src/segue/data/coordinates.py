"""Grid cells of coordinates, which are context columns of categories.

A cell is named after its southwest corner in degrees, such as ``48.1,11.5``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["CELL_SIZES", "grid_cells"]

CELL_SIZES = {"1000km": 10.0, "100km": 1.0, "10km": 0.1, "1km": 0.01}
"""Size of the cells in degrees, by the approximate height of a cell. Cells are narrower away from the equator."""


def grid_cells(latitude: ArrayLike, longitude: ArrayLike) -> dict[str, NDArray[np.object_]]:
    """Return the cells of coordinates by size, a key of :data:`CELL_SIZES`.

    Longitude 180 is -180, and the poles belong to the cells next to them. A cell is ``None`` where a coordinate is NaN.

    Args:
        latitude: ``(T,)`` degrees, -90 to 90.
        longitude: ``(T,)`` degrees, -180 to 180.
    """
    lat_T, lon_T = (np.asarray(one, np.float64) for one in (latitude, longitude))
    is_known_T = ~(np.isnan(lat_T) | np.isnan(lon_T))
    cells: dict[str, NDArray[np.object_]] = {}
    for name, size in CELL_SIZES.items():
        per_degree = round(1 / size, 2)
        # rounded first, because 0.29 * 100 is less than 29; 0.001 cells are less than the error of a float32
        row_T = np.floor(np.round(np.where(is_known_T, lat_T, 0) * per_degree, 3)).astype(np.int64)
        column_T = np.floor(np.round(np.where(is_known_T, lon_T, 0) * per_degree, 3)).astype(np.int64)
        row_T = np.minimum(row_T, round(90 * per_degree) - 1)
        column_T[column_T >= round(180 * per_degree)] = -round(180 * per_degree)
        digits = max(0, round(np.log10(per_degree)))
        corners, of_T = np.unique(np.stack([row_T, column_T], axis=1), axis=0, return_inverse=True)
        names = [f"{row / per_degree:.{digits}f},{column / per_degree:.{digits}f}" for row, column in corners.tolist()]
        named_T = np.array(names, np.object_)[of_T.reshape(-1)]
        named_T[~is_known_T] = None
        cells[name] = named_T
    return cells
