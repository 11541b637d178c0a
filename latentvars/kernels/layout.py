"""Chains laid out as lanes: sequences side by side, long ones cut into chunks with a warm-up at either end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentvars.kernels.lanes import LANES, TILE

LONG = 1024  # steps from which a chain is cut
CHUNKS, SHORTEST, WARM_UP = 2 * LANES, 256, 64


@dataclass(frozen=True)
class Lanes:
    """One entry per lane, ``[B · LANES]``, of B blocks; lanes past the last are empty.

    Attributes:
        chain: number of the chain.
        begins: row of the first step, in the flat table of steps.
        counts: steps, warm-ups included.
        body_from: first step that counts.
        body_to: step after the last that counts.
    """

    chain: np.ndarray
    begins: np.ndarray
    counts: np.ndarray
    body_from: np.ndarray
    body_to: np.ndarray

    @property
    def blocks(self) -> int:
        """B."""
        return len(self.chain) // LANES

    def tiles(self, block: int) -> int:
        """Tiles of steps that a block has."""
        return -(-int(self.counts[block * LANES : (block + 1) * LANES].max()) // TILE)


def lanes(begins: np.ndarray, lengths: np.ndarray, may_cut: bool) -> Lanes:
    """Lanes of chains with rows ``begins`` .. ``begins + lengths``, longest first, so that blocks hold like lengths.

    How a chain is cut depends on its own length only.
    """
    long = (lengths >= LONG) & may_cut
    parts = [_whole(np.flatnonzero(~long), begins, lengths)]
    parts += [_cut(int(chain), int(begins[chain]), int(lengths[chain])) for chain in np.flatnonzero(long)]
    table = np.concatenate(parts)
    table = table[np.argsort(-table[:, 2], kind="stable")]
    filled = np.zeros((-(-len(table) // LANES) * LANES, table.shape[1]), dtype=np.int64)
    filled[: len(table)] = table
    filled[len(table) :, 0] = -1
    chain, *rest = filled.T
    return Lanes(np.ascontiguousarray(chain), *(np.ascontiguousarray(one).astype(np.uintp) for one in rest))


def _whole(chains: np.ndarray, begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    table = np.zeros((len(chains), 5), dtype=np.int64)
    table[:, 0], table[:, 1], table[:, 2], table[:, 4] = chains, begins[chains], lengths[chains], lengths[chains]
    return table


def _cut(chain: int, begin: int, length: int) -> np.ndarray:
    size = max(SHORTEST, -(-length // CHUNKS))
    low = np.arange(0, length, size)
    high = np.minimum(low + size, length)
    first, last = np.maximum(low - WARM_UP, 0), np.minimum(high + WARM_UP, length)
    return np.stack([np.full_like(low, chain), begin + first, last - first, low - first, high - first], 1)
