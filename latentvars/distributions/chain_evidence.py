"""The log marginal likelihood of a chain as one differentiable function, and the stationary law."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import is_validation_enabled
from torch import Tensor

from latentvars.distributions import chain_operators
from latentvars.distributions.normal_blocks import is_recorded
from latentvars.distributions.operators import is_plain, needs_derivatives
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
    given = (initial, transition, log_emission)
    if by_step or not needs_derivatives(*given):
        return chain_operators.evidence(*given, lengths)
    one = log_emission.new_ones(()).expand(log_emission.shape[:-2])
    return chain_operators.posterior(*given, lengths, one)[0]  # slopes along with it cost less than once more later


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


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _slopes(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    initial, transition, log_emission, lengths = ctx.saved_tensors
    if torch.is_grad_enabled():
        return *_slopes_in_torch(initial, transition, log_emission, lengths, grad), None
    return *chain_operators.gradient(initial, transition, log_emission, lengths, grad), None


def _keep_posterior(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:4], *output[1:])
    ctx.set_materialize_grads(False)


def _slopes_kept(ctx: Any, grad: Tensor | None, *others: Tensor | None) -> tuple[Tensor | None, ...]:
    """Of the total, whose weights are one."""
    initial, transition, log_emission, lengths, marginals, by_initial, by_transition = ctx.saved_tensors
    if any(other is not None for other in others):
        raise RuntimeError("only log p(x) of chain_posterior has derivatives")
    if grad is None:
        return None, None, None, None, None
    if torch.is_grad_enabled():
        return *_slopes_in_torch(initial, transition, log_emission, lengths, grad), None, None
    if not _is_one(grad):
        marginals, by_initial = grad[..., None, None] * marginals, grad[..., None] * by_initial
        by_transition = grad[..., None, None, None] * by_transition
    by_initial, by_transition = by_initial.sum_to_size(initial.shape), by_transition.sum_to_size(transition.shape)
    return by_initial.detach(), by_transition.detach(), marginals.detach(), None, None


def _is_one(grad: Tensor) -> bool:
    """Whether totals were only added up, so that what was kept need not be copied."""
    return not is_recorded() and is_plain(grad) and bool((grad == 1).all())


def _slopes_in_torch(
    initial: Tensor, transition: Tensor, log_emission: Tensor, lengths: Tensor | None, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As a function of the inputs, which results that were kept are not: for a second derivative."""
    _, marginals, by_initial, by_transition = chain_operators.posterior_in_torch(
        initial, transition, log_emission, lengths, grad
    )
    return by_initial.sum_to_size(initial.shape), by_transition.sum_to_size(transition.shape), marginals


chain_operators.evidence.operator.register_autograd(_slopes, setup_context=_keep)
chain_operators.posterior.operator.register_autograd(_slopes_kept, setup_context=_keep_posterior)
