"""NUTS beside Pyro's own on the same model: the time of a draw after tuning, one chain on either side."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from harness import Call, Case, Line, Outcome, Settings, Task, compared
from svi import Data, Model, our_joint, schools, schools_model, their_joint

TUNE = 150


def lines(settings: Settings) -> Iterator[Line]:
    return compared("sampling", cases(settings.quick), settings)


def cases(quick: bool) -> list[Case]:
    draws, ours = ((20, 80), (500, 2_500)) if quick else ((50, 250), (1_000, 9_000))
    task = Task("NUTS draw, compiled", "Pyro, NUTS", our_draws, their_draws, 50, 200, draws, our_passes=ours)
    return [Case("eight schools", schools, schools, (task,), 1 if quick else 3)]


def our_draws(data: Data) -> Call:
    import latentvars as lv

    model, rows = Model(schools_model), lv.Rows(data.columns)
    joint = our_joint(model, rows, data)

    def run(draws: int) -> Outcome:
        nuts = lv.NUTS(draws=draws, tune=TUNE, chains=1, compile=True)
        lv.fit(model, rows, nuts, start=data.point, progress=False)
        return {"log joint at a point": joint}

    return run


def their_draws(data: Data) -> Call:
    import pyro
    import torch
    from pyro.infer import MCMC, NUTS

    import latentvars as lv

    batch = lv.Rows(data.columns).batch()
    joint = their_joint(schools_model, schools_model, batch, data)
    start = {name: torch.as_tensor(np.asarray(value)) for name, value in data.point.items()}

    def run(draws: int) -> Outcome:
        pyro.set_rng_seed(0)
        kernel = NUTS(schools_model, init_strategy=pyro.infer.autoguide.init_to_value(values=start))
        MCMC(kernel, num_samples=draws, warmup_steps=TUNE, disable_progbar=True).run(batch)
        return {"log joint at a point": joint}

    return run
