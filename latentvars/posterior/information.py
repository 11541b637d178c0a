"""Derivatives of the log-likelihood at a point: gradient, observed information, gradient of each row."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from latentvars.errors import LatentVarsError, NumericalError
from latentvars.posterior.scales import entry_bounds
from latentvars.program import Program
from latentvars.rows import Batch, Rows

STEPS_AT_ONCE = 16_384
CUBE_ROOT = torch.finfo(torch.float64).eps ** (1 / 3)
SHARE_OF_ERROR = 1e-3  # of a standard error, the step of a difference
AGREEMENT = 1e-2
MOST = 300.0


@dataclass(frozen=True)
class Derivatives:
    """Of prior(θ) + Σ wₙ rows[n](θ) at a point, in the unconstrained coordinates u of the globals, P in number.

    No Jacobian of u is added: the objective is the one that EM maximises, a density of the constrained globals.

    Attributes:
        gradient: ``[P]``, zero at a maximum.
        information: minus the Hessian, ``[P, P]``: the observed information (plus that of the prior).
        rows: gradient of each row's log-likelihood, not weighted, ``[N, P]``.
        weights: of the rows, ``[N]``.
        exact: second derivatives by differentiating twice; else central differences of gradients.
    """

    gradient: Tensor
    information: Tensor
    rows: Tensor
    weights: Tensor
    exact: bool


def derivatives(program: Program, point: Mapping[str, Tensor], rows: Rows) -> Derivatives:
    """Differentiate the score of all rows, some thousand rows or steps at a time.

    Second derivatives are exact, by differentiating twice, and compared with a difference of two gradients along one
    direction. Where the model holds a function that cannot be differentiated twice, or one that claims it and is
    wrong, central differences of exact gradients are taken instead (and a warning says so).

    Args:
        program: a model whose locals are summed out exactly.
        point: constrained globals.
        rows: N rows.

    Raises:
        NumericalError: a derivative that is not finite.
    """
    u = inner_point(program, point)
    try:
        found = _differentiated(program, u, rows)
    except LatentVarsError:
        raise
    except (RuntimeError, NotImplementedError):
        found = None
    if found is None or not _agrees(program, u, rows, found):
        warnings.warn(
            "the model cannot be differentiated twice: second derivatives are differences of gradients", stacklevel=3
        )
        found = _differenced(program, u, rows)
    if not bool(found.gradient.isfinite().all() and found.information.isfinite().all()):
        bad = (~(found.gradient.isfinite() & found.information.isfinite().all(-1))).nonzero().flatten().tolist()
        raise NumericalError(
            given=f"a derivative of the log-likelihood that is not finite, along {coordinates(program, bad)}",
            needed="a log-likelihood that is twice differentiable at the point",
            remedy="ask for lv.bootstrap(fit) instead, which needs no derivatives",
        )
    return found


def inner_point(program: Program, point: Mapping[str, Tensor]) -> Tensor:
    """Unconstrained coordinates of a point, ``[P]``; those of a logarithm or logit at most 300 in size.

    That stands for a probability or rate of zero, and keeps second derivatives (1/p²) within the range of numbers.

    Raises:
        NumericalError: the point has no coordinates, as a singular covariance.
    """
    values = {name: value.detach().to(program.dtype) for name, value in point.items()}
    parts = []
    for site in program.space.sites:
        try:
            part = program.space.subset((site.name,)).unconstrain(values)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise _no_coordinates(site.name, values[site.name]) from error
        if entry_bounds(site, values[site.name]).relative:
            part = part.clamp(-MOST, MOST)
        if not bool(part.isfinite().all()):
            raise _no_coordinates(site.name, values[site.name])
        parts.append(part)
    return torch.cat(parts)


def _no_coordinates(name: str, value: Tensor) -> NumericalError:
    return NumericalError(
        given=f"a value of {name!r} on the edge of its support: it begins {value.flatten()[:4].tolist()}",
        needed="a point inside, about which the log-likelihood can be expanded",
        remedy="use fewer components, remove collinear columns, or put a prior on it",
    )


def coordinates(program: Program, at: list[int]) -> str:
    """The globals to which unconstrained coordinates belong."""
    owners = [site.name for site in program.space.sites for _ in range(site.free)]
    return ", ".join(dict.fromkeys(owners[k] for k in at))


def _pieces(program: Program, rows: Rows) -> Iterator[Batch]:
    steps = 1 if rows.lengths is None else int(rows.lengths.max())
    return rows.batches(max(1, STEPS_AT_ONCE // steps), shuffle=False, dtype=program.dtype)


def _differentiated(program: Program, u: Tensor, rows: Rows) -> Derivatives:
    """Reverse over reverse: the gradient Jᵀv is linear in v, so that ∂(Jᵀv)_p/∂v is the column p of J = ∂rows/∂u."""
    size = len(u)
    gradient, hessian, scores = u.new_zeros(size), u.new_zeros(size, size), []
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        prior = program.prior(program.space.constrain(u)[0])
        if prior.requires_grad:
            slope = _slope(prior, u)
            gradient += slope.detach()
            if slope.requires_grad:
                hessian += torch.stack([_slope(one, u, keep=True).detach() for one in slope])
        for batch in _pieces(program, rows):
            weights = batch.weights.detach().clone().requires_grad_()
            found = program.score(program.space.constrain(u)[0], batch).rows
            slope = _slope((found * weights).sum(), u)
            gradient += slope.detach()
            columns = []
            for k in range(size):
                second, column = torch.autograd.grad(slope[k], (u, weights), retain_graph=True, materialize_grads=True)
                hessian[k] += second
                columns.append(column)
            scores.append(torch.stack(columns, -1))
    information = -0.5 * (hessian + hessian.mT)
    return Derivatives(gradient, information, torch.cat(scores), rows.weights.to(u.dtype), True)


def _slope(value: Tensor, u: Tensor, keep: bool = False) -> Tensor:
    return torch.autograd.grad(value, u, create_graph=True, retain_graph=keep or None, materialize_grads=True)[0]


def _differenced(program: Program, u: Tensor, rows: Rows) -> Derivatives:
    """Central differences; each step is a small share of a standard error, from a first look at the curvature."""
    step = CUBE_ROOT * u.abs().clamp(min=1)
    curvature = torch.stack([_difference(lambda v: _gradient(program, v, rows), u, k, step)[k] for k in range(len(u))])
    step = torch.minimum(step, SHARE_OF_ERROR / curvature.abs().sqrt().clamp(min=1e-30))
    hessian = torch.stack([_difference(lambda v: _gradient(program, v, rows), u, k, step) for k in range(len(u))])
    scores = torch.stack([_difference(lambda v: _rows(program, v, rows), u, k, step) for k in range(len(u))], -1)
    information = -0.5 * (hessian + hessian.mT)
    return Derivatives(_gradient(program, u, rows), information, scores, rows.weights.to(u.dtype), False)


def _difference(function: Callable[[Tensor], Tensor], u: Tensor, k: int, step: Tensor) -> Tensor:
    move = torch.zeros_like(u)
    move[k] = step[k]
    return (function(u + move) - function(u - move)) / (2 * step[k])


def _gradient(program: Program, u: Tensor, rows: Rows) -> Tensor:
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        prior = program.prior(program.space.constrain(u)[0])
        total = torch.autograd.grad(prior, u)[0] if prior.requires_grad else torch.zeros_like(u)
        for batch in _pieces(program, rows):
            found = (program.score(program.space.constrain(u)[0], batch).rows * batch.weights).sum()
            total = total + torch.autograd.grad(found, u)[0]
    return total.detach()


def _rows(program: Program, u: Tensor, rows: Rows) -> Tensor:
    with torch.no_grad():
        values = program.space.constrain(u)[0]
        return torch.cat([program.score(values, batch).rows for batch in _pieces(program, rows)])


def _agrees(program: Program, u: Tensor, rows: Rows, found: Derivatives) -> bool:
    """Whether the Hessian along one direction is the difference of two gradients (and finite at all)."""
    if not bool(found.information.isfinite().all()):
        return False
    own = found.information.diagonal().abs()
    size = torch.minimum(CUBE_ROOT * u.abs().clamp(min=1), SHARE_OF_ERROR / own.sqrt().clamp(min=1e-30))
    move = size * torch.where(torch.arange(len(u)) % 3 == 0, -1.0, 1.0).to(u)
    expected = -found.information @ move
    actual = 0.5 * (_gradient(program, u + move, rows) - _gradient(program, u - move, rows))
    # coordinates of different units are compared in units of their own curvature
    scale = (own.sqrt() + 1e-300).reciprocal()
    gap, whole = ((actual - expected) * scale).norm(), (expected.abs() * scale).norm() + (own * size * scale).norm()
    return bool(gap <= AGREEMENT * whole + 1e-9)
