"""Log densities of components at points without an array of points × components × features: of normals as one operator
of torch.

Everywhere else than on a CPU in double precision, and for components of other shapes, ``log_prob`` of the components
does the work.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import Categorical, MultivariateNormal, Normal, TorchDistribution
from torch import Tensor
from torch._C._functorch import (  # type: ignore[import-not-found]
    get_unwrapped,
    is_functorch_wrapped_tensor,
    is_gradtrackingtensor,
)
from torch.distributions import Independent

from latentvars.distributions.operators import array_of, has_tangent, operator

WIDEST = 64  # features beyond which products of whole matrices are faster than what is fused


def component_log_prob(components: TorchDistribution, value: Tensor) -> Tensor:
    """log f_k(x), nats, ``[..., K]``, of components ``[..., K]`` at x ``[..., 1, *E]``."""
    if type(components) is Categorical and len(components.batch_shape) == 1 and value.shape[-1:] == (1,):
        return _by_code(components, value[..., 0])
    found = normal_of_points(components, value)
    if found is None:
        return components.log_prob(value)
    if components._validate_args and bool(value.sum().isnan()):  # the shape is known, so only NaN can be wrong
        components._validate_sample(value)
    loc, root = found
    points = value.reshape(-1, loc.shape[-1])
    lead = value.shape[: value.dim() - len(components.event_shape) - 1]
    return scores(points, loc, root).reshape(*lead, len(loc))


def _by_code(components: Any, value: Tensor) -> Tensor:
    """Whole rows of a table of codes × components, instead of one number at a time."""
    codes = value.long().reshape(-1)
    if components._validate_args and not _are_codes(codes, value, components.logits.shape[-1]):
        components._validate_sample(value[..., None])
    return components.logits.mT.contiguous().index_select(0, codes).reshape(*value.shape, -1)


def _are_codes(codes: Tensor, value: Tensor, count: int) -> bool:
    """Whether all values are whole numbers from 0 to ``count`` − 1; in less time than the constraint takes."""
    if not codes.numel() or not torch.equal(codes.to(value.dtype), value.reshape(-1)):
        return False
    low, high = (int(end) for end in codes.aminmax())
    return low >= 0 and high < count


def normal_of_points(components: Any, value: Tensor) -> tuple[Tensor, Tensor] | None:
    """Means ``[K, D]`` and roots of the precisions, diagonal ``[K, D]`` or lower triangular ``[K, D, D]``, of normal
    components that a kernel can score at ``value [..., 1, *E]``; None for others."""
    event = components.event_shape
    plain = value.dtype == torch.float64 and value.device.type == "cpu" and not value.requires_grad
    if not plain or len(components.batch_shape) != 1 or len(event) > 1 or 0 in event:
        return None
    if value.shape[-1 - len(event) :] != (1, *event):
        return None
    states, features = components.batch_shape[0], event.numel()
    base = components.base_dist if type(components).__name__ == "Independent" else components
    if type(base) is Normal and (base is components or isinstance(components, Independent)):
        loc, root = base.loc, base.scale.reciprocal()
        found = loc.reshape(states, features), root.reshape(states, features)
    elif type(components) is MultivariateNormal and features <= WIDEST:
        factor = components._unbroadcasted_scale_tril
        identity = torch.eye(features, dtype=factor.dtype)
        root = torch.linalg.solve_triangular(factor, identity, upper=False)
        found = components.loc.expand(states, features), root.expand(states, features, features)
    else:
        return None
    return found if all(one.dtype == torch.float64 and is_served(one) for one in found) else None


def is_served(value: Tensor) -> bool:
    """Whether the operator can work on a value: on a CPU, and not inside ``torch.func.grad`` or with a derivative that
    goes forward, which know no operators of one's own."""
    if has_tangent(value):
        return False
    while is_functorch_wrapped_tensor(value):
        if is_gradtrackingtensor(value):
            return False
        value = get_unwrapped(value)
    return value.device.type == "cpu"


@operator("latentvars::normal_scores")
def scores(points: Tensor, loc: Tensor, root: Tensor) -> Tensor:
    """log N(x_m; loc_k, (W_kᵀ W_k)⁻¹), nats, ``[M, K]``; ``points [M, D]``, ``loc [K, D]``, W ``[K, D, D]`` lower
    triangular or its diagonal ``[K, D]``."""
    from latentvars.kernels import normals

    return torch.from_numpy(normals.scores(*(array_of(one) for one in (points, loc, root))))


