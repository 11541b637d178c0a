"""An embedding in the plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from latentvars.errors import ShapeError
from latentvars.plots.canvas import canvas, colour, marker, matrix, tidy


def scatter(
    embedding: Any,
    labels: Any = None,
    *,
    names: Sequence[str] | None = None,
    axes: tuple[str, str] | None = None,
    axis: Axes | None = None,
) -> Figure:
    """Rows of an embedding, one colour and marker a class, the class written at the median of its rows.

    Two coordinates are drawn as they are; more are turned to their first two principal components, as the axes say.

    Args:
        embedding: ``[N, D]``, D at least 2; the columns of a frame name the axes.
        labels: ``[N]`` classes; None draws all rows alike.
        names: of the classes, in sorted order.
        axes: names of the two coordinates.
        axis: where to draw; a new figure by default.

    Raises:
        ShapeError: fewer than two coordinates, or another number of labels.
    """
    points, titles = _plane(embedding)
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


def _plane(embedding: Any) -> tuple[np.ndarray, tuple[str, str]]:
    """Points ``[N, 2]`` and the names of their axes."""
    columns = [str(name) for name in getattr(embedding, "columns", ())]
    points = matrix(embedding, "an embedding").astype(float)
    if points.shape[1] < 2:
        raise ShapeError("an embedding of one coordinate", "at least two", "draw a histogram of it.")
    if points.shape[1] == 2:
        return points, (columns[0], columns[1]) if columns else ("coordinate 0", "coordinate 1")
    centred = points - points.mean(0)
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    # the sign of a component is arbitrary: its largest entry is made positive, so that a picture repeats
    signs = np.sign(directions[np.arange(2), np.abs(directions[:2]).argmax(1)])
    share = lengths**2 / (lengths**2).sum()
    first, second = (f"principal component {k + 1} ({share[k]:.0%} of the variance)" for k in range(2))
    return centred @ (signs[:, None] * directions[:2]).T, (first, second)


def _name(axis: Axes, at: np.ndarray, text: str) -> None:
    halo = [withStroke(linewidth=4, foreground="white")]
    axis.annotate(text, tuple(at), fontsize=12, ha="center", va="center", weight="bold", path_effects=halo)
