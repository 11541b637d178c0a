"""One traced run of a model or guide, in our own terms: sites, plates and how to contract them to one number a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyro
import torch
from pyro.distributions import TorchDistribution
from pyro.ops.packed import pack
from torch import Tensor

from latentvars.contract import Factor
from latentvars.program.elimination import Term, eliminate, marginal
from latentvars.program.labels import Labelled, where_possible
from latentvars.rows import ROWS_PLATE


@dataclass(frozen=True)
class Site:
    """A sample site.

    Attributes:
        name: its name.
        fn: its distribution, expanded to its plates.
        value: drawn, observed, set or enumerated.
        observed: whether data (or set globals) stand there.
        local: whether it stands inside the rows plate.
        scale: factor that Pyro would put on its density.
        mask: where its density counts; None everywhere.
        plates: symbol of each plate it stands in.
        symbols: negative dimension → symbol of the plate or latent there.
        latent: its own symbol where it is enumerated.
        auxiliary: whether a guide drew it for its own use.
        frames: negative dimension → name of the plate there.
        label: its value where that is known, −1 elsewhere; None where nothing is.
    """

    name: str
    fn: TorchDistribution
    value: Tensor
    observed: bool
    local: bool
    scale: float
    mask: Tensor | None
    plates: frozenset[str]
    symbols: Mapping[int, str]
    latent: str | None
    auxiliary: bool
    frames: Mapping[int, str]
    label: Tensor | None = None

    def log_prob(self) -> Tensor:
        """Unscaled, masked log density, over plates and enumerated dimensions, nats."""
        score = self.fn.log_prob(self.value)
        return self.masked(score if self.label is None else where_possible(score, self.value, self.label))

    def masked(self, value: Tensor) -> Tensor:
        """A log density, or the posterior weight of one, with zeros where the site does not count."""
        return value if self.mask is None else torch.where(self.mask, value, torch.zeros_like(value))

    def term(self, log_prob: Tensor) -> Term:
        """A log-factor of this site with named axes."""
        packed: Any = pack(log_prob + torch.zeros_like(log_prob), dict(self.symbols))
        return Term(packed, packed._pyro_dims, self.plates)


@dataclass(frozen=True)
class Run:
    """A traced run.

    Attributes:
        sites: by name, in the order in which they were met.
        sizes: symbol of each plate → number of elements.
        rows: symbol of the rows plate; empty where the run never entered it.
        nesting: number of plate dimensions.
        parameters: names of ``pyro.param`` statements.
        trace: Pyro's own record, to replay.
    """

    sites: Mapping[str, Site]
    sizes: Mapping[str, int]
    rows: str
    nesting: int
    parameters: tuple[str, ...]
    trace: Any

    @cached_property
    def local(self) -> dict[str, Site]:
        """The sites inside the rows plate."""
        return {name: site for name, site in self.sites.items() if site.local}

    def factors(self, dtype: torch.dtype) -> dict[str, Factor]:
        """The complete-data factors of the local sites with unit weights."""
        one = torch.ones((), dtype=dtype)
        return {name: Factor(site.fn, site.value, one) for name, site in self.local.items()}

    def log_probs(self) -> dict[str, Tensor]:
        """Log densities of the local sites."""
        with pyro.validation_enabled(False):  # checked once, on the sketch
            return {name: site.log_prob() for name, site in self.local.items()}

    def contract(self, log_probs: Mapping[str, Tensor]) -> Tensor:
        """Log-factors of local sites → one number a row, enumerated latents summed out, ``[batch]``, nats."""
        terms = [self.sites[name].term(value) for name, value in log_probs.items()]
        latents = {site.latent: site.plates for site in self.local.values() if site.latent}
        return eliminate(terms, latents, dict(self.sizes), self.rows)

    def outside(self, dtype: torch.dtype) -> Tensor:
        """Log density of everything outside the rows plate, scalar, nats."""
        with pyro.validation_enabled(False):
            parts = [site.log_prob().sum() for site in self.sites.values() if not site.local]
        return torch.stack(parts).sum() if parts else torch.zeros((), dtype=dtype)

    def marginal(self, name: str, weight: Tensor) -> Tensor:
        """Posterior weights of an enumerated site summed to ``[rows, other plates ..., categories]``."""
        site = self.sites[name]
        assert site.latent is not None
        plates = [self.rows, *sorted(site.plates - {self.rows})]
        kept = marginal(site.term(weight), [*plates, site.latent])
        return kept.reshape([self.sizes[plate] for plate in plates] + [-1])


def read(trace: Any) -> Run:
    """Pyro's trace in our terms; what ``pyro.deterministic`` recorded has no density and is left out."""
    trace.symbolize_dims()
    nodes = {name: node for name, node in trace.nodes.items() if node["type"] == "sample"}
    densities = {name: node for name, node in nodes.items() if _is_density(node)}
    frames = {frame.name: frame for node in densities.values() for frame in _frames(node)}
    symbols = trace.plate_to_symbol
    return Run(
        {name: _site(name, node, symbols) for name, node in densities.items()},
        {symbols[name]: frame.size for name, frame in frames.items()},
        symbols.get(ROWS_PLATE, ""),
        max((-frame.dim for frame in frames.values()), default=1),
        tuple(name for name, node in trace.nodes.items() if node["type"] == "param"),
        trace,
    )


def _is_density(node: Any) -> bool:
    return type(node["fn"]).__name__ != "_Subsample" and not node["infer"].get("_deterministic")


def _frames(node: Any) -> list[Any]:
    return [frame for frame in node["cond_indep_stack"] if frame.vectorized]


def _site(name: str, node: Any, symbols: Mapping[str, str]) -> Site:
    mask, fn = node["mask"], node["fn"]
    return Site(
        name,
        fn.base if isinstance(fn, Labelled) else fn,
        node["value"],
        node["is_observed"],
        any(frame.name == ROWS_PLATE for frame in node["cond_indep_stack"]),
        float(node["scale"]),
        None if mask is None or mask is True else torch.as_tensor(mask),
        frozenset(symbols[frame.name] for frame in _frames(node)),
        node["infer"]["_dim_to_symbol"],
        node["infer"].get("_enumerate_symbol"),
        bool(node["infer"].get("is_auxiliary")),
        {frame.dim: frame.name for frame in _frames(node)},
        fn.label if isinstance(fn, Labelled) else None,
    )
