"""The primitive from which everything follows: ``score(model, guide, globals, batch)``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.infer import infer_discrete
from pyro.ops.packed import pack
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn
from torch.distributions import kl_divergence

from latentvars.contract import Factor, LatentModel, Score
from latentvars.errors import NumericalError
from latentvars.program.elimination import Term, eliminate, marginal
from latentvars.program.globals import GlobalSpace
from latentvars.program.modules import model_modules, network_dtype
from latentvars.program.roles import Roles, find_roles, is_local
from latentvars.program.scope import surroundings
from latentvars.randomness import seeded
from latentvars.rows import ROWS_PLATE, Batch, Rows


@dataclass(frozen=True)
class Bound:
    """How rows with continuous locals are bounded from below.

    Attributes:
        particles: draws of the guide, K.
        importance: average the K importance weights inside the logarithm (IWAE; Burda, Grosse & Salakhutdinov 2016,
            eq. 8) instead of their logarithms outside (ELBO).
        kl_weight: multiplies KL(q ‖ p) of the locals (β-VAE, Higgins et al. 2017; warm-up).
        analytic: use the closed form of KL(q ‖ p) where there is one.
    """

    particles: int = 1
    importance: bool = False
    kl_weight: float = 1.0
    analytic: bool = True


@dataclass(frozen=True)
class Expectation:
    """The E-step of one batch.

    Attributes:
        score: the score at the current globals.
        factors: site name → complete-data factor with its posterior weights (row weights included).
    """

    score: Score
    factors: dict[str, Factor]


@dataclass(frozen=True)
class Program:
    """A model bound to the roles of its sites. Values in, tensors out; nothing is stored.

    Attributes:
        model: the user's object.
        roles: what each site is.
        dtype: precision of data and globals. The rule: that of the model's networks where it has some, else float64.
        sketches: two rows (of at most three steps) and three rows (of at most two) on which the structure can be traced
            again: what differs between them depends on the rows.
    """

    model: LatentModel
    roles: Roles
    dtype: torch.dtype
    sketches: tuple[Batch, Batch] = field(repr=False)

    @staticmethod
    def of(model: LatentModel, rows: Rows, dtype: torch.dtype | None = None) -> Program:
        """Find the roles of the sites of ``model``.

        Raises:
            ModelError: the model breaks the contract (local outside the plate, no guide, wrong guide, ...).
            SupportError: a global or a guide's distribution that cannot be handled.
        """
        dtype = dtype or network_dtype(model) or torch.float64
        two, three = sketch_batch(rows, 2, 3, dtype), sketch_batch(rows, 3, 2, dtype)
        return Program(model, find_roles(model, two, three, dtype), dtype, (two, three))

    @property
    def sketch(self) -> Batch:
        return self.sketches[0]

    @property
    def space(self) -> GlobalSpace:
        return self.roles.space

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The networks of the model by attribute name."""
        return model_modules(self.model)

    def score(self, values: Mapping[str, Tensor], batch: Batch, seed: int = 0, bound: Bound | None = None) -> Score:
        """The score of globals on a batch; differentiable in ``values`` and in the networks' weights.

        Args:
            values: constrained globals.
            batch: B rows.
            seed: seed of the guide's draws; without continuous locals the score is exact and the seed has no effect.
            bound: how continuous locals are bounded; ELBO of one draw by default.
        """
        bound = bound or Bound()
        if not self.roles.continuous:
            return self._score_of(self.trace(values, batch), batch)
        with seeded(seed):
            draws = [self._bounded(values, batch, bound) for _ in range(bound.particles)]
        rows = torch.stack([draw.rows for draw in draws])
        if bound.importance:
            combined = torch.logsumexp(rows, 0) - torch.log(torch.tensor(float(bound.particles), dtype=rows.dtype))
        else:
            combined = rows.mean(0)
        return Score(draws[0].prior, combined)

    def expectation(self, values: Mapping[str, Tensor], batch: Batch) -> Expectation:
        """E-step: posterior weights are the gradient of Σ wₙ rows[n] with respect to zeros added to each log-factor."""
        with torch.no_grad():
            trace = self.trace(values, batch)
            log_probs = {name: _log_prob(site) for name, site in _local_sites(trace).items()}
        with torch.enable_grad():
            taps = {name: torch.zeros_like(value).requires_grad_() for name, value in log_probs.items()}
            rows = self._rows(trace, {name: log_probs[name] + tap for name, tap in taps.items()}, batch)
            weights = torch.autograd.grad((rows * batch.weights).sum(), list(taps.values()))
        factors = {
            name: Factor(trace.nodes[name]["fn"], trace.nodes[name]["value"], weight)
            for name, weight in zip(taps, weights, strict=True)
        }
        return Expectation(Score(self._prior(trace), rows.detach()), factors)

    def factor_distributions(self, values: Mapping[str, Tensor], batch: Batch) -> dict[str, Factor]:
        """The complete-data factors at ``values`` with unit weights, differentiable in ``values``."""
        trace = self.trace(values, batch)
        one = torch.ones((), dtype=self.dtype)
        return {name: Factor(site["fn"], site["value"], one) for name, site in _local_sites(trace).items()}

    def complete_log_likelihood(
        self, values: Mapping[str, Tensor], batch: Batch, weights: Mapping[str, Tensor]
    ) -> Tensor:
        """Q(θ′) of one batch under fixed posterior weights of its sites, scalar, nats."""
        trace = self.trace(values, batch)
        sites = _local_sites(trace)
        return torch.stack([(weight * _log_prob(sites[name])).sum() for name, weight in weights.items()]).sum()

    def prior(self, values: Mapping[str, Tensor]) -> Tensor:
        """Log density of the globals, scalar, nats."""
        return self._prior(self.trace(values, self.sketch))

    def global_sites(self, values: Mapping[str, Tensor]) -> dict[str, TorchDistribution]:
        """The priors of the globals at ``values``."""
        trace = self.trace(values, self.sketch)
        return {name: trace.nodes[name]["fn"] for name in self.space.names}

    def prior_draw(self, seed: int) -> dict[str, Tensor]:
        """One draw of the globals from their priors (starting values where the prior is flat)."""
        with torch.no_grad(), seeded(seed), self._around():
            trace = poutine.trace(self.model.model).get_trace(self.sketch)
        return {name: trace.nodes[name]["value"].to(self.dtype) for name in self.space.names}

    def beliefs(self, values: Mapping[str, Tensor], batch: Batch, seed: int = 0) -> dict[str, TorchDistribution]:
        """The posterior of each local given its row: exact for discrete ones, the guide's for continuous ones."""
        with torch.no_grad():
            guide = self._guide_trace(batch, seed) if self.roles.continuous else None
            trace = self.trace(values, batch, guide)
            found: dict[str, TorchDistribution] = {}
            for name in self.roles.continuous:
                assert guide is not None
                found[name] = guide.nodes[name]["fn"]
            found.update(self._discrete_beliefs(trace, batch))
            for site in _local_sites(trace).values():
                if site["is_observed"] and hasattr(site["fn"], "posterior"):
                    found[site["fn"].local] = site["fn"].posterior(site["value"])
        return found

    def joint_draw(self, values: Mapping[str, Tensor], batch: Batch, seed: int) -> dict[str, Tensor]:
        """One joint exact posterior draw of all enumerated locals."""
        model = poutine.infer_config(poutine.condition(self.model.model, data=dict(values)), self._enumeration)
        with torch.no_grad(), seeded(seed), self._around():
            drawn = infer_discrete(model, first_available_dim=-1 - self.roles.nesting, temperature=1)
            trace = poutine.trace(drawn).get_trace(batch)
        return {name: trace.nodes[name]["value"] for name in self.roles.discrete}

    def predict(self, values: Mapping[str, Tensor], batch: Batch, seed: int) -> dict[str, Tensor]:
        """One draw of the observed sites: locals from the model given the globals, then new observations."""
        hidden = poutine.uncondition(self.model.model)
        model = poutine.condition(hidden, data=dict(values))
        with torch.no_grad(), seeded(seed), self._around():
            trace = poutine.trace(model).get_trace(batch)
        return {name: trace.nodes[name]["value"] for name in self.roles.observed}

    def site_log_probs(self, values: Mapping[str, Tensor], batch: Batch, seed: int = 0) -> dict[str, Tensor]:
        """Log densities site by site, to say which one is not finite."""
        with torch.no_grad():
            guide = self._guide_trace(batch, seed) if self.roles.continuous else None
            trace = self.trace(values, batch, guide)
            found = {name: _log_prob(site) for name, site in trace.nodes.items() if _is_density(site)}
            for name in self.roles.continuous:
                assert guide is not None
                found[f"guide of {name}"] = _log_prob(guide.nodes[name])
        return found

    def trace(self, values: Mapping[str, Tensor], batch: Batch, guide: Trace | None = None) -> Trace:
        """The model with its globals set, its continuous locals from the guide's trace, its discrete ones enumerated."""
        model = poutine.condition(self.model.model, data=dict(values))
        if guide is not None:
            model = poutine.replay(model, trace=guide)
        model = poutine.infer_config(model, self._enumeration)
        model = poutine.enum(model, first_available_dim=-1 - self.roles.nesting)
        try:
            with self._around():
                trace = poutine.trace(model).get_trace(batch)
        except torch.linalg.LinAlgError as error:
            shapes = {name: value.flatten()[:4].tolist() for name, value in values.items()}
            raise NumericalError(
                given=f"a matrix that is not positive definite in {type(self.model).__name__}.model: "
                f"{str(error).splitlines()[0]}; globals begin {shapes}",
                needed="covariances of full rank",
                remedy="keep EM's variance_floor above 0, remove collinear columns, or use fewer components",
            ) from error
        trace.symbolize_dims()
        return trace

    def _around(self) -> Any:
        return surroundings(self.dtype)

    def _enumeration(self, site: dict[str, Any]) -> dict[str, Any]:
        return {"enumerate": "parallel"} if site["name"] in self.roles.discrete else {}

    def _guide_trace(self, batch: Batch, seed: int | None = None) -> Trace:
        guide = self.model.guide  # type: ignore[attr-defined]
        if seed is not None:
            with seeded(seed):
                return self._guide_trace(batch)
        with self._around():
            trace = poutine.trace(guide).get_trace(batch)
        trace.symbolize_dims()
        return trace

    def _bounded(self, values: Mapping[str, Tensor], batch: Batch, bound: Bound) -> Score:
        """One draw of the guide: log p(x, z) − β (log q(z) − log p(z)) with closed-form KL where there is one."""
        guide = self._guide_trace(batch)
        trace = self.trace(values, batch, guide)
        sites, drawn = _local_sites(trace), _local_sites(guide)
        names = self.roles.continuous
        same_order = [name for name in drawn if name in names] == [name for name in sites if name in names]
        log_probs = {name: _log_prob(site) for name, site in sites.items() if name not in names}
        divergence: dict[str, Tensor] = {}
        for name in names:
            kl = None
            if bound.analytic and not bound.importance and same_order:
                kl = _divergence(drawn[name], sites[name], self.roles.nesting)
            if kl is None:
                log_probs[name] = bound.kl_weight * _log_prob(sites[name])
                kl = _log_prob(drawn[name])
            divergence[name] = kl
        rows = self._rows(trace, log_probs, batch)
        sizes = _plate_sizes(guide)
        terms = [_term(drawn[name], value, guide) for name, value in divergence.items()]
        plate = guide.plate_to_symbol[ROWS_PLATE]
        return Score(self._prior(trace), rows - bound.kl_weight * eliminate(terms, {}, sizes, plate))

    def _score_of(self, trace: Trace, batch: Batch) -> Score:
        log_probs = {name: _log_prob(site) for name, site in _local_sites(trace).items()}
        return Score(self._prior(trace), self._rows(trace, log_probs, batch))

    def _rows(self, trace: Trace, log_probs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Contract the log-factors of the local sites to one number a row."""
        sites = _local_sites(trace)
        terms = [_term(sites[name], value, trace) for name, value in log_probs.items()]
        latents = {
            site["infer"]["_enumerate_symbol"]: _plates(site, trace)
            for site in sites.values()
            if site["infer"].get("_enumerate_symbol")
        }
        return eliminate(terms, latents, _plate_sizes(trace), trace.plate_to_symbol[ROWS_PLATE])

    def _prior(self, trace: Trace) -> Tensor:
        outside = [site for site in trace.nodes.values() if _is_density(site) and not is_local(site)]
        parts = [_log_prob(site).sum() for site in outside]
        return torch.stack(parts).sum() if parts else torch.zeros((), dtype=self.dtype)

    def _discrete_beliefs(self, trace: Trace, batch: Batch) -> dict[str, TorchDistribution]:
        """Marginal posteriors of the enumerated locals, by the gradient of the row scores."""
        if not self.roles.discrete:
            return {}
        sites = _local_sites(trace)
        log_probs = {name: _log_prob(site) for name, site in sites.items()}
        with torch.enable_grad():
            taps = {name: torch.zeros_like(log_probs[name]).requires_grad_() for name in self.roles.discrete}
            shifted = {name: value + taps[name] if name in taps else value for name, value in log_probs.items()}
            rows = self._rows(trace, shifted, batch)
            weights = torch.autograd.grad(rows.sum(), list(taps.values()))
        return {name: _categorical(sites[name], weight, trace) for name, weight in zip(taps, weights, strict=True)}


def sketch_batch(rows: Rows, size: int, steps: int, dtype: torch.dtype) -> Batch:
    """The first rows (again from the start where there are fewer), sequences cut to their first steps."""
    batch = rows.batch(torch.arange(size) % len(rows), dtype=dtype)
    if batch.lengths is None:
        return batch
    lengths = batch.lengths.clamp(max=steps)
    steps = int(lengths.max())
    columns = {name: value[:, :steps] for name, value in batch.columns.items()}
    observed = None if batch.observed is None else {name: mask[:, :steps] for name, mask in batch.observed.items()}
    return Batch(columns, batch.index, batch.total, batch.weights, lengths, observed)


def _is_density(site: dict[str, Any]) -> bool:
    return site["type"] == "sample" and type(site["fn"]).__name__ != "_Subsample"


def _local_sites(trace: Trace) -> dict[str, dict[str, Any]]:
    return {name: site for name, site in trace.nodes.items() if _is_density(site) and is_local(site)}


def _log_prob(site: dict[str, Any]) -> Tensor:
    """Unscaled, masked log density of a site."""
    value = site["fn"].log_prob(site["value"])
    mask = site["mask"]
    if mask is None or mask is True:
        return value
    return torch.where(torch.as_tensor(mask), value, torch.zeros_like(value))


def _plates(site: dict[str, Any], trace: Trace) -> frozenset[str]:
    return frozenset(trace.plate_to_symbol[frame.name] for frame in site["cond_indep_stack"] if frame.vectorized)


def _plate_sizes(trace: Trace) -> dict[str, int]:
    frames = {frame.name: frame for site in trace.nodes.values() if _is_density(site) for frame in _stack(site)}
    return {trace.plate_to_symbol[name]: frame.size for name, frame in frames.items()}


def _stack(site: dict[str, Any]) -> list[Any]:
    return [frame for frame in site["cond_indep_stack"] if frame.vectorized]


def _term(site: dict[str, Any], log_prob: Tensor, trace: Trace) -> Term:
    packed = pack(log_prob + torch.zeros_like(log_prob), site["infer"]["_dim_to_symbol"])
    return Term(packed, packed._pyro_dims, _plates(site, trace))


def _divergence(guide: dict[str, Any], model: dict[str, Any], nesting: int) -> Tensor | None:
    """KL(q ‖ p) in closed form, or None where there is none (or p depends on an enumerated local, or is masked)."""
    if len(model["fn"].batch_shape) > nesting or model["mask"] is not None or guide["mask"] is not None:
        return None
    try:
        return kl_divergence(guide["fn"], model["fn"])
    except NotImplementedError:
        return None


def _categorical(site: dict[str, Any], weight: Tensor, trace: Trace) -> TorchDistribution:
    """The marginal of an enumerated site: ``[rows, other plates ..., categories]`` probabilities."""
    term = _term(site, weight, trace)
    symbol = site["infer"]["_enumerate_symbol"]
    rows = trace.plate_to_symbol[ROWS_PLATE]
    plates = [rows, *sorted(_plates(site, trace) - {rows})]
    probs = marginal(term, [*plates, symbol])
    sizes = _plate_sizes(trace)
    probs = probs.reshape([sizes[plate] for plate in plates] + [-1])
    return pyro.distributions.Categorical(probs=probs)
