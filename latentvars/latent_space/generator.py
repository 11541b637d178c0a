"""The latent space of a frozen generator: any network z → x with a prior, such as that of a GAN."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any

import pyro.distributions as dist
import torch
from torch import Size, Tensor, nn

from latentvars.errors import KindError, ModelError, SettingError, ShapeError
from latentvars.inference.amortised.pushed import Place
from latentvars.latent_space.law import Law
from latentvars.latent_space.source import Source, Target
from latentvars.randomness import seeded
from latentvars.rows import Rows

Noise = Real | Tensor | Callable[[Tensor], Any] | None


@dataclass(frozen=True, eq=False)
class GeneratorSource(Source):
    """z ~ prior, x ~ noise(module(z)); the module is never trained.

    Attributes:
        module: ``[M, *shape]`` → ``[M, ...]``, a frozen copy in evaluation mode.
        prior: of one z.
        noise: the standard deviation of x, or module(z) → its law; None: x is module(z) itself.
        site: name of the latent.
        observed: name of x.
        dtype: of the module.
    """

    module: nn.Module = field(repr=False)
    prior: Any
    noise: Noise
    site: str
    observed: str
    dtype: torch.dtype
    discrete = False
    exact = False
    open = False

    @staticmethod
    def of(module: nn.Module, prior: Any, noise: Noise, site: str, observed: str) -> GeneratorSource:
        """A source of a copy of the module.

        Raises:
            KindError: something that is no module, or no prior.
            SettingError: noise that is not positive.
            ModelError: a module that does not take draws of the prior.
        """
        if not isinstance(module, nn.Module) or not isinstance(prior, torch.distributions.Distribution):
            raise KindError(
                given=f"a generator {type(module).__name__} with the prior {type(prior).__name__}",
                needed="an nn.Module from z to x, and a distribution of z",
                remedy="write lv.LatentSpace.of_generator(module, dist.Normal(zero, one).to_event(1), noise=0.1)",
            )
        if isinstance(noise, Real | Tensor) and not bool((torch.as_tensor(noise) > 0).all()):
            raise SettingError(f"noise={noise}", "positive standard deviations", "leave it out where x is module(z)")
        frozen = copy.deepcopy(module).eval().requires_grad_(False)
        dtype = next((p.dtype for p in frozen.parameters() if p.is_floating_point()), torch.get_default_dtype())
        whole = dist.Independent(prior, len(prior.batch_shape)) if prior.batch_shape else prior
        if getattr(whole.support, "is_discrete", False):
            raise KindError("a discrete prior of a generator", "a continuous one", "use a model with a discrete local")
        source = GeneratorSource(frozen, whole, noise, site, observed, dtype)
        try:
            source.laws(source.draw(2, 0), None, 0)
        except Exception as error:
            shape = "".join(f", {size}" for size in source.shape)
            said = f"{error.given}" if isinstance(error, ShapeError) else f"{type(error).__name__}: {error}"
            raise ModelError(
                given=f"{type(module).__name__} failed on two draws of the prior: {said}",
                needed=f"a module that takes z [M{shape}] and gives M values of x",
                remedy="correct the event shape of the prior",
            ) from error
        return source

    @property
    def shape(self) -> Size:  # type: ignore[override]
        return Size(self.prior.event_shape)

    @property
    def place(self) -> Place:
        """Where z stands among real numbers."""
        shape = self.shape or Size([1])
        free = Size(torch.distributions.biject_to(self.prior.support).inverse_shape(shape))
        return Place(self.site, self.shape, self.prior.support, free if self.shape else Size())

    def draw(self, size: int, seed: int) -> Tensor:
        with torch.no_grad(), seeded(seed):
            return self.prior.sample(Size([size])).to(self.dtype)

    def laws(self, z: Tensor, given: Any = None, seed: int = 0) -> dict[str, Law]:
        return {self.observed: Law(self.law(z))}

    def law(self, z: Tensor) -> Any:
        """p(x | z), batch shape ``[M]``."""
        output = self.module(z)
        if len(output) != len(z):
            raise ShapeError(f"{len(output)} outputs for {len(z)} points", "one for each", "keep the first axis")
        if self.noise is None:
            return dist.Delta(output).to_event(output.dim() - 1)
        found = self.noise(output) if callable(self.noise) else dist.Normal(output, torch.as_tensor(self.noise))
        return dist.Independent(found, len(found.batch_shape) - 1) if len(found.batch_shape) > 1 else found

    def free(self, z: Tensor) -> Tensor:
        return self.place.free(z)

    def value(self, free: Tensor) -> Tensor:
        return self.place.mapped(free)[0]

    def target(self, data: Any) -> Target:
        """What the posterior of z of rows is proportional to.

        Raises:
            KindError: a generator without noise, under which no z but an exact one is possible.
            ShapeError: rows that are not what the module gives.
        """
        if self.noise is None or data is None:
            raise KindError(
                given="the posterior of z " + ("of no rows" if data is None else "of a generator without noise"),
                needed="rows, and a law of x around what the generator gives",
                remedy="write space.invert(x) of lv.LatentSpace.of_generator(..., noise=0.1)",
            )
        rows = Rows.of(data)
        x = rows.columns[self.observed] if self.observed in rows.columns else next(iter(rows.columns.values()))
        law = self.law(self.draw(1, 0))
        if x.shape[1:] != law.event_shape or bool(x.isnan().any()):
            raise ShapeError(
                given=f"rows of shape {list(x.shape[1:])}" + (" with gaps" if bool(x.isnan().any()) else ""),
                needed=f"complete rows of shape {list(law.event_shape)}, as the generator gives",
                remedy="pass x as the generator gives it",
            )
        return GeneratorTarget(self, x.to(self.dtype), tuple(rows.names))


@dataclass(frozen=True, eq=False)
class GeneratorTarget(Target):
    """log p(x | z) + log p(z) of rows x ``[N, ...]``."""

    source: GeneratorSource
    x: Tensor = field(repr=False)
    names: tuple = field(repr=False)

    @property
    def rows(self) -> int:  # type: ignore[override]
        return len(self.x)

    @property
    def size(self) -> int:  # type: ignore[override]
        return self.source.place.size

    def log_density(self, free: Tensor) -> Tensor:
        size = len(free)
        z, jacobian = self.source.place.mapped(free.flatten(0, 1).to(self.source.dtype))
        score = self.source.law(z).log_prob(self.x.repeat(size, *(1,) * (self.x.dim() - 1)))
        return (score + self.source.prior.log_prob(z) + jacobian).reshape(size, self.rows).to(free.dtype)

    def picked(self, index: Tensor) -> GeneratorTarget:
        return replace(self, x=self.x[index], names=())

    def starts(self, size: int, seed: int) -> Tensor:
        z = self.source.draw(size * self.rows, seed)
        return self.source.free(z).reshape(size, self.rows, self.size)

    def values(self, free: Tensor) -> Tensor:
        found = self.source.value(free.flatten(0, 1))
        return found.reshape(*free.shape[:2], *self.source.shape)
