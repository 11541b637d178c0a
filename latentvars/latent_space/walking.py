"""Ways through a latent space: lines, great circles, geodesics, traversals and walks, with what they decode to."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from latentvars.errors import KindError, SettingError, ShapeError
from latentvars.latent_space.checks import check_continuous, checked, features_of
from latentvars.latent_space.decoding import Decoded
from latentvars.latent_space.directions import Direction
from latentvars.latent_space.fitted import FittedSource
from latentvars.latent_space.generator import GeneratorSource
from latentvars.latent_space.geodesic import geodesic
from latentvars.latent_space.paths import LatentPath, check_steps, circle, line, travelled
from latentvars.latent_space.sampling import check_draws
from latentvars.randomness import derive

Way = Literal["line", "circle", "geodesic"]
AnySource = FittedSource | GeneratorSource
OPEN_DRAWS = 64  # of continuous locals that a point leaves open


def decoded(source: AnySource, z: Any, given: Any, draws: int | None, seed: int) -> Decoded:
    """p(x | z); see :meth:`latentvars.LatentSpace.decode`."""
    z = checked(z, source)
    sources: list[Any] = [source]
    if draws is not None:
        check_draws(draws)
        if isinstance(source, GeneratorSource):
            raise KindError("draws of the globals of a generator, which has none", "a fit", "leave draws out")
        sources = source.at(draws, seed)
    rounds = max(1, OPEN_DRAWS // len(sources)) if source.open else 1
    laws: dict[str, list[Any]] = {}
    with torch.no_grad():
        for number, one in enumerate(sources * rounds):
            for name, law in one.laws(z, given, derive(seed, 52, number)).items():
                laws.setdefault(name, []).append(law)
    return Decoded(laws, seed)


def interpolated(source: AnySource, start: Any, end: Any, steps: int, by: Way, given: Any, spread: bool) -> LatentPath:
    """The way from one value to another; see :meth:`latentvars.LatentSpace.interpolate`."""
    check_steps(steps)
    check_continuous(source, f"interpolation by {by}")
    if by not in get_args(Way):
        raise SettingError(f"by={by!r}", '"line", "circle" or "geodesic"', "correct it")
    ends = source.free(torch.stack([one_of(source, start), one_of(source, end)])).to(torch.float64)
    if by == "geodesic":
        points = geodesic(features_of(source, given, spread), ends[0], ends[1], steps)
    else:
        points = (line if by == "line" else circle)(ends[0], ends[1], steps)
    return _path(source, points, by, given, spread)


def traversed(
    source: AnySource, dimension: int, at: Any, values: Any, steps: int, extent: float, given: Any
) -> LatentPath:
    """One number moved; see :meth:`latentvars.LatentSpace.traverse`."""
    check_steps(steps)
    check_continuous(source, "a traversal")
    here = source.draw(1_000, 0) if at is None else one_of(source, at)[None]
    free = source.free(here).mean(0, keepdim=True).to(torch.float64)
    if not -free.shape[1] <= dimension < free.shape[1]:
        raise ShapeError(f"dimension={dimension}", f"one of {free.shape[1]} numbers", "count from 0")
    if values is None:
        values = torch.linspace(-extent, extent, steps)
    places = torch.as_tensor(values, dtype=torch.float64)
    points = free.repeat(len(places), 1)
    points[:, dimension] = places
    return _path(source, points, "traversal", given, True)


def walked(source: AnySource, direction: Direction, at: Any, amounts: Any, given: Any) -> LatentPath:
    """Points along a direction; see :meth:`latentvars.LatentSpace.walk`."""
    check_continuous(source, "a walk")
    start = direction.origin if at is None else source.free(one_of(source, at)[None])[0]
    share = torch.as_tensor(amounts, dtype=torch.float64)
    check_steps(len(share))
    points = start.to(torch.float64) + share[:, None] * direction.vector.to(torch.float64)
    return _path(source, points, "walk", given, True)


def one_of(source: AnySource, z: Any) -> Tensor:
    """One value ``[*shape]``; ShapeError of several."""
    found = checked(z, source)
    if len(found) != 1:
        raise ShapeError(f"{len(found)} values", "one value", "pass a single one")
    return found[0]


def _path(source: AnySource, points: Tensor, kind: str, given: Any, spread: bool) -> LatentPath:
    z = source.value(points.to(source.dtype))
    with torch.no_grad():
        lengths, energy = travelled(features_of(source, given, spread)(points))
    return LatentPath(z, decoded(source, z, given, None, 0), kind, lengths, energy)
