"""Draws of the locals that are made when they are read, some rows at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from xarray.backends import BackendArray
from xarray.core import indexing

from latentvars.posterior.latent_draws import latent_draws
from latentvars.program import Program
from latentvars.randomness import derive
from latentvars.rows import Rows

BLOCK = 1_024  # rows that are drawn together: the same draw of a row, whichever rows are read


@dataclass(frozen=True)
class LatentSource:
    """One draw of the locals of each row for each draw of the globals.

    Attributes:
        program: the model.
        rows: N rows in memory.
        globals: constrained draws ``[S, *shape]``.
        size: S.
        chains: C, of S / C draws each.
        seed: of the draws.
        given: draws of continuous locals that there are already, ``[S, N, *shape]``.
    """

    program: Program
    rows: Rows
    globals: Mapping[str, Tensor]
    size: int
    chains: int
    seed: int
    given: Mapping[str, Tensor] = field(default_factory=dict)

    def drawn(self, draw: int, block: int) -> dict[str, Tensor]:
        """Local → ``[rows of the block, ...]`` given one draw of the globals."""
        at = torch.arange(block * BLOCK, min(len(self.rows), (block + 1) * BLOCK))
        values = {name: value[draw][None] for name, value in self.globals.items()}
        given = {name: value[draw, at][None] for name, value in self.given.items()}
        seed = derive(self.seed, draw, block)
        found = latent_draws(self.program, self.rows.subset(at), values, 1, seed, given)
        return {name: value[0] for name, value in found.items()}

    def variables(self, names: Mapping[str, tuple[str, ...]]) -> dict[str, xr.Variable]:
        """Local → a variable ``(chain, draw, row, ...)`` whose numbers are drawn when they are read.

        Args:
            names: local → names of its axes, rows first.
        """
        found = {}
        for name, first in self.drawn(0, 0).items():
            shape = (self.chains, self.size // self.chains, len(self.rows), *self._tail(first))
            given = names.get(name, ())
            axes = (
                given if len(given) == len(shape) - 2 else ("row", *(f"{name}_dim_{k}" for k in range(len(shape) - 3)))
            )
            array = LatentArray(self, name, shape, first.numpy().dtype)
            found[name] = xr.Variable(("chain", "draw", *axes), indexing.LazilyIndexedArray(array))
        return found

    def _tail(self, first: Tensor) -> tuple[int, ...]:
        """Axes beyond the rows; steps of chains as many as the longest sequence has."""
        tail = tuple(first.shape[1:])
        return (int(self.rows.lengths.max()), *tail[1:]) if self.rows.lengths is not None and tail else tail

    def read(self, name: str, shape: tuple[int, ...], dtype: np.dtype, key: tuple[Any, ...]) -> np.ndarray:
        """The part of a local that an outer index asks for."""
        wanted = [np.arange(length)[part] for length, part in zip(shape[:3], key[:3], strict=True)]
        chains, draws, rows = (np.atleast_1d(one) for one in wanted)
        whole = np.full((len(chains), len(draws), len(rows), *shape[3:]), -1, dtype=dtype)
        each = self.size // self.chains
        for c, chain in enumerate(chains):
            for d, draw in enumerate(draws):
                for block in np.unique(rows // BLOCK):
                    own = rows // BLOCK == block
                    values = self.drawn(int(chain * each + draw), int(block))[name].numpy()[rows[own] % BLOCK]
                    steps = (slice(0, values.shape[1]),) if values.ndim > 1 else ()
                    whole[(c, d, own, *steps)] = values
        scalars = tuple(0 if one.ndim == 0 else slice(None) for one in wanted)
        for axis, part in reversed(list(enumerate(key[3:], start=3))):
            whole = whole[(slice(None),) * axis + (part,)]
        return whole[scalars]


@final
class LatentArray(BackendArray):
    """One local of a source, read as xarray reads a file."""

    def __init__(self, source: LatentSource, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.source, self.name, self.shape, self.dtype = source, name, shape, dtype

    def __getitem__(self, key: Any) -> Any:
        def read(part: tuple[Any, ...]) -> np.ndarray:
            return self.source.read(self.name, self.shape, self.dtype, part)

        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, read)
