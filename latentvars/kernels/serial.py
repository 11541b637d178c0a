"""Recursions of one chain after another in log space, as compiled code: slower than lanes, and right for any chain.

Arrays of one chain: ``initial [K]`` and ``transition [S, K, K]`` (S = 1 or one of each move) in logs, with −``LOWEST``
for log 0; ``emission [T, K]``, nats, not below that. Messages are normalised at each step but kept in logs, so that
states which contradict one another by thousands of nats lose nothing (Cappé, Moulines & Rydén 2005, section 3.2.2).
"""

from __future__ import annotations

import numpy as np
from numba import njit

LOWEST = -1e231  # stands for log 0, so that differences stay numbers
_IMPOSSIBLE = 0.5 * LOWEST

_compiled = njit(nogil=True, cache=True, fastmath={"contract", "nsz"}, error_model="numpy")


@_compiled
def _into(message, transition, k):
    """log Σ_i exp(message_i + transition_ik)."""
    states = message.shape[0]
    top = message[0] + transition[0, k]
    for i in range(1, states):
        top = max(top, message[i] + transition[i, k])
    found = 0.0
    for i in range(states):
        found += np.exp(message[i] + transition[i, k] - top)
    return top + np.log(found)


@_compiled
def _out_of(message, transition, k):
    """log Σ_j exp(transition_kj + message_j)."""
    states = message.shape[0]
    top = message[0] + transition[k, 0]
    for j in range(1, states):
        top = max(top, message[j] + transition[k, j])
    found = 0.0
    for j in range(states):
        found += np.exp(message[j] + transition[k, j] - top)
    return top + np.log(found)


@_compiled
def _normalised(message):
    """Brings a message to Σ exp = 1 in place, and gives what was taken off."""
    top = message.max()
    found = 0.0
    for k in range(message.shape[0]):
        found += np.exp(message[k] - top)
    norm = top + np.log(found)
    for k in range(message.shape[0]):
        message[k] -= norm
    return norm


@_compiled
def filtered(initial, transition, emission, states, steps):
    """log p(z_t | x_1..t) into ``states [T, K]``, log p(x_t | x_1..t-1) into ``steps [T]``; gives log p(x), nats."""
    length, size = emission.shape
    total = 0.0
    for t in range(length):
        at = 0 if transition.shape[0] == 1 else t - 1
        for k in range(size):
            moved = initial[k] if t == 0 else _into(states[t - 1], transition[at], k)
            states[t, k] = moved + max(emission[t, k], LOWEST)
        norm = _normalised(states[t])
        steps[t] = norm if not norm <= _IMPOSSIBLE else -np.inf
        total += steps[t]
    return total


@_compiled
def smoothed(transition, emission, states, steps, total, weight, probs, initial_slopes, slopes, initial_caps, caps):
    """After :func:`filtered`: marginals into ``probs [T, K]``; slopes are added to.

    Args:
        weight: of all results.
        slopes: ``[S, K, K]``, ∂ log p(x) / ∂A_ij.
        initial_caps, caps: ``[K]``, ``[S, K, K]``, largest log of a slope.
    """
    length, size = emission.shape
    if total == -np.inf:
        probs[:] = 0.0
        return
    behind, ahead = np.zeros(size), np.zeros(size)
    for t in range(length - 1, -1, -1):
        for k in range(size):
            probs[t, k] = weight * np.exp(states[t, k] + behind[k])
            ahead[k] = max(emission[t, k], LOWEST) - steps[t] + behind[k]
        if t == 0:
            for k in range(size):
                initial_slopes[k] = weight * np.exp(min(ahead[k], initial_caps[k]))
            return
        at = 0 if transition.shape[0] == 1 else t - 1
        for i in range(size):
            for j in range(size):
                slopes[at, i, j] += weight * np.exp(min(states[t - 1, i] + ahead[j], caps[at, i, j]))
        for k in range(size):
            behind[k] = _out_of(ahead, transition[at], k)


@_compiled
def behind(transition, emission, steps, log_ahead, log_behind):
    """log p(x_t+1..T | z_t) / p(x_t+1..T | x_1..t) into ``log_behind [T, K]``, and the same with x_t into
    ``log_ahead``.
    """
    length, size = emission.shape
    for t in range(length - 1, -1, -1):
        at = 0 if transition.shape[0] == 1 else t
        shift = 0.0 if steps[t] == -np.inf else steps[t]
        for k in range(size):
            log_behind[t, k] = 0.0 if t + 1 == length else _out_of(log_ahead[t + 1], transition[at], k)
            log_ahead[t, k] = max(emission[t, k], LOWEST) - shift + log_behind[t, k]


@_compiled
def filter_of(rows, initial, initial_of, transition, transition_of, emission, begins, lengths, states, steps, total):
    """:func:`filtered` of some chains, which are ``emission [M, K]`` from ``begins`` on."""
    for row in rows:
        low, high = begins[row], begins[row] + lengths[row]
        total[row] = filtered(
            initial[initial_of[row]],
            transition[transition_of[row]],
            emission[low:high],
            states[low:high],
            steps[low:high],
        )


