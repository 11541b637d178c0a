"""An embedding in the plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from latentvars.embedding import Vectors
from latentvars.errors import ShapeError
from latentvars.plots.canvas import canvas, colour, marker, matrix, tidy
from latentvars.plots.plane import plane, spreads


def scatter(
    embedding: Any,
    labels: Any = None,
    *,
    names: Sequence[str] | None = None,
    axes: tuple[str, str] | None = None,
    std: Any = None,
    covariance: Any = None,
    projection: str = "pca",
    seed: int = 0,
    axis: Axes | None = None,
) -> Figure:
    """Rows of an embedding, one colour and marker a class, the class written at the median of its rows.

    Two coordinates are drawn as they are; more are turned to their first two principal components, as the axes say, or
    laid out by t-SNE. Ellipses of one standard deviation (39 % of a normal belief lies within) show how far each vector
    is known.

    Args:
        embedding: ``[N, D]``, D at least 2; the columns of a frame, or names of vectors, name the axes.
        labels: ``[N]`` classes; None draws all rows alike.
        names: of the classes, in sorted order.
        axes: names of the two coordinates.
        std: ``[N, D]`` standard deviations of the coordinates, independent of one another; True: those of the vectors.
        covariance: ``[N, D, D]`` instead.
        projection: of more than two coordinates, "pca" or "tsne" (openTSNE, extra ``viz``; no ellipses).
        seed: of t-SNE.
        axis: where to draw; a new figure by default.

    Raises:
        ShapeError: fewer than two coordinates, or another number of labels or ellipses.
        SettingError: an unknown projection, ellipses in a t-SNE, or openTSNE is not installed.
        KindError: ``std=True`` of what has no standard deviations.
    """
    values = matrix(embedding, "an embedding").astype(float)
    spread = spreads(embedding, std, covariance, (values.shape[0], values.shape[1]))
    found = plane(values, _names(embedding), projection, seed)
    points, titles = found.points, found.titles
    ellipses = None if spread is None else found.covariances(spread)
    labels = np.zeros(len(points), dtype=int) if labels is None else np.asarray(labels)
    if labels.shape != (len(points),):
        raise ShapeError(f"labels of shape {list(labels.shape)}", f"[{len(points)}]", "pass one label a row.")
    classes = np.unique(labels)
    named = [str(label) for label in classes] if names is None else [str(name) for name in names]
    if len(named) != len(classes):
        raise ShapeError(f"{len(named)} names", f"one for each of {len(classes)} classes", "pass as many names.")
    figure, axis = canvas(axis, 6.4, 5.2)
    for k, label in enumerate(classes):
        mine = points[labels == label]
        if ellipses is not None:
            _ellipses(axis, mine, ellipses[labels == label], colour(k))
        axis.scatter(*mine.T, s=13, color=colour(k), marker=marker(k), alpha=0.55, linewidths=0, label=named[k])
    if len(classes) > 1:
        for k, label in enumerate(classes):
            _name(axis, np.median(points[labels == label], 0), named[k])
        columns = 1 + (len(classes) - 1) // 12
        axis.legend(frameon=False, markerscale=1.6, loc="center left", bbox_to_anchor=(1, 0.5), ncols=columns)
    first, second = axes or titles
    axis.set(xlabel=first, ylabel=second)
    tidy(axis)
    return figure


def _names(embedding: Any) -> tuple[str, ...]:
    """Of the coordinates, where they have any."""
    given = getattr(embedding, "columns", None)
    if given is None and isinstance(embedding, Vectors):
        given = embedding.names
    return () if given is None else tuple(map(str, given))


def _ellipses(axis: Axes, points: np.ndarray, covariances: np.ndarray, tint: str) -> None:
    """One standard deviation about each point."""
    lengths, directions = np.linalg.eigh(covariances)
    wide, high = 2 * np.sqrt(lengths.clip(min=0)).T[::-1]
    angles = np.degrees(np.arctan2(directions[:, 1, 1], directions[:, 0, 1]))
    look = {"facecolors": tint, "edgecolors": "none", "alpha": 0.13, "zorder": 0.8}
    axis.add_collection(
        EllipseCollection(wide, high, angles, units="xy", offsets=points, offset_transform=axis.transData, **look)
    )
    reach = np.sqrt(np.einsum("nii->ni", covariances).clip(min=0))
    axis.update_datalim(np.concatenate([points - reach, points + reach]))
    axis.autoscale_view()


def _name(axis: Axes, at: np.ndarray, text: str) -> None:
    halo = [withStroke(linewidth=4, foreground="white")]
    axis.annotate(text, tuple(at), fontsize=12, ha="center", va="center", weight="bold", path_effects=halo)
