"""Checks of batch shapes that the collapsed distributions share."""

from __future__ import annotations

import torch

from latentvars.errors import ShapeError


def join_batch_shapes(what: str, shapes: dict[str, tuple[int, ...]]) -> torch.Size:
    """The common batch shape of the named parts of a distribution.

    Raises:
        ShapeError: the shapes do not broadcast.
    """
    try:
        return torch.Size(torch.broadcast_shapes(*shapes.values()))
    except RuntimeError:
        listing = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise ShapeError(
            given=f"{what} with batch shapes {listing}",
            needed="batch shapes that broadcast against one another",
            remedy="align the leading dimensions (unsqueeze where a part is shared)",
        ) from None


def check_count(what: str, count: int, expected: int, remedy: str) -> None:
    """Raise a ShapeError unless ``count == expected``."""
    if count != expected:
        raise ShapeError(given=f"{what} of size {count}", needed=f"size {expected}", remedy=remedy)


def check_expand(what: str, batch_shape: torch.Size, target: torch.Size) -> None:
    """Raise a ShapeError unless ``batch_shape`` expands to ``target``."""
    tail = target[len(target) - len(batch_shape) :]
    fits = len(batch_shape) <= len(target) and all(old in (1, new) for old, new in zip(batch_shape, tail, strict=True))
    if not fits:
        raise ShapeError(
            given=f"{what} of batch shape {list(batch_shape)} to expand to {list(target)}",
            needed="a target that the batch shape broadcasts to",
            remedy="give parameters that are shared by the plate, or one per element of it",
        )
