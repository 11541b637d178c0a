"""Effective draws a second of NUTS beside Pyro's own, on a mixture and on a hidden Markov model.

    python benchmarks/effective.py [--quick] [--write]

Both sides sample the same density of the same globals from the same start, labels summed out: Pyro's mixture by
enumeration, its chain by ``DiscreteHMM``. Counted is the least bulk effective sample size (Vehtari et al. 2021) of all
numbers of the globals, one chain on either side, over the whole time of the run, tuning included. The time to compile
our density, which a later run does not need, stands apart. Means must agree within four Monte Carlo errors.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

PRIOR_SCALE = 5.0


@dataclass(frozen=True)
class Side:
    """One run.

    Attributes:
        draws: number → ``[S]``.
        seconds: of the run.
    """

    draws: dict[str, np.ndarray]
    seconds: float

    @property
    def effective(self) -> float:
        from arviz_stats.base.array import array_stats

        return min(float(array_stats.ess(one[None], chain_axis=0, draw_axis=1)) for one in self.draws.values())

    def apart(self, other: Side) -> float:
        """The largest difference of means, in Monte Carlo standard errors."""
        from arviz_stats.base.array import array_stats

        found = []
        for name, one in self.draws.items():
            errors = [
                float(array_stats.mcse(value[None], chain_axis=0, draw_axis=1)) for value in (one, other.draws[name])
            ]
            found.append(abs(one.mean() - other.draws[name].mean()) / np.hypot(*errors))
        return max(found)


def mixture_data(rows: int) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(0)
    return {"x": noise.normal(size=rows) + np.where(noise.random(rows) < 0.6, -2.0, 2.0)}


def chain_data(steps: int) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(1)
    states = np.cumsum(noise.random(steps) < 0.15) % 2
    return {"x": noise.normal(size=steps) + 3.0 * states}


def globals_of_mixture() -> Any:
    """Weight of the first component, means in their order by construction, deviations."""
    import pyro
    import pyro.distributions as dist
    import torch

    one = torch.ones((), dtype=torch.float64)
    weight = pyro.sample("weight", dist.Beta(2 * one, 2 * one))
    low = pyro.sample("low", dist.Normal(0 * one, PRIOR_SCALE))
    gap = pyro.sample("gap", dist.LogNormal(one, one))
    scale = pyro.sample("scale", dist.LogNormal(0 * one, 0.5 * one).expand([2]).to_event(1))
    return torch.stack([weight, 1 - weight]), torch.stack([low, low + gap]), scale


def mixture_model(rows: Any) -> None:
    import pyro
    import pyro.distributions as dist

    weights, loc, scale = globals_of_mixture()
    with rows.plate():
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=rows["x"])


def globals_of_chain() -> Any:
    import pyro
    import pyro.distributions as dist
    import torch

    one = torch.ones((), dtype=torch.float64)
    moves = pyro.sample("moves", dist.Dirichlet(2 * torch.ones(2, 2, dtype=torch.float64)).to_event(1))
    low = pyro.sample("low", dist.Normal(0 * one, PRIOR_SCALE))
    gap = pyro.sample("gap", dist.LogNormal(one, one))
    scale = pyro.sample("scale", dist.LogNormal(0 * one, 0.5 * one))
    return moves, torch.stack([low, low + gap]), scale


def chain_model(rows: Any) -> None:
    import pyro
    import pyro.distributions as dist
    import torch

    from latentvars.distributions import HiddenMarkov

    moves, loc, scale = globals_of_chain()
    first = torch.full((2,), 0.5, dtype=torch.float64)
    with rows.plate():
        pyro.sample("x", HiddenMarkov(first, moves, dist.Normal(loc, scale), rows.lengths), obs=rows["x"])


def their_chain(rows: Any) -> None:
    """The same density by Pyro's own distribution, whose initial law stands before the first move."""
    import pyro
    import pyro.distributions as dist
    import torch

    moves, loc, scale = globals_of_chain()
    half = torch.full((2,), 0.5, dtype=torch.float64)
    # the first move is from equal states to equal states, as the first step of ours
    steps = torch.cat([half.expand(1, 2, 2), moves.expand(rows["x"].shape[-1] - 1, 2, 2)])
    law = dist.DiscreteHMM(half.log(), steps.log(), dist.Normal(loc, scale))
    pyro.sample("x", law, obs=rows["x"][0])


