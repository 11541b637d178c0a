"""Variational distributions over the globals, as modules over one flat unconstrained vector."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from latentvars.errors import ModelError, SettingError, SupportError
from latentvars.program import GlobalSpace
from latentvars.program.scope import surroundings

LOG_TWO_PI = math.log(2 * math.pi)


class GlobalDraw(NamedTuple):
    """One draw of the globals.

    Attributes:
        values: constrained.
        log_q: log density of the constrained values, nats; zero for a point mass.
    """

    values: dict[str, Tensor]
    log_q: Tensor


class GlobalGuide(nn.Module, ABC):
    """q(globals), reparameterised."""

    @abstractmethod
    def draw(self) -> GlobalDraw:
        """One draw from torch's current generator."""

    @abstractmethod
    def point(self) -> dict[str, Tensor]:
        """The median of q, constrained."""


class FromNoise(GlobalGuide, ABC):
    """A guide that is a differentiable function of its parameters and of standard normal noise alone.

    It can be mapped over many sets of parameters with ``torch.func``.

    Attributes:
        noise: shapes of the noise of one draw, in the order in which it is drawn.
    """

    noise: tuple[tuple[int, ...], ...]

    @abstractmethod
    def forward(self, *noise: Tensor) -> GlobalDraw:
        """The draw that this noise makes."""

    def draw(self) -> GlobalDraw:
        return self(*self.drawn_noise())

    def drawn_noise(self, generator: torch.Generator | None = None) -> list[Tensor]:
        """Noise from a generator, torch's current one by default."""
        dtype = next(self.parameters()).dtype
        return [torch.randn(shape, dtype=dtype, generator=generator) for shape in self.noise]


class Guide(Protocol):
    """Hyper-parameters of a guide for the globals."""

    def build(self, space: GlobalSpace, start: Mapping[str, Tensor], dtype: torch.dtype) -> GlobalGuide: ...


@dataclass(frozen=True)
class MeanField:
    """Independent normals on the unconstrained scale (Kucukelbir et al. 2017).

    Attributes:
        scale: initial standard deviation.
    """

    scale: float = 0.1

    def __post_init__(self) -> None:
        check_scale(self.scale)

    def build(self, space: GlobalSpace, start: Mapping[str, Tensor], dtype: torch.dtype) -> GlobalGuide:
        return NormalGuide(space, start, dtype, diagonal=self.scale, rank=0)


@dataclass(frozen=True)
class LowRank:
    """A normal whose covariance is diagonal plus ``rank`` outer products, on the unconstrained scale."""

    rank: int = 5
    scale: float = 0.1

    def __post_init__(self) -> None:
        check_scale(self.scale)
        if self.rank < 1:
            raise SettingError(f"rank={self.rank}", "a rank of at least 1", "use MeanField() for a diagonal covariance")

    def build(self, space: GlobalSpace, start: Mapping[str, Tensor], dtype: torch.dtype) -> GlobalGuide:
        return NormalGuide(space, start, dtype, diagonal=self.scale, rank=min(self.rank, space.size))


@dataclass(frozen=True)
class FullRank:
    """A multivariate normal on the unconstrained scale (Kucukelbir et al. 2017, section 2.4)."""

    scale: float = 0.1

    def __post_init__(self) -> None:
        check_scale(self.scale)

    def build(self, space: GlobalSpace, start: Mapping[str, Tensor], dtype: torch.dtype) -> GlobalGuide:
        return TriangularGuide(space, start, dtype, diagonal=self.scale)


@dataclass(frozen=True)
class Delta:
    """A point: SVI then finds the posterior mode in the constrained parametrisation, as EM does."""

    def build(self, space: GlobalSpace, start: Mapping[str, Tensor], dtype: torch.dtype) -> GlobalGuide:
        return PointGuide(space, start, dtype)


@dataclass(frozen=True)
class Custom:
    """A user's own Pyro guide for the globals.

    Attributes:
        guide: a function, or an ``nn.Module`` whose parameters are trained; samples every global by its name
            (constrained values) with reparameterised distributions.
    """

    guide: Callable[[], Any]

    def build(self, space: GlobalSpace, start: Mapping[str, Tensor], dtype: torch.dtype) -> GlobalGuide:
        restricted = [site.name for site in space.sites if site.restriction is not None]
        if restricted:
            raise SupportError(
                given=f"a guide of your own with entries of {', '.join(restricted)} fixed or tied",
                needed="lv.MeanField(), lv.LowRank(), lv.FullRank() or lv.Delta(), which leave them out",
                remedy="choose one of these, or write what is fixed into the model",
            )
        return PyroGuide(space, dtype, self.guide)


def check_scale(scale: float) -> None:
    if not scale > 0:
        raise SettingError(f"scale={scale}", "a positive initial standard deviation", "write scale=0.1")


class NormalGuide(FromNoise):
    """loc + exp(log_scale) · ε (+ factor · η): mean field, or low rank plus diagonal."""

    def __init__(
        self, space: GlobalSpace, start: Mapping[str, Tensor], dtype: torch.dtype, *, diagonal: float, rank: int
    ) -> None:
        super().__init__()
        self.space, self.rank = space, rank
        loc = space.unconstrain(start).to(dtype)
        self.loc = nn.Parameter(loc.clone())
        self.log_scale = nn.Parameter(torch.full_like(loc, math.log(diagonal)))
        size = loc.shape[0]
        spread = torch.linspace(-1, 1, size * rank, dtype=dtype).sin() if rank else torch.zeros(0, dtype=dtype)
        self.factor = nn.Parameter(0.1 * diagonal * spread.reshape(size, rank))
        self.noise = ((rank,), (size,)) if rank else ((size,),)

    def forward(self, *noise: Tensor) -> GlobalDraw:
        scale = self.log_scale.exp()
        free = self.loc + scale * noise[-1]
        if self.rank:
            free = free + self.factor @ noise[0]
            q: Any = torch.distributions.LowRankMultivariateNormal(
                self.loc, self.factor, scale.square(), validate_args=False
            )
            log_q = q.log_prob(free)
        else:
            log_q = torch.distributions.Normal(self.loc, scale, validate_args=False).log_prob(free).sum()
        values, log_jacobian = self.space.constrain(free)
        return GlobalDraw(values, log_q - log_jacobian)

    def point(self) -> dict[str, Tensor]:
        return self.space.constrain(self.loc.detach())[0]


