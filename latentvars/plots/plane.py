"""Points of a space in the plane, and what becomes of their covariances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from latentvars.errors import KindError, SettingError, ShapeError


@dataclass(frozen=True, eq=False)
class Plane:
    """A picture of points.

    Attributes:
        points: ``[N, 2]``.
        titles: of the two axes.
        turn: ``[D, 2]``, by which points came there; None where the map is not linear.
    """

    points: np.ndarray
    titles: tuple[str, str]
    turn: np.ndarray | None

    def covariances(self, given: np.ndarray) -> np.ndarray:
        """Covariances ``[N, D, D]`` in the plane, ``[N, 2, 2]``.

        Raises:
            SettingError: the map is not linear, so that ellipses do not stay ellipses.
        """
        if self.turn is None:
            raise SettingError(
                given="ellipses of uncertainty in a t-SNE",
                needed="a linear projection",
                remedy="write projection='pca', or leave std= out",
            )
        return self.turn.T @ given @ self.turn


def plane(points: np.ndarray, names: tuple[str, ...], projection: str, seed: int) -> Plane:
    """Two coordinates as they are; more by their first principal components, or by t-SNE.

    Raises:
        SettingError: an unknown projection.
        ShapeError: fewer than two coordinates.
    """
    if projection not in ("pca", "tsne"):
        raise SettingError(f"projection={projection!r}", "'pca' or 'tsne'", "change projection=.")
    if points.shape[1] < 2:
        raise ShapeError("an embedding of one coordinate", "at least two", "draw a histogram of it.")
    if projection == "tsne":
        return Plane(_tsne(points, seed), ("t-SNE 1 (distances between clusters say little)", "t-SNE 2"), None)
    if points.shape[1] == 2:
        return Plane(points, (names[0], names[1]) if names else ("coordinate 0", "coordinate 1"), np.eye(2))
    centred = points - points.mean(0)
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    # the sign of a component is arbitrary: its largest entry is made positive, so that a picture repeats
    signs = np.sign(directions[np.arange(2), np.abs(directions[:2]).argmax(1)])
    share = lengths**2 / (lengths**2).sum()
    first, second = (f"principal component {k + 1} ({share[k]:.0%} of the variance)" for k in range(2))
    turn = (signs[:, None] * directions[:2]).T
    return Plane(centred @ turn, (first, second), turn)


def spreads(embedding: Any, std: Any, covariance: Any, shape: tuple[int, int]) -> np.ndarray | None:
    """Covariances ``[N, D, D]`` of the rows, where any are to be drawn.

    Raises:
        ShapeError: of another shape.
        KindError: ``std=True`` of an embedding that does not know its own.
        SettingError: both standard deviations and covariances.
    """
    if std is not None and std is not False and covariance is not None:
        raise SettingError("std= beside covariance=", "one of them", "leave one out.")
    if covariance is not None:
        return _shaped(np.asarray(covariance, dtype=float), (*shape, shape[1]), "covariance")
    if std is None or std is False:
        return None
    if std is True:
        std = getattr(embedding, "std", None)
        if std is None or callable(std):
            raise KindError(
                given=f"std=True of {type(embedding).__name__} without standard deviations",
                needed="vectors with .std",
                remedy="pass std=latent.std(), or vectors that were made with them",
            )
    deviations = _shaped(np.asarray(std, dtype=float), shape, "std")
    return deviations[:, :, None] ** 2 * np.eye(shape[1])


def _shaped(found: np.ndarray, shape: tuple[int, ...], what: str) -> np.ndarray:
    if found.shape != shape:
        raise ShapeError(f"{what} of shape {list(found.shape)}", f"{list(shape)}", "pass one for each row.")
    return found


def _tsne(points: np.ndarray, seed: int) -> np.ndarray:
    try:
        from openTSNE import TSNE
    except ImportError as error:
        raise SettingError(
            given="projection='tsne' without openTSNE",
            needed="openTSNE",
            remedy='pip install "latentvars[viz]"',
        ) from error
    # as many neighbours as the rows allow: a perplexity of 30 uses 90
    perplexity = min(30.0, max(1.0, (len(points) - 1) / 3))
    return np.asarray(TSNE(perplexity=perplexity, random_state=seed, n_jobs=1).fit(points))  # type: ignore[arg-type]
