"""Intervals of the globals, one below another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latentvars.errors import SettingError
from latentvars.inference import Fit
from latentvars.plots.canvas import DPI, INK, canvas, colour, tidy
from latentvars.posterior.table import chosen

MOST = 80


def forest(
    fit: Fit, *, of: str | Sequence[str] | None = None, probability: float = 0.89, axis: Axes | None = None
) -> Figure:
    """The estimate or posterior mean of each number with its interval, as :meth:`latentvars.Fit.summary` has them; a
    hollow mark where there is no standard error. Each global has a panel and a scale of its own.

    Args:
        fit: by any algorithm.
        of: globals or numbers of them, as ``"loc"`` or ``"loc[0, height]"``; None: all.
        probability: of the intervals.
        axis: where to draw; a new figure by default.

    Raises:
        NameUnknownError: there is no such number.
        SettingError: more than 80 numbers.
    """
    frame = chosen(fit.summary(probability=probability), of)
    if len(frame) > MOST:
        raise SettingError(f"{len(frame)} numbers to draw", f"at most {MOST}", "choose some, as of='loc'")
    values = frame["estimate" if "estimate" in frame else "mean"].to_numpy(dtype=float)
    bounds = [name for name in frame if str(name).endswith(("_lb", "_ub"))]
    ends = frame[bounds].to_numpy(dtype=float) if bounds else np.full((len(frame), 2), np.nan)
    names = [str(name) for name in frame.index]
    sites = np.array([name.partition("[")[0] for name in names])
    figure, panels = _panels(sites, max(map(len, names)), axis)
    for place, (site, panel) in enumerate(panels.items()):
        mine = np.flatnonzero(sites == site) if axis is None else np.arange(len(names))
        _draw(panel, [names[k] for k in mine.tolist()], values[mine], ends[mine], colour(place))
    kind = "posterior mean" if "mean" in frame else "estimate"
    spread = f" and {100 * probability:g} % interval" if np.isfinite(ends).any() else ""
    list(panels.values())[-1].set_xlabel(kind + spread)
    return figure


def _panels(sites: np.ndarray, longest: int, axis: Axes | None) -> tuple[Figure, dict[str, Axes]]:
    """An axis for each global, as each has a scale of its own; the given one for all."""
    if axis is not None:
        figure, axis = canvas(axis)
        return figure, {"": axis}
    found = list(dict.fromkeys(sites.tolist()))
    counts = [int((sites == site).sum()) for site in found]
    size = (4.4 + 0.075 * longest, 0.5 + 0.24 * len(sites) + 0.45 * len(found))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    grid = figure.subplots(len(found), 1, squeeze=False, height_ratios=[count + 0.6 for count in counts]).flatten()
    return figure, dict(zip(found, grid, strict=True))


def _draw(axis: Axes, names: Sequence[str], values: np.ndarray, ends: np.ndarray, tint: str) -> None:
    for place, (value, (low, high)) in enumerate(zip(values, ends, strict=True)):
        known = bool(np.isfinite(low))
        if known:
            axis.plot([low, high], [place, place], color=tint, linewidth=2.4, solid_capstyle="butt", zorder=2)
        style: Any = {"markeredgecolor": "white"} if known else {"markerfacecolor": "white", "markeredgecolor": tint}
        axis.plot(value, place, "o", **({"color": tint, "markersize": 5.5, "zorder": 3} | style))
    low, high = axis.get_xlim()
    if low < 0 < high:
        axis.axvline(0, color=INK, linewidth=0.8, zorder=1)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    tidy(axis)
    axis.grid(False, axis="y")
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0)
