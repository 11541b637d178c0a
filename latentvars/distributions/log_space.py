"""Logarithms of probabilities that may be zero, with gradients that stay finite."""

from __future__ import annotations

import torch
from torch import Tensor

_FLOOR = -1e30


def log_sum_exp(value: Tensor, dim: int) -> Tensor:
    """log Σ exp along ``dim``; where all terms are ``-inf`` the result is ``-inf`` with gradient zero (torch: NaN)."""
    total = torch.logsumexp(value.clamp(min=_FLOOR), dim)
    return total.masked_fill(total < 0.5 * _FLOOR, -torch.inf)


def log_probs(probs: Tensor) -> Tensor:
    """log of probabilities; where one is zero the result is ``-inf`` with gradient zero (torch: inf, then NaN)."""
    possible = probs > 0
    return torch.where(possible, probs, 1.0).log().masked_fill(~possible, -torch.inf)


def only_known(score: Tensor, known: Tensor | None) -> Tensor:
    """Log-densities of each label ``[..., K]``, ``-inf`` for all but the known one; ``known [...]`` is -1 elsewhere."""
    if known is None:
        return score
    labels = torch.arange(score.shape[-1], device=score.device)
    return torch.where((known >= 0).unsqueeze(-1) & (labels != known.unsqueeze(-1)), -torch.inf, score)


def entropy_terms(probs: Tensor) -> Tensor:
    """−p log p elementwise, nats, with 0 log 0 = 0 and gradient zero there (torch.special.entr: inf)."""
    return -probs * torch.where(probs > 0, probs, 1.0).log()


def without_infinity(value: Tensor) -> Tensor:
    """``value`` with ``-inf`` replaced by 0, for subtracting a normaliser that may be ``-inf``."""
    return value.masked_fill(value == -torch.inf, 0.0)


def sum_in_order(value: Tensor) -> Tensor:
    """Sum over the last dimension from first to last, so that trailing zeros (padding) do not change a bit."""
    return value.cumsum(-1)[..., -1] if value.shape[-1] else value.sum(-1)
