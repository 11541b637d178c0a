"""Which rows stand next to which."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from latentvars.errors import SettingError


def neighbourhoods(points: ArrayLike, neighbours: int) -> np.ndarray:
    """Positions of the k nearest other rows of each row, by Euclidean distance, ``[N, k]``.

    Raises:
        SettingError: k is no number from 1 to N − 1.
    """
    from sklearn.neighbors import NearestNeighbors

    points = np.asarray(points)
    if not 1 <= neighbours < len(points):
        raise SettingError(
            given=f"neighbours={neighbours} among {len(points)} rows",
            needed=f"a number from 1 to {len(points) - 1}",
            remedy="change neighbours=, or pass more common rows",
        )
    return NearestNeighbors(n_neighbors=neighbours).fit(points).kneighbors(return_distance=False)


def jaccard(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """|A ∩ B| / |A ∪ B| of each row's two sets of k neighbours ``[N, k]``: ``[N]``."""
    size = first.shape[1]
    sets = np.sort(np.concatenate([first, second], axis=1), axis=1)
    both = (sets[:, 1:] == sets[:, :-1]).sum(1)
    return both / (2 * size - both)
