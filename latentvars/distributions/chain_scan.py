"""Recursions of a chain in logarithmic depth: the same results as :mod:`latentvars.distributions.chain`, by a parallel
scan over products of matrices (Särkkä & García-Fernández 2021), for machines that do many things at once.

A product of moves is a matrix of logs with its largest entry taken off, and what was taken off: logs stay small however
long the chain is. The work is K times that of the recursion, and its depth log₂ T.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from latentvars.distributions.chain import Filtered, Smoothed, lowest_log


class Product(NamedTuple):
    """Σ over the states between of products of moves.

    Attributes:
        logs: ``[..., T, K, K]``, from, to; the largest of each matrix is 0.
        offset: ``[..., T]``, to be added.
    """

    logs: Tensor
    offset: Tensor

    def part(self, at: slice) -> Product:
        """Some of the steps."""
        return Product(self.logs[..., at, :, :], self.offset[..., at])


def forward(log_initial: Tensor, log_transition: Tensor, log_emission: Tensor, valid: Tensor | None) -> Filtered:
    """Filtering, as :func:`latentvars.distributions.chain.forward` where x is possible."""
    lowest = lowest_log(log_emission.dtype)
    emission = log_emission.clamp(min=lowest)
    first = log_initial.clamp(min=lowest) + emission[..., 0, :]
    shift = first.amax(-1, keepdim=True)
    first, norm = first - shift, shift
    states, norms = first.unsqueeze(-2), norm
    if emission.shape[-2] > 1:
        past = prefixes(_moves(log_transition, emission, valid))
        states = torch.cat([states, torch.logsumexp(first[..., None, :, None] + past.logs, -2)], -2)
        norms = torch.cat([norm, norm + past.offset], -1)
    inner = torch.logsumexp(states, -1)
    norms = norms + inner
    steps = torch.cat([norms[..., :1], norms[..., 1:] - norms[..., :-1]], -1)
    if valid is not None:
        steps = torch.where(valid, steps, 0.0)
    return Filtered(states - inner.unsqueeze(-1), steps, norms[..., -1])


def backward(filtered: Filtered, log_transition: Tensor, log_emission: Tensor, valid: Tensor | None) -> Smoothed:
    """Smoothing, given the forward pass, as :func:`latentvars.distributions.chain.backward` where x is possible."""
    emission = log_emission.clamp(min=lowest_log(log_emission.dtype))
    behind = torch.zeros_like(emission[..., :1, :])
    if emission.shape[-2] > 1:
        scaled = emission - filtered.steps.unsqueeze(-1)
        moves = _moves(log_transition, scaled, valid)
        turned = prefixes(Product(moves.logs.flip(-3).mT, moves.offset.flip(-1)))
        rest = (torch.logsumexp(turned.logs, -2) + turned.offset.unsqueeze(-1)).flip(-2)
        behind = torch.cat([rest, behind], -2)
    marginals = (filtered.states + behind).exp()
    ahead = emission - filtered.steps.unsqueeze(-1) + behind
    return Smoothed(marginals if valid is None else torch.where(valid.unsqueeze(-1), marginals, 0.0), ahead)


def prefixes(moves: Product) -> Product:
    """Products of the first 1, 2, .., T moves."""
    count = moves.offset.shape[-1]
    if count == 1:
        return moves
    pairs = prefixes(_times(moves.part(slice(0, count - 1, 2)), moves.part(slice(1, None, 2))))
    odd = moves.part(slice(2, None, 2))
    even = _times(pairs.part(slice(0, odd.offset.shape[-1])), odd)
    logs, offset = torch.empty_like(moves.logs), torch.empty_like(moves.offset)
    logs[..., :1, :, :], offset[..., :1] = moves.logs[..., :1, :, :], moves.offset[..., :1]
    logs[..., 1::2, :, :], offset[..., 1::2] = pairs
    logs[..., 2::2, :, :], offset[..., 2::2] = even
    return Product(logs, offset)


def _times(one: Product, other: Product) -> Product:
    """A product of matrices in logs; each row is scaled by its own largest term, so that none of them is lost."""
    best = other.logs.amax(-1)
    terms = one.logs + best.unsqueeze(-2)
    top = terms.amax(-1, keepdim=True)
    found = torch.exp(terms - top) @ torch.exp(other.logs - best.unsqueeze(-1))
    return _scaled(found.log() + top, one.offset + other.offset)


def _scaled(logs: Tensor, offset: Tensor) -> Product:
    lowest = lowest_log(logs.dtype)
    logs = logs.clamp(min=lowest)
    top = logs.amax((-2, -1))
    return Product((logs - top[..., None, None]).clamp(min=lowest), offset + top)


def _moves(log_transition: Tensor, emission: Tensor, valid: Tensor | None) -> Product:
    """log A + log f(x_t | to) of each move, ``[..., T-1, K, K]``; past the length moves that change nothing."""
    lowest = lowest_log(emission.dtype)
    logs = log_transition.clamp(min=lowest) + emission[..., 1:, None, :]
    if valid is not None:
        states = emission.shape[-1]
        still = torch.full((states, states), lowest, dtype=logs.dtype, device=logs.device).fill_diagonal_(0.0)
        logs = torch.where(valid[..., 1:, None, None], logs, still)
    return _scaled(logs, torch.zeros_like(logs[..., 0, 0]))
