"""Hidden Markov chains beside hmmlearn, and log Z with its gradient beside Pyro's DiscreteHMM.

Each side imports its own library when it is first called, so that a process that measures one does not hold the other.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from harness import Call, Case, Line, Outcome, Settings, Task, compared, largest_difference

SYMBOLS = 20


@dataclass(frozen=True)
class Spec:
    """Sizes of a case and what is asked of it.

    Attributes:
        sequences, steps, states, features: N, T, K, D.
        form: ``"diag"``, ``"full"`` (covariances) or ``"categorical"``.
        floors: least ratios of an EM iteration, of the log-likelihood, of Viterbi.
        reach: the ratio of an EM iteration that would be good.
        gradient: least ratio of log Z with its gradient; None: not measured.
        passes: few and many iterations.
        quick: sequences and steps of a quick run.
    """

    sequences: int
    steps: int
    states: int
    features: int
    form: str
    floors: tuple[float, float, float]
    reach: float | None
    passes: tuple[int, int]
    quick: tuple[int, int]
    gradient: float | None = None

    @property
    def name(self) -> str:
        what = f"{SYMBOLS} symbols" if self.form == "categorical" else f"D={self.features}, {self.form}"
        return f"{self.sequences:,} × {self.steps:,}, K={self.states}, {what}"


SPECS = (
    Spec(1, 100_000, 5, 2, "diag", (8, 8, 3), 40, (2, 32), (1, 20_000), gradient=15),
    Spec(1, 100_000, 5, 2, "full", (10, 8, 3), 40, (2, 32), (1, 20_000)),
    Spec(1_000, 200, 8, 4, "diag", (15, 15, 7), 50, (1, 11), (200, 200), gradient=40),
    Spec(1_000, 200, 8, 4, "full", (40, 40, 20), 150, (1, 11), (200, 200)),
    Spec(1, 20_000, 50, 8, "diag", (12, 4, 6), 40, (1, 11), (1, 4_000)),
    Spec(1, 20_000, 50, 8, "full", (18, 4, 6), 40, (1, 11), (1, 4_000)),
    Spec(1, 1_000_000, 2, 1, "diag", (8, 8, 2), 35, (2, 22), (1, 100_000), gradient=12),
    Spec(1_000, 200, 8, 1, "categorical", (6, 4, 4), 15, (1, 11), (200, 200)),
)


@dataclass(frozen=True)
class Data:
    """Observations of all sequences one after the other, ``[N·T, D]`` (``[N·T]`` symbols), and a start, as arrays."""

    spec: Spec
    x: np.ndarray
    lengths: np.ndarray
    start: dict[str, np.ndarray]


def lines(settings: Settings) -> Iterator[Line]:
    return compared("chains", cases(settings.quick), settings)


def cases(quick: bool) -> list[Case]:
    found = []
    for spec in SPECS:
        sized = replace(spec, sequences=spec.quick[0], steps=spec.quick[1]) if quick else spec
        small = replace(spec, sequences=min(spec.sequences, 4), steps=max(50, 40 * spec.states))
        data, tiny = functools.partial(simulate, sized), functools.partial(simulate, small)
        found.append(Case(sized.name, data, tiny, tasks(sized), 1 if quick else 5))
    return found


def tasks(spec: Spec) -> tuple[Task, ...]:
    em, likelihood, viterbi = spec.floors
    peer = "hmmlearn, scaling"
    found = (
        Task("EM iteration", peer, our_em, their_em, em, spec.reach, spec.passes),
        Task("log-likelihood", peer, our_score, their_score, likelihood),
        Task("Viterbi path", peer, our_path, their_path, viterbi, difference=path_difference),
    )
    if spec.gradient is None:
        return found
    return (*found, Task("log Z, gradient", "Pyro, DiscreteHMM", our_gradient, their_gradient, spec.gradient))


def simulate(spec: Spec) -> Data:
    """States stay with probability 0.8, else jump to any other one; the start is near the truth, not at it."""
    noise = np.random.default_rng(20)
    states, shape = spec.states, (spec.sequences, spec.steps)
    jumps = np.where(noise.random(shape) < 0.8, 0, noise.integers(1, max(states, 2), shape))
    z = (np.cumsum(jumps, 1) % states).ravel()
    law = noise.dirichlet(np.full(states, 20.0), states)
    start = {"initial": noise.dirichlet(np.full(states, 20.0)), "transition": 0.3 * law + 0.7 * np.eye(states)}
    if spec.form == "categorical":
        probs = noise.dirichlet(np.full(SYMBOLS, 0.5), states)
        x = (noise.random(len(z))[:, None] > probs.cumsum(1)[z, :-1]).sum(1)
        start["probs"] = 0.8 * probs + 0.2 / SYMBOLS
    else:
        loc = 2.5 * noise.normal(size=(states, spec.features))
        if spec.features == 1:
            loc = 2.5 * np.arange(states, dtype=float)[:, None]
        mix = noise.normal(size=(states, spec.features, spec.features)) / np.sqrt(4 * spec.features)
        root = np.eye(spec.features) + (mix if spec.form == "full" else 0 * mix)
        x = np.empty((len(z), spec.features))
        for k in range(states):
            x[z == k] = loc[k] + noise.normal(size=(int((z == k).sum()), spec.features)) @ root[k].T
        start["loc"] = loc + 0.2 * noise.normal(size=loc.shape)
        if spec.form == "full":
            start["covariance"] = 1.2 * root @ root.swapaxes(-1, -2)
        else:
            start["scale"] = noise.uniform(1.0, 1.3, loc.shape)
    return Data(spec, x, np.full(spec.sequences, spec.steps), start)


def our_model(data: Data) -> Any:
    import latentvars as lv

    if data.spec.form == "categorical":
        return lv.models.HiddenMarkov(data.spec.states, lv.emissions.Categorical(SYMBOLS))
    return lv.models.HiddenMarkov(data.spec.states, lv.emissions.Gaussian(data.spec.features, data.spec.form))


def our_em(data: Data) -> Call:
    import latentvars as lv

    model = our_model(data)

    def run(iterations: int) -> Outcome:
        rows = lv.Rows(data.x, lengths=data.lengths)
        fit = lv.fit(model, rows, lv.EM(passes=iterations, stop=lv.Never()), start=data.start, progress=False)
        return {"objective": fit.history[-1:] * len(rows)} | {name: v.numpy() for name, v in fit.point.items()}

    return run


def our_fit(data: Data) -> Any:
    """A fit at the start that holds a few rows only."""
    import latentvars as lv

    return lv.from_point(our_model(data), lv.Rows(data.x[:50], lengths=[50]), data.start)


def our_score(data: Data) -> Call:
    import latentvars as lv

    fit = our_fit(data)
    return lambda _: {"total": fit.score_rows(lv.Rows(data.x, lengths=data.lengths)).sum(0, keepdim=True).numpy()}


def our_path(data: Data) -> Call:
    import latentvars as lv

    fit = our_fit(data)
    return lambda _: {"path": fit.latent(lv.Rows(data.x, lengths=data.lengths)).path().numpy().ravel()}


def their_model(data: Data, iterations: int) -> Any:
    """hmmlearn's model at the start, without the priors that it has by default."""
    from hmmlearn import hmm

    settings = {"n_iter": iterations, "tol": -np.inf, "init_params": "", "implementation": "scaling"}
    states, start = data.spec.states, data.start
    if data.spec.form == "categorical":
        model = hmm.CategoricalHMM(states, n_features=SYMBOLS, **settings)
        model.emissionprob_ = start["probs"].copy()
    else:
        model = hmm.GaussianHMM(states, data.spec.form, min_covar=0, covars_prior=0, covars_weight=0, **settings)
        model.n_features = data.spec.features
        model.means_ = start["loc"].copy()
        model.covars_ = start["covariance"] if "covariance" in start else start["scale"] ** 2
    model.startprob_, model.transmat_ = start["initial"].copy(), start["transition"].copy()
    return model


