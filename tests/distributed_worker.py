"""A process of the tests of several: does one piece of work with its share of the rows, and prints what came out."""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch.distributions import constraints

import latentvars as lv

RANK, SIZE = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
SHARES = {1: (1.0,), 2: (0.3, 0.7), 3: (0.2, 0.5, 0.3)}  # uneven on purpose


def share(rows: lv.Rows, rank: int = RANK, size: int = SIZE) -> lv.Rows:
    """The rows of a process, one share after another."""
    ends = np.rint(np.cumsum((0.0, *SHARES[size])) * len(rows)).astype(int)
    return rows.subset(slice(int(ends[rank]), int(ends[rank + 1])))


def mixture_rows() -> lv.Rows:
    source = np.random.default_rng(5)
    x = source.normal(size=(240, 2)) + np.repeat([[0.0, 0.0], [4.0, 1.0], [-2.0, 5.0]], 80, 0)
    return lv.Rows(x[source.permutation(240)], weights=source.integers(1, 4, 240))


def chain_rows() -> lv.Rows:
    source = np.random.default_rng(6)
    return lv.Rows([source.poisson(3 + 4 * (source.random(n) < 0.5)) for n in source.integers(5, 30, 12)])


def vae_rows() -> lv.Rows:
    return lv.Rows((np.random.default_rng(7).random((150, 6)) < 0.4).astype(float))


def sampled_rows() -> lv.Rows:
    source = np.random.default_rng(8)
    return lv.Rows(2.0 + 1.5 * source.normal(size=200) + source.normal(size=200))


