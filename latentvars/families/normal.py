"""Normal and multivariate normal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions import MultivariateNormal, Normal, TorchDistribution, constraints
from torch import Size, Tensor
from torch.distributions.constraints import Constraint

from latentvars.contract import Factor
from latentvars.families.base import Arguments, Family, MStep, Reference, Statistics
from latentvars.families.leaves import floating, mean_of, observed_mean, weighted_sum

LOG_TWO_PI = math.log(2 * math.pi)
NEAR_FLOOR = 1.01
BLOCK = 4_096  # rows that are multiplied together
ROUNDING = 1e-24  # variance of a constant, as a share of its square


class NormalFamily(Family):
    """N(x; loc, scale²): statistics Σw, Σw(x − c), Σw(x − c)²."""

    whole = True

    events: Mapping[str, int] = {"loc": 0, "scale": 0}
    conjugate: Mapping[str, tuple[type, ...]] = {"loc": (Normal,), "scale": ()}
    natural: Mapping[str, Constraint] = {"loc": constraints.real, "scale": constraints.positive}

    def reference(self, factor: Factor, target: Size, floor: float) -> Reference:
        centre = mean_of(factor.value, target)
        variance = mean_of((factor.value - centre).square(), target)
        return Reference(centre, floor * _varying(variance, centre) if floor else None)

    def statistics(self, factor: Factor, target: Size, reference: Reference) -> Statistics:
        shifted = factor.value - reference.centre
        one = torch.ones((), dtype=shifted.dtype, device=shifted.device)
        return {
            "weight": weighted_sum(factor.weights, one, target),
            "first": weighted_sum(factor.weights, shifted, target),
            "second": weighted_sum(factor.weights, shifted.square(), target),
        }

    def log_likelihood(self, arguments: Arguments, statistics: Statistics, reference: Reference) -> Tensor:
        loc = arguments["loc"] - _aligned(reference.centre, statistics["weight"])
        variance = arguments["scale"].square()
        squares = statistics["second"] - 2 * loc * statistics["first"] + loc.square() * statistics["weight"]
        return -0.5 * (statistics["weight"] * (LOG_TWO_PI + variance.log()) + squares / variance).sum()

    def maximise(self, step: MStep, reference: Reference) -> Tensor:
        weight, first, second = (step.statistics[name] for name in ("weight", "first", "second"))
        centre = _aligned(reference.centre, weight)
        if step.argument == "scale":
            loc = step.arguments["loc"] - centre
            squares = second - 2 * loc * first + loc.square() * weight
            total = step.pull(weight)
            squares = step.pull(squares).clamp(min=0)
            if reference.least_variance is not None:
                squares = torch.maximum(squares, step.pull(weight * _aligned(reference.least_variance, weight)))
            return step.finish((squares / total).sqrt(), total)
        precision = step.arguments["scale"].pow(-2)
        numerator, total = step.pull(precision * (first + centre * weight)), step.pull(precision * weight)
        if step.prior is not None:
            shrink = step.of_prior("scale").pow(-2)
            numerator, total = numerator + shrink * step.of_prior("loc"), total + shrink
        return step.finish(numerator / total, total)

    def at_floor(self, argument: str, value: Tensor, reference: Reference) -> Tensor:
        if argument != "scale" or reference.least_variance is None:
            return torch.zeros_like(value, dtype=torch.bool)
        return value.square() <= NEAR_FLOOR * _shared(reference.least_variance, value)


class MultivariateNormalFamily(Family):
    """N(x; loc, Σ) in any parametrisation: statistics Σw, Σw(x − c), Σw(x − c)(x − c)ᵀ."""

    whole = True

    events: Mapping[str, int] = {"loc": 1, "covariance_matrix": 2, "scale_tril": 2, "precision_matrix": 2}
    conjugate: Mapping[str, tuple[type, ...]] = {
        "loc": (MultivariateNormal, Normal),
        "covariance_matrix": (),
        "scale_tril": (),
        "precision_matrix": (),
    }
    natural: Mapping[str, Constraint] = {
        "loc": constraints.real,
        "covariance_matrix": constraints.positive_definite,
        "scale_tril": constraints.lower_cholesky,
        "precision_matrix": constraints.positive_definite,
    }

    def reference(self, factor: Factor, target: Size, floor: float) -> Reference:
        flat = floating(factor.value).reshape(-1, factor.value.shape[-1])
        centre = observed_mean(flat, [0])[0]
        variance = observed_mean((flat - centre).square(), [0])[0]
        return Reference(centre, floor * _varying(variance, centre) if floor else None)

    def statistics(self, factor: Factor, target: Size, reference: Reference) -> Statistics:
        if factor.spread is None and not target and factor.value.dim() == 2:
            return _moments(factor, reference.centre)
        shifted = factor.value - reference.centre
        one = torch.ones((), dtype=shifted.dtype, device=shifted.device)
        outer = shifted.unsqueeze(-1) * shifted.unsqueeze(-2)
        outer = outer if factor.spread is None else outer + factor.spread
        return {
            "weight": weighted_sum(factor.weights, one, target),
            "first": weighted_sum(factor.weights, shifted, target, 1),
            "second": weighted_sum(factor.weights, outer, target, 2),
        }

    def log_likelihood(self, arguments: Arguments, statistics: Statistics, reference: Reference) -> Tensor:
        squares = scatter(arguments["loc"] - reference.centre, statistics)
        covariance = covariance_of(arguments)
        factor = torch.linalg.cholesky(covariance)
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        size = squares.shape[-1]
        distance = torch.cholesky_solve(squares, factor.expand(squares.shape)).diagonal(dim1=-2, dim2=-1).sum(-1)
        return -0.5 * (statistics["weight"] * (size * LOG_TWO_PI + log_det) + distance).sum()

    def maximise(self, step: MStep, reference: Reference) -> Tensor:
        if step.argument == "loc":
            return self._loc(step, reference.centre)
        total = step.pull(step.statistics["weight"])
        squares = step.pull(scatter(step.arguments["loc"] - reference.centre, step.statistics))
        covariance = squares / total[:, None, None]
        if reference.least_variance is not None:
            covariance = raised(covariance, reference.least_variance)
        identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
        empty = (total <= 0)[:, None, None]
        covariance = torch.where(empty, identity, covariance)
        if step.argument == "scale_tril":
            covariance = torch.linalg.cholesky(covariance)
        elif step.argument == "precision_matrix":
            covariance = torch.linalg.inv(covariance)
        return step.finish(covariance, total)

    def _loc(self, step: MStep, centre: Tensor) -> Tensor:
        """Precision-weighted mean: solves Σ P (W μ − S) + P₀ (μ − m₀) = 0 in each block."""
        precision = torch.cholesky_inverse(torch.linalg.cholesky(covariance_of(step.arguments)))
        weight = step.statistics["weight"]
        summed = step.statistics["first"] + centre * weight[..., None]
        numerator = step.pull((precision @ summed[..., None]).squeeze(-1))
        total = step.pull(precision * weight[..., None, None])
        reached = step.pull(weight)
        if step.prior is not None:
            shrink = self._prior_precision(step)
            middle = step.of_prior("loc")
            numerator = numerator + (shrink @ middle[..., None]).squeeze(-1)
            total, reached = total + shrink, torch.ones_like(reached)
        identity = torch.eye(total.shape[-1], dtype=total.dtype, device=total.device)
        solvable = torch.where((reached <= 0)[:, None, None], identity, total)
        return step.finish(torch.linalg.solve(solvable, numerator), reached)

    @staticmethod
    def _prior_precision(step: MStep) -> Tensor:
        if isinstance(step.prior, Normal):
            return torch.diag_embed(step.of_prior("scale").pow(-2))
        assert step.prior is not None
        size = step.selection.event.numel()
        precision: Tensor = step.prior.precision_matrix  # type: ignore[attr-defined]
        return precision.expand((*step.selection.shape, size)).reshape(-1, size, size)

    def at_floor(self, argument: str, value: Tensor, reference: Reference) -> Tensor:
        if argument == "loc" or reference.least_variance is None:
            return torch.zeros(value.shape[: value.dim() - self.events[argument]], dtype=torch.bool)
        scale = reference.least_variance.sqrt()
        smallest = torch.linalg.eigvalsh(covariance_of({argument: value}) / (scale[:, None] * scale))[..., 0]
        return smallest <= NEAR_FLOOR


def _moments(factor: Factor, centre: Tensor) -> Statistics:
    """Statistics of one law of all rows, by products of some rows at a time."""
    value = factor.value
    weights = factor.weights.to(centre.dtype).expand(len(value))
    first, second = torch.zeros_like(centre), centre.new_zeros(len(centre), len(centre))
    even = bool((weights == 1).all())
    block = centre.new_empty(min(BLOCK, len(value)), len(centre))  # the same memory for each, near the processor
    for low in range(0, len(value), BLOCK):
        part, own = value[low : low + BLOCK], weights[low : low + BLOCK]
        shifted = torch.sub(part, centre, out=block[: len(part)])
        first.addmv_(shifted.mT, own)
        second.addmm_((shifted if even else shifted * own[:, None]).mT, shifted)
    return {"weight": weights.sum(), "first": first, "second": second}


def covariance_of(arguments: Mapping[str, Tensor]) -> Tensor:
    if "covariance_matrix" in arguments:
        return arguments["covariance_matrix"]
    if "scale_tril" in arguments:
        return arguments["scale_tril"] @ arguments["scale_tril"].mT
    return torch.linalg.inv(arguments["precision_matrix"])


def scatter(loc: Tensor, statistics: Statistics) -> Tensor:
    """Σw(x − μ)(x − μ)ᵀ with μ and the statistics about the same centre."""
    return scattered(loc, statistics["weight"], statistics["first"], statistics["second"])


def scattered(loc: Any, weight: Any, first: Any, second: Any) -> Any:
    """The same of tensors or of arrays."""
    cross = loc[..., :, None] * first[..., None, :]
    square = loc[..., :, None] * loc[..., None, :]
    return second - cross - cross.mT + square * weight[..., None, None]


def raised(covariance: Tensor, least_variance: Tensor) -> Tensor:
    """Covariances under the bound Σ ≥ diag(least variance): eigenvalues raised to one where the bound is the unit."""
    scale = least_variance.sqrt()
    whitened = covariance / (scale[:, None] * scale)
    whitened = torch.where(whitened.isfinite(), whitened, torch.zeros_like(whitened))
    values, vectors = torch.linalg.eigh(whitened)
    lifted = (vectors * values.clamp(min=1).unsqueeze(-2)) @ vectors.mT * (scale[:, None] * scale)
    low = (values[..., 0] < 1)[..., None, None]
    return torch.where(low, 0.5 * (lifted + lifted.mT), covariance)


def _aligned(centre: Tensor, weight: Tensor) -> Tensor:
    """The centre without the leading dimensions of the data."""
    while centre.dim() > weight.dim():
        centre = centre[0]
    return centre


def _varying(variance: Tensor, centre: Tensor) -> Tensor:
    """Variances of the data; of a constant the square of its size, so that the floor of its variance is above zero."""
    size = centre.square()
    return torch.where(variance > ROUNDING * size, variance, torch.where(size > 0, size, 1.0))


def _shared(least: Tensor, value: Tensor) -> Tensor:
    """The floors of what shares a scale are one floor, their mean: along axes that the scale does not have."""
    while least.dim() > value.dim():
        least = least.mean(0)
    for axis in range(1, least.dim() + 1):
        if value.shape[-axis] == 1 < least.shape[-axis]:
            least = least.mean(-axis, keepdim=True)
    return least


def normal_families() -> dict[type[TorchDistribution], Family]:
    return {Normal: NormalFamily(), MultivariateNormal: MultivariateNormalFamily()}
