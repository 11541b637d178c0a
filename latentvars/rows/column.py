"""Column: what :class:`latentvars.Rows` has in the place of a tensor where the numbers stay in a file."""

from __future__ import annotations

from typing import Any, NoReturn, final

import numpy as np
import torch
from torch import Size, Tensor

from latentvars.errors import DataError, KindError
from latentvars.rows.streams import Stamp, Stream

CHUNK = 2**18  # numbers that a pass over a file reads at a time
NEAR = 256  # rows between two that are wanted, up to which all are read in one go


@final
class Column:
    """Numbers ``[S, ...]`` in a file, float64 or int64 once they are read; it has the shape and the slices of a tensor.

    Attributes:
        stream: where they are read from.
        shape: ``[S, ...]``.
        dtype: float64, or int64 for whole numbers.
        missing: how many of them are (NaN), once all have been read.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.shape = Size(stream.shape)
        self.dtype = torch.int64 if stream.dtype.kind in "iu" else torch.float64
        self.missing = 0
        self.stamp: Stamp = stream.stamp()

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Column({list(self.shape)} in {self.stream.where})"

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def dim(self) -> int:
        return len(self.shape)

    def is_floating_point(self) -> bool:
        return self.dtype == torch.float64

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return max(1, self.shape[1:].numel())

    def __getitem__(self, where: Any) -> Tensor:
        """The rows at a slice, or at positions of any shape ``[*P]``: ``[*P, ...]``."""
        if isinstance(where, slice):
            start, stop, step = where.indices(len(self))
            if step == 1:
                return self._read(start, max(start, stop))
            where = torch.arange(start, stop, step)
        at = torch.as_tensor(where)
        if at.dtype == torch.bool:
            at = at.nonzero()[:, 0]
        flat = torch.where(at < 0, at + len(self), at).reshape(-1)
        if not len(flat):
            return self._read(0, 0).reshape(*at.shape, *self.shape[1:])
        return self._picked(flat).reshape(*at.shape, *self.shape[1:])

    def _picked(self, flat: Tensor) -> Tensor:
        """Rows that lie near one another are read together."""
        low, high = int(flat[0]), int(flat[-1])
        if high - low + 1 == len(flat) and torch.equal(flat, torch.arange(low, high + 1)):
            return self._read(low, high + 1)
        wanted, place = torch.unique(flat, return_inverse=True)
        cuts = ((wanted[1:] - wanted[:-1]) > NEAR).nonzero()[:, 0] + 1
        parts = []
        for run in torch.tensor_split(wanted, cuts):
            low = int(run[0])
            parts.append(self._read(low, int(run[-1]) + 1)[run - low])
        found = parts[0] if len(parts) == 1 else torch.cat(parts)
        return found if len(wanted) == len(flat) and torch.equal(wanted, flat) else found[place]

    def _read(self, start: int, stop: int) -> Tensor:
        array = self.stream.read(start, stop)
        if (
            array.dtype.kind == "u"
            and array.dtype.itemsize == 8
            and array.size
            and array.max() > np.iinfo(np.int64).max
        ):
            raise DataError(
                f"{self.stream.where} holds {array.max()}", "integers below 2**63", "convert it to float64."
            )
        kind = np.int64 if self.dtype == torch.int64 else np.float64
        return torch.from_numpy(array.astype(kind, copy=False))

    def check_unchanged(self) -> None:
        """Whether the file is still the one that was checked.

        Raises:
            DataError: its size or the time of its last change is another.
        """
        try:
            now = self.stream.stamp()
        except OSError:
            now = ()
        if now != self.stamp:
            changed = [f"{one[0]} (it had {one[1]} bytes)" for one in self.stamp if one not in now]
            raise DataError(
                f"{self.stream.where} has changed since it was opened: {', '.join(changed[:3]) or 'more files'}",
                "a file that stays as it is while it is read",
                "wait until it is written, or copy it, and begin again.",
            )

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise KindError(
            f"{name!r} of a column that stays in its file, {self.stream.where}",
            "slices of it, or rows in memory",
            "take some rows with rows.subset(...), or read them all: rows.in_memory().",
        )


class Mask:
    """Where the entries of a column were observed, with the slices of a tensor."""

    def __init__(self, column: Column) -> None:
        self.column, self.shape, self.ndim = column, column.shape, column.ndim

    def __getitem__(self, where: Any) -> Tensor:
        return ~torch.isnan(self.column[where])

    def all(self) -> bool:
        """Whether nothing is missing."""
        return not self.column.missing
