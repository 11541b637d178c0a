"""The loadings of factors on features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latentvars.distributions import FactorNormal
from latentvars.errors import KindError, NameUnknownError
from latentvars.inference import Fit
from latentvars.plots.canvas import INK, canvas, group_names
from latentvars.posterior.symmetry import one_labelling

WRITTEN = 200  # numbers that are written into their cells


def loadings(
    fit: Fit,
    *,
    site: str = "loadings",
    standardized: bool = False,
    names: Sequence[str] | None = None,
    axis: Axes | None = None,
) -> Figure:
    """Loadings as a table of colours, blue below zero and red above, with their standard deviations where the globals
    are draws, and beside them the communality of each feature: the share of its variance that the factors have.

    Args:
        fit: of factor analysis, or of any model with a global of two axes.
        site: the global; features are its first axis unless the model's ``dims()`` says that they are the second.
        standardized: divide by the standard deviations of the features: correlations of features and factors, where
            factors are uncorrelated. Of :class:`latentvars.models.FactorAnalysis` and the like.
        names: of the factors.
        axis: where to draw; a new figure by default.

    Raises:
        NameUnknownError: no such global.
        KindError: a global of another number of axes, or a variance that is asked for and not known.
    """
    if site not in fit.point:
        raise NameUnknownError(f"the global {site!r}", f"one of {list(fit.point)}", "correct site.")
    values, spread, features = _values(fit, site)
    variance = _variance(fit, len(values))
    if standardized and variance is None:
        raise KindError(
            given=f"standardized=True of a fit of {type(fit.model).__name__}",
            needed="an observed site that is a FactorNormal distribution, whose variances are known",
            remedy="leave standardized out",
        )
    shares = None if variance is None else (values**2).sum(1) / variance
    if standardized and variance is not None:
        scale = np.sqrt(variance)[:, None]
        values, spread = values / scale, None if spread is None else spread / scale
    labelled = group_names(names, values.shape[1], "factor")
    return _draw(values, spread, shares, features, labelled, axis)


def _values(fit: Fit, site: str) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Loadings ``[D, L]``, their standard deviations where there are draws, and names of the features."""
    known = fit.knowledge()
    value = fit.point[site].double().numpy()
    if value.ndim != 2:
        raise KindError(
            f"the global {site!r} of shape {list(value.shape)}", "[features, factors]", "give another site."
        )
    if known.draws is not None:
        one_labelling(known.program, known.rows, known.draws, torch.zeros(known.size), fit.seed)
    spread = None if known.draws is None else known.draws[site].double().std(0).numpy()
    axes = known.axes
    dims = axes.of_site(site, 2)
    if dims[1] == "feature":
        dims, value, spread = dims[::-1], value.T, None if spread is None else spread.T
    given = axes.labels.get(dims[0], ())
    features = [str(label) for label in given] if len(given) == len(value) else [str(k) for k in range(len(value))]
    return value, spread, features


def _variance(fit: Fit, features: int) -> np.ndarray | None:
    """The variance of each feature under the model ``[D]``, of factors that are integrated out."""
    for factor in fit.program.factor_distributions(fit.point, fit.program.sketch).values():
        if isinstance(factor.fn, FactorNormal) and factor.fn.event_shape[0] == features:
            found = factor.fn.variance.detach().double()
            return found.reshape(-1, features)[0].numpy()
    return None


def _draw(
    values: np.ndarray,
    spread: np.ndarray | None,
    shares: np.ndarray | None,
    features: Sequence[str],
    names: Sequence[str],
    axis: Axes | None,
) -> Figure:
    high, wide = values.shape
    longest = max(map(len, features))
    figure, axis = canvas(axis, min(14.0, 2.3 + 0.09 * longest + 0.85 * wide), min(14.0, 0.9 + 0.36 * high))
    limit = float(np.abs(values).max()) or 1.0
    picture = axis.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    if values.size <= WRITTEN:
        decimals = max(0, 2 - int(np.floor(np.log10(limit))) - 1) if limit >= 10 else 2
        for (row, column), value in np.ndenumerate(values):
            text = f"{value:.{decimals}f}".replace("-", "−")
            text += "" if spread is None else f" ± {spread[row, column]:.2g}"
            tint = "white" if abs(value) > 0.65 * limit else "black"
            axis.text(column, row, text, ha="center", va="center", fontsize=9, color=tint)
    axis.set_xticks(range(wide), list(names))
    axis.set_yticks(range(high), list(features))
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    if shares is not None:
        place: Any = {
            "transform": axis.get_yaxis_transform(),
            "ha": "center",
            "va": "center",
            "fontsize": 9,
            "color": INK,
        }
        right = 1 + 0.45 / wide
        for row, share in enumerate(shares):
            axis.text(right, row, f"{share:.2f}", **place)
        axis.text(right, -0.59, "communality", **(place | {"va": "bottom", "fontsize": 10, "color": "black"}))
    figure.colorbar(picture, ax=axis, pad=0.05 if shares is None else 0.5 / (wide + 1), label="loading")
    return figure
