"""A random order of rows in files that reads them in long pieces."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

BLOCK = 2**16  # numbers that lie together, read in one go
BUFFER = 2**23  # numbers that are shuffled with one another


def buffers(size: int, numbers: float, source: np.random.Generator) -> Iterator[Tensor]:
    """Positions of rows, each once, buffer by buffer.

    Args:
        size: number of rows.
        numbers: in a row.
        source: of the order of the blocks, and of the rows in a buffer.
    """
    block = max(1, int(BLOCK / numbers))
    count = max(1, int(BUFFER / numbers) // block)
    order = source.permutation(-(-size // block))
    for low in range(0, len(order), count):
        rows = [np.arange(k * block, min(size, (k + 1) * block)) for k in order[low : low + count]]
        yield torch.from_numpy(source.permutation(np.concatenate(rows)))
