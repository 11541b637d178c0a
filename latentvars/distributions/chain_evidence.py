"""The log marginal likelihood of a chain as one differentiable function, and the stationary law."""

from __future__ import annotations

import torch
from pyro.distributions import is_validation_enabled
from torch import Tensor

from latentvars.distributions import chain_operators
from latentvars.errors import ModelError


def log_evidence(
    initial: Tensor, transition: Tensor, log_emission: Tensor, lengths: Tensor | None, by_step: bool = False
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
        lengths: ``[...]`` int64, broadcastable; None where all steps count.
        by_step: whether each step has a transition of its own.
    """
    transition = transition if by_step else transition.unsqueeze(-3)
    return chain_operators.evidence(initial, transition, log_emission, lengths)


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
