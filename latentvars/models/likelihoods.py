"""What a decoder's output means: p(x | decoder(z)), one class a kind of data."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, final

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from latentvars.distributions.bernoulli_rows import bernoulli_rows
from latentvars.errors import DataError, SettingError
from latentvars.models.networks import OneHot, Standardize, moments


class Likelihood(nn.Module, ABC):
    """p(x | output) of a row with D features, independent given the output.

    The constant ``offset`` is added to a decoder's output, so that a decoder that starts near zero starts near the
    mean of the data; it is zero until :meth:`start` and never trained.

    Attributes:
        features: D.
        offset: ``[outputs]``.
        started: scalar bool, whether the constants were taken from data.
    """

    offset: Tensor
    started: Tensor

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        if features < 1:
            raise SettingError(f"features={features}", "at least one feature", "pass the number of columns of x.")
        self.features = features
        self.register_buffer("offset", torch.zeros(outputs))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    @property
    def outputs(self) -> int:
        """Width of the decoder's output."""
        return self.offset.shape[0]

    @abstractmethod
    def distribution(self, output: Tensor) -> dist.TorchDistribution:
        """p(x | output): ``[..., outputs]`` → batch shape ``[...]``, event shape ``[features]``."""

    @abstractmethod
    def mean(self, output: Tensor) -> Tensor:
        """E[x | output], ``[..., outputs]`` → ``[..., features]``."""

    def typical(self) -> Tensor:
        """The mean of the data that the model was started from, ``[features]``: what an encoder reads for NaN."""
        return self.mean(torch.zeros_like(self.offset))

    @abstractmethod
    def check(self, x: Tensor) -> None:
        """Raise DataError where data ``[N, D]`` lie outside the support."""

    @abstractmethod
    def start(self, x: Tensor, weights: Tensor) -> None:
        """Take the offset (and the noise, where there is any) in place from data ``[N, D]``, weights ``[N]``."""

    @abstractmethod
    def reader(self) -> nn.Module:
        """The layer before an encoder that puts such data on a network's scale."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """What :func:`likelihood_from` makes an equal likelihood from, as JSON values; weights and buffers apart."""


@final
class Bernoulli(Likelihood):
    """p(x | o) = Π_d s_d^x_d (1 − s_d)^(1 − x_d), s = sigmoid(offset + o), the output being logits.

    Data in [0, 1]. Values strictly between (as grey levels) are allowed; then this is the cross-entropy, a
    *pseudo*-likelihood that does not integrate to one, so its values compare fits to the same data only.
    """

    def __init__(self, features: int) -> None:
        super().__init__(features, features)

    def distribution(self, output: Tensor) -> dist.TorchDistribution:
        return bernoulli_rows(self.offset + output)

    def mean(self, output: Tensor) -> Tensor:
        """Probabilities of ones."""
        return torch.sigmoid(self.offset + output)

    def check(self, x: Tensor) -> None:
        _require(x, (x >= 0) & (x <= 1), "Bernoulli", "values in [0, 1]", "scale the data, or use Gaussian.")

    @torch.no_grad()
    def start(self, x: Tensor, weights: Tensor) -> None:
        ones, total = weights @ x, weights.sum()
        self.offset.copy_(torch.logit((ones + 0.5) / (total + 1)))

    def reader(self) -> nn.Module:
        return Standardize(self.features)

    def config(self) -> dict[str, Any]:
        return {"name": "bernoulli", "features": self.features}


@final
class Gaussian(Likelihood):
    """p(x | o) = Π_d Normal(x_d; offset_d + unit_d o_d, noise_d²), the noise learned.

    With a linear decoder and shared noise this is probabilistic PCA (Tipping & Bishop 1999, eq. 4), with noise of
    each feature factor analysis. ``unit`` is a constant that brings the output to the scale of the data: one number
    where the noise is shared, one a feature otherwise.

    Args:
        features: D.
        noise: one noise for all features ("shared") or one each ("feature").
        scale: the noise to start from, in units of the data; None: the standard deviation of the data.
    """

    unit: Tensor

    def __init__(
        self, features: int, noise: Literal["shared", "feature"] = "shared", scale: float | None = None
    ) -> None:
        super().__init__(features, features)
        if noise not in ("shared", "feature"):
            raise SettingError(f"noise={noise!r}", "'shared' or 'feature'", "choose one.")
        if scale is not None and not 0 < scale < math.inf:
            raise SettingError(f"scale={scale}", "a positive standard deviation", "correct it, or leave it out.")
        self.noise, self.scale = noise, scale
        size = features if noise == "feature" else 1
        self.register_buffer("unit", torch.ones(size))
        self.log_noise = nn.Parameter(torch.full((size,), math.log(scale or 1.0)))

    @property
    def noise_scale(self) -> Tensor:
        """Standard deviation of the noise in units of the data, ``[1]`` if shared, otherwise ``[features]``."""
        return self.unit * self.log_noise.exp()

    def distribution(self, output: Tensor) -> dist.TorchDistribution:
        return dist.Normal(self.mean(output), self.noise_scale).to_event(1)

    def mean(self, output: Tensor) -> Tensor:
        return self.offset + self.unit * output

    def check(self, x: Tensor) -> None:
        _require(x, torch.isfinite(x), "Gaussian", "finite numbers", "replace them, or drop these rows.")

    @torch.no_grad()
    def start(self, x: Tensor, weights: Tensor) -> None:
        """Raises DataError where a noise would be estimated from constant data, whose likelihood is unbounded."""
        loc, variance = moments(x, weights)
        variance = variance if self.noise == "feature" else variance.mean(-1, keepdim=True)
        constant = (variance <= 1e-20 * (loc**2).mean()).nonzero().squeeze(-1).tolist()
        if constant:
            raise DataError(
                f"{f'features {constant[:5]} are' if self.noise == 'feature' else 'all features are'} constant",
                "variation wherever a noise variance is estimated",
                "drop these columns, or share the noise: Gaussian(features, noise='shared').",
            )
        self.offset.copy_(loc)
        self.unit.copy_(variance.sqrt())
        self.log_noise.copy_(
            torch.zeros_like(self.unit) if self.scale is None else math.log(self.scale) - self.unit.log()
        )

    def reader(self) -> nn.Module:
        return Standardize(self.features, per_feature=self.noise == "feature")

    def config(self) -> dict[str, Any]:
        return {"name": "gaussian", "features": self.features, "noise": self.noise, "scale": self.scale}


@final
class Categorical(Likelihood):
    """p(x | o) = Π_d softmax(offset_d + o_d)[x_d], x_d in 0 .. K−1; the output is ``[..., D K]``, feature by feature.

    Args:
        features: D.
        categories: K, the same for all features.
    """

    def __init__(self, features: int, categories: int) -> None:
        if categories < 2:
            raise SettingError(f"categories={categories}", "at least two", "correct it.")
        super().__init__(features, features * categories)
        self.categories = categories

    def distribution(self, output: Tensor) -> dist.TorchDistribution:
        return dist.Categorical(logits=self._logits(output)).to_event(1)

    def probabilities(self, output: Tensor) -> Tensor:
        """``[..., features, categories]``."""
        return self._logits(output).softmax(-1)

    def mean(self, output: Tensor) -> Tensor:
        """E[x | output], the mean *code*: of use for ordered categories only; see :meth:`probabilities`."""
        return self.probabilities(output) @ torch.arange(self.categories, dtype=output.dtype, device=output.device)

    def check(self, x: Tensor) -> None:
        valid = (x >= 0) & (x < self.categories) & (x == x.floor())
        _require(x, valid, "Categorical", f"whole numbers from 0 to {self.categories - 1}", "recode the data.")

    @torch.no_grad()
    def start(self, x: Tensor, weights: Tensor) -> None:
        counts = torch.einsum("n,ndk->dk", weights, one_hot(x.long(), self.categories).to(weights))
        share = (counts + 1 / self.categories) / (weights.sum() + 1)
        self.offset.copy_(share.log().flatten())

    def reader(self) -> nn.Module:
        return OneHot(self.categories)

    def config(self) -> dict[str, Any]:
        return {"name": "categorical", "features": self.features, "categories": self.categories}

    def _logits(self, output: Tensor) -> Tensor:
        return (self.offset + output).unflatten(-1, (self.features, self.categories))


@final
class Poisson(Likelihood):
    """p(x | o) = Π_d Poisson(x_d; exp(offset_d + o_d)), the output being logarithms of rates."""

    def __init__(self, features: int) -> None:
        super().__init__(features, features)

    def distribution(self, output: Tensor) -> dist.TorchDistribution:
        return dist.Poisson(self.mean(output)).to_event(1)

    def mean(self, output: Tensor) -> Tensor:
        """Rates."""
        return (self.offset + output).exp()

    def check(self, x: Tensor) -> None:
        _require(x, (x >= 0) & (x == x.floor()), "Poisson", "counts: whole numbers >= 0", "use Gaussian for these.")

    @torch.no_grad()
    def start(self, x: Tensor, weights: Tensor) -> None:
        self.offset.copy_(((weights @ x + 0.5) / (weights.sum() + 1)).log())

    def reader(self) -> nn.Module:
        return Standardize(self.features, logarithm=True)

    def config(self) -> dict[str, Any]:
        return {"name": "poisson", "features": self.features}


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "gaussian": Gaussian,
    "categorical": Categorical,
    "poisson": Poisson,
}


def likelihood_from(config: Mapping[str, Any]) -> Likelihood:
    """The likelihood that :meth:`Likelihood.config` describes; ``{"name": ..., "features": D, ...}``.

    Raises:
        SettingError: an unknown name, or settings that this kind of likelihood does not have.
    """
    settings = dict(config)
    name = settings.pop("name", None)
    if name not in LIKELIHOODS:
        raise SettingError(f"likelihood {name!r}", f"one of {', '.join(LIKELIHOODS)}", "choose one, or pass an object.")
    try:
        return LIKELIHOODS[name](**settings)
    except TypeError as error:
        raise SettingError(
            f"likelihood {name!r} with {settings}: {error}",
            "all that this likelihood needs and nothing else",
            "pass an object, as Categorical(features, categories=...).",
        ) from error


def _require(x: Tensor, valid: Tensor, likelihood: str, needed: str, remedy: str) -> None:
    """Raise DataError that names the first entries that are not valid; missing ones (NaN) are."""
    valid = valid | x.isnan()
    if bool(valid.all()):
        return
    wrong, known = (~valid).nonzero(), x[~x.isnan()]
    row, feature = wrong[0].tolist()
    raise DataError(
        f"{len(wrong)} entries outside the support of {likelihood}, the first {float(x[row, feature]):g} "
        f"in row {row}, feature {feature} (range of the data: {float(known.min()):g} to {float(known.max()):g})",
        needed,
        remedy,
    )
