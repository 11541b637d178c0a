"""What a run knows of the globals at its end."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from latentvars.inference.guides.guides import GlobalGuide
from latentvars.randomness import seeded


@dataclass(frozen=True)
class PointMass:
    """One value for each global: the maximum-likelihood estimate or posterior mode."""

    point: dict[str, Tensor]

    def draws(self, size: int, seed: int) -> tuple[dict[str, Tensor], None]:
        """The point, ``size`` times."""
        return {name: value.expand((size, *value.shape)) for name, value in self.point.items()}, None

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.point)


@dataclass(frozen=True)
class Variational:
    """A guide over the globals."""

    guide: GlobalGuide

    @property
    def point(self) -> dict[str, Tensor]:
        """The median of the guide, constrained; worked out once, since a user's guide takes many draws for it."""
        return self._point

    @cached_property
    def _point(self) -> dict[str, Tensor]:
        return self.guide.point()

    def draws(self, size: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
        """Draws ``[size, *shape]`` and their log density under the guide ``[size]``, nats."""
        with torch.no_grad(), seeded(seed):
            drawn = [self.guide.draw() for _ in range(size)]
        values = {name: torch.stack([d.values[name] for d in drawn]) for name in drawn[0].values}
        return values, torch.stack([d.log_q for d in drawn])

    def tensors(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.guide.state_dict().items()}
