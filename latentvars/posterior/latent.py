"""LatentPosterior: the belief q(z | x) of each row, a stochastic representation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal

from latentvars.errors import KindError, NameUnknownError
from latentvars.randomness import derive, seeded

MEDIAN_DRAWS = 1_001


@dataclass(frozen=True, repr=False)
class LatentPosterior:
    """Beliefs over the local latents of some rows.

    Attributes:
        beliefs: local site → one distribution a batch of rows, batch shape ``[B, ...]``.
        names: names of the rows, N.
        lengths: steps of each row ``[N]``; None where a row is an observation.
        globals: draws of the globals that the beliefs are averaged over; 0: at the point estimate (plug-in).

    A belief is sampled, scored and summarised; distances between rows are a matter of :class:`latentvars.Embedding`.
    """

    beliefs: Mapping[str, Sequence[TorchDistribution]]
    names: tuple
    lengths: Tensor | None = field(default=None, repr=False)
    globals: int = 0

    def __repr__(self) -> str:
        where = f"averaged over {self.globals} draws of the globals" if self.globals else "at the point of the globals"
        return f"LatentPosterior of {list(self.sites)} for {len(self)} rows, {where}"

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

    def median(self, name: str | None = None) -> Tensor:
        """Posterior median of each number of a continuous local ``[N, ...]``; of 1,001 draws without a closed form.

        Raises:
            KindError: categories and states, which have no order.
        """
        if has_labels(self.beliefs[self._name(name)][0]):
            raise KindError(
                given=f"the median of {self._name(name)!r}, whose values are categories without an order",
                needed="a continuous local",
                remedy="use mode(), or mean() for probabilities",
            )
        return self._each(name, _median)

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

    def distance(self, *rows: Any, **settings: Any) -> NoReturn:
        """Beliefs have no distance of their own.

        Raises:
            KindError: always.
        """
        raise KindError(
            given="a distance asked of a LatentPosterior, a belief for each row",
            needed="an index of beliefs, which says what kind of distance is meant, or one fixed vector for each row",
            remedy="compare beliefs by lv.BeliefIndex(latent), vectors by lv.Index(lv.Embedding(fit).vectors(rows))",
        )

    distances = nearest = index = distance

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
    return is_discrete(belief) or hasattr(belief, "viterbi") or getattr(belief, "labelled", False)


def _mean(belief: TorchDistribution) -> Tensor:
    return belief.probs if is_discrete(belief) else belief.mean  # type: ignore[attr-defined]


def _std(belief: TorchDistribution) -> Tensor:
    mean = _mean(belief)
    if has_labels(belief):
        return (mean * (1 - mean)).clamp(min=0).sqrt()
    return belief.variance.sqrt()


def _median(belief: Any) -> Tensor:
    inner = belief
    while isinstance(inner, Independent):
        inner = inner.base_dist
    if isinstance(inner, MultivariateNormal):
        return inner.loc
    if hasattr(inner, "median"):
        return inner.median
    try:
        return inner.icdf(torch.full(inner.batch_shape, 0.5, dtype=inner.mean.dtype))
    except NotImplementedError:
        with seeded(0):
            return belief.sample((MEDIAN_DRAWS,)).median(0).values


def _mode(belief: TorchDistribution) -> Tensor:
    if is_discrete(belief):
        return belief.probs.argmax(-1)  # type: ignore[attr-defined]
    try:
        return belief.mode  # type: ignore[return-value]
    except NotImplementedError as error:
        raise KindError(
            given=f"the mode of a {type(belief).__name__}, which has no closed form",
            needed="a belief with one",
            remedy="use mean() or median(); for a path, that at the point: fit.latent(rows).path()",
        ) from error
