"""Independent distributions over the columns of one tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor

from latentvars.contract import Factor
from latentvars.distributions.shapes import check_count, check_expand, join_batch_shapes
from latentvars.errors import ShapeError


class Columns(constraints.Constraint):
    """Consecutive columns of the last dimension, each block within a constraint of its own."""

    event_dim = 1

    def __init__(self, blocks: Sequence[constraints.Constraint], widths: Sequence[int], scalar: Sequence[bool]) -> None:
        self.blocks, self.widths, self.scalar = tuple(blocks), tuple(widths), tuple(scalar)
        self.is_discrete = any(block.is_discrete for block in self.blocks)

    def check(self, value: Tensor) -> Tensor:
        columns = value.split(self.widths, -1)
        results = []
        for block, column, scalar in zip(self.blocks, columns, self.scalar, strict=True):
            ok = block.check(column.squeeze(-1) if scalar else column)
            results.append(ok if ok.dim() == value.dim() - 1 else ok.all(-1))
        return torch.stack(results).all(0)


@final
class Product(TorchDistribution):
    """p(x) = Π_i p_i(x[cols_i]): independent parts over consecutive columns of the last dimension.

    Args:
        parts: distributions whose batch shapes broadcast, of event shape ``(w_i,)``, or ``()`` for one column.
        widths: number of columns of each part; default: from the event shapes.

    It has no latent of its own, but splits into ``factors`` like a collapsed distribution.

    Raises:
        ShapeError: a width that does not fit its part, no parts, or batch shapes that do not broadcast.
    """

    def __init__(
        self, parts: Sequence[TorchDistribution], widths: Sequence[int] | None = None, validate_args: bool | None = None
    ) -> None:
        if not parts:
            raise ShapeError("a Product of no parts", "at least one distribution", "pass the parts as a list")
        self.parts = tuple(parts)
        self.widths = tuple(_width(part) for part in parts) if widths is None else tuple(widths)
        check_count("widths", len(self.widths), len(self.parts), "give one width per part")
        for position, (part, width) in enumerate(zip(self.parts, self.widths, strict=True)):
            check_count(f"the width of part {position}", width, _width(part), "give the size of the part's event")
        names = {str(position): tuple(part.batch_shape) for position, part in enumerate(self.parts)}
        super().__init__(join_batch_shapes("a Product", names), Size([sum(self.widths)]), validate_args=validate_args)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        return {}

    @property
    def support(self) -> constraints.Constraint:
        supports: list[Any] = [part.support for part in self.parts]
        return Columns(supports, self.widths, [not part.event_shape for part in self.parts])

    def expand(self, batch_shape: tuple[int, ...], _instance: Product | None = None) -> Product:
        batch_shape = Size(batch_shape)
        check_expand("a Product", self.batch_shape, batch_shape)
        new = _instance or Product.__new__(Product)
        new.parts, new.widths = self.parts, self.widths
        TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def map_parts(self, change: Callable[[TorchDistribution], TorchDistribution]) -> Product:
        """The product of changed parts."""
        changed = Product([change(part) for part in self.parts], self.widths, validate_args=False)
        return changed.expand(self.batch_shape)

    def split(self, value: Tensor) -> list[Tensor]:
        """The columns of each part, ``[..., w_i]`` or ``[...]``."""
        check_count("the last dimension of x", value.shape[-1], sum(self.widths), "pass the columns of all parts")
        columns = value.split(self.widths, -1)
        pairs = zip(self.parts, columns, strict=True)
        return [column if part.event_shape else column.squeeze(-1) for part, column in pairs]

    def log_prob(self, value: Tensor) -> Tensor:
        """Σ_i log p_i, nats, ``[...]``."""
        total = sum(part.log_prob(column) for part, column in zip(self.parts, self.split(value), strict=True))
        assert isinstance(total, Tensor)
        return total.expand(torch.broadcast_shapes(total.shape, self.batch_shape))

    def factors(self, value: Tensor, weights: Tensor) -> dict[str, Factor]:
        """One factor per part, named "0", "1", …, all with the same weights ``[...]``."""
        pairs = zip(self.parts, self.split(value), strict=True)
        return {str(position): Factor(part, column, weights) for position, (part, column) in enumerate(pairs)}

    def sample(self, sample_shape: tuple[int, ...] = Size()) -> Tensor:
        """Draws ``[*sample_shape, *batch, Σ w_i]`` in the widest dtype of the parts."""
        with torch.no_grad():
            return self._join([part.expand(self.batch_shape).sample(Size(sample_shape)) for part in self.parts])

    @property
    def mean(self) -> Tensor:
        return self._join([part.expand(self.batch_shape).mean for part in self.parts])

    @property
    def variance(self) -> Tensor:
        return self._join([part.expand(self.batch_shape).variance for part in self.parts])

    def _join(self, values: list[Tensor]) -> Tensor:
        columns = [v if part.event_shape else v.unsqueeze(-1) for part, v in zip(self.parts, values, strict=True)]
        dtype = columns[0].dtype
        for column in columns[1:]:
            dtype = torch.promote_types(dtype, column.dtype)
        return torch.cat([column.to(dtype) for column in columns], -1)


def _width(part: TorchDistribution) -> int:
    """Columns of one part."""
    if len(part.event_shape) > 1:
        raise ShapeError(
            given=f"a part {type(part).__name__} of event shape {list(part.event_shape)}",
            needed="event shape () or (w,)",
            remedy="flatten the event, or make the extra dimensions batch dimensions",
        )
    return part.event_shape[0] if part.event_shape else 1
