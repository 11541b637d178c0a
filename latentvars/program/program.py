"""The primitive from which everything follows: ``score(model, guide, globals, batch)``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Categorical, TorchDistribution
from pyro.infer import infer_discrete
from torch import Tensor, nn
from torch.distributions import kl_divergence

from latentvars.contract import Factor, LatentModel, Score
from latentvars.errors import NumericalError, SupportError
from latentvars.program.globals import GlobalSpace
from latentvars.program.labels import GiveLabels
from latentvars.program.missing import IntegrateMissing, without_missing
from latentvars.program.modules import model_modules, model_parameters, network_dtype
from latentvars.program.roles import Roles, check_observed, find_roles
from latentvars.program.run import Run, Site, read
from latentvars.program.scope import surroundings
from latentvars.randomness import seeded
from latentvars.rows import Batch, Rows


@dataclass(frozen=True)
class Bound:
    """How rows with continuous locals are bounded from below.

    Attributes:
        particles: draws of the guide, K.
        importance: average the K importance weights inside the logarithm (IWAE; Burda, Grosse & Salakhutdinov 2016,
            eq. 8) instead of their logarithms outside (ELBO).
        kl_weight: multiplies KL(q ‖ p) of the locals (β-VAE, Higgins et al. 2017; warm-up).
        analytic: use the closed form of KL(q ‖ p) where there is one.
        path: differentiate log q along the draws alone, not in the parameters of q (Roeder, Wu & Duvenaud 2017): the
            gradient of the ELBO stays unbiased, and has no noise where q is the posterior. Not with ``analytic``.
    """

    particles: int = 1
    importance: bool = False
    kl_weight: float = 1.0
    analytic: bool = True
    path: bool = False


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
        chosen: values at which the discrete globals stand; a model that has some cannot be run without.
    """

    model: LatentModel
    roles: Roles
    dtype: torch.dtype
    sketches: tuple[Batch, Batch] = field(repr=False)
    chosen: Mapping[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def of(model: LatentModel, rows: Rows, dtype: torch.dtype | None = None, first: Rows | None = None) -> Program:
        """Find the roles of the sites of ``model``.

        Args:
            model: the user's object.
            rows: the data.
            dtype: precision; None: by the rule.
            first: the first rows of all processes, of whose data ``rows``, checked already, are a share.

        Raises:
            ModelError: the model breaks the contract (local outside the plate, no guide, wrong guide, ...).
            SupportError: a global or a guide's distribution that cannot be handled.
            DataError: observed values outside their support (a model with a ``prepare`` of its own has checked them).
        """
        dtype = dtype or network_dtype(model) or torch.float64
        sketched = rows if first is None else first
        two, three = sketch_batch(sketched, 2, 3, dtype), sketch_batch(sketched, 3, 2, dtype)
        roles = find_roles(model, two, three, dtype)
        if first is None and not hasattr(model, "prepare"):
            for batch in rows.batches(rows.block, shuffle=False, dtype=dtype):
                check_observed(model, without_missing(batch, rows), dtype)
        return Program(model, roles, dtype, (two, three))

    def restricted(self, fixed: Mapping[str, Any] | None, tied: Mapping[str, Any] | None = None) -> Program:
        """The program with entries of globals fixed or tied; errors as :meth:`GlobalSpace.restricted`."""
        if not fixed and not tied:
            return self
        return replace(self, roles=replace(self.roles, space=self.space.restricted(fixed or {}, tied or {})))

    def given(self, chosen: Mapping[str, Tensor]) -> Program:
        """The program with its discrete globals at these values; without values: with them open."""
        return replace(self, chosen=chosen)

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
            run = self.trace(values, batch)
            return Score(run.outside(self.dtype), run.contract(run.log_probs()))
        with seeded(seed):
            draws = [self._bounded(values, batch, bound) for _ in range(bound.particles)]
        rows = torch.stack([draw.rows for draw in draws])
        if bound.importance:
            combined = torch.logsumexp(rows, 0) - torch.log(torch.tensor(float(bound.particles), dtype=rows.dtype))
        else:
            combined = rows.mean(0)
        return Score(draws[0].prior, combined)

    def row_scores(self, values: Mapping[str, Tensor], batch: Batch, seed: int = 0) -> Tensor:
        """``rows`` of :meth:`score` ``[B]``, nats, by themselves."""
        if self.roles.continuous:
            return self.score(values, batch, seed).rows
        run = self.trace(values, batch)
        return run.contract(run.log_probs())

    def expectation(
        self,
        values: Mapping[str, Tensor],
        batch: Batch,
        guide: Run | None = None,
        weigh: Callable[[Tensor], Tensor] | None = None,
    ) -> Expectation:
        """E-step: posterior weights are the gradient of Σ wₙ rows[n] with respect to zeros added to each log-factor.

        Args:
            values: constrained globals.
            batch: B rows.
            guide: a run of the guide, which says where continuous locals stand; ``rows[n]`` is their joint log density
                with row n then.
            weigh: ``rows`` → the weights ``[B]`` that stand in the place of the batch's.
        """
        with torch.no_grad():
            run = self.trace(values, batch, guide)
            log_probs = run.log_probs()
        with torch.enable_grad():
            taps = {name: torch.zeros_like(value).requires_grad_() for name, value in log_probs.items()}
            rows = run.contract({name: log_probs[name] + tap for name, tap in taps.items()})
            counts = batch.weights if weigh is None else weigh(rows.detach())
            weights = torch.autograd.grad((rows * counts).sum(), list(taps.values()))
        factors = {
            name: Factor(run.sites[name].fn, run.sites[name].value, run.sites[name].masked(weight))
            for name, weight in zip(taps, weights, strict=True)
        }
        return Expectation(Score(run.outside(self.dtype), rows.detach()), factors)

    def factor_distributions(
        self, values: Mapping[str, Tensor], batch: Batch, guide: Run | None = None
    ) -> dict[str, Factor]:
        """The complete-data factors at ``values`` with unit weights, differentiable in ``values``.

        Continuous locals stand where a run of the guide drew them, any one where none is given.
        """
        return self.traced(values, batch, guide).factors(self.dtype)

    def traced(self, values: Mapping[str, Tensor], batch: Batch, guide: Run | None = None) -> Run:
        """:meth:`trace`, continuous locals where a run of the guide drew them, any one where none is given."""
        return self.trace(values, batch, guide or self.guided(batch, 0))

    def prior(self, values: Mapping[str, Tensor]) -> Tensor:
        """Log density of the globals, scalar, nats."""
        return self.traced(values, self.sketch).outside(self.dtype)

    def global_sites(self, values: Mapping[str, Tensor]) -> dict[str, TorchDistribution]:
        """The priors of the globals at ``values``."""
        run = self.traced(values, self.sketch)
        return {name: run.sites[name].fn for name in self.space.names}

    def prior_draw(self, seed: int) -> dict[str, Tensor]:
        """One draw of all globals from their priors (starting values where the prior is flat)."""
        with torch.no_grad(), seeded(seed), self._around():
            run = read(poutine.trace(self.model.model).get_trace(self.sketch))
        drawn = {name: run.sites[name].value for name in self.roles.choices.names}
        return drawn | self.space.project({name: run.sites[name].value.to(self.dtype) for name in self.space.names})

    def beliefs(self, values: Mapping[str, Tensor], batch: Batch, seed: int = 0) -> dict[str, TorchDistribution]:
        """The posterior of each local given its row: exact for discrete ones, the guide's for continuous ones."""
        with torch.no_grad():
            guide = self.guided(batch, seed)
            run = self.trace(values, batch, guide)
            found = {name: guide.sites[name].fn for name in self.roles.continuous} if guide else {}
            marginals: Any = getattr(self.model, "guide_marginals", None)
            if found and marginals is not None:  # a guide that draws one local given another
                with self._around():
                    found |= marginals(batch)
            found.update(self._discrete_beliefs(run))
            for site in run.local.values():
                collapsed: Any = site.fn
                if site.observed and hasattr(collapsed, "posterior"):
                    found[collapsed.local] = collapsed.posterior(site.value)
        return found

    def joint_draw(
        self, values: Mapping[str, Tensor], batch: Batch, seed: int, guide: Run | None = None
    ) -> dict[str, Tensor]:
        """One joint exact posterior draw of all enumerated locals, given continuous ones as a run of the guide."""
        conditioned = self._conditioned(values, batch)
        conditioned = conditioned if guide is None else poutine.replay(conditioned, trace=guide.trace)
        model: Any = poutine.infer_config(conditioned, self._enumeration)
        with torch.no_grad(), seeded(seed), self._around():
            drawn = infer_discrete(model, first_available_dim=-1 - self.roles.nesting, temperature=1)
            run = read(poutine.trace(drawn).get_trace(batch))
        return {name: run.sites[name].value for name in self.roles.discrete}

    def predict(self, values: Mapping[str, Tensor], batch: Batch, seed: int) -> dict[str, Tensor]:
        """One draw of the observed sites: locals from the model given the globals, then new observations."""
        with seeded(seed):
            return self.predicted(values, batch)

    def predicted(self, values: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The same from torch's own generator as it is."""
        model = poutine.condition(poutine.uncondition(self.model.model), data={**self.chosen, **values})
        with torch.no_grad(), self._around():
            run = read(poutine.trace(model).get_trace(batch))
        return {name: run.sites[name].value for name in self.roles.observed}

    def site_log_probs(self, values: Mapping[str, Tensor], batch: Batch, seed: int = 0) -> dict[str, Tensor]:
        """Log densities site by site, to say which one is not finite."""
        with torch.no_grad(), pyro.validation_enabled(False):
            guide = self.guided(batch, seed)
            found = {name: site.log_prob() for name, site in self.trace(values, batch, guide).sites.items()}
            if guide is not None:
                found |= {f"guide of {name}": guide.sites[name].log_prob() for name in self.roles.continuous}
        return found

    def trace(self, values: Mapping[str, Tensor], batch: Batch, guide: Run | None = None) -> Run:
        """The model with globals set, continuous locals from the guide's run, discrete ones enumerated.

        Raises:
            NumericalError: a covariance that is not positive definite.
        """
        enumerated: Any = poutine.infer_config(self._conditioned(values, batch), self._enumeration)
        enumerated = poutine.enum(enumerated, first_available_dim=-1 - self.roles.nesting)
        if guide is not None:  # outside, so that enumeration sees which draws depend on discrete locals
            enumerated = poutine.replay(enumerated, trace=guide.trace)
        try:
            with self._around():
                return read(poutine.trace(enumerated).get_trace(batch))
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            shown = {name: value.flatten()[:4].tolist() for name, value in values.items()}
            raise NumericalError(
                given=f"a matrix that is not positive definite in {type(self.model).__name__}.model: "
                f"{str(error).splitlines()[0]}; globals begin {shown}",
                needed="covariances of full rank",
                remedy="keep EM's variance_floor above 0, remove collinear columns, or use fewer components",
            ) from error

    def _conditioned(self, values: Mapping[str, Tensor], batch: Batch) -> Any:
        data = {**self.chosen, **values}
        if not data.keys() >= set(self.roles.choices.names):
            raise SupportError(
                given=f"a model with the discrete globals {list(self.roles.choices.names)}, which all rows share",
                needed="an algorithm that sums them out",
                remedy="fit it with lv.EM(), or make them locals of a row",
            )
        model: Any = poutine.condition(self.model.model, data=data)
        model = model if batch.observed is None else IntegrateMissing()(model)
        return GiveLabels(batch)(model) if batch.known else model

    def _around(self) -> Any:
        return surroundings(self.dtype)

    def _enumeration(self, site: Any) -> Any:
        return {"enumerate": "parallel"} if site["name"] in self.roles.discrete else {}

    def guided(self, batch: Batch, seed: int) -> Run | None:
        """One draw of the continuous locals by the guide; None where there are none."""
        with torch.no_grad():
            return self._guide_run(batch, seed) if self.roles.continuous else None

    def guide_log_prob(self, guide: Run) -> Tensor:
        """log q of the continuous locals that a run of the guide drew, ``[batch]``, nats."""
        return guide.contract({name: guide.sites[name].log_prob() for name in self.roles.continuous})

    def _guide_run(self, batch: Batch, seed: int | None = None) -> Run:
        guide: Any = self.model.guide  # type: ignore[attr-defined]
        if seed is not None:
            with seeded(seed):
                return self._guide_run(batch)
        with self._around():
            return read(poutine.trace(guide).get_trace(batch))

    def _bounded(self, values: Mapping[str, Tensor], batch: Batch, bound: Bound) -> Score:
        """One draw of the guide: log p(x, z) − β (log q(z) − log p(z)) with closed-form KL where there is one."""
        guide = self._guide_run(batch)
        run = self.trace(values, batch, guide)
        names = self.roles.continuous
        same_order = [name for name in guide.sites if name in names] == [name for name in run.sites if name in names]
        log_probs = {name: site.log_prob() for name, site in run.local.items() if name not in names}
        divergences: dict[str, Tensor] = {}
        for name in names:
            divergence = None
            if bound.analytic and not bound.importance and same_order:
                divergence = _divergence(guide.sites[name], run.sites[name], self.roles.nesting)
            if divergence is None:
                log_probs[name] = bound.kl_weight * run.sites[name].log_prob()
                divergence = guide.sites[name].log_prob()
            divergences[name] = divergence
        if bound.path:
            divergences = self._path_log_probs(batch, guide)
        rows = run.contract(log_probs) - bound.kl_weight * guide.contract(divergences)
        return Score(run.outside(self.dtype), rows)

    def _path_log_probs(self, batch: Batch, guide: Run) -> dict[str, Tensor]:
        """log q of each continuous local, differentiable in the draws but not in the weights of the networks."""
        with held(list(model_parameters(self.model).values())), self._around():
            again = read(poutine.trace(poutine.replay(self.model.guide, trace=guide.trace)).get_trace(batch))  # type: ignore[attr-defined]
            return {name: again.sites[name].log_prob() for name in self.roles.continuous}

    def _discrete_beliefs(self, run: Run) -> dict[str, TorchDistribution]:
        """Marginal posteriors of the enumerated locals, by the gradient of the row scores."""
        if not self.roles.discrete:
            return {}
        log_probs = run.log_probs()
        with torch.enable_grad():
            taps = {name: torch.zeros_like(log_probs[name]).requires_grad_() for name in self.roles.discrete}
            rows = run.contract({name: v + taps[name] if name in taps else v for name, v in log_probs.items()})
            weights = torch.autograd.grad(rows.sum(), list(taps.values()))
        return {name: Categorical(probs=run.marginal(name, weight)) for name, weight in zip(taps, weights, strict=True)}


@contextmanager
def held(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Weights as constants: what is computed inside has no gradient in them."""
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def sketch_batch(rows: Rows, size: int, steps: int, dtype: torch.dtype) -> Batch:
    """The first rows (again from the start where there are fewer), complete, sequences cut to their first steps."""
    batch = without_missing(rows.batch(torch.arange(size) % len(rows), dtype=dtype), rows)
    batch = replace(batch, known={})
    if batch.lengths is None:
        return batch
    lengths = batch.lengths.clamp(max=steps)
    steps = int(lengths.max())
    columns = {name: value[:, :steps] for name, value in batch.columns.items()}
    return Batch(columns, batch.index, batch.total, batch.weights, lengths)


def _divergence(guide: Site, model: Site, nesting: int) -> Tensor | None:
    """KL(q ‖ p) in closed form, or None where there is none (or p depends on an enumerated local, or is masked)."""
    if len(model.fn.batch_shape) > nesting or model.mask is not None or guide.mask is not None:
        return None
    try:
        return kl_divergence(guide.fn, model.fn)
    except NotImplementedError:
        return None
