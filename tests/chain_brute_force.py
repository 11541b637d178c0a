"""A hidden Markov chain by enumeration of all its paths, in plain numpy: the reference of the chain tests."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Enumerated:
    """All K^T paths ``[P, T]`` of one sequence and the joint probability of each with the data ``[P]``."""

    paths: np.ndarray
    joint: np.ndarray
    states: int

    @property
    def evidence(self) -> float:
        return float(self.joint.sum())

    @property
    def posterior(self) -> np.ndarray:
        return self.joint / self.evidence

    @property
    def marginals(self) -> np.ndarray:
        onehot = np.eye(self.states)[self.paths]
        return np.einsum("p,ptk->tk", self.posterior, onehot)

    @property
    def pairwise(self) -> np.ndarray:
        onehot = np.eye(self.states)[self.paths]
        return np.einsum("p,pti,ptj->tij", self.posterior, onehot[:, :-1], onehot[:, 1:])

    @property
    def entropy(self) -> float:
        positive = self.posterior[self.posterior > 0]
        return float(-(positive * np.log(positive)).sum())

    @property
    def best(self) -> np.ndarray:
        return self.paths[self.joint.argmax()]


def enumerate_paths(initial: np.ndarray, transition: np.ndarray, likelihood: np.ndarray) -> Enumerated:
    """``initial [K]``, ``transition [K, K]``, ``likelihood [T, K]`` = p(x_t | z_t)."""
    steps, states = likelihood.shape
    paths = np.array(list(itertools.product(range(states), repeat=steps)))
    joint = initial[paths[:, 0]] * np.prod(likelihood[np.arange(steps), paths], axis=1)
    for t in range(1, steps):
        joint = joint * transition[paths[:, t - 1], paths[:, t]]
    return Enumerated(paths, joint, states)
