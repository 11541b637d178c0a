"""The network of an amortised guide: from the columns of a row to the normal of its locals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import pyro
import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from latentvars.inference.amortised.pushed import Place
from latentvars.rows import Batch, Rows


@dataclass(frozen=True)
class Read:
    """How a column is read.

    Attributes:
        name: of the column.
        width: numbers of a row.
        counted: whether by log(1 + x).
        gaps: whether the network is told where entries are missing.
    """

    name: str
    width: int
    counted: bool
    gaps: bool


class LocalsGuide(nn.Module):
    """q(locals | row): loc A x + f(x), covariance L(x) L(x)ᵀ, lower triangular over the locals in the model's order."""

    loc: Tensor
    scale: Tensor
    at: Tensor

    def __init__(
        self,
        places: Sequence[Place],
        rows: Rows,
        hidden: Sequence[int],
        full: bool,
        dtype: torch.dtype,
        source: torch.Generator,
    ) -> None:
        super().__init__()
        self.settings: Any = None
        self.places, self.full = tuple(places), full
        self.size = sum(place.size for place in places)
        self.reads = tuple(_read(rows, name) for name in rows.columns)
        loc, scale = zip(*(_constants(rows, read) for read in self.reads), strict=True)
        self.register_buffer("loc", torch.cat(loc).to(dtype))
        self.register_buffer("scale", torch.cat(scale).to(dtype))
        inputs = sum(read.width * (1 + read.gaps) for read in self.reads)
        widths = (inputs, *hidden)
        layers = [part for a, b in pairwise(widths) for part in (_linear(a, b, dtype, source), nn.Tanh())]
        self.body = nn.Sequential(*layers)
        below = self.size * (self.size - 1) // 2 if full else 0
        self.line = nn.Parameter(torch.zeros(self.size, inputs, dtype=dtype))
        row, column = torch.tril_indices(self.size, self.size, -1)
        at = torch.zeros(self.size, self.size, dtype=torch.long)
        at[row, column] = torch.arange(len(row))
        self.register_buffer("at", at, persistent=False)
        outputs = 2 * self.size + below
        self.head = nn.Parameter(torch.zeros(outputs, widths[-1], dtype=dtype)) if hidden else None
        self.bias = nn.Parameter(torch.zeros(outputs, dtype=dtype))

    def guide(self, rows: Batch) -> None:
        """Samples every continuous local inside the rows plate."""
        loc, factor = self(rows)
        moved, low = loc, 0
        with rows.plate():
            for place in self.places:
                own = slice(low, low + place.size)
                low = own.stop
                scale = factor[..., own, own] if self.full else factor[..., own]
                value = pyro.sample(place.name, place.law(moved[..., own], scale, self.full))
                if self.full and low < self.size:  # what the draw says of the locals after it
                    gap = (place.free(value) - moved[..., own]).unsqueeze(-1)
                    noise = torch.linalg.solve_triangular(scale, gap, upper=False)
                    after = (factor[..., low:, own] @ noise).squeeze(-1)
                    moved = torch.cat([moved[..., :low], moved[..., low:] + after], -1)

    def marginals(self, rows: Batch) -> dict[str, Any]:
        """The law of each local by itself, the others integrated out."""
        loc, factor = self(rows)
        found, low = {}, 0
        for place in self.places:
            own = slice(low, low + place.size)
            scale = factor[..., own]
            if self.full:
                lines = factor[..., own, : own.stop]
                scale = torch.linalg.cholesky(lines @ lines.mT) if low else lines
            found[place.name] = place.law(loc[..., own], scale, self.full)
            low = own.stop
        return found

    def forward(self, rows: Batch) -> tuple[Tensor, Tensor]:
        """loc ``[B, P]`` and L ``[B, P, P]``, or standard deviations ``[B, P]``."""
        x = self._input(rows)
        found = self.bias.expand(len(x), -1)
        if self.head is not None:
            found = found + self.body(x) @ self.head.mT
        loc, log_scale, below = found.split([self.size, self.size, found.shape[-1] - 2 * self.size], -1)
        loc = loc + x @ self.line.mT
        if not self.full:
            return loc, log_scale.exp()
        factor = torch.diag_embed(log_scale.exp())
        if self.size > 1:
            factor = factor + below[..., self.at].tril(-1)
        return loc, factor

    def _input(self, rows: Batch) -> Tensor:
        parts = [rows[read.name].reshape(len(rows), read.width).to(self.loc.dtype) for read in self.reads]
        read = [part.clamp(min=0).log1p() if of.counted else part for part, of in zip(parts, self.reads, strict=True)]
        x = (torch.cat(read, -1) - self.loc) / self.scale
        gaps = [part.isnan().to(x.dtype) for part, of in zip(parts, self.reads, strict=True) if of.gaps]
        return torch.cat([torch.where(x.isnan(), torch.zeros_like(x), x), *gaps], -1)


def _read(rows: Rows, name: str) -> Read:
    value = rows.columns[name]
    known = value[~value.isnan()] if value.is_floating_point() else value
    counted = bool((known >= 0).all()) and not (known.is_floating_point() and bool((known != known.round()).any()))
    gaps = rows.observed is not None and not bool(rows.observed[name].all())
    return Read(name, value.shape[1:].numel(), counted, gaps)


def _constants(rows: Rows, read: Read) -> tuple[Tensor, Tensor]:
    """Centre and scale of the observed entries of a column, weighted, ``[width]`` each."""
    value = rows.columns[read.name].reshape(-1, read.width).double()
    value = value.log1p() if read.counted else value
    share = torch.where(value.isnan(), 0.0, rows.weights.double()[:, None])
    total = share.sum(0).clamp(min=1e-300)
    loc = (share * value.nan_to_num()).sum(0) / total
    scale = ((share * (value.nan_to_num() - loc).square()).sum(0) / total).sqrt()
    return loc, torch.where(scale > 0, scale, 1.0)


def _linear(inputs: int, outputs: int, dtype: torch.dtype, source: torch.Generator) -> nn.Linear:
    layer = cast(nn.Linear, skip_init(nn.Linear, inputs, outputs, dtype=dtype))
    with torch.no_grad():
        layer.weight.normal_(std=1 / math.sqrt(inputs), generator=source)
        layer.bias.zero_()
    return layer
