"""Evaluation: what embeddings are worth, over divisions of the rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from latentvars.errors import NameUnknownError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Measures of candidates, on the same divisions of the rows for all.

    Attributes:
        candidates: C names, baselines last.
        fitted: of each: "given" (vectors from elsewhere), "fitted before" (transformed only) or "fitted in each split".
            What was given or fitted before may have seen the test rows.
        widths: of the vectors of each.
        metrics: M names; larger is better in all that are built in.
        scores: ``[C, M, S]``, S divisions.
        sizes: training and test rows of a division.
        own: how many of the candidates are no baselines.
    """

    candidates: tuple[str, ...]
    fitted: tuple[str, ...]
    widths: tuple[int, ...]
    metrics: tuple[str, ...]
    scores: np.ndarray = field(repr=False)
    sizes: tuple[int, int]
    own: int

    @property
    def mean(self) -> np.ndarray:
        """Over divisions ``[C, M]``."""
        return self.scores.mean(-1)

    @property
    def sd(self) -> np.ndarray:
        """Standard deviation over divisions ``[C, M]``; they overlap, so that it is no standard error of the mean."""
        return self.scores.std(-1, ddof=1) if self.scores.shape[-1] > 1 else np.full(self.scores.shape[:2], np.nan)

    def table(self) -> pd.DataFrame:
        """Candidate → how it was fitted, its width, and mean and sd of every measure."""
        import pandas as pd

        columns = {("", "fitted"): self.fitted, ("", "width"): self.widths}
        for place, name in enumerate(self.metrics):
            columns[name, "mean"], columns[name, "sd"] = self.mean[:, place], self.sd[:, place]
        return pd.DataFrame(columns, index=pd.Index(self.candidates, name="candidate"))

    def against(self, name: str) -> pd.DataFrame:
        """Differences from one candidate on the same divisions, and their standard errors.

        The errors are corrected for training sets that overlap: √((1/S + n_test / n_train) s²) (Nadeau & Bengio 2003,
        section 3.3), to be compared with Student's t of S − 1 degrees of freedom.

        Raises:
            NameUnknownError: no such candidate.
        """
        import pandas as pd

        if name not in self.candidates:
            raise NameUnknownError(f"the candidate {name!r}", f"one of {list(self.candidates)}", "change the name.")
        away = self.scores - self.scores[self.candidates.index(name)]
        spread = away.std(-1, ddof=1) if away.shape[-1] > 1 else np.full(away.shape[:2], np.nan)
        error = spread * np.sqrt(1 / away.shape[-1] + self.sizes[1] / self.sizes[0])
        columns = {}
        for place, metric in enumerate(self.metrics):
            columns[metric, "difference"], columns[metric, "error"] = away.mean(-1)[:, place], error[:, place]
        return pd.DataFrame(columns, index=pd.Index(self.candidates, name="candidate")).drop(index=name)

    def __str__(self) -> str:
        import pandas as pd

        cells = {"fitted": self.fitted, "width": self.widths}
        for place, name in enumerate(self.metrics):
            pairs = zip(self.mean[:, place], self.sd[:, place], strict=True)
            cells[name] = [f"{mean:.3f} ± {sd:.3f}" for mean, sd in pairs]
        table = pd.DataFrame(cells, index=list(self.candidates)).to_string()
        train, test = self.sizes
        return f"mean ± sd over {self.scores.shape[-1]} divisions into {train} training and {test} test rows\n{table}"
