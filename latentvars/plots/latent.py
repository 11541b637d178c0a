"""Beliefs over the continuous locals of rows, in the plane of two of their coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure

from latentvars.errors import KindError, ShapeError
from latentvars.inference import Fit
from latentvars.plots.canvas import INK, colour
from latentvars.plots.scatter import scatter
from latentvars.posterior.latent import has_labels

MOST_ELLIPSES = 400


def latent(
    fit: Fit,
    data: Any = None,
    labels: Any = None,
    *,
    local: str | None = None,
    latents: tuple[int, int] = (0, 1),
    spread: bool | None = None,
    names: Sequence[str] | None = None,
    axis: Axes | None = None,
) -> Figure:
    """Posterior means of two latents of each row, with ellipses of one posterior standard deviation along each.

    Args:
        fit: of a model with a continuous local, as factor analysis or a VAE.
        data: rows; those of the fit by default.
        labels: ``[N]`` classes; None draws all rows alike.
        local: the local; needed where there are several.
        latents: positions of the two coordinates.
        spread: whether to draw the ellipses; None: of 400 rows at most.
        names: of the classes, in sorted order.
        axis: where to draw; a new figure by default.

    Raises:
        KindError: a discrete local.
        ShapeError: coordinates that do not exist, or another number of labels.
        NameUnknownError: a local that does not exist.
    """
    belief = fit.latent(data)
    mean = belief.mean(local).double().numpy()
    site = local or belief.sites[0]
    if has_labels(belief.beliefs[site][0]):
        raise KindError(f"the discrete local {site!r}", "a continuous one", "draw it by responsibilities() or states()")
    if mean.ndim != 2 or not all(-mean.shape[1] <= place < mean.shape[1] for place in latents):
        raise ShapeError(
            given=f"latents={latents} of {site!r}, whose means have shape {list(mean.shape)}",
            needed="two coordinates of vectors [rows, latents]",
            remedy="correct latents; draw a histogram of a single one",
        )
    at = list(latents)
    points, widths = mean[:, at], belief.std(local).double().numpy()[:, at]
    titles = tuple(f"{site}[{place % mean.shape[1]}]" for place in at)
    figure = scatter(points, labels, names=names, axes=(titles[0], titles[1]), axis=axis)
    axis = figure.axes[0] if axis is None else axis
    if spread if spread is not None else len(points) <= MOST_ELLIPSES:
        groups = (
            np.zeros(len(points), dtype=int)
            if labels is None
            else np.unique(np.asarray(labels), return_inverse=True)[1]
        )
        ellipses = EllipseCollection(
            2 * widths[:, 0],
            2 * widths[:, 1],
            np.zeros(len(points)),
            units="xy",
            offsets=points,
            offset_transform=axis.transData,
            facecolors="none",
            edgecolors=[colour(group) for group in groups],
            linewidths=0.5,
            alpha=0.3,
            zorder=0.8,
        )
        axis.add_collection(ellipses)
        low, high = (points - widths).min(0), (points + widths).max(0)
        room = 0.03 * (high - low)
        axis.set(xlim=(low[0] - room[0], high[0] + room[0]), ylim=(low[1] - room[1], high[1] + room[1]))
        note = {"transform": axis.transAxes, "ha": "left", "va": "bottom", "fontsize": 8, "color": INK}
        axis.text(0.01, 1.01, "ellipses: one posterior standard deviation", **note)
    return figure