@_compiled
def smooth_of(rows, transition, transition_of, emission, begins, lengths, states, steps, total, probs, log_ahead):
    """:func:`behind` of some chains, with the marginals ``probs [M, K]``."""
    for row in rows:
        low, high = begins[row], begins[row] + lengths[row]
        if total[row] == -np.inf:
            continue
        log_behind = np.empty((high - low, emission.shape[1]))
        behind(transition[transition_of[row]], emission[low:high], steps[low:high], log_ahead[low:high], log_behind)
        for t in range(high - low):
            for k in range(emission.shape[1]):
                probs[low + t, k] = np.exp(states[low + t, k] + log_behind[t, k])


@_compiled
def paths_of(rows, initial, initial_of, transition, transition_of, emission, begins, lengths, paths):
    """:func:`most_likely` of some chains."""
    for row in rows:
        low, high = begins[row], begins[row] + lengths[row]
        most_likely(initial[initial_of[row]], transition[transition_of[row]], emission[low:high], paths[low:high])


@_compiled
def draws_of(rows, transition, transition_of, states, begins, lengths, uniforms, paths):
    """:func:`draw` of some chains, for every draw of ``uniforms [R, M]``."""
    for row in rows:
        low, high = begins[row], begins[row] + lengths[row]
        for number in range(uniforms.shape[0]):
            draw(states[low:high], transition[transition_of[row]], uniforms[number, low:high], paths[number, low:high])


@_compiled
def evidence_of(rows, initial, initial_of, transition, emission, begins, lengths, total):
    """:func:`filtered` of some chains for their evidence alone; ``total [N]`` out."""
    longest = 0
    for row in rows:
        longest = max(longest, lengths[row])
    states, steps = np.empty((longest, emission.shape[1])), np.empty(longest)
    for row in rows:
        low, n = begins[row], lengths[row]
        total[row] = filtered(initial[initial_of[row]], transition, emission[low : low + n], states[:n], steps[:n])


@_compiled
def posterior_of(
    rows,
    initial,
    initial_of,
    transition,
    emission,
    begins,
    lengths,
    weights,
    initial_caps,
    caps,
    total,
    marginals,
    initial_slopes,
    slopes,
):
    """:func:`filtered` and :func:`smoothed` of some chains; ``slopes [rows | 1, S, K, K]`` are added to."""
    longest = 0
    for row in rows:
        longest = max(longest, lengths[row])
    states, steps = np.empty((longest, emission.shape[1])), np.empty(longest)
    for place in range(rows.shape[0]):
        row = rows[place]
        low, n = begins[row], lengths[row]
        part = emission[low : low + n]
        total[row] = filtered(initial[initial_of[row]], transition, part, states[:n], steps[:n])
        smoothed(
            transition,
            part,
            states[:n],
            steps[:n],
            total[row],
            weights[row],
            marginals[low : low + n],
            initial_slopes[row],
            slopes[place if slopes.shape[0] > 1 else 0],
            initial_caps[initial_of[row]],
            caps,
        )


@_compiled
def most_likely(initial, transition, emission, path):
    """argmax_z log p(x, z) into ``path [T]`` (Viterbi 1967); ties go to the lower state.

    Only the scores are kept; the origin of a state is worked out again on the way back, for the path alone.
    """
    length, size = emission.shape
    scores = np.empty((length, size))
    for k in range(size):
        scores[0, k] = initial[k] + emission[0, k]
    for t in range(1, length):
        at = 0 if transition.shape[0] == 1 else t - 1
        before, now, moves = scores[t - 1], scores[t], transition[at]
        first = before[0]
        for j in range(size):
            now[j] = first + moves[0, j]
        for i in range(1, size):
            score = before[i]
            for j in range(size):
                now[j] = max(now[j], score + moves[i, j])
        top = -np.inf
        for j in range(size):
            now[j] += emission[t, j]
            top = max(top, now[j])
        if top > -np.inf:
            for j in range(size):
                now[j] -= top
    state = 0
    for k in range(1, size):
        if scores[length - 1, k] > scores[length - 1, state]:
            state = k
    path[length - 1] = state
    for t in range(length - 2, -1, -1):
        at = 0 if transition.shape[0] == 1 else t
        best, origin = scores[t, 0] + transition[at, 0, state], 0
        for i in range(1, size):
            score = scores[t, i] + transition[at, i, state]
            if score > best:
                best, origin = score, i
        state = origin
        path[t] = state


@_compiled
def draw(states, transition, uniforms, path):
    """A draw from p(z | x) into ``path [T]``, by inversion of ``uniforms [T]``, from filtered logs ``states [T,
    K]``.
    """
    length, size = states.shape
    chances = np.empty(size)
    state = 0
    for t in range(length - 1, -1, -1):
        at = 0 if transition.shape[0] == 1 else t
        top = -np.inf
        for k in range(size):
            chances[k] = states[t, k] + (transition[at, k, state] if t + 1 < length else 0.0)
            top = max(top, chances[k])
        total = 0.0
        for k in range(size):
            total += np.exp(chances[k] - top)
            chances[k] = total
        state = 0
        while state < size - 1 and chances[state] <= uniforms[t] * total:
            state += 1
        path[t] = state
