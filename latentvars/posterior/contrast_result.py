"""Contrast: what is known of a function of the globals and locals, and the probabilities of regions of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from latentvars.errors import KindError, NameUnknownError, SettingError
from latentvars.posterior.axes import Axes
from latentvars.posterior.standard_errors import labels

if TYPE_CHECKING:
    import pandas
    import xarray as xr

Region = tuple[float | None, float | None] | Callable[[Any], Any]
LEAD = ("chain", "draw")


class Probability(NamedTuple):
    """That a quantity lies in a region.

    Attributes:
        value: ``[*shape]``, as many as the region has answers.
        error: Monte Carlo standard error of each, zero where nothing was drawn.
    """

    value: Tensor
    error: Tensor


@dataclass(frozen=True, eq=False)
class Contrast:
    """What is known of one or several quantities, functions of a model's globals and locals.

    Attributes:
        draws: quantity → draws ``[S, *shape]``, chain after chain; of a point estimate draws of its normal
            approximation.
        estimate: quantity → its value at a point estimate ``[*shape]``; None where there are posterior draws.
        errors: quantity → standard error of the estimate by the delta method, NaN where it is withheld; None likewise.
        chains: C, of S / C draws each.
        correlated: whether the draws are those of Markov chains.
        basis: where the spread comes from.
        level: probability of :attr:`interval`.
        regions: name → probability of the region of that name.
        withheld: number, as ``gap[0]`` → why it has no standard error.

    With several quantities, ``found["gap"]`` is the contrast of one of them; :attr:`mean`, :attr:`sd`,
    :attr:`interval` are read of one.
    """

    draws: Mapping[str, Tensor] = field(repr=False)
    estimate: Mapping[str, Tensor] | None
    errors: Mapping[str, Tensor] | None
    chains: int
    correlated: bool
    basis: str
    level: float
    regions: Mapping[str, Probability] = field(default_factory=dict)
    withheld: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The quantities."""
        return tuple(self.draws)

    def __getitem__(self, name: str) -> Contrast:
        if name not in self.draws:
            raise NameUnknownError(
                given=f"the quantity {name!r}", needed=f"one of {list(self.draws)}", remedy="correct the name"
            )
        parts = [None if of is None else {name: of[name]} for of in (self.estimate, self.errors)]
        why = {label: reason for label, reason in self.withheld.items() if label.partition("[")[0] == name}
        one = {name: self.draws[name]}
        return replace(self, draws=one, estimate=parts[0], errors=parts[1], regions={}, withheld=why)

    @property
    def mean(self) -> Tensor:
        """Posterior mean, or the value at the point estimate, ``[*shape]``."""
        name = self._only()
        return self.draws[name].mean(0) if self.estimate is None else self.estimate[name]

    @property
    def sd(self) -> Tensor:
        """Posterior standard deviation, or standard error of the estimate, ``[*shape]``."""
        name = self._only()
        return self.draws[name].std(0) if self.errors is None else self.errors[name]

    @property
    def interval(self) -> Tensor:
        """Equal tails of the draws, or estimate ± z standard errors, of probability :attr:`level`, ``[*shape, 2]``."""
        tails = torch.tensor([0.5 - self.level / 2, 0.5 + self.level / 2], dtype=torch.float64)
        if self.estimate is None:
            return torch.quantile(self.draws[self._only()], tails, dim=0).movedim(0, -1)
        return self.mean[..., None] + self.sd[..., None] * torch.special.ndtri(tails)

    def probability(self, region: Region) -> Probability:
        """That the quantity lies in a region.

        Args:
            region: ``(low, high)``, each number between the two, None where there is no bound; or a function of one
                value of the quantity (of all quantities by name, where there are several) that says yes or no, once
                or for each of its numbers, as ``lambda d: d > 0``.

        Of a point estimate it is that of the normal approximation, worked out between two bounds, and the share of
        10,000 draws of it for a function. The error of a share is √(p (1 − p) / n), n the effective number of draws
        (Vehtari et al. 2021, of Markov chains); where all draws agree, that of half a draw.

        Raises:
            SettingError: bounds that are no interval.
            KindError: a function that answers otherwise than by yes and no.
        """
        if callable(region):
            return self._share(self._answers(region))
        low, high = _bounds(region)
        if self.estimate is not None:
            value, error = self.mean, self.sd
            # a number that is known is on one side of a bound or the other: ±inf
            beyond = [torch.special.ndtr((end - value) / error) for end in (low, high)]
            sure = ((value >= low) & (value <= high)).to(torch.float64)
            return Probability(torch.where(error == 0, sure, beyond[1] - beyond[0]), torch.zeros_like(value))
        drawn = self.draws[self._only()]
        return self._share((drawn >= low) & (drawn <= high))

    def summary(self) -> pandas.DataFrame:
        """A line for each number: ``mean``, ``sd``, equal-tailed interval; of several chains effective sample sizes,
        R-hat and Monte Carlo errors too. Of a point ``estimate``, ``sd`` (standard error) and confidence interval."""
        if self.estimate is not None:
            import pandas

            parts = [self[name] for name in self.names]
            named = [label for name, part in zip(self.names, parts, strict=True) for label in labels(name, part.mean)]
            ends = torch.cat([part.interval.reshape(-1, 2) for part in parts])
            percent = f"ci{100 * self.level:g}"
            columns = {
                "estimate": torch.cat([part.mean.flatten() for part in parts]).numpy(),
                "sd": torch.cat([part.sd.flatten() for part in parts]).numpy(),
                f"{percent}_lb": ends[:, 0].numpy(),
                f"{percent}_ub": ends[:, 1].numpy(),
            }
            return pandas.DataFrame(columns, index=pandas.Index(named))
        import arviz_stats  # here, because it takes longer to import than all else that a contrast needs

        settings: dict[str, Any] = {"ci_prob": self.level, "ci_kind": "eti", "round_to": "none"}
        kind: Any = "all" if self.chains > 1 else "stats"
        return cast(Any, arviz_stats).summary(self.to_datatree(), kind=kind, **settings)

    def to_datatree(self) -> xr.DataTree:
        """The draws as the group ``posterior``, ``(chain, draw, ...)``, or the estimate as ``point_estimate``."""
        import xarray as xr

        axes = Axes({}, {})
        if self.estimate is not None:
            group = axes.dataset({name: value.numpy() for name, value in self.estimate.items()})
            return xr.DataTree.from_dict({"point_estimate": group})
        arrays = {name: self._by_chain(value).numpy() for name, value in self.draws.items()}
        return xr.DataTree.from_dict({"posterior": axes.dataset(arrays, lead=LEAD)})

    def __str__(self) -> str:
        lines = [f"Contrast: {self.basis}"]
        for name in self.names:
            part = self[name]
            columns = (part.mean.flatten(), part.sd.flatten(), part.interval.reshape(-1, 2))
            for label, mean, sd, (low, high) in zip(labels(name, part.mean), *columns, strict=True):
                lines.append(f"  {label}  {mean:.6g}  sd {sd:.4g}  {100 * self.level:g} %: {low:.6g} … {high:.6g}")
        for name, found in self.regions.items():
            for label, value, error in zip(
                labels(name, found.value), found.value.flatten(), found.error.flatten(), strict=True
            ):
                drawn = f" ± {error:.2g}" if error else ""
                lines.append(f"  P({label}) = {value:.4f}{drawn}")
        lines += [f"  {label}: no standard error, {why}" for label, why in self.withheld.items()]
        return "\n".join(lines)

    def _only(self) -> str:
        if len(self.draws) == 1:
            return next(iter(self.draws))
        raise KindError(
            given=f"the quantities {list(self.draws)}",
            needed="one of them",
            remedy=f'write found["{next(iter(self.draws))}"], or read summary()',
        )

    def _by_chain(self, value: Tensor) -> Tensor:
        return value.reshape(self.chains, -1, *value.shape[1:])

    def _answers(self, region: Callable[[Any], Any]) -> Tensor:
        """What the region says of each draw, ``[S, *answer]``; NaN where a number has no standard error."""
        alone = len(self.draws) == 1
        found = []
        for values in itertools.zip_longest(*self.draws.values()):
            value = values[0] if alone else dict(zip(self.draws, values, strict=True))
            answer = torch.as_tensor(region(value))
            if answer.dtype != torch.bool or (found and answer.shape != found[0].shape):
                raise KindError(
                    given=f"a region that answers {answer.tolist()!r} ({str(answer.dtype).removeprefix('torch.')})",
                    needed="yes or no, as often for every draw",
                    remedy="write a comparison, as lambda d: d > 0",
                )
            found.append(answer)
        unknown = any(bool(value.isnan().any()) for value in self.draws.values())
        answers = torch.stack(found).to(torch.float64)
        return torch.full_like(answers, torch.nan) if unknown else answers

    def _share(self, answers: Tensor) -> Probability:
        """The share of yes among ``[S, ...]``, with its Monte Carlo error."""
        answers = answers.to(torch.float64)
        share, size = answers.mean(0), float(len(answers))
        count = torch.full_like(share, size)
        if self.correlated:
            from arviz_stats.base.array import array_stats

            chains = (
                self._by_chain(answers).flatten(2).numpy() if answers.dim() > 1 else self._by_chain(answers).numpy()
            )
            with np.errstate(all="ignore"):
                found = array_stats.ess(chains, chain_axis=0, draw_axis=1, method="mean")
            count = torch.as_tensor(np.asarray(found, dtype=np.float64)).reshape(share.shape)
        agreed = (share == 0) | (share == 1)
        doubt = torch.where(agreed, 0.5 / (size + 1), share)
        return Probability(share, (doubt * (1 - doubt) / torch.where(agreed, size, count)).sqrt())


def _bounds(region: Any) -> tuple[float, float]:
    if isinstance(region, tuple) and len(region) == 2:
        low, high = (
            float(default if end is None else end) for end, default in zip(region, (-np.inf, np.inf), strict=True)
        )
        if low < high:
            return low, high
    raise SettingError(f"the region {region!r}", "(low, high), or a function that says yes or no", "correct it")
