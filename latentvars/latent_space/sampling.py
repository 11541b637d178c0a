"""Draws, within a region or anywhere."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from latentvars.errors import KindError, SettingError, ShapeError
from latentvars.randomness import derive

LEAST = 100  # draws in each batch


def check_draws(draws: int) -> None:
    """SettingError of fewer than one draw."""
    if not isinstance(draws, int) or draws < 1:
        raise SettingError(f"draws={draws}", "at least one draw", "write draws=100")


def within(
    draw: Callable[[int, int], Tensor],
    draws: int,
    region: Callable[[Tensor], Tensor] | None,
    seed: int,
    tries: int = 1_000,
) -> Tensor:
    """Draws in a region by rejection.

    Raises:
        KindError: a region that is no function.
        ShapeError: a region that does not say yes or no of each value.
        SettingError: a region that has hardly any mass.
    """
    if region is None:
        return draw(draws, derive(seed, 53))
    if not callable(region):
        raise KindError(f"region={region!r}", "a function of draws", "write region=lambda z: z[:, 0] > 1")
    kept: list[Tensor] = []
    for number in range(tries):
        some = draw(max(draws, LEAST), derive(seed, 53, number))
        inside = torch.as_tensor(region(some))
        if inside.shape != some.shape[:1] or inside.dtype != torch.bool:
            raise ShapeError(
                given=f"a region that gives {inside.dtype} {list(inside.shape)}",
                needed=f"bool [{len(some)}]",
                remedy="say of each value whether it is inside, as lambda z: z[:, 0] > 1",
            )
        kept.append(some[inside])
        if sum(map(len, kept)) >= draws:
            return torch.cat(kept)[:draws]
    raise SettingError(
        given=f"a region with {sum(map(len, kept))} of {tries * max(draws, LEAST)} draws",
        needed=f"{draws} draws in it",
        remedy="widen the region, or raise tries",
    )
