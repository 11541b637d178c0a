"""outliers: rows that do not look like the reference, with p-values that hold whatever the detector is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from latentvars.embedding.alignment.shared import numbers
from latentvars.embedding.vectors import as_vectors
from latentvars.errors import DataError, KindError, SettingError
from latentvars.randomness import derive

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Outliers:
    """How unusual rows are, beside rows of the reference that the detector had not seen.

    Attributes:
        ids: ``[N]``.
        scores: larger is more unusual ``[N]``, in the units of the detector.
        p_values: (1 + how many calibration rows score as high) / (1 + C) ``[N]``: of a row like the reference they are
            uniform, or larger where scores tie (Vovk et al. 2005; Bates et al. 2023, eq. 2).
        calibration: scores of the calibration rows ``[C]``.
    """

    ids: np.ndarray = field(repr=False)
    scores: np.ndarray = field(repr=False)
    p_values: np.ndarray = field(repr=False)
    calibration: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def flagged(self, rate: float = 0.1) -> np.ndarray:
        """Ids that are called outliers, of which at most ``rate`` are expected not to be, most unusual first.

        Benjamini–Hochberg on the p-values; that all of them share one calibration does no harm (Bates et al. 2023,
        theorem 2). Nothing can be flagged while 1 / (1 + C) is above rate / N times the number of outliers.

        Raises:
            SettingError: a rate outside (0, 1).
        """
        if not 0 < rate < 1:
            raise SettingError(f"rate={rate}", "a share between 0 and 1", "write flagged(0.1)")
        from scipy.stats import false_discovery_control

        found = np.flatnonzero(false_discovery_control(self.p_values) <= rate) if len(self) else np.empty(0, int)
        return self.ids[found[np.argsort(-self.scores[found], kind="stable")]]

    def table(self) -> pd.DataFrame:
        """Id → score and p-value, the most unusual first."""
        import pandas as pd

        order = np.argsort(-self.scores, kind="stable")
        columns = {"score": self.scores[order], "p": self.p_values[order]}
        return pd.DataFrame(columns, index=pd.Index(self.ids[order], name="id"))

    def __str__(self) -> str:
        return (
            f"{len(self)} rows against {len(self.calibration)} for calibration: smallest p "
            f"{self.p_values.min(initial=1.0):.3g}, {len(self.flagged())} flagged at a false discovery rate of 10 %"
        )


def outliers(
    vectors: Any,
    reference: Any,
    detector: Any = "neighbours",
    *,
    calibration: Any = 0.5,
    neighbours: int = 10,
    seed: int = 0,
) -> Outliers:
    """Score rows by a detector that learns from some rows of the reference, and judge the scores by the others.

    Args:
        vectors: ``[N, W]``; rows that the reference does not contain.
        reference: ``[R, W]`` rows that are normal. The fit that made the vectors should not have learnt from those used
            for calibration any more than from ``vectors``; otherwise p-values come out too small.
        detector: "neighbours" (mean distance to the k nearest rows), "mahalanobis" (squared distance from the mean, by
            the covariance of Ledoit & Wolf 2004), or a scikit-learn estimator with ``score_samples`` such as
            ``IsolationForest()`` or ``LocalOutlierFactor(novelty=True)``.
        calibration: share of the reference that is held back, at random, or vectors ``[C, W]`` to be used instead.
        neighbours: k.
        seed: of the division, and of a detector without a ``random_state`` of its own.

    Raises:
        ShapeError, DataError: vectors of another width or space; too few rows.
        KindError: a detector that cannot score new rows.
        SettingError: a share outside (0, 1), or an unknown detector.
    """
    given, normal = as_vectors(vectors), as_vectors(reference)
    normal.check_comparable(given)
    if isinstance(calibration, float | int):
        if not 0 < calibration < 1:
            raise SettingError(f"calibration={calibration}", "a share between 0 and 1", "write calibration=0.5")
        order = np.random.default_rng(derive(seed, 83)).permutation(len(normal))
        held = round(calibration * len(order))
        judge, learn = numbers(normal, order[:held]), numbers(normal, order[held:])
    else:
        apart = as_vectors(calibration)
        normal.check_comparable(apart)
        judge, learn = numbers(apart), numbers(normal)
    if min(len(judge), len(learn)) < 2:
        raise DataError(
            f"{len(learn)} rows to learn from and {len(judge)} for calibration", "two of each", "pass more."
        )
    if not len(given):
        raise DataError("no rows to score", "at least one", "pass vectors.")
    fitted = _fitted(detector, learn, neighbours, seed)
    scores, known = fitted(numbers(given)), np.sort(fitted(judge))
    as_high = len(known) - np.searchsorted(known, scores, side="left")
    return Outliers(given.ids, scores, (1 + as_high) / (1 + len(known)), known)


def _fitted(detector: Any, learn: np.ndarray, neighbours: int, seed: int) -> Any:
    """Scores of rows ``[N, W] → [N]`` by a detector that has learnt; larger is more unusual."""
    if isinstance(detector, str) and detector == "neighbours":
        from sklearn.neighbors import NearestNeighbors

        if not 1 <= neighbours <= len(learn):
            needed = f"1 to {len(learn)}, the rows that are learnt from"
            raise SettingError(f"neighbours={neighbours}", needed, "change neighbours=.")
        near = NearestNeighbors(n_neighbors=neighbours).fit(learn)
        return lambda rows: near.kneighbors(rows)[0].mean(1)
    if isinstance(detector, str) and detector == "mahalanobis":
        from sklearn.covariance import LedoitWolf

        return LedoitWolf().fit(learn).mahalanobis
    if isinstance(detector, str):
        raise SettingError(f"detector={detector!r}", "'neighbours', 'mahalanobis' or an estimator", "change it.")
    from sklearn.base import clone

    if not hasattr(detector, "score_samples") or not hasattr(detector, "fit"):
        raise KindError(
            given=f"the detector {detector!r}",
            needed="fit and score_samples",
            remedy="pass a scikit-learn outlier detector; LocalOutlierFactor needs novelty=True",
        )
    own: Any = clone(detector)
    if "random_state" in own.get_params() and own.get_params()["random_state"] is None:
        own.set_params(random_state=derive(seed, 84) % 2**32)
    learnt = own.fit(learn)
    return lambda rows: -np.asarray(learnt.score_samples(rows))
