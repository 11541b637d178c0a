"""The delta method: how far a function of a point estimate may be from the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from latentvars.errors import SupportError
from latentvars.posterior.standard_errors import SHARE_UNKNOWN, StandardErrors, labels

Function = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
STEP = 1e-4  # of a standard error, of the difference by which a derivative is checked
AGREEMENT = 1e-2


@dataclass(frozen=True)
class Linearised:
    """A function of the globals about a point estimate of them.

    Attributes:
        value: name → f at the point, ``[*shape]``.
        covariance: of all its numbers, in the order of the names, ``[n, n]``; NaN where it is withheld.
        withheld: number, as ``share[0]`` → why it has no standard error.
    """

    value: Mapping[str, Tensor]
    covariance: Tensor
    withheld: Mapping[str, str]


def linearised(function: Function, errors: StandardErrors) -> Linearised:
    """f(θ̂) with the covariance ∇f C ∇fᵀ, C that of θ̂ (van der Vaart 1998, theorem 3.1).

    A function can be known where its arguments are not: communalities have standard errors, loadings that can be
    rotated do not. It has none where it depends on a number that is held at the edge of its support.

    Args:
        function: constrained globals → quantities by name, by operations of torch.
        errors: of the point, from the observed information.

    Raises:
        SupportError: a function whose derivatives torch does not find, or finds wrongly.
    """
    names = list(errors.point)
    with torch.enable_grad():
        values = {name: value.detach().clone().requires_grad_() for name, value in errors.point.items()}
        found = function(values)
        constant = [name for name, value in found.items() if not value.requires_grad]
        if constant:
            raise _no_derivative(f"{', '.join(constant)}, which follows from no global by operations of torch")
        numbers = torch.cat([value.flatten() for value in found.values()])
        slopes = []
        for number in numbers:
            parts = torch.autograd.grad(number, list(values.values()), retain_graph=True, materialize_grads=True)
            slopes.append(torch.cat([part.flatten() for part in parts]).to(torch.float64))
    slope, jacobian = torch.stack(slopes), errors.jacobian.to(torch.float64)
    covariance = errors.covariance_free.nan_to_num().to(torch.float64)
    spread = jacobian @ covariance.diagonal().clamp(min=0).sqrt()
    _check(function, {name: values[name].detach() for name in names}, numbers.detach(), slope, spread)
    free = slope @ jacobian
    why = _withheld(slope, free, errors, jacobian)
    unknown = torch.tensor([bool(reason) for reason in why])
    joint = (free @ covariance @ free.mT).masked_fill(unknown[:, None] | unknown, torch.nan)
    named = [label for name, value in found.items() for label in labels(name, value)]
    return Linearised(
        {name: value.detach() for name, value in found.items()},
        joint,
        {label: reason for label, reason in zip(named, why, strict=True) if reason},
    )


def _withheld(slope: Tensor, free: Tensor, errors: StandardErrors, jacobian: Tensor) -> list[str]:
    """Why each number of the function has no standard error, "" where it has one."""
    numbers = torch.cat([value.flatten() for value in errors.errors.values()])
    at_edge = numbers.isnan() & _identified(jacobian, errors)
    held = (slope[:, at_edge] != 0).any(-1)
    flat = ~_identified(free, errors)
    return [
        "it depends on a number at the edge of its support" if edge else "not identified by the data" if loose else ""
        for edge, loose in zip(held.tolist(), flat.tolist(), strict=True)
    ]


def _identified(slopes: Tensor, errors: StandardErrors) -> Tensor:
    """Whether functions with these slopes in the unconstrained coordinates ``[n, P]`` stand still along every direction
    in which the log-likelihood is flat, ``[n]``."""
    covariance, information = (value.to(torch.float64) for value in (errors.covariance_free, errors.information))
    kept = (~covariance.diagonal().isnan()).nonzero().flatten()
    if not len(kept):
        return torch.ones(len(slopes), dtype=torch.bool)
    slopes, inside = slopes[:, kept], information[kept][:, kept]
    own = inside.diagonal().abs().sqrt()
    scale = torch.where(own > 0, own, 1.0)
    rest = slopes - slopes @ covariance[kept][:, kept] @ inside
    return (rest / scale).norm(dim=-1) <= SHARE_UNKNOWN * (slopes / scale).norm(dim=-1)


def _check(function: Function, point: Mapping[str, Tensor], at: Tensor, slope: Tensor, spread: Tensor) -> None:
    """Whether the function changes along ``spread`` as its derivative says."""
    sizes = [value.numel() for value in point.values()]
    ends = []
    for sign in (1.0, -1.0):
        moves = (sign * STEP * spread).split(sizes)
        moved = {n: v + move.to(v.dtype).reshape(v.shape) for (n, v), move in zip(point.items(), moves, strict=True)}
        with torch.no_grad():
            ends.append(torch.cat([value.flatten() for value in function(moved).values()]).to(torch.float64))
    actual, expected = (ends[0] - ends[1]) / (2 * STEP), slope @ spread
    allowed = AGREEMENT * (slope.abs() @ spread.abs()) + 1e-8 * at.abs()
    if bool(((actual - expected).abs() > allowed).any()):
        raise _no_derivative("a function that changes otherwise than its derivative says")


def _no_derivative(given: str) -> SupportError:
    return SupportError(
        given=given,
        needed="a smooth function of the globals by operations of torch, for a standard error by the delta method",
        remedy="leave out float(), .item(), .detach(), .numpy() and counts, or draw the globals by lv.NUTS()",
    )
