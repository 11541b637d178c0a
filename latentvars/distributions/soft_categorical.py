"""The complete-data factor of expected counts."""

from __future__ import annotations

from typing import final

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor

from latentvars.distributions.shapes import check_expand


@final
class SoftCategorical(TorchDistribution):
    """f(n) = Π_k p_k^{n_k}: a categorical scored at (expected) counts n, log f(n) = Σ_k n_k log p_k, with 0 log 0 = 0.

    At a one-hot n it is the categorical itself; otherwise it is the expected complete-data log-likelihood, *linear*
    in n (``OneHotCategorical`` takes the largest entry instead), and not a normalised density.

    Args:
        probs: ``[..., K]``, on the simplex; zeros are allowed.
        validate_args: whether to check ``probs``.
    """

    def __init__(self, probs: Tensor, validate_args: bool | None = None) -> None:
        self.probs = probs
        super().__init__(probs.shape[:-1], probs.shape[-1:], validate_args=validate_args)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        return {"probs": constraints.simplex}

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.nonnegative, 1)

    def expand(self, batch_shape: tuple[int, ...], _instance: SoftCategorical | None = None) -> SoftCategorical:
        batch_shape = Size(batch_shape)
        check_expand("a SoftCategorical", self.batch_shape, batch_shape)
        new = _instance or SoftCategorical.__new__(SoftCategorical)
        new.probs = self.probs.expand(batch_shape + self.event_shape)
        TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Σ_k n_k log p_k, nats, ``[...]``; ``-inf`` where a positive count meets probability zero.

        Args:
            value: counts ``[..., K]``, nonnegative, not necessarily whole.
        """
        possible = self.probs > 0
        terms = value * torch.where(possible, self.probs, 1.0).log()
        return terms.masked_fill(~possible & (value > 0), -torch.inf).sum(-1)

    def sample(self, sample_shape: tuple[int, ...] = Size()) -> Tensor:
        """One-hot draws ``[*sample_shape, ..., K]``."""
        with torch.no_grad():
            draws = torch.distributions.Categorical(self.probs, validate_args=False).sample(Size(sample_shape))
            return torch.nn.functional.one_hot(draws, self.event_shape[0]).to(self.probs.dtype)

    @property
    def mean(self) -> Tensor:
        return self.probs