def as_columns(data: Data) -> np.ndarray:
    return data.x.reshape(len(data.x), -1)


def their_em(data: Data) -> Call:
    def run(iterations: int) -> Outcome:
        model = their_model(data, iterations).fit(as_columns(data), data.lengths)
        found = {"initial": model.startprob_, "transition": model.transmat_}
        found["objective"] = np.array([model.monitor_.history[-1]])
        if data.spec.form == "categorical":
            return found | {"probs": model.emissionprob_}
        if data.spec.form == "full":
            return found | {"loc": model.means_, "covariance": model.covars_}
        return found | {"loc": model.means_, "scale": np.sqrt(np.diagonal(model.covars_, axis1=-2, axis2=-1))}

    return run


def their_score(data: Data) -> Call:
    model = their_model(data, 1)
    return lambda _: {"total": np.array([model.score(as_columns(data), data.lengths)])}


def their_path(data: Data) -> Call:
    model = their_model(data, 1)
    return lambda _: {"path": model.decode(as_columns(data), data.lengths)[1]}


def path_difference(data: Data, ours: Outcome, theirs: Outcome) -> float:
    """Of the joint log densities of path and data: several paths can be the most probable ones of symbols."""
    if ours["path"].shape != theirs["path"].shape or ours["path"].min() < 0:
        return float("inf")
    totals = [{"total": np.array([joint(data, found["path"])])} for found in (ours, theirs)]
    return largest_difference(data, *totals)


