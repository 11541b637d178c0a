"""Fit: what a run leaves behind, the same type for every algorithm."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from latentvars.contract import LatentModel
from latentvars.errors import KindError, NumericalError, SettingError, SupportError
from latentvars.inference.fits.extent import Extent
from latentvars.inference.fits.fingerprint import fingerprint
from latentvars.inference.fits.optima import Optima
from latentvars.inference.fits.printed import Outcome, explained, printed
from latentvars.inference.fits.refinement import refined
from latentvars.inference.fits.saving import described, save, save_snapshot
from latentvars.inference.fits.scoring import row_scores, total_score
from latentvars.inference.guides.posteriors import PointMass
from latentvars.inference.running.algorithm import Algorithm, GlobalsPosterior, OneGo
from latentvars.inference.running.backend import Backend
from latentvars.inference.running.binding import prepared
from latentvars.inference.running.degenerate import empty
from latentvars.inference.running.stopping import Status
from latentvars.inference.running.whole import Whole
from latentvars.inference.sampling import Draws
from latentvars.posterior import LatentPosterior
from latentvars.posterior.criteria import Certainty, Criteria, certainty
from latentvars.posterior.datatree import Knowledge, Replicates, datatree, with_bootstrap
from latentvars.posterior.imputation import impute
from latentvars.posterior.latent_draws import latent_draws, read_beliefs
from latentvars.posterior.shared import SharedPosterior, shared_posterior
from latentvars.posterior.standard_errors import Kind, StandardErrors, Weights, standard_errors
from latentvars.posterior.summary import summary
from latentvars.posterior.symmetry import one_labelling
from latentvars.program import Program, check_labels, check_missing, model_parameters
from latentvars.randomness import derive
from latentvars.rows import Rows, Schema

if TYPE_CHECKING:
    import pandas
    import xarray as xr

DRAWS = 1_000


@dataclass(frozen=True, eq=False)
class Fit:
    """A model with what was learnt about it.

    Attributes:
        program: the (private copy of the) model bound to its roles.
        rows: the data.
        algorithm: its hyper-parameters.
        globals: what is known of the globals.
        status: how the run ended.
        history: objective after each pass, nats per row.
        scores: what :attr:`row_log_likelihood` gives, where it is kept; None where it is worked out when asked for.
        seed: of the run.
        seconds: run time.
        state: the algorithm's last state, to resume from; None for a loaded fit.
        optima: where every start ended; None for a single start.
        shared: the posterior of the discrete globals at the point; None where the model has none. What is read off row
            by row (latents, scores, predictions, imputations) is given their most probable value.
        extent: counts and log-likelihood of the rows of all processes; None where this one has them all.
        total: what :attr:`log_likelihood` gives, where it is known without ``scores``.
    """

    program: Program
    rows: Rows
    algorithm: Algorithm | OneGo | None
    globals: GlobalsPosterior
    status: Status
    history: np.ndarray = field(repr=False)
    scores: Tensor | None = field(repr=False)
    seed: int = 0
    seconds: float = 0.0
    state: Any = field(default=None, repr=False)
    optima: Optima | None = None
    shared: SharedPosterior | None = None
    extent: Extent | None = None
    total: float | None = None

    @staticmethod
    def of(
        program: Program,
        rows: Rows,
        algorithm: Algorithm | OneGo | None,
        posterior: GlobalsPosterior,
        *,
        status: Status,
        history: np.ndarray,
        seed: int,
        seconds: float = 0.0,
        state: Any = None,
        optima: Optima | None = None,
        whole: Whole | None = None,
        total: float | None = None,
    ) -> Fit:
        """Complete a fit with the log-likelihood of its rows at the point.

        Args:
            program, rows, algorithm, posterior, status, history, seed, seconds, state, optima: as the attributes.
            whole: the rows of all processes, each of which is completing its fit.
            total: Σ wₙ log p(xₙ) at the point, nats, where it is known: rows are scored when they are asked for.
        """
        spread = whole if whole is not None and whole.shared else None
        add = None if spread is None else partial(_added, spread.backend)
        shared = shared_posterior(program, posterior.point, rows, add) if program.roles.choices else None
        program = program if shared is None else program.given(shared.mode)
        point = posterior.point
        if spread is None:
            total = total if total is not None and math.isfinite(total) else None
            scores = None if rows.streamed or total is not None else row_scores(program, point, rows, seed)
            known = (program, rows, algorithm, posterior, status, history, scores, seed, seconds, state, optima, shared)
            return Fit(*known, total=total)
        extent, scores = Extent.of(spread, program, point, seed)
        return Fit(
            program, rows, algorithm, posterior, status, history, scores, seed, seconds, state, optima, shared, extent
        )

    @cached_property
    def _kept_scores(self) -> Tensor:
        return row_scores(self.program, self.point, self.rows, self.seed)

    @property
    def row_log_likelihood(self) -> Tensor:
        """``[N]`` marginal log-likelihood of each row at the point, nats; an ELBO where there are continuous locals.

        Given the most probable value of the discrete globals, where there are some. Of rows in files it is worked out
        anew each time; of several processes each has that of its own rows.
        """
        if self.scores is not None:
            return self.scores
        return self._scored if self.rows.streamed else self._kept_scores

    @property
    def _scored(self) -> Tensor:
        return row_scores(self.program, self.point, self.rows, self.seed)

    @property
    def model(self) -> LatentModel:
        """The fitted model: a private copy, with trained networks."""
        return self.program.model

    @property
    def collapsed(self) -> tuple[str, ...]:
        """Elements of globals at the variance floor, as ``covariance[2]``: a spurious optimum; () for a loaded fit."""
        if self.algorithm is None or self.state is None or isinstance(self.algorithm, OneGo):
            return ()
        return tuple(self.algorithm.collapsed(self.state))

    @property
    def empty(self) -> tuple[str, ...]:
        """Values of discrete locals that no row or step has, as ``z[2]``: empty components or states."""
        return empty(self.program, self.point, self.rows) if self.extent is None else self.extent.empty

    @property
    def schema(self) -> Schema:
        """What new rows have to look like."""
        return self.rows.schema

    @property
    def point(self) -> dict[str, Tensor]:
        """One value for each global, constrained: the estimate of EM, the median of SVI's guide, the mean of draws."""
        return {name: value.detach() for name, value in self.globals.point.items()}

    @property
    def exact(self) -> bool:
        """Whether log-likelihoods are exact marginals (no continuous locals), not lower bounds."""
        return not self.program.roles.continuous

    @property
    def log_likelihood(self) -> float:
        """Σ wₙ log p(xₙ) at the point, nats, locals removed; a lower bound where there are continuous locals.

        With discrete globals g it is log Σ_g p(g) Π p(xₙ | g)^{wₙ}, which is no sum over rows.
        """
        if self.shared is not None:
            return self.shared.evidence
        return self._total if self.extent is None else self.extent.log_likelihood

    @cached_property
    def _total(self) -> float:
        if self.total is not None:
            return self.total
        return total_score(self.program, self.point, self.rows, self.seed, self.scores)

    @property
    def free_parameters(self) -> int:
        """Degrees of freedom of the globals (simplexes count one less than their length, loadings of factors what no
        rotation changes) and network weights."""
        weights = sum(p.numel() for m in self.program.modules.values() for p in m.parameters() if p.requires_grad)
        known = any(site.restriction is not None for site in self.program.space.sites)  # then nothing can be rotated
        return self.program.space.size + weights - (0 if known else int(getattr(self.model, "redundant", 0)))

    @property
    def bic(self) -> float:
        """−2 log L + df log n (Schwarz 1978); smaller is better. n: total weight of the rows, or of steps."""
        return self._criteria.bic

    @property
    def aic(self) -> float:
        """−2 log L + 2 df (Akaike 1974); smaller is better."""
        return self._criteria.aic

    @property
    def sabic(self) -> float:
        """BIC with (n + 2) / 24 in the place of n (Sclove 1987); smaller is better."""
        return self._criteria.sabic

    @property
    def caic(self) -> float:
        """−2 log L + df (log n + 1) (Bozdogan 1987); smaller is better."""
        return self._criteria.caic

    @property
    def icl(self) -> float:
        """BIC + 2 :attr:`entropy` (Biernacki, Celeux & Govaert 2000); smaller is better. Errors as :attr:`entropy`."""
        return self._criteria.icl(self.entropy)

    @property
    def entropy(self) -> float:
        """Σ wₙ H(zₙ | xₙ) of the discrete locals at the point, nats: of components, of whole paths of chains.

        Given the most probable value of the discrete globals, where there are some.

        Raises:
            SupportError: no discrete locals, continuous ones besides, or several processes.
        """
        return self._certainty.entropy

    @property
    def normalised_entropy(self) -> float:
        """1 − :attr:`entropy` / Σ wₙ log K (Ramaswamy et al. 1993): 1 where all rows are certain. Errors alike."""
        return self._certainty.normalised

    @cached_property
    def _certainty(self) -> Certainty:
        return certainty(self.program, self.point, self.rows, alone=self.extent is None)

    @property
    def _criteria(self) -> Criteria:
        return Criteria(self.log_likelihood, self.free_parameters, self._size())

    def _size(self) -> float:
        if self.extent is not None:
            return self.extent.size
        weights = self.rows.weights
        return float(weights.sum() if self.rows.lengths is None else (weights * self.rows.lengths).sum())

    def latent(self, data: Any = None, *, batch_size: int | None = None, draws: int | None = None) -> LatentPosterior:
        """The belief over the local latents of each row, at the point or averaged over the posterior of the globals.

        Args:
            data: new rows; the rows of the fit by default.
            batch_size: rows at a time; None: all in one batch.
            draws: of the globals to average over, of a sampler as many of each chain; None: at the point (plug-in).

        Raises:
            ShapeError: rows that do not look like those of the fit.
            KindError: ``draws`` of globals that are a point.
            LabelSwitchingError: draws that name components or states differently.
        """
        rows = self.rows if data is None else self.conform(data)
        if batch_size is None and rows.streamed:
            batch_size = rows.block
        points, size = ([self.point], 0) if draws is None else self._globals_to_average(draws)
        found = read_beliefs(self.program, rows, points, batch_size, derive(self.seed, 6))
        return LatentPosterior(found, tuple(rows.names), rows.lengths, size)

    def _globals_to_average(self, draws: int) -> tuple[list[dict[str, Tensor]], int]:
        if isinstance(self.globals, PointMass):
            raise KindError(
                given=f"beliefs averaged over {draws} draws of globals that are a point",
                needed="a distribution of the globals",
                remedy="fit by lv.NUTS(), lv.SVI() or lv.Laplace(), or leave draws out",
            )
        values = self.knowledge(draws).draws or {}
        size = len(next(iter(values.values()))) if values else 1
        if isinstance(self.globals, Draws):
            self._check_labelling()
        return [{name: value[number] for name, value in values.items()} for number in range(size)], size

    def _check_labelling(self) -> None:
        """Whether the draws of a sampler agree about which label is which; LabelSwitchingError where not."""
        assert isinstance(self.globals, Draws)
        values = {name: value.flatten(0, 1) for name, value in self.globals.values.items()}
        one_labelling(self.program, self.rows, values, self.globals.stats["lp"].flatten(), derive(self.seed, 40))

    def refine(self, data: Any = None, steps: int = 200) -> Fit:
        """The fit with a posterior of its own for each of these rows, from the guide's by local refinement.

        Closes the gap between what an amortised guide says of a row and the best normal (the ELBO per row grows), and
        takes rows that a guide without amortisation has never met. Everything but the guide stays what it is.

        Args:
            data: new rows; the rows of the fit by default.
            steps: of gradient ascent, for all rows at a time.

        Returns:
            A fit of these rows, whose guide knows these rows alone.

        Raises:
            SupportError: a model without continuous locals, whose beliefs are exact.
        """
        if steps < 1:
            raise SettingError(f"steps={steps}", "at least one step", "write steps=200")
        rows = self.rows if data is None else self.conform(data)
        program = refined(self.program, self.point, rows, steps, derive(self.seed, 15))
        return replace(
            self,
            program=program,
            rows=rows,
            scores=row_scores(program, self.point, rows, self.seed),
            extent=None,
            total=None,
        )

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """Hashes of the model, of its data and of what was learnt, the same after a save and a load."""
        return fingerprint(self.program, self.globals, self.rows)

    def draw_latents(self, data: Any = None, draws: int = 100, *, seed: int | None = None) -> dict[str, Tensor]:
        """Draws of the locals of each row, given each of some draws of the globals: with their uncertainty.

        Discrete locals are exact posterior draws (whole paths of a chain), continuous ones those of the sampler or of
        the model's guide.

        Args:
            data: new rows; the rows of the fit by default.
            draws: S; of a sampler as many of each chain, spread evenly over it, and all where there are fewer.
            seed: of the draws; None: that of the fit.

        Returns:
            Local site → ``[S, N, ...]``, −1 beyond the length of a chain; empty where the model has no locals.

        Raises:
            SettingError: fewer than one draw.
            SupportError: a local that is integrated out given another one that is summed out.
            KindError: rows that stay in their files.
        """
        if draws < 1:
            raise SettingError(f"draws={draws}", "at least one draw", "write draws=100")
        rows = self.rows if data is None else self.conform(data)
        seed = self.seed if seed is None else seed
        values, _ = self.globals.draws(draws, derive(seed, 13))
        found = len(next(iter(values.values()))) if values else draws
        own = self.globals.local_draws(draws) if isinstance(self.globals, Draws) and data is None else {}
        return latent_draws(self.program, rows, values, found, derive(seed, 14), own)

    def latents(self, data: Any = None, *, numbers: int = 2**20) -> Iterator[LatentPosterior]:
        """The beliefs of :meth:`latent` in parts, in the order of the rows: for data that stay in their files.

        Args:
            data: new rows; the rows of the fit by default.
            numbers: how many numbers of the data are in memory at a time.
        """
        rows = self.rows if data is None else Rows.of(data)
        for low, part in rows.parts(numbers):
            found = self.latent(part)
            names = tuple(rows.names[low : low + len(part)])
            yield LatentPosterior(
                found.beliefs, names if len(names) == len(found.names) else found.names, found.lengths
            )

    def impute(self, data: Any = None, draws: int | None = None, *, seed: int = 0) -> dict[str, Tensor]:
        """The columns with their missing entries filled in from the observed ones of the same row, at the point.

        Args:
            data: new rows; the rows of the fit by default.
            draws: number of draws of the missing entries; None: their expectations (of a category: its most probable
                code). Given continuous locals an expectation is an average over 100 draws of the guide.
            seed: of the draws.

        Returns:
            Each column ``[S, ...]`` as it stands in the rows, or ``[draws, S, ...]``; observed entries to the bit.
            Entries that no observed site holds as they stand remain NaN.

        Raises:
            SupportError: a law without a mean, where no draws are asked for.
            SettingError: fewer than one draw.
        """
        if draws is not None and draws < 1:
            raise SettingError(f"draws={draws}", "at least one draw", "write draws=100, or None for expectations")
        rows = self.rows if data is None else self.conform(data)
        return impute(self.program, rows, self.point, draws=draws, seed=derive(self.seed, 12, seed))

    def score_rows(self, data: Any = None) -> Tensor:
        """Marginal log-likelihood of each row at the point ``[N]``, nats (an ELBO with continuous locals)."""
        if data is None:
            return self.row_log_likelihood
        return row_scores(self.program, self.point, self.conform(data), self.seed)

    def conform(self, data: Any) -> Rows:
        """New data as rows like those of the fit, checked."""
        rows = prepared(self.model, data)
        self.schema.check(rows)
        check_missing(self.program, rows)
        check_labels(self.program, rows)
        return rows

    def to_datatree(
        self,
        draws: int | None = None,
        *,
        seed: int | None = None,
        predictive: bool | int = True,
        latents: bool | Literal["draws"] = True,
        prior: int = 0,
        conditional: bool = False,
        bootstrap: Replicates | None = None,
    ) -> xr.DataTree:
        """Everything that ArviZ reads, with named axes, as an xarray DataTree.

        Groups: ``posterior`` (draws of the globals as ``(chain, draw)``) and ``unconstrained_posterior``, with
        ``sample_stats`` (``lp``, ``log_q`` of a guide; of a sampler ``energy``, ``diverging``, ``tree_depth``,
        ``step_size``, ``n_steps``, ``acceptance_rate``),
        or ``point_estimate`` where the globals are a point; ``log_likelihood`` (each row with its locals removed, not
        weighted); ``posterior_predictive`` (new rows, their locals drawn from the model given the globals);
        ``observed_data``; ``constant_data`` (covariates, weights, lengths); ``latent_mean``; ``optimization``.

        Args:
            draws: of the globals, and of new data at a point; None: 1,000, or all those of a sampler.
            seed: of the draws; None: that of the fit.
            predictive: draws of new data, spread evenly over those of the globals; True: as many as ``draws``, or
                as give 20 million numbers where there are many rows; False: none.
            latents: whether to add posterior means of the locals, at the point; ``"draws"`` adds ``latent_draws`` too,
                one draw of the locals for each of the globals, made some rows at a time when they are read.
            prior: draws of the globals from their priors, with new data given each: ``prior``, ``prior_predictive``.
            conditional: whether to add ``log_likelihood_conditional``, of each row given a draw of its locals: what the
                row says about itself, and so not for leave-one-out.
            bootstrap: ``lv.bootstrap(fit)``, whose replicates become the group ``bootstrap``.

        Raises:
            ModelError: ``prior=`` of a model with flat priors.
            DataError: a bootstrap of another fit.
            SupportError: ``conditional=True`` where locals are integrated out in closed form.
        """
        seed = self.seed if seed is None else seed
        known = self.knowledge(draws, seed=seed)
        tree = datatree(
            known,
            prior=prior,
            conditional=conditional,
            latent_draws=latents == "draws",
            history=self.history,
            latent=self.latent() if latents else None,
            draws=draws or known.size or DRAWS,
            predictive=None if predictive is True else int(predictive),
            seed=seed,
            attributes=described(self),
        )
        return tree if bootstrap is None else with_bootstrap(tree, known, bootstrap)

    def summary(
        self,
        draws: int | None = None,
        *,
        seed: int | None = None,
        probability: float = 0.89,
        interval: Literal["eti", "hdi"] = "eti",
        errors: Kind | None = "information",
        check_labels: bool = True,
    ) -> pandas.DataFrame:
        """A table with one line for each number of each global, as ``loc[0, height]``.

        Columns: ``mean``, ``sd`` and an interval (equal tails or highest density) of draws of the globals. Where they
        come from two chains or more, also ``ess_bulk``, ``ess_tail``, ``r_hat`` and Monte Carlo errors; where they
        are a point: its ``estimate``, and (unless ``errors`` is None, or there is no exact log-likelihood) ``sd``, its
        standard error, and the confidence interval ``ci89_lb``, ``ci89_ub``, as :meth:`standard_errors`.

        Args:
            draws: of the globals; None: 1,000, or all those of a sampler.
            seed: of the draws; None: that of the fit.
            probability: of the interval.
            interval: ``"eti"`` equal tails, ``"hdi"`` highest density.
            errors: kind of the standard errors of a point.
            check_labels: refuse to average draws of a sampler that disagree about which component, state or factor is
                which (some hundredths of a second for each of 100 draws, at most).

        Raises:
            LabelSwitchingError: such draws; :func:`latentvars.align` brings them into one labelling.
        """
        if check_labels and isinstance(self.globals, Draws):
            self._check_labelling()
        known = self.knowledge(draws, seed=seed)
        found = None
        if errors is not None and isinstance(self.globals, PointMass) and self._has_errors:
            try:
                found = self.standard_errors(errors)
            except NumericalError as error:
                warnings.warn(f"no standard errors: {error}", stacklevel=2)
        return summary(known, probability, interval, found)

    def standard_errors(self, kind: Kind = "information", weights: Weights = "frequency") -> StandardErrors:
        """Asymptotic standard errors of the point, from the exact marginal log-likelihood of the rows.

        Args:
            kind: ``"information"``: the inverse of the observed information; ``"sandwich"``: right also where the
                model is not (Huber 1967; White 1982), of at least as many rows as parameters.
            weights: how the sandwich reads row weights: ``"frequency"``: weight 2 is the row twice; ``"sampling"``: a
                row stands for as many others as its weight says.

        Raises:
            KindError: the globals are a distribution, whose standard deviations :meth:`summary` has.
            SupportError: continuous locals, network weights, or discrete globals.
            NumericalError: the point is no maximum.
            SettingError: too few rows for a sandwich.
        """
        if not isinstance(self.globals, PointMass):
            raise KindError(
                given=f"globals that are a distribution ({type(self.globals).__name__})",
                needed="a point: a fit by lv.EM() or lv.SVI(guide=lv.Delta())",
                remedy="read the standard deviations off fit.summary()",
            )
        if self.shared is not None:
            raise SupportError(
                given=f"standard errors of a model with the discrete globals {list(self.shared.choices.names)}",
                needed="rows that are independent given the continuous globals",
                remedy="read how certain they are off fit.shared.table(); lv.bootstrap(fit) has standard errors",
            )
        return standard_errors(self.program, self.point, self.rows, kind, weights)

    @property
    def _has_errors(self) -> bool:
        return (
            self.exact
            and self.shared is None
            and bool(self.program.space.size)
            and not model_parameters(self.program.model)
        )

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        data: bool = True,
        datatree: bool | xr.DataTree | None = None,
    ) -> Path:
        """Write the fit into a new folder, whole or not at all; :func:`latentvars.load` reads it.

        Args:
            path: of the folder; its parent exists.
            overwrite: replace an earlier fit there; the old one stays until the new one is complete.
            data: whether the rows are stored; without them ``load`` has to be given the same rows. Rows in files are
                not, nor those of several processes.
            datatree: whether :meth:`to_datatree` is stored too, as ``posterior.nc``; or a tree to store. None: unless
                the rows stay in files, or there are several processes.

        Raises:
            StorageError: something is in the way, or the parent is missing.
        """
        tree = (not self.rows.streamed and self.extent is None) if datatree is None else datatree
        return save(self, Path(path), overwrite=overwrite, data=data, tree=tree)

    def save_snapshot(self, path: Path, digest: str | None) -> Path:
        """Write what is needed to go on from here; see :class:`latentvars.Checkpoint`."""
        return save_snapshot(self, path, digest)

    def knowledge(self, draws: int | None = None, *, seed: int | None = None) -> Knowledge:
        """The globals as plain values, draws or a point, with the model and the data: what readouts begin with.

        Args:
            draws: of the globals; None: 1,000, or all those of a sampler.
            seed: of the draws; None: that of the fit.

        Raises:
            SettingError: fewer than one draw.
        """
        seed = self.seed if seed is None else seed
        if draws is not None and draws < 1:
            raise SettingError(f"draws={draws}", "at least one draw", "write draws=1000")
        sampled = self.globals if isinstance(self.globals, Draws) else None
        draws = draws or (DRAWS if sampled is None else sampled.size)
        values, log_q = self.globals.draws(draws, derive(seed, 11))
        return Knowledge(
            self.program,
            self.rows,
            self.point,
            self.row_log_likelihood,
            None if isinstance(self.globals, PointMass) else values,
            log_q,
            1 if sampled is None else sampled.chains,
            {} if sampled is None else sampled.statistics(draws),
            {} if sampled is None else sampled.local_draws(draws),
        )

    def explain(self) -> str:
        """How each global was maximised: a table of global, where it enters, rule.

        Raises:
            KindError: the fit was not made by EM.
        """
        return explained(self.algorithm, self.state, self.shared)

    def __str__(self) -> str:
        kind = "log-likelihood" if self.exact else "log-likelihood (ELBO)"
        weight = float(self.rows.weights.sum()) if self.extent is None else self.extent.weight
        rows = (
            str(len(self.rows)) if self.extent is None else f"{self.extent.rows} in {self.extent.processes} processes"
        )
        by = "" if self.algorithm is None else f" by {type(self.algorithm).__name__}"
        notes = getattr(self.algorithm, "notes", None)
        return printed(
            Outcome(
                head=f"Fit of {type(self.model).__name__}{by}: {self.status.value}",
                size=f"rows {rows}, passes {len(self.history)}, {self.seconds:.2f} s, seed {self.seed}",
                value=f"{kind} {self.log_likelihood:.4f} nats ({self.log_likelihood / weight:.6f} per row), "
                f"free parameters {self.free_parameters}, BIC {self.bic:.3f}",
                notes=(
                    *(() if notes is None or self.state is None else notes(self.state)),
                    *getattr(self.globals, "notes", ()),
                ),
                shared=self.shared,
                collapsed=self.collapsed,
                empty=self.empty,
                optima=self.optima,
            )
        )


def _added(backend: Backend, value: Tensor) -> Tensor:
    return torch.stack(backend.gather(value)).sum(0)