@operator("latentvars::normal_sums")
def sums(points: Tensor, loc: Tensor, root: Tensor, weights: Tensor) -> Tensor:
    """:func:`latentvars.kernels.normals.sums`."""
    from latentvars.kernels import normals

    return torch.from_numpy(normals.sums(*(array_of(one) for one in (points, loc, root, weights))))


@scores.operator.register_fake
def _(points: Tensor, loc: Tensor, root: Tensor) -> Tensor:
    return points.new_empty(points.shape[0], loc.shape[0])


@sums.operator.register_fake
def _(points: Tensor, loc: Tensor, root: Tensor, weights: Tensor) -> Tensor:
    features = points.shape[1]
    squares = features * (features + 1) // 2 if root.dim() == 3 else features
    return points.new_empty(loc.shape[0], 1 + features + squares)


@scores.operator.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], points: Tensor, loc: Tensor, root: Tensor) -> tuple[Tensor, int]:
    """Components of all slices at once where they share the points, else slice by slice."""
    if in_dims[0] is None:
        loc, root = (_mapped(one, at, info.batch_size) for one, at in zip((loc, root), in_dims[1:], strict=True))
        found = scores(points, loc.flatten(0, 1), root.flatten(0, 1))
        return found.reshape(len(points), info.batch_size, -1).movedim(1, 0).contiguous(), 0
    moved = [_mapped(one, at, info.batch_size) for one, at in zip((points, loc, root), in_dims, strict=True)]
    return torch.stack([scores(*slices) for slices in zip(*moved, strict=True)]), 0


@sums.operator.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *given: Tensor) -> tuple[Tensor, int]:
    moved = [_mapped(one, at, info.batch_size) for one, at in zip(given, in_dims, strict=True)]
    if in_dims[0] is None:
        weights = moved[3].movedim(0, 1).flatten(1)
        found = sums(given[0], moved[1].flatten(0, 1), moved[2].flatten(0, 1), weights)
        return found.reshape(info.batch_size, -1, found.shape[-1]), 0
    return torch.stack([sums(*slices) for slices in zip(*moved, strict=True)]), 0


def _mapped(value: Tensor, at: int | None, size: int) -> Tensor:
    return value.expand(size, *value.shape) if at is None else value.movedim(at, 0)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _slopes(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor]:
    """With y = W (x − μ): ∂/∂μ = Wᵀ Σ g y, ∂/∂W = diag(Σ g / W_ii) − Σ g y (x − μ)ᵀ."""
    points, loc, root = ctx.saved_tensors
    size = loc.shape[1]
    if torch.is_grad_enabled():  # a second derivative: as a function of everything
        weight, first, second = _sums_in_torch(points, loc, root, grad)
    else:
        found = sums(points, loc, root, grad)
        weight, first, second = found[:, 0], found[:, 1 : 1 + size], found[:, 1 + size :]
        if root.dim() == 3:
            second = _symmetric(second, size)
    if root.dim() == 2:
        return None, root * first, (weight[:, None] - second) / root
    by_residual = torch.linalg.solve_triangular(root.mT, second, upper=True, left=False)
    diagonal = torch.diag_embed(weight[:, None] / root.diagonal(dim1=-2, dim2=-1))
    return None, (root.mT @ first[..., None])[..., 0], (diagonal - by_residual).tril()


def _sums_in_torch(points: Tensor, loc: Tensor, root: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    residual = points[:, None] - loc
    if root.dim() == 2:
        y = residual * root
        return weights.sum(0), torch.einsum("mk,mkd->kd", weights, y), torch.einsum("mk,mkd->kd", weights, y.square())
    y = torch.einsum("kij,mkj->mki", root, residual)
    return weights.sum(0), torch.einsum("mk,mkd->kd", weights, y), torch.einsum("mk,mki,mkj->kij", weights, y, y)


def _symmetric(lower: Tensor, size: int) -> Tensor:
    """Matrices ``[K, D, D]`` from their lower halves, row by row."""
    i, j = torch.tril_indices(size, size)
    found = lower.new_empty(len(lower), size, size)
    found[:, i, j] = lower
    found[:, j, i] = lower
    return found


scores.operator.register_autograd(_slopes, setup_context=_keep)
