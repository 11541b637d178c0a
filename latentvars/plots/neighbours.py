"""Images beside those that an embedding says are nearest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from latentvars.errors import ShapeError
from latentvars.plots.canvas import INK, canvas, colour

GAP = 2
QUERY_GAP = 6


def neighbours(
    images: Any,
    queries: Sequence[int] | np.ndarray,
    found: Any,
    *,
    labels: Any = None,
    shape: tuple[int, int] | None = None,
    axis: Axes | None = None,
) -> Figure:
    """A line for each query: its image on the left, the retrieved images in order on the right.

    Where labels are given, retrieved images of another class than the query's are framed and marked with theirs.

    Args:
        images: ``[N, H, W]`` or ``[N, H W]`` grey levels, dark is high.
        queries: ``[Q]`` positions of the queries.
        found: ``[Q, k]`` positions of their neighbours, nearest first.
        labels: ``[N]`` classes.
        shape: (H, W) of flat images; square by default.
        axis: where to draw; a new figure by default.

    Raises:
        ShapeError: images that are not of that shape, or another number of lines in ``found``.
    """
    tiles = _tiles(np.asarray(images, dtype=float), shape)
    queries, found = np.asarray(queries), np.asarray(found)
    if found.ndim != 2 or len(found) != len(queries):
        raise ShapeError(f"found of shape {list(found.shape)}", f"[{len(queries)}, k]", "pass a line for each query.")
    high, wide = tiles.shape[1:]
    lefts = np.array([0, *(wide + QUERY_GAP + np.arange(found.shape[1]) * (wide + GAP))])
    tops = np.arange(len(queries)) * (high + GAP)
    page = np.full((tops[-1] + high, lefts[-1] + wide), np.nan)
    figure, axis = canvas(axis, 0.55 * (found.shape[1] + 1.8), 0.55 * len(queries) + 0.5)
    lines = np.concatenate([queries[:, None], found], 1)
    for top, line in zip(tops, lines, strict=True):
        for left, image in zip(lefts, line, strict=True):
            page[top : top + high, left : left + wide] = tiles[image]
            if labels is not None and labels[image] != labels[line[0]]:
                _mark(axis, left, top, wide, high, str(labels[image]))
    axis.imshow(page, cmap="Greys", vmin=tiles.min(), vmax=tiles.max(), interpolation="nearest")
    axis.set_axis_off()
    style = {"ha": "center", "va": "bottom", "fontsize": 9, "color": INK}
    axis.text(wide / 2, -GAP, "query", **style)
    axis.text((lefts[1] + lefts[-1] + wide) / 2, -GAP, "nearest rows, in order", **style)
    return figure


def _tiles(images: np.ndarray, shape: tuple[int, int] | None) -> np.ndarray:
    """``[N, H, W]``."""
    if images.ndim == 3:
        return images
    side = round(np.sqrt(images.shape[-1])) if images.ndim == 2 else 0
    height, width = shape or (side, side)
    if images.ndim != 2 or height * width != images.shape[1]:
        raise ShapeError(
            given=f"images of shape {list(images.shape)}",
            needed="[N, H, W], or [N, H W] with shape=(H, W)",
            remedy="pass shape=, or reshape them",
        )
    return images.reshape(-1, height, width)


def _mark(axis: Axes, left: float, top: float, wide: int, high: int, label: str) -> None:
    """A frame and the class of an image that is of another class than its query."""
    tint = colour(1)
    frame = Rectangle((left - 0.5, top - 0.5), wide, high, fill=False, edgecolor=tint, linewidth=1.6, clip_on=False)
    axis.add_patch(frame)
    box = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
    axis.text(left, top, label, color=tint, fontsize=7, ha="left", va="top", weight="bold", bbox=box)
