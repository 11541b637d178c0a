"""Emissions of counts, categories and binary features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from pyro.distributions import Bernoulli as BernoulliLaw  # type: ignore[attr-defined]
from pyro.distributions import Categorical as CategoricalLaw
from pyro.distributions import Poisson as PoissonLaw
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from latentvars.models.columns import check_width
from latentvars.models.emissions.base import event_dims, group_means, positive, refuse, scalar_or_row
from latentvars.models.emissions.gaussian import standardised
from latentvars.models.priors import Priors


@final
@dataclass(frozen=True)
class Poisson:
    """p(x | k) = Π_d Poisson(x_d; rate_kd), site ``rate`` ``[K, D]``: expected counts per observation.

    Attributes:
        features: D.
    """

    features: int = 1

    def __post_init__(self) -> None:
        positive("features", self.features)

    @property
    def blur(self) -> float:
        return 0.02

    def distribution(self, groups: int, width: int | None, priors: Priors) -> TorchDistribution:
        size = check_width(self.features, width)
        rate = priors.sample("rate", (groups, size), constraints.positive)
        return PoissonLaw(scalar_or_row(rate, width)).to_event(event_dims(width))

    def sites(self, group: str) -> dict[str, tuple[str, ...]]:
        return {"rate": (group, "feature")}

    def coords(self, features: tuple[str, ...]) -> dict[str, list[str]]:
        return {"feature": list(features)}

    def points(self, x: Tensor) -> Tensor:
        """Square roots, whose variance does not depend on the rate (Anscombe 1948), standardised."""
        return standardised(x.sqrt())

    def start(self, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
        return {"rate": group_means(x, weights, (x.sum(0) + 0.5) / (len(x) + 0.5))}

    def check(self, x: Tensor, features: tuple[str, ...]) -> None:
        check_width(self.features, x.shape[-1])
        refuse((x < 0) | (x != x.round()), x, features, "counts: whole numbers >= 0", "correct or drop them")

    def check_estimable(self, x: Tensor, features: tuple[str, ...]) -> None:
        """Any counts will do."""


@final
@dataclass(frozen=True)
class Categorical:
    """p(x | k) = probs_kx for codes x = 0 … C−1, site ``probs`` ``[K, C]``. One column of data.

    Attributes:
        categories: C.
    """

    categories: int

    def __post_init__(self) -> None:
        positive("categories", self.categories)

    @property
    def features(self) -> int:
        return 1

    @property
    def blur(self) -> float:
        return 0.5  # codes have no distances: groups are a blend of categories and chance

    def distribution(self, groups: int, width: int | None, priors: Priors) -> TorchDistribution:
        check_width(self.features, width)
        return CategoricalLaw(probs=priors.sample("probs", (groups, self.categories), constraints.simplex))

    def sites(self, group: str) -> dict[str, tuple[str, ...]]:
        return {"probs": (group, "category")}

    def coords(self, features: tuple[str, ...]) -> dict[str, list[str]]:
        return {"category": [str(code) for code in range(self.categories)]}

    def points(self, x: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(x[:, 0].long(), self.categories).to(x.dtype)

    def start(self, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
        counts = self.points(x)
        return {"probs": group_means(counts, weights, (counts.sum(0) + 1) / (len(x) + self.categories))}

    def check(self, x: Tensor, features: tuple[str, ...]) -> None:
        check_width(self.features, x.shape[-1])
        if _are_codes(x, self.categories):
            return
        wrong = (x < 0) | (x >= self.categories) | (x != x.round())
        needed = f"codes 0 … {self.categories - 1} of {self.categories} categories"
        refuse(wrong, x, features, needed, "recode the data, or raise categories")

    def check_estimable(self, x: Tensor, features: tuple[str, ...]) -> None:
        """Any codes will do."""


@final
@dataclass(frozen=True)
class Bernoulli:
    """p(x | k) = Π_d probs_kd^x_d (1 − probs_kd)^(1−x_d) for x_d in {0, 1}, site ``probs`` ``[K, D]``.

    Attributes:
        features: D.
    """

    features: int = 1

    def __post_init__(self) -> None:
        positive("features", self.features)

    @property
    def blur(self) -> float:
        return 0.25

    def distribution(self, groups: int, width: int | None, priors: Priors) -> TorchDistribution:
        size = check_width(self.features, width)
        probs = priors.sample("probs", (groups, size), constraints.unit_interval)
        return BernoulliLaw(scalar_or_row(probs, width)).to_event(event_dims(width))

    def sites(self, group: str) -> dict[str, tuple[str, ...]]:
        return {"probs": (group, "feature")}

    def coords(self, features: tuple[str, ...]) -> dict[str, list[str]]:
        return {"feature": list(features)}

    def points(self, x: Tensor) -> Tensor:
        return x

    def start(self, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
        return {"probs": group_means(x, weights, (x.sum(0) + 0.5) / (len(x) + 1))}

    def check(self, x: Tensor, features: tuple[str, ...]) -> None:
        check_width(self.features, x.shape[-1])
        refuse((x != 0) & (x != 1), x, features, "0 or 1", "recode the data")

    def check_estimable(self, x: Tensor, features: tuple[str, ...]) -> None:
        """Any binary data will do."""


def _are_codes(x: Tensor, categories: int) -> bool:
    """Whether all numbers are codes: what a few passes tell of the usual case, without missing entries."""
    low, high = torch.aminmax(x) if x.numel() else (x.new_zeros(()), x.new_zeros(()))
    return bool(low >= 0) and bool(high < categories) and torch.equal(x, x.round())
