"""Empirical distribution functions of probability integral transforms, less what is expected."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latentvars.errors import NameUnknownError
from latentvars.plots.canvas import DPI, INK, colour, tidy
from latentvars.posterior.criticism.pit import Pit
from latentvars.posterior.criticism.uniformity import Uniformity

COLUMNS = 3


def pit(found: Pit, features: Sequence[str] | None = None, *, level: float = 0.95) -> Figure:
    """A panel for each feature: the empirical distribution function of u minus u, and a band that holds all of it with
    the probability ``level`` where the model is right (Säilynoja, Bürkner & Vehtari 2022).

    A function above the line throughout has too many small u: observations lie lower than predicted. One that dips on
    the left and peaks on the right has too many in the middle: predictions are too wide; the other way round they are
    too narrow. Teeth are equal observations, as rounding makes them.

    Args:
        found: of ``lv.pit``.
        features: names; all by default.
        level: of the band.

    Raises:
        NameUnknownError: there is no such feature.
        DataError: a feature of which nothing was observed.
    """
    shown = found.features if features is None else tuple(features)
    for name in shown:
        if name not in found.features:
            raise NameUnknownError(f"the feature {name!r}", f"one of {list(found.features)}", "correct the name")
    across = min(COLUMNS, len(shown))
    down = -(-len(shown) // across)
    figure = Figure(figsize=(3.3 * across + 0.6, 2.6 * down + 0.5), dpi=DPI, layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for axis, name in zip(axes, shown, strict=False):
        test = found.uniformity(name, level)
        difference(axis, test)
        axis.set_title(f"{name}: p = {test.p_value:.3g} (n = {test.size})", fontsize=9, loc="left")
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    figure.supxlabel("u", fontsize=9)
    figure.supylabel("share up to u, minus u", fontsize=9)
    figure.suptitle(f"probability integral transforms, {found.kind} (band: {level:.0%} of right models)", fontsize=10)
    return figure


def difference(axis: Axes, test: Uniformity) -> None:
    """One panel."""
    points = test.points
    axis.fill_between(
        points, test.low - points, test.high - points, step="mid", color=colour(5), alpha=0.3, linewidth=0
    )
    axis.axhline(0, color=INK, linewidth=0.8)
    axis.step(points, test.distribution - points, where="mid", color=colour(0), linewidth=1.4)
    axis.set_xlim(0, 1)
    tidy(axis)
