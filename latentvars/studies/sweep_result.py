"""Sweep: the fits of several values, and the numbers by which they are compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from latentvars.errors import LatentVarsError, NameUnknownError, SettingError
from latentvars.inference import Fit
from latentvars.posterior.loo import loo

if TYPE_CHECKING:
    import pandas

CRITERIA = ("aic", "bic", "sabic", "caic", "icl")  # smaller is better
COMPARED = (*CRITERIA, "elpd")


@dataclass(frozen=True, eq=False)
class Sweep:
    """One fit for each value.

    Attributes:
        fits: value → fit, of those that succeeded.
        failures: value → what went wrong.
        seconds: value → how long it took, all starts included.
        values: all that were asked for; those that Ctrl-C left out are among neither fits nor failures.
        seed: of every fit.
        interrupted: whether Ctrl-C ended the sweep early.
    """

    fits: Mapping[Any, Fit] = field(repr=False)
    failures: Mapping[Any, str]
    seconds: Mapping[Any, float] = field(repr=False)
    values: tuple[Any, ...]
    seed: int
    interrupted: bool = False

    def __len__(self) -> int:
        return len(self.fits)

    def __getitem__(self, value: Any) -> Fit:
        if value not in self.fits:
            raise NameUnknownError(
                given=f"the value {value!r}"
                + (f", which failed: {self.failures[value]}" if value in self.failures else ""),
                needed=f"one of {list(self.fits)}",
                remedy="choose a value that was fitted",
            )
        return self.fits[value]

    def criterion(self, name: str) -> dict[Any, float]:
        """Value → its criterion, NaN where a fit has none.

        Args:
            name: ``"aic"``, ``"bic"``, ``"sabic"``, ``"caic"``, ``"icl"`` (of discrete locals), or ``"elpd"`` by
                leave-one-out (of fits with draws), nats.

        Raises:
            NameUnknownError: there is no such criterion.
        """
        if name not in COMPARED:
            raise NameUnknownError(f"the criterion {name!r}", f"one of {list(COMPARED)}", "correct the name")
        if name == "elpd":
            return {value: found[0] for value, found in self._elpd.items()}
        return {value: _read(fit, name) for value, fit in self.fits.items()}

    def best_value(self, criterion: str = "bic") -> Any:
        """The value of :meth:`best`."""
        found = self.criterion(criterion)
        sign = -1.0 if criterion == "elpd" else 1.0
        known = {value: sign * number for value, number in found.items() if not math.isnan(number)}
        if not known:
            raise SettingError(
                given=f"fits without a criterion {criterion!r}",
                needed="discrete locals for icl, draws of the globals for elpd",
                remedy='choose by "bic"',
            )
        sound = {value: number for value, number in known.items() if not self.fits[value].collapsed}
        return min(sound or known, key=lambda value: (sound or known)[value])

    def best(self, criterion: str = "bic") -> Fit:
        """The fit that a criterion prefers; the first of equals.

        Fits with a component that has collapsed onto a few rows, whose likelihood is as high as one likes, are set
        aside unless all have one.

        Args:
            criterion: as in :meth:`criterion`.

        Raises:
            NameUnknownError: there is no such criterion.
            SettingError: no fit has it.
        """
        return self.fits[self.best_value(criterion)]

    @cached_property
    def _elpd(self) -> dict[Any, tuple[float, float]]:
        """Value → expected log predictive density and its standard error, nats; NaN where there are no draws."""
        return {value: _left_out(fit) for value, fit in self.fits.items()}

    def table(self) -> pandas.DataFrame:
        """A line for each value that was tried.

        Columns: ``value``, ``log_likelihood`` (a bound where there are continuous locals), ``df``, ``aic``, ``bic``,
        ``sabic``, ``caic``, ``icl``, ``entropy`` (nats) and ``normalised_entropy`` of the discrete locals, ``elpd`` and
        ``elpd_se`` by leave-one-out of fits with draws, ``replicated`` of ``starts`` that reached the best end,
        ``status``, ``degenerate`` (collapsed and empty components), ``seconds``, ``failure``.
        """
        import pandas

        lines = [self._line(value) for value in self.values if value in self.fits or value in self.failures]
        return pandas.DataFrame(lines, columns=COLUMNS)

    def _line(self, value: Any) -> dict[str, Any]:
        found = {"value": value, "seconds": self.seconds[value], "failure": self.failures.get(value, "")}
        if value in self.failures:
            return found | {"status": "failed", "degenerate": ""}
        fit, (elpd, error) = self.fits[value], self._elpd[value]
        numbers = {name: _read(fit, name) for name in ("log_likelihood", *CRITERIA, "entropy", "normalised_entropy")}
        starts = (
            {} if fit.optima is None else {"replicated": fit.optima.replicated, "starts": len(fit.optima.objectives)}
        )
        return found | numbers | starts | {
            "df": fit.free_parameters,
            "elpd": elpd,
            "elpd_se": error,
            "status": fit.status.name.lower(),
            "degenerate": _degenerate(fit),
        }  # fmt: skip

    def __str__(self) -> str:
        best = {name: self.best_value(name) for name in ("bic", "icl") if not _all_nan(self.criterion(name))}
        chosen = ", ".join(f"{name.upper()}: {value}" for name, value in best.items())
        shown = self.table().dropna(axis="columns", how="all").drop(columns=["aic", "caic"])
        shown = shown.loc[:, [bool((shown[name] != "").any()) for name in shown]]
        left = [value for value in self.values if value not in self.fits and value not in self.failures]
        return "\n".join(
            [f"Sweep of {len(self.values)} values; best by {chosen}"]
            + [shown.to_string(index=False, float_format=lambda number: f"{number:.3f}", na_rep="–")]
            + ([f"interrupted: {', '.join(map(str, left))} not fitted"] if self.interrupted else [])
        )


COLUMNS = (
    "value", "log_likelihood", "df", *CRITERIA, "entropy", "normalised_entropy", "elpd", "elpd_se", "replicated",
    "starts", "status", "degenerate", "seconds", "failure",
)  # fmt: skip


def _read(fit: Fit, name: str) -> float:
    """A number of a fit, NaN where it has none (the entropy of a model without discrete locals)."""
    try:
        return float(getattr(fit, name))
    except LatentVarsError:
        return math.nan


def _left_out(fit: Fit) -> tuple[float, float]:
    try:
        found = loo(fit, unit="row" if fit.rows.lengths is None else "sequence")
    except LatentVarsError:
        return math.nan, math.nan
    return float(found.elpd), float(found.se)


def _degenerate(fit: Fit) -> str:
    parts = [f"collapsed {', '.join(fit.collapsed)}"] if fit.collapsed else []
    return "; ".join(parts + ([f"empty {', '.join(fit.empty)}"] if fit.empty else []))


def _all_nan(found: Mapping[Any, float]) -> bool:
    return all(math.isnan(number) for number in found.values())
