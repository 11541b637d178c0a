"""How surely each row belongs to which component."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latentvars.errors import KindError
from latentvars.inference import Fit
from latentvars.plots.canvas import canvas, colour, group_names
from latentvars.posterior.latent import is_discrete

NAMED = 40  # rows that have their names below them


def responsibilities(
    fit: Fit,
    data: Any = None,
    *,
    local: str | None = None,
    sort: bool = True,
    names: Sequence[str] | None = None,
    axis: Axes | None = None,
) -> Figure:
    """A stacked bar for each row: its posterior probabilities of the components, at the point.

    Args:
        fit: of a model with a discrete local for each row.
        data: rows; those of the fit by default.
        local: the local; needed where there are several.
        sort: rows by their most probable component, the surest first; else in their own order.
        names: of the K components.
        axis: where to draw; a new figure by default.

    Raises:
        KindError: a local that is continuous, or a chain of states.
        NameUnknownError: a local that does not exist.
        ShapeError: another number of names.
    """
    rows = fit.rows if data is None else fit.conform(data)
    latent = fit.latent(rows)
    belongs = latent.mean(local).double().numpy()
    site = local or latent.sites[0]
    if not is_discrete(latent.beliefs[site][0]) or belongs.ndim != 2:
        raise KindError(
            given=f"the local {site!r} with posterior means of shape {list(belongs.shape)}",
            needed="one discrete local a row",
            remedy="draw chains by states(), continuous locals by latent()",
        )
    size = belongs.shape[1]
    labelled = group_names(names, size, "component")
    order = np.lexsort((-belongs.max(1), belongs.argmax(1))) if sort else np.arange(len(belongs))
    figure, axis = canvas(axis, 7.2, 3.4)
    edges, below = np.arange(len(order) + 1) - 0.5, np.zeros(len(order))
    for k in range(size):
        above = below + belongs[order, k]
        label = labelled[k] if names is not None else f"{labelled[k]} ({belongs[:, k].mean():.0%})"
        axis.stairs(above, edges, baseline=below, fill=True, color=colour(k), alpha=0.8, linewidth=0, label=label)
        below = above
    axis.set(xlim=(edges[0], edges[-1]), ylim=(0, 1), ylabel="posterior probability")
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_xlabel("rows, by most probable component" if sort else "row")
    if len(order) <= NAMED:
        texts = [str(rows.names[position]) for position in order.tolist()]
        axis.set_xticks(np.arange(len(order)), texts, rotation=90 if max(map(len, texts)) > 2 else 0)
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": min(4, size)}
    axis.legend(frameon=False, alignment="left", columnspacing=1.2, handlelength=1.2, **place)
    return figure
