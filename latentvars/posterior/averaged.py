"""Beliefs averaged over draws of the globals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from pyro.distributions import Categorical, TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints


class Averaged(TorchDistribution):
    """p(z | x) = 1/S Σ_s p(z | x, θ_s): the belief with the uncertainty of the globals in it.

    Args:
        parts: S distributions of one shape.

    Attributes:
        labelled: whether values are categories or states, whose mean is their probabilities.
    """

    arg_constraints: ClassVar[dict] = {}

    def __init__(self, parts: Sequence[TorchDistribution], labelled: bool = False) -> None:
        self.parts, self.labelled = tuple(parts), labelled
        super().__init__(parts[0].batch_shape, parts[0].event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return self.parts[0].support  # type: ignore[return-value]

    @property
    def mean(self) -> Tensor:
        return torch.stack([part.mean for part in self.parts]).mean(0)

    @property
    def variance(self) -> Tensor:
        """Mean of the variances plus variance of the means."""
        if self.labelled:
            return self.mean * (1 - self.mean)
        means = torch.stack([part.mean for part in self.parts])
        return torch.stack([part.variance for part in self.parts]).mean(0) + means.var(0, correction=0)

    def log_prob(self, value: Tensor) -> Tensor:
        found = torch.stack([part.log_prob(value) for part in self.parts])
        return found.logsumexp(0) - math.log(len(self.parts))

    def sample(self, sample_shape: tuple[int, ...] = Size()) -> Tensor:
        """Draws ``[*sample_shape, ...]``, each from the belief under one of the draws of the globals."""
        shape = Size(sample_shape) + self.batch_shape
        which = torch.randint(len(self.parts), shape)
        found: Tensor | None = None
        for number, part in enumerate(self.parts):
            own = which == number
            if found is None or bool(own.any()):
                drawn = part.sample(Size(sample_shape))
                own = own.reshape(own.shape + (1,) * (drawn.dim() - own.dim()))
                found = drawn if found is None else torch.where(own, drawn, found)
        assert found is not None
        return found


def averaged(parts: Sequence[TorchDistribution]) -> TorchDistribution:
    """The average of S beliefs; of categories it is over categories again."""
    if isinstance(parts[0], Categorical):
        return Categorical(probs=torch.stack([part.probs for part in parts]).mean(0))  # type: ignore[attr-defined]
    return Averaged(parts, hasattr(parts[0], "viterbi"))