def joint(data: Data, path: np.ndarray) -> float:
    """log p(x, z), nats, of all sequences."""
    from scipy.stats import multivariate_normal

    start, by_row = data.start, path.reshape(data.spec.sequences, data.spec.steps)
    with np.errstate(divide="ignore"):
        total = np.log(start["initial"])[by_row[:, 0]].sum()
        total += np.log(start["transition"])[by_row[:, :-1], by_row[:, 1:]].sum()
        if data.spec.form == "categorical":
            return float(total + np.log(start["probs"])[path, data.x].sum())
    for k in np.unique(path):
        covariance = start["covariance"][k] if "covariance" in start else np.diag(start["scale"][k] ** 2)
        total += multivariate_normal(start["loc"][k], covariance).logpdf(data.x[path == k]).sum()
    return float(total)


def leaves(data: Data) -> dict[str, Any]:
    """Logits of the law before the first move, logits of the moves, means and scales, whose gradients are taken."""
    import torch

    start = {name: torch.tensor(value) for name, value in data.start.items()}
    start = {"before": start.pop("initial").log(), "moves": start.pop("transition").log(), **start}
    return {name: value.requires_grad_() for name, value in start.items()}


def with_gradient(data: Data, law: Any) -> Call:
    """A call that gives log Z and its gradient, from ``law(leaves)`` to a distribution of sequences."""
    import torch

    free = leaves(data)
    x = torch.from_numpy(data.x).reshape(data.spec.sequences, data.spec.steps, -1)

    def run(_: int) -> Outcome:
        total = law(free).log_prob(x).sum()
        gradients = torch.autograd.grad(total, list(free.values()))
        found = {"total": total.detach().reshape(1).numpy()}
        return found | {name: one.numpy() for name, one in zip(free, gradients, strict=True)}

    return run


def our_gradient(data: Data) -> Call:
    from pyro.distributions import Normal

    from latentvars.distributions import HiddenMarkov

    def law(free: dict[str, Any]) -> Any:
        moves = free["moves"].softmax(-1)  # Pyro moves once before the first step, we do not
        return HiddenMarkov(free["before"].softmax(-1) @ moves, moves, Normal(free["loc"], free["scale"]).to_event(1))

    return with_gradient(data, law)


def their_gradient(data: Data) -> Call:
    from pyro.distributions import DiscreteHMM, Normal

    def law(free: dict[str, Any]) -> Any:
        return DiscreteHMM(free["before"], free["moves"], Normal(free["loc"], free["scale"]).to_event(1))

    return with_gradient(data, law)
