"""Rows of independent bits whose log density and slopes are found in one pass over memory."""

from __future__ import annotations

from typing import Any, final

import pyro.distributions as dist
import torch
from torch import Tensor

from latentvars.distributions.normal_scores import is_served
from latentvars.distributions.operators import array_of, operator

PRECISIONS = (torch.float64, torch.float32)
TERMS = 7  # of a series whose argument is at most 1/3, in single precision


def bernoulli_rows(logits: Tensor) -> dist.TorchDistribution:
    """Π_d s_d^x_d (1 − s_d)^(1 − x_d) with s = sigmoid(l), l ``[..., D]``: batch shape ``[...]``, event shape ``[D]``.

    Values are not checked; those strictly between 0 and 1 give the cross-entropy.
    """
    return BernoulliRows(dist.Bernoulli(logits=logits, validate_args=False), 1, validate_args=False)


@final
class BernoulliRows(dist.Independent):
    """``Bernoulli(logits=l).to_event(1)``, scored by the compiled core where it can be, else by torch."""

    def log_prob(self, value: Tensor) -> Tensor:
        """``[..., D]`` → ``[...]``, nats."""
        logits = self.base_dist.logits
        plain = logits.dtype in PRECISIONS and value.dtype == logits.dtype and logits.shape[-1:].numel() > 0
        if not (plain and is_served(logits) and is_served(value)):
            return super().log_prob(value)
        shape = torch.broadcast_shapes(logits.shape, value.shape)
        flat = (one.expand(shape).reshape(-1, shape[-1]) for one in (logits, value))
        return scores(*flat)[0].reshape(shape[:-1])


@operator("latentvars::bernoulli_rows")
def scores(logits: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`latentvars.kernels.bits.scores`; the slopes are for what follows back, not to be differentiated."""
    from latentvars.kernels import bits

    found, slopes = bits.scores(array_of(logits), array_of(value))
    return torch.from_numpy(found), torch.from_numpy(slopes)


@scores.operator.register_fake
def _(logits: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    return logits.new_empty(logits.shape[:1]), logits.new_empty(logits.shape)


@scores.operator.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], logits: Tensor, value: Tensor) -> tuple[Any, Any]:
    parts = (
        (one.unsqueeze(0) if at is None else one.movedim(at, 0))
        for one, at in zip((logits, value), in_dims, strict=True)
    )
    whole = [part.expand(info.batch_size, *part.shape[1:]) for part in parts]
    found, slopes = scores(*(part.flatten(0, 1) for part in whole))
    return (found.unflatten(0, (info.batch_size, -1)), slopes.unflatten(0, (info.batch_size, -1))), (0, 0)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs, output[1])


def _slopes(ctx: Any, along: Tensor, _: Tensor) -> tuple[Tensor, Tensor | None]:
    logits, value, slopes = ctx.saved_tensors
    if torch.is_grad_enabled():  # a second derivative: as a function of everything
        slopes = value - torch.sigmoid(logits)
    along = along[:, None]
    return along * slopes, along * logits if ctx.needs_input_grad[1] else None


scores.operator.register_autograd(_slopes, setup_context=_keep)


def in_torch(logits: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The same by operations of torch."""
    step = (logits > 0).to(logits.dtype)
    found = torch.where(value == step, 0.0, (value - step) * logits) - torch.log1p(torch.exp(-logits.abs()))
    return found.sum(-1), value - torch.sigmoid(logits)


def written_out(logits: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The same for a compiler to merge with what stands around it; in single precision with one exponential, as in the
    compiled core: log(1 + e) = 2 artanh(e / (2 + e))."""
    if logits.dtype != torch.float32:
        return in_torch(logits, value)
    above = logits > 0
    e = torch.exp(-logits.abs())
    share = e / (2 + e)
    square = share.square()
    series = torch.full_like(e, 1 / (2 * TERMS + 1))
    for k in reversed(range(TERMS)):
        series = series * square + 1 / (2 * k + 1)
    away = value - above.to(logits.dtype)
    found = torch.where(away == 0, 0.0, away * logits) - 2 * share * series
    sure = 1 / (1 + e)
    return found.sum(-1), value - torch.where(above, sure, e * sure)
