"""StandardErrors: how far a point estimate may be from the truth, from the curvature of the log-likelihood."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from latentvars.errors import NameUnknownError, SettingError, SupportError
from latentvars.posterior.identification import edges, inverse_information
from latentvars.posterior.information import Derivatives, coordinates, derivatives, inner_point
from latentvars.posterior.scales import entry_bounds, normal_interval
from latentvars.program import GlobalSpace, Program, model_parameters
from latentvars.rows import Rows

Kind = Literal["information", "sandwich"]
Weights = Literal["frequency", "sampling"]

SHARE_UNKNOWN = 1e-4
REMAINING = 0.005  # nats, a tenth of a standard error


@dataclass(frozen=True, eq=False)
class StandardErrors:
    """Asymptotic standard errors of a point estimate, by the delta method on the constrained scale.

    Attributes:
        point: global → estimate.
        errors: global → standard error of each of its numbers, NaN where it is withheld.
        kind: ``"information"``: H⁻¹, H the observed information (Efron & Hinkley 1978); ``"sandwich"``: H⁻¹ M H⁻¹, M
            the sum of squared gradients of the rows (Huber 1967; White 1982), right also under a wrong model.
        withheld: number, as ``probs[0, 3]`` → why it has no standard error.
        space: the globals' unconstrained coordinates, P in number.
        information: H in these coordinates, ``[P, P]``.
        covariance_free: covariance of the estimate in these coordinates, ``[P, P]``; NaN where one is held at an edge.
        jacobian: of the constrained numbers, M in all, with respect to them, ``[M, P]``.
        remaining: nats by which the objective could still rise, ½ gᵀH⁻¹g: 0 at a maximum.
        exact: whether second derivatives are exact, not differences of gradients.
    """

    point: Mapping[str, Tensor]
    errors: Mapping[str, Tensor]
    kind: str
    withheld: Mapping[str, str]
    space: GlobalSpace = field(repr=False)
    information: Tensor = field(repr=False)
    covariance_free: Tensor = field(repr=False)
    jacobian: Tensor = field(repr=False)
    remaining: float
    exact: bool

    def __getitem__(self, name: str) -> Tensor:
        self._known(name)
        return self.errors[name]

    def covariance(self, name: str, other: str | None = None) -> Tensor:
        """Covariance of the numbers of a global (flattened), ``[n, n]``; with those of ``other``, ``[n, m]``.

        Raises:
            NameUnknownError: there is no such global.
        """
        left, right = self._entries(name), self._entries(other or name)
        found = self.jacobian[left] @ self.covariance_free.nan_to_num() @ self.jacobian[right].mT
        unknown = [self.errors[n].flatten().isnan() for n in (name, other or name)]
        return found.masked_fill(unknown[0][:, None] | unknown[1], torch.nan)

    def interval(self, level: float = 0.95) -> dict[str, Tensor]:
        """Wald intervals, global → ``[*shape, 2]``, NaN where the standard error is withheld.

        They are symmetric on the scale where a number is unbounded, and mapped back: log for what is positive (rates,
        scales, variances), logit for probabilities, and the scale itself for the rest, covariances included. So they
        stay inside the bounds of each number.

        Raises:
            SettingError: a level outside (0, 1).
        """
        if not 0 < level < 1:
            raise SettingError(f"level={level}", "a probability between 0 and 1", "write interval(0.95)")
        width = torch.special.ndtri(torch.tensor(0.5 + level / 2, dtype=torch.float64))
        found = {}
        for site in self.space.sites:
            value = self.point[site.name].to(torch.float64)
            bounds = entry_bounds(site, value)
            found[site.name] = normal_interval(
                value, self.errors[site.name].to(torch.float64), bounds.low, bounds.high, width
            )
        return found

    def __str__(self) -> str:
        intervals = self.interval()
        lines = [("global", "estimate", "error", "95 % interval")]
        for name, value in self.point.items():
            parts = (value.flatten(), self.errors[name].flatten(), intervals[name].reshape(-1, 2))
            for label, one, error, (low, high) in zip(labels(name, value), *parts, strict=True):
                lines.append((label, f"{one:.6g}", f"{error:.4g}", f"{low:.6g} … {high:.6g}"))
        widths = [max(len(line[k]) for line in lines) for k in range(4)]
        text = [
            "  ".join(part.ljust(width) for part, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        return "\n".join([*text, *(f"{label}: no standard error, {why}" for label, why in self.withheld.items())])

    def _known(self, name: str) -> None:
        if name not in self.errors:
            raise NameUnknownError(
                given=f"the global {name!r}", needed=f"one of {list(self.errors)}", remedy="correct the name"
            )

    def _entries(self, name: str) -> slice:
        self._known(name)
        ends = itertools.accumulate(site.shape.numel() for site in self.space.sites)
        place = self.space.names.index(name)
        end = next(itertools.islice(ends, place, None))
        return slice(end - self.space.sites[place].shape.numel(), end)


def standard_errors(
    program: Program,
    point: Mapping[str, Tensor],
    rows: Rows,
    kind: Kind = "information",
    weights: Weights = "frequency",
) -> StandardErrors:
    """Standard errors of a maximum of prior + Σ wₙ rows[n].

    Numbers at the edge of their support (a probability or rate of zero) are held there, and those that the data do not
    identify are left out; both have no standard error, and the result says why.

    Args:
        program: a model whose locals are summed out exactly.
        point: constrained globals, a maximum.
        rows: the data.
        kind: see :class:`StandardErrors`.
        weights: how the sandwich reads row weights: ``"frequency"``: weight 2 is the row twice, M = Σ wₙ gₙ gₙᵀ;
            ``"sampling"``: a row that stands for wₙ others (surveys), M = Σ wₙ² gₙ gₙᵀ.

    Raises:
        SupportError: continuous locals or network weights: there is no exact log-likelihood of the globals alone.
        SettingError: an unknown kind, or a sandwich of fewer rows than parameters.
        NumericalError: the point is a saddle, or a derivative is not finite.
    """
    _check(program, kind, weights)
    found = derivatives(program, point, rows)
    u = inner_point(program, point)
    jacobian = constrained_jacobian(program.space, u)
    values = {name: point[name].detach().to(program.dtype) for name in program.space.names}
    size = float(rows.weights.sum() if rows.lengths is None else (rows.weights * rows.lengths).sum())
    held, at_edge = edges(program.space, values, jacobian, found.information, size)
    inverse, flat, scale = inverse_information(program, found, held)
    covariance = inverse
    if kind == "sandwich":
        covariance = inverse @ _meat(found, weights, int((~held).sum())) @ inverse
    unknown = ((jacobian / scale) @ flat).norm(dim=-1) > SHARE_UNKNOWN * (jacobian / scale).norm(dim=-1)
    variance = ((jacobian @ covariance) * jacobian).sum(-1).clamp(min=0)
    errors = variance.sqrt().masked_fill(at_edge | unknown, torch.nan)
    _warn(program, found, inverse, unknown & ~at_edge)
    by_site = errors.split([site.shape.numel() for site in program.space.sites])
    return StandardErrors(
        point=values,
        errors={site.name: part.reshape(site.shape) for site, part in zip(program.space.sites, by_site, strict=True)},
        kind=kind,
        withheld=_reasons(values, at_edge, unknown),
        space=program.space,
        information=found.information,
        covariance_free=covariance.masked_fill(held[:, None] | held, torch.nan),
        jacobian=jacobian,
        remaining=float(0.5 * found.gradient @ inverse @ found.gradient),
        exact=found.exact,
    )


def labels(name: str, value: Tensor) -> list[str]:
    """``name[i, j]`` of each number of a global; the name alone of a scalar."""
    places = itertools.product(*(range(size) for size in value.shape))
    return [f"{name}[{', '.join(map(str, place))}]" if place else name for place in places]


def _check(program: Program, kind: str, weights: str) -> None:
    if kind not in ("information", "sandwich"):
        raise SettingError(f"kind={kind!r}", "'information' or 'sandwich'", "change kind")
    if weights not in ("frequency", "sampling"):
        raise SettingError(f"weights={weights!r}", "'frequency' or 'sampling'", "change weights")
    trained = model_parameters(program.model)
    if program.roles.continuous or trained or not program.space.size:
        what = f"the continuous locals {list(program.roles.continuous)}" if program.roles.continuous else "no globals"
        raise SupportError(
            given=f"a model with {'network weights' if trained and not program.roles.continuous else what}",
            needed="globals as sites, and an exact log-likelihood of them",
            remedy="use lv.bootstrap(fit) for the spread of the globals over data sets",
        )


def constrained_jacobian(space: GlobalSpace, u: Tensor) -> Tensor:
    """∂ constrained / ∂ unconstrained, ``[M, P]``, block by block."""
    blocks = []
    for site, part in zip(space.sites, u.split([site.free for site in space.sites]), strict=True):
        alone = space.subset((site.name,))

        def numbers(v: Tensor, alone: GlobalSpace = alone, name: str = site.name) -> Tensor:
            return alone.constrain(v)[0][name].flatten()

        if site.free:
            found = torch.autograd.functional.jacobian(numbers, part)
            assert isinstance(found, Tensor)
            blocks.append(found)
        else:
            blocks.append(u.new_zeros(site.shape.numel(), 0))
    return torch.block_diag(*blocks)


def _meat(found: Derivatives, weights: str, parameters: int) -> Tensor:
    used = found.weights > 0
    if int(used.sum()) <= parameters:
        raise SettingError(
            given=f"a sandwich from {int(used.sum())} rows for {parameters} free parameters",
            needed="more independent rows (sequences) than free parameters",
            remedy="ask for kind='information', or lv.bootstrap(fit, kind='parametric')",
        )
    scale = found.weights if weights == "frequency" else found.weights.square()
    return found.rows[used].mT @ (found.rows[used] * scale[used, None])


def _warn(program: Program, found: Derivatives, inverse: Tensor, unknown: Tensor) -> None:
    owners = [site.name for site in program.space.sites for _ in range(site.shape.numel())]
    names = dict.fromkeys(owners[k] for k in unknown.nonzero().flatten().tolist())
    if names:
        warnings.warn(
            f"the data do not identify {', '.join(names)}: the log-likelihood is flat in a direction that moves them, "
            "so they have no standard error. Use fewer components, or put a prior on them.",
            stacklevel=4,
        )
    remaining = float(0.5 * found.gradient @ inverse @ found.gradient)
    if remaining > REMAINING:
        move = (inverse @ found.gradient).abs() / inverse.diagonal().sqrt().clamp(min=1e-300)
        at = (move >= 0.5 * move.max()).nonzero().flatten().tolist()
        warnings.warn(
            f"the point is no maximum: the objective could rise by {remaining:.3g} nats, most along "
            f"{coordinates(program, at)}. Fit with a smaller tolerance, or loosen what bounds it.",
            stacklevel=4,
        )


def _reasons(values: Mapping[str, Tensor], at_edge: Tensor, unknown: Tensor) -> dict[str, str]:
    names = [label for name, value in values.items() for label in labels(name, value)]
    numbers = torch.cat([value.flatten() for value in values.values()]).tolist()
    found = {}
    for label, number, edge, free in zip(names, numbers, at_edge.tolist(), unknown.tolist(), strict=True):
        if edge:
            found[label] = f"at the edge of its support ({number:.3g})"
        elif free:
            found[label] = "not identified by the data"
    return found
