"""Measures of embeddings beside their baselines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latentvars.embedding import Evaluation
from latentvars.errors import NameUnknownError
from latentvars.plots.canvas import canvas, colour, marker, tidy

WIDTH = 0.7  # of the band in which the candidates of one measure stand


def evaluation(result: Evaluation, metrics: Sequence[str] | None = None, *, axis: Axes | None = None) -> Figure:
    """Mean and standard deviation over the divisions, a line of the picture for each measure, baselines hollow.

    Candidates that were given or fitted before say so in the legend: they may have seen the test rows.

    Args:
        result: of :func:`latentvars.evaluate_embedding`.
        metrics: some of its measures, from the top; all by default.
        axis: where to draw; a new figure by default.

    Raises:
        NameUnknownError: a measure that was not taken.
    """
    chosen = tuple(result.metrics if metrics is None else metrics)
    unknown = [name for name in chosen if name not in result.metrics]
    if unknown:
        raise NameUnknownError(f"the metric {unknown[0]!r}", f"some of {list(result.metrics)}", "change metrics=.")
    figure, axis = canvas(axis, 7.2, 1.2 + 0.55 * len(chosen))
    at = [result.metrics.index(name) for name in chosen]
    lines = np.arange(len(chosen))
    size = len(result.candidates)
    for place, name in enumerate(result.candidates):
        within = result.fitted[place] == "fitted in each split"
        offset = WIDTH * ((place + 0.5) / size - 0.5)
        tint = colour(place)
        axis.errorbar(
            result.mean[place, at], lines + offset, xerr=np.nan_to_num(result.sd[place, at]), fmt=marker(place),
            color=tint, markersize=5, linewidth=1.3, markerfacecolor="white" if place >= result.own else tint,
            label=name if within else f"{name} ({result.fitted[place]})",
        )  # fmt: skip
    axis.set_yticks(lines, chosen)
    axis.set_ylim(len(chosen) - 0.5, -0.5)
    for line in lines[1:]:
        axis.axhline(line - 0.5, color="#DDDDDD", linewidth=0.6)
    tidy(axis)
    axis.grid(False, axis="y")
    axis.set_xlabel(f"mean ± standard deviation over {result.scores.shape[-1]} divisions (larger is better)")
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