class Sampled:
    """x ~ N(z, 1), z ~ N(mean, spread²); the guide is the posterior at its start."""

    def model(self, rows: lv.Batch) -> None:
        mean = pyro.sample("mean", lv.flat((), constraints.real))
        spread = pyro.sample("spread", lv.flat((), constraints.positive))
        with rows.plate():
            z = pyro.sample("z", dist.Normal(mean, spread))
            pyro.sample("x", dist.Normal(z, torch.ones_like(spread)), obs=rows.x)

    def guide(self, rows: lv.Batch) -> None:
        with rows.plate():
            pyro.sample("z", dist.Normal(0.7 * rows.x + 0.6, torch.full_like(rows.x, 0.85)))

    def initial(self, rows: lv.Rows, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {"mean": torch.tensor(0.0, dtype=torch.float64), "spread": torch.tensor(1.0, dtype=torch.float64)}


EM = lv.EM(stop=lv.Tolerance(1e-11))
FULL = functools.partial(torch.optim.Adam, lr=0.05)
MIXTURE, CHAIN = lv.models.GaussianMixture(3), lv.models.HiddenMarkov(2, lv.emissions.Poisson())
WITH_PRIOR = lv.models.GaussianMixture(
    3, priors={"weights": dist.Dirichlet(torch.full((3,), 4.0, dtype=torch.float64))}
)
FITS: dict[str, tuple[Any, Any, lv.Rows]] = {
    "mixture": (MIXTURE, EM, mixture_rows()),
    "batches": (WITH_PRIOR, lv.EM(stop=lv.Tolerance(1e-11), batch_size=17), mixture_rows()),
    "accelerated": (MIXTURE, lv.EM(stop=lv.Tolerance(1e-11), accelerate=True), mixture_rows()),
    "chain": (CHAIN, EM, chain_rows()),
    # accelerated runs are not screened together in one process either
    "starts in turn": (MIXTURE, lv.EM(restarts=3, stop=lv.Tolerance(1e-10), accelerate=True), mixture_rows()),
    "point": (MIXTURE, lv.SVI(guide=lv.Delta(), passes=25, optimizer=FULL), mixture_rows()),
    "minibatches": (
        MIXTURE,
        lv.SVI(guide=lv.Delta(), passes=45, batch_size=60, batches_per_step=2, optimizer=FULL),
        mixture_rows(),
    ),
    "online": (MIXTURE, lv.OnlineEM(passes=25, batch_size=60, decay=0.9, stop=lv.Never()), mixture_rows()),
    "vae": (lv.models.VAE.mlp(6, 2, hidden=(8,)), lv.SVI(passes=20, batch_size=64), vae_rows()),
    "sampled": (Sampled(), lv.MonteCarloEM(passes=8, draws=10, batch_size=64, stop=lv.Never()), sampled_rows()),
}


def told(fit: lv.Fit) -> dict[str, Any]:
    """What a test compares."""
    return {
        "point": {name: value.tolist() for name, value in fit.point.items()},
        "history": fit.history.tolist(),
        "log_likelihood": fit.log_likelihood,
        "bic": fit.bic,
        "status": fit.status.name,
        "rows": len(fit.rows),
        "said": str(fit),
        "replicated": None if fit.optima is None else [fit.optima.replicated, list(fit.optima.objectives)],
    }


def fitted(name: str) -> dict[str, Any]:
    model, algorithm, rows = FITS[name]
    return told(lv.fit(model, share(rows), algorithm, seed=3, progress=False, backend=lv.Distributed(timeout=60)))


def starts() -> dict[str, Any]:
    model, _, rows = FITS["mixture"]
    algorithm = lv.EM(restarts=6, stop=lv.Tolerance(1e-10))
    return told(lv.fit(model, rows, algorithm, seed=3, progress=False, backend=lv.Distributed(60, starts=True)))


def bad_rows() -> dict[str, Any]:
    """One process has rows that no model can be fitted to."""
    rows = share(chain_rows())
    if RANK == SIZE - 1:
        rows = rows.with_columns({"x": torch.full_like(rows["x"], -1)})
    return failing(lambda: lv.fit(CHAIN, rows, EM, progress=False, backend=lv.Distributed(60)))


class Breaking:
    """A model whose density becomes NaN in one process, in the third pass."""

    passes = 0

    def model(self, rows: lv.Batch) -> None:
        rate = pyro.sample("rate", lv.flat((2,), constraints.positive))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7], dtype=torch.float64)))
            if len(rows) > 3:
                type(self).passes += 1
            worse = torch.nan if RANK == 1 and type(self).passes > 8 else 1.0
            pyro.sample("x", dist.Poisson(rate[z] * worse), obs=rows.x)

    def initial(self, rows: lv.Rows, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {"rate": torch.tensor([2.0, 9.0], dtype=torch.float64)}


def breaking() -> dict[str, Any]:
    x = np.random.default_rng(1).poisson(5, 60)
    return failing(lambda: lv.fit(Breaking(), share(lv.Rows(x)), EM, progress=False, backend=lv.Distributed(60)))


def other_seeds() -> dict[str, Any]:
    rows = share(mixture_rows())
    return failing(lambda: lv.fit(MIXTURE, rows, EM, seed=RANK, progress=False, backend=lv.Distributed(60)))


def killed(folder: str) -> dict[str, Any]:
    """The last process goes without a word after some passes; all write what they can say."""
    count = 0

    def stop(history: Any, seconds: float) -> None:
        nonlocal count
        count += 1
        if RANK == SIZE - 1 and count == 6:
            os._exit(9)

    algorithm = lv.EM(stop=Stop(stop))
    rows = share(mixture_rows())
    checkpoint = lv.Checkpoint(Path(folder) / "run", seconds=0)
    return failing(
        lambda: lv.fit(
            MIXTURE, rows, algorithm, seed=3, progress=False, backend=lv.Distributed(60), checkpoint=checkpoint
        )
    )


class Stop:
    """A stop rule that prints alike in every process."""

    def __init__(self, rule: Any) -> None:
        self.rule = rule

    def __call__(self, history: Any, seconds: float) -> None:
        self.rule(history, seconds)

    def __repr__(self) -> str:
        return "Stop"


def resumed(folder: str) -> dict[str, Any]:
    rows = share(mixture_rows())
    earlier = lv.load(Path(folder) / "run", data=rows)
    found = lv.fit(MIXTURE, rows, EM, resume=earlier, progress=False, backend=lv.Distributed(60))
    return told(found) | {"earlier": len(earlier.history)}


def embedded() -> dict[str, Any]:
    rows = mixture_rows()
    fit = lv.fit(MIXTURE, share(rows), EM, seed=3, progress=False, backend=lv.Distributed(60))
    vectors = lv.Distributed(60).gathered(lv.Embedding(fit).transform(share(rows)))
    return {"vectors": vectors.tolist()}


def failing(work: Any) -> dict[str, Any]:
    try:
        work()
    except Exception as error:
        return {"error": type(error).__name__, "text": str(error)}
    return {"error": "none", "text": ""}


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = {}
    for task in sys.argv[2:]:
        name, _, argument = task.partition("=")
        work = {"starts": starts, "bad rows": bad_rows, "breaking": breaking, "other seeds": other_seeds}
        with_folder = {"killed": killed, "resumed": resumed}
        if name in FITS:
            results[name] = fitted(name)
        elif name in with_folder:
            results[name] = with_folder[name](argument)
        else:
            results[name] = {**work, "embedded": embedded}[name]()
        (Path(sys.argv[1]) / f"{RANK}.json").write_text(json.dumps(results))  # the next task may be the last one
