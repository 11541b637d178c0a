"""Exponential families as tables: log f(x | θ_k) = η(θ_k) · t(x), for all points and all components by one product.

Features t(x) stand in rows and points in columns, so that what follows runs along contiguous memory; they are taken
about the centre of a family's reference. After centring, a log density errs by about 1e-16 (range / standard
deviation)²; beyond :data:`WIDEST` that would be felt, and the densities are worked out one component after the other
instead.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch
from torch import Size, Tensor

from latentvars.families.base import Arguments, Family, Reference, Statistics
from latentvars.families.discrete import BernoulliFamily, CategoricalFamily, RateFamily
from latentvars.families.normal import LOG_TWO_PI, MultivariateNormalFamily, NormalFamily, covariance_of
from latentvars.kernels.mixtures import Form

WIDEST = 1e3  # range over the smallest standard deviation
MOST_CATEGORIES = 64


@dataclass(frozen=True)
class Packed(Mapping[str, Tensor]):
    """Statistics that are laid out under their names when somebody asks for one.

    Attributes:
        table: of their family.
        sums: Σ w t(x), ``[B, F]``.
        lead: the axes in the place of B, as ``[S, K]``.
        target: joint batch shape of the arguments, ``[K]`` or ``[K, D]``.
    """

    table: Table
    sums: Tensor
    lead: Size
    target: Size

    @cached_property
    def named(self) -> dict[str, Tensor]:
        every = Size((len(self.sums), *self.target[1:]))
        found = self.table.statistics(self.sums, every)
        return {name: value.reshape(*self.lead, *value.shape[1:]) for name, value in found.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self.named[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.named)

    def __len__(self) -> int:
        return len(self.named)


class Table(ABC):
    """One family over K components; D features of an observation, ``target`` ``[K]`` or ``[K, D]``.

    Attributes:
        own: number of features whose coefficients differ between components; None: all. The others stand behind them.
            They drop out of the posterior of the component, and their sums are constants of the data.
        form: by which the compiled core knows the own features, of numbers as they are where the table is not one of
            normals.
    """

    own: int | None = None
    form: Form = Form.TABLE

    @abstractmethod
    def features(self, value: Tensor, reference: Reference) -> Tensor:
        """t(x) of observations ``[M, *E]``, without shared features: ``[F, M]``, the first of them 1."""

    def firsts(self, value: Tensor, reference: Reference) -> Tensor:
        """The features of first order: 1 and x − c, ``[1 + D, M]``."""
        shifted = (value - reference.centre.reshape(value.shape[1:])).reshape(len(value), -1).mT
        return torch.cat([torch.ones_like(shifted[:1]), shifted])

    def shared(self, value: Tensor, reference: Reference) -> Tensor | None:
        """The features behind the own ones; None where there are none."""
        return None

    @abstractmethod
    def natural(self, arguments: Arguments, target: Size, reference: Reference) -> Tensor:
        """η of each component, ``[K, F]``, shared features included."""

    @abstractmethod
    def statistics(self, sums: Tensor, target: Size) -> Statistics:
        """The family's statistics from Σ w t(x), ``[K, F]``; of shared features only the sum over K has a meaning."""

    def base(self, value: Tensor) -> Tensor | None:
        """The part of log f that no argument enters, ``[M]``; None where there is none."""
        return None

    def precise(self, arguments: Arguments, farthest: Tensor) -> bool:
        """Whether the product keeps its digits; ``farthest`` ``[F]`` is the largest size of each own feature."""
        return True


@final
class NormalTable(Table):
    """Features 1, x − c, (x − c)²; the last are shared where the scale is."""

    def __init__(self, size: int, shares_scale: bool) -> None:
        self.size = size
        self.own = 1 + size if shares_scale else None
        self.form = Form.LINEAR if shares_scale else Form.DIAGONAL

    def features(self, value: Tensor, reference: Reference) -> Tensor:
        shifted = self._shifted(value, reference)
        squares = [shifted.square()] if self.own is None else []
        return torch.cat([torch.ones_like(shifted[:1]), shifted, *squares])

    def shared(self, value: Tensor, reference: Reference) -> Tensor | None:
        return None if self.own is None else self._shifted(value, reference).square()

    def _shifted(self, value: Tensor, reference: Reference) -> Tensor:
        return (value - reference.centre.reshape(value.shape[1:])).reshape(len(value), -1).mT

    def natural(self, arguments: Arguments, target: Size, reference: Reference) -> Tensor:
        loc, precision, constant = _diagonal(arguments, target, reference)
        return torch.cat([constant, precision * loc, -0.5 * precision], -1)

    def statistics(self, sums: Tensor, target: Size) -> Statistics:
        first, second = sums[:, 1 : 1 + self.size], sums[:, 1 + self.size :]
        return {
            "weight": sums[:, :1].expand(-1, self.size).reshape(target),
            "first": first.reshape(target),
            "second": second.reshape(target),
        }

    def precise(self, arguments: Arguments, farthest: Tensor) -> bool:
        return bool(farthest[1 : 1 + self.size].max() < WIDEST * arguments["scale"].min())


