"""Rotations and signs of factors: the turn by which draws of loadings speak of the same factors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

ROTATED = ("latent", "factor")  # names of axes along which factors lie
ROUNDS = 50
SETTLED = 1e-10


@dataclass(frozen=True)
class Factors:
    """Where the factors of one continuous local lie.

    Attributes:
        name: of the axis.
        axes: global → its axis along which they lie.
        size: L.
    """

    name: str
    axes: Mapping[str, int]
    size: int

    def turned(self, values: Mapping[str, Tensor], turn: Tensor, lead: int = 0) -> dict[str, Tensor]:
        """Globals with their factors turned: loadings Λ become Λ R.

        Args:
            values: global → ``[*lead, *shape]``.
            turn: R ``[*lead, L, L]``, orthogonal.
            lead: number of leading axes that are not the site's own.
        """
        found = dict(values)
        for name, axis in self.axes.items():
            value = found[name].movedim(lead + axis, -1)
            flat = value.reshape(*value.shape[:lead], -1, self.size) @ turn.to(value.dtype)
            found[name] = flat.reshape(value.shape).movedim(-1, lead + axis)
        return found

    def matrix(self, values: Mapping[str, Tensor]) -> Tensor:
        """All loadings of draws ``[S, *shape]``, one under the other, ``[S, M, L]``."""
        parts = [values[name].movedim(1 + axis, -1).flatten(1, -2) for name, axis in self.axes.items()]
        return torch.cat(parts, 1).to(torch.float64)


def factors_of(dims: Mapping[str, tuple[str, ...]], shapes: Mapping[str, tuple[int, ...]]) -> Factors | None:
    """The factors that a model names in its ``dims()``: axes called latent or factor; None where it names none.

    Args:
        dims: site → names of its axes.
        shapes: global → its shape.
    """
    for name in ROTATED:
        axes = {site: dims[site].index(name) for site in shapes if dims.get(site, ()).count(name) == 1}
        axes = {site: axis for site, axis in axes.items() if len(dims[site]) == len(shapes[site]) > 1}
        sizes = {shapes[site][axis] for site, axis in axes.items()}
        if len(sizes) == 1:
            return Factors(name, axes, sizes.pop())
    return None


@dataclass(frozen=True)
class Turns:
    """Of S draws.

    Attributes:
        turn: ``[S, L, L]``, R of each draw: Λ R is aligned.
        mean: ``[M, L]``, of the aligned loadings.
        ambiguity: mean over draws of 1 − cos of the angle between the aligned loadings of a draw and their mean: 0
            where all draws agree but for a turn.
    """

    turn: Tensor
    mean: Tensor
    ambiguity: float

    @property
    def moved(self) -> Tensor:
        """``[S]``: whether the factors of a draw turned by more than 45 degrees, or changed sign or place."""
        return self.turn.diagonal(dim1=1, dim2=2).amin(1) < 0.5**0.5


def procrustes(loadings: Tensor, reference: Tensor, *, signs: bool, fixed: bool = False) -> Turns:
    """Turns by which loadings are closest, in least squares, to their own mean (Gower 1975), which lies along its
    principal axes: ΛᵀΛ of the mean is diagonal and falls, the largest loading of each factor is positive.

    Args:
        loadings: ``[S, M, L]``.
        reference: ``[M, L]`` where the mean begins.
        signs: turn by changes of sign and place alone (Papastamoulis & Ntzoufras 2022), since the density changes under
            other turns; the mean then keeps the axes of the reference.
        fixed: the reference is what they are brought to, in one step.
    """
    solve = _signed if signs else _orthogonal
    turn = solve(loadings.mT @ reference)
    mean = (loadings @ turn).mean(0)
    if fixed:
        return Turns(turn, mean, _left(loadings @ turn, reference))
    for _ in range(ROUNDS):
        turn = solve(loadings.mT @ mean)
        new = (loadings @ turn).mean(0)
        settled = bool((new - mean).abs().max() <= SETTLED * mean.abs().max().clamp(min=1e-300))
        mean = new
        if settled:
            break
    last = principal(mean, signs=signs)
    turn, mean = turn @ last, mean @ last
    return Turns(turn, mean, _left(loadings @ turn, mean))


def _left(aligned: Tensor, mean: Tensor) -> float:
    """Mean over draws of 1 − cos of the angle to the mean."""
    cosine = (aligned * mean).sum((1, 2)) / (aligned.norm(dim=(1, 2)) * mean.norm()).clamp(min=1e-300)
    return float(1 - cosine.mean())


def principal(loadings: Tensor, *, signs: bool) -> Tensor:
    """The turn ``[L, L]`` that brings ``[M, L]`` to its principal axes, largest first, largest loading positive; with
    ``signs`` factors only change place and sign."""
    if signs:
        axes = torch.eye(loadings.shape[1], dtype=loadings.dtype)[:, loadings.square().sum(0).argsort(descending=True)]
    else:
        axes = torch.linalg.svd(loadings, full_matrices=False).Vh.mT
    turned = loadings @ axes
    sign = turned.gather(0, turned.abs().argmax(0, keepdim=True)).sign()
    return axes * torch.where(sign == 0, 1.0, sign)


def _orthogonal(product: Tensor) -> Tensor:
    """argmax over orthogonal R of tr(Rᵀ ΛᵀΛ₀), ``[S, L, L]`` (Schönemann 1966)."""
    left, _, right = torch.linalg.svd(product)
    return left @ right


def _signed(product: Tensor) -> Tensor:
    """The same over signed permutations."""
    from scipy.optimize import linear_sum_assignment

    found = torch.zeros_like(product)
    for number, one in enumerate(product):
        rows, columns = linear_sum_assignment(-one.abs().numpy())
        found[number, rows, columns] = torch.where(one[rows, columns] < 0, -1.0, 1.0).to(product.dtype)
    return found
