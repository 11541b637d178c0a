"""From weighted factors to plain distributions with un-broadcast arguments, and sums of statistics over data."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from torch import Size, Tensor
from torch.distributions import Independent

from latentvars.contract import Factor


def leaves(path: str, factor: Factor) -> Iterator[tuple[str, Factor]]:
    """Split a factor into its plain distributions.

    Collapsed distributions are split by their ``factors``; ``to_event`` and masks are unwrapped, the event dimensions
    of the former becoming batch dimensions of the value.
    """
    fn = factor.fn
    if hasattr(fn, "factors"):
        for name, part in fn.factors(factor.value, factor.weights).items():
            yield from leaves(f"{path}.{name}", part)
    elif isinstance(fn, Independent):
        inner = fn.base_dist
        weights = factor.weights[(...,) + (None,) * fn.reinterpreted_batch_ndims]
        yield from leaves(path, Factor(inner, factor.value, weights))
    elif isinstance(fn, MaskedDistribution):
        mask = torch.as_tensor(fn._mask)
        yield from leaves(path, Factor(fn.base_dist, factor.value, factor.weights * mask))
    elif isinstance(fn, ExpandedDistribution):
        yield from leaves(path, Factor(fn.base_dist, factor.value, factor.weights))
    else:
        yield path, factor


def laws(path: str, factor: Factor) -> Iterator[tuple[str, TorchDistribution]]:
    """The plain distributions of :func:`leaves` alone: no posterior is worked out where a collapsed distribution has
    ``parts_of(value)``, its factors without weights."""
    fn: Any = factor.fn
    if hasattr(fn, "parts_of"):
        for name, part in fn.parts_of(factor.value).items():
            yield from laws(f"{path}.{name}", part)
    elif hasattr(fn, "factors"):
        yield from ((name, leaf.fn) for name, leaf in leaves(path, factor))
    elif isinstance(fn, Independent | MaskedDistribution | ExpandedDistribution):
        yield from laws(path, replace(factor, fn=fn.base_dist))
    else:
        yield path, fn


def without_wrappers(fn: TorchDistribution) -> TorchDistribution:
    """The distribution below ``to_event`` and ``expand``."""
    while isinstance(fn, Independent | ExpandedDistribution):
        fn = fn.base_dist
    return fn


def unbroadcast(value: Tensor, event_dim: int) -> Tensor:
    """Narrow to one element every batch dimension along which a tensor is only expanded."""
    for dim in range(value.dim() - event_dim):
        if value.stride(dim) == 0 and value.shape[dim] > 1:
            value = value.narrow(dim, 0, 1)
    while value.dim() > event_dim and value.shape[0] == 1:
        value = value[0]
    return value


def argument(fn: TorchDistribution, name: str, event_dim: int) -> Tensor:
    """An argument of a distribution, un-broadcast; probabilities are made from logits that were un-broadcast before."""
    source: Any = getattr(fn, "_categorical", fn)  # one-hot and multinomial laws hold theirs there
    if name == "probs" and "probs" not in vars(source) and "logits" in vars(source):
        logits = unbroadcast(source.logits, event_dim)
        return logits.softmax(-1) if event_dim else logits.sigmoid()
    return unbroadcast(getattr(fn, name), event_dim)


def batch_shape(arguments: Mapping[str, Tensor], event_dims: Mapping[str, int]) -> Size:
    """The joint batch shape of un-broadcast arguments."""
    shapes = [value.shape[: value.dim() - event_dims[name]] for name, value in arguments.items()]
    return torch.broadcast_shapes(*shapes)


def weighted_sum(weights: Tensor, statistic: Tensor, target: Size, event_dim: int = 0) -> Tensor:
    """Σ weights · statistic over every dimension in which ``target`` has one element.

    Args:
        weights: broadcastable batch of weights.
        statistic: broadcastable batch + event.
        target: batch shape of the result.
        event_dim: trailing dimensions of the statistic that are kept.

    Returns:
        ``target + event``.
    """
    event = statistic.shape[statistic.dim() - event_dim :]
    lead = statistic.shape[: statistic.dim() - event_dim]
    full = torch.broadcast_shapes(weights.shape, lead, target)
    rank = len(full)
    weights = weights.reshape((1,) * (rank - weights.dim()) + tuple(weights.shape))
    statistic = statistic.reshape((1,) * (rank - len(lead)) + tuple(statistic.shape))
    wanted = (1,) * (rank - len(target)) + tuple(target)
    letters, tail = string.ascii_lowercase[:rank], string.ascii_uppercase[: len(event)]
    left = "".join(c for c, size in zip(letters, weights.shape, strict=True) if size > 1)
    right = "".join(c for c, size in zip(letters, statistic.shape[:rank], strict=True) if size > 1)
    kept = "".join(c for c, size in zip(letters, wanted, strict=True) if size > 1 and c in left + right)
    repeats = 1
    for c, size, goal in zip(letters, full, wanted, strict=True):
        if goal == 1 and size > 1 and c not in left + right:
            repeats *= size
    w = weights.reshape([size for size in weights.shape if size > 1])
    s = statistic.reshape([size for size in statistic.shape[:rank] if size > 1] + list(event))
    total = torch.einsum(f"{left},{right}{tail}->{kept}{tail}", w, s) * repeats
    shape = [size if c in kept else 1 for c, size in zip(letters, wanted, strict=True)] + list(event)
    return total.reshape(shape).expand(wanted + tuple(event)).reshape(tuple(target) + tuple(event))


def mean_of(value: Tensor, target: Size, event_dim: int = 0) -> Tensor:
    """Mean over the dimensions in which ``target`` has one element: the centre of the statistics."""
    lead = value.dim() - event_dim
    wanted = (1,) * (lead - len(target)) + tuple(target)[max(0, len(target) - lead) :]
    reduced = [dim for dim, size in enumerate(wanted) if size == 1]
    value = floating(value)
    return observed_mean(value, reduced) if reduced else value.nan_to_num()


def observed_mean(value: Tensor, dims: list[int]) -> Tensor:
    """Mean of what is not NaN over ``dims``, which stay with one element; 0 where all is NaN."""
    return value.nanmean(dims, keepdim=True).nan_to_num()


def floating(value: Tensor) -> Tensor:
    """Whole numbers, which torch takes no mean of, as float64."""
    return value if value.is_floating_point() else value.to(torch.float64)
