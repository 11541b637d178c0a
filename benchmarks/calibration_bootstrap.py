"""Standard errors of the Poisson chain of the earthquakes against its parametric bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from calibration_check import Check, Settings
from torch import Tensor

import latentvars as lv
from latentvars.posterior.information import inner_point
from latentvars.randomness import derive
from latentvars.studies.parallel import spread
from latentvars.studies.resampling import resampling

DATA = Path(__file__).resolve().parents[2] / "shared" / "truth" / "data" / "earthquakes" / "earthquakes.csv"
REPLICATES = 300
ALGORITHM = lv.EM(accelerate=True)


def chain() -> lv.models.HiddenMarkov:
    return lv.models.HiddenMarkov(2, lv.emissions.Poisson(), initial="stationary")


def errors_free(point: dict[str, Tensor], x: np.ndarray) -> Tensor:
    """Standard errors of log rates and logits of transitions."""
    return lv.from_point(chain(), x, point).standard_errors().covariance_free.diagonal().sqrt()


def own_errors(draws: dict[str, Tensor], data: Sequence[np.ndarray], numbers: Sequence[int]) -> list[Tensor]:
    return [errors_free({name: value[k] for name, value in draws.items()}, data[k]) for k in numbers]


def checks(settings: Settings) -> list[Check]:
    """On the scale of logs and logits: the error that each replicate claims, against how they really spread.

    The spread is half the distance of the quantiles of 16 % and 84 %: of a few replicates a transition probability is
    at its edge. The errors of the earthquakes themselves are shown beside them: the observed information of one data
    set, here one that a third state fits better, need not be that of data from the model.
    """
    if not DATA.is_file():
        return []
    x = np.loadtxt(DATA, delimiter=",", skiprows=1, usecols=1)
    fit = lv.fit(chain(), x, ALGORITHM, progress=False)
    found = lv.bootstrap(
        fit, replicates=min(REPLICATES, settings.simulations), seed=settings.seed, kind="parametric",
        workers=settings.workers, progress=False,
    )  # fmt: skip
    free = torch.stack(
        [inner_point(fit.program, {name: value[k] for name, value in found.draws.items()}) for k in range(len(found))]
    )
    ends = torch.quantile(free, torch.tensor([0.1587, 0.8413], dtype=free.dtype), 0)
    spread_ = (ends[1] - ends[0]) / 2
    source = resampling(fit, fit.rows, "parametric", "frequency")
    data = [source.draw(derive(settings.seed, 20, k))["x"].numpy() for k in range(len(found))]
    claims = [
        c
        for part in spread(partial(own_errors, dict(found.draws), data), range(len(found)), settings.workers)
        for c in part
    ]
    claimed = torch.stack(claims).nanmedian(0).values
    observed = errors_free(fit.point, x)
    names = ("logit A[0, 0]", "logit A[1, 0]", "log rate[0]", "log rate[1]")
    result = [Check("replicates that failed", float(found.failed), high=0.0)]
    for k, name in enumerate(names):
        ratio, own = float(claimed[k] / spread_[k]), float(observed[k] / spread_[k])
        result.append(Check(f"{name}: claimed error / spread", ratio, 0.8, 1.25, f"of the earthquakes alone {own:.3f}"))
    return result
