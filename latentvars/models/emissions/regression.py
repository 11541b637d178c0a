"""Emissions that are regressions on inputs: mixtures of regressions, switching regressions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, final

import torch
from pyro.distributions import Bernoulli as BernoulliLaw  # type: ignore[attr-defined]
from pyro.distributions import Normal, TorchDistribution
from pyro.distributions import Poisson as PoissonLaw
from torch import Tensor
from torch.distributions import constraints

from latentvars.errors import SettingError, ShapeError
from latentvars.models.columns import check_width
from latentvars.models.emissions.base import PSEUDO_ROWS, event_dims, positive, refuse
from latentvars.models.emissions.gaussian import check_varies, standardised
from latentvars.models.inputs import input_axis, least_squares
from latentvars.models.priors import Priors


@final
@dataclass(frozen=True)
class Regression:
    """p(x | k, u) = Π_d f(x_d; u · coefficients_kd): generalised linear models, one for each group.

    A mixture of them is a mixture of regressions (Quandt 1972; Wedel & DeSarbo 1995); a chain, a switching regression.
    Sites: ``coefficients`` ``[K, P, D]`` and those of the response. The intercept is whatever column of ones the inputs
    have, as ``lv.Design`` adds it.

    Attributes:
        response: ``"normal"`` (identity link, site ``scale`` ``[K, D]``, standard deviations), ``"poisson"`` (log
            link) or ``"bernoulli"`` (logit link).
        features: D; None takes it from the data.
        inputs: name of the column of inputs u, ``[…, P]``.

    Raises:
        SettingError: another response, or fewer than one feature.
    """

    response: str = "normal"
    features: int | None = None
    inputs: str = "inputs"

    def __post_init__(self) -> None:
        positive("features", self.features)
        if self.response not in RESPONSES:
            raise SettingError(f"response={self.response!r}", f"one of {', '.join(RESPONSES)}", "change response.")

    @property
    def blur(self) -> float:
        return 0.25

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns of inputs."""
        return (self.inputs,)

    def at(self, columns: Mapping[str, Tensor]) -> RegressionAt:
        """The emission at the inputs of these observations."""
        return RegressionAt(self, columns[self.inputs])

    def sites(self, group: str) -> dict[str, tuple[str, ...]]:
        return {"coefficients": (group, input_axis(self.inputs), "feature")} | RESPONSES[self.response].sites(group)

    def coords(self, features: tuple[str, ...]) -> dict[str, list[str]]:
        return {"feature": list(features)}

    def check(self, x: Tensor, features: tuple[str, ...]) -> None:
        check_width(self.features, x.shape[-1])
        RESPONSES[self.response].check(x, features)

    def check_estimable(self, x: Tensor, features: tuple[str, ...]) -> None:
        RESPONSES[self.response].check_estimable(x, features)

    def distribution(self, groups: int, width: int | None, priors: Priors) -> TorchDistribution:
        raise _without_inputs(self)

    def points(self, x: Tensor) -> Tensor:
        raise _without_inputs(self)

    def start(self, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
        raise _without_inputs(self)


@final
@dataclass(frozen=True, eq=False)
class RegressionAt:
    """A regression at the inputs ``[…, P]`` of some observations: batch shape ``[…, K]``."""

    regression: Regression
    inputs: Tensor

    @property
    def features(self) -> int | None:
        return self.regression.features

    @property
    def blur(self) -> float:
        return self.regression.blur

    def distribution(self, groups: int, width: int | None, priors: Priors) -> TorchDistribution:
        size = check_width(self.features, width)
        shape = (groups, self.inputs.shape[-1], size)
        coefficients = priors.sample("coefficients", shape, constraints.real)
        inputs = self.inputs.to(coefficients.dtype)
        law = RESPONSES[self.regression.response].law(inputs, coefficients, width, priors)
        return law.to_event(event_dims(width))

    def sites(self, group: str) -> dict[str, tuple[str, ...]]:
        return self.regression.sites(group)

    def coords(self, features: tuple[str, ...]) -> dict[str, list[str]]:
        return self.regression.coords(features)

    def points(self, x: Tensor) -> Tensor:
        """Residuals of one regression for all, beside the inputs, so that groups are pieces of lines."""
        inputs, y = self.inputs.to(x.dtype), RESPONSES[self.regression.response].linear(x)
        return torch.cat([standardised(y - inputs @ least_squares(inputs, y)), standardised(inputs)], -1)

    def start(self, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Weighted least squares on the scale of the predictor, drawn towards the regression for all."""
        response, inputs = RESPONSES[self.regression.response], self.inputs.to(x.dtype)
        y = response.linear(x)
        overall = least_squares(inputs, y)
        pull = PSEUDO_ROWS * inputs.shape[-1] * inputs.mT @ inputs / len(inputs)
        weighted = weights.mT[:, :, None] * inputs
        moments = weighted.mT @ y + pull @ overall
        coefficients = torch.linalg.lstsq(weighted.mT @ inputs + pull, moments, driver="gelsd").solution
        squares = torch.stack([w @ (y - inputs @ b).square() for w, b in zip(weights.mT, coefficients, strict=True)])
        spread = (y - inputs @ overall).square().mean(0)
        spread = torch.where(spread > 0, spread, 1.0)
        variance = (squares + PSEUDO_ROWS * spread) / (weights.sum(0) + PSEUDO_ROWS)[:, None]
        return {"coefficients": coefficients} | response.start(variance)

    def check(self, x: Tensor, features: tuple[str, ...]) -> None:
        self.regression.check(x, features)

    def check_estimable(self, x: Tensor, features: tuple[str, ...]) -> None:
        self.regression.check_estimable(x, features)


class Response(Protocol):
    """The law of a number given its linear predictor."""

    def law(self, inputs: Tensor, coefficients: Tensor, width: int | None, priors: Priors) -> TorchDistribution:
        """``[…, P]`` and ``[K, P, D]`` → a law of numbers, ``[…, K]`` or ``[…, K, D]``; declares further globals."""
        ...

    def sites(self, group: str) -> dict[str, tuple[str, ...]]: ...

    def linear(self, x: Tensor) -> Tensor:
        """Where observations lie on the scale of the predictor."""
        ...

    def start(self, variance: Tensor) -> dict[str, Tensor]:
        """Further globals from residual variances ``[K, D]`` on the scale of the predictor."""
        ...

    def check(self, x: Tensor, features: tuple[str, ...]) -> None: ...

    def check_estimable(self, x: Tensor, features: tuple[str, ...]) -> None: ...


@final
class NormalResponse:
    """N(x; η, scale²)."""

    def law(self, inputs: Tensor, coefficients: Tensor, width: int | None, priors: Priors) -> TorchDistribution:
        groups, _, size = coefficients.shape
        scale = priors.sample("scale", (groups, size), constraints.positive)
        return Normal(predictor(inputs, coefficients, width), scale[..., 0] if width is None else scale)

    def sites(self, group: str) -> dict[str, tuple[str, ...]]:
        return {"scale": (group, "feature")}

    def linear(self, x: Tensor) -> Tensor:
        return x

    def start(self, variance: Tensor) -> dict[str, Tensor]:
        return {"scale": variance.sqrt()}

    def check(self, x: Tensor, features: tuple[str, ...]) -> None:
        """Any numbers will do."""

    def check_estimable(self, x: Tensor, features: tuple[str, ...]) -> None:
        check_varies(x, features)


@final
class PoissonResponse:
    """Poisson(x; exp η)."""

    def law(self, inputs: Tensor, coefficients: Tensor, width: int | None, priors: Priors) -> TorchDistribution:
        return PoissonLaw(predictor(inputs, coefficients, width).exp())

    def sites(self, group: str) -> dict[str, tuple[str, ...]]:
        return {}

    def linear(self, x: Tensor) -> Tensor:
        return (x + 0.5).log()

    def start(self, variance: Tensor) -> dict[str, Tensor]:
        return {}

    def check(self, x: Tensor, features: tuple[str, ...]) -> None:
        refuse((x < 0) | (x != x.round()), x, features, "counts: whole numbers >= 0", "correct or drop them")

    def check_estimable(self, x: Tensor, features: tuple[str, ...]) -> None:
        """Any counts will do."""


@final
class BernoulliResponse:
    """Bernoulli(x; 1 / (1 + exp −η))."""

    def law(self, inputs: Tensor, coefficients: Tensor, width: int | None, priors: Priors) -> TorchDistribution:
        return BernoulliLaw(logits=predictor(inputs, coefficients, width))

    def sites(self, group: str) -> dict[str, tuple[str, ...]]:
        return {}

    def linear(self, x: Tensor) -> Tensor:
        return 2.0 * x - 1.0

    def start(self, variance: Tensor) -> dict[str, Tensor]:
        return {}

    def check(self, x: Tensor, features: tuple[str, ...]) -> None:
        refuse((x != 0) & (x != 1), x, features, "0 or 1", "recode the data")

    def check_estimable(self, x: Tensor, features: tuple[str, ...]) -> None:
        """Any binary data will do."""


RESPONSES: dict[str, Response] = {
    "normal": NormalResponse(),
    "poisson": PoissonResponse(),
    "bernoulli": BernoulliResponse(),
}


def predictor(inputs: Tensor, coefficients: Tensor, width: int | None) -> Tensor:
    """u · β, ``[…, K, D]``, or ``[…, K]`` where an observation is a plain number."""
    found = torch.einsum("...p,kpd->...kd", inputs, coefficients)
    return found[..., 0] if width is None else found


def _without_inputs(emission: Regression) -> ShapeError:
    return ShapeError(
        given=f"{emission} without inputs",
        needed="an emission at inputs, as its method at(columns) makes it",
        remedy="use it in models.Mixture or models.HiddenMarkov, with a column of inputs in the rows",
    )
