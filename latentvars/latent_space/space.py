"""LatentSpace: where latents live, and what rows they decode to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NoReturn

from torch import Tensor, nn

from latentvars.errors import KindError, SettingError
from latentvars.inference import Fit
from latentvars.latent_space.aggregate import Aggregate, aggregated, pooled
from latentvars.latent_space.anomaly import Anomaly, Score, anomaly
from latentvars.latent_space.chains import by_chains
from latentvars.latent_space.checks import check_continuous, checked, means_of
from latentvars.latent_space.decoding import Decoded
from latentvars.latent_space.directions import Direction, Directions
from latentvars.latent_space.fitted import FittedSource
from latentvars.latent_space.folds import Folds
from latentvars.latent_space.generator import GeneratorSource, Noise
from latentvars.latent_space.inversion import Inversion, inverted, search
from latentvars.latent_space.measures import Measures
from latentvars.latent_space.paths import LatentPath
from latentvars.latent_space.sampling import check_draws, within
from latentvars.latent_space.variational import by_svi
from latentvars.latent_space.walking import Way, decoded, interpolated, traversed, walked
from latentvars.randomness import derive


@dataclass(frozen=True, init=False, eq=False, repr=False)
class LatentSpace:
    """The space of one latent of a fit: sampled, decoded, walked through and inverted; never a matter of distances.

    Args:
        fit: of a model with locals: any continuous or discrete one, a sample site or one that is summed out.
        site: the local; None where there is one.

    Attributes:
        source: what decodes the latent.

    Raises:
        KindError: a model without locals.
        NameUnknownError: several locals and no name, or another name.
        SupportError: a local in a further plate.
    """

    source: FittedSource | GeneratorSource = field(repr=False)

    def __init__(self, fit: Fit, site: str | None = None) -> None:
        if not isinstance(fit, Fit):
            raise KindError(
                given=f"the latent space of a {type(fit).__name__}",
                needed="a fit",
                remedy="write lv.LatentSpace(lv.fit(model, data, ...)), or lv.LatentSpace.of_generator(module, prior)",
            )
        object.__setattr__(self, "source", FittedSource.of(fit, site))

    @staticmethod
    def of_generator(
        module: nn.Module, prior: Any, *, noise: Noise = None, site: str = "z", observed: str = "x"
    ) -> LatentSpace:
        """The space of z of a frozen generator, such as a GAN's: z ~ prior, x ~ noise(module(z)).

        Args:
            module: ``[M, *shape]`` → ``[M, ...]``; a copy is taken, which nothing trains.
            prior: distribution of one z.
            noise: standard deviation of x about module(z), a number or a tensor; or a function from module(z) to the
                law of x. None: x is module(z); then nothing can be inverted.
            site: name of the latent.
            observed: name of x.

        Raises:
            KindError: no module, no prior, or a discrete one.
            SettingError: noise that is not positive.
            ModelError: a module that does not take draws of the prior.
        """
        space = object.__new__(LatentSpace)
        object.__setattr__(space, "source", GeneratorSource.of(module, prior, noise, site, observed))
        return space

    @property
    def site(self) -> str:
        return self.source.site

    @property
    def discrete(self) -> bool:
        return self.source.discrete

    def __repr__(self) -> str:
        kind = "discrete" if self.discrete else f"continuous {list(self.source.shape)}"
        of = type(self.source.fit.model if isinstance(self.source, FittedSource) else self.source.module).__name__
        return f"LatentSpace of {self.site!r} ({kind}) of {of}"

    def sample(
        self,
        draws: int,
        *,
        data: Any = None,
        region: Callable[[Tensor], Tensor] | None = None,
        seed: int = 0,
        tries: int = 1_000,
    ) -> Tensor:
        """Draws of the prior ``[draws, *shape]``, or of the posteriors of rows, within a region by rejection.

        Args:
            draws: S.
            data: rows of whose posteriors, all alike, draws are taken; None: draws of the prior.
            region: z ``[M, *shape]`` → bool ``[M]``, where draws may lie.
            seed: of the draws.
            tries: most batches of draws before the region is given up.

        Raises:
            SettingError: fewer than one draw, or a region that has hardly any mass.
            KindError: rows of a generator.
        """
        check_draws(draws)
        if data is None:
            return within(self.source.draw, draws, region, seed, tries)
        belief = self._fitted("posteriors of rows").fit.latent(data)
        return within(partial(pooled, belief, self.site), draws, region, seed, tries)

    def aggregate(self, data: Any = None, components: int = 10, *, seed: int = 0) -> Aggregate:
        """Where the latents of the rows lie: a mixture of normals fitted to draws of their posteriors.

        Args:
            data: rows; those of the fit by default.
            components: of the mixture.
            seed: of draws and starts.

        Raises:
            KindError: a generator.
        """
        return aggregated(self._fitted("the aggregate posterior"), data, components, seed)

    def decode(self, z: Any, *, given: Any = None, draws: int | None = None, seed: int = 0) -> Decoded:
        """p(x | z) of values of the latent.

        Args:
            z: ``[M, *shape]``, or one value; categories as whole numbers, paths of states ``[M, T]``.
            given: of a model that reads covariates: rows that have them, one, or one for each value.
            draws: of the globals to average over; None: at the point.
            seed: of draws of the globals, and of other continuous locals.

        Raises:
            ShapeError: values of another shape.
            DataError: values outside the support.
            KindError: ``draws`` of globals that are a point, or of a generator.
            SupportError: covariates that nothing was given for.
        """
        return decoded(self.source, z, given, draws, seed)

    def interpolate(
        self, start: Any, end: Any, steps: int = 9, *, by: Way = "line", given: Any = None, spread: bool = True
    ) -> LatentPath:
        """The way from one value to another.

        Args:
            start: one value of a continuous latent.
            end: another.
            steps: number of points, the ends included.
            by: ``"line"``; ``"circle"``: the great circle; ``"geodesic"``: the way that is shortest as decoded. On the
                real numbers of a latent with bounds.
            given: as for :meth:`decode`.
            spread: whether moves of standard deviations count beside those of means.

        Raises:
            KindError: a discrete latent.
            SettingError: fewer than two points, or another way.
        """
        return interpolated(self.source, start, end, steps, by, given, spread)

    def traverse(
        self,
        dimension: int,
        at: Any = None,
        *,
        values: Any = None,
        steps: int = 9,
        extent: float = 2.5,
        given: Any = None,
    ) -> LatentPath:
        """One number of the latent moved, the others left where they are.

        Args:
            dimension: which of the numbers of a value.
            at: the value to start from; None: the mean of 1,000 draws of the prior.
            values: of the number, in order; None: ``steps`` of them from −``extent`` to ``extent``.
            steps: number of points.
            extent: where they end.
            given: as for :meth:`decode`.

        Raises:
            KindError: a discrete latent.
            ShapeError: a dimension that does not exist.
        """
        return traversed(self.source, dimension, at, values, steps, extent, given)

    def walk(
        self, direction: Direction, at: Any = None, *, amounts: Any = (-2, -1, 0, 1, 2), given: Any = None
    ) -> LatentPath:
        """The points at, plus amounts of a direction.

        Args:
            direction: one of :attr:`directions`.
            at: where it begins; None: at the direction's own origin.
            amounts: ``[S]``, two or more, in order.
            given: as for :meth:`decode`.
        """
        return walked(self.source, direction, at, amounts, given)

    def arithmetic(self, plus: Any, minus: Any = None) -> Tensor:
        """Σ plus − Σ minus on the real numbers of the latent, one value ``[*shape]``: "a − b + c".

        Args:
            plus: values ``[P, *shape]``, as rows of :meth:`locate`.
            minus: values ``[Q, *shape]``.
        """
        check_continuous(self.source, "arithmetic")
        total = self.source.free(checked(plus, self.source)).sum(0)
        if minus is not None:
            total = total - self.source.free(checked(minus, self.source)).sum(0)
        return self.source.value(total[None])[0]

    @property
    def directions(self) -> Directions:
        """Directions of attributes, of most variation and of most change; see :meth:`walk`."""
        return Directions(self.source)

    @property
    def measures(self) -> Measures:
        """Active units, disentanglement, smoothness."""
        return Measures(self.source)

    def locate(self, data: Any = None) -> Tensor:
        """Posterior means of the latents of rows ``[N, *shape]``: points to start from.

        Raises:
            KindError: a generator, or a discrete latent.
        """
        return means_of(self.source, data)

    def invert(
        self,
        data: Any = None,
        *,
        draws: int = 1_000,
        restarts: int = 16,
        modes: int = 8,
        method: Literal["importance", "svi", "nuts"] = "importance",
        seed: int = 0,
    ) -> Inversion:
        """The posterior of the latent of rows, through the decoder: its modes, their masses, and draws.

        Every restart, from the prior and from the guide, climbs to a mode. A mixture of heavy-tailed laws at the modes
        proposes draws, which are weighed by importance. All continuous locals of a row are searched together.

        Args:
            data: N rows; of a fit those of the fit by default.
            draws: S.
            restarts: of each row.
            modes: most of them that are kept.
            method: where draws come from. ``"svi"``: normals of full covariance on the real numbers of the latent, one
                fitted from each mode, in proportion to the masses of the modes. ``"nuts"``: chains, one from each
                mode, whose draws near a mode count as much as the mode has mass, chains that cross or not (needs
                nutpie); for latents of which importance weights are poor.
            seed: of starts and draws.

        Raises:
            KindError: a discrete latent, or a generator without noise.
            SupportError: a local that is integrated out in closed form.
            NumericalError: a row without a density.
        """
        check_continuous(self.source, "inversion by search")
        if method not in ("importance", "svi", "nuts"):
            raise SettingError(f"method={method!r}", '"importance", "svi" or "nuts"', "correct it")
        target = self.source.target(data)
        found = search(target, restarts, modes, seed)
        by_importance = inverted(target, found, draws, seed)
        if method == "importance":
            return by_importance
        return (by_svi if method == "svi" else by_chains)(target, found, by_importance, seed)

    def anomaly(
        self,
        data: Any,
        *,
        reference: Any = None,
        scores: Score | Sequence[Score] = ("likelihood", "typicality"),
        draws: int = 100,
        search: bool = False,
        folds: int | None = None,
        recipe: Callable[[Any], Fit] | None = None,
        seed: int = 0,
    ) -> Anomaly:
        """How strange rows are, with p-values that are ranks among reference rows.

        log p(x) is exact where locals are summed or integrated out; else by importance sampling from the guide, or from
        the modes of each row's posterior, which takes longer and is nearer to the truth (see ``k_hat``).

        Args:
            data: N rows.
            reference: rows like those that are not strange, none of which the model has learnt from. None: the rows of
                the fit, beside which p-values of *new* rows are too small, the more so the fewer rows the model has
                for what it learns; ``held_out`` of the result and its text say so. Hold rows out, or write ``folds``.
            scores: one or some of ``"likelihood"``, ``"typicality"`` and ``"predictive"``.
            draws: of importance sampling, and of the predictive score.
            search: whether the modes of each row are searched for.
            folds: K ≥ 2: the rows of the fit are the reference, a K-th of them at a time, scored by a fit without them
                that scores new rows too (cross-conformal; Vovk 2015): p-values as from held-out rows, for K fits. Not
                for rows of the fit itself, which all but one of these fits know.
            recipe: rows → fit, of ``folds``, such as :class:`latentvars.Fitter`; None: the model again by its
                algorithm, where it has no networks.
            seed: of the draws.

        Raises:
            SettingError: an unknown score, fewer than 25 draws, or folds that do not divide the rows.
            MissingDataError: the predictive score of rows with gaps.
            KindError: a generator without reference rows, or without noise.
        """
        if folds is not None:
            self._fitted("folds")
        division = None if folds is None else Folds(folds, recipe, derive(seed, 4))
        return anomaly(self.source, data, reference, scores, draws, search, division, seed)

    def distance(self, first: Any = None, second: Any = None) -> NoReturn:
        """A latent space has none.

        Raises:
            KindError: always.
        """
        raise KindError(
            given="a distance asked of a latent space, whose rows are beliefs",
            needed="fixed vectors, which are compared by distance",
            remedy="write lv.Embedding(fit).transform(rows); how far one has to walk as decoded is "
            'space.interpolate(a, b, by="geodesic").length',
        )

    def _fitted(self, what: str) -> FittedSource:
        if isinstance(self.source, GeneratorSource):
            raise KindError(f"{what} of a generator", "a fit", "invert the rows: space.invert(x)")
        return self.source
