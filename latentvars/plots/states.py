"""The decoded states of a chain over its series."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from latentvars.errors import KindError, NameUnknownError, ShapeError
from latentvars.inference import Fit
from latentvars.plots.canvas import DPI, INK, canvas, colour, group_names, tidy
from latentvars.plots.chains import chain_of, state_means, state_order


def states(
    fit: Fit,
    times: Sequence[Any] | np.ndarray | None = None,
    *,
    data: Any = None,
    row: int = 0,
    feature: int = 0,
    names: Sequence[str] | None = None,
    labels: tuple[str, str] | None = None,
    axis: Axes | None = None,
) -> Figure:
    """One series with its most probable state path, the mean of each state, and the smoothed probabilities below.

    States are listed by their mean; their numbers are those of ``fit.point``.

    Args:
        fit: of a model whose observed site is a :class:`latentvars.distributions.HiddenMarkov`.
        times: one for each step, evenly spaced; 0, 1, … by default.
        data: rows; those of the fit by default.
        row: which series.
        feature: which feature of it.
        names: of the K states.
        labels: of the axes of time and of the series.
        axis: where to draw, with room below it; a new figure by default.

    Raises:
        KindError: a fit of another model.
        NameUnknownError: a row that does not exist.
        ShapeError: another number of times than of steps.
    """
    rows = fit.rows if data is None else fit.conform(data)
    if not 0 <= row < len(rows):
        raise NameUnknownError(f"row {row}", f"0 to {len(rows) - 1}", "correct row.")
    rows = rows.subset([row])
    x, means, order = _series(fit, rows, feature)
    latent = fit.latent(rows)
    path, smoothed = latent.path()[0].numpy(), latent.mean()[0].numpy()
    times = np.arange(len(x)) if times is None else np.asarray(times)
    if times.shape != (len(x),):
        raise ShapeError(f"times of shape {list(times.shape)}", f"[{len(x)}], one a step", "pass all of them.")
    labelled = group_names(names, len(order), "state")
    if names is None:
        labelled = [f"{name}: mean {means[:, k].mean():.4g}" for k, name in enumerate(labelled)]
    time_label, series_label = labels or ("step", _feature_name(rows, feature))
    figure, above, below = _two_axes(axis)
    ranks = np.argsort(order)
    _draw_series(above, times, x, means[np.arange(len(path)), path])
    _draw_ribbon(above, _edges(times), ranks[path])
    below.stackplot(times, *smoothed.T[order], colors=[colour(rank) for rank in range(len(order))], alpha=0.6)
    patches = [Patch(color=colour(rank), alpha=0.6, label=labelled[k]) for rank, k in enumerate(order)]
    above.legend(handles=patches, frameon=False, ncols=min(4, len(order)), loc="lower left", bbox_to_anchor=(0, 1))
    above.set_ylabel(series_label)
    below.set(ylim=(0, 1), xlabel=time_label, ylabel="smoothed\nprobability")
    below.spines[["top", "right"]].set_visible(False)
    return figure


def _two_axes(axis: Axes | None) -> tuple[Figure, Axes, Axes]:
    """A tall axis and a low one below it that shares its times."""
    if axis is None:
        figure = Figure(figsize=(7.2, 4.6), dpi=DPI, layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        return figure, above, below
    figure, axis = canvas(axis)
    axis.tick_params(labelbottom=False)
    return figure, axis, axis.inset_axes((0, -0.36, 1, 0.3), sharex=axis)


def _draw_series(axis: Axes, times: np.ndarray, x: np.ndarray, decoded: np.ndarray) -> None:
    """The observations, and the mean of the decoded state at each step."""
    axis.plot(times, x, color=INK, linewidth=0.9, marker="o", markersize=2.6)
    axis.step(times, decoded, where="mid", color="black", linewidth=2, solid_capstyle="butt")
    tidy(axis)
    axis.grid(False, axis="x")


def _draw_ribbon(axis: Axes, edges: np.ndarray, groups: np.ndarray) -> None:
    """A coloured band behind each stretch of one state."""
    for start, end in _runs(groups):
        axis.axvspan(edges[start], edges[end], color=colour(int(groups[start])), alpha=0.16, linewidth=0)
    axis.set_xlim(edges[0], edges[-1])


def _series(fit: Fit, rows: Any, feature: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The series ``[T]``, the mean of each state at each step ``[T, K]``, and the states by their means ``[K]``."""
    chain, value = chain_of(fit, rows)
    x, means = value[0], state_means(chain, feature)
    if means is None:
        raise KindError("an emission without a mean", "one of numbers", "draw latent(rows).path() yourself.")
    x = x[:, feature] if x.dim() == 2 else x
    steps = np.broadcast_to(means, (len(x), chain.states))
    return x.double().numpy(), steps, state_order(chain, feature)


def _feature_name(rows: Any, feature: int) -> str:
    name = next(iter(rows.columns)) if len(rows.columns) == 1 else "x"
    return rows.features[name][feature] if name in rows.features else name


def _edges(times: np.ndarray) -> np.ndarray:
    """Borders between steps ``[T + 1]``, half a step outside the ends."""
    if len(times) == 1:
        return np.array([times[0] - 0.5, times[0] + 0.5])
    half = (times[1:] - times[:-1]) / 2
    return np.concatenate([[times[0] - half[0]], times[:-1] + half, [times[-1] + half[-1]]])


def _runs(path: np.ndarray) -> list[tuple[int, int]]:
    """Stretches of one state as (first step, step after the last)."""
    ends = [0, *(np.flatnonzero(np.diff(path)) + 1).tolist(), len(path)]
    return list(itertools.pairwise(ends))
