"""Whether chains agree: their draws one after another, and the ranks of these."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from latentvars.errors import KindError, ShapeError
from latentvars.inference import Fit
from latentvars.plots.canvas import DPI, canvas, colour, tidy
from latentvars.plots.chosen import chain_draws

COLUMNS = 3
BINS = 20
BAND = 0.95


def trace(fit: Fit, *, of: str | Sequence[str] | None = None, axis: Axes | None = None) -> Figure:
    """The draws of each number in their order, a colour for each chain, and where the sampler diverged.

    Args:
        fit: by ``lv.NUTS()``.
        of: globals or numbers of them, as ``"loc"`` or ``"loc[0, height]"``; None: all.
        axis: where to draw one number; a panel for each in a new figure by default.

    Raises:
        KindError: a fit without chains.
        NameUnknownError: there is no such number.
        SettingError: more than 24 numbers.
        ShapeError: an axis for more than one number.
    """
    found = chain_draws(fit, of)
    figure, axes = _panels(list(found), axis)
    diverging = fit.knowledge().stats.get("diverging")
    for (name, draws), panel in zip(found.items(), axes, strict=True):
        for chain, values in enumerate(draws):
            panel.plot(values, color=colour(chain), linewidth=0.5, alpha=0.8)
        if diverging is not None and bool(diverging.any()):
            at = np.flatnonzero(diverging.numpy().any(0))
            panel.plot(at, np.zeros(len(at)), "|", color="black", transform=panel.get_xaxis_transform(), markersize=7)
        panel.set_title(name, fontsize=9, loc="left")
        panel.set_xlim(0, draws.shape[1] - 1)
        panel.margins(y=0.08)
        tidy(panel)
    _label_ends(axes, "draw", "")
    _name_chains(figure, axes, len(next(iter(found.values()))), axis is None)
    return figure


def ranks(fit: Fit, *, of: str | Sequence[str] | None = None, axis: Axes | None = None) -> Figure:
    """Ranks of the draws of each chain among those of all chains, in 20 bins: level where chains agree (Vehtari et al.
    2021, section 4.2). The band holds 95 % of the counts of independent draws.

    Args:
        fit: by ``lv.NUTS()``, two chains or more.
        of: globals or numbers of them, as ``"loc"`` or ``"loc[0, height]"``; None: all.
        axis: where to draw one number; a panel for each in a new figure by default.

    Raises:
        as :func:`trace`; KindError also of a single chain.
    """
    found = chain_draws(fit, of)
    chains, size = next(iter(found.values())).shape
    if chains < 2:
        raise KindError("one chain", "two or more, which are compared", "sample with chains=4")
    figure, axes = _panels(list(found), axis)
    edges = np.linspace(0.5, chains * size + 0.5, BINS + 1)
    inside = np.diff(np.floor(edges)).mean()
    law = stats.hypergeom(chains * size, round(inside), size)
    low, high = law.ppf(0.5 - BAND / 2), law.ppf(0.5 + BAND / 2)
    for (name, draws), panel in zip(found.items(), axes, strict=True):
        among = stats.rankdata(draws, method="average").reshape(draws.shape)
        panel.axhspan(low, high, color="#DDDDDD", linewidth=0, zorder=0)
        panel.axhline(size / BINS, color="black", linewidth=0.7, linestyle="--")
        for chain, values in enumerate(among):
            counts, _ = np.histogram(values, edges)
            panel.stairs(counts, edges, color=colour(chain), linewidth=1.3)
        panel.set_title(name, fontsize=9, loc="left")
        panel.set(xlim=(edges[0], edges[-1]), ylim=(0, None))
        panel.spines[["top", "right"]].set_visible(False)
    _label_ends(axes, "rank among all draws", "draws")
    _name_chains(figure, axes, chains, axis is None)
    return figure


def _panels(names: Sequence[str], axis: Axes | None) -> tuple[Figure, list[Axes]]:
    """An axis for each number."""
    if axis is not None:
        if len(names) > 1:
            raise ShapeError(f"one axis for {len(names)} numbers", "one number", f'write of="{names[0]}"')
        figure, axis = canvas(axis)
        return figure, [axis]
    wide = min(COLUMNS, len(names))
    high = -(-len(names) // wide)
    figure = Figure(figsize=(2.9 * wide + 0.4, 1.75 * high + 0.7), dpi=DPI, layout="constrained")
    grid = figure.subplots(high, wide, squeeze=False).flatten()
    for spare in grid[len(names) :]:
        spare.remove()
    return figure, list(grid[: len(names)])


def _label_ends(axes: Sequence[Axes], below: str, beside: str) -> None:
    """Titles of axes at the last panel of each column and the first of each line."""
    wide = min(COLUMNS, len(axes))
    for place, panel in enumerate(axes):
        panel.tick_params(labelsize=8)
        if place + wide >= len(axes):
            panel.set_xlabel(below, fontsize=9)
        if place % wide == 0 and beside:
            panel.set_ylabel(beside, fontsize=9)


def _name_chains(figure: Figure, axes: Sequence[Axes], chains: int, own: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour(chain), linewidth=1.6, label=f"chain {chain}") for chain in range(chains)]
    if own:
        figure.legend(handles=handles, loc="outside upper right", ncols=min(4, chains), frameon=False, fontsize=8)
    else:
        axes[0].legend(
            handles=handles,
            frameon=False,
            fontsize=8,
            ncols=min(4, chains),
            handlelength=1,
            loc="lower right",
            bbox_to_anchor=(1, 1),
        )
