"""Evidence and posterior of many hidden Markov chains: in lanes where that is exact, one after another where not.

The work is done by the compiled core (``core/src``), on as many threads as torch uses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from latentvars.kernels import _core
from latentvars.kernels.mixtures import Form

LOG_ZERO = -1e231  # of the core: stands for log 0, so that differences stay numbers


@dataclass(frozen=True)
class Chains:
    """N chains with K states, in a table of M steps.

    Attributes:
        initial: ``[I, K]`` float64, probabilities.
        initial_of: ``[N]`` int64, which of them a chain has.
        transition: ``[P, S, K, K]`` float64, probabilities, from, to; S = 1, or T−1 where each move has its own.
        transition_of: ``[N]`` int64.
        log_emission: ``[M, K]`` float64 or float32, C-contiguous, nats.
        begins: ``[N]`` int64, the first step of each chain in the table.
        lengths: ``[N]`` int64, its number of steps, at least one.
    """

    initial: np.ndarray
    initial_of: np.ndarray
    transition: np.ndarray
    transition_of: np.ndarray
    log_emission: np.ndarray
    begins: np.ndarray
    lengths: np.ndarray

    @property
    def compiled(self) -> _core.Chains:
        """As the core reads them: the arrays themselves, not copies."""
        return _core.Chains(
            self.initial,
            self.initial_of,
            self.transition,
            self.transition_of,
            self.log_emission,
            self.begins,
            self.lengths,
            torch.get_num_threads(),
        )


@dataclass(frozen=True)
class Posterior:
    """What smoothing gives, times the weights of the chains.

    Attributes:
        total: log p(x), nats, ``[N]``, not weighted.
        marginals: p(z_t | x), ``[M, K]``, 0 where there is no chain.
        initial_slopes: ∂ log p(x) / ∂π, ``[N, K]``.
        slopes: ∂ log p(x) / ∂A, ``[P, S, K, K]`` summed over the chains that have A; ``[N, S, K, K]`` by chain.
    """

    total: np.ndarray
    marginals: np.ndarray
    initial_slopes: np.ndarray
    slopes: np.ndarray


def evidence(chains: Chains) -> np.ndarray:
    """log p(x_1..T), states summed out, nats, ``[N]``."""
    total = np.zeros(len(chains.lengths))
    _core.evidence(chains.compiled, total)
    return total


def posterior(chains: Chains, weights: np.ndarray, by_chain: bool) -> Posterior:
    """Evidence, smoothed probabilities and slopes; ``weights [N]`` float64."""
    count, states = len(chains.lengths), chains.initial.shape[-1]
    matrices, moves = chains.transition.shape[:2]
    found = Posterior(
        np.zeros(count),
        np.zeros(chains.log_emission.shape, chains.log_emission.dtype),
        np.zeros((count, states)),
        np.zeros((count if by_chain else matrices, moves, states, states)),
    )
    _core.posterior(
        chains.compiled, weights, by_chain, found.total, found.marginals, found.initial_slopes, found.slopes
    )
    return found


@dataclass(frozen=True)
class Observed:
    """N chains with K states and one law, of observations that follow an exponential family in each state.

    Attributes:
        form: of the features t(x), about a centre.
        values: ``[M, D]`` float64.
        centre: ``[D]``.
        natural: log f(x | k) = natural · t(x), ``[K, F]``; of codes ``[C, K]``; of normals by residuals their numbers.
        initial, transition: ``[K]`` and ``[K, K]`` probabilities, from, to.
        begins, lengths: ``[N]`` int64, first step of each chain in the table and number of its steps, at least one.
    """

    form: Form
    values: np.ndarray
    centre: np.ndarray
    natural: np.ndarray
    initial: np.ndarray
    transition: np.ndarray
    begins: np.ndarray
    lengths: np.ndarray

    @property
    def compiled(self) -> _core.Observed:
        """As the core reads them: the arrays themselves, not copies."""
        return _core.Observed(
            int(self.form),
            self.values,
            self.centre,
            self.natural,
            self.initial,
            self.transition,
            self.begins,
            self.lengths,
            torch.get_num_threads(),
        )


@dataclass(frozen=True)
class Expectation:
    """What is expected of observed chains, times their weights.

    Attributes:
        total: log p(x), nats, ``[N]``, not weighted.
        initial_slopes: ∂ log p(x) / ∂π, ``[N, K]``.
        slopes: ∂ log p(x) / ∂A, ``[K, K]``, summed over the chains.
        sums: Σ_t p(z_t = k | x) t(x_t), laid out as ``natural``.
    """

    total: np.ndarray
    initial_slopes: np.ndarray
    slopes: np.ndarray
    sums: np.ndarray


def observed_evidence(of: Observed) -> np.ndarray | None:
    """log p(x_1..T), nats, ``[N]``, without a table of densities; None where some chain would lose precision in lanes:
    :func:`evidence` knows other ways."""
    total = np.zeros(len(of.lengths))
    return total if _core.observed_evidence(of.compiled, total) else None


def expected(of: Observed, weights: np.ndarray) -> Expectation | None:
    """Expected statistics in one go, without tables of densities or probabilities; ``weights [N]`` float64.

    None where some chain would lose precision in lanes: :func:`posterior` knows other ways.
    """
    count, states = len(of.lengths), len(of.initial)
    found = Expectation(
        np.zeros(count), np.zeros((count, states)), np.zeros((states, states)), np.zeros(of.natural.shape)
    )
    fine = _core.expected(of.compiled, weights, found.total, found.initial_slopes, found.slopes, found.sums)
    return found if fine else None


def filtering(chains: Chains) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log p(z_t | x_1..t) ``[M, K]``, log p(x_t | x_1..t-1) ``[M]`` (0 where there is no chain) and log p(x) ``[N]``,
    nats."""
    shape = chains.log_emission.shape
    states, steps, total = np.zeros(shape), np.zeros(shape[0]), np.zeros(len(chains.lengths))
    _core.filter(chains.compiled, states, steps, total)
    return states, steps, total


def smoothing(
    chains: Chains, states: np.ndarray, steps: np.ndarray, total: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """p(z_t | x) and log p(x_t..T | z_t) / p(x_t..T | x_1..t-1), both ``[M, K]``, given :func:`filtering`."""
    probs, log_ahead = np.zeros(states.shape), np.full(states.shape, LOG_ZERO)
    _core.smooth(chains.compiled, states, steps, total, probs, log_ahead)
    return probs, log_ahead


def viterbi(chains: Chains) -> np.ndarray:
    """The most probable paths ``[M]`` int64, −1 where there is no chain; ties go to the lower state."""
    paths = np.full(len(chains.log_emission), -1, dtype=np.int64)
    _core.paths(chains.compiled, paths)
    return paths


def drawing(chains: Chains, states: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Draws of paths ``[R, M]`` int64, −1 where there is no chain, by inversion of ``uniforms [R, M]``, from the
    filtered logs ``states [M, K]`` of :func:`filtering`."""
    paths = np.full(uniforms.shape, -1, dtype=np.int64)
    _core.draws(chains.compiled, states, uniforms, paths)
    return paths
