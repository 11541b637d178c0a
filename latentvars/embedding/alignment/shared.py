"""Rows that two sets of vectors share, by their ids."""

from __future__ import annotations

import numpy as np

from latentvars.embedding.vectors import Vectors
from latentvars.errors import DataError


def shared(first: Vectors, second: Vectors, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the common ids in both, ``[M]`` each, in the order of the first.

    Raises:
        DataError: fewer than ``least`` common ids.
    """
    places = {name: place for place, name in enumerate(second.ids.tolist())}
    mine = [place for place, name in enumerate(first.ids.tolist()) if name in places]
    if len(mine) < least:
        raise DataError(
            given=f"{len(mine)} ids in common of {len(first)} and {len(second)}",
            needed=f"at least {least}",
            remedy="embed the same rows twice, with the same ids=",
        )
    at = np.asarray(mine, dtype=np.int64)
    return at, np.asarray([places[name] for name in first.ids[at].tolist()], dtype=np.int64)


def numbers(vectors: Vectors, at: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Values of some rows in float64."""
    return vectors.values[at].astype(np.float64)
