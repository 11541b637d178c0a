"""How far vectors lie apart. Smaller is nearer, whatever the metric."""

from __future__ import annotations

from typing import Any

import numpy as np

from latentvars.errors import DataError, SettingError

METRICS = ("cosine", "euclidean", "inner")
AT_A_TIME = 4_000_000  # numbers that are taken up at once


def check_metric(metric: str) -> None:
    """Whether a metric is known.

    Raises:
        SettingError: it is not.
    """
    if metric not in METRICS:
        raise SettingError(f"metric={metric!r}", f"one of {', '.join(map(repr, METRICS))}", "change metric.")


def check_count(name: str, value: Any, most: int | None = None) -> int:
    """A whole number from 1, at most ``most``.

    Raises:
        SettingError: something else.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < 1 or (most is not None and value > most):
        among = "" if most is None else f" among {most} rows"
        needed = "a whole number, at least 1" if most is None else f"a whole number from 1 to {most}"
        raise SettingError(f"{name}={value!r}{among}", needed, f"change {name}.")
    return int(value)


def prepared(values: np.ndarray, metric: str, ids: np.ndarray) -> np.ndarray:
    """Vectors as distances take them, ``[N, W]`` float64: of length 1 under ``"cosine"``, or else as they are.

    Raises:
        DataError: a zero vector under ``"cosine"``, which has no direction.
    """
    values = np.ascontiguousarray(values, np.float64)
    if metric != "cosine":
        return values
    largest = np.abs(values).max(1, keepdims=True)
    zero = np.flatnonzero(largest == 0)
    if len(zero):
        raise DataError(
            given=f"{len(zero)} zero vectors, such as that of {str(ids[zero[0]])!r}",
            needed="vectors with a direction, as metric='cosine' compares angles",
            remedy="leave these rows out, or use metric='euclidean'",
        )
    values = values / largest  # squares of tiny and of huge numbers would leave the range
    return values / np.sqrt(np.square(values).sum(1, keepdims=True))


def distances(queries: np.ndarray, rows: np.ndarray, metric: str) -> np.ndarray:
    """Distances of pairs of prepared vectors ``[..., W]``: Euclidean, 1 − cosine, or minus the inner product.

    The number of a pair is the same to the bit whatever pairs stand beside it. Angles come from differences, so that
    small ones do not drown in 1 − 1.
    """
    if metric == "inner":
        return -(queries * rows).sum(-1)
    squared = np.square(queries - rows).sum(-1)
    return squared / 2 if metric == "cosine" else np.sqrt(squared)


def nearest(
    queries: np.ndarray, rows: np.ndarray, at: np.ndarray, k: int, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest among candidates, by distance and then by position.

    Args:
        queries: ``[Q, W]`` prepared.
        rows: ``[N, W]`` prepared.
        at: ``[Q, C]`` positions of candidates; −1 for none.
        k: how many.
        metric: one of ``METRICS``.

    Returns:
        Positions ``[Q, k]`` and distances ``[Q, k]``; −1 and inf beyond the last candidate.
    """
    found = np.full((len(queries), k), -1, np.int64)
    far = np.full((len(queries), k), np.inf)
    step = max(1, AT_A_TIME // max(1, at.shape[1] * rows.shape[1]))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        own = at[part]
        measured = distances(queries[part, None, :], rows[own], metric)
        measured = np.where(own < 0, np.inf, measured)
        own = np.where(own < 0, np.iinfo(np.int64).max, own)
        order = np.lexsort((own, measured), axis=1)[:, :k]
        width = order.shape[1]
        far[part, :width] = np.take_along_axis(measured, order, 1)
        found[part, :width] = np.take_along_axis(at[part], order, 1)
    return found, far
