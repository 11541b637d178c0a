"""Ranks of simulation-based calibration: their empirical distribution functions, less what is expected."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from latentvars.errors import NameUnknownError
from latentvars.plots.canvas import DPI
from latentvars.plots.pit import difference
from latentvars.studies.calibration_result import Calibration

COLUMNS = 3


def calibration(found: Calibration, quantities: Sequence[str] | None = None) -> Figure:
    """A panel for each quantity: the empirical distribution function of the ranks minus that of uniform ones, and the
    band that holds all of it in 95 % of right algorithms (Säilynoja, Bürkner & Vehtari 2022).

    A function above the line throughout: the truth lies low among the draws, and the posterior is too high. One that
    rises on the left and falls on the right, crossing the line downwards: the posterior is too narrow; the other way
    round it is too wide.

    Args:
        found: of ``lv.calibrate``.
        quantities: names; all by default.

    Raises:
        NameUnknownError: there is no such quantity.
    """
    shown = tuple(found.ranks) if quantities is None else tuple(quantities)
    for name in shown:
        if name not in found.ranks:
            raise NameUnknownError(f"the quantity {name!r}", f"one of {list(found.ranks)}", "correct the name")
    across = min(COLUMNS, len(shown))
    down = -(-len(shown) // across)
    figure = Figure(figsize=(3.3 * across + 0.6, 2.4 * down + 0.6), dpi=DPI, layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for axis, name in zip(axes, shown, strict=False):
        difference(axis, found.tests[name])
        axis.set_title(f"{name}: p = {found.tests[name].p_value:.3g}", fontsize=9, loc="left")
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    figure.supxlabel("rank among the draws, as a share", fontsize=9)
    figure.supylabel("share up to it, minus expected", fontsize=9)
    what = f"ranks of {found.simulations} simulations (band: 95 % of right algorithms)"
    figure.suptitle(what, fontsize=10)
    return figure
