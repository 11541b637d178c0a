"""The law of one observed site at points of a latent space, averaged over what the points leave open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Categorical, Independent, OneHotCategorical

from latentvars.randomness import seeded

DRAWS = 2_000  # of laws without moments in closed form
SMALLEST = 1e-12  # variance, below which its root has no slope


@dataclass(frozen=True)
class Law:
    """p(x | z_m) of M points: a distribution averaged over some axes of its batch.

    Attributes:
        fn: batch shape with M, and perhaps with what is averaged over, event shape E.
        log_weights: logarithms of weights that sum to one over ``axes``, broadcastable with the batch; None without.
        axes: negative positions in the batch of what is averaged over.
        row_axis: negative position of M in the batch, what is averaged over left out.
    """

    fn: TorchDistribution
    log_weights: Tensor | None = None
    axes: tuple[int, ...] = ()
    row_axis: int = -1

    @property
    def event_dims(self) -> int:
        """Axes of one observation; one more for the probabilities of categories."""
        return len(self.fn.event_shape)

    @property
    def mean(self) -> Tensor:
        """``[M, ...]``; probabilities ``[M, ..., K]`` of categories."""
        mean, _ = self._moments()
        return self._rows_first(self._average(mean), mean.dim() - len(self._batch))

    @property
    def variance(self) -> Tensor:
        """Of each number of :attr:`mean`, by the law of total variance."""
        mean, variance = self._moments()
        events = mean.dim() - len(self._batch)
        centred = mean - self._average(mean, keep=True)
        return self._rows_first(self._average(variance + centred.square()), events)

    def sample(self, draws: int) -> Tensor:
        """``[draws, M, ...]`` from torch's generator of the moment."""
        batch = self._batch
        with torch.no_grad():
            found = self.fn.expand(batch).sample(torch.Size([draws]))
            if self.axes:
                weights = self._weights().movedim(self.axes, self._last(len(self.axes)))
                which = Categorical(probs=weights.flatten(-len(self.axes))).sample(torch.Size([draws]))
                shifted = tuple(axis - self.event_dims for axis in self.axes)
                found = found.movedim(shifted, tuple(range(len(self.axes)))).flatten(0, len(self.axes) - 1)
                at = which.reshape(1, *which.shape, *(1,) * self.event_dims)
                found = found.gather(0, at.expand(1, *found.shape[1:]))[0]
        return self._rows_first(found, self.event_dims, 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """log density of a value as the site has it, ``[..., M]`` over its plates, nats."""
        if -1 in self.axes:  # others lead, and broadcast
            value = value.unsqueeze(-1 - self.event_dims)
        score = self.fn.log_prob(value)
        if self.log_weights is None:
            return score
        return torch.logsumexp(score + self.log_weights, self.axes)

    @property
    def _batch(self) -> torch.Size:
        if self.log_weights is None:
            return self.fn.batch_shape
        return torch.broadcast_shapes(self.fn.batch_shape, self.log_weights.shape)

    def _weights(self) -> Tensor:
        assert self.log_weights is not None
        return self.log_weights.exp().expand(self._batch)

    def _average(self, value: Tensor, keep: bool = False) -> Tensor:
        """``[*batch, ...]`` without the axes that are averaged over."""
        if not self.axes:
            return value
        events = value.dim() - len(self._batch)
        weights = self._weights()
        weights = weights.reshape(weights.shape + (1,) * events)
        return (weights * value).sum(tuple(axis - events for axis in self.axes), keepdim=keep)

    def _rows_first(self, value: Tensor, events: int, lead: int = 0) -> Tensor:
        return value.movedim(self.row_axis - events, lead)

    @staticmethod
    def _last(count: int) -> tuple[int, ...]:
        return tuple(range(-count, 0))

    def _moments(self) -> tuple[Tensor, Tensor]:
        mean, variance = moments(self.fn)
        events = mean.dim() - len(self.fn.batch_shape)
        shape = self._batch + mean.shape[mean.dim() - events :]
        return mean.expand(shape), variance.expand(shape)


def moments(fn: Any) -> tuple[Tensor, Tensor]:
    """Mean and variance of each number; of categories probabilities; of draws where there is no closed form."""
    inner, base = fn, fn
    while isinstance(base, Independent):
        base = base.base_dist
    if isinstance(base, Categorical | OneHotCategorical):
        return base.probs, base.probs * (1 - base.probs)
    try:
        mean, variance = inner.mean, inner.variance
        if not bool(torch.isnan(mean).any()):
            return mean, variance
    except NotImplementedError:
        pass
    with seeded(0):
        drawn = fn.sample(torch.Size([DRAWS])).to(torch.get_default_dtype())
    return drawn.mean(0), drawn.var(0)


def standardised(laws: dict[str, Law], spread: bool = True) -> Tensor:
    """Means, and standard deviations, of all sites in one row for each point ``[M, W]``; differentiable."""
    parts = []
    for law in laws.values():
        parts.append(law.mean.flatten(1))
        if spread:
            parts.append(law.variance.clamp(min=SMALLEST).sqrt().flatten(1))
    return torch.cat(parts, 1)