@final
class SphericalTable(Table):
    """Features 1, x − c, |x − c|²: each component has one scale for all D numbers."""

    form = Form.SPHERICAL

    def __init__(self, size: int) -> None:
        self.size = size

    def features(self, value: Tensor, reference: Reference) -> Tensor:
        shifted = (value - reference.centre.reshape(value.shape[1:])).reshape(len(value), -1).mT
        squares = torch.linalg.vecdot(shifted, shifted, dim=0)[None]
        return torch.cat([torch.ones_like(shifted[:1]), shifted, squares])

    def natural(self, arguments: Arguments, target: Size, reference: Reference) -> Tensor:
        loc, precision, constant = _diagonal(arguments, target, reference)
        return torch.cat([constant, precision * loc, -0.5 * precision[:, :1]], -1)

    def statistics(self, sums: Tensor, target: Size) -> Statistics:
        return {
            "weight": sums[:, :1].expand(-1, self.size).reshape(target),
            "first": sums[:, 1 : 1 + self.size].reshape(target),
            "second": (sums[:, 1 + self.size :] / self.size).expand(-1, self.size).reshape(target),
        }

    def precise(self, arguments: Arguments, farthest: Tensor) -> bool:
        return bool(farthest[1 : 1 + self.size].max() < WIDEST * arguments["scale"].min())


@final
class MultivariateNormalTable(Table):
    """Features 1, x − c, and the products (x − c)_i (x − c)_j with i ≤ j, shared where the covariance is."""

    def __init__(self, size: int, shares_covariance: bool) -> None:
        self.size = size
        self.own = 1 + size if shares_covariance else None
        self.form = Form.LINEAR if shares_covariance else Form.FULL
        self.places = tuple(torch.triu_indices(size, size))

    def features(self, value: Tensor, reference: Reference) -> Tensor:
        shifted = (value - reference.centre).mT
        size = self.size
        found = shifted.new_empty((1 + size + (0 if self.own else len(self.places[0])), shifted.shape[1]))
        found[0] = 1.0
        found[1 : 1 + size] = shifted
        if self.own is None:
            self._products(found[1 : 1 + size], found[1 + size :])
        return found

    def shared(self, value: Tensor, reference: Reference) -> Tensor | None:
        if self.own is None:
            return None
        shifted = (value - reference.centre).mT.contiguous()
        return self._products(shifted, shifted.new_empty((len(self.places[0]), shifted.shape[1])))

    def _products(self, shifted: Tensor, found: Tensor) -> Tensor:
        at = 0
        for i in range(self.size):
            torch.mul(shifted[i:], shifted[i], out=found[at : at + self.size - i])
            at += self.size - i
        return found

    def natural(self, arguments: Arguments, target: Size, reference: Reference) -> Tensor:
        loc = (arguments["loc"] - reference.centre).expand(*target, -1)
        factor = torch.linalg.cholesky(covariance_of(arguments))
        precision = torch.cholesky_inverse(factor).expand(*target, -1, -1)
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1).expand(target)
        first = (precision @ loc[..., None])[..., 0]
        constant = -0.5 * (self.size * LOG_TWO_PI + log_det + (first * loc).sum(-1))
        i, j = self.places
        products = precision[:, i, j] * torch.where(i == j, -0.5, -1.0).to(precision.dtype)
        return torch.cat([constant[:, None], first, products], -1)

    def statistics(self, sums: Tensor, target: Size) -> Statistics:
        size, (i, j) = self.size, self.places
        second = sums.new_empty((len(sums), size, size))
        second[:, i, j] = sums[:, 1 + size :]
        second[:, j, i] = sums[:, 1 + size :]
        return {"weight": sums[:, 0], "first": sums[:, 1 : 1 + size], "second": second}

    def precise(self, arguments: Arguments, farthest: Tensor) -> bool:
        covariance = covariance_of(arguments)
        factor, wrong = torch.linalg.cholesky_ex(covariance)
        if bool(wrong.any()):
            return False
        largest = torch.cholesky_inverse(factor).diagonal(dim1=-2, dim2=-1).amax()
        return bool(farthest[1 : 1 + self.size].max() * largest.sqrt() < WIDEST)


