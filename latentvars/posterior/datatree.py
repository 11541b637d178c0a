"""The DataTree of a fit: everything that ArviZ reads, with named axes, from values alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from latentvars.capture import over_draws
from latentvars.errors import DataError
from latentvars.posterior.axes import Axes
from latentvars.posterior.conditional import conditional_scores
from latentvars.posterior.latent import LatentPosterior, is_discrete
from latentvars.posterior.observations import Observations, batches, predictions, without_padding
from latentvars.posterior.priors import prior_draws
from latentvars.program import Program
from latentvars.randomness import derive
from latentvars.rows import Batch, Rows

if TYPE_CHECKING:
    import xarray as xr

LEAD = ("chain", "draw")
PREDICTED_NUMBERS = 20_000_000  # of all predictions together, unless another number of draws is asked for


@dataclass(frozen=True)
class Knowledge:
    """What is known of a model's globals after a run.

    Attributes:
        program: the model.
        rows: its data, N rows.
        point: one constrained value for each global.
        row_log_likelihood: ``[N]`` at the point, nats, not weighted.
        draws: constrained draws of the globals ``[S, *shape]``, chain after chain; None where they are known as a point
            only.
        log_q: log density of the draws under the distribution they are from, ``[S]``, nats.
        chains: C, of S / C draws each.
        stats: of the sampler at each draw, ``[C, S / C]``.
        locals: continuous locals that were drawn with the globals, ``[S, N, *shape]``.
    """

    program: Program
    rows: Rows
    point: Mapping[str, Tensor]
    row_log_likelihood: Tensor
    draws: Mapping[str, Tensor] | None = None
    log_q: Tensor | None = None
    chains: int = 1
    stats: Mapping[str, Tensor] = field(default_factory=dict)
    locals: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Draws of the globals, S; 0 where they are a point."""
        return 0 if self.draws is None else len(next(iter(self.draws.values())))

    def by_chain(self, value: Tensor) -> np.ndarray:
        """``[S, ...]`` → ``[C, S / C, ...]``."""
        return _array(value.reshape(self.chains, len(value) // self.chains, *value.shape[1:]))

    @property
    def axes(self) -> Axes:
        return Axes.of(self.program.model, self.rows)


def datatree(
    known: Knowledge,
    *,
    history: np.ndarray,
    latent: LatentPosterior | None,
    draws: int,
    predictive: int | None,
    seed: int,
    attributes: Mapping[str, Any],
    prior: int = 0,
    conditional: bool = False,
    latent_draws: bool = False,
) -> xr.DataTree:
    """The groups ``posterior`` (with ``unconstrained_posterior``) or ``point_estimate``, ``log_likelihood``,
    ``sample_stats``, ``posterior_predictive``, ``observed_data``, ``constant_data``, ``latent_mean`` and
    ``optimization``, as far as there is something in them; and those that are asked for.

    Args:
        known: the globals, data and model.
        history: objective after each pass, nats per row.
        latent: beliefs over the locals at the point; None leaves them out.
        draws: of the globals; of new data where they are a point.
        predictive: draws of new data; 0 leaves them out; None: ``draws``, or fewer of many rows.
        seed: of the draws made here.
        attributes: of the root, besides the versions of the libraries.
        prior: draws of the globals from their priors, and of new data given them: ``prior``, ``prior_predictive``.
        conditional: whether to add ``log_likelihood_conditional``, of rows given a draw of their locals.
        latent_draws: whether to add ``latent_draws``, made when they are read.
    """
    observations = Observations.of(known.program, known.rows, known.point, known.axes.names)
    predictive = _affordable(draws, observations) if predictive is None else predictive
    axes = known.axes.labelled(observations.labels)
    groups = {
        **_globals(known),
        **_likelihood(known, axes, observations, seed),
        **_predictive(known, axes, observations, predictive, seed),
        **_prior(known, axes, observations, prior, seed),
        "observed_data": axes.dataset(observations.values, observations.names),
        "constant_data": _constant(known.rows, observations, axes),
    }
    if latent is not None and latent.sites:
        groups["latent_mean"] = _latent(latent, known, axes)
    if conditional:
        groups["log_likelihood_conditional"] = _conditional(known, axes, observations, seed)
    if latent_draws:
        groups["latent_draws"] = _latent_draws(known, axes, draws, seed)
    if len(history):
        epochs = {"epoch": np.arange(1, len(history) + 1)}
        note = {"objective": "nats per row after each pass over the data"}
        groups["optimization"] = axes.labelled(epochs).dataset(
            {"objective": np.asarray(history)}, {"objective": ("epoch",)}, attributes=note
        )
    kept = {name: group for name, group in groups.items() if group.data_vars}
    import xarray as xr

    root = xr.Dataset(attrs={**provenance(), **_of_data(known), **attributes, "seed_of_draws": str(seed)})
    return xr.DataTree.from_dict({"/": root, **kept})


class Replicates(Protocol):
    """Refits of one point: :class:`latentvars.Bootstrap`."""

    @property
    def point(self) -> Mapping[str, Tensor]: ...

    def to_datatree(self) -> xr.DataTree: ...


def with_bootstrap(tree: xr.DataTree, known: Knowledge, bootstrap: Replicates) -> xr.DataTree:
    """The tree with the groups ``bootstrap`` and ``bootstrap_stats``, which are no draws of a posterior.

    Raises:
        DataError: replicates of another fit.
    """
    same = bootstrap.point.keys() == known.point.keys() and all(
        torch.equal(value, known.point[name]) for name, value in bootstrap.point.items()
    )
    if not same:
        raise DataError(
            given="a bootstrap of another fit, whose point is not this one's",
            needed="replicates of this fit",
            remedy="write bootstrap=lv.bootstrap(fit)",
        )
    found = bootstrap.to_datatree()
    groups = {name: found[name].to_dataset() for name in ("bootstrap", "bootstrap_stats")}
    return tree.assign({name: type(tree)(dataset) for name, dataset in groups.items()})


def provenance() -> dict[str, str]:
    """Versions of what a result was made with."""
    return {
        "created_by": "latentvars",
        "inference_library": "latentvars",
        "inference_library_version": version_of("latentvars"),
        "torch_version": str(torch.__version__),
        "pyro_version": version_of("pyro-ppl"),
    }


def version_of(package: str) -> str:
    """Version of an installed distribution; "unknown" for a bare checkout."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def globals_group(known: Knowledge) -> xr.Dataset:
    """Draws of the globals ``(chain, draw, ...)``, or their point ``(...)``."""
    if known.draws is None:
        return known.axes.dataset({name: _array(value) for name, value in known.point.items()})
    return known.axes.dataset({name: known.by_chain(value) for name, value in known.draws.items()}, lead=LEAD)


def _globals(known: Knowledge) -> dict[str, xr.Dataset]:
    if known.draws is None:
        return {"point_estimate": globals_group(known)}
    space = known.program.space
    free = space.parts(space.unconstrain({name: value.to(known.program.dtype) for name, value in known.draws.items()}))
    names = {name: (f"{name}_coordinate",) for name in free}
    return {
        "posterior": globals_group(known),
        "unconstrained_posterior": known.axes.dataset({n: known.by_chain(v) for n, v in free.items()}, names, LEAD),
    }


def _prior(known: Knowledge, axes: Axes, observations: Observations, size: int, seed: int) -> dict[str, xr.Dataset]:
    """Globals from their priors, and new rows like those of the data given them."""
    if not size:
        return {}
    values = prior_draws(known.program, size, derive(seed, 3))
    drawn = predictions(known.program, known.rows, observations.layouts, values, size, derive(seed, 4))
    arrays = {site: value[None] for site, value in drawn.items()}
    return {
        "prior": axes.dataset({name: _array(value)[None] for name, value in values.items()}, lead=LEAD),
        "prior_predictive": axes.dataset(arrays, _fitting(observations.names, arrays), LEAD),
    }


def _conditional(known: Knowledge, axes: Axes, observations: Observations, seed: int) -> xr.Dataset:
    name = next(iter(observations.values)) if len(observations.values) == 1 else "x"
    values = known.draws or {site: value[None] for site, value in known.point.items()}
    scores = conditional_scores(known.program, known.rows, values, derive(seed, 5), known.locals)
    note = {name: "nats, of a row given one draw of its own locals: not for leaving rows out", "unit": "row"}
    array = _array(scores)[None] if known.draws is None else known.by_chain(scores)
    return axes.dataset({name: array}, {name: ("row",)}, LEAD, note)


def _latent_draws(known: Knowledge, axes: Axes, draws: int, seed: int) -> xr.Dataset:
    from latentvars.posterior.lazy_latents import LatentSource

    values, chains = known.draws, known.chains
    if values is None:
        values, chains = {name: value.expand(draws, *value.shape) for name, value in known.point.items()}, 1
    size = known.size or draws
    source = LatentSource(known.program, known.rows, values, size, chains, derive(seed, 6), known.locals)
    return axes.of_variables(source.variables({name: axes.names.get(name, ()) for name in axes.names}))


def _of_data(known: Knowledge) -> dict[str, Any]:
    return {"rows": len(known.rows), "data_digest": f"sha256:{known.rows.digest()}"}


def _likelihood(known: Knowledge, axes: Axes, observations: Observations, seed: int) -> dict[str, xr.Dataset]:
    """Log-likelihood of each row with its locals removed, and the log density of each draw."""
    name = next(iter(observations.values)) if len(observations.values) == 1 else "x"
    exact = not known.program.roles.continuous
    unit = "row" if known.rows.lengths is None else "sequence"
    kind = "exact" if exact else "ELBO: a lower bound"
    note = {"log_likelihood": f"nats, locals removed ({kind}), not weighted", "unit": unit}
    axes_of = {name: ("row",)}
    if known.draws is None:
        scores = _array(known.row_log_likelihood)[None, None]
        return {"log_likelihood": axes.dataset({name: scores}, axes_of, LEAD, note)}
    prior, scores = draw_scores(known.program, known.rows, known.draws, derive(seed, 0))
    stats = {"lp": known.by_chain(prior + scores @ known.rows.weights.to(scores.dtype))}
    if known.log_q is not None:
        stats["log_q"] = known.by_chain(known.log_q)
    stats |= {stat: _array(value) for stat, value in known.stats.items() if stat not in stats or known.locals}
    what = (
        "log density of globals and locals, unconstrained" if known.locals else "log prior + log-likelihood, weighted"
    )
    about = {"lp": f"{what}, nats", "log_q": "log density of the guide"}
    return {
        "log_likelihood": axes.dataset({name: known.by_chain(scores)}, axes_of, LEAD, note),
        "sample_stats": axes.dataset(stats, dict.fromkeys(stats, ()), LEAD, {k: about[k] for k in stats if k in about}),
    }


def draw_scores(program: Program, rows: Rows, draws: Mapping[str, Tensor], seed: int) -> tuple[Tensor, Tensor]:
    """Log prior ``[S]`` and log marginal likelihood of each row ``[S, N]`` at each draw of the globals, nats."""
    priors, scores = torch.zeros(0), []
    with torch.no_grad():
        for number, batch in enumerate(batches(program, rows)):
            seeds = itertools.count()

            def scored(values: Mapping[str, Tensor], batch: Batch, piece: int = number, seeds: Any = seeds) -> Any:
                found = program.score(values, batch, derive(seed, next(seeds), piece))
                return found.prior, found.rows

            priors, rows_ = over_draws(program, batch, scored, draws, recorded=not program.roles.continuous)
            scores.append(rows_)
    return priors, torch.cat(scores, 1)


def _affordable(draws: int, observations: Observations) -> int:
    """As many draws as there are, or as give 20 million numbers (160 MB)."""
    numbers = sum(value.size for value in observations.values.values())
    return min(draws, max(1, PREDICTED_NUMBERS // max(1, numbers)))


def _predictive(
    known: Knowledge, axes: Axes, observations: Observations, size: int, seed: int
) -> dict[str, xr.Dataset]:
    """New rows like those of the data: at each draw of the globals, or ``size`` times at the point."""
    if not size or not observations.layouts:
        return {}
    if known.draws is None:
        values, at = {name: value[None] for name, value in known.point.items()}, np.arange(size)
    else:
        each = known.size // known.chains
        per_chain = min(max(1, size // known.chains), each)
        at = np.arange(per_chain) * each // per_chain
        places = torch.from_numpy((np.arange(known.chains)[:, None] * each + at).reshape(-1))
        values, size = {name: value[places] for name, value in known.draws.items()}, len(places)
    drawn = predictions(known.program, known.rows, observations.layouts, values, size, derive(seed, 1))
    chains = 1 if known.draws is None else known.chains
    arrays = {site: value.reshape(chains, -1, *value.shape[1:]) for site, value in drawn.items()}
    labelled = axes.labelled({"draw": at})
    return {"posterior_predictive": labelled.dataset(arrays, _fitting(observations.names, arrays), LEAD)}


def _fitting(names: Mapping[str, tuple[str, ...]], arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[str, ...]]:
    """Names of axes for arrays ``[chain, draw, ...]`` that have as many."""
    return {site: names[site] for site, value in arrays.items() if len(names[site]) == value.ndim - 2}


def _constant(rows: Rows, observations: Observations, axes: Axes) -> xr.Dataset:
    """Columns that are not observed, weights that are not all one, lengths of sequences."""
    values: dict[str, np.ndarray] = {}
    names: dict[str, tuple[str, ...]] = {}
    labels: dict[str, tuple[str, ...]] = {}
    batch = rows.batch()
    for name in observations.covariates(rows):
        values[name] = without_padding(batch[name], rows)
        lead = ("row",) if rows.lengths is None else ("row", "step")
        names[name] = lead + tuple(f"{name}_dim_{k}" for k in range(values[name].ndim - len(lead)))
        if len(names[name]) > len(lead):
            names[name] = (*names[name][:-1], f"{name}_feature")
            labels[f"{name}_feature"] = rows.features[name]
    if bool((rows.weights != 1).any()):
        values["weights"], names["weights"] = rows.weights.numpy(), ("row",)
    if rows.lengths is not None:
        values["lengths"], names["lengths"] = rows.lengths.numpy(), ("row",)
    return axes.labelled(labels).dataset(values, names)


def _latent(latent: LatentPosterior, known: Knowledge, axes: Axes) -> xr.Dataset:
    """Posterior means of the locals; probabilities of categories for discrete ones."""
    values, names = {}, {}
    for site in latent.sites:
        mean = latent.mean(site)
        given, categories = axes.names.get(site, ()), is_discrete(latent.beliefs[site][0])
        default = ("row", *(f"{site}_dim_{k}" for k in range(mean.dim() - 1)))
        if categories:
            default = (*default[:-1], f"{site}_category")
            given = (*given, default[-1]) if len(given) == mean.dim() - 1 else given
        names[site] = given if len(given) == mean.dim() else default
        values[site] = without_padding(mean, known.rows)
    return axes.dataset(values, names)


def _array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()
