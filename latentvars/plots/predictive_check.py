"""Test quantities of the data beside those of data drawn from the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latentvars.errors import NameUnknownError
from latentvars.plots.canvas import DPI, INK, colour, tidy
from latentvars.posterior.criticism.predictive_check import PredictiveCheck

COLUMNS = 3


def predictive_check(check: PredictiveCheck, names: Sequence[str] | None = None) -> Figure:
    """A panel for each quantity: a histogram of the replicates, a line where the data are, and the p-value.

    Of a quantity that reads the globals each replicate is drawn against the data at the same draw; points above the
    diagonal are replicates with the larger value.

    Args:
        check: of ``lv.predictive_check``.
        names: of the quantities; all by default.

    Raises:
        NameUnknownError: there is no such quantity.
    """
    shown = check.names if names is None else tuple(names)
    for name in shown:
        if name not in check.names:
            raise NameUnknownError(f"the quantity {name!r}", f"one of {list(check.names)}", "correct the name")
    across = min(COLUMNS, len(shown))
    down = -(-len(shown) // across)
    figure = Figure(figsize=(2.9 * across + 0.4, 2.4 * down + 0.5), dpi=DPI, layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for axis, name in zip(axes, shown, strict=False):
        replicated, observed = check.replicated[name], check.observed[name]
        if len(observed) > 1:
            _against(axis, observed, replicated)
        else:
            _histogram(axis, float(observed[0]), replicated[np.isfinite(replicated)])
        axis.set_title(f"{name}: p = {check.p_value(name):.3g}", fontsize=9, loc="left")
        tidy(axis)
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    size = len(next(iter(check.replicated.values())))
    figure.suptitle(f"{check.kind} predictive check, {size} data sets (line: the data)", fontsize=10)
    return figure


def _histogram(axis: Axes, observed: float, replicated: np.ndarray) -> None:
    whole = bool((replicated == np.round(replicated)).all())
    if len(replicated) and not np.ptp(replicated):  # all alike
        half = max(1.0, abs(float(replicated[0])))
        bins = replicated[0] + half * np.array([-0.02, 0.02])
        axis.set_xlim(min(observed, replicated[0]) - half, max(observed, replicated[0]) + half)
    elif whole and len(replicated) and np.ptp(replicated) <= 40:
        bins = np.arange(replicated.min() - 0.5, replicated.max() + 1)
    else:
        bins = np.histogram_bin_edges(replicated, min(30, max(5, len(replicated) // 15)))
    axis.hist(replicated, bins=bins.tolist(), color=colour(5), alpha=0.75, linewidth=0)
    axis.axvline(observed, color=colour(1), linewidth=2)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    axis.grid(False, axis="y")


def _against(axis: Axes, observed: np.ndarray, replicated: np.ndarray) -> None:
    axis.scatter(observed, replicated, s=6, color=colour(5), alpha=0.5, linewidths=0)
    both = np.concatenate([observed, replicated])
    ends = [np.nanmin(both), np.nanmax(both)]
    axis.plot(ends, ends, color=INK, linewidth=1)
    axis.set(xlabel="data", ylabel="replicate")
