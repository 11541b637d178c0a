"""The transitions of a chain, as a graph of its states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, PathPatch, Polygon
from matplotlib.path import Path

from latentvars.distributions import HiddenMarkov, stationary
from latentvars.errors import KindError, NameUnknownError, SettingError
from latentvars.inference import Fit
from latentvars.plots.canvas import INK, canvas, colour, group_names
from latentvars.plots.chains import chain_of, state_order
from latentvars.rows import Rows

MOST_NODES, MOST_ARROWS = 8, 12
BEND = 0.2  # of an arrow, as a share of the distance
SMALL, LARGE = 0.25, 0.42  # radius of a node
Point = np.ndarray


def transitions(
    fit: Fit,
    data: Any = None,
    *,
    site: str | None = None,
    least: float = 0.005,
    names: Sequence[str] | None = None,
    axis: Axes | None = None,
) -> Figure:
    """States as nodes, as large as their share of the steps; arrows as wide as the probabilities beside them.

    States stand clockwise by their mean, with the colours that they have in :func:`states`. Of more than eight states,
    or twelve arrows between them, the matrix itself is drawn, from row to column. Where inputs drive the transitions,
    they are the expected moves out of each state over the data, as shares.

    Args:
        fit: of a model whose observed site is a :class:`latentvars.distributions.HiddenMarkov`, or one with ``site``.
        data: rows that decide the shares of the steps; those of the fit by default.
        site: a global ``[K, K]`` whose rows sum to one, of chains that are written otherwise; the shares are then those
            of its stationary law.
        least: smaller probabilities are left out of the graph.
        names: of the K states.
        axis: where to draw; a new figure by default.

    Raises:
        KindError: a fit of another model, or a site that is no such matrix.
        NameUnknownError: a site that does not exist.
        SettingError: ``least`` outside [0, 1).
    """
    if not 0 <= least < 1:
        raise SettingError(f"least={least}", "a probability below 1", "write least=0.005")
    if site is None:
        rows = fit.rows if data is None else fit.conform(data)
        chain, value = chain_of(fit, rows)
        moves, share, order = _moves(chain, value, rows), _share(fit, rows), state_order(chain)
    else:
        moves, share = _matrix(fit, site)
        order = np.arange(len(moves))
    labelled = group_names(names, len(moves), "state")
    moves, share = moves[np.ix_(order, order)], share[order]
    labelled = [labelled[k] for k in order]
    between = (moves >= least).sum() - (moves.diagonal() >= least).sum()
    if len(moves) > MOST_NODES or between > MOST_ARROWS:
        return _heatmap(moves, labelled, axis)
    return _graph(moves, share, labelled, least, axis)


def _moves(chain: HiddenMarkov, value: torch.Tensor, rows: Rows) -> np.ndarray:
    """The transition matrix ``[K, K]``; expected moves as shares where it is another at each step."""
    if not chain.moving:
        matrix = chain.transition.detach().double()
        return matrix.reshape(-1, *matrix.shape[-2:])[0].numpy()
    factor = chain.factors(value, rows.weights.to(value.dtype))["transition"]
    counts = (factor.weights * factor.value).reshape(-1, chain.states, chain.states).sum(0).double()
    return (counts / counts.sum(-1, keepdim=True)).nan_to_num().numpy()


def _share(fit: Fit, rows: Rows) -> np.ndarray:
    """Expected share of all steps in each state, ``[K]``."""
    smoothed = fit.latent(rows).mean().double()
    count = (smoothed * rows.weights[:, None, None]).sum((0, 1))
    return (count / count.sum()).numpy()


def _matrix(fit: Fit, site: str) -> tuple[np.ndarray, np.ndarray]:
    if site not in fit.point:
        raise NameUnknownError(f"the global {site!r}", f"one of {list(fit.point)}", "correct site.")
    matrix = fit.point[site].double()
    square = matrix.dim() == 2 and matrix.shape[0] == matrix.shape[1]
    if not square or bool(((matrix.sum(-1) - 1).abs() > 1e-6).any()):
        raise KindError(
            given=f"the global {site!r} of shape {list(matrix.shape)}",
            needed="a matrix [K, K] whose rows sum to one",
            remedy="give the transition matrix",
        )
    return matrix.numpy(), stationary(matrix).numpy()


def _heatmap(moves: np.ndarray, names: Sequence[str], axis: Axes | None) -> Figure:
    side = min(10.0, 1.6 + 0.42 * len(moves))
    figure, axis = canvas(axis, side + 0.6, side)
    picture = axis.imshow(moves, cmap="Blues", vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(moves):
        if value >= 0.005:
            tint = "white" if value > 0.6 else "black"
            axis.text(column, row, f"{value:.2f}".lstrip("0"), ha="center", va="center", fontsize=7, color=tint)
    axis.set_xticks(range(len(moves)), list(names), rotation=90)
    axis.set_yticks(range(len(moves)), list(names))
    axis.set(xlabel="to", ylabel="from")
    axis.tick_params(length=0)
    figure.colorbar(picture, ax=axis, shrink=0.8, label="probability")
    return figure


def _graph(moves: np.ndarray, share: np.ndarray, names: Sequence[str], least: float, axis: Axes | None) -> Figure:
    size = len(moves)
    figure, axis = canvas(axis, 6.4, 2.9 if size < 3 else 5.6)
    centres, room = _places(size)
    radii = room * (SMALL + (LARGE - SMALL) * np.sqrt(share))
    for i, j in np.ndindex(moves.shape):
        if moves[i, j] >= least and i != j:
            _arrow(axis, centres[i], centres[j], float(radii[i]), float(radii[j]), float(moves[i, j]), colour(i))
    for i in range(size):
        if moves[i, i] >= least:
            _loop(axis, centres[i], radii[i], moves[i, i], colour(i), size)
        axis.add_patch(Circle(tuple(centres[i]), radii[i], facecolor=colour(i), edgecolor="white", zorder=3))
        text: Any = {"ha": "center", "va": "center", "fontsize": 9, "zorder": 4, "linespacing": 1.15}
        x, y = centres[i].tolist()
        axis.text(x, y, f"{names[i]}\n{share[i]:.0%}", color=_readable(colour(i)), **text)
    axis.set_aspect("equal")
    axis.set_axis_off()
    beside, below, above = (r := radii.max()) + 0.3, r + 0.12, r + 0.65
    room = np.array([[beside, below], [beside, above]]) if size < 3 else np.full((2, 2), 0.85)
    low, high = centres.min(0) - room[0], centres.max(0) + room[1]
    axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    return figure


def _places(size: int) -> tuple[np.ndarray, float]:
    """Centres ``[K, 2]``, clockwise from the top (two: side by side), and how large nodes may be."""
    if size == 1:
        return np.zeros((1, 2)), 1.0
    first = np.pi if size == 2 else np.pi / 2
    angles = first - 2 * np.pi * np.arange(size) / size
    reach = 1.15 if size < 6 else 1.5
    return reach * np.stack([np.cos(angles), np.sin(angles)], 1), 1.0


def _arrow(axis: Axes, start: Point, end: Point, out: float, into: float, chance: float, tint: str) -> None:
    along = end - start
    bend = (start + end) / 2 + BEND * np.array([-along[1], along[0]])
    first = start + out * _unit(bend - start)  # the label stands nearer to it: opposite arrows cross in the middle
    tip = end + (into + 0.03) * _unit(bend - end)
    last = _head(axis, tip, _unit(tip - bend), chance, tint)
    path = Path([first, bend, last], [Path.MOVETO, Path.CURVE3, Path.CURVE3])
    _draw(axis, path, chance, tint, 0.36 * first + 0.48 * bend + 0.16 * last)


def _loop(axis: Axes, centre: Point, radius: float, chance: float, tint: str, size: int) -> None:
    away = np.array([0.0, 1.0]) if size < 3 else _unit(centre)
    angle = np.arctan2(away[1], away[0])

    def at(distance: float, turn: float) -> Point:
        return centre + distance * np.array([np.cos(angle + turn), np.sin(angle + turn)])

    first, tip = at(radius, 0.55), at(radius + 0.03, -0.55)
    far = [at(radius + 0.62, 0.6), at(radius + 0.62, -0.6)]
    last = _head(axis, tip, _unit(tip - far[1]), chance, tint)
    path = Path([first, *far, last], [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
    _draw(axis, path, chance, tint, (first + 3 * far[0] + 3 * far[1] + last) / 8)


def _head(axis: Axes, tip: Point, along: Point, chance: float, tint: str) -> Point:
    """The head of an arrow that ends at ``tip``; where its line ends."""
    length, half = 0.085 + 0.06 * chance, 0.035 + 0.045 * chance
    base, across = tip - length * along, half * np.array([-along[1], along[0]])
    axis.add_patch(Polygon([tip, base + across, base - across], facecolor=tint, linewidth=0, zorder=2))
    return base


def _draw(axis: Axes, path: Path, chance: float, tint: str, label: Point) -> None:
    axis.add_patch(PathPatch(path, fill=False, linewidth=0.8 + 4 * chance, edgecolor=tint, capstyle="butt", zorder=2))
    box: Any = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.9}
    text = f"{chance:.2f}" if chance >= 0.0995 else f"{chance:.3f}"
    axis.text(
        float(label[0]), float(label[1]), text, ha="center", va="center", fontsize=8.5, color=INK, bbox=box, zorder=5
    )


def _unit(vector: Point) -> Point:
    return vector / np.linalg.norm(vector)


def _readable(tint: str) -> str:
    """Black or white, whichever stands out from a colour (relative luminance, WCAG 2.1)."""
    channels = np.array(to_rgb(tint))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return "white" if linear @ [0.2126, 0.7152, 0.0722] < 0.25 else "black"
