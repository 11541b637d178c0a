"""Marginals and conditionals of multivariate normals over the coordinates that each row happens to have.

x_o ~ N(μ_o, Σ_oo) and x_m | x_o ~ N(μ_m + Σ_mo Σ_oo⁻¹ (x_o − μ_o), Σ_mm − Σ_mo Σ_oo⁻¹ Σ_om) (Anderson 2003, theorems
2.4.3 and 2.5.1), o the observed and m the missing coordinates, NaN in x. Rows with the same pattern of missing entries
share a factorisation, and all patterns are one batch.

Shapes: ``loc [..., D]``, ``covariance [..., D, D]``, ``x [..., D]``; batch dimensions broadcast.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Size, Tensor

LOG_TWO_PI = math.log(2 * math.pi)
_NUMBERS_AT_ONCE = 2**23

# (residual [G, C, m, D], covariance [G or 1, C, D, D], observed [G, D]) → [G, C, m or 1, *tail]
Work = Callable[[Tensor, Tensor, Tensor], Tensor]


class Conditional(NamedTuple):
    """x | x_o.

    Attributes:
        mean: ``[..., D]``, observed entries as they are.
        covariance: ``[..., D, D]``, zero in the rows and columns of observed entries.
    """

    mean: Tensor
    covariance: Tensor


def log_marginal(loc: Tensor, covariance: Tensor, x: Tensor) -> Tensor:
    """log p(x_o), nats, ``[...]``; 0 where nothing is observed."""
    return _by_pattern(loc, covariance, x, _log_density)


def conditional(loc: Tensor, covariance: Tensor, x: Tensor) -> Conditional:
    """The law of x given its observed entries."""
    return Conditional(conditional_mean(loc, covariance, x), _by_pattern(loc, covariance, x, _spread))


def conditional_mean(loc: Tensor, covariance: Tensor, x: Tensor) -> Tensor:
    """E[x | x_o], ``[..., D]``.

    With a draw from N(loc, covariance) in the place of ``loc`` it is a draw of x given x_o (Matheron's rule).
    """
    return torch.where(x.isnan(), loc + _by_pattern(loc, covariance, x, _shift), x)


def _log_density(residual: Tensor, covariance: Tensor, observed: Tensor) -> Tensor:
    factor = _factor(covariance, observed)
    white = torch.linalg.solve_triangular(factor, residual.mT, upper=False)
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    constant = LOG_TWO_PI * observed.sum(-1).to(residual.dtype)
    return -0.5 * (white.square().sum(-2) + (log_det + constant[..., None])[..., None])


def _shift(residual: Tensor, covariance: Tensor, observed: Tensor) -> Tensor:
    """Σ_mo Σ_oo⁻¹ (x_o − μ_o) in the missing coordinates."""
    solved = torch.cholesky_solve(residual.mT, _factor(covariance, observed))
    return (_between(covariance, observed) @ solved).mT


def _spread(residual: Tensor, covariance: Tensor, observed: Tensor) -> Tensor:
    """Σ_mm − Σ_mo Σ_oo⁻¹ Σ_om, zero elsewhere."""
    missing = ~observed[..., None, :]
    factor = _factor(covariance, observed)
    between = torch.linalg.solve_triangular(factor, _between(covariance, observed).mT, upper=False)
    within = torch.where(missing[..., None] & missing[..., None, :], covariance, 0.0)
    spread = within - between.mT @ between
    return spread.unsqueeze(-3)


def _factor(covariance: Tensor, observed: Tensor) -> Tensor:
    """Cholesky factor of Σ_oo, with an identity in the place of the missing coordinates, which it leaves alone."""
    both = observed[..., None, :, None] & observed[..., None, None, :]
    identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    return torch.linalg.cholesky(torch.where(both, covariance, identity))


def _between(covariance: Tensor, observed: Tensor) -> Tensor:
    """Σ_mo, zero elsewhere."""
    return torch.where(~observed[..., None, :, None] & observed[..., None, None, :], covariance, 0.0)


def _by_pattern(loc: Tensor, covariance: Tensor, x: Tensor, work: Work) -> Tensor:
    """Apply ``work`` to blocks of rows of equal pattern; the result has the joint batch shape, ``[..., *tail]``.

    The dimensions along which the covariance changes (components, states) go to the front and the others, which hold
    the rows, are one: ``[C, M, D]``.
    """
    missing = x.isnan()
    batch = torch.broadcast_shapes(x.shape[:-1], loc.shape[:-1], covariance.shape[:-2])
    residual = torch.where(missing, 0.0, x - loc).expand((*batch, x.shape[-1]))
    of_covariance, of_rows = (_aligned(shape, len(batch)) for shape in (covariance.shape[:-2], missing.shape[:-1]))
    front = [dim for dim, size in enumerate(of_covariance) if size > 1]
    mixed = any(of_rows[dim] > 1 for dim in front)  # each row has a covariance of its own
    if mixed:
        front = []
    behind = [dim for dim in range(len(batch)) if dim not in front]
    order = [*front, *behind]
    flat = residual.permute([*order, len(batch)]).reshape(_product(batch, front), _product(batch, behind), x.shape[-1])
    rows = [1 if dim in front else size for dim, size in enumerate(batch)]
    shared = covariance.reshape(-1, *covariance.shape[-2:])[None]
    own = (
        covariance.expand((*batch, *covariance.shape[-2:])).reshape(-1, 1, *covariance.shape[-2:]) if mixed else shared
    )
    if mixed or is_recorded():
        observed = ~missing.reshape(*of_rows, -1).expand(*rows, -1).reshape(-1, x.shape[-1])
        result = _one_by_one(flat, own, observed, work)
    else:
        pattern, which = _patterns(missing)
        result = _in_blocks(flat, shared, ~pattern, which.reshape(of_rows).expand(rows).reshape(-1), work)
    tail = result.shape[2:]
    result = result.reshape([*(batch[dim] for dim in order), *tail])
    back = sorted(range(len(order)), key=order.__getitem__)
    return result.permute([*back, *range(len(batch), len(batch) + len(tail))])


def is_recorded() -> bool:
    """Whether operations are being recorded into a graph, whose shape may not depend on which entries are missing."""
    recording = sys.modules.get("torch.fx.experimental.proxy_tensor")
    return torch.compiler.is_compiling() or (recording is not None and recording.get_proxy_mode() is not None)


def _one_by_one(residual: Tensor, covariance: Tensor, observed: Tensor, work: Work) -> Tensor:
    """``[C, M, D]``, ``[M or 1, C, D, D]``, ``[M, D]`` → ``[C, M, *tail]``, each row with a pattern of its own."""
    rows = residual.movedim(1, 0).unsqueeze(2)
    at_once = max(1, _NUMBERS_AT_ONCE // (len(residual) * residual.shape[-1] ** 2))
    own = covariance.split(at_once) if len(covariance) == len(rows) else [covariance] * -(-len(rows) // at_once)
    parts = map(work, rows.split(at_once), own, observed.split(at_once))
    return torch.cat(list(parts)).squeeze(2).movedim(0, 1)


def _in_blocks(residual: Tensor, covariance: Tensor, observed: Tensor, which: Tensor, work: Work) -> Tensor:
    """``[C, M, D]``, ``[1, C, D, D]``, P patterns ``[P, D]`` and that of each row ``[M]`` → ``[C, M, *tail]``.

    Blocks hold equally many rows, all of one pattern, so that they are one batch; the last of a pattern is filled up.
    """
    count = torch.bincount(which, minlength=len(observed))
    size = max(1, len(which) // len(observed))
    blocks = (count + size - 1) // size
    order = which.argsort(stable=True)
    rank = torch.arange(len(which), device=which.device) - (count.cumsum(0) - count)[which[order]]
    place = torch.empty_like(order)
    place[order] = (blocks.cumsum(0) - blocks)[which[order]] * size + rank
    row = torch.zeros(int(blocks.sum()) * size, dtype=order.dtype, device=order.device)
    row[place] = torch.arange(len(which), device=which.device)
    of_block = torch.arange(len(observed), device=which.device).repeat_interleave(blocks)
    at_once = max(1, _NUMBERS_AT_ONCE // (len(residual) * residual.shape[-1] * max(residual.shape[-1], size)))
    parts = []
    for rows, patterns in zip(row.reshape(-1, size).split(at_once), of_block.split(at_once), strict=True):
        parts.append(work(residual[:, rows].movedim(0, 1), covariance, observed[patterns]).movedim(0, 1))
    found = torch.cat(parts, 1)
    return found.flatten(1, 2)[:, place] if found.shape[2] == size else found[:, place // size, 0]


def _patterns(missing: Tensor) -> tuple[Tensor, Tensor]:
    """The different patterns ``[P, D]`` of ``[..., D]``, and that of each row, flat."""
    flat = missing.reshape(-1, missing.shape[-1])
    code = torch.zeros(len(flat), dtype=torch.int64, device=flat.device)
    for block in flat.split(31, -1):  # a row of bits is a number; two numbers of 32 bits fit in one
        powers = 2 ** torch.arange(block.shape[-1], device=flat.device)
        code = (code << 31) + (block * powers).sum(-1)
        code = torch.unique(code, return_inverse=True)[1]
    first = torch.full((int(code.max()) + 1,), len(flat), device=flat.device)
    first = first.scatter_reduce(0, code, torch.arange(len(flat), device=flat.device), "amin")
    return flat[first], code


def _aligned(shape: tuple[int, ...], rank: int) -> Size:
    return Size((1,) * (rank - len(shape)) + tuple(shape))


def _product(batch: Size, dims: list[int]) -> int:
    return math.prod(batch[dim] for dim in dims)
