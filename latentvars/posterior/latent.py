"""LatentPosterior: the belief q(z | x) of each row, a stochastic representation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from latentvars.errors import KindError, NameUnknownError
from latentvars.randomness import derive, seeded


@dataclass(frozen=True)
class LatentPosterior:
    """Beliefs over the local latents of some rows, at the point estimate of the globals (plug-in).

    Attributes:
        beliefs: local site → one distribution a batch of rows, batch shape ``[B, ...]``.
        names: names of the rows, N.
        lengths: steps of each row ``[N]``; None where a row is an observation.

    A belief is sampled, scored and summarised; distances between rows are a matter of :class:`latentvars.Embedding`.
    """

    beliefs: Mapping[str, Sequence[TorchDistribution]]
    names: tuple
    lengths: Tensor | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self.beliefs)

    def belief(self, name: str | None = None) -> TorchDistribution:
        """The distribution itself, where all rows stand in one batch."""
        parts = self.beliefs[self._name(name)]
        if len(parts) > 1:
            raise KindError(
                given=f"beliefs in {len(parts)} batches",
                needed="one batch",
                remedy="ask for them with batch_size=None, or use mean, mode, sample, log_prob, entropy",
            )
        return parts[0]

    def mean(self, name: str | None = None) -> Tensor:
        """Posterior mean of each row: ``[N, ...]``; probabilities ``[N, K]`` of a discrete local, ``[N, T, K]`` of the
        states of a chain (smoothed, zero beyond a row's length)."""
        return self._each(name, _mean)

    def std(self, name: str | None = None) -> Tensor:
        """Posterior standard deviation of each coordinate of :meth:`mean`."""
        return self._each(name, _std)

    def mode(self, name: str | None = None) -> Tensor:
        """Most probable value: category ``[N]``, or path ``[N, T]`` of a chain (−1 beyond a row's length)."""
        return self._each(name, _mode)

    def path(self, name: str | None = None) -> Tensor:
        """Most probable state path of each row by Viterbi, ``[N, T]``, −1 beyond a row's length."""
        name = self._name(name)
        if not hasattr(self.beliefs[name][0], "viterbi"):
            raise KindError(
                given=f"local {name!r} is a {type(self.beliefs[name][0]).__name__}",
                needed="the states of a chain",
                remedy="use mode() for other locals",
            )
        return self._each(name, _mode)

    def sample(self, name: str | None = None, draws: int = 1, seed: int = 0) -> Tensor:
        """Independent draws ``[draws, N, ...]``; the seed decides them, torch's global generator is left alone."""
        parts = self.beliefs[self._name(name)]
        drawn = []
        for position, part in enumerate(parts):
            with seeded(derive(seed, position)):
                drawn.append(part.sample((draws,)))
        return _joined(drawn, 1)

    def log_prob(self, value: Tensor, name: str | None = None) -> Tensor:
        """Log density of ``value`` ``[N, ...]`` under each row's belief, ``[N]``, nats."""
        parts = self.beliefs[self._name(name)]
        start, found = 0, []
        for part in parts:
            size = part.batch_shape[0]
            found.append(part.log_prob(value[start : start + size]))
            start += size
        return _joined(found, 0)

    def entropy(self, name: str | None = None) -> Tensor:
        """Entropy of each row's belief ``[N]``, nats."""
        return self._each(name, lambda part: part.entropy())

    def _name(self, name: str | None) -> str:
        if name is None and len(self.beliefs) == 1:
            return next(iter(self.beliefs))
        if name is None or name not in self.beliefs:
            raise NameUnknownError(
                given=f"the local site {name!r}",
                needed=f"one of {list(self.beliefs)}",
                remedy="give the name of a local site of the model"
                if self.beliefs
                else "this model has no locals; read fit.point instead",
            )
        return name

    def _each(self, name: str | None, read: Callable[[TorchDistribution], Tensor]) -> Tensor:
        with torch.no_grad():
            return _joined([read(part) for part in self.beliefs[self._name(name)]], 0)


def _joined(parts: Sequence[Tensor], axis: int) -> Tensor:
    """Concatenate batches along the rows; chains of differing padding are padded alike (−1 for states, 0 else)."""
    if len({part.shape[axis + 1 :] for part in parts}) > 1:
        steps = max(part.shape[axis + 1] for part in parts)
        parts = [_padded(part, axis + 1, steps) for part in parts]
    return torch.cat(list(parts), axis)


def _padded(value: Tensor, axis: int, steps: int) -> Tensor:
    shape = list(value.shape)
    shape[axis] = steps - shape[axis]
    fill = 0 if value.dtype.is_floating_point else -1
    return torch.cat([value, value.new_full(shape, fill)], axis)


def is_discrete(belief: TorchDistribution) -> bool:
    """Whether a belief is over categories: its mean is then their probabilities."""
    return hasattr(belief, "probs") and belief.has_enumerate_support and not belief.event_shape


def has_labels(belief: TorchDistribution) -> bool:
    """Whether a belief is over categories, or over the states of a chain: its mean is then their probabilities."""
    return is_discrete(belief) or hasattr(belief, "viterbi")


def _mean(belief: TorchDistribution) -> Tensor:
    return belief.probs if is_discrete(belief) else belief.mean  # type: ignore[attr-defined]


def _std(belief: TorchDistribution) -> Tensor:
    mean = _mean(belief)
    if has_labels(belief):
        return (mean * (1 - mean)).clamp(min=0).sqrt()
    return belief.variance.sqrt()


def _mode(belief: TorchDistribution) -> Tensor:
    return belief.probs.argmax(-1) if is_discrete(belief) else belief.mode  # type: ignore[attr-defined]
