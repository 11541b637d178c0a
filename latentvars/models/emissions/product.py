"""Independent emissions over consecutive columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from latentvars import distributions
from latentvars.errors import SettingError
from latentvars.models.columns import check_width
from latentvars.models.emissions.base import Emission, at, reads
from latentvars.models.priors import Priors


@final
@dataclass(frozen=True, init=False)
class Product:
    """p(x | k) = Π_i p_i(x[columns of part i] | k), as ``Product(Gaussian(2), Categorical(3))`` for three columns.

    The sites and axes of part i carry its number: ``loc_0``, ``covariance_0``, ``probs_1``; ``feature_0``.

    Args:
        parts: emissions, each with a known number of features.

    Raises:
        SettingError: no parts, or one whose number of features is open.
    """

    parts: tuple[Emission, ...]

    def __init__(self, *parts: Emission) -> None:
        if not parts or any(part.features is None for part in parts):
            raise SettingError(
                given=f"Product({', '.join(map(repr, parts))})",
                needed="parts that say how many columns each describes",
                remedy="give features=, as Product(Gaussian(1), Bernoulli(1))",
            )
        object.__setattr__(self, "parts", parts)

    @property
    def widths(self) -> list[int]:
        """Columns of each part."""
        return [part.features or 0 for part in self.parts]

    @property
    def features(self) -> int:
        return sum(self.widths)

    @property
    def blur(self) -> float:
        return max(part.blur for part in self.parts)

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns of inputs that the parts read."""
        return tuple(dict.fromkeys(name for part in self.parts for name in reads(part)))

    def at(self, columns: Mapping[str, Tensor]) -> Product:
        """The product of the parts at the inputs of these observations."""
        return Product(*(at(part, columns) for part in self.parts))

    def distribution(self, groups: int, width: int | None, priors: Priors) -> TorchDistribution:
        check_width(self.features, width)
        numbered = zip(self.parts, self.widths, strict=True)
        parts = [part.distribution(groups, size, priors.part(i)) for i, (part, size) in enumerate(numbered)]
        return distributions.Product(parts, self.widths)

    def sites(self, group: str) -> dict[str, tuple[str, ...]]:
        return {
            f"{site}_{i}": tuple(axis if axis == group else f"{axis}_{i}" for axis in axes)
            for i, part in enumerate(self.parts)
            for site, axes in part.sites(group).items()
        }

    def coords(self, features: tuple[str, ...]) -> dict[str, list[str]]:
        return {
            f"{axis}_{i}": labels
            for i, (part, names) in enumerate(zip(self.parts, self._names(features), strict=True))
            for axis, labels in part.coords(names).items()
        }

    def points(self, x: Tensor) -> Tensor:
        return torch.cat([part.points(block) for part, block in self._blocks(x)], -1)

    def start(self, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
        return {
            f"{site}_{i}": value
            for i, (part, block) in enumerate(self._blocks(x))
            for site, value in part.start(block, weights).items()
        }

    def check(self, x: Tensor, features: tuple[str, ...]) -> None:
        check_width(self.features, x.shape[-1])
        for (part, block), names in zip(self._blocks(x), self._names(features), strict=True):
            part.check(block, names)

    def check_estimable(self, x: Tensor, features: tuple[str, ...]) -> None:
        for (part, block), names in zip(self._blocks(x), self._names(features), strict=True):
            part.check_estimable(block, names)

    def _blocks(self, x: Tensor) -> list[tuple[Emission, Tensor]]:
        return list(zip(self.parts, x.split(self.widths, -1), strict=True))

    def _names(self, features: tuple[str, ...]) -> list[tuple[str, ...]]:
        ends = torch.tensor(self.widths).cumsum(0).tolist()
        return [features[end - size : end] for end, size in zip(ends, self.widths, strict=True)]
