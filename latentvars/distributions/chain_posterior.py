"""The belief over the path of a hidden Markov chain, given its observations."""

from __future__ import annotations

from functools import cached_property
from typing import final

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor

from latentvars.distributions import chain, chain_operators
from latentvars.distributions.log_space import entropy_terms, log_probs, sum_in_order
from latentvars.distributions.shapes import check_expand


@final
class ChainPosterior(TorchDistribution):
    """p(z_1..T | x_1..T), itself a Markov chain with time-varying transitions.

    Values are paths ``[..., T]`` of states 0 .. K−1, with −1 past the length (entries there are never read).

    Args:
        initial: ``[..., K]``, law of the first state.
        transition: ``[..., K, K]``, from, to; or ``[..., T-1, K, K]``, of the move out of each step.
        log_emission: ``[..., T, K]``, log p(x_t | z_t), nats; its leading dimensions are the batch shape.
        lengths: ``[...]`` int64, broadcastable to the batch shape; None where all steps count.
        by_step: whether each step has a transition of its own.

    Quantities are computed when they are first read, and kept.
    """

    def __init__(
        self,
        initial: Tensor,
        transition: Tensor,
        log_emission: Tensor,
        lengths: Tensor | None = None,
        by_step: bool = False,
    ) -> None:
        transition = transition if by_step else transition.unsqueeze(-3)
        self.initial, self.transition = initial, transition
        self.log_emission = log_emission
        batch_shape = log_emission.shape[:-2]
        self.lengths = None if lengths is None else lengths.expand(batch_shape)
        super().__init__(batch_shape, log_emission.shape[-2:-1], validate_args=False)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        return {}

    @property
    def support(self) -> constraints.Constraint:
        lowest = 0 if self.lengths is None else -1
        return constraints.independent(constraints.integer_interval(lowest, self.log_emission.shape[-1] - 1), 1)

    def expand(self, batch_shape: tuple[int, ...], _instance: ChainPosterior | None = None) -> ChainPosterior:
        batch_shape = Size(batch_shape)
        check_expand("a ChainPosterior", self.batch_shape, batch_shape)
        new = _instance or ChainPosterior.__new__(ChainPosterior)
        new.initial, new.transition = self.initial, self.transition
        new.log_emission = self.log_emission.expand(batch_shape + self.log_emission.shape[-2:])
        new.lengths = None if self.lengths is None else self.lengths.expand(batch_shape)
        TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        return new

    @cached_property
    def valid(self) -> Tensor | None:
        """``[..., T]``, True before the length; None where all steps count."""
        return chain.step_mask(self.lengths, self.event_shape[0])

    @cached_property
    def filtered(self) -> chain.Filtered:
        """The forward pass; its ``total`` is log p(x)."""
        return chain_operators.filter_states(self.initial, self.transition, self.log_emission, self.lengths)

    @cached_property
    def smoothed(self) -> chain.Smoothed:
        """The backward pass."""
        return chain_operators.smooth(self.filtered, self.transition, self.log_emission, self.lengths)

    @cached_property
    def marginals(self) -> Tensor:
        """Smoothed probabilities p(z_t | x), ``[..., T, K]``; 0 past the length."""
        return chain_operators.marginals(self.initial, self.transition, self.log_emission, self.lengths)

    @property
    def log_transition(self) -> Tensor:
        """log A, ``[..., S, K, K]``."""
        return log_probs(self.transition)

    @property
    def mean(self) -> Tensor:
        """Mean of the one-hot path, which is ``marginals`` ``[..., T, K]``."""
        return self.marginals

    @cached_property
    def pairwise(self) -> Tensor:
        """p(z_t, z_t+1 | x), ``[..., T-1, K, K]``; 0 where t+1 is past the length."""
        return chain.pairwise(self.filtered, self.smoothed, self.log_transition, self.valid)

    @property
    def mode(self) -> Tensor:
        """The most probable path, ``[..., T]`` int64, −1 past the length."""
        return chain_operators.path(self.initial, self.transition, self.log_emission, self.lengths)

    def viterbi(self) -> tuple[Tensor, Tensor]:
        """The most probable path ``[..., T]`` and its *joint* log-probability log p(x, path), nats, ``[...]``."""
        path = self.mode
        return path, self._joint(path)

    def _joint(self, path: Tensor) -> Tensor:
        return chain.path_log_prob(path, log_probs(self.initial), self.log_transition, self.log_emission, self.valid)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(path | x), nats, ``[...]``."""
        return self._joint(value) - self.filtered.total

    def sample(self, sample_shape: tuple[int, ...] = Size()) -> Tensor:
        """Exact path draws ``[*sample_shape, ..., T]`` int64, −1 past the length."""
        with torch.no_grad():
            return chain_operators.draw(self.filtered, self.transition, self.lengths, Size(sample_shape))

    def entropy(self) -> Tensor:
        """H(z_1..T | x), nats, ``[...]``, exact in O(T K²).

        By the chain rule, Σ_t H(z_t, z_t+1) − Σ_{1<t<T} H(z_t) (the sum over paths that Hernando, Crespi & Cybenko
        2005 compute recursively).
        """
        single = entropy_terms(self.marginals).sum(-1)
        if self.event_shape[0] == 1:
            return single[..., 0]
        # the last valid step has a marginal but no pair that starts there, so it is left out like the first
        pairs = entropy_terms(self.pairwise).sum((-2, -1))
        inner = single[..., :-1] if self.valid is None else torch.where(self.valid[..., 1:], single[..., :-1], 0.0)
        alone = 0.0 if self.lengths is None else torch.where(self.lengths == 1, single[..., 0], 0.0)
        return sum_in_order(pairs - torch.cat([torch.zeros_like(inner[..., :1]), inner[..., 1:]], -1)) + alone