@dataclass(frozen=True)
class Model:
    function: Callable[[Any], None]

    def model(self, rows: Any) -> None:
        self.function(rows)


def ours(function: Callable[[Any], None], data: Any, start: dict[str, Any], draws: int, tune: int, seed: int) -> Side:
    import latentvars as lv

    sampler = lv.NUTS(draws=draws, tune=tune, chains=1, compile=True)
    began = time.perf_counter()
    fit = lv.fit(Model(function), data, sampler, seed=seed, start=start, progress=False)
    seconds = time.perf_counter() - began
    return Side(numbers({name: value.numpy() for name, value in fit.globals.draws(draws, 0)[0].items()}), seconds)


def theirs(function: Callable[[Any], None], data: Any, start: dict[str, Any], draws: int, tune: int, seed: int) -> Side:
    import pyro
    import torch
    from pyro.infer import MCMC, NUTS, config_enumerate

    values = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in start.items()}
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    began = time.perf_counter()
    kernel = NUTS(config_enumerate(function), init_strategy=pyro.infer.autoguide.init_to_value(values=values))
    chain = MCMC(kernel, num_samples=draws, warmup_steps=tune, disable_progbar=True)
    chain.run(data.batch())
    seconds = time.perf_counter() - began
    return Side(numbers({name: value.numpy() for name, value in chain.get_samples().items()}), seconds)


def numbers(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Globals ``[S, *shape]`` number by number."""
    return {f"{name}{k}": one for name, v in values.items() for k, one in enumerate(v.reshape(len(v), -1).T)}


def compare(name: str, mine: Any, other: Any, data: Any, start: dict[str, Any], quick: bool) -> str:
    """A line of the table; medians over rounds in which the two sides take turns."""
    draws, tune, rounds = (60, 60, 1) if quick else (300, 300, 3)
    more = 5 * draws
    began = time.perf_counter()
    ours(mine, data, start, 10, 10, 0)  # compiles, where no package is kept
    first = time.perf_counter() - began
    found = [
        (ours(mine, data, start, more, tune, k), theirs(other, data, start, draws, tune, k)) for k in range(rounds)
    ]
    rates = [tuple(side.effective / side.seconds for side in pair) for pair in found]
    apart = max(a.apart(b) for a, b in found)
    left, right = (float(np.median([rate[k] for rate in rates])) for k in range(2))
    ratios = [a / b for a, b in rates]
    verdict = "" if apart < 4 else f"   DIFFERS: {apart:.1f} Monte Carlo errors"
    return (
        f"{name:<34} {left:>9.1f}/s {right:>9.2f}/s   {float(np.median(ratios)):>7.0f} ×   "
        f"({min(ratios):.0f} to {max(ratios):.0f}; asked 10)   first call {first:.0f} s{verdict}"
    )


def lines(quick: bool) -> list[str]:
    import latentvars as lv

    mixture = {"weight": 0.6, "low": -2.0, "gap": 4.0, "scale": [1.0, 1.0]}
    chain = {"moves": [[0.85, 0.15], [0.15, 0.85]], "low": 0.0, "gap": 3.0, "scale": 1.0}
    rows, steps = (200, 60) if quick else (1_000, 200)
    head = f"{'posterior':<34} {'ours':>11} {'Pyro, NUTS':>11}   {'ratio':>9}"
    table = [f"{head}   effective draws of one chain, tuning included"]
    print(table[0], flush=True)
    of_chain = lv.Rows(chain_data(steps)["x"], lengths=[steps])
    for case in (
        (f"mixture, explicit z, N={rows:,}, K=2", mixture_model, mixture_model, lv.Rows(mixture_data(rows)), mixture),
        (f"hidden Markov, {steps} steps, K=2", chain_model, their_chain, of_chain, chain),
    ):
        table.append(compare(*case, quick))
        print(table[-1], flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    found = lines(given.quick)
    if given.write:
        import tables

        tables.write_block("effective", "```\n" + "\n".join(found) + "\n```")


if __name__ == "__main__":
    main()
