"""What every picture shares: a figure without pyplot, and colours that colour-blind readers can tell apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latentvars.errors import ShapeError

# Okabe & Ito (2008), Color Universal Design, without yellow, which is faint on white
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK = "#444444"
DPI = 150


def canvas(axis: Axes | None, width: float = 6.4, height: float = 4.4) -> tuple[Figure, Axes]:
    """``axis`` and its figure, or one axis in a new figure of this size in inches."""
    if axis is not None:
        figure = axis.get_figure(root=True)
        assert isinstance(figure, Figure)
        return figure, axis
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    return figure, figure.add_subplot()


def colour(group: int) -> str:
    """The colour of a component, state or class."""
    return PALETTE[group % len(PALETTE)]


def marker(group: int) -> str:
    """The marker of a component, state or class; two groups of one colour differ in it."""
    return MARKERS[(group % len(PALETTE) + 3 * (group // len(PALETTE))) % len(MARKERS)]


def tidy(axis: Axes) -> None:
    """No box, a faint grid behind the data."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="#DDDDDD", linewidth=0.6)
    axis.set_axisbelow(True)


def group_names(given: Sequence[str] | None, size: int, kind: str) -> list[str]:
    """Names of the groups: those given, or numbers.

    Raises:
        ShapeError: another number of names.
    """
    if given is None:
        return [f"{kind} {k}" for k in range(size)]
    if len(given) != size:
        raise ShapeError(f"{len(given)} names", f"one for each {kind}, {size}", "pass as many names.")
    return [str(name) for name in given]


def matrix(value: object, what: str) -> np.ndarray:
    """An array ``[N, D]``.

    Raises:
        ShapeError: another number of axes.
    """
    found = np.asarray(value)
    if found.ndim != 2:
        raise ShapeError(f"{what} of shape {list(found.shape)}", "[rows, features]", "reshape it.")
    return found
