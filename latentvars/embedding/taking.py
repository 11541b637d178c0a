"""What is taken of the belief about a row: its mean, median or mode, at which globals, and how wide it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch

from latentvars.embedding.channels import Beliefs, Channel, Fitted, floating
from latentvars.embedding.vectors import Provenance
from latentvars.errors import SettingError
from latentvars.rows import Rows

Statistic = Literal["mean", "median", "mode"]
POOLED_DRAWS = 256  # draws of whole sequences behind the deviation of a mean over steps: 4 % Monte Carlo error


@dataclass(frozen=True)
class Taken:
    """What stands in a vector.

    Attributes:
        statistic: of each belief.
        draws: of the globals to average beliefs over; None: at the point.
        refine: steps of local refinement of the guide; 0: the guide as it is.
        each: one vector for each step of a sequence, in the place of one for the sequence.

    Raises:
        SettingError: a statistic that is none, or settings that exclude one another.
    """

    statistic: str = "mean"
    draws: int | None = None
    refine: int = 0
    each: bool = False

    def __post_init__(self) -> None:
        if self.statistic not in get_args(Statistic):
            raise SettingError(f"statistic={self.statistic!r}", "'mean', 'median' or 'mode'", "change statistic.")
        if self.draws is not None and self.draws < 1:
            raise SettingError(
                f"globals_draws={self.draws}", "at least one, or None for the point", "change globals_draws."
            )
        if self.refine < 0:
            raise SettingError(f"refine={self.refine}", "steps from 0", "change refine.")
        if self.refine and self.draws is not None:
            raise SettingError(
                given=f"refine={self.refine} and globals_draws={self.draws}",
                needed="one of them: the guide is refined at the point of the globals",
                remedy="leave one out",
            )

    def beliefs(self, fitted: Fitted, rows: Rows) -> Beliefs:
        """The beliefs about rows, at the globals that are asked for."""
        found: Any = fitted
        if self.refine:
            return found.refine(rows, self.refine).latent()
        return found.latent(rows) if self.draws is None else found.latent(rows, draws=self.draws)

    def read(self, fitted: Fitted, rows: Rows, parts: Sequence[Channel], spread: bool) -> np.ndarray:
        """Vectors of a block of rows.

        Args:
            fitted: the fit.
            rows: N rows, of equal lengths.
            parts: what the vectors consist of.
            spread: with the standard deviations of the coordinates behind them.

        Returns:
            ``[N, W]``, or one for each step ``[N, T, W]``; twice as wide with deviations. The mean over the row's own
            steps where a channel has steps and there is to be one vector a row.
        """
        latent = self.beliefs(fitted, rows)
        found = [self._shaped(self._value(latent, part), rows, part) for part in parts]
        if spread:
            found += [self._deviation(latent, rows, part) for part in parts]
        return np.concatenate(found, -1)

    def _value(self, latent: Beliefs, part: Channel) -> np.ndarray:
        """``[N, (T,) *shape]``; the mode of categories as ones and zeros."""
        if self.statistic == "mean":
            return floating(latent.mean(part.site))
        value = getattr(latent, self.statistic)(part.site)
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        return array if array.dtype.kind == "f" else _one_hot(array, part.shape[-1])

    def _deviation(self, latent: Any, rows: Rows, part: Channel) -> np.ndarray:
        if rows.lengths is None or not part.per_step or self.each:
            return self._shaped(floating(latent.std(part.site)), rows, part)
        drawn = latent.sample(part.site, POOLED_DRAWS).detach().cpu().numpy()
        drawn = drawn if drawn.dtype.kind == "f" else _one_hot(drawn, part.shape[-1])
        return drawn.reshape(*drawn.shape[:3], part.width).mean(2).std(0)

    def _shaped(self, value: np.ndarray, rows: Rows, part: Channel) -> np.ndarray:
        value = value.reshape(*value.shape[: 1 + part.per_step], part.width)
        if rows.lengths is not None and part.per_step != self.each:
            value = value.mean(1) if part.per_step else np.repeat(value[:, None], int(rows.lengths[0]), 1)
        return value

    def provenance(self, fitted: Any, parts: Sequence[Channel]) -> Provenance:
        """Where the vectors come from."""
        model = type(getattr(fitted, "model", fitted)).__name__
        known = getattr(fitted, "fingerprint", {})
        return Provenance(
            f"{self.describe([part.site for part in parts])}, {model}",
            **{name: known.get(name, "") for name in ("model", "data", "fit")},
        )

    def describe(self, sites: Sequence[str] | None) -> str:
        """As ``mean of z at the point of the globals``."""
        what = " and ".join(sites) if sites else "every local"
        where = "at the point of the globals" if self.draws is None else f"over {self.draws} draws of the globals"
        how = f", guide refined by {self.refine} steps" if self.refine else ""
        return f"{self.statistic} of {what} {where}{how}"


def _one_hot(codes: np.ndarray, size: int) -> np.ndarray:
    """Codes ``[...]`` → ``[..., size]``; all zero where a code is −1."""
    return (codes[..., None] == np.arange(size)).astype(np.float64)
