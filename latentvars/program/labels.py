"""Discrete locals that are known at some rows: all other values are given the density zero there."""

from __future__ import annotations

from typing import Any, final

import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.poutine.messenger import Messenger
from torch import Size, Tensor

from latentvars.errors import ShapeError
from latentvars.rows import ROWS_PLATE, Batch


@final
class Labelled(TorchDistribution):
    """p(z) 1[z = label]: not normalised, so that a label of a dependent local bears on what it depends on.

    Args:
        base: p(z), with finitely many values, of batch shape ``[...]``.
        label: broadcasts to ``[...]``, int64, −1 where z is not known.
    """

    has_enumerate_support = True

    def __init__(self, base: TorchDistribution, label: Tensor) -> None:
        self.base, self.label = base, label
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        return {}

    @property
    def support(self) -> constraints.Constraint:
        support: Any = self.base.support
        return support

    def expand(self, batch_shape: tuple[int, ...], _instance: Labelled | None = None) -> Labelled:
        new = _instance or Labelled.__new__(Labelled)
        Labelled.__init__(new, self.base.expand(Size(batch_shape)), self.label)
        return new

    def enumerate_support(self, expand: bool = True) -> Tensor:
        return self.base.enumerate_support(expand)

    def sample(self, sample_shape: tuple[int, ...] = Size()) -> Tensor:
        """Of p(z): what is known has no part in it."""
        return self.base.sample(Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z), ``-inf`` for all values but the label, nats."""
        return where_possible(self.base.log_prob(value), value, self.label)


def where_possible(log_prob: Tensor, value: Tensor, label: Tensor) -> Tensor:
    """``log_prob``, ``-inf`` where ``value`` is another than a known label."""
    return torch.where((label >= 0) & (value != label.to(value.dtype)), -torch.inf, log_prob)


@final
class GiveLabels(Messenger):
    """Tells the discrete locals, enumerated or collapsed, what is known of them in a batch."""

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.known = batch.known

    def _pyro_sample(self, msg: Any) -> None:
        if not any(frame.name == ROWS_PLATE for frame in msg["cond_indep_stack"]):
            return
        fn, name = msg["fn"], msg["name"]
        local: str = getattr(fn, "local", "") if msg["is_observed"] else name
        if local not in self.known:
            return
        label = self.known[local]
        if not msg["is_observed"]:
            label = label.movedim(0, -1)
            _check_layout(local, label, fn.batch_shape)
            msg["fn"] = Labelled(fn, label)
        elif hasattr(fn, "given"):
            steps = msg["value"].shape[len(fn.batch_shape)] if hasattr(fn, "lengths") else None
            _check_layout(local, label, fn.batch_shape if steps is None else (*fn.batch_shape, steps))
            msg["fn"] = fn.given(label)


def _check_layout(name: str, label: Tensor, shape: tuple[int, ...]) -> None:
    try:
        fits = torch.broadcast_shapes(label.shape, shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        unit = "steps" if label.dim() > 1 else "rows"
        raise ShapeError(
            given=f"known labels of {name!r} that are of {unit}, as {list(label.shape)}",
            needed=f"labels as the local lies, {list(shape)}",
            remedy="give a local of each row one label a row, and a local of each step one label a step",
        )
