"""A model of your own, in 15 lines, goes through everything that the built-in ones go through.

Each year is quiet, usual or active; how many earthquakes each kind of year has, and how common it is, is to be found.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch

import latentvars as lv


class Years:
    """x_n | z_n = k ~ Poisson(rate_k), z_n ~ Categorical(weights); Dirichlet and gamma priors."""

    def model(self, rows: lv.Batch) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(torch.full((3,), 2.0)))
        rate = pyro.sample("rate", dist.Gamma(torch.full((3,), 2.0), 0.1).to_event(1))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Poisson(rate[z]), obs=rows.x)

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"weights": ("kind",), "rate": ("kind",), "z": ("row", "kind")}


def main() -> None:
    data = lv.datasets.earthquakes()
    mode = lv.fit(Years(), data.x, lv.EM(restarts=5), progress=False)
    print(mode, mode.explain(), mode.summary(), sep="\n")
    belief = lv.fit(Years(), data.x, lv.SVI(passes=300), start=mode.point, progress=False)
    print(belief, belief.summary(), sep="\n")
    kinds = belief.latent().mean("z")
    print("probability of each kind, 1900 to 1902:", kinds[:3].numpy().round(3).tolist())


if __name__ == "__main__":
    main()
