"""Evidence and posterior of many hidden Markov chains: in lanes where that is exact, one after another where not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from latentvars.kernels import lanes as kernel
from latentvars.kernels import serial, threads
from latentvars.kernels.layout import Lanes, lanes

AGREE = 1e-13  # relative, of messages where two chunks meet
FEW = 8  # chains with one transition matrix that are not worth a block of lanes


@dataclass(frozen=True)
class Chains:
    """N chains with K states, in a table of M steps.

    Attributes:
        initial: ``[I, K]`` probabilities.
        initial_of: ``[N]`` int64, which of them a chain has.
        transition: ``[P, S, K, K]`` probabilities, from, to; S = 1, or T−1 where each move has its own.
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
    def states(self) -> int:
        """K."""
        return self.initial.shape[-1]

    def groups(self) -> Iterator[tuple[int, np.ndarray]]:
        """Transition matrices with the chains that have them."""
        for number in range(len(self.transition)):
            yield number, np.flatnonzero(self.transition_of == number) if len(self.transition) > 1 else self.all_rows

    @property
    def all_rows(self) -> np.ndarray:
        return np.arange(len(self.lengths))


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
    for number, rows in chains.groups():
        matrix = chains.transition[number]
        left = rows
        if _in_lanes(matrix, chains, rows):
            left = _lanes_evidence(chains, rows, matrix[0], total)
        logs, initial = serial_logs(matrix), serial_logs(chains.initial)
        each_of(
            left,
            lambda some, logs=logs, initial=initial: serial.evidence_of(
                some, initial, chains.initial_of, logs, chains.log_emission, chains.begins, chains.lengths, total
            ),
        )
    return total


def posterior(chains: Chains, weights: np.ndarray, by_chain: bool) -> Posterior:
    """Evidence, smoothed probabilities and slopes; ``weights [N]`` float64."""
    count, states = len(chains.lengths), chains.states
    moves = chains.transition.shape[1]
    found = Posterior(
        np.zeros(count),
        np.zeros(chains.log_emission.shape, chains.log_emission.dtype),
        np.zeros((count, states)),
        np.zeros((count if by_chain else len(chains.transition), moves, states, states)),
    )
    initial, initial_caps = serial_logs(chains.initial), slope_caps(chains.initial)
    for number, rows in chains.groups():
        matrix = chains.transition[number]
        left = rows
        if _in_lanes(matrix, chains, rows):
            left = _lanes_posterior(chains, rows, number, weights, by_chain, found)
        logs, caps = serial_logs(matrix), slope_caps(matrix)
        parts: list[tuple[int, np.ndarray, np.ndarray]] = []

        def smooth(some: np.ndarray, logs=logs, caps=caps, parts=parts) -> None:
            slopes = np.zeros((len(some) if by_chain else 1, *caps.shape))
            serial.posterior_of(
                some,
                initial,
                chains.initial_of,
                logs,
                chains.log_emission,
                chains.begins,
                chains.lengths,
                weights,
                initial_caps,
                caps,
                found.total,
                found.marginals,
                found.initial_slopes,
                slopes,
            )
            parts.append((int(some[0]), some, slopes))

        each_of(left, smooth)
        for _, some, slopes in sorted(parts, key=lambda part: part[0]):
            if by_chain:
                found.slopes[some] = slopes
            else:
                found.slopes[number] += slopes[0]
    return found


def filtering(chains: Chains) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log p(z_t | x_1..t) ``[M, K]``, log p(x_t | x_1..t-1) ``[M]`` (0 where there is no chain) and log p(x) ``[N]``,
    nats."""
    shape = chains.log_emission.shape
    states, steps, total = np.zeros(shape), np.zeros(shape[0]), np.empty(len(chains.lengths))
    initial, logs = serial_logs(chains.initial), serial_logs(chains.transition)
    each_of(
        chains.all_rows,
        lambda some: serial.filter_of(
            some, initial, chains.initial_of, logs, chains.transition_of, chains.log_emission, chains.begins,
            chains.lengths, states, steps, total,
        ),
    )  # fmt: skip
    return states, steps, total


def smoothing(
    chains: Chains, states: np.ndarray, steps: np.ndarray, total: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """p(z_t | x) and log p(x_t..T | z_t) / p(x_t..T | x_1..t-1), both ``[M, K]``, given :func:`filtering`."""
    probs, log_ahead = np.zeros(states.shape), np.full(states.shape, serial.LOWEST)
    logs = serial_logs(chains.transition)
    each_of(
        chains.all_rows,
        lambda some: serial.smooth_of(
            some, logs, chains.transition_of, chains.log_emission, chains.begins, chains.lengths, states, steps,
            total, probs, log_ahead,
        ),
    )  # fmt: skip
    return probs, log_ahead


def viterbi(chains: Chains) -> np.ndarray:
    """The most probable paths ``[M]`` int64, −1 where there is no chain; ties go to the lower state."""
    paths = np.full(len(chains.log_emission), -1, dtype=np.int64)
    with np.errstate(divide="ignore"):
        initial, logs = np.log(chains.initial), np.log(chains.transition)
    each_of(
        chains.all_rows,
        lambda some: serial.paths_of(
            some,
            initial,
            chains.initial_of,
            logs,
            chains.transition_of,
            chains.log_emission,
            chains.begins,
            chains.lengths,
            paths,
        ),
    )
    return paths


def drawing(chains: Chains, states: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Draws of paths ``[R, M]`` int64, −1 where there is no chain, by inversion of ``uniforms [R, M]``, from the
    filtered logs ``states [M, K]`` of :func:`filtering`."""
    paths = np.full(uniforms.shape, -1, dtype=np.int64)
    logs = serial_logs(chains.transition)
    each_of(
        chains.all_rows,
        lambda some: serial.draws_of(
            some, logs, chains.transition_of, states, chains.begins, chains.lengths, uniforms, paths
        ),
    )
    return paths


