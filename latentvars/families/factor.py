"""Normals whose covariance comes from a few factors: statistics of the data alone, closed conditional maxima."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor
from torch.distributions.constraints import Constraint

from latentvars.contract import Factor
from latentvars.distributions import FactorNormal
from latentvars.distributions.operators import holds_numbers
from latentvars.errors import SupportError
from latentvars.families.base import Arguments, Family, MStep, Reference, Statistics
from latentvars.families.normal import LOG_TWO_PI, MultivariateNormalFamily, scatter, scattered

MOMENTS = MultivariateNormalFamily()


class FactorNormalFamily(Family):
    """N(x; μ, W Wᵀ + Ψ): statistics Σw, Σw(x − c), Σw(x − c)(x − c)ᵀ.

    The factors never have to be known: the maximum in W given Ψ is that of the likelihood itself (Lawley & Maxwell
    1971, section 4.3), and Ψ given W is the M-step of Rubin & Thayer (1982), so that each step is one of ECME (Liu &
    Rubin 1994) and the likelihood never falls.
    """

    whole = True

    events: Mapping[str, int] = {"loc": 1, "loadings": 2, "scale": 1, "shared_scale": 0}
    conjugate: Mapping[str, tuple[type, ...]] = {"loc": (), "loadings": (), "scale": (), "shared_scale": ()}
    natural: Mapping[str, Constraint] = {
        "loc": constraints.real,
        "loadings": constraints.real,
        "scale": constraints.positive,
        "shared_scale": constraints.positive,
    }

    def reference(self, factor: Factor, target: Size, floor: float) -> Reference:
        return MOMENTS.reference(factor, target, floor)

    def statistics(self, factor: Factor, target: Size, reference: Reference) -> Statistics:
        return MOMENTS.statistics(factor, target, reference)

    def log_likelihood(self, arguments: Arguments, statistics: Statistics, reference: Reference) -> Tensor:
        xp, loc, loadings, scale, centre, weight, first, second = _arrays(
            arguments["loc"], arguments["loadings"], _scale(arguments), reference.centre, *_sums(statistics)
        )
        squares = scattered(loc - centre, weight, first, second)
        white, precision = _whitened(xp, loadings, scale)
        root = xp.linalg.cholesky(precision)
        along = xp.linalg.solve(root, white.mT) / scale[..., None, :]
        distance = (_diagonal(xp, squares) / scale**2).sum(-1) - ((along @ squares) * along).sum(-1).sum(-1)
        size = white.shape[-2]
        log_det = 2 * (size * xp.log(scale).mean(-1) + xp.log(_diagonal(xp, root)).sum(-1))
        return torch.as_tensor(-0.5 * ((size * LOG_TWO_PI + log_det) * weight + distance).sum())

    def maximise(self, step: MStep, reference: Reference) -> Tensor:
        if step.selection.blocks != step.target.numel():
            raise SupportError(
                given=f"a global that is the {step.argument} of several normals with factors",
                needed="arguments of their own for each",
                remedy="give each its own, or fit with lv.SVI()",
            )
        weight = step.pull(step.statistics["weight"])
        if step.argument == "loc":
            total = weight[:, None]
            return step.finish(step.pull(step.statistics["first"]) / total + reference.centre, weight)
        squares = step.pull(scatter(step.arguments["loc"] - reference.centre, step.statistics))
        covariance = squares / weight[:, None, None]
        scale = _flat(_scale(step.arguments), step.target, 1)
        if step.argument == "loadings":
            return step.finish(_loadings(torch, covariance, scale, step.selection.event[1]), weight)
        loadings = _flat(step.arguments["loadings"], step.target, 2)
        return step.finish(_spread(step.argument, _noise(torch, covariance, loadings, scale), reference), weight)

    def together(self, arguments: Arguments, statistics: Statistics, reference: Reference) -> Arguments | None:
        xp, scale, centre, weight, first, second = _arrays(_scale(arguments), reference.centre, *_sums(statistics))
        if xp is not np or not weight > 0:
            return None
        offset = first / weight
        covariance = second / weight - offset[:, None] * offset
        loadings = _loadings(xp, covariance, scale, arguments["loadings"].shape[-1])
        spread = "scale" if "scale" in arguments else "shared_scale"
        noise = torch.from_numpy(_noise(xp, covariance, loadings, scale))
        return {
            "loc": torch.from_numpy(offset + centre),
            "loadings": torch.from_numpy(loadings),
            spread: _spread(spread, noise, reference),
        }

    def at_floor(self, argument: str, value: Tensor, reference: Reference) -> Tensor:
        return torch.zeros(value.shape[: value.dim() - self.events[argument]], dtype=torch.bool)


def _scale(arguments: Arguments) -> Tensor:
    """``[..., D]`` or ``[..., 1]``."""
    return arguments["scale"] if "scale" in arguments else arguments["shared_scale"][..., None]


def _flat(value: Tensor, target: Size, events: int) -> Tensor:
    """An argument of every place, ``[B, *event]``."""
    event = value.shape[value.dim() - events :]
    return value.expand(target + event).reshape(-1, *event)


def _loadings(xp: Any, covariance: Any, scale: Any, factors: int) -> Any:
    """The loadings of greatest likelihood given the noise, ``[B, D, L]``: of the covariance in units of the noise, the
    first L principal axes with variances less one (Lawley & Maxwell 1971, eq. 4.11)."""
    values, vectors = torch.linalg.eigh(torch.as_tensor(covariance / (scale[..., :, None] * scale[..., None, :])))
    if xp is np:
        values, vectors = values.numpy(), vectors.numpy()
    values, vectors = values[..., -factors:], vectors[..., -factors:]
    sign = 1 - 2 * (vectors.sum(-2) < 0)  # one of the two: the same in every run
    found = scale[..., None] * vectors * (sign * xp.sqrt(xp.clip(values - 1, 0, None)))[..., None, :]
    return found[..., ::-1].copy() if xp is np else found.flip(-1)


def _spread(argument: str, variance: Tensor, reference: Reference) -> Tensor:
    """Standard deviations of the noise from its variances ``[..., D]``, not below their floor."""
    least = torch.zeros(()) if reference.least_variance is None else reference.least_variance
    if argument == "shared_scale":
        return torch.maximum(variance.mean(-1), least.mean()).sqrt()
    return torch.maximum(variance, least).sqrt()


def _noise(xp: Any, covariance: Any, loadings: Any, scale: Any) -> Any:
    """Variances of the noise after an M-step given loadings, ``[B, D]`` (Rubin & Thayer 1982, eq. 7)."""
    white, precision = _whitened(xp, loadings, scale)
    inverse = xp.linalg.inv(precision)
    regression = inverse @ (white / scale[..., None]).mT  # E[z | x] = regression (x − μ)
    cross = covariance @ regression.mT
    second = inverse + regression @ cross
    explained = 2 * cross - loadings @ second
    return _diagonal(xp, covariance) - (explained * loadings).sum(-1)


def _whitened(xp: Any, loadings: Any, scale: Any) -> tuple[Any, Any]:
    """W / σ ``[..., D, L]`` and I + (W/σ)ᵀ(W/σ), the precision of z given x."""
    white = loadings / scale[..., None]
    return white, white.mT @ white + xp.eye(loadings.shape[-1], dtype=loadings.dtype, device=loadings.device)


def _diagonal(xp: Any, matrices: Any) -> Any:
    return xp.einsum("...ii->...i", matrices)


def _sums(statistics: Statistics) -> tuple[Tensor, Tensor, Tensor]:
    return statistics["weight"], statistics["first"], statistics["second"]


def _arrays(*values: Tensor) -> tuple[Any, ...]:
    """numpy with arrays over the same memory where the tensors just hold numbers, else torch with the tensors.

    To dispatch an operation on a few numbers takes torch several times what numpy takes.
    """
    if holds_numbers(*values):
        return np, *(value.numpy() for value in values)
    return torch, *values


def factor_families() -> dict[type[TorchDistribution], Family]:
    return {FactorNormal: FactorNormalFamily()}
