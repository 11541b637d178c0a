"""The log marginal likelihood of a chain as one differentiable function, and the stationary law."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import is_validation_enabled
from torch import Tensor

from latentvars.distributions import chain
from latentvars.distributions.log_space import log_probs
from latentvars.errors import ModelError


def log_evidence(
    initial: Tensor, transition: Tensor, log_emission: Tensor, valid: Tensor | None, by_step: bool = False
) -> Tensor:
    """log p(x_1..T), states summed out, nats, ``[...]``; twice differentiable.

    The gradient is the posterior (Fisher's identity): with respect to ``log_emission`` the smoothed probabilities,
    with respect to a transition probability A_ij the expected transitions divided by A_ij, with respect to π_i
    p(z_1=i | x) / π_i. Where a probability is zero the gradient is the one-sided derivative, by the formula of
    :func:`latentvars.distributions.chain.transition_slopes`, finite always (do not use second derivatives there).
    Where x is impossible the value is ``-inf`` and the gradient with respect to ``log_emission`` zero.

    Args:
        initial: ``[..., K]`` probabilities.
        transition: ``[..., K, K]`` probabilities, from, to; or ``[..., T-1, K, K]``, of the move out of each step.
        log_emission: ``[..., T, K]``, carrying the whole batch shape.
        valid: ``[..., T]`` bool or None, see :mod:`latentvars.distributions.chain`.
        by_step: whether each step has a transition of its own.
    """
    transition = transition if by_step else transition.unsqueeze(-3)
    return _Evidence.apply(initial, transition, log_emission, valid)[0]


class _Evidence(torch.autograd.Function):
    """Filtering, with smoothing as its gradient: one node of autograd instead of several per step."""

    generate_vmap_rule = True

    @staticmethod
    def forward(initial: Tensor, transition: Tensor, log_emission: Tensor, valid: Tensor | None) -> Any:
        filtered = chain.forward(log_probs(initial), log_probs(transition), log_emission, valid)
        return filtered.total, filtered.states, filtered.steps

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        total, states, steps = output
        ctx.mark_non_differentiable(states, steps)
        ctx.save_for_backward(*inputs, total, states, steps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *unused: Tensor) -> Any:
        initial, transition, log_emission, valid, total, states, steps = ctx.saved_tensors
        log_transition = log_probs(transition)
        if torch.is_grad_enabled():
            # a second derivative needs the filter as a function of the inputs, which the saved result is not
            filtered = chain.forward(log_probs(initial), log_transition, log_emission, valid)
        else:
            filtered = chain.Filtered(states, steps, total)
        smoothed = chain.backward(filtered, log_transition, log_emission, valid)
        by_initial = by_transition = None
        if ctx.needs_input_grad[0]:
            slopes = chain.initial_slopes(smoothed, initial)
            by_initial = (grad.unsqueeze(-1) * slopes).sum_to_size(initial.shape)
        if ctx.needs_input_grad[1]:
            slopes = chain.transition_slopes(filtered, smoothed, transition, valid)
            by_transition = (grad[..., None, None, None] * slopes).sum_to_size(transition.shape)
        return by_initial, by_transition, grad[..., None, None] * smoothed.marginals, None


def stationary(transition: Tensor) -> Tensor:
    """The stationary law δ = δA of a Markov chain, ``[..., K]``, differentiable.

    Solves δ(I − A + U) = 1 with U the matrix of ones (Zucchini & MacDonald 2009, section 1.3.2).

    Args:
        transition: ``[..., K, K]``, rows sum to one (from, to).

    Raises:
        ModelError: there is no unique stationary law, as the chain falls into parts that never meet. Only looked for
            while validation is enabled (``pyro.enable_validation``).
    """
    count = transition.shape[-1]
    identity = torch.eye(count, dtype=transition.dtype, device=transition.device)
    system = (identity - transition + 1.0).mT
    if is_validation_enabled():
        _check_unique(system.detach())
    ones = torch.ones((*transition.shape[:-1], 1), dtype=transition.dtype, device=transition.device)
    return torch.linalg.solve_ex(system, ones)[0].squeeze(-1)


def _check_unique(system: Tensor) -> None:
    values = torch.linalg.svdvals(system)
    limit = 10 * system.shape[-1] * torch.finfo(system.dtype).eps
    singular = values[..., -1] <= limit * values[..., 0]
    if bool(singular.any()):
        raise ModelError(
            given=f"{int(singular.sum())} transition matrix without a unique stationary law (reducible chain)",
            needed="a chain in which some state is reached from every state",
            remedy="start from a transition matrix without blocks of zeros, or use a free initial law",
        )