class TriangularGuide(FromNoise):
    """loc + L ε with a lower-triangular L."""

    def __init__(self, space: GlobalSpace, start: Mapping[str, Tensor], dtype: torch.dtype, *, diagonal: float) -> None:
        super().__init__()
        self.space = space
        loc = space.unconstrain(start).to(dtype)
        self.loc = nn.Parameter(loc.clone())
        self.log_scale = nn.Parameter(torch.full_like(loc, math.log(diagonal)))
        self.below = nn.Parameter(torch.zeros(loc.shape[0], loc.shape[0], dtype=dtype))
        self.noise = (tuple(loc.shape),)

    def forward(self, *noise: Tensor) -> GlobalDraw:
        factor = torch.diag_embed(self.log_scale.exp()) + self.below.tril(-1)
        values, log_jacobian = self.space.constrain(self.loc + factor @ noise[0])
        log_q = -0.5 * (noise[0].square() + LOG_TWO_PI).sum() - self.log_scale.sum()
        return GlobalDraw(values, log_q - log_jacobian)

    def point(self) -> dict[str, Tensor]:
        return self.space.constrain(self.loc.detach())[0]


class PointGuide(FromNoise):
    """A point mass."""

    noise = ()

    def __init__(self, space: GlobalSpace, start: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        super().__init__()
        self.space = space
        self.loc = nn.Parameter(space.unconstrain(start).to(dtype).clone())

    def forward(self, *noise: Tensor) -> GlobalDraw:
        return GlobalDraw(self.space.constrain(self.loc)[0], self.loc.new_zeros(()))

    def point(self) -> dict[str, Tensor]:
        return self.space.constrain(self.loc.detach())[0]


class PyroGuide(GlobalGuide):
    """A user's Pyro guide for the globals: a private copy, so that training leaves the user's object alone."""

    def __init__(self, space: GlobalSpace, dtype: torch.dtype, guide: Callable[[], Any]) -> None:
        super().__init__()
        self.space, self.dtype, self.guide = space, dtype, copy.deepcopy(guide)
        self.owner = getattr(self.guide, "__self__", None)  # of a method: the module whose parameters are trained
        self._check()

    def _trace(self) -> Any:
        with pyro.get_param_store().scope(), surroundings(self.dtype):
            return poutine.trace(self.guide).get_trace()

    def _check(self) -> None:
        with torch.random.fork_rng(devices=[]):
            trace = self._trace()
        sites = {name: site for name, site in trace.nodes.items() if is_draw(site)}
        if set(sites) != set(self.space.names):
            raise ModelError(
                given=f"the guide for the globals samples {sorted(sites)}",
                needed=f"exactly the globals {sorted(self.space.names)}",
                remedy="sample each global once, under its name in the model",
            )
        for name, site in sites.items():
            self._check_site(name, site)
        hidden = [name for name, site in trace.nodes.items() if site["type"] == "param"]
        if hidden or not any(parameter.requires_grad for parameter in self.parameters()):
            raise ModelError(
                given=f"a guide for the globals with the pyro.param {hidden[0]!r}"
                if hidden
                else "a guide for the globals without an nn.Parameter",
                needed="parameters that can be trained: those of an nn.Module",
                remedy="write the guide as an nn.Module (or a method of one) whose parameters are nn.Parameter",
            )

    def _check_site(self, name: str, site: Any) -> None:
        support, value = self.space[name].support, site["value"]
        if value.shape != self.space[name].shape or not site["fn"].has_rsample:
            raise ModelError(
                given=f"the guide draws {name!r} of shape {list(value.shape)} from {type(site['fn']).__name__}",
                needed=f"a reparameterised distribution over shape {list(self.space[name].shape)}",
                remedy="use .to_event() and a distribution with rsample",
            )
        if not bool(support.check(value.detach()).all()):
            raise ModelError(
                given=f"the guide draws {name!r} outside its support: {value.flatten()[:5].tolist()}",
                needed=f"values inside {support}",
                remedy="choose a distribution with that support, as LogNormal for a positive number",
            )

    def draw(self) -> GlobalDraw:
        sites = self._trace().nodes
        log_q = torch.stack([sites[name]["fn"].log_prob(sites[name]["value"]).sum() for name in self.space.names]).sum()
        return GlobalDraw({name: sites[name]["value"].to(self.dtype) for name in self.space.names}, log_q)

    def point(self) -> dict[str, Tensor]:
        """The image of the mean of draws on the unconstrained scale (a user's guide has no known median)."""
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            free = torch.stack([self.space.unconstrain(self.draw().values) for _ in range(1_000)])
        return self.space.constrain(free.mean(0))[0]


def is_draw(site: Any) -> bool:
    """Whether a traced site is a draw, not the book-keeping of a plate."""
    return site["type"] == "sample" and type(site["fn"]).__name__ != "_Subsample"
