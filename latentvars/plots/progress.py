"""How a run went: its objective after each pass, and where its starts ended."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from latentvars.errors import KindError
from latentvars.inference import Fit
from latentvars.plots.canvas import INK, canvas, colour, tidy

WINDOW = 0.05  # of the passes, over which a noisy objective is smoothed
HIDDEN = 0.1  # of the passes may lie below the picture where they rise far


def objective(fit: Fit, *, axis: Axes | None = None) -> Figure:
    """The objective after each pass over the data, nats per row; a noisy one with its running median.

    Where the first passes lie so far below the rest that nothing else could be seen, the picture begins above them and
    says so.

    Args:
        fit: by EM or SVI.
        axis: where to draw; a new figure by default.

    Raises:
        KindError: a fit without passes, as by ``lv.NUTS()``.
    """
    history = np.asarray(fit.history, dtype=float)
    if not len(history):
        raise KindError(
            given=f"a fit by {type(fit.algorithm).__name__}, which has no passes",
            needed="a fit by lv.EM() or lv.SVI()",
            remedy="draw the chains of a sampler by trace() and ranks()",
        )
    figure, axis = canvas(axis, 6.4, 3.6)
    passes = np.arange(1, len(history) + 1)
    falls = np.diff(history) < 0
    noisy = bool(falls.mean() > 0.1) if len(falls) else False
    alone = {"marker": "o", "markersize": 3} if len(history) <= 40 else {}
    axis.plot(passes, history, color=colour(0), linewidth=0.8 if noisy else 1.6, alpha=0.45 if noisy else 1, **alone)
    if noisy:
        width = 2 * max(1, int(WINDOW * len(history) / 2)) + 1
        axis.plot(passes, _median(history, width), color=colour(1), linewidth=1.8, label=f"median of {width} passes")
        axis.legend(frameon=False, loc="lower right")
    _leave_out_the_rise(axis, passes, history)
    kind = "objective" if fit.exact else "ELBO"
    axis.set(xlabel="pass over the data", ylabel=f"{kind} / nats per row")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axis.ticklabel_format(axis="y", useOffset=False)
    tidy(axis)
    return figure


def _median(history: np.ndarray, width: int) -> np.ndarray:
    """Of the passes around each, fewer at the ends."""
    half = width // 2
    return np.array([np.nanmedian(history[max(0, k - half) : k + half + 1]) for k in range(len(history))])


def _leave_out_the_rise(axis: Axes, passes: np.ndarray, history: np.ndarray) -> None:
    finite = history[np.isfinite(history)]
    if len(finite) < 10:
        return
    low, high = np.quantile(finite, HIDDEN), finite.max()
    if finite.min() > high - 6 * (high - low):
        return
    room = 0.08 * (high - low) or 1.0
    floor = low - 2 * room
    below = passes[~(history >= floor)]
    axis.set_ylim(floor, high + room)
    count = f"pass{'es' * (len(below) > 1)} {below[0]}" + (f" to {below[-1]}" if len(below) > 1 else "")
    text = f"{count} below, from {history[below[0] - 1]:.4g}"
    axis.text(0.02, 0.03, text, transform=axis.transAxes, fontsize=8, color=INK)


def restarts(fit: Fit, *, axis: Axes | None = None) -> Figure:
    """Where every start ended, best first, nats per row: those that reached the optimum that was kept stand out.

    Ends above it are spurious, with a collapsed component; starts that failed are counted in the title.

    Args:
        fit: with several starts, as by ``lv.EM(restarts=20)``.
        axis: where to draw; a new figure by default.

    Raises:
        KindError: a fit of a single start.
    """
    optima = fit.optima
    if optima is None:
        raise KindError("a fit of a single start", "several", "fit with restarts=20")
    ends = np.array(optima.objectives)
    ends = np.sort(ends[np.isfinite(ends)])[::-1]
    places = np.arange(1, len(ends) + 1)
    same = np.abs(ends - optima.chosen) <= optima.tolerance
    above = ends > optima.chosen + optima.tolerance
    groups = (
        ("kept optimum", same, colour(1), "o"),
        ("other optimum", ~same & ~above, colour(0), "o"),
        ("collapsed component", above, INK, "x"),
    )
    figure, axis = canvas(axis, 6.4, 3.6)
    axis.axhline(optima.chosen, color=colour(1), linewidth=0.9, zorder=1)
    for label, mine, tint, sign in groups:
        if mine.any():
            label = f"{label} ({int(mine.sum())})"
            axis.scatter(places[mine], ends[mine], s=34, color=tint, marker=sign, zorder=2, label=label)
    axis.set(xlabel="start, by its end", ylabel="objective / nats per row")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axis.ticklabel_format(axis="y", useOffset=False)
    tidy(axis)
    axis.grid(False, axis="x")
    title = f"best optimum found {optima.replicated} of {len(optima.objectives)} times"
    title += f", {optima.failed} failed" if optima.failed else ""
    axis.legend(frameon=False, title=title, alignment="left", loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return figure
