"""Directions of a continuous latent space: of an attribute, of most variation, and of most change as decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from latentvars.errors import DataError, ShapeError
from latentvars.latent_space.checks import check_continuous, checked, features_of, means_of
from latentvars.latent_space.fitted import FittedSource
from latentvars.latent_space.generator import GeneratorSource


@dataclass(frozen=True, eq=False)
class Direction:
    """A direction on the real numbers of a latent.

    Attributes:
        vector: ``[W]``; one step along it is one unit of what it stands for.
        kind: ``"attribute"``, ``"principal"`` or ``"jacobian"``.
        strength: of an attribute: the share of its variance that z along the vector explains (R²); of a principal axis:
            its share of the variance of z; of the Jacobian: |J v|, how far one step moves what is decoded.
        origin: ``[W]`` where it begins, unless another point is given.
    """

    vector: Tensor
    kind: str
    strength: float
    origin: Tensor = field(repr=False)


@dataclass(frozen=True, eq=False)
class Directions:
    """The directions of one latent space. Of a generator, points are given in the place of rows: ``z=``."""

    source: FittedSource | GeneratorSource = field(repr=False)

    def attribute(self, attribute: Any, data: Any = None, *, z: Any = None) -> Direction:
        """The direction of an attribute of rows ``[N]``, numbers or booleans; errors as :func:`of_attribute`.

        Args:
            attribute: of each row.
            data: rows; those of the fit by default.
            z: their latents, in the place of posterior means.
        """
        return of_attribute(self._points(data, z), attribute)

    def principal(self, data: Any = None, *, z: Any = None) -> list[Direction]:
        """Principal axes of the posterior means of rows, the widest first; one step is one standard deviation."""
        return principal(self._points(data, z))

    def jacobian(self, at: Any, *, given: Any = None, spread: bool = True) -> list[Direction]:
        """What changes most as decoded at one value of the latent, and how much; see :func:`of_jacobian`."""
        check_continuous(self.source, "a Jacobian")
        here = checked(at, self.source)
        if len(here) != 1:
            raise ShapeError(f"{len(here)} values", "one value", "pass a single one")
        return of_jacobian(features_of(self.source, given, spread), self.source.free(here)[0].to(torch.float64))

    def _points(self, data: Any, z: Any) -> Tensor:
        check_continuous(self.source, "a direction")
        points = means_of(self.source, data) if z is None else checked(z, self.source)
        return self.source.free(points).to(torch.float64)


def of_attribute(free: Tensor, attribute: Any) -> Direction:
    """cov(z, a) / var(a): the slope of E[z | a]; of an attribute of two values the difference of their mean z.

    Args:
        free: ``[N, W]``.
        attribute: ``[N]`` numbers or booleans.

    Raises:
        ShapeError: another number of values.
        DataError: an attribute that is constant or not finite.
    """
    a = torch.as_tensor(attribute).to(free.dtype)
    if a.shape != free.shape[:1]:
        raise ShapeError(f"an attribute of shape {list(a.shape)}", f"[{len(free)}]", "pass one value for each row")
    if not bool(a.isfinite().all()) or bool((a == a[0]).all()):
        raise DataError(
            given="an attribute that is constant or not finite",
            needed="numbers, or booleans, of which some differ",
            remedy="write labels == 3 for one class against the others",
        )
    mean, apart = free.mean(0), a - a.mean()
    vector = apart @ (free - mean) / apart.square().sum()
    along = (free - mean) @ vector
    strength = (along @ apart).square() / (along.square().sum() * apart.square().sum()).clamp(min=1e-300)
    return Direction(vector, "attribute", float(strength), mean)


def principal(free: Tensor) -> list[Direction]:
    """Principal axes of points ``[N, W]``, the widest first; one step is one standard deviation."""
    if len(free) < 2:
        raise DataError(f"principal axes of {len(free)} point", "two points or more", "pass more rows")
    mean = free.mean(0)
    _, size, axes = torch.linalg.svd(free - mean, full_matrices=False)
    variances = size.square() / (len(free) - 1)
    sign = torch.sign(axes.gather(1, axes.abs().argmax(1, keepdim=True)))
    shares = variances / variances.sum()
    return [
        Direction(axis * variance.sqrt(), "principal", float(share), mean)
        for axis, variance, share in zip(sign * axes, variances, shares, strict=True)
    ]


def of_jacobian(features: Callable[[Tensor], Tensor], at: Tensor) -> list[Direction]:
    """Right singular vectors of the Jacobian of what is decoded at a point ``[W]``: the eigenvectors of the pull-back
    metric JᵀJ, those that change most first (Ramesh, Choi & LeCun 2018); one step is one unit of z."""
    found = jacobian(features, at)
    _, gains, axes = torch.linalg.svd(found, full_matrices=False)
    sign = torch.sign(axes.gather(1, axes.abs().argmax(1, keepdim=True)))
    return [Direction(axis, "jacobian", float(gain), at) for axis, gain in zip(sign * axes, gains, strict=True)]


def jacobian(features: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """d f / d z at a point: ``[W]`` → ``[F, W]``."""

    def one(free: Tensor) -> Tensor:
        return features(free[None])[0]

    found: Any = torch.autograd.functional.jacobian(one, at)
    return found
