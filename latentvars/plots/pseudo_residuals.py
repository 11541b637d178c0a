"""Pseudo-residuals in four pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latentvars.errors import DataError, NameUnknownError
from latentvars.plots.canvas import DPI, INK, colour, tidy
from latentvars.posterior.criticism.pseudo_residuals import PseudoResiduals

LINES = ((1.96, "--"), (2.58, ":"))  # 95 % and 99 % of a standard normal
LAGS = 20


def pseudo_residuals(found: PseudoResiduals, feature: str | None = None) -> Figure:
    """Index plot with segments of discrete observations and lines at ±1.96 and ±2.58, histogram with the normal
    density, quantiles against those of the normal, and autocorrelations, as figure 6.4 of Zucchini & MacDonald (2009).

    Args:
        found: of ``lv.pseudo_residuals``.
        feature: its name; the first by default.

    Raises:
        NameUnknownError: there is no such feature.
        DataError: nothing was observed of it.
    """
    name = found.features[0] if feature is None else feature
    if name not in found.features:
        raise NameUnknownError(f"the feature {name!r}", f"one of {list(found.features)}", "correct feature=")
    z = found[name]
    seen = z[np.isfinite(z)]
    if not len(seen):
        raise DataError(f"the feature {name!r}, of which nothing was observed", "observations", "choose another one")
    low, high = found.segment(name)
    figure = Figure(figsize=(8.0, 5.6), dpi=DPI, layout="constrained")
    axes: Any = figure.subplots(2, 2)
    _index(axes[0, 0], z.ravel(), low.ravel(), high.ravel())
    _histogram(axes[0, 1], seen)
    _quantiles(axes[1, 0], seen)
    _correlations(axes[1, 1], np.atleast_2d(z))
    for axis in axes.ravel():
        tidy(axis)
    test = found.uniformity(name)
    figure.suptitle(f"{found.kind} pseudo-residuals of {name}: p = {test.p_value:.3g} (n = {test.size})", fontsize=10)
    return figure


def _index(axis: Axes, z: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    seen = ~np.isnan(z)
    position = np.arange(seen.sum())
    largest = max(3.2, float(np.abs(z[np.isfinite(z)]).max()) + 0.3)
    ends = np.clip(low[seen], -2 * largest, None), np.clip(high[seen], None, 2 * largest)
    axis.vlines(position, *ends, color=colour(5), linewidth=1.2)
    axis.plot(position, z[seen], linestyle="", marker="o", markersize=2.4, color=colour(0))
    axis.axhline(0, color=INK, linewidth=0.8)
    for height, style in LINES:
        for sign in (-1, 1):
            axis.axhline(sign * height, color=INK, linewidth=0.8, linestyle=style)
    axis.set(ylim=(-largest, largest), xlabel="observation", ylabel="pseudo-residual")


def _histogram(axis: Axes, seen: np.ndarray) -> None:
    half = max(3.5, float(np.abs(seen).max()))
    grid = np.linspace(-half, half, 200)
    bins = np.linspace(-half, half, 2 * max(5, min(15, len(seen) // 12)) + 2)
    axis.hist(seen, bins=bins.tolist(), density=True, color=colour(5), alpha=0.75, linewidth=0)
    axis.plot(grid, np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi), color=INK, linewidth=1.2)
    axis.set(xlabel="pseudo-residual", ylabel="density")


def _quantiles(axis: Axes, seen: np.ndarray) -> None:
    from scipy.special import ndtri

    expected = ndtri((np.arange(1, len(seen) + 1) - 0.5) / len(seen))
    axis.plot(expected[[0, -1]], expected[[0, -1]], color=INK, linewidth=1)
    axis.plot(expected, np.sort(seen), linestyle="", marker="o", markersize=2.8, color=colour(0))
    axis.set(xlabel="standard normal", ylabel="pseudo-residual")


def _correlations(axis: Axes, z: np.ndarray) -> None:
    """Of neighbours along the last axis, gaps left out, with the band of independent numbers."""
    centred = z - np.nanmean(z[np.isfinite(z)])
    centred = np.where(np.isfinite(centred), centred, np.nan)
    whole = np.nanmean(centred**2)
    lags = np.arange(1, min(LAGS, z.shape[1] // 2) + 1)
    values = [np.nanmean(centred[:, lag:] * centred[:, :-lag]) / whole for lag in lags]
    band = 1.96 / np.sqrt(np.isfinite(z).sum())
    axis.axhspan(-band, band, color=colour(5), alpha=0.3, linewidth=0)
    axis.axhline(0, color=INK, linewidth=0.8)
    axis.vlines(lags, 0, values, color=colour(0), linewidth=2)
    axis.set(xlabel="lag", ylabel="autocorrelation", ylim=(-1, 1))
