"""SVI beside published posteriors."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from published_models import TwoNormals, published

import latentvars as lv

PDB1 = {
    "mu[0]": (-2.7335, 0.0420),
    "mu[1]": (2.8698, 0.0546),
    "sigma[0]": (1.0281, 0.0314),
    "sigma[1]": (1.0238, 0.0405),
    "theta": (0.6215, 0.0155),
}


def test_pdb1_a_full_rank_guide(truth: Path) -> None:
    """Means within .3 posterior deviations of the reference draws of posteriordb, deviations within 40 %."""
    y = np.array(published(truth, "low_dim_gauss_mix-low_dim_gauss_mix")["y"])
    passes = 1_200
    algorithm = lv.SVI(
        passes=passes,
        particles=2,
        guide=lv.FullRank(scale=0.05),
        optimizer=partial(torch.optim.Adam, lr=0.02),
        schedule=partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.02 ** (1 / passes)),
        stop=lv.Never(),
    )
    start = {"mu": [-1.0, 1.0], "sigma": [1.0, 1.0], "theta": 0.5}
    table = lv.fit(TwoNormals(), {"y": y}, algorithm, start=start, progress=False).summary(draws=4_000)
    for name, (mean, deviation) in PDB1.items():
        assert abs(table.loc[name, "mean"] - mean) < 0.3 * deviation, name
        assert abs(table.loc[name, "sd"] / deviation - 1) < 0.4, name


def test_pdb1_laplace(truth: Path) -> None:
    """A thousand rows: the normal at the maximum is the posterior but for a tenth of a deviation."""
    y = np.array(published(truth, "low_dim_gauss_mix-low_dim_gauss_mix")["y"])
    start = {"mu": [-1.0, 1.0], "sigma": [1.0, 1.0], "theta": 0.5}
    table = lv.fit(TwoNormals(), {"y": y}, lv.Laplace(), start=start).summary(draws=4_000)
    for name, (mean, deviation) in PDB1.items():
        assert abs(table.loc[name, "mean"] - mean) < 0.15 * deviation, name
        assert abs(table.loc[name, "sd"] / deviation - 1) < 0.1, name
