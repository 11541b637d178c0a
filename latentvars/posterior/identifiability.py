"""What the data do not tell: directions in which nothing changes, labels and latents that carry nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from latentvars.posterior.information import derivatives, inner_point
from latentvars.posterior.latent import LatentPosterior, has_labels
from latentvars.posterior.observations import batches
from latentvars.posterior.rotation import Factors
from latentvars.posterior.standard_errors import constrained_jacobian, labels
from latentvars.posterior.symmetry import Symmetries
from latentvars.program import Program, model_parameters
from latentvars.randomness import derive
from latentvars.rows import Rows

FLAT = 1e-6  # of the information that a coordinate has by itself
NAMED = 0.2  # of the largest move of a number, in units of its own spread
INACTIVE = 0.01  # variance over rows of posterior means (Burda, Grosse & Salakhutdinov 2016), prior variance 1
SAME = 0.01
UNUSED = 0.5  # rows, or steps


class Fitted(Protocol):
    """What is read: :class:`latentvars.Fit`."""

    @property
    def program(self) -> Program: ...

    @property
    def rows(self) -> Rows: ...

    @property
    def point(self) -> dict[str, Tensor]: ...

    @property
    def seed(self) -> int: ...


@dataclass(frozen=True)
class Direction:
    """A move of the globals that leaves every row's log-likelihood as it is.

    Attributes:
        moves: number, as ``loadings[0, 1]`` → how it moves, the largest 1 in size.
        known: that it turns factors, where it does: such directions are expected.
    """

    moves: Mapping[str, float]
    known: str = ""

    def __str__(self) -> str:
        shown = ", ".join(f"{name} {move:+.2f}" for name, move in list(self.moves.items())[:6])
        rest = len(self.moves) - 6
        text = shown + (f" and {rest} more" if rest > 0 else "")
        return f"{text} ({self.known})" if self.known else text


@dataclass(frozen=True, eq=False)
class Identifiability:
    """What the data say about the globals and locals of a fit, at its point.

    Attributes:
        rank: of the information that the data have about the globals; None where there is no exact log-likelihood.
        parameters: coordinates of the globals, P.
        flat: P − rank directions in which the log-likelihood does not change.
        sizes: discrete local → expected rows (steps of sequences) of each label, ``[K]``.
        separation: discrete local → ``[K, K]``: share of the variance of "k rather than l" that the data decide; 0:
            two labels that nothing tells apart, 1: no row is in doubt.
        active: continuous local → variance over rows of the posterior mean of each dimension, ``[L]``.
        divergence: continuous local → mean over rows of KL(q ‖ p) of each dimension, nats, ``[L]``; of normal ones.
    """

    rank: int | None
    parameters: int
    flat: tuple[Direction, ...]
    sizes: Mapping[str, Tensor] = field(default_factory=dict)
    separation: Mapping[str, Tensor] = field(default_factory=dict)
    active: Mapping[str, Tensor] = field(default_factory=dict)
    divergence: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def unused(self) -> tuple[str, ...]:
        """Labels that no row belongs to, as ``z[2]``."""
        return tuple(
            f"{name}[{k}]" for name, size in self.sizes.items() for k in (size < UNUSED).nonzero()[:, 0].tolist()
        )

    @property
    def duplicates(self) -> tuple[tuple[str, str], ...]:
        """Pairs of labels, both in use, that nothing tells apart."""
        found = []
        for name, matrix in self.separation.items():
            used = self.sizes[name] >= UNUSED
            alike = (matrix < SAME) & used[:, None] & used
            found += [(f"{name}[{k}]", f"{name}[{m}]") for k, m in alike.triu(1).nonzero().tolist()]
        return tuple(found)

    @property
    def inactive(self) -> tuple[str, ...]:
        """Dimensions of continuous locals that carry nothing, as ``z[3]``."""
        return tuple(
            f"{name}[{k}]" for name, value in self.active.items() for k in (value < INACTIVE).nonzero()[:, 0].tolist()
        )

    @property
    def active_units(self) -> dict[str, int]:
        """Continuous local → dimensions that are in use."""
        return {name: int((value >= INACTIVE).sum()) for name, value in self.active.items()}

    @property
    def identified(self) -> bool:
        """Whether nothing was found but turns of factors."""
        return not (self.unused or self.duplicates or self.inactive or any(not one.known for one in self.flat))

    def __str__(self) -> str:
        lines = []
        if self.rank is not None:
            lines.append(f"information of rank {self.rank} of {self.parameters}")
            lines += [f"  not identified: {direction}" for direction in self.flat]
        lines += [f"  {label}: no row belongs to it" for label in self.unused]
        lines += [f"  {first} and {second}: nothing tells them apart" for first, second in self.duplicates]
        for name, count in self.active_units.items():
            lines.append(f"{name}: {count} of {len(self.active[name])} dimensions are active")
            if name in self.divergence:
                values = ", ".join(f"{value:.3g}" for value in self.divergence[name].tolist())
                lines.append(f"  KL(q ‖ p) of each, nats a row: {values}")
        lines += [f"  {label}: inactive" for label in self.inactive]
        return "\n".join(lines) or "nothing to identify"


def identifiability(fit: Fitted) -> Identifiability:
    """Name what the data do not determine, at the point of a fit.

    Globals: directions in which the information of the likelihood alone (Rothenberg 1971), without the priors', is
    zero; where the model names factors in ``dims()``, turns of them are told from the rest. Labels of discrete locals:
    unused ones, and pairs that nothing tells apart. Continuous locals: dimensions whose posterior means do not vary,
    and KL(q ‖ p) of each.

    Args:
        fit: of any algorithm; its rows in memory.

    Raises:
        NumericalError: derivatives that are not finite.
    """
    program, rows, point = fit.program, fit.rows, fit.point
    rank, flat = None, ()
    exact = not (program.roles.continuous or program.roles.choices or model_parameters(program.model))
    if exact and program.space.size:
        flat = _flat(program, rows, point)
        rank = program.space.size - len(flat)
    found = Identifiability(rank, program.space.size, flat, {}, {}, {}, {})
    return _of_locals(found, fit)


def _flat(program: Program, rows: Rows, point: Mapping[str, Tensor]) -> tuple[Direction, ...]:
    u = inner_point(program, point)
    information = derivatives(program, point, rows).information - _of_prior(program, u)
    own = information.diagonal().abs().sqrt()
    scale = torch.where(own > FLAT * own.max(), own, 1.0)
    values, vectors = torch.linalg.eigh(information / scale[:, None] / scale)
    null = vectors[:, values.abs() < FLAT] / scale[:, None]
    if not null.shape[1]:
        return ()
    jacobian = constrained_jacobian(program.space, u)
    names = [label for site in program.space.sites for label in labels(site.name, point[site.name])]
    turns = _turns(program, rows, point)
    expected, others = _divided(jacobian @ null, turns)
    return tuple(
        [_direction(names, move, "a turn of factors") for move in expected.mT]
        + [_direction(names, move, "") for move in others.mT]
    )


def _of_prior(program: Program, u: Tensor) -> Tensor:
    """Minus the Hessian of the log prior in the unconstrained coordinates."""

    def prior(v: Tensor) -> Tensor:
        return -program.prior(program.space.constrain(v)[0]) + 0.0 * v.sum()

    found = torch.autograd.functional.hessian(prior, u)
    assert isinstance(found, Tensor)
    return found


def _turns(program: Program, rows: Rows, point: Mapping[str, Tensor]) -> Tensor:
    """The moves of all numbers, flattened, by small turns of factors ``[M, L (L − 1) / 2]``."""
    found = Symmetries.of(program, rows, point)
    total = sum(site.shape.numel() for site in program.space.sites)
    if found.factors is None or found.signs:
        return torch.zeros(total, 0, dtype=torch.float64)
    moves = [_turn(program, point, found.factors, a, b) for a in range(found.factors.size) for b in range(a)]
    return torch.stack(moves, 1) if moves else torch.zeros(total, 0, dtype=torch.float64)


def _turn(program: Program, point: Mapping[str, Tensor], factors: Factors, a: int, b: int) -> Tensor:
    generator = torch.zeros(factors.size, factors.size, dtype=torch.float64)
    generator[a, b], generator[b, a] = 1.0, -1.0
    moved = factors.turned(point, generator)
    still = [site.name for site in program.space.sites if site.name not in factors.axes]
    parts = [torch.zeros_like(point[s.name]) if s.name in still else moved[s.name] for s in program.space.sites]
    return torch.cat([part.flatten().to(torch.float64) for part in parts])


def _divided(null: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
    """Moves of the numbers ``[M, F]`` as turns of factors among them, and a basis of the rest, as sparse as can be."""
    from scipy import linalg

    if turns.shape[1]:
        basis = torch.linalg.qr(turns).Q
        rest = null - basis @ (basis.mT @ null)
        left, sizes, _ = torch.linalg.svd(rest, full_matrices=False)
        count = null.shape[1] - min(turns.shape[1], null.shape[1])
        others, null = left[:, :count] * sizes[:count], null
        expected = turns[:, : null.shape[1] - count]
    else:
        expected, others = null[:, :0], null
    if others.shape[1] > 1:  # the reduced echelon form names few numbers in each direction
        order = cast(Any, linalg.qr)(others.mT.numpy(), pivoting=True)[2]
        pivots = torch.as_tensor(order[: others.shape[1]].copy())
        others = others @ torch.linalg.inv(others[pivots])
    return expected, others


def _direction(names: list[str], move: Tensor, known: str) -> Direction:
    move = move / move[move.abs().argmax()]
    order = move.abs().argsort(descending=True).tolist()
    return Direction({names[k]: float(move[k]) for k in order if abs(float(move[k])) > NAMED}, known)


def _of_locals(found: Identifiability, fit: Fitted) -> Identifiability:
    program, rows = fit.program, fit.rows
    sizes, separation, active, divergence = {}, {}, {}, {}
    beliefs: dict[str, list[Any]] = {}
    priors: dict[str, list[Tensor]] = {}
    pieces = batches(program, rows)
    for number, batch in enumerate(pieces):
        seed = derive(fit.seed, 42, number)
        for name, belief in program.beliefs(fit.point, batch, seed).items():
            beliefs.setdefault(name, []).append(belief)
            if name in program.roles.continuous:
                priors.setdefault(name, []).append(_divergence(program, fit.point, batch, name, belief, seed))
    latent = LatentPosterior(beliefs, tuple(rows.names), rows.lengths)
    for name, parts in beliefs.items():
        mean = latent.mean(name)
        if has_labels(parts[0]):
            weights = rows.weights.to(mean.dtype).reshape(-1, *(1,) * (mean.dim() - 1))
            sizes[name] = (mean * weights).flatten(0, -2).sum(0)
            separation[name] = _separation((mean * weights.sqrt()).flatten(0, -2), mean.flatten(0, -2))
        elif rows.lengths is None:
            weights = rows.weights.to(mean.dtype)[:, None]
            numbers = mean.reshape(len(mean), -1)
            middle = (weights * numbers).sum(0) / weights.sum()
            active[name] = (weights * (numbers - middle).square()).sum(0) / (weights.sum() - 1).clamp(min=1e-9)
            parts_of = [one for one in priors.get(name, []) if one.numel()]
            if parts_of:
                divergence[name] = (weights * torch.cat(parts_of)).sum(0) / weights.sum()
    return Identifiability(found.rank, found.parameters, found.flat, sizes, separation, active, divergence)


def _separation(weighted: Tensor, probs: Tensor) -> Tensor:
    """Of labels k and l: variance over rows of p(k) / (p(k) + p(l)), weighted by p(k) + p(l), over its largest."""
    weights = (weighted / probs.clamp(min=1e-300)).square().amax(-1)
    labels_ = probs.shape[1]
    found = torch.ones(labels_, labels_, dtype=probs.dtype)
    for k in range(labels_):
        for m in range(k):
            both = probs[:, k] + probs[:, m]
            weight = both * weights
            share = probs[:, k] / both.clamp(min=1e-300)
            total = weight.sum().clamp(min=1e-300)
            mean = (weight * share).sum() / total
            variance = (weight * (share - mean).square()).sum() / total
            found[k, m] = found[m, k] = variance / (mean * (1 - mean)).clamp(min=1e-300)
    return found


def _divergence(program: Program, point: Mapping[str, Tensor], batch: Any, name: str, belief: Any, seed: int) -> Tensor:
    """KL(q ‖ p) of each dimension ``[B, L]``; empty where these are not independent normals."""
    with torch.no_grad():
        prior = program.trace(point, batch, program.guided(batch, seed)).sites[name].fn
    laws = [_independent_normal(law) for law in (belief, prior)]
    if laws[0] is None or laws[1] is None:
        return torch.zeros(0)
    with torch.no_grad():
        return kl_divergence(laws[0], laws[1]).reshape(len(batch), -1)


def _independent_normal(law: Any) -> Normal | None:
    while isinstance(law, Independent | ExpandedDistribution | MaskedDistribution):
        law = law.base_dist
    return law if isinstance(law, Normal) else None
