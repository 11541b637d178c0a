"""Bootstrap: replicates of an estimate, and what they say about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
import xarray as xr
from torch import Tensor

from latentvars.errors import NameUnknownError, SettingError
from latentvars.posterior.axes import Axes
from latentvars.posterior.scales import Bounds, normal_interval
from latentvars.posterior.standard_errors import labels

LEAD = ("chain", "draw")


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Replicates of a point estimate.

    Attributes:
        point: global → the estimate.
        draws: global → its replicates ``[R, *shape]``, of those that succeeded.
        log_likelihood: of each replicate on its own data ``[R]``, nats.
        kind: ``"rows"`` or ``"parametric"``.
        seed: that decided the replicates.
        failures: what went wrong in each replicate that is not among the draws.
        unconverged: how many of the draws stopped at a limit.
        aligned: whether the labels of every discrete local were matched with those of the estimate.
        interrupted: whether Ctrl-C ended the replicates early.
        bounds: global → bounds of its numbers.
        axes: names of the axes of the globals.
    """

    point: Mapping[str, Tensor]
    draws: Mapping[str, Tensor] = field(repr=False)
    log_likelihood: Tensor = field(repr=False)
    kind: str
    seed: int
    failures: tuple[str, ...]
    unconverged: int
    aligned: bool
    interrupted: bool
    bounds: Mapping[str, Bounds] = field(repr=False)
    axes: Axes = field(repr=False)

    def __len__(self) -> int:
        return len(self.log_likelihood)

    @property
    def failed(self) -> int:
        """Replicates that could not be fitted."""
        return len(self.failures)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.draws:
            raise NameUnknownError(
                given=f"the global {name!r}", needed=f"one of {list(self.draws)}", remedy="correct the name"
            )
        return self.draws[name]

    def standard_errors(self) -> dict[str, Tensor]:
        """Standard deviations of the replicates, ``[*shape]``."""
        return {name: value.std(0) for name, value in self.draws.items()}

    def bias(self) -> dict[str, Tensor]:
        """Mean of the replicates minus the estimate, ``[*shape]``."""
        return {name: value.mean(0) - self.point[name] for name, value in self.draws.items()}

    def interval(
        self, level: float = 0.95, kind: Literal["percentile", "bias-corrected", "normal"] = "percentile"
    ) -> dict[str, Tensor]:
        """Confidence intervals, global → ``[*shape, 2]``.

        Args:
            level: of confidence.
            kind: ``"percentile"``: quantiles of the replicates (Efron & Tibshirani 1993, eq. 13.5);
                ``"bias-corrected"``: those shifted by the share of replicates below the estimate (Efron 1981);
                ``"normal"``: estimate ± z standard errors on the scale of each number, as
                :meth:`latentvars.posterior.standard_errors.StandardErrors.interval`.

        Raises:
            SettingError: a level outside (0, 1), or an unknown kind.
        """
        if not 0 < level < 1:
            raise SettingError(f"level={level}", "a probability between 0 and 1", "write interval(0.95)")
        tails = torch.tensor([0.5 - level / 2, 0.5 + level / 2], dtype=torch.float64)
        width, errors = torch.special.ndtri(tails[1]), self.standard_errors()
        found = {}
        for name, value in self.draws.items():
            point = self.point[name]
            if kind == "normal":
                bounds = self.bounds[name]
                found[name] = normal_interval(point, errors[name], bounds.low, bounds.high, width)
            elif kind == "percentile":
                found[name] = _quantiles(value, tails.expand(*point.shape, 2))
            elif kind == "bias-corrected":
                below = (value < point).double().mean(0) + 0.5 * (value == point).double().mean(0)
                shift = torch.special.ndtri(below.clamp(0.5 / len(self), 1 - 0.5 / len(self)))
                shifted = torch.special.ndtr(2 * shift[..., None] + torch.special.ndtri(tails))
                found[name] = _quantiles(value, shifted)
            else:
                raise SettingError(f"kind={kind!r}", "'percentile', 'bias-corrected' or 'normal'", "change kind")
        return found

    def to_datatree(self) -> xr.DataTree:
        """The replicates as the group ``bootstrap`` with the axes ``(chain=1, draw=R, ...)``, and ``point_estimate``.

        They are no posterior draws, and so stand in a group of their own: ``arviz_stats.summary(tree,
        group="bootstrap")``.
        """
        arrays = {name: value.numpy()[None] for name, value in self.draws.items()}
        facts = {"kind": self.kind, "seed": self.seed, "failed": self.failed, "unconverged": self.unconverged}
        likelihood = self.axes.dataset(
            {"log_likelihood": self.log_likelihood.numpy()[None]}, {"log_likelihood": ()}, LEAD, {"unit": "nats"}
        )
        groups = {
            "bootstrap": self.axes.dataset(arrays, lead=LEAD, attributes=facts),
            "bootstrap_stats": likelihood,
            "point_estimate": self.axes.dataset({name: value.numpy() for name, value in self.point.items()}),
        }
        return xr.DataTree.from_dict({"/": xr.Dataset(attrs={"created_by": "latentvars"}), **groups})

    def __str__(self) -> str:
        total = len(self) + self.failed
        text = f"Bootstrap ({self.kind}): {len(self)} of {total} replicates"
        notes = [
            f"{self.failed} failed ({self.failures[0]})" if self.failed else "",
            f"{self.unconverged} did not converge" if self.unconverged else "",
            "" if self.aligned else "labels not aligned",
            "interrupted" if self.interrupted else "",
        ]
        lines = [", ".join([text, *(note for note in notes if note)])]
        errors, intervals = self.standard_errors(), self.interval()
        for name, value in self.point.items():
            parts = (value.flatten(), errors[name].flatten(), intervals[name].reshape(-1, 2))
            for label, one, error, (low, high) in zip(labels(name, value), *parts, strict=True):
                lines.append(f"  {label}  {one:.6g}  error {error:.4g}  95 %: {low:.6g} … {high:.6g}")
        return "\n".join(lines)


def _quantiles(value: Tensor, at: Tensor) -> Tensor:
    """Quantiles of ``[R, *shape]`` at probabilities of each number's own ``[*shape, 2]``, by linear interpolation."""
    ordered = value.to(torch.float64).sort(0).values
    place = at * (len(value) - 1)
    low = place.floor().long().movedim(-1, 0)
    high = (low + 1).clamp(max=len(value) - 1)
    share = place.movedim(-1, 0) - low
    return torch.lerp(ordered.gather(0, low), ordered.gather(0, high), share).movedim(0, -1)
