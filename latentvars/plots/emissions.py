"""The law of the data in each component or state, over the data themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from latentvars.distributions import observed_part
from latentvars.errors import KindError, NameUnknownError
from latentvars.inference import Fit
from latentvars.plots.canvas import canvas, colour, group_names, tidy
from latentvars.plots.chains import chain_of, state_order
from latentvars.rows import Rows

GRID = 401
BEYOND = 0.15  # of the range of the data, on either side
MOST_BINS = 50
MOST_BARS = 200  # whole numbers further apart are drawn as a histogram


class Column(NamedTuple):
    """One feature of the data.

    Attributes:
        name: of the column.
        feature: position of the feature; None where an observation is a plain number.
        width: number of features.
        label: its name.
        values: those that were observed.
        weights: of each.
    """

    name: str
    feature: int | None
    width: int
    label: str
    values: np.ndarray
    weights: np.ndarray

    def filled(self, grid: np.ndarray) -> np.ndarray:
        """Observations of the column with the grid in this feature and nothing known of the others."""
        if self.feature is None:
            return grid
        found = np.full((len(grid), self.width), np.nan)
        found[:, self.feature] = grid
        return found


def emissions(
    fit: Fit,
    *,
    feature: int | str = 0,
    column: str | None = None,
    local: str | None = None,
    names: Sequence[str] | None = None,
    axis: Axes | None = None,
) -> Figure:
    """A histogram of one feature with its density in each component or state, times the share of the data that belongs
    to it, and their sum (Zucchini & MacDonald 2009, figure 1.4). Densities are marginal ones, other features
    integrated out.

    Args:
        fit: of a mixture, or of a model whose observed site is a :class:`latentvars.distributions.HiddenMarkov`.
        feature: position or name.
        column: of the data; ``"x"`` or the only one by default.
        local: the discrete local of a mixture; needed where there are several.
        names: of the K components or states.
        axis: where to draw; a new figure by default.

    Raises:
        KindError: another model, or laws that differ from row to row or step to step.
        NameUnknownError: a column, feature or local that does not exist.
    """
    of = _column(fit.rows, column, feature)
    whole = bool((of.values == np.round(of.values)).all()) and np.ptp(of.values) < MOST_BARS and _counts(fit)
    grid = np.arange(of.values.min(), of.values.max() + 1) if whole else _grid(of.values)
    chained = bool(fit.rows.lengths is not None)
    shares, order = _of_chain(fit, of, grid) if chained else _of_mixture(fit, of, grid, local)
    labelled = group_names(names, len(shares), "state" if chained else "component")
    figure, axis = canvas(axis, 6.4, 4.0)
    edges = np.append(grid - 0.5, grid[-1] + 0.5) if whole else _bins(of.values)
    heights, _ = np.histogram(of.values, edges, weights=of.weights, density=True)
    axis.stairs(heights, edges, fill=True, color="#D9D9D9", edgecolor="white", linewidth=0.6, label="data")
    style = {"marker": "o", "markersize": 3} if whole else {}
    for place, k in enumerate(order):
        axis.plot(grid, shares[k], color=colour(place), linewidth=1.8, label=labelled[k], **style)
    axis.plot(grid, shares.sum(0), color="black", linewidth=1.1, linestyle=(0, (4, 4)), label="sum")
    axis.set(xlabel=of.label, ylabel="probability" if whole else "density", ylim=(0, None))
    if whole:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(axis)
    axis.legend(frameon=False)
    return figure


def _column(rows: Rows, column: str | None, feature: int | str) -> Column:
    name = column or (next(iter(rows.columns)) if len(rows.columns) == 1 else "x")
    rows = rows.in_memory()
    value = rows[name].double()
    labels = list(rows.features.get(name, (name,)))
    if isinstance(feature, str) and feature in labels:
        place = labels.index(feature)
    elif isinstance(feature, int) and -len(labels) <= feature < len(labels):
        place = feature % len(labels)
    else:
        raise NameUnknownError(f"the feature {feature!r}", f"one of {labels}, or its position", "correct feature.")
    weights = rows.weights if rows.lengths is None else rows.weights.repeat_interleave(rows.lengths)
    one = value if value.dim() == 1 else value[:, place]
    seen = ~one.isnan()
    at = None if value.dim() == 1 else place
    return Column(name, at, len(labels), labels[place], one[seen].numpy(), weights[seen].numpy())


def _counts(fit: Fit) -> bool:
    """Whether some observed site holds whole numbers."""
    supports: list[Any] = [
        factor.fn.support
        for name, factor in fit.program.factor_distributions(fit.point, fit.program.sketch).items()
        if name in fit.program.roles.observed
    ]
    return any(support.is_discrete for support in supports)


def _grid(values: np.ndarray) -> np.ndarray:
    room = BEYOND * (np.ptp(values) or 1.0)
    return np.linspace(values.min() - room, values.max() + room, GRID)


def _bins(values: np.ndarray) -> np.ndarray:
    """Finer than for one hump: the rules know nothing of several."""
    usual = len(np.histogram_bin_edges(values, "auto")) - 1
    return np.histogram_bin_edges(values, min(MOST_BINS, max(usual, int(2 * np.sqrt(len(values))))))


def _of_chain(fit: Fit, of: Column, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of the steps times density ``[K, G]``, and the states by their means."""
    chain, _ = chain_of(fit, fit.rows)
    emission = chain.emission
    if chain.emitting or len(emission.batch_shape) != 1:
        raise _differing(fit)
    x = torch.as_tensor(of.filled(grid), dtype=fit.program.dtype)
    x = x if emission.event_shape else x.reshape(-1)
    law = observed_part(emission)
    with torch.no_grad():
        score = law.log_prob(x.unsqueeze(-1 - len(emission.event_shape)))
    smoothed = fit.latent().mean(chain.local)
    count = (smoothed * fit.rows.weights[:, None, None]).sum((0, 1))
    order = state_order(chain, of.feature or 0)
    return _density(score.mT, (count / count.sum()).log()), order


def _of_mixture(fit: Fit, of: Column, grid: np.ndarray, local: str | None) -> tuple[np.ndarray, np.ndarray]:
    """log p(x, z = k) of rows whose component is known, as densities ``[K, G]``."""
    latent = fit.latent()
    belongs = latent.mean(local)
    site = local or latent.sites[0]
    if belongs.dim() != 2 or not hasattr(latent.beliefs[site][0], "probs"):
        raise KindError(
            given=f"the local {site!r} with posterior means of shape {list(belongs.shape)}",
            needed="one discrete local a row, or a chain",
            remedy="draw continuous locals by latent()",
        )
    if set(fit.rows.columns) != {of.name}:
        raise _differing(fit)
    rows = of.filled(grid)
    scores = [
        fit.score_rows(Rows({of.name: rows}, known={site: np.full(len(grid), k)})) for k in range(belongs.shape[1])
    ]
    return _density(torch.stack(scores), torch.zeros(len(scores))), np.arange(len(scores))


def _density(scores: Tensor, log_share: Tensor) -> np.ndarray:
    """``[K, G]``; zero outside the support."""
    return (scores.detach() + log_share[:, None]).exp().nan_to_num().double().numpy()


def _differing(fit: Fit) -> KindError:
    return KindError(
        given=f"a fit of {type(fit.model).__name__} in which each row or step has a law of its own",
        needed="one law for each component or state",
        remedy="draw the series by states(), or predictions by a predictive check",
    )
