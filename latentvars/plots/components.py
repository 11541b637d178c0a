"""The components of a Gaussian mixture over two features of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from latentvars.errors import KindError, NameUnknownError
from latentvars.inference import Fit
from latentvars.plots.canvas import canvas, colour, group_names, marker, tidy
from latentvars.rows import Rows


def components(
    fit: Fit,
    data: Any = None,
    *,
    features: tuple[int | str, int | str] = (0, 1),
    names: Sequence[str] | None = None,
    axis: Axes | None = None,
) -> Figure:
    """Rows coloured by their most probable component, with ellipses of one and two standard deviations.

    The ellipses are those of the two features' marginal normal; 39 % and 86 % of a component lie within them.

    Args:
        fit: of a Gaussian mixture: globals ``loc`` ``[K, D]`` and ``covariance`` or ``scale``, a discrete local.
        data: rows; those of the fit by default.
        features: positions or names of the two features.
        names: of the K components.
        axis: where to draw; a new figure by default.

    Raises:
        KindError: a fit without these globals, or with another local.
        NameUnknownError: a feature that does not exist.
    """
    loc, covariance = _normal(fit)
    rows = fit.rows if data is None else fit.conform(data)
    x, labels = _values(rows)
    first, second = (_position(feature, labels) for feature in features)
    belongs = fit.latent(rows).mean().numpy()
    if belongs.ndim != 2 or belongs.shape[1] != len(loc):
        raise KindError("a fit whose local is no component", "one discrete local a row", "draw it by scatter().")
    size = len(loc)
    labelled = group_names(names, size, "component")
    if names is None:
        labelled = [f"{name} ({share:.0%})" for name, share in zip(labelled, belongs.mean(0), strict=True)]
    figure, axis = canvas(axis)
    for k in range(size):
        mine = belongs.argmax(1) == k
        axis.scatter(
            x[mine, first],
            x[mine, second],
            s=18,
            color=colour(k),
            marker=marker(k),
            linewidths=0,
            alpha=0.75,
            label=labelled[k],
        )
        _ellipses(axis, loc[k, [first, second]], covariance[k][np.ix_([first, second], [first, second])], colour(k))
    axis.autoscale_view()
    axis.set(xlabel=labels[first], ylabel=labels[second])
    tidy(axis)
    title = "most probable component (ellipses: 1 and 2 standard deviations)"
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": min(3, size)}
    axis.legend(frameon=False, title=title, alignment="left", columnspacing=1.2, handletextpad=0.3, **place)
    return figure


def _normal(fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """Means ``[K, D]`` and covariances ``[K, D, D]`` of the components."""
    point = {name: value.double().numpy() for name, value in fit.point.items()}
    if "loc" not in point or point["loc"].ndim != 2 or not {"covariance", "scale"} & set(point):
        raise KindError(
            given=f"a fit with the globals {list(point)}",
            needed="loc [K, D] and covariance or scale",
            remedy="draw the rows by scatter(x, labels)",
        )
    loc = point["loc"]
    if "covariance" in point:
        return loc, np.broadcast_to(point["covariance"], (*loc.shape, loc.shape[1]))
    scale = point["scale"].reshape(len(loc), -1)
    return loc, np.stack([np.diag(row) for row in np.broadcast_to(scale**2, loc.shape)])


def _values(rows: Rows) -> tuple[np.ndarray, tuple[str, ...]]:
    name = next(iter(rows.columns)) if len(rows.columns) == 1 else "x"
    return rows[name].double().numpy(), tuple(rows.features[name])


def _position(feature: int | str, labels: Sequence[str]) -> int:
    if isinstance(feature, str) and feature in labels:
        return labels.index(feature)
    if isinstance(feature, int) and -len(labels) <= feature < len(labels):
        return feature % len(labels)
    raise NameUnknownError(f"the feature {feature!r}", f"one of {list(labels)}, or its position", "correct features.")


def _ellipses(axis: Axes, centre: np.ndarray, covariance: np.ndarray, tint: str) -> None:
    """Where the Mahalanobis distance to ``centre`` is 1 and 2."""
    spread, direction = np.linalg.eigh(covariance)
    angle = np.degrees(np.arctan2(direction[1, 1], direction[0, 1]))
    for radius, opacity in ((1, 0.28), (2, 0.14)):
        width, height = 2 * radius * np.sqrt(spread[::-1].clip(min=0))
        shape = Ellipse(tuple(centre), width, height, angle=angle, facecolor=tint, alpha=opacity, zorder=0.5)
        axis.add_patch(shape)
        edge = Ellipse(tuple(centre), width, height, angle=angle, fill=False, edgecolor=tint, linewidth=0.9)
        axis.add_patch(edge)
    axis.plot(*centre, marker="+", color="black", markersize=9, markeredgewidth=1.4)
