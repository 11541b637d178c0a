"""Ways from one point of a latent space to another, and what is decoded along them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from latentvars.errors import DataError, SettingError
from latentvars.latent_space.decoding import Decoded

SMALL_ANGLE = 1e-6


@dataclass(frozen=True, eq=False)
class LatentPath:
    """Points along a way, and the rows that they decode to.

    Attributes:
        points: ``[S, *shape]``.
        decoded: p(x | z) of each point.
        kind: ``"line"``, ``"circle"``, ``"geodesic"`` or ``"traversal"``.
        lengths: ``[S]`` way from the first point on, as what is decoded moves: root of the summed squares of the moves
            of means and standard deviations.
        energy: Σ squared moves times their number; the square of the length where the speed is constant, else more.
    """

    points: Tensor
    decoded: Decoded = field(repr=False)
    kind: str
    lengths: Tensor = field(repr=False)
    energy: float

    def __len__(self) -> int:
        return len(self.points)

    @property
    def length(self) -> float:
        """Of the whole way."""
        return float(self.lengths[-1])

    def __str__(self) -> str:
        return f"{self.kind} of {len(self)} points, length {self.length:.3g} and energy {self.energy:.3g} as decoded"


def line(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Points at equal distances on the straight line, ``[steps, W]``."""
    share = torch.linspace(0, 1, steps, dtype=start.dtype)[:, None]
    return (1 - share) * start + share * end


def circle(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Points on the great circle (White 2016; Shoemake 1985), ``[steps, W]``: directions turn at constant speed, norms
    change evenly. Draws of a normal prior in many dimensions lie near a sphere, which straight lines leave.

    Raises:
        DataError: an end in the origin, or ends that are opposite.
    """
    norms = torch.stack([start.norm(), end.norm()])
    if float(norms.min()) == 0:
        raise DataError("a great circle from the origin", "two points off the origin", 'write by="line"')
    cosine = (start @ end / norms.prod()).clamp(-1, 1)
    angle = torch.arccos(cosine)
    if float(torch.pi - angle) < 1e-3:
        raise DataError("a great circle between opposite points", "one way that is the shortest", 'write by="line"')
    if float(angle) < SMALL_ANGLE:
        return line(start, end, steps)
    share = torch.linspace(0, 1, steps, dtype=start.dtype)[:, None]
    first, second = torch.sin((1 - share) * angle), torch.sin(share * angle)
    direction = (first * start / norms[0] + second * end / norms[1]) / torch.sin(angle)
    return ((1 - share) * norms[0] + share * norms[1]) * direction


def travelled(features: Tensor) -> tuple[Tensor, float]:
    """Cumulative length ``[S]`` and energy of a way through ``[S, W]``."""
    squares = (features[1:] - features[:-1]).square().sum(1)
    lengths = torch.cat([squares.new_zeros(1), squares.sqrt().cumsum(0)])
    return lengths, float(squares.sum() * len(squares))


def check_steps(steps: int) -> None:
    """SettingError of fewer than two points."""
    if not isinstance(steps, int) or steps < 2:
        raise SettingError(f"steps={steps}", "at least two points", "write steps=9")