@final
class CountTable(Table):
    """Poisson: features 1, x."""

    form = Form.LINEAR

    def features(self, value: Tensor, reference: Reference) -> Tensor:
        flat = value.reshape(len(value), -1).mT
        return torch.cat([torch.ones_like(flat[:1]), flat])

    def natural(self, arguments: Arguments, target: Size, reference: Reference) -> Tensor:
        rate = arguments["rate"].expand(target).reshape(target[0], -1)
        return torch.cat([-rate.sum(-1, keepdim=True), rate.log()], -1)

    def statistics(self, sums: Tensor, target: Size) -> Statistics:
        size = sums.shape[1] - 1
        return {"events": sums[:, 1:].reshape(target), "exposure": sums[:, :1].expand(-1, size).reshape(target)}

    def base(self, value: Tensor) -> Tensor:
        return -torch.lgamma(value + 1).reshape(len(value), -1).sum(-1)


@final
class BernoulliTable(Table):
    """Features 1, x."""

    form = Form.LINEAR

    def features(self, value: Tensor, reference: Reference) -> Tensor:
        flat = value.reshape(len(value), -1).mT
        return torch.cat([torch.ones_like(flat[:1]), flat])

    def natural(self, arguments: Arguments, target: Size, reference: Reference) -> Tensor:
        probs = arguments["probs"].expand(target).reshape(target[0], -1)
        return torch.cat([torch.log1p(-probs).sum(-1, keepdim=True), torch.logit(probs)], -1)

    def statistics(self, sums: Tensor, target: Size) -> Statistics:
        size = sums.shape[1] - 1
        return {"successes": sums[:, 1:].reshape(target), "trials": sums[:, :1].expand(-1, size).reshape(target)}


@final
class CategoricalTable(Table):
    """Features 1 and the indicator of each category."""

    form = Form.CODES

    def __init__(self, categories: int) -> None:
        self.categories = categories

    def features(self, value: Tensor, reference: Reference) -> Tensor:
        found = value.new_zeros((1 + self.categories, len(value)), dtype=torch.float64)
        found[0] = 1.0
        return found.scatter_(0, 1 + value.long()[None], 1.0)

    def natural(self, arguments: Arguments, target: Size, reference: Reference) -> Tensor:
        logs = arguments["probs"].expand(*target, -1).log()
        return torch.cat([torch.zeros_like(logs[:, :1]), logs], -1)

    def statistics(self, sums: Tensor, target: Size) -> Statistics:
        return {"counts": sums[:, 1:]}


def is_normal(table: Table) -> bool:
    """Whether a table is one of normals."""
    return isinstance(table, NormalTable | SphericalTable | MultivariateNormalTable)


def table_of(family: Family, arguments: Arguments, fn: Any, value: Tensor, target: Size) -> Table | None:
    """The table of a family over components, for observations ``[M, *E]``; None where it has none.

    Args:
        family: of ``fn``.
        arguments: those of ``fn``, un-broadcast.
        fn: a plain distribution.
        value: the observations.
        target: joint batch shape of the arguments.
    """
    own, plain, size = len(target), value.dim() - 1, value.shape[1:].numel()
    if isinstance(family, NormalFamily) and own == 1 + plain:
        return _normal_table(arguments["scale"], target, size)
    if isinstance(family, MultivariateNormalFamily) and own == 1 and plain == 1:
        return MultivariateNormalTable(size, target[0] > 1 and covariance_of(arguments).dim() == 2)
    if isinstance(family, RateFamily) and family.observes_events and own == 1 + plain:
        return CountTable()
    if isinstance(family, BernoulliFamily) and type(fn).__name__ == "Bernoulli" and own == 1 + plain:
        return BernoulliTable()
    if isinstance(family, CategoricalFamily) and type(fn).__name__ == "Categorical" and own == 1 and plain == 0:
        return CategoricalTable(fn.probs.shape[-1]) if fn.probs.shape[-1] <= MOST_CATEGORIES else None
    return None


def _normal_table(scale: Tensor, target: Size, size: int) -> Table:
    shape = (1,) * (len(target) - scale.dim()) + tuple(scale.shape)
    if target[0] > 1 and shape[0] == 1:
        return NormalTable(size, True)
    spherical = size > 1 and Size(shape[1:]).numel() == 1
    return SphericalTable(size) if spherical else NormalTable(size, False)


def _diagonal(arguments: Arguments, target: Size, reference: Reference) -> tuple[Tensor, Tensor, Tensor]:
    """Centred means and precisions ``[K, D]`` and the constants ``[K, 1]`` of normals of independent numbers."""
    loc = (arguments["loc"] - reference.centre.reshape(target[1:])).expand(target).reshape(target[0], -1)
    scale = arguments["scale"].expand(target).reshape(target[0], -1)
    precision = scale.pow(-2)
    return loc, precision, -(0.5 * (LOG_TWO_PI + precision * loc.square()) + scale.log()).sum(-1, keepdim=True)