def each_of(rows: np.ndarray, work: Callable[[np.ndarray], None]) -> None:
    """Does the work of rows, some at a time."""
    size = max(1, -(-len(rows) // 32))
    threads.each(work, [rows[k : k + size] for k in range(0, len(rows), size)])


def serial_logs(probs: np.ndarray) -> np.ndarray:
    """Logs as :mod:`latentvars.kernels.serial` reads them."""
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(probs), serial.LOWEST)


def slope_caps(probs: np.ndarray) -> np.ndarray:
    """A little above log 1/p, which no exact slope exceeds; half the range of doubles where p is 0 or subnormal."""
    limits = np.finfo(np.float64)
    with np.errstate(divide="ignore"):
        return np.where(probs >= limits.tiny, 1.0 - np.log(np.maximum(probs, limits.tiny)), 0.5 * np.log(limits.max))


def _in_lanes(matrix: np.ndarray, chains: Chains, rows: np.ndarray) -> bool:
    return len(matrix) == 1 and (len(chains.transition) == 1 or len(rows) >= FEW) and len(rows) > 0


@dataclass(frozen=True)
class _Found:
    """What the blocks give, per lane ``[L]``; messages ``[2, K, L]`` are those before and at the end of each body."""

    total: np.ndarray
    doubtful: np.ndarray
    filters: np.ndarray
    behinds: np.ndarray
    initial_slopes: np.ndarray
    slopes: np.ndarray


@dataclass(frozen=True)
class _Blocks:
    """Chains with one transition matrix, in blocks of lanes."""

    chains: Chains
    rows: np.ndarray
    lanes: Lanes
    matrix: np.ndarray
    starts: np.ndarray
    reach: np.ndarray

    @classmethod
    def of(cls, chains: Chains, rows: np.ndarray, matrix: np.ndarray) -> _Blocks:
        positive = matrix > 0
        laid = lanes(chains.begins[rows], chains.lengths[rows], bool(positive.all()))
        chain = np.where(laid.chain >= 0, rows[laid.chain], -1)
        initial = chains.initial[chains.initial_of[np.maximum(chain, 0)]]
        begins_chain = laid.begins.astype(np.int64) == chains.begins[np.maximum(chain, 0)]
        starts = np.where(begins_chain[:, None], initial, 1.0 / chains.states)
        return cls(chains, rows, replace(laid, chain=chain), matrix, starts, _reach(initial.max(0) > 0, positive))

    def run(self, weights: np.ndarray | None, marginals: np.ndarray, by_chain: bool) -> _Found:
        """Filters all blocks, and smooths them where there are ``weights``."""
        states, size, blocks = self.chains.states, len(self.lanes.chain), self.lanes.blocks
        per_block = (states, states, kernel.LANES) if by_chain else (states, states)
        found = _Found(
            np.empty(size),
            np.empty(size),
            np.ones((blocks, 2, states, kernel.LANES)),
            np.ones((blocks, 2, states, kernel.LANES)),
            np.zeros((blocks, states, kernel.LANES)),
            np.zeros((blocks, *per_block)),
        )
        given = None if weights is None else np.where(self.lanes.chain >= 0, weights[self.lanes.chain], 0.0)
        threads.each(lambda block: self._block(block, found, given, marginals, by_chain), range(blocks))
        return found

    def _block(
        self, block: int, found: _Found, weights: np.ndarray | None, marginals: np.ndarray, by_chain: bool
    ) -> None:
        at = slice(block * kernel.LANES, (block + 1) * kernel.LANES)
        tiles, states = np.uintp(self.lanes.tiles(block)), np.uintp(self.chains.states)
        size = int(tiles if weights is not None else 1) * self.chains.states * kernel.PITCH
        alpha, scaled = threads.scratch("alpha", size), threads.scratch("scaled", size)
        begins, counts = self.lanes.begins[at], self.lanes.counts[at]
        body_from, body_to = self.lanes.body_from[at], self.lanes.body_to[at]
        doubtful = found.doubtful[at]
        kernel.forward(
            self.chains.log_emission.reshape(-1), begins, counts, body_from, body_to,
            np.ascontiguousarray(self.starts[at].T).reshape(-1), np.ascontiguousarray(self.matrix.T).reshape(-1),
            self.reach, tiles, states, weights is not None, alpha, scaled, found.total[at],
            found.filters[block].reshape(-1), doubtful,
        )  # fmt: skip
        if weights is None:
            return
        for lane in np.flatnonzero(doubtful):
            kernel.clear(alpha, scaled, np.uintp(lane), tiles, states)
        kernel.backward(
            alpha, scaled, begins, counts, body_from, body_to, weights[at], self.matrix.reshape(-1), tiles,
            np.uintp(max(int(body_from[counts > 0].min()) - 1, 0) // kernel.TILE), states, by_chain,
            marginals.reshape(-1), found.slopes[block].reshape(-1), found.initial_slopes[block].reshape(-1),
            found.behinds[block].reshape(-1),
        )  # fmt: skip

    def doubtful(self, found: _Found) -> np.ndarray:
        """Rows that lost precision."""
        chain = self.lanes.chain
        return np.unique(chain[(found.doubtful > 0) & (chain >= 0)])

    def apart(self, found: _Found) -> np.ndarray:
        """Rows whose chunks do not meet: the message that one hands on is not the one that the next began its body
        with.

        Where all meet, the whole equals an uncut recursion, by induction over the chunks.
        """
        cut = np.flatnonzero(self.lanes.body_from > 0)
        if not len(cut):
            return cut
        ends = self.lanes.begins + self.lanes.body_to
        order = np.argsort(ends, kind="stable")
        before = order[np.searchsorted(ends[order], (self.lanes.begins + self.lanes.body_from)[cut])]
        meets = np.ones(len(cut), dtype=bool)
        for messages in (found.filters, found.behinds):
            by_lane = messages.transpose(1, 0, 3, 2).reshape(2, len(self.lanes.chain), -1)
            one, other = by_lane[0, cut], by_lane[1, before]
            meets &= (np.abs(one - other) <= AGREE * other).all(-1)
        return np.unique(self.lanes.chain[cut[~meets]])

    def add_totals(self, found: _Found, total: np.ndarray) -> None:
        real = self.lanes.chain >= 0
        total[self.rows] = 0.0
        np.add.at(total, self.lanes.chain[real], found.total[real])

    def add_slopes(self, found: _Found, number: int, by_chain: bool, into: Posterior) -> None:
        chain, states = self.lanes.chain, self.chains.states
        begins_chain = self.lanes.begins.astype(np.int64) == self.chains.begins[np.maximum(chain, 0)]
        first = np.flatnonzero((chain >= 0) & begins_chain)
        into.initial_slopes[chain[first]] = found.initial_slopes.transpose(0, 2, 1).reshape(-1, states)[first]
        if not by_chain:
            into.slopes[number, 0] += found.slopes.sum(0)
            return
        by_lane = found.slopes.transpose(0, 3, 1, 2).reshape(-1, states, states)
        real = chain >= 0
        np.add.at(into.slopes[:, 0], chain[real], by_lane[real])


def _lanes_evidence(chains: Chains, rows: np.ndarray, matrix: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Fills the totals of rows, and gives those that need the slower way."""
    blocks = _Blocks.of(chains, rows, matrix)
    found = blocks.run(None, chains.log_emission, by_chain=False)
    blocks.add_totals(found, total)
    return np.union1d(blocks.doubtful(found), blocks.apart(found))


def _lanes_posterior(
    chains: Chains, rows: np.ndarray, number: int, weights: np.ndarray, by_chain: bool, into: Posterior
) -> np.ndarray:
    """Fills the posterior of rows, and gives those that need the slower way."""
    blocks = _Blocks.of(chains, rows, chains.transition[number, 0])
    found = blocks.run(weights, into.marginals, by_chain)
    apart, doubtful = blocks.apart(found), blocks.doubtful(found)
    if len(np.setdiff1d(apart, doubtful)):
        rest = np.setdiff1d(rows, apart)
        others = _lanes_posterior(chains, rest, number, weights, by_chain, into) if len(rest) else rest
        return np.union1d(apart, others)
    blocks.add_totals(found, into.total)
    blocks.add_slopes(found, number, by_chain, into)
    return doubtful


def _reach(starts: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """``[steps, K]`` bytes, the states that a chain can be in at each step; the last row stands for all later ones."""
    if positive.all():
        return np.ones((1, len(starts)), dtype=np.uint8)
    reached = [starts]
    for _ in range(2 * len(starts)):
        reached.append((reached[-1] @ positive) > 0)
        if (reached[-1] == reached[-2]).all():
            return np.array(reached, dtype=np.uint8)
    return np.array([*reached, np.ones(len(starts))], dtype=np.uint8)
