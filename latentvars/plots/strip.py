"""What is decoded along ways through a latent space, or at points of it: images in a strip, or bands of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latentvars.errors import SettingError, ShapeError
from latentvars.latent_space import Decoded, LatentPath
from latentvars.plots.canvas import INK, canvas, colour, tidy

GAP = 1  # pixels between images


def strip(
    paths: LatentPath | Decoded | Sequence[LatentPath | Decoded],
    shape: tuple[int, int],
    *,
    site: str | None = None,
    names: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    std: bool = False,
    limits: tuple[float, float] | None = None,
    axis: Axes | None = None,
) -> Figure:
    """Decoded means along one or several ways, or of points as decoded, as grey images, one line each.

    Args:
        paths: ways, or what ``space.decode`` gives, of equally many points.
        shape: height and width of an image in pixels.
        site: the observed site; needed where there are several.
        names: of the ways; their kinds by default.
        columns: names of the points; none by default.
        std: draw standard deviations beneath the means, each way on a scale of its own.
        limits: values that are white and black; None: the least and the largest mean.
        axis: where to draw; a new figure by default.

    Raises:
        ShapeError: rows that are no such images, ways of different numbers of points, or other numbers of names.
    """
    ways = [paths] if isinstance(paths, LatentPath | Decoded) else list(paths)
    looks = [way.decoded if isinstance(way, LatentPath) else way for way in ways]
    if not ways or len({len(way) for way in ways}) > 1:
        raise ShapeError(f"ways of {[len(way) for way in ways]} points", "equally many", "interpolate with equal steps")
    means = [_images(look.mean(site).double().numpy(), shape) for look in looks]
    low, high = limits or (min(map(np.min, means)), max(map(np.max, means)))
    lines = []
    for look, mean in zip(looks, means, strict=True):
        lines.append(np.clip((mean - low) / max(high - low, 1e-12), 0, 1))
        if std:
            spread = _images(look.std(site).double().numpy(), shape)
            lines.append(spread / max(spread.max(), 1e-12))
    titles = [getattr(way, "kind", "points") for way in ways] if names is None else [str(name) for name in names]
    if len(titles) != len(ways):
        raise ShapeError(f"{len(titles)} names", f"{len(ways)}, one for each way", "pass as many names")
    titles = [title for name in titles for title in ([name, f"{name}, sd"] if std else [name])]
    figure, axis = canvas(axis, 0.75 * len(ways[0]) + 1.2, 0.8 * len(lines) + 0.3)
    axis.imshow(_tiled(lines), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    centres = [shape[0] / 2 - 0.5 + k * (shape[0] + GAP) for k in range(len(lines))]
    axis.set_yticks(centres, titles, color=INK)
    axis.set_xticks([])
    if columns is not None:
        if len(columns) != len(ways[0]):
            raise ShapeError(f"{len(columns)} columns", f"{len(ways[0])}, one for each point", "pass as many names")
        places = [shape[1] / 2 - 0.5 + k * (shape[1] + GAP) for k in range(len(columns))]
        axis.set_xticks(places, list(map(str, columns)), color=INK)
        axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure


def band(
    path: LatentPath,
    features: Sequence[int] | None = None,
    *,
    site: str | None = None,
    names: Sequence[str] | None = None,
    probability: float = 0.89,
    axis: Axes | None = None,
) -> Figure:
    """Decoded means of some features along a way, with the bands in which observations lie with this probability.

    Args:
        path: the way.
        features: positions of the features; None: all, of which there may be seven.
        site: the observed site; needed where there are several.
        names: of the features that are drawn.
        probability: of the bands.
        axis: where to draw; a new figure by default.

    Raises:
        ShapeError: features that do not exist, or another number of names.
        SettingError: more than seven features, or a probability that is none.
    """
    mean = path.decoded.mean(site).double().flatten(1).numpy()
    chosen = list(range(mean.shape[1])) if features is None else list(features)
    if not chosen or not all(-mean.shape[1] <= place < mean.shape[1] for place in chosen):
        raise ShapeError(f"features={chosen}", f"some of {mean.shape[1]} features", "count from 0")
    if len(chosen) > 7:
        raise SettingError(f"{len(chosen)} features in one picture", "at most seven", "choose some by features=")
    titles = [f"feature {place}" for place in chosen] if names is None else list(map(str, names))
    if len(titles) != len(chosen):
        raise ShapeError(f"{len(titles)} names", f"{len(chosen)}, one for each feature", "pass as many names")
    low, high = (end.double().flatten(1).numpy() for end in path.decoded.band(probability, site))
    at = path.lengths.double().numpy()
    figure, axis = canvas(axis)
    for number, place in enumerate(chosen):
        axis.fill_between(at, low[:, place], high[:, place], color=colour(number), alpha=0.18, linewidth=0)
        axis.plot(at, mean[:, place], color=colour(number), marker="o", markersize=3)
        axis.annotate(
            f" {titles[number]}",
            (at[-1], mean[-1, place]),
            color=colour(number),
            va="center",
            fontsize=9,
            annotation_clip=False,
        )
    axis.set(xlabel=f"way along the {path.kind}, as decoded", ylabel=site or path.decoded.sites[0])
    note = {"transform": axis.transAxes, "ha": "left", "va": "bottom", "fontsize": 8, "color": INK}
    axis.text(0.01, 1.01, f"bands: {probability:.0%} of observations", **note)
    tidy(axis)
    return figure


def _images(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    if values[0].size != shape[0] * shape[1]:
        raise ShapeError(
            f"rows of {values[0].size} numbers", f"{shape[0]} × {shape[1]} pixels", "correct shape=(height, width)"
        )
    return values.reshape(len(values), *shape)


def _tiled(lines: Sequence[np.ndarray]) -> np.ndarray:
    """Lines of images ``[S, H, W]`` side by side, with white between them."""
    rows = []
    for images in lines:
        padded = np.pad(images, ((0, 0), (0, GAP), (0, GAP)))
        rows.append(np.concatenate(list(padded), 1))
    return np.concatenate(rows)[:-GAP, :-GAP]
